//! Where the programs under test and their helpers are: an environment variable, else the build's own place.

use std::path::{Path, PathBuf};

/// Cargo's target directory of this workspace.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
    }
}

/// The programs of one build of Gantline.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `gantline`.
    pub gantline: PathBuf,
    /// `gantline-shim`, statically linked.
    pub shim: PathBuf,
}

impl Programs {
    /// What the tests run: `$GANTLINE` or the dev build; `$GANTLINE_SHIM` or the shim as `make build` leaves
    /// it.
    #[track_caller]
    pub fn dev() -> Self {
        Self::of("debug")
    }

    /// What the demo and the benchmark run: as [`Self::dev`], from the release build.
    #[track_caller]
    pub fn release() -> Self {
        Self::of("release")
    }

    #[track_caller]
    fn of(profile: &str) -> Self {
        let place = |variable: &str, default: PathBuf| {
            let path = std::env::var_os(variable).map_or(default, PathBuf::from);
            assert!(path.exists(), "{} is not built; run `make build` or set {variable}", path.display());
            path
        };
        let target = target_dir();
        Self {
            gantline: place("GANTLINE", target.join(profile).join("gantline")),
            shim: place("GANTLINE_SHIM", target.join("shim/gantline-shim")),
        }
    }
}

/// One of the Go programs that `e2e/tools/build.sh` builds.
#[track_caller]
pub fn tool(name: &str) -> PathBuf {
    let path = target_dir().join("tools").join(name);
    assert!(path.exists(), "{} is not built; run `make tools`", path.display());
    path
}

/// The OCI runtime of every node that does not choose: Debian's crun, or the one that `GANTLINE_E2E_RUNTIME` names.
#[track_caller]
pub fn runtime() -> (String, PathBuf) {
    let name = std::env::var("GANTLINE_E2E_RUNTIME").unwrap_or_else(|_| "crun".into());
    // runc is the pinned module's: the system's may be years old.
    let program = if name == "runc" { tool("runc") } else { installed(&name) };
    (name, program)
}

/// A program on the PATH, or in the places that root's PATH may lack.
#[track_caller]
pub fn installed(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = ["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from);
    let found =
        std::env::split_paths(&path).chain(beside).map(|dir| dir.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed; run `e2e/setup.sh`"))
}
