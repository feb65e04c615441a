//! Where a layer's compressed bytes come from: a registry, or an archive on disk.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use model::Digest;

use crate::jobs::LayerError;
use crate::progress::{LayerStage, Progress, ProgressSink};
use crate::registry::Repository;
use crate::unpack::Feed;

/// Pieces of an archive that are read at once, bytes.
const PIECE_BYTES: u64 = 128 * 1024;
/// Progress is told at least so far apart, bytes.
const PROGRESS_BYTES: u64 = 256 * 1024;

/// One layer's bytes.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) from: From,
    /// The descriptor's digest, for those who watch.
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) progress: Option<ProgressSink>,
}

/// Who has them.
#[derive(Clone)]
pub(crate) enum From {
    /// A blob of a repository, from one of its hosts.
    Registry(Arc<Repository>, Hosts),
    /// A part of an archive, or a file of an OCI layout.
    File { file: Arc<File>, offset: u64 },
}

/// Which of a repository's hosts are asked for a blob.
#[derive(Clone, Default)]
pub(crate) struct Hosts {
    /// So many of the first are passed over: what they gave was not the blob.
    passed_over: usize,
    /// The first that gave a byte.
    gave: Arc<OnceLock<usize>>,
}

impl Source {
    /// Whether the bytes come over the network.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.from, From::Registry(..))
    }

    /// What came is not the blob: whoever gave it is passed over the next time. False: nobody else is left.
    pub(crate) fn pass_over(&mut self) -> bool {
        let From::Registry(repository, hosts) = &mut self.from else { return false };
        let Some(gave) = hosts.gave.get() else { return false };
        *hosts = Hosts { passed_over: gave + 1, gave: Arc::default() };
        hosts.passed_over < repository.blob_hosts()
    }

    /// Tells those who watch.
    pub(crate) fn tell(&self, stage: LayerStage, done: u64) {
        if let Some(progress) = &self.progress {
            progress(Progress::Layer { digest: self.digest.clone(), stage, done, total: self.size });
        }
    }

    /// Feeds everything, and says when it was all.
    pub(crate) async fn feed(self, feed: Feed) -> Result<(), LayerError> {
        self.tell(LayerStage::Unpacking, 0);
        match &self.from {
            From::Registry(repository, hosts) => {
                let last = AtomicU64::new(0);
                let told = |done: u64| {
                    if last.swap(done / PROGRESS_BYTES, Ordering::Relaxed) != done / PROGRESS_BYTES {
                        self.tell(LayerStage::Unpacking, done);
                    }
                };
                let fetched =
                    repository.blob(&self.digest, self.size, hosts.passed_over, &hosts.gave, &feed, &told);
                let fetched = fetched.await;
                fetched.map_err(LayerError::Fetch)?;
                feed.end().await;
                Ok(())
            }
            From::File { file, offset } => {
                let (file, offset, this) = (file.clone(), *offset, self.clone());
                let read = tokio::task::spawn_blocking(move || this.read(&file, offset, feed)).await;
                read.unwrap_or(Err(LayerError::Cancelled))
            }
        }
    }

    fn read(&self, file: &File, offset: u64, feed: Feed) -> Result<(), LayerError> {
        let mut done = 0;
        while done < self.size {
            let mut piece = vec![0; PIECE_BYTES.min(self.size - done) as usize];
            file.read_exact_at(&mut piece, offset + done).map_err(LayerError::Read)?;
            done += piece.len() as u64;
            if !feed.blocking_piece(piece.into()) {
                return Ok(());
            }
            self.tell(LayerStage::Unpacking, done);
        }
        feed.blocking_end();
        Ok(())
    }
}
