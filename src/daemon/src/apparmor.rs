//! The profile that RuntimeDefault means on a node with AppArmor: loaded when the service starts, unless it is there.
//!
//! One of this name that an administrator has loaded is left as it is. Where it cannot be loaded pods still run, and
//! containers that ask for RuntimeDefault by name are refused with what is missing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pod::spec::{APPARMOR_DEFAULT, AppArmor};

use crate::runtimes::in_path;

/// Written for AppArmor 2.13 and later, without includes: it needs nothing of the distribution's own files.
const PROFILE: &str = include_str!("apparmor/gantline-default");
const PARSER: &str = "apparmor_parser";
/// Compiling a profile takes a fraction of a second.
const LOAD_MAX: Duration = Duration::from_secs(30);

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Load(PathBuf),
    /// It should be loaded, and there is no program that could.
    NoParser,
}

fn decide(host: &AppArmor, parser: Option<PathBuf>) -> Step {
    match (host.enabled && host.default_profile.is_none(), parser) {
        (false, _) => Step::Nothing,
        (true, Some(parser)) => Step::Load(parser),
        (true, None) => Step::NoParser,
    }
}

/// Loads the default profile where the node has AppArmor and not yet the profile. A failure is told in the log.
pub(crate) async fn ensure(state: &Path, path: &str) {
    // A service's PATH may lack the administrator's directories, where the program is.
    let parser = in_path(PARSER, &format!("{path}:/usr/sbin:/sbin"));
    match decide(&AppArmor::gather(), parser) {
        Step::Nothing => {}
        Step::NoParser => tracing::warn!(
            "this node has AppArmor, and {PARSER} is not installed: containers run unconfined by it, and those that \
             ask for RuntimeDefault are refused; install apparmor, or load a profile {APPARMOR_DEFAULT}"
        ),
        Step::Load(parser) => match load(&parser, state).await {
            Ok(()) => tracing::info!(profile = APPARMOR_DEFAULT, "the default AppArmor profile is loaded"),
            Err(error) => tracing::warn!(
                profile = APPARMOR_DEFAULT,
                error,
                "load the default AppArmor profile: containers that ask for RuntimeDefault are refused"
            ),
        },
    }
}

async fn load(parser: &Path, state: &Path) -> Result<(), String> {
    let file = state.join("apparmor").join(APPARMOR_DEFAULT);
    let written = std::fs::create_dir_all(state.join("apparmor")).map_err(|e| e.to_string());
    written.and_then(|()| {
        kernel::durable::replace(&file, PROFILE.as_bytes(), 0o644).map_err(|e| model::chain(&e))
    })?;
    let mut command = kernel::process::command(parser);
    // A cache of compiled profiles is the distribution's; replacing is also adding.
    command.args(["--replace", "--skip-cache"]).arg(&file).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut command = tokio::process::Command::from(command);
    let output = tokio::time::timeout(LOAD_MAX, command.kill_on_drop(true).output());
    let output = output.await.map_err(|_| format!("no answer in {} s", LOAD_MAX.as_secs()))?;
    let output = output.map_err(|e| format!("run {}: {e}", parser.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_loaded_once_and_only_where_it_can_be() {
        let host = |enabled, loaded: bool| AppArmor {
            enabled,
            default_profile: loaded.then(|| APPARMOR_DEFAULT.to_owned()),
            ..AppArmor::default()
        };
        let parser = || Some(PathBuf::from("/sbin/apparmor_parser"));
        for (host, parser, expect) in [
            (host(false, false), parser(), Step::Nothing),
            (host(false, false), None, Step::Nothing),
            (host(true, true), parser(), Step::Nothing),
            (host(true, true), None, Step::Nothing),
            (host(true, false), parser(), Step::Load("/sbin/apparmor_parser".into())),
            (host(true, false), None, Step::NoParser),
        ] {
            assert_eq!(decide(&host, parser), expect);
        }
    }

    #[tokio::test]
    async fn the_parser_gets_the_profile_and_its_words_are_told() {
        let dir = tempfile::tempdir().unwrap();
        // Written by another process: a fork of this one would keep it open, and it could not be executed.
        let write = r#"printf '#!/bin/sh\n[ "$1 $2" = "--replace --skip-cache" ] && cp "$3" "${0%%/*}/got"\n' > good
            printf '#!/bin/sh\necho line 3: no >&2; exit 1\n' > bad
            chmod +x good bad"#;
        let mut shell = kernel::process::command("/bin/sh");
        assert!(
            shell
                .env("PATH", "/bin:/usr/bin")
                .args(["-c", write])
                .current_dir(dir.path())
                .status()
                .unwrap()
                .success()
        );
        let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
        for _ in 0..2 {
            load(&good, dir.path()).await.unwrap();
        }
        let error = load(&bad, dir.path()).await.unwrap_err();
        assert_eq!(error, "exit status: 1: line 3: no");
        assert!(PROFILE.contains(&format!("profile {APPARMOR_DEFAULT} ")));
    }
}
