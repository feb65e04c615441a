//! Requests to run something in a container or to reach into it.

use std::time::Duration;

use api::v1;
use pod::Wanted;

use super::text;
use crate::convert::Invalid;

fn checked(wanted: Wanted) -> Result<Wanted, Invalid> {
    if wanted.tty && wanted.stderr {
        return Err(Invalid::new("stderr", "is set with tty: a terminal has one output"));
    }
    match wanted.stdin || wanted.stdout || wanted.stderr {
        true => Ok(wanted),
        false => Err(Invalid::new("stdin, stdout, stderr", "at least one must be set")),
    }
}

/// Container, command and its time: `None` has no end.
pub(crate) fn exec_sync(
    from: v1::ExecSyncRequest,
) -> Result<(String, Vec<String>, Option<Duration>), Invalid> {
    let timeout = seconds("timeout", from.timeout)?;
    Ok((
        text::id("container_id", from.container_id)?,
        command(from.cmd)?,
        Some(timeout).filter(|t| !t.is_zero()),
    ))
}

/// Container, command and streams.
pub(crate) fn exec(from: v1::ExecRequest) -> Result<(String, Vec<String>, Wanted), Invalid> {
    let wanted = Wanted { stdin: from.stdin, stdout: from.stdout, stderr: from.stderr, tty: from.tty };
    Ok((text::id("container_id", from.container_id)?, command(from.cmd)?, checked(wanted)?))
}

/// Container and streams.
pub(crate) fn attach(from: v1::AttachRequest) -> Result<(String, Wanted), Invalid> {
    let wanted = Wanted { stdin: from.stdin, stdout: from.stdout, stderr: from.stderr, tty: from.tty };
    Ok((text::id("container_id", from.container_id)?, checked(wanted)?))
}

/// Sandbox and ports. None is any: clients of today name the port when they connect.
pub(crate) fn port_forward(from: v1::PortForwardRequest) -> Result<(String, Vec<u16>), Invalid> {
    let port = |number: i32| match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Invalid::new("port", format!("{number} is not a port"))),
    };
    let ports = from.port.into_iter().map(port).collect::<Result<_, _>>()?;
    Ok((text::id("pod_sandbox_id", from.pod_sandbox_id)?, ports))
}

/// The longest timeout that is kept as it came, seconds: 136 years. Clients say "for ever" with the largest
/// number that they have, and no clock can have that added to it.
const TIMEOUT_SECONDS_MAX: u64 = u32::MAX as u64;

/// CRI's timeouts are whole seconds. One beyond [`TIMEOUT_SECONDS_MAX`] is that long.
pub(crate) fn seconds(field: &'static str, seconds: i64) -> Result<Duration, Invalid> {
    u64::try_from(seconds)
        .map(|seconds| Duration::from_secs(seconds.min(TIMEOUT_SECONDS_MAX)))
        .map_err(|_| Invalid::new(field, format!("{seconds} seconds are below zero")))
}

fn command(words: Vec<String>) -> Result<Vec<String>, Invalid> {
    if words.is_empty() || words[0].is_empty() {
        return Err(Invalid::new("cmd", "is empty"));
    }
    match words.iter().any(|word| word.contains('\0')) {
        true => Err(Invalid::new("cmd", "holds a NUL")),
        false => Ok(words),
    }
}
