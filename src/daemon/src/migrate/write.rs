//! Writing what a migration comes to. Nothing that is there is overwritten, unless that is asked for; and either all
//! is free to be written, or nothing is.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::Written;

/// Why not everything was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// These are there already; nothing was written.
    #[error("{} is there already; nothing was written. --force overwrites it", list(.0))]
    There(Vec<PathBuf>),
    /// The system refused.
    #[error("write {}", .path.display())]
    Failed {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Writes the files below a directory, which is made where it is not there.
pub(crate) fn write(directory: &Path, files: &[Written], force: bool) -> Result<Vec<PathBuf>, WriteError> {
    let paths: Vec<PathBuf> = files.iter().map(|file| directory.join(&file.path)).collect();
    // A link that leads nowhere is something, too.
    let there: Vec<PathBuf> = paths.iter().filter(|path| path.symlink_metadata().is_ok()).cloned().collect();
    if !force && !there.is_empty() {
        return Err(WriteError::There(there));
    }
    for (file, path) in files.iter().zip(&paths) {
        one(path, file).map_err(|source| WriteError::Failed { path: path.clone(), source })?;
    }
    Ok(paths)
}

/// The new file is whole before it has its name: whoever reads it meanwhile sees the old one or the new one.
fn one(path: &Path, file: &Written) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".gantline-new");
    let beside = parent.join(name);
    let mode = if file.private { 0o600 } else { 0o644 };
    let _ = std::fs::remove_file(&beside);
    let written = (|| {
        let mut out = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        out.write_all(file.text.as_bytes())?;
        out.sync_all()?;
        std::fs::rename(&beside, path)?;
        File::open(parent)?.sync_all()
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn nothing_is_overwritten_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let file = |path: &str, text: &str| Written {
            path: path.into(),
            text: text.into(),
            private: path == "secret",
        };
        let first = [file("certs.d/a/hosts.toml", "1"), file("secret", "2")];
        write(dir.path(), &first, false).unwrap();
        let mode = dir.path().join("secret").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let second = [file("config.toml", "3"), file("secret", "4")];
        let error = write(dir.path(), &second, false).unwrap_err().to_string();
        assert!(error.contains("secret is there already; nothing was written"), "{error}");
        assert!(!dir.path().join("config.toml").exists());
        write(dir.path(), &second, true).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("secret")).unwrap(), "4");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left beside");
    }
}
