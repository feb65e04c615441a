//! The mount table, /proc/self/mountinfo (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::Propagation;
use crate::SysError;

/// The calling thread's own: one may be in a mount namespace of its own.
const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// One mount of this process's mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Unique while it is mounted.
    pub id: u64,
    /// The mount that it lies on.
    pub parent: u64,
    /// The part of the file system that it shows.
    pub root: PathBuf,
    /// Where it is, as this process sees it.
    pub mount_point: PathBuf,
    /// Per-mount options: `ro`, `nosuid`, …
    pub options: Vec<String>,
    /// Member of a peer group that it sends to and receives from.
    pub shared: bool,
    /// Receives from a peer group.
    pub slave: bool,
    /// Cannot be bound.
    pub unbindable: bool,
    /// `overlay`, `ext4`, …
    pub file_system: String,
    /// The device or whatever the mounter wrote.
    pub source: String,
    /// Per-file-system options.
    pub super_options: String,
}

/// File systems that answer from this machine's own memory and disks. Others ask a server, or a program.
const LOCAL: [&str; 18] = [
    "bcachefs",
    "btrfs",
    "devtmpfs",
    "erofs",
    "exfat",
    "ext2",
    "ext3",
    "ext4",
    "f2fs",
    "hugetlbfs",
    "overlay",
    "proc",
    "ramfs",
    "squashfs",
    "sysfs",
    "tmpfs",
    "xfs",
    "zfs",
];

impl MountInfo {
    /// Whether its file system answers without asking a server or a program, so that looking at it does not hang.
    pub fn is_local(&self) -> bool {
        LOCAL.contains(&self.file_system.as_str())
    }

    /// How mount events travel here. A mount that is both slave and shared is [`Propagation::Shared`].
    pub fn propagation(&self) -> Propagation {
        match (self.shared, self.slave, self.unbindable) {
            (true, ..) => Propagation::Shared,
            (_, true, _) => Propagation::Slave,
            (_, _, true) => Propagation::Unbindable,
            _ => Propagation::Private,
        }
    }
}

/// The mount table, in the kernel's order: a mount comes after the one it lies on.
///
/// # Errors
/// The table could not be read, or a line of it not understood.
pub fn table() -> Result<Vec<MountInfo>, SysError> {
    let bytes = std::fs::read(MOUNTINFO).map_err(|e| SysError::path("read", MOUNTINFO, e))?;
    parse(&bytes).map_err(|e| SysError::path("parse", MOUNTINFO, e))
}

/// The mounts of `table` that lie on or below `directory`, parents first.
pub fn below<'a>(table: &'a [MountInfo], directory: &Path) -> Vec<&'a MountInfo> {
    table.iter().filter(|mount| mount.mount_point.starts_with(directory)).collect()
}

/// The mount that holds `path`, symbolic links followed.
///
/// # Errors
/// The path does not exist, or the table could not be read.
pub fn holding(path: &Path) -> Result<MountInfo, SysError> {
    let real = path.canonicalize().map_err(|e| SysError::path("realpath", path, e))?;
    let id = id_of(&real)?;
    let table = table()?;
    let found = holding_in(&table, &real, id).cloned();
    found.ok_or_else(|| SysError::path("find the mount of", path, io::Error::from(io::ErrorKind::NotFound)))
}

/// The id of the mount that holds `path`, which is no symbolic link; `None` from a kernel before 5.8.
///
/// # Errors
/// The path does not exist.
pub fn id_of(path: &Path) -> Result<Option<u64>, SysError> {
    let seen = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)
        .map_err(|e| SysError::path("statx", path, e))?;
    let known = StatxFlags::from_bits_retain(seen.stx_mask).contains(StatxFlags::MNT_ID);
    Ok(known.then_some(seen.stx_mnt_id))
}

/// The mount of `table` with this id; without one, the latest of those whose mount point is the longest prefix of
/// `path`, which has no symbolic link in it.
pub fn holding_in<'a>(table: &'a [MountInfo], path: &Path, id: Option<u64>) -> Option<&'a MountInfo> {
    match id {
        Some(id) => table.iter().find(|mount| mount.id == id),
        None => leading_to(table, path).max_by_key(|mount| mount.mount_point.components().count()),
    }
}

/// The mounts of `table` that a walk along `path` can pass, in the table's order.
pub fn leading_to<'a>(table: &'a [MountInfo], path: &Path) -> impl Iterator<Item = &'a MountInfo> {
    table.iter().filter(move |mount| path.starts_with(&mount.mount_point))
}

/// Whether something is mounted on `path` itself. No such path is no mount point.
///
/// # Errors
/// The path could not be looked at, or on a kernel before 5.8, the table not be read.
pub fn is_mount_point(path: &Path) -> Result<bool, SysError> {
    let seen = match rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()) {
        Ok(seen) => seen,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
        Err(e) => return Err(SysError::path("statx", path, e)),
    };
    if seen.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    Ok(table()?.iter().any(|mount| mount.mount_point == path))
}

/// How mount events travel at the mount that holds `path`.
///
/// # Errors
/// As [`holding`].
pub fn propagation(path: &Path) -> Result<Propagation, SysError> {
    holding(path).map(|mount| mount.propagation())
}

/// The lines of a mountinfo file.
///
/// # Errors
/// The first line that is not of the form that proc_pid_mountinfo(5) gives.
pub fn parse(bytes: &[u8]) -> io::Result<Vec<MountInfo>> {
    bytes
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_line(line).ok_or_else(|| {
                let line = String::from_utf8_lossy(line);
                io::Error::new(io::ErrorKind::InvalidData, format!("not a mountinfo line: {line:?}"))
            })
        })
        .collect()
}

// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|b| *b == b' ');
    let mut text = || fields.next().map(String::from_utf8_lossy);
    let id = text()?.parse().ok()?;
    let parent = text()?.parse().ok()?;
    let _device = text()?;
    let root = unescape(fields.next()?);
    let mount_point = unescape(fields.next()?);
    let options = String::from_utf8_lossy(fields.next()?).split(',').map(str::to_owned).collect();
    let (mut shared, mut slave, mut unbindable) = (false, false, false);
    loop {
        match fields.next()? {
            b"-" => break,
            b"unbindable" => unbindable = true,
            tag if tag.starts_with(b"shared:") => shared = true,
            tag if tag.starts_with(b"master:") => slave = true,
            // `propagate_from` only tells where a slave receives from; tags to come are ignored, as the page asks.
            _ => {}
        }
    }
    let mut text = || fields.next().map(|field| unescape(field).to_string_lossy().into_owned());
    let file_system = text()?;
    let source = text()?;
    let super_options = text()?;
    Some(MountInfo {
        id,
        parent,
        root,
        mount_point,
        options,
        shared,
        slave,
        unbindable,
        file_system,
        source,
        super_options,
    })
}

/// Undoes the kernel's `\040`-style escapes.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}
