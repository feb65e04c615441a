//! The life of a pod's network namespace: made, pinned at a path that plugins and people know, let go.

use std::path::{Path, PathBuf};

use kernel::SysError;
use kernel::namespace::{self, Kind};
use model::PodId;

/// How many digits of the pod's id name its pin: enough to be unique, short enough to read in `ip netns`.
const ID_DIGITS: usize = 32;

/// Where a pod's network namespace is pinned below `netns_dir`.
pub fn path(netns_dir: &Path, pod: &PodId) -> PathBuf {
    netns_dir.join(format!("gantline-{}", &pod.as_str()[..ID_DIGITS]))
}

/// Makes a network namespace pinned at `path`, with lo up. Blocks for less than a millisecond.
///
/// # Errors
/// The system call that failed (`AlreadyExists` when something is pinned there); nothing is left then.
pub fn create(path: &Path) -> Result<(), SysError> {
    namespace::create_pinned(&[(Kind::Net, path)])?;
    let up = crate::lo_up(path);
    if up.is_err() {
        let _ = namespace::unpin(path);
    }
    up
}

/// Lets a network namespace go. The kernel reaps it and its devices when the last process has left it, some
/// 50 ms later, without anybody waiting. An absent one is success.
///
/// # Errors
/// The system call that failed.
pub fn remove(path: &Path) -> Result<(), SysError> {
    namespace::unpin(path)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A network namespace with lo down, let go when dropped.
    pub(crate) struct Scratch {
        pub(crate) path: PathBuf,
        _dir: tempfile::TempDir,
    }

    impl Scratch {
        pub(crate) fn new() -> Option<Self> {
            if !rustix::process::geteuid().is_root() {
                println!("skipped: making a network namespace needs root");
                return None;
            }
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("net");
            namespace::create_pinned(&[(Kind::Net, &path)]).unwrap();
            Some(Self { path, _dir: dir })
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = remove(&self.path);
        }
    }

    #[test]
    fn a_namespace_comes_with_lo_and_goes_twice() {
        let Some(scratch) = Scratch::new() else { return };
        let path = scratch.path.with_file_name("other");
        create(&path).unwrap();
        assert_eq!(create(&path).unwrap_err().source.kind(), std::io::ErrorKind::AlreadyExists);
        assert!(namespace::is_pinned(&path));
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_pin_is_named_after_its_pod() {
        let pod = PodId::from_bytes([0xcd; 32]);
        let expected = format!("/run/netns/gantline-{}", "cd".repeat(16));
        assert_eq!(path(Path::new("/run/netns"), &pod), PathBuf::from(expected));
    }
}
