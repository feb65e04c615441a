//! Who is where: pods by id and identity, containers by id, and prefixes of either.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use model::{ContainerId, PodId, PodIdentity};

use crate::driver::Handle;
use crate::error::PodError;
use crate::state::PodView;

/// The pods and containers of this node. Shared by [`crate::Pods`] and the drivers.
#[derive(Clone, Default)]
pub(crate) struct Index {
    tables: Arc<Mutex<Tables>>,
    /// Held for reading while one pod's view changes, for writing while all are looked at: a list is a state that the
    /// node once was in.
    views: Arc<RwLock<()>>,
}

#[derive(Default)]
struct Tables {
    pods: BTreeMap<PodId, Entry>,
    identities: HashMap<PodIdentity, PodId>,
    containers: BTreeMap<ContainerId, PodId>,
}

/// A pod, and what else the tables have of it: it is forgotten without a look at all the others.
struct Entry {
    handle: Handle,
    identity: Option<PodIdentity>,
    containers: BTreeSet<ContainerId>,
}

impl Entry {
    fn new(handle: Handle, identity: Option<PodIdentity>) -> Self {
        Self { handle, identity, containers: BTreeSet::new() }
    }
}

impl Index {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        // No code panics while it holds this lock; a poisoned one is as good as a whole one.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what others see of one pod.
    pub(crate) fn publish(&self, change: impl FnOnce()) {
        let _nobody_lists = self.views.read().unwrap_or_else(PoisonError::into_inner);
        change();
    }

    /// What is to be seen of every pod, all from one moment.
    pub(crate) fn views(&self) -> Vec<Arc<PodView>> {
        let _nobody_changes = self.views.write().unwrap_or_else(PoisonError::into_inner);
        self.tables().pods.values().map(|entry| entry.handle.view()).collect()
    }

    /// The pod that has this identity; where none has it, the one that `make` makes takes it.
    pub(crate) fn claim(&self, identity: &PodIdentity, make: impl FnOnce() -> (PodId, Handle)) -> Handle {
        let mut tables = self.tables();
        if let Some(entry) = tables.identities.get(identity).and_then(|id| tables.pods.get(id)) {
            return entry.handle.clone();
        }
        let (id, handle) = make();
        tables.identities.insert(identity.clone(), id.clone());
        tables.pods.insert(id, Entry::new(handle.clone(), Some(identity.clone())));
        handle
    }

    /// Enters a pod that a restart found, and its identity where that is still its own.
    pub(crate) fn enter(&self, id: PodId, identity: Option<PodIdentity>, handle: Handle) {
        let mut tables = self.tables();
        if let Some(identity) = &identity {
            tables.identities.insert(identity.clone(), id.clone());
        }
        tables.pods.insert(id, Entry::new(handle, identity));
    }

    /// Enters a container of a pod that is here, from when others may see it.
    pub(crate) fn enter_container(&self, id: ContainerId, pod: PodId) {
        let mut tables = self.tables();
        let Some(entry) = tables.pods.get_mut(&pod) else { return };
        entry.containers.insert(id.clone());
        tables.containers.insert(id, pod);
    }

    pub(crate) fn forget_container(&self, id: &ContainerId) {
        let mut tables = self.tables();
        let pod = tables.containers.remove(id);
        if let Some(entry) = pod.and_then(|pod| tables.pods.get_mut(&pod)) {
            entry.containers.remove(id);
        }
    }

    /// Forgets a pod, its identity where that is still its own, and its containers.
    pub(crate) fn forget(&self, id: &PodId) {
        let mut tables = self.tables();
        let Some(Entry { identity, containers, .. }) = tables.pods.remove(id) else { return };
        if let Some(identity) = identity
            && tables.identities.get(&identity) == Some(id)
        {
            tables.identities.remove(&identity);
        }
        for container in &containers {
            tables.containers.remove(container);
        }
    }

    /// Every pod.
    pub(crate) fn pods(&self) -> Vec<Handle> {
        self.tables().pods.values().map(|entry| entry.handle.clone()).collect()
    }

    /// The pod that an id or a unique prefix means.
    pub(crate) fn pod(&self, id: &str) -> Result<Handle, PodError> {
        let tables = self.tables();
        let (_, entry) = by_prefix(&tables.pods, "pod sandbox", id)?
            .ok_or_else(|| PodError::PodNotFound(id.to_owned()))?;
        Ok(entry.handle.clone())
    }

    /// The container that an id or a unique prefix means, and its pod.
    pub(crate) fn container(&self, id: &str) -> Result<(ContainerId, Handle), PodError> {
        let tables = self.tables();
        let not_found = || PodError::ContainerNotFound(id.to_owned());
        let (container, pod) = by_prefix(&tables.containers, "container", id)?.ok_or_else(not_found)?;
        let entry = tables.pods.get(pod).ok_or_else(not_found)?;
        Ok((container.clone(), entry.handle.clone()))
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
