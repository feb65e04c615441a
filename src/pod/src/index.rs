//! Who is where: pods by id and identity, containers by id, and prefixes of either.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{ContainerId, PodId, PodIdentity};

use crate::driver::Handle;
use crate::error::PodError;

/// The pods and containers of this node. Shared by [`crate::Pods`] and the drivers.
#[derive(Clone, Default)]
pub(crate) struct Index(Arc<Mutex<Tables>>);

#[derive(Default)]
struct Tables {
    pods: BTreeMap<PodId, Handle>,
    identities: HashMap<PodIdentity, PodId>,
    containers: BTreeMap<ContainerId, PodId>,
}

impl Index {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        // No code panics while it holds this lock; a poisoned one is as good as a whole one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pod that has this identity; where none has it, the one that `make` makes takes it.
    pub(crate) fn claim(&self, identity: &PodIdentity, make: impl FnOnce() -> (PodId, Handle)) -> Handle {
        let mut tables = self.tables();
        if let Some(handle) = tables.identities.get(identity).and_then(|id| tables.pods.get(id)) {
            return handle.clone();
        }
        let (id, handle) = make();
        tables.identities.insert(identity.clone(), id.clone());
        tables.pods.insert(id, handle.clone());
        handle
    }

    /// Enters a pod that a restart found, and its identity where that is still its own.
    pub(crate) fn enter(&self, id: PodId, identity: Option<PodIdentity>, handle: Handle) {
        let mut tables = self.tables();
        if let Some(identity) = identity {
            tables.identities.insert(identity, id.clone());
        }
        tables.pods.insert(id, handle);
    }

    /// Enters a container, from when others may see it.
    pub(crate) fn enter_container(&self, id: ContainerId, pod: PodId) {
        self.tables().containers.insert(id, pod);
    }

    pub(crate) fn forget_container(&self, id: &ContainerId) {
        self.tables().containers.remove(id);
    }

    /// Forgets a pod, its identity and its containers.
    pub(crate) fn forget(&self, id: &PodId) {
        let mut tables = self.tables();
        tables.pods.remove(id);
        tables.identities.retain(|_, owner| owner != id);
        tables.containers.retain(|_, pod| pod != id);
    }

    /// Every pod.
    pub(crate) fn pods(&self) -> Vec<Handle> {
        self.tables().pods.values().cloned().collect()
    }

    /// The pod that an id or a unique prefix means.
    pub(crate) fn pod(&self, id: &str) -> Result<Handle, PodError> {
        let tables = self.tables();
        let (_, handle) = by_prefix(&tables.pods, "pod sandbox", id)?
            .ok_or_else(|| PodError::PodNotFound(id.to_owned()))?;
        Ok(handle.clone())
    }

    /// The container that an id or a unique prefix means, and its pod.
    pub(crate) fn container(&self, id: &str) -> Result<(ContainerId, Handle), PodError> {
        let tables = self.tables();
        let not_found = || PodError::ContainerNotFound(id.to_owned());
        let (container, pod) = by_prefix(&tables.containers, "container", id)?.ok_or_else(not_found)?;
        let handle = tables.pods.get(pod).ok_or_else(not_found)?;
        Ok((container.clone(), handle.clone()))
    }
}

/// The one entry whose key begins with `prefix`.
fn by_prefix<'a, K, V>(
    table: &'a BTreeMap<K, V>,
    what: &'static str,
    prefix: &str,
) -> Result<Option<(&'a K, &'a V)>, PodError>
where
    K: Ord + Borrow<str>,
{
    // The empty string is a prefix of everything and means nothing.
    if prefix.is_empty() {
        return Err(PodError::Invalid { field: "id", why: format!("the {what} id is empty") });
    }
    let from = (Bound::Included(prefix), Bound::Unbounded);
    let mut found =
        table.range::<str, _>(from).take_while(|(key, _)| Borrow::<str>::borrow(*key).starts_with(prefix));
    let first = found.next();
    match found.count() {
        0 => Ok(first),
        more => Err(PodError::Ambiguous { what, prefix: prefix.to_owned(), count: more + 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_means_the_one_key_that_has_it() {
        let ids = [[0xab; 32], [0xac; 32], [0x10; 32]].map(PodId::from_bytes);
        let table: BTreeMap<PodId, ()> = ids.iter().map(|id| (id.clone(), ())).collect();
        let find = |prefix: &str| {
            by_prefix(&table, "pod sandbox", prefix).map(|found| found.map(|(id, ())| id.clone()))
        };
        assert_eq!(find("1").unwrap().as_ref(), Some(&ids[2]));
        assert_eq!(find("ab").unwrap().as_ref(), Some(&ids[0]));
        assert_eq!(find(ids[1].as_str()).unwrap().as_ref(), Some(&ids[1]));
        assert_eq!(find("f").unwrap(), None);
        assert!(matches!(find("a"), Err(PodError::Ambiguous { count: 2, .. })));
        assert!(matches!(find(""), Err(PodError::Invalid { .. })));
    }
}
