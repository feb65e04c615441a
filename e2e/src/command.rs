//! Running other programs: the one place of the harness that starts a process.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

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
