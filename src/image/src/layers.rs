//! The layer directories on disk: `layers/<hex>` when whole, `ingest/<random>` until then.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use kernel::SysError;
use model::Digest;

/// Where everything of this room lies.
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    base: PathBuf,
}

impl Layers {
    /// Makes what is absent under `<root>/image`.
    pub(crate) fn open(base: PathBuf) -> Result<Self, SysError> {
        let layers = Self { base };
        for dir in [layers.base.join("layers"), layers.ingest_dir(), layers.empty(0), layers.empty(1)] {
            make_dir(&dir)?;
        }
        Ok(layers)
    }

    /// `<root>/image`.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// The store's file.
    pub(crate) fn store(&self) -> PathBuf {
        self.base.join("store.redb")
    }

    /// Where the layer of this diff id lies, or would.
    pub(crate) fn path(&self, diff_id: &Digest) -> PathBuf {
        self.base.join("layers").join(diff_id.hex())
    }

    /// One of two directories that stay empty: overlayfs needs two lower ones where there is no upper.
    pub(crate) fn empty(&self, which: usize) -> PathBuf {
        self.base.join("empty").join(which.to_string())
    }

    fn ingest_dir(&self) -> PathBuf {
        self.base.join("ingest")
    }

    fn aside(&self) -> Result<PathBuf, SysError> {
        let random = Digest::sha256(kernel::random::id_bytes()?);
        Ok(self.ingest_dir().join(&random.hex()[..32]))
    }

    /// A new directory to unpack into. It is gone with its guard unless it is published.
    pub(crate) fn ingest(&self) -> Result<Ingest, SysError> {
        let path = self.aside()?;
        make_dir(&path)?;
        Ok(Ingest { path })
    }

    /// Makes a directory that was unpacked the layer of `diff_id`. The caller holds the writer's lock.
    pub(crate) fn publish(&self, ingest: Ingest, diff_id: &Digest) -> Result<(), SysError> {
        let target = self.path(diff_id);
        fs::rename(&ingest.path, &target).map_err(|e| SysError::path("publish layer", &target, e))
    }

    /// Takes a layer out of the way at once; what is returned is to be removed when nobody waits.
    pub(crate) fn discard(&self, diff_id: &Digest) -> Option<Ingest> {
        let target = self.aside().ok()?;
        match fs::rename(self.path(diff_id), &target) {
            Ok(()) => Some(Ingest { path: target }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(layer = %diff_id, %error, "a layer directory stays until the next start");
                None
            }
        }
    }

    /// The names of all layer directories.
    pub(crate) fn list(&self) -> Result<Vec<String>, SysError> {
        let dir = self.base.join("layers");
        let failed = |e| SysError::path("list", &dir, e);
        let entries = fs::read_dir(&dir).map_err(failed)?;
        entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// Removes every directory that a crash left half unpacked or half removed.
    pub(crate) fn sweep_ingest(&self) -> Result<usize, SysError> {
        let dir = self.ingest_dir();
        let failed = |e| SysError::path("list", &dir, e);
        let mut swept = 0;
        for entry in fs::read_dir(&dir).map_err(failed)? {
            kernel::beneath::remove_tree(&entry.map_err(failed)?.path())?;
            swept += 1;
        }
        Ok(swept)
    }

    /// Takes a directory of that name, which is no layer's, out of the way and removes it.
    pub(crate) fn sweep(&self, name: &str) -> Result<(), SysError> {
        kernel::beneath::remove_tree(&self.base.join("layers").join(name))
    }
}

/// A directory under `ingest/`, removed when dropped unless it was published.
#[derive(Debug)]
pub(crate) struct Ingest {
    path: PathBuf,
}

impl Ingest {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // After a publish there is nothing of this name.
        if let Err(error) = kernel::beneath::remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %model::chain(&error), "left for the next start");
        }
    }
}

/// A directory that root alone can enter, with its parents.
pub(crate) fn make_dir(path: &Path) -> Result<(), SysError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| SysError::path("mkdir", path, e))
}
