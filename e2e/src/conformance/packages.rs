//! Programs of Debian packages that the machine itself need not have: fetched and unpacked below the target
//! directory, never installed, so that no web server starts on a developer's machine.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{command, run};
use crate::image::libraries_of;
use crate::programs::{installed, target_dir};

/// What is fetched: the two web servers and those of their libraries that a small Debian lacks.
const PACKAGES: [&str; 7] =
    ["nginx", "apache2-bin", "libapr1", "libaprutil1", "libpcre2-8-0", "libssl3", "libexpat1"];

/// The directory that the packages are unpacked in, as a root: `usr/sbin/nginx` and so on.
#[track_caller]
pub fn unpacked() -> PathBuf {
    let dir = target_dir().join("conformance");
    fs::create_dir_all(&dir).expect("make the directory of packages");
    let dir = dir.canonicalize().expect("find the directory of packages");
    let root = dir.join("packages");
    if root.join("usr/sbin/nginx").exists() && root.join("usr/sbin/apache2").exists() {
        return root;
    }
    // Made aside and moved at once: two test programs may want it at the same time.
    let new = dir.join(format!("packages.{}", std::process::id()));
    let _ = fs::remove_dir_all(&new);
    fs::create_dir_all(&new).expect("make a directory to unpack in");
    run(command(installed("apt-get")).current_dir(&new).arg("-qq").arg("download").args(PACKAGES)).ok();
    for entry in fs::read_dir(&new).expect("list the packages").flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|ending| ending == "deb") {
            run(command(installed("dpkg-deb")).arg("-x").arg(&path).arg(&new)).ok();
            fs::remove_file(&path).expect("remove an unpacked package");
        }
    }
    if fs::rename(&new, &root).is_err() {
        assert!(root.join("usr/sbin/nginx").exists(), "place the unpacked packages at {}", root.display());
        let _ = fs::remove_dir_all(&new);
    }
    root
}

/// The shared libraries that a program loads, from below `root` before the machine's own: path in an image, file on
/// this machine.
#[track_caller]
pub fn libraries(root: Option<&Path>, program: &Path) -> Vec<(String, PathBuf)> {
    let mut libraries =
        libraries_of(program, root.map(|root| root.join("usr/lib").join(multiarch())).as_deref());
    let unpacked_in = root.map(|root| root.display().to_string()).unwrap_or_default();
    for (inside, _) in &mut libraries {
        if let Some(below) = inside.strip_prefix(unpacked_in.trim_start_matches('/')) {
            *inside = below.trim_start_matches('/').to_string();
        }
    }
    libraries
}

/// Debian's name of this machine's kind, under which its libraries are.
fn multiarch() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}
