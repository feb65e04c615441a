//! Running other programs: the one place of the harness that starts a process.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// A command with nothing on standard input; the harness wants the caller's environment, which the service's
/// own rule (`kernel::process::command`) withholds.
#[allow(clippy::disallowed_methods)]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// What a program said and how it ended.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Said {
    /// Panics with all the program said unless it succeeded; else its standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "it failed: {self:?}");
        self.stdout
    }

    /// Panics unless it failed; else both its streams.
    #[track_caller]
    pub fn fails(self) -> String {
        assert_ne!(self.code, 0, "it should have failed: {self:?}");
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let status = output.status;
        Self {
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs to the end and returns what it said; a program that cannot be started is a panic that names it.
#[track_caller]
pub fn run(command: &mut Command) -> Said {
    match command.output() {
        Ok(output) => output.into(),
        Err(error) => panic!("start {:?}: {error}", command.get_program()),
    }
}

/// As [`run`], with `input` on its standard input.
#[track_caller]
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Said {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => panic!("start {:?}: {error}", command.get_program()),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading all is no fault of the harness.
        let _ = stdin.write_all(input);
    }
    match child.wait_with_output() {
        Ok(output) => output.into(),
        Err(error) => panic!("wait for {:?}: {error}", command.get_program()),
    }
}

/// A program that runs for as long as the value lives.
#[derive(Debug)]
pub struct Running(Option<Child>);

impl Running {
    /// Starts it.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        match command.spawn() {
            Ok(child) => Self(Some(child)),
            Err(error) => panic!("start {:?}: {error}", command.get_program()),
        }
    }

    /// Starts it, and lets its words go to the end of a file.
    #[track_caller]
    pub fn logged(command: &mut Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).expect("open a log");
        Self::start(command.stdout(log.try_clone().expect("share a log")).stderr(log))
    }

    /// Its process.
    pub fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("it is taken only by who ends this value")
    }

    /// Kills it.
    pub fn kill(self) {
        drop(self);
    }

    /// Waits until it ends by itself; what it said on pipes that were not taken.
    #[track_caller]
    pub fn ended(mut self) -> Said {
        let child = self.0.take().expect("it is taken only by who ends this value");
        child.wait_with_output().expect("wait for a program").into()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
