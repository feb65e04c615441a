//! A terminal as a whole: taken over for a live display, and given back as it was however the display ends.

use std::io::{self, IsTerminal as _, Read as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

use crate::ui;

/// To the other screen, without a cursor (xterm's private modes 1049 and 25).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// The terminal that standard output is, taken over. Dropped, it is given back.
pub(crate) struct Screen {
    /// How standard input was, where it is a terminal.
    input: Option<Termios>,
}

impl Screen {
    /// Takes it over: an empty screen, keys without echo, one by one. Ctrl-C stays a signal.
    pub(crate) fn take() -> Self {
        let stdin = io::stdin();
        let input = stdin.is_terminal().then(|| tcgetattr(&stdin).ok()).flatten();
        if let Some(before) = &input {
            let mut keys = before.clone();
            keys.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            // A terminal that refuses still shows the display.
            let _ = tcsetattr(&stdin, OptionalActions::Now, &keys);
        }
        ui::paint(ENTER);
        Self { input }
    }

    /// The keys that are pressed from now on; none where standard input is no terminal.
    pub(crate) fn keys(&self) -> mpsc::Receiver<u8> {
        let (keys, pressed) = mpsc::channel(16);
        if self.input.is_some() {
            // It reads until the process ends: a read of a terminal cannot be called off.
            std::thread::spawn(move || {
                for key in io::stdin().lock().bytes().map_while(Result::ok) {
                    if keys.blocking_send(key).is_err() {
                        return;
                    }
                }
            });
        }
        pressed
    }

    /// Shows these lines and nothing else; false when the terminal is gone.
    pub(crate) fn show(&self, lines: &[String]) -> bool {
        // Each line takes what was there before with it: a screen that is cleared first would flicker.
        let text: Vec<String> = lines.iter().map(|line| format!("{line}\x1b[K")).collect();
        ui::paint(&format!("\x1b[H{}\x1b[J", text.join("\n")))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ui::paint(LEAVE);
        if let Some(before) = &self.input {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}
