//! Root filesystems: an image's layers, and a container's own writable layer over them.

mod diff;
mod overlay;

use std::io::Write;
use std::path::{Path, PathBuf};

use kernel::SysError;
use model::{Classify, ContainerId, Digest, ErrorKind, UnixNanos, UserNamespace};
use store::StoreError;

use crate::image::Image;
use crate::unpack::ExtractError;

pub use overlay::Overlay;

/// What a writable layer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files, directories and all else.
    pub inodes: u64,
    /// When this was true.
    pub at: UnixNanos,
}

/// What stopped a snapshot from being made, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The image was removed since it was looked up.
    #[error("snapshot {key}: layer {layer} is not on this node any more")]
    LayerMissing {
        /// The snapshot.
        key: String,
        /// The layer's diff id.
        layer: Digest,
    },
    /// There is no snapshot of this name.
    #[error("snapshot {0} does not exist")]
    NotFound(String),
    /// The key is not a plain file name.
    #[error("snapshot key {0:?} is not a plain name")]
    Key(String),
    /// The lease could not be recorded or forgotten.
    #[error("{stage} of snapshot {key}")]
    Store {
        /// What was attempted.
        stage: &'static str,
        /// The snapshot.
        key: String,
        /// What the store said.
        #[source]
        source: StoreError,
    },
    /// What its writable layer was to begin with could not be unpacked.
    #[error("unpack the writable layer of snapshot {key}")]
    Diff {
        /// The snapshot.
        key: String,
        /// What is wrong.
        #[source]
        source: ExtractError,
    },
    /// A directory or a mount.
    #[error("{stage} of snapshot {key}")]
    Disk {
        /// What was attempted.
        stage: &'static str,
        /// The snapshot.
        key: String,
        /// What the kernel said.
        #[source]
        source: SysError,
    },
}

impl Classify for SnapshotError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::LayerMissing { .. } | Self::NotFound(_) => ErrorKind::NotFound,
            Self::Key(_) => ErrorKind::Invalid,
            Self::Store { source, .. } => source.kind(),
            Self::Diff { source, .. } => source.io().map_or(ErrorKind::Corrupt, model::error::io_kind),
            Self::Disk { source, .. } => model::error::io_kind(&source.source),
        }
    }
}

/// Whose ids a mount shows, where they are not the host's: the layers are id-mapped for it, nothing is copied.
#[derive(Clone, Copy, Debug)]
pub struct Mapped<'a> {
    /// The pinned user namespace.
    pub namespace: &'a Path,
    /// Its ids.
    pub ids: &'a UserNamespace,
}

/// How a mount shows its layers to those whom it is for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen<'a> {
    /// By a user namespace of their own.
    pub user: Option<Mapped<'a>>,
    /// With this SELinux label on every file (mount(8), `context=`), instead of those that the disk has.
    pub label: Option<&'a str>,
}

/// Makes root filesystems from images. Synchronous: async callers use the blocking pool.
///
/// Every operation may be repeated after a crash in the middle of it, and the lease that keeps an image's
/// layers on disk is recorded before anything else is made, and forgotten after everything else is gone.
pub trait Snapshots: Send + Sync {
    /// Makes a container's writable layer and mounts its root filesystem on `rootfs`, which is made if absent. For a
    /// user namespace of its own what the image says is user 0's is that namespace's user 0's; the writable layer holds ids as
    /// the host counts them.
    ///
    /// # Errors
    /// What stopped it; nothing is left then.
    fn prepare(
        &self,
        container: &ContainerId,
        image: &Image,
        rootfs: &Path,
        seen: Seen<'_>,
    ) -> Result<(), SnapshotError> {
        self.prepare_from(container, image, None, rootfs, seen)
    }

    /// As [`Self::prepare`], with a writable layer that is, to begin with, what [`Self::write_diff`] has written to the
    /// file `diff`.
    ///
    /// # Errors
    /// What stopped it; nothing is left then.
    fn prepare_from(
        &self,
        container: &ContainerId,
        image: &Image,
        diff: Option<&Path>,
        rootfs: &Path,
        seen: Seen<'_>,
    ) -> Result<(), SnapshotError>;

    /// Writes a container's writable layer as an image layer's tar (OCI image-spec, layer.md), uncompressed. What changes
    /// meanwhile is written as it is found.
    ///
    /// # Errors
    /// What stopped it; so much is written then.
    fn write_diff(&self, container: &ContainerId, out: &mut dyn Write) -> Result<(), SnapshotError>;

    /// Unmounts what is mounted on `rootfs`. Nothing mounted, or no such directory, is success.
    ///
    /// # Errors
    /// The system call that failed.
    fn unmount(&self, rootfs: &Path) -> Result<(), SnapshotError>;

    /// Removes a container's writable layer and lets go of its image's layers. An unknown one is success.
    ///
    /// # Errors
    /// What stopped it; it may be called again.
    fn remove(&self, container: &ContainerId) -> Result<(), SnapshotError>;

    /// What a container's writable layer took when it was last measured: answered from memory, the usage says when.
    /// `None` where there is no such layer, or none was measured since the service started.
    fn usage(&self, container: &ContainerId) -> Option<Usage>;

    /// What names the file system that writable layers are on; the same as the images' where that is one.
    fn mountpoint(&self) -> &Path;

    /// The directory of a container's writable layer.
    fn upper(&self, container: &ContainerId) -> PathBuf;

    /// A directory beside a container's writable layer, which is removed with it. The caller makes it.
    fn volumes(&self, container: &ContainerId) -> PathBuf;

    /// As [`Self::volumes`], for what a container goes on from.
    fn checkpoint(&self, container: &ContainerId) -> PathBuf;

    /// Containers that have a writable layer or a lease, for recovery to compare with what it knows.
    fn containers(&self) -> Vec<ContainerId>;

    /// Mounts an image on `target`, which is made if absent: read-only, and without set-user-id bits, device nodes
    /// and execution. `key` is a plain name. One that is mounted there already stays as it is.
    ///
    /// # Errors
    /// What stopped it; nothing is left then.
    fn view(&self, key: &str, image: &Image, target: &Path, seen: Seen<'_>) -> Result<(), SnapshotError>;

    /// Unmounts a view and lets go of its image's layers. An unknown one is success.
    ///
    /// # Errors
    /// What stopped it; it may be called again.
    fn remove_view(&self, key: &str, target: &Path) -> Result<(), SnapshotError>;

    /// Views that have a lease, for recovery to compare with what it knows.
    fn views(&self) -> Vec<String>;
}
