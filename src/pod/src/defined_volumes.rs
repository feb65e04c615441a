//! The volumes that an image's configuration asks for: directories of the container's own, filled from the image.
//!
//! They lie beside the container's writable layer and go with it, so its record is their journal too.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use kernel::{SysError, copy, rooted};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinedVolume {
    /// Where the container sees it.
    pub container_path: PathBuf,
    /// Where it is.
    pub source: PathBuf,
}

/// What an image wants that cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// It is not a directory in the image, or is all of it.
    #[error("the image's volume {path:?} is {what}")]
    NoDirectory {
        /// As the image writes it.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// Copying it failed.
    #[error("make the image's volume {path:?}")]
    Host {
        /// As the image writes it.
        path: String,
        /// What the kernel said.
        #[source]
        source: SysError,
    },
}

impl model::Classify for VolumeError {
    fn kind(&self) -> model::ErrorKind {
        match self {
            Self::NoDirectory { .. } => model::ErrorKind::Invalid,
            Self::Host { source, .. } => model::error::io_kind(&source.source),
        }
    }
}

/// Makes the volumes that an image asks for and that no mount of the request's takes the place of, in `directory`.
/// `rootfs` is mounted, and nobody is in it yet; `root` is the container's root as the host numbers it.
pub(crate) fn make(
    rootfs: &Path,
    root: (u32, u32),
    directory: &Path,
    volumes: &[String],
    mounts: &[model::Mount],
) -> Result<Vec<DefinedVolume>, VolumeError> {
    let mut made = Vec::new();
    for (n, path) in volumes.iter().enumerate() {
        let host = |source| VolumeError::Host { path: path.clone(), source };
        let refused = |what| VolumeError::NoDirectory { path: path.clone(), what };
        let container_path = clean(path);
        if container_path == Path::new("/") {
            return Err(refused("the root directory"));
        }
        if mounts.iter().any(|mount| clean(&mount.container_path) == container_path) {
            continue;
        }
        make_directory(directory, 0o700).map_err(host)?;
        let source = directory.join(n.to_string());
        match rooted::directory(rootfs, &container_path) {
            Ok(content) => copy::tree(&content, &source).map_err(host)?,
            Err(e) if e.is_not_found() => {
                make_directory(&source, 0o755).map_err(host)?;
                std::os::unix::fs::chown(&source, Some(root.0), Some(root.1))
                    .map_err(|e| host(SysError::path("chown", &source, e)))?;
            }
            Err(e) if e.source.kind() == io::ErrorKind::NotADirectory => {
                return Err(refused("not a directory in it"));
            }
            Err(e) => return Err(host(e)),
        }
        made.push(DefinedVolume { container_path, source });
    }
    Ok(made)
}

fn make_directory(path: &Path, mode: u32) -> Result<(), SysError> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|e| SysError::path("mkdir", path, e))
}

/// A path of the container's, from its root, without `.`, `..` and repeated slashes.
fn clean(path: impl AsRef<Path>) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.as_ref().components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::fixture::bind;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    #[test]
    fn volumes_are_copies_of_what_the_image_has_there() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().canonicalize().unwrap().join("rootfs");
        let at = dir.path().join("volumes");
        fs::create_dir_all(rootfs.join("data/sub")).unwrap();
        fs::set_permissions(rootfs.join("data"), fs::Permissions::from_mode(0o1770)).unwrap();
        fs::write(rootfs.join("data/sub/file"), "of the image").unwrap();
        symlink("/data", rootfs.join("link")).unwrap();
        fs::write(rootfs.join("file"), "").unwrap();
        let own = fs::metadata(dir.path()).map(|of| (of.uid(), of.gid())).unwrap();
        let make = |volumes: &[&str], mounts: &[model::Mount]| {
            let volumes: Vec<String> = volumes.iter().map(|path| (*path).to_owned()).collect();
            let _ = fs::remove_dir_all(&at);
            make(&rootfs, own, &at, &volumes, mounts).map_err(|e| model::chain(&e))
        };
        let made = make(&["/data/", "new//dir", "/link", "/mine"], &[bind("/mine/.", "/host")]).unwrap();
        let paths: Vec<&Path> = made.iter().map(|volume| volume.container_path.as_path()).collect();
        assert_eq!(paths, ["/data", "/new/dir", "/link"].map(Path::new), "a mount takes a volume's place");
        assert_eq!(fs::read_to_string(made[0].source.join("sub/file")).unwrap(), "of the image");
        assert_eq!(fs::metadata(&made[0].source).unwrap().mode() & 0o7777, 0o1770);
        assert_eq!(fs::metadata(&made[1].source).unwrap().mode() & 0o7777, 0o755);
        assert!(made[2].source.join("sub/file").exists(), "links are followed inside the image");
        assert_eq!(make(&["/"], &[]).unwrap_err(), "the image's volume \"/\" is the root directory");
        assert_eq!(
            make(&["/file"], &[]).unwrap_err(),
            "the image's volume \"/file\" is not a directory in it"
        );
        assert_eq!(make(&[], &[]).unwrap(), []);
        assert!(!at.exists(), "nothing is made for nothing");
    }
}
