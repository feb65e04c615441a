//! Child processes: how they are spawned, bounded by a deadline, and killed with all they started.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

/// The start of every child process: working directory `/`, no environment, standard input from /dev/null.
/// Callers add what their program needs (`env`, `stdin`, …), and never take that away from others.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    #[expect(clippy::disallowed_methods, reason = "this is the replacement that the ban names")]
    let mut command = Command::new(program);
    command.current_dir("/").env_clear().stdin(Stdio::null());
    command
}
