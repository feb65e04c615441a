//! From a registry to a root filesystem: pull, import, the layer store, the image index, snapshots.
//!
//! Start reading at [`Images`]. An image's life: `pull` resolves a reference through `registry`, runs one
//! pipeline per layer (`unpack`), publishes each layer directory once (`layers`), and commits one record
//! (`index`). [`Snapshots`] stacks layer directories into root filesystems and holds leases on them; what
//! nobody holds is removed by `gc`. This crate must never know a CRI message, a pod or a container's
//! configuration, and keeps no compressed blob: what is not needed to run is not stored.

mod archive;
mod assemble;
mod config;
mod counters;
mod credentials;
mod disk;
mod gc;
mod hash;
mod image;
mod images;
mod import;
mod index;
mod jobs;
mod layers;
mod manifest;
mod progress;
mod pull;
mod records;
mod registry;
mod sizes;
mod snapshot;
mod source;
mod stack;
mod unpack;

pub use archive::ArchiveError;
pub use assemble::AssembleError;
pub use config::ImageConfig;
pub use counters::Counters;
pub use credentials::Credentials;
pub use image::{ConfigError, Image, ImageConfigData};
pub use images::{FindError, FsUsage, Images, OpenError, RemoveError};
pub use import::{ImportError, ImportFailure, ImportOptions, Imported};
pub use jobs::LayerError;
pub use manifest::ManifestError;
pub use progress::{LayerSink, LayerStage, Progress, ProgressSink};
pub use pull::{PullError, PullFailure, PullRequest};
pub use registry::{ProxyConfig, RegistryError, check_hosts};
pub use snapshot::{Mapped, Overlay, Seen, SnapshotError, Snapshots, Usage};
pub use stack::StackError;
pub use store::CommitSink;
pub use unpack::{ExtractError, TarError, UnpackError};
