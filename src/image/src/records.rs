//! What lies in the store: one record an image, a layer, a lease. Changing one changes its version.

use model::{Digest, ImageId, UnixNanos};
use serde::{Deserialize, Serialize};
use store::Table;

/// By image id.
pub(crate) const IMAGES: Table<ImageRecord> = Table::new("images", 1);
/// By diff id. A layer directory without a record is a leftover.
pub(crate) const LAYERS: Table<LayerRecord> = Table::new("layers", 1);
/// By the holder's key, `container/<id>` or `view/<key>`.
pub(crate) const LEASES: Table<LeaseRecord> = Table::new("leases", 1);

/// An image. Everything else about it is computed from its configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) config: String,
    pub(crate) stack: Vec<Digest>,
    pub(crate) repo_tags: Vec<String>,
    pub(crate) repo_digests: Vec<String>,
    pub(crate) pulled_at: UnixNanos,
}

/// A layer directory that is whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// Files, directories and all else.
    pub(crate) inodes: u64,
    /// Directories that the archive did not list but put something into, sorted.
    pub(crate) implicit: Vec<String>,
    /// Whether the archive says who owns the root directory.
    pub(crate) explicit_root: bool,
    /// Whether the archive hides everything below it.
    pub(crate) opaque_root: bool,
}

/// Who may use which layer directories, whatever becomes of the image they came with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseRecord {
    pub(crate) image: ImageId,
    pub(crate) stack: Vec<Digest>,
}
