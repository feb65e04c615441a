//! A layer's tar into a directory that overlayfs can stack. Nothing in the archive is trusted: paths are
//! resolved beneath the directory by the kernel, and what would lead out of it is an error.
//!
//! Each layer is unpacked alone, so that any image can stack it: deletions become overlayfs's own marks,
//! and directories that the archive only implies are noted, because their owner and mode are a lower
//! layer's business (`stack`).

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kernel::SysError;
use kernel::beneath::{self, Attributes, Beneath, Found, Special};

use super::tar::{Archive, Entry, Kind, TarError};
use super::whiteout::{Marker, marker};
use crate::records::LayerRecord;

/// Overlayfs's mark of a directory that hides what lies below (kernel, Documentation/filesystems/overlayfs).
const OPAQUE: &str = "trusted.overlay.opaque";

const COPY_BYTES: usize = 128 * 1024;

/// What stopped an archive from becoming a directory.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The archive itself.
    #[error("read the archive after {after:?}")]
    Archive {
        /// The entry that was read last.
        after: String,
        /// What is wrong.
        #[source]
        source: TarError,
    },
    /// An entry that no honest archive has.
    #[error("archive entry {path:?}: {why}")]
    Entry {
        /// Its path as the archive writes it.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The kernel refused: the disk is full, or the path leads out of the layer.
    #[error("unpack archive entry {path:?}")]
    Disk {
        /// Its path as the archive writes it.
        path: String,
        /// What the kernel said.
        #[source]
        source: SysError,
    },
}

impl ExtractError {
    /// The kernel's error, where it was one.
    pub(crate) fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Disk { source, .. } => Some(&source.source),
            Self::Archive { source: TarError::Read(error), .. } => Some(error),
            Self::Archive { .. } | Self::Entry { .. } => None,
        }
    }
}

/// Unpacks a whole archive into the empty directory `root`; gives back the stream after it.
pub(crate) fn extract<R: Read>(root: &Path, stream: R) -> Result<(LayerRecord, R), ExtractError> {
    let failed = |source| ExtractError::Disk { path: "/".to_owned(), source };
    let mut extractor = Extractor::new(root).map_err(failed)?;
    let mut archive = Archive::new(stream);
    let mut after = String::new();
    while let Some(entry) =
        archive.next().map_err(|source| ExtractError::Archive { after: after.clone(), source })?
    {
        after = String::from_utf8_lossy(&entry.path).into_owned();
        extractor.entry(&entry, &mut archive).map_err(|fault| fault.at(&after))?;
    }
    let record = extractor.finish(root).map_err(failed)?;
    Ok((record, archive.into_inner()))
}

/// A fault whose entry is not named yet.
enum Fault {
    Archive(TarError),
    Entry(&'static str),
    Disk(SysError),
}

impl Fault {
    fn at(self, path: &str) -> ExtractError {
        let path = path.to_owned();
        match self {
            Self::Archive(source) => ExtractError::Archive { after: path, source },
            Self::Entry(why) => ExtractError::Entry { path, why },
            Self::Disk(source) => ExtractError::Disk { path, source },
        }
    }
}

impl From<SysError> for Fault {
    fn from(error: SysError) -> Self {
        Self::Disk(error)
    }
}

impl From<TarError> for Fault {
    fn from(error: TarError) -> Self {
        Self::Archive(error)
    }
}

struct Extractor {
    root: Beneath,
    /// The times of directories, set when nothing more is put into them.
    dirs: BTreeMap<PathBuf, (i64, u32)>,
    implicit: BTreeSet<PathBuf>,
    opaque_root: bool,
    bytes: u64,
    inodes: u64,
    /// Something was replaced: what was counted is not what is there.
    recount: bool,
    buffer: Vec<u8>,
}

impl Extractor {
    fn new(root: &Path) -> Result<Self, SysError> {
        Ok(Self {
            root: Beneath::open(root)?,
            dirs: BTreeMap::new(),
            implicit: BTreeSet::new(),
            opaque_root: false,
            bytes: 0,
            inodes: 0,
            recount: false,
            buffer: vec![0; COPY_BYTES],
        })
    }

    fn entry<R: Read>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Result<(), Fault> {
        let path = normal(&entry.path)?;
        let components = || path.components().map(|component| component.as_os_str().as_bytes());
        let above = components().count().saturating_sub(1);
        for component in components().take(above) {
            match marker(component) {
                Marker::None => {}
                Marker::Bookkeeping | Marker::Opaque => return Ok(()),
                Marker::Hide(_) | Marker::Invalid => return Err(Fault::Entry("lies in a deleted directory")),
            }
        }
        match components().next_back().map_or(Marker::None, marker) {
            Marker::None => self.make(&path, entry, archive),
            Marker::Bookkeeping => Ok(()),
            Marker::Invalid => Err(Fault::Entry("deletes nothing that could have a name")),
            Marker::Opaque => self.hide_all(path.parent().unwrap_or(Path::new(""))),
            Marker::Hide(name) => self.hide(&path.with_file_name(OsStr::from_bytes(name))),
        }
    }

    fn make<R: Read>(&mut self, path: &Path, entry: &Entry, archive: &mut Archive<R>) -> Result<(), Fault> {
        let xattrs: Vec<_> =
            entry.xattrs.iter().filter(|(name, _)| is_kept(name, entry.kind)).cloned().collect();
        let attributes = Attributes {
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
            mtime: entry.mtime,
            xattrs: &xattrs,
        };
        if entry.kind == Kind::Directory {
            if !path.as_os_str().is_empty() {
                self.directory(path)?;
            }
            self.implicit.remove(path);
            self.dirs.insert(path.to_owned(), entry.mtime);
            return Ok(self.root.set_attributes(path, &attributes, false)?);
        }
        if path.as_os_str().is_empty() {
            return Err(Fault::Entry("is the root and not a directory"));
        }
        let special = match entry.kind {
            Kind::File => return self.file(path, entry, &attributes, archive),
            Kind::HardLink => return self.hard_link(path, &normal(&entry.link)?),
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return Err(Fault::Entry("is a symlink to nothing"));
                }
                self.place(path, |root| root.symlink(OsStr::from_bytes(&entry.link), path))?;
                self.inodes += 1;
                return Ok(self.root.set_attributes(path, &attributes, true)?);
            }
            Kind::Character(major, minor) => Special::Character(major, minor),
            Kind::Block(major, minor) => Special::Block(major, minor),
            Kind::Fifo | Kind::Directory => Special::Fifo,
        };
        self.place(path, |root| root.special(path, special))?;
        self.inodes += 1;
        Ok(self.root.set_attributes(path, &attributes, false)?)
    }

    fn file<R: Read>(
        &mut self,
        path: &Path,
        entry: &Entry,
        attributes: &Attributes<'_>,
        archive: &mut Archive<R>,
    ) -> Result<(), Fault> {
        let mut file = self.place(path, |root| root.create(path))?;
        let failed = |call| move |e: io::Error| Fault::Disk(SysError::path(call, path, e));
        let mut end = 0;
        for segment in &entry.segments {
            if segment.offset != end {
                file.seek(SeekFrom::Start(segment.offset)).map_err(failed("seek"))?;
            }
            self.copy(&mut file, segment.length, archive).map_err(|fault| match fault {
                Fault::Disk(error) => Fault::Disk(SysError::path("write", path, error.source)),
                other => other,
            })?;
            end = segment.offset + segment.length;
        }
        if end < entry.size {
            file.set_len(entry.size).map_err(failed("truncate"))?;
        }
        beneath::set_attributes(&file, attributes, path)?;
        self.bytes += file.metadata().map_err(failed("stat"))?.blocks() * 512;
        self.inodes += 1;
        Ok(())
    }

    fn copy<R: Read>(&mut self, file: &mut File, length: u64, archive: &mut Archive<R>) -> Result<(), Fault> {
        let mut left = length;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let read = archive.read_data(&mut self.buffer[..wanted])?;
            if read == 0 {
                return Err(Fault::Archive(TarError::Truncated));
            }
            file.write_all(&self.buffer[..read]).map_err(|e| SysError::bare("write", e))?;
            left -= read as u64;
        }
        Ok(())
    }

    fn hard_link(&mut self, path: &Path, existing: &Path) -> Result<(), Fault> {
        if path == existing {
            return Ok(());
        }
        if self.root.find(existing)?.is_none() {
            return Err(Fault::Entry("is a hard link to what this layer does not have"));
        }
        self.place(path, |root| root.link(existing, path))
    }

    /// Makes a directory, or finds it. Over a deletion it becomes one that hides what lies below.
    fn directory(&mut self, path: &Path) -> Result<(), Fault> {
        match self.root.mkdir(path) {
            Ok(()) => {}
            Err(error) if is(&error, io::ErrorKind::AlreadyExists) => match self.root.find(path)? {
                Some(Found::Directory) => return Ok(()),
                Some(Found::Whiteout) => {
                    self.replace(path)?;
                    self.root.mkdir(path)?;
                    self.root.mark(path, OPAQUE, b"y")?;
                }
                _ => {
                    self.replace(path)?;
                    self.root.mkdir(path)?;
                }
            },
            Err(error) if is_way_missing(&error) => {
                self.parents(path)?;
                self.root.mkdir(path)?;
            }
            Err(error) => return Err(error.into()),
        }
        self.inodes += 1;
        Ok(())
    }

    /// The directories above `path` that the archive has not listed.
    fn parents(&mut self, path: &Path) -> Result<(), Fault> {
        let mut above: Vec<_> = path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()).collect();
        above.reverse();
        for dir in above {
            match self.root.find(dir)? {
                Some(Found::Directory) => {}
                // A symlink: the kernel decides whether it leads to a directory beneath the root.
                Some(Found::Other) => {}
                None | Some(Found::Whiteout) => {
                    self.directory(dir)?;
                    self.implicit.insert(dir.to_owned());
                    self.dirs.insert(dir.to_owned(), (0, 0));
                }
            }
        }
        Ok(())
    }

    /// Makes anything but a directory; what lies there already gives way, as the later entry counts.
    fn place<T>(
        &mut self,
        path: &Path,
        mut make: impl FnMut(&mut Beneath) -> Result<T, SysError>,
    ) -> Result<T, Fault> {
        match make(&mut self.root) {
            Ok(made) => return Ok(made),
            Err(error) if is_way_missing(&error) => self.parents(path)?,
            Err(error) if is(&error, io::ErrorKind::AlreadyExists) => self.replace(path)?,
            Err(error) => return Err(error.into()),
        }
        Ok(make(&mut self.root)?)
    }

    fn replace(&mut self, path: &Path) -> Result<(), Fault> {
        self.root.remove(path)?;
        self.dirs.retain(|dir, _| !dir.starts_with(path));
        self.implicit.retain(|dir| !dir.starts_with(path));
        self.recount = true;
        Ok(())
    }

    fn hide(&mut self, path: &Path) -> Result<(), Fault> {
        match self.root.find(path)? {
            // This layer's own file stays: deletions are about lower layers.
            Some(Found::Whiteout | Found::Other) => Ok(()),
            Some(Found::Directory) => Ok(self.root.mark(path, OPAQUE, b"y")?),
            None => {
                self.place(path, |root| root.special(path, Special::Character(0, 0)))?;
                self.inodes += 1;
                Ok(())
            }
        }
    }

    fn hide_all(&mut self, dir: &Path) -> Result<(), Fault> {
        if dir.as_os_str().is_empty() {
            // Overlayfs merges roots whatever their marks: the stack leaves out what lies below.
            self.opaque_root = true;
            return Ok(());
        }
        if self.root.find(dir)? != Some(Found::Directory) {
            self.directory(dir)?;
            self.implicit.insert(dir.to_owned());
            self.dirs.insert(dir.to_owned(), (0, 0));
        }
        Ok(self.root.mark(dir, OPAQUE, b"y")?)
    }

    fn finish(mut self, root: &Path) -> Result<LayerRecord, SysError> {
        let explicit_root = self.dirs.contains_key(Path::new(""));
        if !explicit_root {
            let plain = Attributes { uid: 0, gid: 0, mode: 0o755, mtime: (0, 0), xattrs: &[] };
            self.root.set_attributes(Path::new(""), &plain, false)?;
        }
        self.dirs.entry(PathBuf::new()).or_insert((0, 0));
        self.inodes += 1;
        for (dir, mtime) in std::mem::take(&mut self.dirs) {
            self.bytes += self.root.finish_dir(&dir, mtime)?;
        }
        if self.recount {
            (self.bytes, self.inodes) = crate::disk::walk(root)?;
        }
        let mut implicit: Vec<_> =
            self.implicit.iter().filter_map(|dir| dir.to_str().map(str::to_owned)).collect();
        // As text, and not component by component, as paths compare: it is looked up as text.
        implicit.sort();
        let (bytes, inodes, opaque_root) = (self.bytes, self.inodes, self.opaque_root);
        Ok(LayerRecord { bytes, inodes, implicit, explicit_root, opaque_root })
    }
}

/// A path within the layer: leading slashes and `.` mean nothing, `..` has no business here.
fn normal(raw: &[u8]) -> Result<PathBuf, Fault> {
    if raw.contains(&0) {
        return Err(Fault::Entry("has a NUL byte in its path"));
    }
    let mut path = Vec::with_capacity(raw.len());
    for component in raw.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(Fault::Entry("has .. in its path")),
            _ => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(component);
            }
        }
    }
    Ok(OsString::from_vec(path).into())
}

/// Which extended attributes are the image's to set. Overlayfs's own would redirect look-ups, SELinux
/// labels belong to the host, and `user.` exists on files and directories only.
fn is_kept(name: &CString, kind: Kind) -> bool {
    let name = name.as_bytes();
    let forbidden = name.starts_with(b"trusted.overlay.")
        || name.starts_with(b"user.overlay.")
        || name == b"security.selinux";
    let misplaced = name.starts_with(b"user.") && !matches!(kind, Kind::File | Kind::Directory);
    !forbidden && !misplaced
}

fn is(error: &SysError, kind: io::ErrorKind) -> bool {
    error.source.kind() == kind
}

/// A directory on the way is absent, or is a deletion that has to make room.
fn is_way_missing(error: &SysError) -> bool {
    is(error, io::ErrorKind::NotFound) || is(error, io::ErrorKind::NotADirectory)
}
