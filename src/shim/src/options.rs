//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use model::PodId;

pub(crate) const USAGE: &str = "usage: gantline-shim run --pod <id> --dir <directory> --exits <directory> [--shared-pid]\n                         [--user-namespace <pin>]\n       gantline-shim version";

/// What is asked.
#[derive(Debug)]
pub(crate) enum Command {
    Run(Options),
    Version,
}

/// How a pod's shim runs.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) pod: PodId,
    /// Holds the socket and the shim's own log.
    pub(crate) dir: PathBuf,
    /// Gets the exit records.
    pub(crate) exits: PathBuf,
    pub(crate) shared_pid: bool,
    /// Owns the shared PID namespace; `None`: the host's does.
    pub(crate) user_namespace: Option<PathBuf>,
}

pub(crate) fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Command, String> {
    match args.next().as_deref().and_then(|command| command.to_str()) {
        Some("run") => {}
        Some("version" | "--version") => return Ok(Command::Version),
        other => return Err(format!("unknown command {other:?}")),
    }
    let (mut pod, mut dir, mut exits, mut shared_pid, mut user_namespace) = (None, None, None, false, None);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{} needs a value", arg.display()));
        match arg.to_str() {
            Some("--pod") => {
                let id = value()?.into_string().map_err(|id| format!("{} is not an id", id.display()))?;
                pod = Some(PodId::try_from(id).map_err(|e| e.to_string())?);
            }
            Some("--dir") => dir = Some(PathBuf::from(value()?)),
            Some("--exits") => exits = Some(PathBuf::from(value()?)),
            Some("--shared-pid") => shared_pid = true,
            Some("--user-namespace") => user_namespace = Some(PathBuf::from(value()?)),
            _ => return Err(format!("unknown argument {}", arg.display())),
        }
    }
    let missing = |name: &str| format!("{name} is missing");
    Ok(Command::Run(Options {
        pod: pod.ok_or_else(|| missing("--pod"))?,
        dir: dir.ok_or_else(|| missing("--dir"))?,
        exits: exits.ok_or_else(|| missing("--exits"))?,
        shared_pid,
        user_namespace,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let id = "a".repeat(64);
        for (line, expected) in [
            ("", "unknown command"),
            ("walk", "unknown command"),
            ("run", "--pod is missing"),
            ("run --pod", "--pod needs a value"),
            ("run --pod ../x", "is not an id"),
            (&format!("run --pod {id} --dir /d"), "--exits is missing"),
            ("run --frobnicate", "unknown argument --frobnicate"),
        ] {
            let error = parse(line.split_whitespace().map(OsString::from)).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
        let line = format!("run --pod {id} --dir /d --exits /e --shared-pid --user-namespace /d/user");
        match parse(line.split_whitespace().map(OsString::from)) {
            Ok(Command::Run(options)) => {
                assert!(options.shared_pid && options.exits == *"/e");
                assert_eq!(options.user_namespace, Some("/d/user".into()));
            }
            other => panic!("{other:?}"),
        }
    }
}
