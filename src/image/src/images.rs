//! The image room's door: open, list, find, remove, usage. Pulls and imports are in files of their own.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::SysError;
use kernel::clock::now;
use model::{Classify, Digest, ErrorKind, ImageId, UnixNanos};
use store::{Store, StoreError};

use crate::config::ImageConfig;
use crate::counters::Counters;
use crate::image::{Image, ImageConfigData};
use crate::index::{Index, Layer};
use crate::jobs::Jobs;
use crate::layers::Layers;
use crate::pull::Pulls;
use crate::records::{IMAGES, LAYERS, LEASES};
use crate::sizes::Sizes;
use crate::snapshot::Usage;

/// All images of this node. A handle: clones share everything.
#[derive(Clone)]
pub struct Images {
    pub(crate) shared: Arc<Shared>,
}

/// What the handles share. Lock order: `writer`, then `index`; `index` is never held over I/O.
pub(crate) struct Shared {
    pub(crate) config: ImageConfig,
    pub(crate) layers: Layers,
    pub(crate) store: Store,
    pub(crate) index: Mutex<Index>,
    /// Held over every change that moves layer directories or names, and over its commit.
    pub(crate) writer: Mutex<()>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) jobs: Jobs,
    pub(crate) pulls: Pulls,
    /// Of writable layers.
    pub(crate) sizes: Sizes,
    /// What names the file system that they are on.
    pub(crate) writable: PathBuf,
}

/// Locks; what a panicking thread left behind is as whole as our changes are small.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What stopped the image room from opening.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory of it.
    #[error("open the image directory")]
    Disk(#[source] SysError),
    /// Its store.
    #[error("open the image store")]
    Store(#[source] StoreError),
}

impl Classify for OpenError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Disk(error) => model::error::io_kind(&error.source),
            Self::Store(error) => error.kind(),
        }
    }
}

/// Why a name does not say which image is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// The text is the beginning of more than one image's id.
    #[error("{0:?} is the beginning of more than one image id")]
    Ambiguous(String),
}

impl Classify for FindError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Ambiguous(_) => ErrorKind::Invalid,
        }
    }
}

/// What stopped an image's removal; it is still here then.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// Which image is not clear.
    #[error("remove image")]
    Find(#[source] FindError),
    /// The removal could not be committed.
    #[error("remove image {id}")]
    Store {
        /// The image.
        id: ImageId,
        /// What the store said.
        #[source]
        source: StoreError,
    },
    /// The thread that did it ended before it was done.
    #[error("remove image {0}: interrupted")]
    Interrupted(String),
}

impl Classify for RemoveError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Store { source, .. } => source.kind(),
            Self::Interrupted(_) => ErrorKind::Internal,
        }
    }
}

/// What images take on disk: layer directories, counted as they come and go, never by walking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsUsage {
    /// The directory that they lie in.
    pub mountpoint: PathBuf,
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// When this was true.
    pub at: UnixNanos,
}

impl Images {
    /// Opens the images under the configuration's root, and removes what a crash left half done.
    ///
    /// # Errors
    /// A directory that cannot be made or listed, or a store that cannot be opened, also because another
    /// process has it.
    pub fn open(config: ImageConfig) -> Result<Self, OpenError> {
        let layers = Layers::open(config.root.join("image")).map_err(OpenError::Disk)?;
        let store = Store::open(&layers.store()).map_err(OpenError::Store)?.telling(config.commits.clone());
        let index = Mutex::new(load(&store, &layers, &config)?);
        let shared = Shared {
            writable: writable_mountpoint(&config.root, layers.base()),
            layers,
            store,
            index,
            writer: Mutex::new(()),
            counters: Arc::default(),
            jobs: Jobs::new(&config),
            pulls: Pulls::default(),
            sizes: Sizes::new(config.measure_period),
            config,
        };
        let dead = lock(&shared.index).take_all_unheld();
        drop(shared.discard(dead));
        let swept = shared.layers.sweep_ingest().map_err(OpenError::Disk)?;
        if swept > 0 {
            tracing::info!(directories = swept, "removed what earlier pulls left half done");
        }
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What pulls have done since [`Images::open`].
    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    /// Pulls under way, each once however many wait for it.
    pub fn pulls_in_progress(&self) -> usize {
        self.shared.pulls.under_way()
    }

    /// Every image, oldest first, then by id.
    pub fn list(&self) -> Vec<Arc<Image>> {
        lock(&self.shared.index).list().into_iter().map(Arc::new).collect()
    }

    /// An image by tag, digest, id, unique id prefix or familiar name. An unknown one is `None`.
    ///
    /// # Errors
    /// A prefix of more than one id.
    pub fn find(&self, text: &str) -> Result<Option<Arc<Image>>, FindError> {
        let index = lock(&self.shared.index);
        let id = index.find(text).map_err(|error| FindError::Ambiguous(error.0))?;
        Ok(id.and_then(|id| index.image(&id)).map(Arc::new))
    }

    /// Removes an image with all its names. An absent one is success. What a snapshot uses stays on disk
    /// until the snapshot goes, but is not listed any more.
    ///
    /// # Errors
    /// An ambiguous prefix, or a commit that failed; the image is still here then.
    pub async fn remove(&self, text: &str) -> Result<(), RemoveError> {
        let shared = self.shared.clone();
        let name = text.to_owned();
        let removed = tokio::task::spawn_blocking(move || shared.remove(&name)).await;
        removed.unwrap_or_else(|_| Err(RemoveError::Interrupted(text.to_owned())))
    }

    /// What all images take on disk.
    pub fn usage(&self) -> FsUsage {
        let (bytes, inodes) = lock(&self.shared.index).usage();
        FsUsage { mountpoint: self.shared.layers.base().to_owned(), bytes, inodes, at: now() }
    }

    /// What all writable layers take on disk, as of when they were measured.
    pub fn writable_usage(&self) -> FsUsage {
        let Usage { bytes, inodes, at } = self.shared.sizes.total();
        FsUsage { mountpoint: self.shared.writable.clone(), bytes, inodes, at }
    }
}

/// Clients compare the names of the images' and the writable layers' file systems as text: one file system has one name.
fn writable_mountpoint(root: &Path, images: &Path) -> PathBuf {
    let writable = root.join("containers");
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
    // Until it is made it is where its parent is.
    let own = device(&writable).or_else(|_| device(root));
    if own.ok() == device(images).ok() { images.to_owned() } else { writable }
}

impl Shared {
    fn remove(&self, text: &str) -> Result<(), RemoveError> {
        let writer = lock(&self.writer);
        let mut index = lock(&self.index);
        let found = index.find(text).map_err(|error| RemoveError::Find(FindError::Ambiguous(error.0)))?;
        let Some(id) = found else { return Ok(()) };
        let config = index.image(&id).map(|image| image.config);
        let Some((record, config)) = index.remove_image(&id).zip(config) else { return Ok(()) };
        drop(index);
        if let Err(source) = self.store.write(|w| w.remove(&IMAGES, id.as_str())) {
            let mut index = lock(&self.index);
            // Its directories are held still: hold them for the image that is here again.
            index.add_image(&id, &config, &record);
            let dead = index.release(&record.stack);
            debug_assert!(dead.is_empty(), "the image holds them");
            return Err(RemoveError::Store { id, source });
        }
        tracing::info!(image.id = %id, names = ?record.repo_tags, "image removed");
        let dead = lock(&self.index).release(&record.stack);
        let trash = self.discard(dead);
        drop(writer);
        drop(trash);
        Ok(())
    }
}

/// Builds the index from the store and the disk. One bad record does not hide the others.
fn load(store: &Store, layers: &Layers, config: &ImageConfig) -> Result<Index, OpenError> {
    let mut index = Index::new(config.pinned.clone());
    let mut on_disk: std::collections::HashSet<String> =
        layers.list().map_err(OpenError::Disk)?.into_iter().collect();
    let (mut lost_layers, mut lost_images) = (Vec::new(), Vec::new());
    for (key, record) in store.list(&LAYERS).map_err(OpenError::Store)? {
        match (key.parse::<Digest>(), record) {
            (Ok(digest), Ok(record)) if on_disk.remove(digest.hex()) => {
                index.add_layer(digest, Layer { record, recorded: true });
            }
            (_, Ok(_)) => {
                tracing::error!(layer = key, "a layer is recorded but not on disk");
                lost_layers.push(key);
            }
            (_, Err(error)) => tracing::error!(error = %model::chain(&error), "a layer record is unreadable"),
        }
    }
    for name in on_disk {
        tracing::info!(directory = name, "removing a layer that was never recorded");
        layers.sweep(&name).map_err(OpenError::Disk)?;
    }
    for (key, record) in store.list(&LEASES).map_err(OpenError::Store)? {
        match record {
            Ok(lease) => {
                if !index.add_lease(&key, lease) {
                    tracing::error!(lease = key, "a snapshot's layers are not on disk");
                }
            }
            Err(error) => tracing::error!(error = %model::chain(&error), "a lease is unreadable"),
        }
    }
    for (key, record) in store.list(&IMAGES).map_err(OpenError::Store)? {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(error = %model::chain(&error), "an image record is unreadable");
                continue;
            }
        };
        let whole = record.stack.iter().all(|digest| index.layer(digest).is_some());
        match (key.parse::<Digest>(), ImageConfigData::parse(record.config.as_bytes())) {
            (Ok(digest), Ok(config)) if whole => {
                index.add_image(&ImageId(digest), &Arc::new(config), &record);
            }
            _ => {
                tracing::error!(image.id = key, "an image is not whole and is forgotten; pull it again");
                lost_images.push(key);
            }
        }
    }
    if !(lost_layers.is_empty() && lost_images.is_empty()) {
        let forget = |w: &mut store::Write<'_>| {
            lost_layers.iter().try_for_each(|key| w.remove(&LAYERS, key).map(drop))?;
            lost_images.iter().try_for_each(|key| w.remove(&IMAGES, key).map(drop))
        };
        store.write(forget).map_err(OpenError::Store)?;
    }
    Ok(index)
}
