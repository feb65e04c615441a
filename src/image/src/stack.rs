//! Which directories stand for an image's layers, and in which order.
//!
//! Layers are unpacked alone and shared by images that have them over different bases. A directory that a
//! layer's archive only implies (`a/b` without `a`) therefore has no owner and mode of its own there; on
//! top of a base that knows them it would hide them. Such directories are mended in one more, small
//! directory on top that has nothing but them (docs/adr/010-mended-directories.md).

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use kernel::SysError;
use kernel::beneath::{Attributes, Beneath};
use model::{Classify, Digest, ErrorKind};

use crate::hash;
use crate::image::without_repetitions;
use crate::images::{Shared, lock};
use crate::jobs::LayerError;
use crate::records::LayerRecord;

const OPAQUE: &str = "trusted.overlay.opaque";

/// What stopped layers from being stacked.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// A layer is gone that was here.
    #[error("layer {0} is not on disk")]
    Missing(Digest),
    /// The mended directories could not be made.
    #[error("mend implied directories")]
    Mend(#[source] SysError),
    /// The mended directories could not be published.
    #[error("mend implied directories")]
    Publish(#[source] Box<LayerError>),
}

impl Classify for StackError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing(_) => ErrorKind::Corrupt,
            Self::Mend(error) => model::error::io_kind(&error.source),
            Self::Publish(error) => error.kind(),
        }
    }
}

/// An image's directories.
pub(crate) struct Stack {
    /// Base first.
    pub(crate) dirs: Vec<Digest>,
    /// The one with mended directories, where there is one. It is held; the caller releases it.
    pub(crate) mended: Option<Digest>,
}

/// Owner, group, mode, time.
type Shape = (u32, u32, u32, (i64, u32));

impl Shared {
    /// The directories for these layers, which are all here. Blocks on the disk.
    pub(crate) fn stack_up(&self, diff_ids: &[Digest]) -> Result<Stack, StackError> {
        let records = {
            let index = lock(&self.index);
            let find = |digest: &Digest| {
                let layer = index.layer(digest).ok_or_else(|| StackError::Missing(digest.clone()))?;
                Ok((digest.clone(), layer.record.clone()))
            };
            diff_ids.iter().map(find).collect::<Result<BTreeMap<_, _>, _>>()?
        };
        // Nothing below a layer that hides everything is seen.
        let base = diff_ids.iter().rposition(|digest| records[digest].opaque_root).unwrap_or(0);
        let mut dirs = without_repetitions(&diff_ids[base..]);
        let layers: Vec<_> = dirs.iter().map(|digest| (self.layers.path(digest), &records[digest])).collect();
        let mends = mends(&layers).map_err(StackError::Mend)?;
        if mends.is_empty() {
            return Ok(Stack { dirs, mended: None });
        }
        let mended = self.mend(&mends)?;
        dirs.push(mended.clone());
        Ok(Stack { dirs, mended: Some(mended) })
    }

    fn mend(&self, mends: &BTreeMap<PathBuf, Shape>) -> Result<Digest, StackError> {
        let digest = hash::sha256(format!("mended directories {mends:?}").as_bytes());
        lock(&self.index).hold(std::slice::from_ref(&digest));
        let made = self.layers.ingest().and_then(|ingest| {
            let mut root = Beneath::open(ingest.path())?;
            let plain = Attributes { uid: 0, gid: 0, mode: 0o755, mtime: (0, 0), xattrs: &[] };
            root.set_attributes(Path::new(""), &plain, false)?;
            // Parents come before what is in them.
            for path in mends.keys() {
                root.mkdir(path)?;
            }
            for (path, (uid, gid, mode, mtime)) in mends.iter().rev() {
                let shape = Attributes { uid: *uid, gid: *gid, mode: *mode, mtime: *mtime, xattrs: &[] };
                root.set_attributes(path, &shape, false)?;
            }
            let (bytes, inodes) = crate::disk::walk(ingest.path())?;
            Ok((ingest, LayerRecord { bytes, inodes, ..LayerRecord::default() }))
        });
        let published = made.map_err(StackError::Mend).and_then(|(ingest, record)| {
            self.add_layer(ingest, record, &digest).map_err(|error| StackError::Publish(Box::new(error)))
        });
        if published.is_err() {
            self.release(std::slice::from_ref(&digest));
        }
        published.map(|()| digest)
    }
}

/// The directories that would lose a lower layer's owner or mode, with those; and their parents.
fn mends(layers: &[(PathBuf, &LayerRecord)]) -> Result<BTreeMap<PathBuf, Shape>, SysError> {
    let mut mends = BTreeMap::new();
    for (_, record) in layers {
        for dir in &record.implicit {
            let dir = Path::new(dir);
            if let Some(shape) = shadowed(layers, dir)? {
                mends.insert(dir.to_owned(), shape);
            }
        }
    }
    let parents: Vec<_> = mends.keys().flat_map(|dir| dir.ancestors().skip(1)).map(Path::to_owned).collect();
    for parent in parents {
        if !parent.as_os_str().is_empty() && !mends.contains_key(&parent) {
            let shape = seen(layers, &parent)?.unwrap_or((0, 0, 0o755, (0, 0)));
            mends.insert(parent, shape);
        }
    }
    Ok(mends)
}

/// What one layer says about a path.
enum Says {
    Nothing,
    /// It is deleted, or no directory, or lies in one that is.
    Gone,
    Directory {
        metadata: Metadata,
        hides: bool,
    },
    /// Nothing about it, but what lies below is hidden.
    Hidden,
}

/// The shape that `dir` has below the topmost layer that only implies it. `None`: nothing is lost.
fn shadowed(layers: &[(PathBuf, &LayerRecord)], dir: &Path) -> Result<Option<Shape>, SysError> {
    let mut implied = false;
    for (root, record) in layers.iter().rev() {
        match says(root, dir)? {
            Says::Nothing => {}
            Says::Gone | Says::Hidden => return Ok(None),
            Says::Directory { metadata, hides } => {
                if !is_implicit(record, dir) {
                    return Ok(implied.then(|| shape(&metadata)));
                }
                implied = true;
                if hides {
                    return Ok(None);
                }
            }
        }
    }
    Ok(None)
}

/// The shape that `dir` has in the stack.
fn seen(layers: &[(PathBuf, &LayerRecord)], dir: &Path) -> Result<Option<Shape>, SysError> {
    if let Some(shape) = shadowed(layers, dir)? {
        return Ok(Some(shape));
    }
    for (root, _) in layers.iter().rev() {
        if let Says::Directory { metadata, .. } = says(root, dir)? {
            return Ok(Some(shape(&metadata)));
        }
    }
    Ok(None)
}

fn is_implicit(record: &LayerRecord, dir: &Path) -> bool {
    dir.to_str().is_some_and(|dir| record.implicit.binary_search_by(|known| known.as_str().cmp(dir)).is_ok())
}

fn says(root: &Path, dir: &Path) -> Result<Says, SysError> {
    let mut path = root.to_owned();
    let mut hides = false;
    let mut last = None;
    for component in dir.components() {
        path.push(component);
        // One component after another, so that no symlink is followed.
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(if hides { Says::Hidden } else { Says::Nothing });
            }
            Err(error) => return Err(SysError::path("stat", &path, error)),
        };
        if !metadata.is_dir() {
            if !metadata.file_type().is_char_device() {
                tracing::warn!(path = %path.display(), "a layer puts files into what is no directory below it");
            }
            return Ok(Says::Gone);
        }
        let mut value = [0; 1];
        hides |=
            rustix::fs::lgetxattr(&path, OPAQUE, &mut value).is_ok_and(|length| &value[..length] == b"y");
        last = Some(metadata);
    }
    Ok(last.map_or(Says::Nothing, |metadata| Says::Directory { metadata, hides }))
}

fn shape(metadata: &Metadata) -> Shape {
    let nanoseconds = u32::try_from(metadata.mtime_nsec()).unwrap_or_default();
    (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777, (metadata.mtime(), nanoseconds))
}
