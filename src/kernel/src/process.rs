//! Child processes: how they are spawned, bounded by a deadline, and killed with all they started.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

/// A command as every room starts one: no environment, working directory `/`, standard input from
/// `/dev/null`. What the program needs of these, the caller says.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir("/").stdin(Stdio::null());
    command
}
