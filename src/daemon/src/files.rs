//! The files of a node, seen from its root directory: that of this machine, or of another one that is mounted
//! somewhere. Symbolic links, absolute ones too, are followed within it.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

/// Longer files are no configuration.
const BYTES_MAX: usize = 8 << 20;
/// As many as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// The files of one node.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    root: PathBuf,
}

impl Files {
    /// Those below `root`; `/` is this machine.
    pub(crate) fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where a path of the node is on this machine. `None` when a link leads in circles.
    pub(crate) fn find(&self, path: &Path) -> Option<PathBuf> {
        let mut links = 0;
        let mut found = PathBuf::from("/");
        let mut rest: Vec<_> = parts(path);
        while let Some(part) = rest.pop() {
            if part == ".." {
                found.pop();
                continue;
            }
            let next = found.join(&part);
            match std::fs::read_link(self.on_host(&next)) {
                Ok(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return None;
                    }
                    if target.is_absolute() {
                        found = PathBuf::from("/");
                    }
                    rest.extend(parts(&target));
                }
                Err(_) => found = next,
            }
        }
        Some(self.on_host(&found))
    }

    fn on_host(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file's text; `None` when there is none.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Option<String>> {
        let Some(found) = self.find(path) else { return Ok(None) };
        match std::fs::metadata(&found) {
            // A FIFO of that name would be waited for, for ever.
            Ok(data) if !data.is_file() => return Err(io::Error::other("is not a regular file")),
            Ok(data) if data.len() > BYTES_MAX as u64 => return Err(io::Error::other("is too large")),
            _ => {}
        }
        match std::fs::read_to_string(found) {
            Ok(text) => Ok(Some(text)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A file's text, trimmed, empty when it cannot be read: for the files of /proc and /sys.
    pub(crate) fn word(&self, path: &str) -> String {
        self.read(Path::new(path)).ok().flatten().unwrap_or_default().trim().to_owned()
    }

    /// The paths in a directory, sorted; none when it is not there.
    pub(crate) fn list(&self, directory: &Path) -> Vec<PathBuf> {
        let Some(entries) = self.find(directory).and_then(|found| std::fs::read_dir(found).ok()) else {
            return Vec::new();
        };
        let mut paths: Vec<_> = entries.flatten().map(|entry| directory.join(entry.file_name())).collect();
        paths.sort();
        paths
    }

    /// Whether something is there.
    pub(crate) fn exists(&self, path: &Path) -> bool {
        self.find(path).is_some_and(|found| found.exists())
    }

    /// Whether a file is there that may be executed.
    pub(crate) fn is_executable(&self, path: &Path) -> bool {
        let data = self.find(path).and_then(|found| found.metadata().ok());
        data.is_some_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    }
}

/// The parts of a path, the first one last.
fn parts(path: &Path) -> Vec<std::ffi::OsString> {
    let kept = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    kept.collect()
}

#[cfg(test)]
impl Files {
    /// A made-up node of these files; a text that begins with `-> ` is a link.
    pub(crate) fn made_up(files: &[(&str, &str)]) -> (tempfile::TempDir, Self) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            if let Some(target) = text.strip_prefix("-> ") {
                std::os::unix::fs::symlink(target, &path).unwrap();
                continue;
            }
            std::fs::write(&path, text).unwrap();
            if text.starts_with("#!") {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        let files = Self::below(dir.path());
        (dir, files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_within_the_node() {
        let (_dir, files) = Files::made_up(&[
            ("/etc/real", "text"),
            ("/etc/a", "-> /etc/real"),
            ("/etc/b", "-> ../../../../etc/real"),
            ("/etc/round", "-> round"),
            ("/etc/out", "-> /proc/self/status"),
            ("/etc/d/10", ""),
            ("/etc/d/05", ""),
            ("/bin/tool", "#!"),
        ]);
        for path in ["/etc/a", "/etc/b"] {
            assert_eq!(files.read(Path::new(path)).unwrap().as_deref(), Some("text"), "{path}");
        }
        for path in ["/etc/round", "/etc/out", "/etc/real/below", "/none"] {
            assert_eq!(files.read(Path::new(path)).unwrap(), None, "{path}");
        }
        assert_eq!(files.list(Path::new("/etc/d")), ["/etc/d/05", "/etc/d/10"].map(PathBuf::from));
        assert!(files.is_executable(Path::new("/bin/tool")) && !files.is_executable(Path::new("/etc/real")));
    }
}
