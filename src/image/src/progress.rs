//! How far a pull is, for people who watch it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

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

/// Is told of each layer that was fetched and unpacked: its compressed bytes, and how long both took together. By
/// default nobody is.
#[derive(Clone, Default)]
pub struct LayerSink(Option<Arc<TellLayer>>);

type TellLayer = dyn Fn(u64, Duration) + Send + Sync;

impl LayerSink {
    /// Calls `tell` from any thread; it must not block.
    pub fn new(tell: impl Fn(u64, Duration) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    pub(crate) fn tell(&self, bytes: u64, took: Duration) {
        if let Some(tell) = &self.0 {
            tell(bytes, took);
        }
    }
}

impl fmt::Debug for LayerSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "LayerSink(told)" } else { "LayerSink(nobody)" })
    }
}
