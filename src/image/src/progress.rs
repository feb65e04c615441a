//! How far a pull is, for people who watch it, and how long its stages take, for those who count.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use model::Digest;

use crate::images::lock;

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

/// Is told how long each stage of each pull took: `pull_resolve` (until the manifest is here), `pull_layers`
/// (until every layer is unpacked), `pull_commit` (until the disk has them). The stage that a pull fails in
/// ends with it. By default nobody is told.
#[derive(Clone, Default)]
pub struct StageSink(Option<Arc<TellStage>>);

type TellStage = dyn Fn(&'static str, Duration) + Send + Sync;

impl StageSink {
    /// Calls `tell` from any thread; it must not block.
    pub fn new(tell: impl Fn(&'static str, Duration) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }
}

impl fmt::Debug for StageSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "StageSink(told)" } else { "StageSink(nobody)" })
    }
}

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

/// The stages of one pull.
pub(crate) struct StageClock {
    sink: StageSink,
    under_way: Mutex<(&'static str, Instant)>,
}

impl StageClock {
    /// The first stage begins.
    pub(crate) fn start(sink: StageSink) -> Self {
        Self { sink, under_way: Mutex::new(("pull_resolve", Instant::now())) }
    }

    /// Ends the stage under way where this step begins the next.
    pub(crate) fn see(&self, step: &Progress) {
        let next = match step {
            Progress::Resolved { .. } => "pull_layers",
            Progress::Committing => "pull_commit",
            Progress::Layer { .. } => return,
        };
        let (stage, began) = std::mem::replace(&mut *lock(&self.under_way), (next, Instant::now()));
        self.tell(stage, began);
    }

    /// Ends the stage under way, and the pull.
    pub(crate) fn end(&self) {
        let (stage, began) = *lock(&self.under_way);
        self.tell(stage, began);
    }

    fn tell(&self, stage: &'static str, began: Instant) {
        if let Some(tell) = &self.sink.0 {
            tell(stage, began.elapsed());
        }
    }
}
