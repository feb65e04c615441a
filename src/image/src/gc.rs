//! What nobody holds is removed, in an order that a crash cannot turn into damage: first the record, then
//! the directory. A directory without a record is swept at the next start.

use model::Digest;

use crate::images::{Shared, lock};
use crate::index::Layer;
use crate::layers::Ingest;
use crate::records::LAYERS;

impl Shared {
    /// Lets go of layer directories and removes those that nobody holds now. Blocks on the disk.
    pub(crate) fn release(&self, digests: &[Digest]) {
        let writer = lock(&self.writer);
        let dead = lock(&self.index).release(digests);
        let trash = self.discard(dead);
        drop(writer);
        drop(trash);
    }

    /// Takes dead layers out of the store and out of the way. The caller holds `writer`, and drops what is
    /// returned, which removes the trees, after it let go of it.
    pub(crate) fn discard(&self, dead: Vec<(Digest, Layer)>) -> Vec<Ingest> {
        let recorded: Vec<_> = dead.iter().filter(|(_, layer)| layer.recorded).map(|(d, _)| d).collect();
        if !recorded.is_empty() {
            let forgotten = self.store.write(|w| {
                for digest in &recorded {
                    w.remove(&LAYERS, digest.as_str())?;
                }
                Ok(())
            });
            if let Err(error) = forgotten {
                tracing::warn!(error = %model::chain(&error), "unused layers stay until the next start");
                let mut index = lock(&self.index);
                for (digest, layer) in dead {
                    index.add_layer(digest, layer);
                }
                return Vec::new();
            }
        }
        dead.iter().filter_map(|(digest, _)| self.layers.discard(digest)).collect()
    }
}
