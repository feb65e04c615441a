//! How far a pull is, for people who watch it.

use std::sync::Arc;

use model::Digest;

/// Where one layer is in its pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerStage {
    /// Waits for its turn.
    Waiting,
    /// Is fetched, verified and unpacked at once.
    Unpacking,
    /// Was on this node already, or another pull brings it.
    Reused,
    /// Is unpacked and verified.
    Done,
}

/// One thing that happened to a pull. Byte counts are compressed bytes, as the registry sends them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The manifest is here; so many layers follow.
    Resolved {
        /// The digest that the reference names.
        manifest: Digest,
        /// Each layer's descriptor digest and size.
        layers: Vec<(Digest, u64)>,
    },
    /// A layer moved.
    Layer {
        /// Its descriptor's digest.
        digest: Digest,
        /// Where it is.
        stage: LayerStage,
        /// Bytes received.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Every layer is unpacked; the disk is being made to have them.
    Committing,
}

/// Called from any thread, often; must not block.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;
