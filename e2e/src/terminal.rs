//! A program on a pseudo-terminal of a known size: what it paints, and keys for it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::wait::patient;

/// A program that believes that a person looks.
#[derive(Debug)]
pub struct Terminal {
    ours: File,
    /// Held open, so that what the program leaves of the terminal's settings can be looked at when it has ended.
    theirs: File,
    child: Child,
    said: String,
}

impl Terminal {
    /// Starts a command on a terminal of this size.
    #[track_caller]
    pub fn start(command: &mut Command, columns: u16, rows: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).expect("open a pseudo-terminal");
        unlockpt(&ours).expect("unlock it");
        let theirs = File::from(ioctl_tiocgptpeer(&ours, flags).expect("open its other side"));
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&theirs, size).expect("give it a size");
        let end = || theirs.try_clone().expect("share the terminal");
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("start it");
        rustix::io::ioctl_fionbio(&ours, true).expect("not wait for the terminal");
        Self { ours: File::from(ours), theirs, child, said: String::new() }
    }

    /// How the terminal is set.
    pub fn settings(&self) -> Termios {
        tcgetattr(&self.theirs).expect("the terminal's settings")
    }

    /// Everything that was painted so far, as soon as it meets `wanted`.
    #[track_caller]
    pub fn shows(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> &str {
        let (start, bound) = (Instant::now(), patient(Duration::from_secs(20)));
        while !wanted(&self.said) {
            assert!(start.elapsed() < bound, "{what} is not shown:\n{:?}", self.said);
            self.read();
            std::thread::sleep(Duration::from_millis(10));
        }
        &self.said
    }

    /// Presses a key.
    #[track_caller]
    pub fn press(&mut self, key: char) {
        self.ours.write_all(key.to_string().as_bytes()).expect("press a key");
    }

    /// Waits for the program's end: whether it ended well, and all that it painted.
    #[track_caller]
    pub fn end(&mut self) -> (bool, &str) {
        let (start, bound) = (Instant::now(), patient(Duration::from_secs(20)));
        let status = loop {
            self.read();
            if let Some(status) = self.child.try_wait().expect("wait for it") {
                break status;
            }
            assert!(start.elapsed() < bound, "it does not end:\n{:?}", self.said);
            std::thread::sleep(Duration::from_millis(10));
        };
        // What it wrote last comes through the kernel's own queue, a moment later.
        let mut before = usize::MAX;
        while before != self.said.len() {
            before = self.said.len();
            std::thread::sleep(Duration::from_millis(100));
            self.read();
        }
        (status.success(), &self.said)
    }

    fn read(&mut self) {
        let mut some = [0; 4096];
        while let Ok(count @ 1..) = self.ours.read(&mut some) {
            self.said.push_str(&String::from_utf8_lossy(&some[..count]));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended, or its test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
