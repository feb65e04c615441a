//! A writable layer as an image layer's tar (OCI image-spec, layer.md), and back.
//!
//! The directory is overlayfs's upper one: its deletions are character devices 0:0 and opaque directories (kernel,
//! Documentation/filesystems/overlayfs.rst), the tar's are `.wh.` names. Reading back is what `unpack` does with any layer.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use kernel::{SysError, xattr};
use tar::{Builder, EntryType, Header};

/// What overlayfs keeps for itself.
const OVERLAY: &[u8] = b"trusted.overlay.";
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// The directory was renamed: what it has lies in another layer, under another name.
const REDIRECT: &[u8] = b"trusted.overlay.redirect";
/// Labels belong to a node's policy.
const LABEL: &[u8] = b"security.selinux";
type Xattrs = Vec<(OsString, Vec<u8>)>;

/// Writes the directory `upper` with all that is in it. Nobody may change it meanwhile.
pub(super) fn write(upper: &Path, out: &mut dyn Write) -> Result<(), SysError> {
    let mut diff = Diff { upper, tar: Builder::new(out), linked: HashMap::new() };
    diff.entry(Path::new(""))?;
    let written = diff.tar.into_inner().and_then(|out| out.flush());
    written.map_err(|e| SysError::path("write the tar of", upper, e))
}

struct Diff<'a> {
    upper: &'a Path,
    tar: Builder<&'a mut dyn Write>,
    /// Where files of several names went first, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl Diff<'_> {
    /// Writes what `name`, relative to the directory, is.
    fn entry(&mut self, name: &Path) -> Result<(), SysError> {
        let path = self.upper.join(name);
        let metadata = fs::symlink_metadata(&path).map_err(|e| SysError::path("lstat", &path, e))?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            return self.directory(name, &path, &metadata);
        }
        if kind.is_char_device() && metadata.rdev() == 0 {
            return self.hide(name);
        }
        if kind.is_socket() {
            // No tar has them, and whoever listened makes it anew.
            return Ok(());
        }
        if metadata.nlink() > 1 {
            let inode = (metadata.dev(), metadata.ino());
            if let Some(first) = self.linked.get(&inode).cloned() {
                let mut header = header(&metadata, EntryType::Link);
                return done(self.tar.append_link(&mut header, name, first), &path);
            }
            self.linked.insert(inode, name.to_owned());
        }
        self.xattrs(&path)?;
        if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(|e| SysError::path("readlink", &path, e))?;
            let mut header = header(&metadata, EntryType::Symlink);
            return done(self.tar.append_link(&mut header, name, target), &path);
        }
        if kind.is_file() {
            let file = File::open(&path).map_err(|e| SysError::path("open", &path, e))?;
            let mut header = header(&metadata, EntryType::Regular);
            header.set_size(metadata.len());
            // One that has another length by now would shift all that follows.
            let whole = file.chain(io::repeat(0)).take(metadata.len());
            return done(self.tar.append_data(&mut header, name, whole), &path);
        }
        let special = match () {
            () if kind.is_fifo() => EntryType::Fifo,
            () if kind.is_char_device() => EntryType::Char,
            () => EntryType::Block,
        };
        let mut header = header(&metadata, special);
        let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        let numbered = header.set_device_major(major).and_then(|()| header.set_device_minor(minor));
        done(numbered.and_then(|()| self.tar.append_data(&mut header, name, io::empty())), &path)
    }

    fn directory(&mut self, name: &Path, path: &Path, metadata: &Metadata) -> Result<(), SysError> {
        let overlays = self.xattrs(path)?;
        if overlays.iter().any(|(name, _)| name.as_bytes() == REDIRECT) {
            let why = io::Error::other("a renamed directory, whose content is in another layer");
            return Err(SysError::path("write the tar of", path, why));
        }
        let mut header = header(metadata, EntryType::Directory);
        let shown = if name.as_os_str().is_empty() { Path::new("./") } else { name };
        done(self.tar.append_data(&mut header, shown, io::empty()), path)?;
        if overlays.iter().any(|(name, value)| name.as_bytes() == OPAQUE && value == b"y") {
            self.mark(&name.join(".wh..wh..opq"))?;
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(|e| SysError::path("readdir", path, e))? {
            names.push(entry.map_err(|e| SysError::path("readdir", path, e))?.file_name());
        }
        names.sort();
        names.iter().try_for_each(|entry| self.entry(&name.join(entry)))
    }

    fn hide(&mut self, name: &Path) -> Result<(), SysError> {
        let mut marker = b".wh.".to_vec();
        marker.extend_from_slice(name.file_name().unwrap_or_default().as_bytes());
        self.mark(&name.with_file_name(OsStr::from_bytes(&marker)))
    }

    fn mark(&mut self, name: &Path) -> Result<(), SysError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(0);
        done(self.tar.append_data(&mut header, name, io::empty()), name)
    }

    /// Writes what a file has of extended attributes, before it; those of overlayfs come back.
    fn xattrs(&mut self, path: &Path) -> Result<Xattrs, SysError> {
        let (overlays, rest): (Xattrs, Xattrs) =
            xattr::read(path)?.into_iter().partition(|(name, _)| name.as_bytes().starts_with(OVERLAY));
        let told: Vec<(String, &[u8])> = rest
            .iter()
            .filter(|(name, _)| name.as_bytes() != LABEL)
            .map(|(name, value)| (format!("SCHILY.xattr.{}", name.to_string_lossy()), value.as_slice()))
            .collect();
        let told = told.iter().map(|(name, value)| (name.as_str(), *value));
        done(self.tar.append_pax_extensions(told), path)?;
        Ok(overlays)
    }
}

fn done(result: io::Result<()>, path: &Path) -> Result<(), SysError> {
    result.map_err(|e| SysError::path("write the tar of", path, e))
}

fn header(metadata: &Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(metadata.mode() & 0o7777);
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(0);
    header
}
