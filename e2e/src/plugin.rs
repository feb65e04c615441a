//! Programs of bad days: CNI plugins and OCI runtimes that fail, hang or print rubbish, as shell scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Writes an executable shell script.
pub fn script(dir: &Path, name: &str, body: &str) -> PathBuf {
    fs::create_dir_all(dir).expect("make a directory for a script");
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("write a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make a script executable");
    path
}

/// A CNI plugin whose ADD does `add` and whose other commands answer with success.
pub fn cni(dir: &Path, name: &str, add: &str) -> PathBuf {
    let versions = r#"{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}"#;
    let body = format!(
        "case \"$CNI_COMMAND\" in\nADD) cat >/dev/null\n{add}\n;;\nVERSION) echo '{versions}' ;;\n*) cat >/dev/null ;;\nesac"
    );
    script(dir, name, &body)
}
