//! Layers into an image: all of them at once, one syncfs, one commit; or nothing.

use std::collections::HashMap;
use std::sync::Arc;

use kernel::SysError;
use kernel::clock::now;
use model::{Classify, Digest, ErrorKind, ImageId};
use store::StoreError;
use telemetry::field;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use crate::image::ImageConfigData;
use crate::images::{Shared, lock};
use crate::jobs::{LayerError, Waiting, Wanted};
use crate::progress::{LayerStage, Progress, ProgressSink};
use crate::records::{IMAGES, ImageRecord, LAYERS};
use crate::source::Source;
use crate::stack::{Stack, StackError};
use crate::unpack::Expected;

/// An image that is to be here, and where its layers come from.
pub(crate) struct Plan {
    pub(crate) id: ImageId,
    pub(crate) config: Arc<ImageConfigData>,
    /// Base first, one for each diff id of the configuration.
    pub(crate) layers: Vec<(Expected, Source)>,
    pub(crate) repo_tags: Vec<String>,
    pub(crate) repo_digests: Vec<String>,
    pub(crate) progress: Option<ProgressSink>,
}

/// What stopped an image from being put together; nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// One of its layers.
    #[error("layer {digest}")]
    Layer {
        /// The layer's digest in the manifest.
        digest: Digest,
        /// What stopped it.
        #[source]
        source: Arc<LayerError>,
    },
    /// The layers do not stack.
    #[error("stack the layers")]
    Stack(#[source] StackError),
    /// The disk did not confirm.
    #[error("sync the layers to disk")]
    Sync(#[source] SysError),
    /// The record was not written.
    #[error("commit the image's record")]
    Commit(#[source] StoreError),
    /// The thread that did it ended before it was done.
    #[error("interrupted")]
    Interrupted,
}

impl Classify for AssembleError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Layer { source, .. } => source.kind(),
            Self::Stack(error) => error.kind(),
            Self::Sync(error) => model::error::io_kind(&error.source),
            Self::Commit(error) => error.kind(),
            Self::Interrupted => ErrorKind::Internal,
        }
    }
}

impl Shared {
    /// Brings an image here. Where it is here already, it gets the names.
    pub(crate) async fn assemble(self: &Arc<Self>, plan: Plan) -> Result<ImageId, AssembleError> {
        let diff_ids = unique(&plan.config.diff_ids);
        lock(&self.index).hold(&diff_ids);
        let result = self.assemble_held(plan).await;
        let shared = self.clone();
        let released = tokio::task::spawn_blocking(move || shared.release(&diff_ids)).await;
        released.map_err(|_| AssembleError::Interrupted)?;
        result
    }

    async fn assemble_held(self: &Arc<Self>, plan: Plan) -> Result<ImageId, AssembleError> {
        let here = lock(&self.index).stack(&plan.id);
        if here.is_none() {
            let fields = [(field::IMAGE_ID, plan.id.as_str())];
            self.config.stages.begin("pull_layers", &fields).run(self.bring(&plan)).await?;
        } else {
            for (_, source) in &plan.layers {
                source.tell(LayerStage::Reused, source.size);
            }
        }
        if let Some(progress) = &plan.progress {
            progress(Progress::Committing);
        }
        let shared = self.clone();
        let stage = self.config.stages.begin("pull_commit", &[(field::IMAGE_ID, plan.id.as_str())]);
        let committed = tokio::task::spawn_blocking(move || {
            let stack = match here {
                Some(dirs) => Stack { dirs, mended: None },
                None => shared.stack_up(&plan.config.diff_ids).map_err(AssembleError::Stack)?,
            };
            let result = shared.commit(&plan, &stack.dirs);
            // The image holds the mended directory now, or nobody does.
            shared.release(stack.mended.as_slice());
            result
        });
        stage.run(async { committed.await.unwrap_or(Err(AssembleError::Interrupted)) }).await
    }

    /// All layers at once. The first failure stops the others, and is told when they have cleaned up.
    async fn bring(self: &Arc<Self>, plan: &Plan) -> Result<(), AssembleError> {
        let mut waits = JoinSet::new();
        let mut ends = Vec::new();
        // A layer that an image has twice comes once.
        let distinct: HashMap<_, _> = plan.layers.iter().map(|layer| (&layer.0.diff_id, layer)).collect();
        for (expected, source) in distinct.into_values() {
            source.tell(LayerStage::Waiting, 0);
            let wanted = self.want_layer(expected, source);
            if let Wanted::Joined(waiting) | Wanted::Started(waiting) = &wanted {
                ends.push(waiting.end());
            }
            let (shared, expected, source) = (self.clone(), expected.clone(), source.clone());
            let wait = async move {
                let outcome = shared.wait_for(wanted, &expected, &source).await;
                outcome.map_err(|error| AssembleError::Layer { digest: source.digest, source: error })
            };
            waits.spawn(wait.in_current_span());
        }
        let mut result = Ok(());
        while let Some(joined) = waits.join_next().await {
            if let Err(error) = joined.unwrap_or(Err(AssembleError::Interrupted)) {
                result = Err(error);
                break;
            }
        }
        if result.is_err() {
            // Lets go of the layers; those that only this image wanted stop.
            waits.shutdown().await;
            let cleaned = async {
                for end in ends {
                    end.await;
                }
            };
            // A layer that another pull still wants goes on for as long as it takes: not ours to wait for.
            let _ = tokio::time::timeout(self.config.stall_max, cleaned).await;
        }
        result
    }

    async fn wait_for(
        self: &Arc<Self>,
        wanted: Wanted,
        expected: &Expected,
        source: &Source,
    ) -> Result<(), Arc<LayerError>> {
        let started = |waiting: Waiting| async {
            waiting.outcome().await?;
            source.tell(LayerStage::Done, source.size);
            Ok(())
        };
        match wanted {
            Wanted::Here => source.tell(LayerStage::Reused, source.size),
            Wanted::Started(waiting) => return started(waiting).await,
            Wanted::Joined(waiting) => match waiting.outcome().await {
                Ok(()) => source.tell(LayerStage::Reused, source.size),
                // The other pull's registry or credentials may be worse than ours.
                Err(_) => match self.want_layer(expected, source) {
                    Wanted::Here => source.tell(LayerStage::Reused, source.size),
                    Wanted::Joined(waiting) | Wanted::Started(waiting) => return started(waiting).await,
                },
            },
        }
        Ok(())
    }

    /// Makes the disk have the layers, then the store have the image.
    fn commit(&self, plan: &Plan, stack: &[Digest]) -> Result<ImageId, AssembleError> {
        let unrecorded = || {
            let index = lock(&self.index);
            let layers = stack.iter().filter_map(|digest| Some((digest, index.layer(digest)?)));
            let new = layers.filter(|(_, layer)| !layer.recorded);
            new.map(|(digest, layer)| (digest.clone(), layer.record.clone())).collect::<Vec<_>>()
        };
        if !unrecorded().is_empty() {
            kernel::durable::sync_file_system(self.layers.base()).map_err(AssembleError::Sync)?;
        }
        let record = ImageRecord {
            config: plan.config.raw.clone(),
            stack: stack.to_vec(),
            repo_tags: plan.repo_tags.clone(),
            repo_digests: plan.repo_digests.clone(),
            pulled_at: now(),
        };
        let _writer = lock(&self.writer);
        let layers = unrecorded();
        let changes = lock(&self.index).changes(&plan.id, &plan.config, &record);
        let written = self.store.write(|w| {
            for (digest, layer) in &layers {
                w.put(&LAYERS, digest.as_str(), layer)?;
            }
            for (id, record) in &changes {
                w.put(&IMAGES, id.as_str(), record)?;
            }
            Ok(())
        });
        written.map_err(AssembleError::Commit)?;
        let mut index = lock(&self.index);
        for (digest, _) in &layers {
            index.set_recorded(digest);
        }
        index.add_image(&plan.id, &plan.config, &record);
        Ok(plan.id.clone())
    }
}

fn unique(digests: &[Digest]) -> Vec<Digest> {
    let mut unique = digests.to_vec();
    unique.sort();
    unique.dedup();
    unique
}
