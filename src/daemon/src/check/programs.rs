//! The programs that containers are run with.

use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::Report;
use crate::config::Config;
use crate::runtimes;

/// A program that does not tell its version in this time is broken.
const VERSION_MAX: Duration = Duration::from_secs(5);
const OUTPUT_BYTES_MAX: u64 = 4096;

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
    let mut command = kernel::process::command(binary);
    command.arg("--version").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let deadline = Instant::now() + VERSION_MAX;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no answer in {} s", VERSION_MAX.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    let mut text = String::new();
    if let Some(out) = child.stdout.take() {
        out.take(OUTPUT_BYTES_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    }
    if !status.success() {
        return Err(status.to_string());
    }
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
