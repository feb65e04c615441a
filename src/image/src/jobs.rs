//! One job per layer, whoever wants it: pulls of different images that share a layer fetch it once.
//!
//! A job lives while somebody waits for it. When the last one lets go, it stops and cleans up after itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use kernel::SysError;
use model::{Classify, Digest, ErrorKind};
use telemetry::field;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::config::ImageConfig;
use crate::counters::Counters;
use crate::images::{Shared, lock};
use crate::index::Layer;
use crate::layers::Ingest;
use crate::records::LayerRecord;
use crate::registry::RegistryError;
use crate::source::Source;
use crate::unpack::{self, Budget, Expected, UnpackError};

/// What stopped a layer from coming here.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The registry.
    #[error("fetch")]
    Fetch(#[source] RegistryError),
    /// The archive that it is imported from.
    #[error("read from the archive")]
    Read(#[source] std::io::Error),
    /// What came.
    #[error(transparent)]
    Unpack(UnpackError),
    /// The last step.
    #[error("publish")]
    Publish(#[source] SysError),
    /// Nobody waits for it any more.
    #[error("cancelled")]
    Cancelled,
}

impl LayerError {
    /// Whether what came was not what the manifest names. An image whose configuration does not go with its layers is
    /// the same from every host.
    fn is_wrong_content(&self) -> bool {
        match self {
            Self::Fetch(error) => matches!(error, RegistryError::TooLong { .. }),
            Self::Unpack(UnpackError::Digest { .. } | UnpackError::Size { .. }) => true,
            Self::Unpack(UnpackError::Decompress(error)) => error.kind() != std::io::ErrorKind::Unsupported,
            Self::Unpack(UnpackError::Extract(error)) => error.io().is_none(),
            Self::Unpack(_) | Self::Read(_) | Self::Publish(_) | Self::Cancelled => false,
        }
    }
}

impl Classify for LayerError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Fetch(error) => error.kind(),
            Self::Read(error) => model::error::io_kind(error),
            Self::Unpack(error) => error.kind(),
            Self::Publish(error) => model::error::io_kind(&error.source),
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }
}

type Outcome = Option<Result<(), Arc<LayerError>>>;

/// The layers under way, and the budget that they share.
pub(crate) struct Jobs {
    running: Mutex<HashMap<Digest, Weak<Interest>>>,
    at_once: Semaphore,
    budget: Arc<Budget>,
}

impl Jobs {
    pub(crate) fn new(config: &ImageConfig) -> Self {
        Self {
            running: Mutex::default(),
            at_once: Semaphore::new(config.layers_at_once_max.max(1)),
            budget: Budget::new(config.unpack_threads_max),
        }
    }
}

/// What keeps a job going.
struct Interest {
    outcome: watch::Receiver<Outcome>,
    /// Dropped with the last interest; the job sees it.
    _wanted: oneshot::Sender<()>,
}

/// A layer that was asked for.
pub(crate) enum Wanted {
    /// It is on disk.
    Here,
    /// Its job was under way already.
    Joined(Waiting),
    /// Its job is ours.
    Started(Waiting),
}

/// A wait for a job's end.
pub(crate) struct Waiting(Arc<Interest>);

impl Waiting {
    /// How the job ended. Dropping this future lets go of the job.
    pub(crate) async fn outcome(self) -> Result<(), Arc<LayerError>> {
        settled(self.0.outcome.clone()).await
    }

    /// Resolves when the job has ended and cleaned up, without keeping it going.
    pub(crate) fn end(&self) -> impl Future<Output = ()> + Send + use<> {
        let outcome = self.0.outcome.clone();
        async move {
            let _ = settled(outcome).await;
        }
    }
}

async fn settled(mut outcome: watch::Receiver<Outcome>) -> Result<(), Arc<LayerError>> {
    match outcome.wait_for(Option::is_some).await {
        Ok(ended) => ended.clone().unwrap_or_else(|| Err(Arc::new(LayerError::Cancelled))),
        Err(_) => Err(Arc::new(LayerError::Cancelled)),
    }
}

impl Shared {
    /// Finds the layer, joins its job, or starts one. The caller holds the diff id in the index.
    pub(crate) fn want_layer(self: &Arc<Self>, expected: &Expected, source: &Source) -> Wanted {
        let mut running = lock(&self.jobs.running);
        if lock(&self.index).layer(&expected.diff_id).is_some() {
            self.count_reused(source);
            return Wanted::Here;
        }
        if let Some(interest) = running.get(&expected.diff_id).and_then(Weak::upgrade) {
            self.count_reused(source);
            return Wanted::Joined(Waiting(interest));
        }
        let (wanted, unwanted) = oneshot::channel();
        let (end, outcome) = watch::channel(None);
        let interest = Arc::new(Interest { outcome, _wanted: wanted });
        let own = Arc::downgrade(&interest);
        running.insert(expected.diff_id.clone(), own.clone());
        drop(running);
        let held = vec![expected.diff_id.clone()];
        lock(&self.index).hold(&held);
        let (shared, expected, source) = (self.clone(), expected.clone(), source.clone());
        let stage = self.config.stages.begin("layer", &[(field::LAYER_DIGEST, source.digest.as_str())]);
        tokio::spawn(async move {
            let result = stage.run(shared.run_layer(&expected, source, unwanted)).await;
            {
                // Another job may have begun since everybody let go of this one.
                let mut running = lock(&shared.jobs.running);
                if running.get(&expected.diff_id).is_some_and(|known| known.ptr_eq(&own)) {
                    running.remove(&expected.diff_id);
                }
            }
            // Where nobody else holds the layer any more, this removes it.
            let _ = tokio::task::spawn_blocking(move || shared.release(&held)).await;
            end.send_replace(Some(result.map_err(Arc::new)));
        });
        Wanted::Started(Waiting(interest))
    }

    fn count_reused(&self, source: &Source) {
        Counters::add(&self.counters.layers_reused, 1);
        if source.is_remote() {
            Counters::add(&self.counters.skipped_bytes, source.size);
        }
    }

    async fn run_layer(
        self: &Arc<Self>,
        expected: &Expected,
        mut source: Source,
        mut unwanted: oneshot::Receiver<()>,
    ) -> Result<(), LayerError> {
        let _permit = tokio::select! {
            _ = &mut unwanted => return Err(LayerError::Cancelled),
            permit = self.jobs.at_once.acquire() => permit.map_err(|_| LayerError::Cancelled)?,
        };
        loop {
            let began = Instant::now();
            match self.try_layer(expected, &source, &mut unwanted).await {
                Ok(()) => {
                    if source.is_remote() {
                        self.config.fetched.tell(source.size, began.elapsed());
                    }
                    return Ok(());
                }
                // A mirror may be broken where the registry is not.
                Err(error) if error.is_wrong_content() && source.pass_over() => {
                    let digest = source.digest.as_str();
                    tracing::warn!(digest, error = %model::chain(&error), "a host gave a wrong layer; the next is asked");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One transfer and what becomes of it.
    async fn try_layer(
        self: &Arc<Self>,
        expected: &Expected,
        source: &Source,
        mut unwanted: &mut oneshot::Receiver<()>,
    ) -> Result<(), LayerError> {
        let (feed, unpacked) = unpack::start(&self.layers, &self.jobs.budget, expected.clone());
        let stages = &self.config.stages;
        let fields = [(field::LAYER_DIGEST, source.digest.as_str())];
        let fetch = stages.begin("layer_fetch", &fields).run(source.clone().feed(feed));
        let mut unpacked = std::pin::pin!(stages.begin("layer_unpack", &fields).run(unpacked));
        let fetched = tokio::select! {
            biased;
            _ = &mut unwanted => Err(LayerError::Cancelled),
            fetched = fetch => fetched,
            // The pipeline refused before all bytes had come; or it was quicker to see their end.
            unpacked = &mut unpacked => {
                let (ingest, record) = unpacked.map_err(LayerError::Unpack)?;
                return self.publish(ingest, record, expected).await;
            }
        };
        // The threads have ended and their directory is gone when this returns.
        match (fetched, unpacked.await) {
            (Err(why), Err(UnpackError::Abandoned) | Ok(_)) => Err(why),
            (_, Err(why)) => Err(LayerError::Unpack(why)),
            (Ok(()), Ok((ingest, record))) => self.publish(ingest, record, expected).await,
        }
    }

    async fn publish(
        self: &Arc<Self>,
        ingest: Ingest,
        record: LayerRecord,
        expected: &Expected,
    ) -> Result<(), LayerError> {
        let (shared, diff_id) = (self.clone(), expected.diff_id.clone());
        let published = tokio::task::spawn_blocking(move || shared.add_layer(ingest, record, &diff_id)).await;
        published.unwrap_or(Err(LayerError::Cancelled))?;
        Counters::add(&self.counters.layers_pulled, 1);
        Ok(())
    }

    /// Moves a whole directory to its place. The caller holds the digest in the index.
    pub(crate) fn add_layer(
        &self,
        ingest: Ingest,
        record: LayerRecord,
        digest: &Digest,
    ) -> Result<(), LayerError> {
        let _writer = lock(&self.writer);
        if lock(&self.index).layer(digest).is_none() {
            self.layers.publish(ingest, digest).map_err(LayerError::Publish)?;
            lock(&self.index).add_layer(digest.clone(), Layer { record, recorded: false });
        }
        Ok(())
    }
}
