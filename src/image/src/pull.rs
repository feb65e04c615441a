//! Pulling: callers of one thing join one task, which outlives them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use model::{Classify, Digest, ErrorKind, ImageId, ImageRef, limits};
use telemetry::field;
use tokio::sync::watch;
use tracing::{Instrument as _, Span};

use crate::assemble::{AssembleError, Plan};
use crate::counters::Counters;
use crate::credentials::Credentials;
use crate::image::{ConfigError, ImageConfigData};
use crate::images::{Images, Shared, lock};
use crate::manifest::{ACCEPT, DEPTH_MAX, Descriptor, Manifest, ManifestError, Platform};
use crate::progress::{Progress, ProgressSink};
use crate::registry::{RegistryError, Repository};
use crate::source::{From, Hosts, Source};
use crate::unpack::Expected;

/// What to pull.
#[derive(Clone)]
pub struct PullRequest {
    /// The image.
    pub reference: ImageRef,
    /// What to be let in with, if anything.
    pub auth: Option<Credentials>,
    /// Who watches, if anybody. One who joins a pull that is under way sees what is left of it.
    pub progress: Option<ProgressSink>,
}

/// A pull that failed; nothing of it is left on disk. All who joined it get the same.
#[derive(Clone, Debug, thiserror::Error)]
#[error("pull {reference}")]
pub struct PullError {
    reference: ImageRef,
    #[source]
    failure: Arc<PullFailure>,
}

/// The stage that failed, and why.
#[derive(Debug, thiserror::Error)]
pub enum PullFailure {
    /// The reference could not be resolved to a manifest.
    #[error("resolve")]
    Resolve(#[source] RegistryError),
    /// What it names is no image for this machine.
    #[error("choose the image")]
    Manifest(#[source] ManifestError),
    /// The image's configuration could not be fetched.
    #[error("fetch the image's configuration")]
    FetchConfig(#[source] RegistryError),
    /// The image's configuration cannot be read.
    #[error("read the image's configuration")]
    Config(#[source] ConfigError),
    /// The manifest and the configuration do not belong together.
    #[error("the manifest has {layers} layers, the image's configuration {diff_ids} diff ids")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// Layers or the commit.
    #[error(transparent)]
    Assemble(AssembleError),
    /// The task ended before it was done.
    #[error("interrupted")]
    Interrupted,
}

impl PullError {
    /// The stage that failed, and why.
    pub fn failure(&self) -> &PullFailure {
        &self.failure
    }
}

impl Classify for PullError {
    fn kind(&self) -> ErrorKind {
        self.failure.kind()
    }
}

impl Classify for PullFailure {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Resolve(error) | Self::FetchConfig(error) => error.kind(),
            Self::Manifest(error) => error.kind(),
            Self::Config(_) | Self::LayerCount { .. } => ErrorKind::Invalid,
            Self::Assemble(error) => error.kind(),
            Self::Interrupted => ErrorKind::Internal,
        }
    }
}

type Outcome = Option<Result<ImageId, Arc<PullFailure>>>;
type Key = (ImageRef, Option<Credentials>);

/// The pulls under way. One with other credentials is another pull: it must be let in by itself.
#[derive(Default)]
pub(crate) struct Pulls(Mutex<HashMap<Key, Running>>);

impl Pulls {
    pub(crate) fn under_way(&self) -> usize {
        lock(&self.0).len()
    }
}

struct Running {
    outcome: watch::Receiver<Outcome>,
    watchers: Watchers,
    span: Span,
}

type Watchers = Arc<Mutex<Vec<ProgressSink>>>;

impl Images {
    /// Pulls an image, or joins the pull of it that is under way with the same credentials. Dropping the
    /// future leaves the pull running.
    ///
    /// # Errors
    /// The stage that failed.
    pub async fn pull(&self, request: PullRequest) -> Result<ImageId, PullError> {
        let reference = request.reference.clone();
        let mut outcome = self.shared.join_pull(request);
        let ended = outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        let result = ended.ok().flatten().unwrap_or_else(|| Err(Arc::new(PullFailure::Interrupted)));
        result.map_err(|failure| PullError { reference, failure })
    }
}

impl Shared {
    fn join_pull(self: &Arc<Self>, request: PullRequest) -> watch::Receiver<Outcome> {
        let key = (request.reference, request.auth);
        let mut running = lock(&self.pulls.0);
        if let Some(found) = running.get(&key) {
            lock(&found.watchers).extend(request.progress);
            Span::current().follows_from(&found.span);
            return found.outcome.clone();
        }
        let (end, outcome) = watch::channel(None);
        let watchers = Arc::new(Mutex::new(request.progress.into_iter().collect()));
        // Part of the request that came first, and of the others by their links.
        let stage = self.config.stages.begin("pull", &[(field::IMAGE_REF, &key.0.to_string())]);
        let span = stage.span().clone();
        let entry = Running { outcome: outcome.clone(), watchers: watchers.clone(), span };
        running.insert(key.clone(), entry);
        drop(running);
        let shared = self.clone();
        let task = async move {
            let started = tokio::time::Instant::now();
            let result = stage.run(shared.pull(&key.0, key.1.as_ref(), &watchers)).await;
            let counters = &shared.counters;
            match &result {
                Ok(id) => {
                    Counters::add(&counters.pulls, 1);
                    let elapsed_ms = telemetry::millis(started.elapsed());
                    tracing::info!(image.r#ref = %key.0, image.id = %id, elapsed_ms, "image pulled");
                }
                Err(error) => {
                    Counters::add(&counters.pull_failures, 1);
                    tracing::warn!(image.r#ref = %key.0, error = %model::chain(error), "pull failed");
                }
            }
            lock(&shared.pulls.0).remove(&key);
            // Everything of ours is let go of before the caller hears of the end.
            drop(shared);
            end.send_replace(Some(result.map_err(Arc::new)));
        };
        tokio::spawn(task.instrument(Span::current()));
        outcome
    }

    async fn pull(
        self: &Arc<Self>,
        reference: &ImageRef,
        auth: Option<&Credentials>,
        watchers: &Watchers,
    ) -> Result<ImageId, PullFailure> {
        let watchers = watchers.clone();
        let progress: ProgressSink = Arc::new(move |step| {
            for watcher in lock(&watchers).iter() {
                watcher(step.clone());
            }
        });
        let repository =
            Repository::open(reference, auth, &self.config, &self.counters).map_err(PullFailure::Resolve)?;
        let repository = Arc::new(repository);
        let stages = &self.config.stages;
        let shown = reference.to_string();
        let fields = [(field::IMAGE_REF, shown.as_str())];
        let resolved = stages.begin("pull_resolve", &fields).run(resolve(&repository)).await;
        let (named, config, layers) = resolved?;
        let told = layers.iter().map(|layer| (layer.digest.clone(), layer.size)).collect();
        progress(Progress::Resolved { manifest: named.clone(), layers: told });

        let id = ImageId(config.digest.clone());
        let document = repository.small_blob(&config.digest, limits::IMAGE_CONFIG_BYTES_MAX);
        let document = stages.begin("pull_config", &fields).run(document).await;
        let document = document.map_err(PullFailure::FetchConfig)?;
        let config = read_config(&document.bytes, layers.len())?;
        let source = |layer: &Descriptor| Source {
            from: From::Registry(repository.clone(), Hosts::default()),
            digest: layer.digest.clone(),
            size: layer.size,
            progress: Some(progress.clone()),
        };
        let expected = |layer: &Descriptor, diff_id: &Digest| Expected {
            digest: Some(layer.digest.clone()),
            size: layer.size,
            diff_id: diff_id.clone(),
        };
        let layers = layers.iter().zip(&config.diff_ids);
        let plan = Plan {
            id,
            layers: layers.map(|(layer, diff_id)| (expected(layer, diff_id), source(layer))).collect(),
            // A reference with both is a digest with a remark.
            repo_tags: if reference.digest().is_some() {
                Vec::new()
            } else {
                Vec::from_iter(reference.tagged())
            },
            repo_digests: vec![reference.with_digest(&named)],
            config: Arc::new(config),
            progress: Some(progress.clone()),
        };
        self.assemble(plan).await.map_err(PullFailure::Assemble)
    }
}

/// The digest that the reference names, and the configuration and layers of the image for this machine.
async fn resolve(repository: &Repository) -> Result<(Digest, Descriptor, Vec<Descriptor>), PullFailure> {
    let max = limits::MANIFEST_BYTES_MAX;
    let mut document = repository.resolve(ACCEPT, max).await.map_err(PullFailure::Resolve)?;
    let named = document.digest.clone();
    for _ in 0..DEPTH_MAX {
        let manifest = Manifest::parse(&document.bytes, document.media_type.as_deref());
        match manifest.map_err(PullFailure::Manifest)? {
            Manifest::Image { config, layers } => return Ok((named, config, layers)),
            Manifest::Index(manifests) => {
                let chosen = Platform::here().choose(&manifests).map_err(PullFailure::Manifest)?;
                let found = repository.manifest(&chosen.digest, ACCEPT, max).await;
                document = found.map_err(PullFailure::Resolve)?;
            }
        }
    }
    Err(PullFailure::Manifest(ManifestError::Depth))
}

/// Reads a configuration, and checks that it is for this machine and for so many layers.
pub(crate) fn read_config(bytes: &[u8], layers: usize) -> Result<ImageConfigData, PullFailure> {
    let config = ImageConfigData::parse(bytes).map_err(PullFailure::Config)?;
    let platform = Platform {
        os: config.os.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
    };
    Platform::here().check(&platform).map_err(PullFailure::Manifest)?;
    let diff_ids = config.diff_ids.len();
    if diff_ids == layers { Ok(config) } else { Err(PullFailure::LayerCount { layers, diff_ids }) }
}
