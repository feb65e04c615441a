//! The files of an image archive, wherever they lie: in a directory, in a tar, in a compressed tar.
//!
//! A plain tar is read where it lies; a compressed one is decompressed aside once, because an archive's
//! files come in no order.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kernel::SysError;
use kernel::beneath::Beneath;

use crate::images::lock;
use crate::layers::{Ingest, Layers};
use crate::unpack::Decoder;
use crate::unpack::tar::{Archive, Kind, TarError};

/// Symlinks from one file of an archive to another, in a row.
const LINKS_MAX: usize = 8;

/// What stopped an archive from being opened or one of its files from being read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The archive, or what it is decompressed to.
    #[error("{stage}")]
    Io {
        /// What was attempted.
        stage: &'static str,
        /// What the kernel or the decompressor said.
        #[source]
        source: io::Error,
    },
    /// The directory.
    #[error("open")]
    Sys(#[source] SysError),
    /// Not a tar that can be read.
    #[error("list its files")]
    Tar(#[source] TarError),
    /// A file that the archive speaks of but does not have.
    #[error("it has no file {0:?}")]
    Missing(String),
    /// A document that is too long to be one.
    #[error("file {name:?} has {size} bytes, {max} is the bound")]
    TooLong {
        /// The file.
        name: String,
        /// Its size.
        size: u64,
        /// The bound.
        max: usize,
    },
}

impl ArchiveError {
    pub(crate) fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } | Self::Tar(TarError::Read(source)) => Some(source),
            Self::Sys(error) => Some(&error.source),
            Self::Tar(_) | Self::Missing(_) | Self::TooLong { .. } => None,
        }
    }
}

/// A run of bytes in a file.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// An archive that is open.
pub(crate) enum Files {
    Directory(Mutex<Beneath>),
    Tar {
        file: Arc<File>,
        entries: HashMap<PathBuf, Entry>,
        /// Holds what was decompressed aside, until the import ends.
        _aside: Option<Ingest>,
    },
}

pub(crate) enum Entry {
    Data { offset: u64, size: u64 },
    Link(PathBuf),
}

impl Files {
    /// Opens a directory or an archive. Blocks.
    pub(crate) fn open(path: &Path, layers: &Layers) -> Result<Self, ArchiveError> {
        if path.is_dir() {
            let beneath = Beneath::open(path).map_err(ArchiveError::Sys)?;
            return Ok(Self::Directory(Mutex::new(beneath)));
        }
        let failed = |stage| move |source| ArchiveError::Io { stage, source };
        let file = File::open(path).map_err(failed("open"))?;
        let clone = file.try_clone().map_err(failed("open"))?;
        let mut decoder = Decoder::new(BufReader::new(clone)).map_err(failed("read"))?;
        let (file, aside) = match decoder {
            Decoder::Plain(_) => (file, None),
            _ => {
                let aside = layers.ingest().map_err(ArchiveError::Sys)?;
                let mut plain =
                    File::create_new(aside.path().join("archive.tar")).map_err(failed("decompress"))?;
                io::copy(&mut decoder, &mut plain).map_err(failed("decompress"))?;
                let plain = File::open(aside.path().join("archive.tar")).map_err(failed("decompress"))?;
                (plain, Some(aside))
            }
        };
        let entries = list(&file).map_err(ArchiveError::Tar)?;
        Ok(Self::Tar { file: Arc::new(file), entries, _aside: aside })
    }

    /// Where a file's bytes are.
    pub(crate) fn part(&self, name: &str) -> Result<Part, ArchiveError> {
        match self {
            Self::Directory(beneath) => {
                let file = match lock(beneath).read(Path::new(name)) {
                    Err(error) if error.is_not_found() => return Err(ArchiveError::Missing(name.to_owned())),
                    file => file.map_err(ArchiveError::Sys)?,
                };
                let size =
                    file.metadata().map_err(|source| ArchiveError::Io { stage: "stat", source })?.len();
                Ok(Part { file: Arc::new(file), offset: 0, size })
            }
            Self::Tar { file, entries, .. } => {
                let mut path = normal(Path::new(name));
                for _ in 0..LINKS_MAX {
                    match entries.get(&path) {
                        Some(Entry::Data { offset, size }) => {
                            return Ok(Part { file: file.clone(), offset: *offset, size: *size });
                        }
                        Some(Entry::Link(target)) => path = target.clone(),
                        None => break,
                    }
                }
                Err(ArchiveError::Missing(name.to_owned()))
            }
        }
    }

    /// A small file, whole. Blocks.
    pub(crate) fn read(&self, name: &str, max: usize) -> Result<Vec<u8>, ArchiveError> {
        let part = self.part(name)?;
        let size = usize::try_from(part.size).ok().filter(|size| *size <= max);
        let size = size.ok_or(ArchiveError::TooLong { name: name.to_owned(), size: part.size, max })?;
        let mut bytes = vec![0; size];
        let read = part.file.read_exact_at(&mut bytes, part.offset);
        read.map(|()| bytes).map_err(|source| ArchiveError::Io { stage: "read", source })
    }
}

/// Where each file of a tar lies. A later one of the same name counts.
fn list(file: &File) -> Result<HashMap<PathBuf, Entry>, TarError> {
    let mut archive =
        Archive::new(Counted { file: BufReader::new(file.try_clone().map_err(TarError::Read)?), at: 0 });
    // The look at the first bytes moved the file's position, which clones share.
    io::Seek::rewind(&mut archive.get_ref().file.get_ref()).map_err(TarError::Read)?;
    let mut entries = HashMap::new();
    while let Some(entry) = archive.next()? {
        let path = normal(Path::new(std::ffi::OsStr::from_bytes(&entry.path)));
        match entry.kind {
            Kind::File => {
                // An image archive has no holes; one that has is read as it is stored, and refused by digest.
                entries.insert(path, Entry::Data { offset: archive.get_ref().at, size: entry.size });
            }
            Kind::Symlink => {
                let target = Path::new(std::ffi::OsStr::from_bytes(&entry.link));
                let target = normal(&path.parent().unwrap_or(Path::new("")).join(target));
                entries.insert(path, Entry::Link(target));
            }
            Kind::HardLink => {
                entries
                    .insert(path, Entry::Link(normal(Path::new(std::ffi::OsStr::from_bytes(&entry.link)))));
            }
            Kind::Directory | Kind::Fifo | Kind::Character(..) | Kind::Block(..) => {}
        }
    }
    Ok(entries)
}

use std::os::unix::ffi::OsStrExt as _;

/// Names only, so that `./a`, `/a` and `b/../a` are one: a key of a map, never a path on disk.
fn normal(path: &Path) -> PathBuf {
    let mut names = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => names.push(name),
            std::path::Component::ParentDir => {
                names.pop();
            }
            _ => {}
        }
    }
    names
}

/// A stream that knows where it is.
struct Counted {
    file: BufReader<File>,
    at: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Whether there is such a file.
pub(crate) fn has(files: &Files, name: &str) -> bool {
    files.part(name).is_ok()
}

/// Whether the path can be opened at all, for a message that says so first.
pub(crate) fn check(path: &Path) -> Result<(), ArchiveError> {
    fs::metadata(path).map(drop).map_err(|source| ArchiveError::Io { stage: "open", source })
}
