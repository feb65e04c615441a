//! Names, images, layers and who holds what, in memory. Pure: the store and the disk follow it.
//!
//! Every layer directory has a count of holders: images that stack it, leases of snapshots, and pulls under
//! way. At the moment the last holder lets go, the directory is dead and leaves the index; whoever made it
//! so removes it from the disk (`gc`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use model::{Digest, ImageId, ImageRef, UnixNanos};

use crate::image::{Image, ImageConfigData, chain_id};
use crate::records::{ImageRecord, LayerRecord, LeaseRecord};

/// A layer directory that is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) record: LayerRecord,
    /// Whether its record is in the store: before that, a crash takes it.
    pub(crate) recorded: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    config: Arc<ImageConfigData>,
    stack: Vec<Digest>,
    tags: BTreeSet<String>,
    digests: BTreeSet<String>,
    pulled_at: UnixNanos,
}

impl Entry {
    fn gain(&mut self, record: &ImageRecord) {
        self.tags.extend(record.repo_tags.iter().cloned());
        self.digests.extend(record.repo_digests.iter().cloned());
    }

    fn record(&self) -> ImageRecord {
        ImageRecord {
            config: self.config.raw.clone(),
            stack: self.stack.clone(),
            repo_tags: self.tags.iter().cloned().collect(),
            repo_digests: self.digests.iter().cloned().collect(),
            pulled_at: self.pulled_at,
        }
    }
}

/// The whole state.
#[derive(Debug, Default)]
pub(crate) struct Index {
    images: BTreeMap<ImageId, Entry>,
    names: HashMap<String, ImageId>,
    layers: HashMap<Digest, Layer>,
    holders: HashMap<Digest, usize>,
    leases: BTreeMap<String, LeaseRecord>,
    pinned: Vec<String>,
    bytes: u64,
    inodes: u64,
}

/// More than one image has an id that begins so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("image id prefix {0:?} is ambiguous")]
pub(crate) struct Ambiguous(pub(crate) String);

impl Index {
    /// An empty index that reports images with these names as pinned.
    pub(crate) fn new(pinned: Vec<String>) -> Self {
        Self { pinned, ..Self::default() }
    }

    /// Bytes and inodes of all layer directories.
    pub(crate) fn usage(&self) -> (u64, u64) {
        (self.bytes, self.inodes)
    }

    // --- layers -------------------------------------------------------------------------------------

    pub(crate) fn layer(&self, digest: &Digest) -> Option<&Layer> {
        self.layers.get(digest)
    }

    pub(crate) fn add_layer(&mut self, digest: Digest, layer: Layer) {
        self.bytes += layer.record.bytes;
        self.inodes += layer.record.inodes;
        if let Some(old) = self.layers.insert(digest, layer) {
            self.bytes -= old.record.bytes;
            self.inodes -= old.record.inodes;
        }
    }

    pub(crate) fn set_recorded(&mut self, digest: &Digest) {
        if let Some(layer) = self.layers.get_mut(digest) {
            layer.recorded = true;
        }
    }

    /// Holds directories, present or still to come.
    pub(crate) fn hold(&mut self, digests: &[Digest]) {
        for digest in digests {
            *self.holders.entry(digest.clone()).or_default() += 1;
        }
    }

    /// Lets go of directories; the dead ones have left the index when this returns.
    #[must_use = "the directories of dead layers are the caller's to remove"]
    pub(crate) fn release(&mut self, digests: &[Digest]) -> Vec<(Digest, Layer)> {
        for digest in digests {
            if let Some(count) = self.holders.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    self.holders.remove(digest);
                }
            }
        }
        self.take_unheld(digests)
    }

    /// Takes out every layer that nobody holds.
    #[must_use = "the directories of dead layers are the caller's to remove"]
    pub(crate) fn take_all_unheld(&mut self) -> Vec<(Digest, Layer)> {
        let all: Vec<_> = self.layers.keys().cloned().collect();
        self.take_unheld(&all)
    }

    fn take_unheld(&mut self, digests: &[Digest]) -> Vec<(Digest, Layer)> {
        let mut dead = Vec::new();
        for digest in digests {
            if self.holders.contains_key(digest) {
                continue;
            }
            if let Some(layer) = self.layers.remove(digest) {
                self.bytes -= layer.record.bytes;
                self.inodes -= layer.record.inodes;
                dead.push((digest.clone(), layer));
            }
        }
        dead
    }

    // --- leases -------------------------------------------------------------------------------------

    /// Adds a lease and holds its directories. False where one of them is not here; nothing changed then.
    pub(crate) fn add_lease(&mut self, key: &str, lease: LeaseRecord) -> bool {
        if !lease.stack.iter().all(|digest| self.layers.contains_key(digest)) {
            return false;
        }
        self.hold(&lease.stack);
        if let Some(old) = self.leases.insert(key.to_owned(), lease) {
            // The same holder again: what it holds now it holds once.
            let dead = self.release(&old.stack);
            debug_assert!(dead.is_empty() || old.stack != self.leases[key].stack);
        }
        true
    }

    pub(crate) fn lease(&self, key: &str) -> Option<&LeaseRecord> {
        self.leases.get(key)
    }

    pub(crate) fn lease_keys(&self) -> impl Iterator<Item = &String> {
        self.leases.keys()
    }

    pub(crate) fn remove_lease(&mut self, key: &str) -> Option<LeaseRecord> {
        self.leases.remove(key)
    }

    // --- images -------------------------------------------------------------------------------------

    /// The records that [`Index::add_image`] would change, this image's own included, as they would be.
    pub(crate) fn changes(
        &self,
        id: &ImageId,
        config: &Arc<ImageConfigData>,
        record: &ImageRecord,
    ) -> Vec<(ImageId, ImageRecord)> {
        let names = || record.repo_tags.iter().chain(&record.repo_digests);
        let losers: BTreeSet<_> =
            names().filter_map(|name| self.names.get(name)).filter(|owner| *owner != id).collect();
        let mut changes: Vec<_> = losers
            .into_iter()
            .filter_map(|loser| {
                let mut record = self.images.get(loser)?.record();
                record.repo_tags.retain(|tag| names().all(|name| name != tag));
                record.repo_digests.retain(|digest| names().all(|name| name != digest));
                Some((loser.clone(), record))
            })
            .collect();
        let own = match self.images.get(id) {
            None => ImageRecord { config: config.raw.clone(), ..record.clone() },
            Some(entry) => {
                let mut entry = entry.clone();
                entry.gain(record);
                entry.record()
            }
        };
        changes.push((id.clone(), own));
        changes
    }

    /// Adds what the store or a pull knows of an image. Its names are taken from whoever had them.
    pub(crate) fn add_image(&mut self, id: &ImageId, config: &Arc<ImageConfigData>, record: &ImageRecord) {
        for name in record.repo_tags.iter().chain(&record.repo_digests) {
            if let Some(owner) = self.names.insert(name.clone(), id.clone())
                && owner != *id
                && let Some(entry) = self.images.get_mut(&owner)
            {
                entry.tags.remove(name);
                entry.digests.remove(name);
            }
        }
        if !self.images.contains_key(id) {
            self.hold(&record.stack);
        }
        let entry = self.images.entry(id.clone()).or_insert_with(|| Entry {
            config: config.clone(),
            stack: record.stack.clone(),
            tags: BTreeSet::new(),
            digests: BTreeSet::new(),
            pulled_at: record.pulled_at,
        });
        entry.gain(record);
    }

    /// Removes an image with all its names; the caller releases the stack that is returned.
    pub(crate) fn remove_image(&mut self, id: &ImageId) -> Option<ImageRecord> {
        let entry = self.images.remove(id)?;
        self.names.retain(|_, owner| owner != id);
        Some(entry.record())
    }

    /// The directories of an image that is here.
    pub(crate) fn stack(&self, id: &ImageId) -> Option<Vec<Digest>> {
        self.images.get(id).map(|entry| entry.stack.clone())
    }

    /// An image as other rooms see it.
    pub(crate) fn image(&self, id: &ImageId) -> Option<Image> {
        let entry = self.images.get(id)?;
        let layers = &entry.config.diff_ids;
        let of_layers: u64 =
            entry.stack.iter().filter_map(|digest| self.layers.get(digest)).map(|l| l.record.bytes).sum();
        Some(Image {
            id: id.clone(),
            repo_tags: entry.tags.iter().cloned().collect(),
            repo_digests: entry.digests.iter().cloned().collect(),
            size: of_layers + entry.config.raw.len() as u64,
            pinned: entry.tags.iter().chain(&entry.digests).any(|name| self.is_pinned(name)),
            pulled_at: entry.pulled_at,
            config: entry.config.clone(),
            layers: layers.clone(),
            chain_id: chain_id(layers),
            stack: entry.stack.clone(),
        })
    }

    /// Every image, oldest first, then by id.
    pub(crate) fn list(&self) -> Vec<Image> {
        let mut images: Vec<_> = self.images.keys().filter_map(|id| self.image(id)).collect();
        images.sort_by(|a, b| (a.pulled_at, &a.id).cmp(&(b.pulled_at, &b.id)));
        images
    }

    /// Finds by id, tag, digest, familiar name or unique id prefix; a name wins over a prefix.
    pub(crate) fn find(&self, text: &str) -> Result<Option<ImageId>, Ambiguous> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if let Ok(digest) = format!("sha256:{hex}").parse::<Digest>()
            && let Some((id, _)) = self.images.get_key_value(&ImageId(digest))
        {
            return Ok(Some(id.clone()));
        }
        if let Ok(reference) = text.parse::<ImageRef>() {
            // The digest decides where both are written; the tag beside it is a remark.
            let name = match (reference.digest(), reference.tagged()) {
                (Some(digest), _) => Some(reference.with_digest(digest)),
                (None, tagged) => tagged,
            };
            if let Some(id) = name.and_then(|name| self.names.get(&name)) {
                return Ok(Some(id.clone()));
            }
        }
        if hex.is_empty() || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(None);
        }
        let mut matching = self.images.keys().filter(|id| id.0.hex().starts_with(hex));
        match (matching.next(), matching.next()) {
            (Some(_), Some(_)) => Err(Ambiguous(text.to_owned())),
            (found, _) => Ok(found.cloned()),
        }
    }

    fn is_pinned(&self, name: &str) -> bool {
        self.pinned.iter().any(|pattern| {
            let normal = pattern.parse::<ImageRef>().map(|reference| reference.to_string());
            normal.is_ok_and(|normal| normal == name) || matches(pattern, name)
        })
    }
}

/// Whether `pattern`, in which `*` stands for any text, matches the whole of `name`.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> ImageId {
        ImageId(Digest::sha256([n; 32]))
    }

    fn record(tags: &[&str], digests: &[&str], stack: &[u8]) -> ImageRecord {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        ImageRecord {
            config: "{}".into(),
            stack: stack.iter().map(|n| Digest::sha256([*n; 32])).collect(),
            repo_tags: own(tags),
            repo_digests: own(digests),
            pulled_at: 1,
        }
    }

    fn config() -> Arc<ImageConfigData> {
        Arc::new(ImageConfigData { raw: "{}".into(), ..Default::default() })
    }

    #[test]
    fn a_tag_that_moves_leaves_the_old_image_its_digests() {
        let mut index = Index::new(vec![]);
        let digests = [1u8, 2].map(|n| format!("docker.io/library/a@{}", Digest::sha256([n; 32])));
        index.add_image(&id(1), &config(), &record(&["docker.io/library/a:1"], &[&digests[0]], &[]));
        let moved = record(&["docker.io/library/a:1"], &[&digests[1]], &[]);
        let changes = index.changes(&id(2), &config(), &moved);
        assert_eq!(changes.len(), 2, "both records are written");
        index.add_image(&id(2), &config(), &moved);
        for (id, record) in changes {
            let image = index.image(&id).unwrap();
            assert_eq!((image.repo_tags, image.repo_digests), (record.repo_tags, record.repo_digests));
        }
        let old = index.image(&id(1)).unwrap();
        assert!(old.repo_tags.is_empty());
        assert_eq!(old.repo_digests, [digests[0].clone()]);
        assert_eq!(index.find("a:1").unwrap(), Some(id(2)));
        assert_eq!(index.find(&digests[0]).unwrap(), Some(id(1)));
    }

    #[test]
    fn images_are_found_by_all_their_names() {
        let mut index = Index::new(vec![]);
        let digest = Digest::sha256([9; 32]);
        let by_digest = format!("docker.io/library/busybox@{digest}");
        index.add_image(
            &id(0xab),
            &config(),
            &record(&["docker.io/library/busybox:1.36"], &[&by_digest], &[]),
        );
        index.add_image(&id(0xac), &config(), &record(&["localhost:5000/abab:latest"], &[], &[]));
        let full = id(0xab).to_string();
        for name in [
            &*full,
            "sha256:abab",
            "abab",
            "busybox:1.36",
            "library/busybox:1.36",
            "docker.io/busybox:1.36",
            &by_digest,
            &format!("busybox@{digest}"),
            &format!("busybox:other@{digest}"),
        ] {
            assert_eq!(index.find(name), Ok(Some(id(0xab))), "{name}");
        }
        for name in ["busybox", "busybox:1.3", "abac", "", "sha256:", "UPPER", "not an image"] {
            assert_eq!(index.find(name), Ok(None), "{name}");
        }
        assert_eq!(index.find("ac"), Ok(Some(id(0xac))));
        assert_eq!(index.find("a"), Err(Ambiguous("a".into())));
    }

    #[test]
    fn a_layer_dies_with_its_last_holder() {
        let mut index = Index::new(vec![]);
        let digest = Digest::sha256([7; 32]);
        let layer =
            Layer { record: LayerRecord { bytes: 10, inodes: 2, ..Default::default() }, recorded: true };
        index.hold(std::slice::from_ref(&digest));
        index.add_layer(digest.clone(), layer);
        index.add_image(&id(1), &config(), &record(&["localhost/a:1"], &[], &[7]));
        assert!(index.release(std::slice::from_ref(&digest)).is_empty(), "the image holds it");
        let lease = LeaseRecord { image: id(1), stack: vec![digest.clone()] };
        assert!(index.add_lease("container/x", lease.clone()));
        assert!(index.add_lease("container/x", lease), "again is as once");
        assert_eq!(index.usage(), (10, 2));
        let stack = index.remove_image(&id(1)).unwrap().stack;
        assert!(index.release(&stack).is_empty(), "the lease holds it");
        assert_eq!(index.find("localhost/a:1"), Ok(None));
        let stack = index.remove_lease("container/x").unwrap().stack;
        assert_eq!(index.release(&stack).len(), 1);
        assert_eq!(index.usage(), (0, 0));
        assert!(!index.add_lease("container/y", LeaseRecord { image: id(1), stack }), "not here any more");
    }

    #[test]
    fn pins_are_names_or_patterns() {
        let mut index = Index::new(vec!["busybox:1".into(), "registry.k8s.io/*".into(), "*pause*".into()]);
        for (n, name, pinned) in [
            (1, "docker.io/library/busybox:1", true),
            (2, "docker.io/library/busybox:12", false),
            (3, "registry.k8s.io/kube-proxy:v1", true),
            (4, "localhost/x/pause:3", true),
        ] {
            index.add_image(&id(n), &config(), &record(&[name], &[], &[]));
            assert_eq!(index.image(&id(n)).unwrap().pinned, pinned, "{name}");
        }
    }
}
