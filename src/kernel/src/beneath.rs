//! Making files beneath a directory whatever their paths say: every look-up is openat2(2) with
//! RESOLVE_BENEATH and RESOLVE_NO_MAGICLINKS, every last component is a plain name that is never followed.
//!
//! For unpacking archives that nobody vouches for. A path with `..`, an absolute symlink on the way or one
//! that leads out is an error, and nothing outside the directory has been touched.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::SysError;

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// How often a look-up is tried again that lost a race with a rename (openat2(2), EAGAIN).
const RACES_MAX: usize = 16;

/// A directory, and everything beneath it.
pub struct Beneath {
    root: OwnedFd,
    path: PathBuf,
    /// The directory that was looked up last: archives list a directory's files one after another.
    last: Option<(PathBuf, OwnedFd)>,
}

/// What a file carries beside its contents. Applied in the order that the kernel's side effects demand:
/// a change of owner clears set-id bits and file capabilities, so the mode and the attributes follow it.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits with set-id and sticky; not applied to symlinks.
    pub mode: u32,
    /// Seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    /// Extended attributes: name, value.
    pub xattrs: &'a [(CString, Vec<u8>)],
}

/// A special file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// A FIFO.
    Fifo,
    /// A character device: major, minor.
    Character(u32, u32),
    /// A block device: major, minor.
    Block(u32, u32),
}

/// What lies at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A directory.
    Directory,
    /// The character device 0:0, overlayfs's whiteout.
    Whiteout,
    /// Anything else.
    Other,
}

impl Beneath {
    /// The directory at `path`, which is trusted and may be a symlink.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn open(path: &Path) -> Result<Self, SysError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|e| SysError::path("open", path, e))?;
        Ok(Self { root, path: path.to_owned(), last: None })
    }

    /// What lies at `path`, without following a symlink there.
    ///
    /// # Errors
    /// A look-up of the directories on the way that failed; that `path` itself is absent is `None`.
    pub fn find(&mut self, path: &Path) -> Result<Option<Found>, SysError> {
        let name = file_name(&self.path, path)?;
        let full = self.full(path);
        let parent = match self.parent(path) {
            Err(error) if error.is_not_found() => return Ok(None),
            parent => parent?,
        };
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(SysError::path("stat", full, e)),
            Ok(stat) => Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Found::Directory,
                FileType::CharacterDevice if stat.st_rdev == 0 => Found::Whiteout,
                _ => Found::Other,
            })),
        }
    }

    /// Makes one directory with mode 0755.
    ///
    /// # Errors
    /// The system call that failed, also because something lies there.
    pub fn mkdir(&mut self, path: &Path) -> Result<(), SysError> {
        let name = file_name(&self.path, path)?;
        let full = self.full(path);
        rustix::fs::mkdirat(self.parent(path)?, name, Mode::from_raw_mode(0o755))
            .map_err(|e| SysError::path("mkdir", full, e))
    }

    /// Makes a file that nobody else can read yet, and opens it for writing.
    ///
    /// # Errors
    /// The system call that failed, also because something lies there.
    pub fn create(&mut self, path: &Path) -> Result<File, SysError> {
        let name = file_name(&self.path, path)?;
        let full = self.full(path);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.parent(path)?, name, flags, Mode::from_raw_mode(0o600))
            .map(File::from)
            .map_err(|e| SysError::path("create", full, e))
    }

    /// Opens a regular file for reading, following no symlink at the end of the path.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn read(&mut self, path: &Path) -> Result<File, SysError> {
        let name = file_name(&self.path, path)?;
        let full = self.full(path);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.parent(path)?, name, flags, Mode::empty())
            .map(File::from)
            .map_err(|e| SysError::path("open", &full, e))?;
        match file.metadata() {
            Ok(metadata) if metadata.is_file() => Ok(file),
            Ok(_) => Err(SysError::path("open", full, io::Error::from(Errno::INVAL))),
            Err(e) => Err(SysError::path("stat", full, e)),
        }
    }

    /// Makes a symlink. Its target is bytes: nothing here follows it.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn symlink(&mut self, target: &OsStr, path: &Path) -> Result<(), SysError> {
        let name = file_name(&self.path, path)?;
        let full = self.full(path);
        rustix::fs::symlinkat(target, self.parent(path)?, name)
            .map_err(|e| SysError::path("symlink", full, e))
    }

    /// Makes a hard link to `existing`, which also lies beneath and is not followed.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn link(&mut self, existing: &Path, path: &Path) -> Result<(), SysError> {
        let name = file_name(&self.path, path)?;
        let existing_name = file_name(&self.path, existing)?;
        let full = self.full(path);
        let from = self.lookup(existing.parent().unwrap_or(Path::new("")))?;
        rustix::fs::linkat(from, existing_name, self.parent(path)?, name, AtFlags::empty())
            .map_err(|e| SysError::path("link", full, e))
    }

    /// Makes a special file.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn special(&mut self, path: &Path, special: Special) -> Result<(), SysError> {
        let name = file_name(&self.path, path)?;
        let full = self.full(path);
        let (kind, device) = match special {
            Special::Fifo => (FileType::Fifo, 0),
            Special::Character(major, minor) => {
                (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
            }
            Special::Block(major, minor) => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
        };
        rustix::fs::mknodat(self.parent(path)?, name, kind, Mode::from_raw_mode(0o600), device)
            .map_err(|e| SysError::path("mknod", full, e))
    }

    /// Removes what lies at `path`, a directory with everything in it. The empty path is the root itself
    /// and is refused.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn remove(&mut self, path: &Path) -> Result<(), SysError> {
        let name = file_name(&self.path, path)?.to_owned();
        let full = self.full(path);
        let parent = self.parent(path)?;
        let removed = match rustix::fs::unlinkat(parent, &name, AtFlags::empty()) {
            Err(Errno::ISDIR) => fs::remove_dir_all(by_fd(parent, &name)),
            removed => removed.map_err(io::Error::from),
        };
        // What was looked up may have been beneath it.
        self.last = None;
        removed.map_err(|e| SysError::path("remove", full, e))
    }

    /// Gives attributes to what lies at `path`, which is not followed. `link` says that it is a symlink.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn set_attributes(&mut self, path: &Path, of: &Attributes<'_>, link: bool) -> Result<(), SysError> {
        let root = path.as_os_str().is_empty();
        let name = if root { OsStr::new(".") } else { file_name(&self.path, path)? };
        let full = self.full(path);
        let parent = if root { self.root.as_fd() } else { self.parent(path)? };
        let failed = |call| {
            let full = &full;
            move |e: Errno| SysError::path(call, full, e)
        };
        let (uid, gid) = (Uid::from_raw(of.uid), Gid::from_raw(of.gid));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("chown"))?;
        if !link {
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(of.mode & 0o7777), AtFlags::empty())
                .map_err(failed("chmod"))?;
        }
        if !of.xattrs.is_empty() {
            let through = by_fd(parent, name);
            for (key, value) in of.xattrs {
                rustix::fs::lsetxattr(&through, key.as_c_str(), value, XattrFlags::empty())
                    .map_err(failed("setxattr"))?;
            }
        }
        rustix::fs::utimensat(parent, name, &times(of.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("utimens"))
    }

    /// Sets one extended attribute on the directory at `path`, the empty path being the root itself.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn mark(&mut self, path: &Path, key: &str, value: &[u8]) -> Result<(), SysError> {
        let dir = self.lookup(path)?;
        rustix::fs::setxattr(format!("/proc/self/fd/{}", dir.as_raw_fd()), key, value, XattrFlags::empty())
            .map_err(|e| SysError::path("setxattr", self.full(path), e))
    }

    /// Sets a directory's time once nothing more is put into it; says what it takes on disk, bytes.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn finish_dir(&mut self, path: &Path, mtime: (i64, u32)) -> Result<u64, SysError> {
        let root = path.as_os_str().is_empty();
        let name = if root { OsStr::new(".") } else { file_name(&self.path, path)? };
        let full = self.full(path);
        let parent = if root { self.root.as_fd() } else { self.parent(path)? };
        rustix::fs::utimensat(parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
            .and_then(|()| rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW))
            .map(|stat| u64::try_from(stat.st_blocks).unwrap_or_default() * 512)
            .map_err(|e| SysError::path("utimens", full, e))
    }

    fn full(&self, path: &Path) -> PathBuf {
        self.path.join(path)
    }

    /// The directory that `path`'s last component lies in.
    fn parent(&mut self, path: &Path) -> Result<rustix::fd::BorrowedFd<'_>, SysError> {
        let dir = path.parent().unwrap_or(Path::new(""));
        if dir.as_os_str().is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.last.as_ref().is_none_or(|(known, _)| known != dir) {
            let fd = self.lookup(dir)?;
            self.last = Some((dir.to_owned(), fd));
        }
        Ok(self.last.as_ref().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }

    fn lookup(&self, dir: &Path) -> Result<OwnedFd, SysError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let wanted = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let mut races = 0;
        loop {
            match rustix::fs::openat2(&self.root, wanted, flags, Mode::empty(), RESOLVE) {
                Err(Errno::AGAIN) if races < RACES_MAX => races += 1,
                opened => return opened.map_err(|e| SysError::path("open beneath", self.full(dir), e)),
            }
        }
    }
}

/// Gives attributes to an open file: the mode and the attributes after the owner, the time last.
///
/// # Errors
/// The system call that failed, naming `path`.
pub fn set_attributes(file: &File, of: &Attributes<'_>, path: &Path) -> Result<(), SysError> {
    let failed = |call| move |e: Errno| SysError::path(call, path, e);
    rustix::fs::fchown(file, Some(Uid::from_raw(of.uid)), Some(Gid::from_raw(of.gid)))
        .map_err(failed("chown"))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(of.mode & 0o7777)).map_err(failed("chmod"))?;
    for (key, value) in of.xattrs {
        rustix::fs::fsetxattr(file, key.as_c_str(), value, XattrFlags::empty())
            .map_err(failed("setxattr"))?;
    }
    rustix::fs::futimens(file, &times(of.mtime)).map_err(failed("utimens"))
}

/// Removes a directory and everything in it, following no symlink. An absent one is success.
///
/// # Errors
/// The system call that failed.
pub fn remove_tree(path: &Path) -> Result<(), SysError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(SysError::path("remove tree", path, e)),
    }
}

/// The last component, which must be a plain name.
fn file_name<'p>(root: &Path, path: &'p Path) -> Result<&'p OsStr, SysError> {
    match path.components().next_back() {
        Some(Component::Normal(name)) if !path.as_os_str().as_bytes().ends_with(b"/.") => Ok(name),
        _ => Err(SysError::path("resolve beneath", root.join(path), io::Error::from(Errno::INVAL))),
    }
}

/// A path through an open directory, for the calls that take no directory descriptor.
fn by_fd(dir: rustix::fd::BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    let mut path = OsString::from(format!("/proc/self/fd/{}/", dir.as_raw_fd()));
    path.push(name);
    path.into()
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    /// A root with ways out of it, and a witness beside it.
    fn hostile() -> (tempfile::TempDir, Beneath) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("real/deep")).unwrap();
        fs::write(dir.path().join("witness"), "untouched").unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink(dir.path(), root.join("absolute")).unwrap();
        symlink("real", root.join("inside")).unwrap();
        symlink("../witness", root.join("witness")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        let beneath = Beneath::open(&root).unwrap();
        (dir, beneath)
    }

    #[test]
    fn nothing_leads_out() {
        let (dir, mut beneath) = hostile();
        for path in [
            "up/x",
            "absolute/x",
            "../x",
            "real/../../x",
            "magic/x",
            "..",
            "real/..",
            "",
            ".",
            "real/.",
            "/",
            "/etc/x",
            "inside/../../x",
        ] {
            let path = Path::new(path);
            assert!(beneath.create(path).is_err(), "create {path:?}");
            assert!(beneath.mkdir(path).is_err(), "mkdir {path:?}");
            assert!(beneath.symlink(OsStr::new("t"), path).is_err(), "symlink {path:?}");
            assert!(beneath.special(path, Special::Fifo).is_err(), "mkfifo {path:?}");
            assert!(beneath.remove(path).is_err(), "remove {path:?}");
            assert!(beneath.link(Path::new("witness"), path).is_err(), "link {path:?}");
        }
        for existing in ["up/witness", "absolute/witness", "../witness"] {
            assert!(beneath.link(Path::new(existing), Path::new("stolen")).is_err(), "link from {existing}");
        }
        assert!(beneath.read(Path::new("witness")).is_err(), "the last component is not followed");
        assert!(beneath.create(Path::new("witness")).is_err());
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(fs::read(dir.path().join("witness")).unwrap(), b"untouched");
    }

    #[test]
    fn a_symlink_that_stays_inside_is_followed_on_the_way() {
        let (dir, mut beneath) = hostile();
        beneath.create(Path::new("inside/deep/file")).unwrap();
        assert!(dir.path().join("root/real/deep/file").exists());
        assert_eq!(beneath.find(Path::new("inside/deep")).unwrap(), Some(Found::Directory));
        assert_eq!(beneath.find(Path::new("up")).unwrap(), Some(Found::Other), "not followed at the end");
        assert_eq!(beneath.find(Path::new("absent/x")).unwrap(), None);
    }

    #[test]
    fn removal_follows_nothing() {
        let (dir, mut beneath) = hostile();
        symlink(dir.path(), dir.path().join("root/real/out")).unwrap();
        beneath.remove(Path::new("real")).unwrap();
        beneath.remove(Path::new("absolute")).unwrap();
        assert!(dir.path().join("witness").exists());
        assert!(beneath.create(Path::new("real/x")).is_err(), "the directory is gone from the cache too");
    }

    #[test]
    fn attributes_arrive_whole() {
        let (dir, mut beneath) = hostile();
        let root = rustix::process::geteuid().is_root();
        let (uid, gid) = if root {
            (1234, 4321)
        } else {
            (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())
        };
        let xattrs = [(CString::new("user.colour").unwrap(), b"blue".to_vec())];
        let attributes = Attributes { uid, gid, mode: 0o4711, mtime: (1_000_000_000, 7), xattrs: &xattrs };
        let file = beneath.create(Path::new("real/file")).unwrap();
        set_attributes(&file, &attributes, Path::new("real/file")).unwrap();
        beneath.set_attributes(Path::new("real"), &Attributes { mode: 0o1700, ..attributes }, false).unwrap();
        beneath.symlink(OsStr::new("nowhere"), Path::new("link")).unwrap();
        beneath.set_attributes(Path::new("link"), &Attributes { xattrs: &[], ..attributes }, true).unwrap();
        for (name, mode) in [("real/file", Some(0o4711)), ("real", Some(0o1700)), ("link", None)] {
            let metadata = fs::symlink_metadata(dir.path().join("root").join(name)).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (uid, gid), "{name}");
            assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_000_000_000, 7), "{name}");
            assert!(mode.is_none_or(|mode| metadata.mode() & 0o7777 == mode), "{name}");
        }
        let mut value = [0; 16];
        let length =
            rustix::fs::getxattr(dir.path().join("root/real/file"), "user.colour", &mut value).unwrap();
        assert_eq!(&value[..length], b"blue");
    }
}
