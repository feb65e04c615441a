//! The programs that containers are run with.

use std::path::Path;

use super::Report;
use crate::config::Config;
use crate::runtimes;

pub(super) fn check(config: &Config, path: &str, report: &mut Report) {
    match runtimes::find(config, path) {
        Ok(found) => {
            for (name, binary) in &found.handlers {
                let default = if *name == found.default { " (default)" } else { "" };
                match version(binary) {
                    Ok(version) => {
                        report.ok("runtimes", format!("{name}{default}: {}, {version}", binary.display()));
                    }
                    Err(why) => report.fail(
                        "runtimes",
                        format!("{name}{default}: {} --version: {why}", binary.display()),
                        "reinstall the runtime, or take it out of the configuration",
                    ),
                }
            }
        }
        Err(error) => report.fail("runtimes", error.to_string(), "install crun or runc"),
    }
    match runtimes::find_shim(config, path) {
        Ok(shim) => report.ok("shim", shim.display().to_string()),
        Err(error) => report.fail("shim", error.to_string(), "install the package as a whole: make install"),
    }
}

/// The first line of `<program> --version`.
fn version(binary: &Path) -> Result<String, String> {
    let text = runtimes::briefly(binary, "--version")?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn script(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_program_tells_its_version_or_why_not() {
        let (_dir, good) = script("echo runtime version 1.2; echo more");
        assert_eq!(version(&good), Ok("runtime version 1.2".to_owned()));
        let (_dir, bad) = script("exit 3");
        assert_eq!(version(&bad), Err("exit status: 3".to_owned()));
        assert!(version(Path::new("/nonexistent")).unwrap_err().starts_with("No such file"));
    }
}
