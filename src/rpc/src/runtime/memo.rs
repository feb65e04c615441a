//! Items of lists, encoded once for as long as what they tell of does not change.
//!
//! A kubelet asks for every pod and every container each second, and between two of its questions hardly any of them
//! changes. Their strings would be copied, encoded and given back each time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use model::PodId;
use pod::{ContainerInView, PodView};

use crate::convert::reply;
use crate::streams::encoded;

/// Pods that may be gone and still be kept, whatever there is.
const SPARE: usize = 16;

/// What was encoded, by pod.
#[derive(Default)]
pub(super) struct Memo(Mutex<HashMap<PodId, Arc<Items>>>);

struct Items {
    /// What they were made from. Weak: it is kept by those who work with it; nothing else takes its address meanwhile.
    view: Weak<PodView>,
    revision: u64,
    pod: Bytes,
    /// In the order of the view.
    containers: Vec<Bytes>,
}

impl Memo {
    /// A pod, as ListPodSandbox tells it.
    pub(super) fn pod(&self, view: &Arc<PodView>) -> Bytes {
        self.items(view).pod.clone()
    }

    /// A container, as ListContainers tells it.
    pub(super) fn container(&self, container: &ContainerInView) -> Bytes {
        self.items(container.view()).containers[container.place()].clone()
    }

    /// Gives back what is kept of pods that are gone, where there is more of it than of all those that are there: `live`,
    /// or somewhat more.
    pub(super) fn trim(&self, live: usize) {
        let mut kept = self.kept();
        if kept.len() > 2 * live + SPARE {
            kept.retain(|_, items| items.view.strong_count() > 0);
            kept.shrink_to_fit();
        }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<PodId, Arc<Items>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn items(&self, view: &Arc<PodView>) -> Arc<Items> {
        if let Some(items) = self.kept().get(&view.pod.id)
            && std::ptr::eq(items.view.as_ptr(), Arc::as_ptr(view))
        {
            return Arc::clone(items);
        }
        // Nobody waits meanwhile: two who make the same make it alike.
        let items = Arc::new(Items::of(view));
        let mut kept = self.kept();
        // One who goes through an older list takes nothing away from the others.
        if kept.get(&view.pod.id).is_none_or(|others| others.revision <= items.revision) {
            kept.insert(view.pod.id.clone(), Arc::clone(&items));
        }
        items
    }
}

impl Items {
    fn of(view: &Arc<PodView>) -> Self {
        Self {
            view: Arc::downgrade(view),
            revision: view.revision,
            pod: encoded(&reply::pod_sandbox(&view.pod)),
            containers: view.containers.iter().map(|one| encoded(&reply::container(one))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use api::v1;
    use pod::PodPhase;
    use prost::Message as _;

    use super::*;
    use crate::convert::fixture;

    #[test]
    fn what_did_not_change_is_encoded_once_and_what_did_is_told_as_it_is() {
        let memo = Memo::default();
        let ready = Arc::new(fixture::view());
        let first = memo.pod(&ready);
        assert_eq!(v1::PodSandbox::decode(first.clone()).unwrap(), reply::pod_sandbox(&ready.pod));
        assert_eq!(memo.pod(&ready).as_ptr(), first.as_ptr(), "the very same bytes");
        let container = ContainerInView::all(&ready).next().unwrap();
        let told = v1::Container::decode(memo.container(&container)).unwrap();
        assert_eq!(told, reply::container(&container));

        let mut stopped = fixture::view();
        stopped.pod.phase = PodPhase::Stopping;
        stopped.containers.clear();
        stopped.revision += 1;
        let stopped = Arc::new(stopped);
        let second = memo.pod(&stopped);
        let told = v1::PodSandbox::decode(second.clone()).unwrap();
        assert_eq!(told.state(), v1::PodSandboxState::SandboxNotready);
        // Somebody still has the older one in a list: he is told of that one, and the newer one stays.
        let told = v1::Container::decode(memo.container(&container)).unwrap();
        assert_eq!(told, reply::container(&container));
        assert_eq!(memo.pod(&stopped).as_ptr(), second.as_ptr());
        assert_eq!(memo.kept().len(), 1);
    }

    #[test]
    fn pods_that_are_gone_are_given_back() {
        let memo = Memo::default();
        let view = |number: u32| {
            let mut view = fixture::view();
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            view.pod.id = PodId::from_bytes(bytes);
            Arc::new(view)
        };
        let views: Vec<_> = (0..1_000).map(view).collect();
        views.iter().for_each(|view| drop(memo.pod(view)));
        memo.trim(views.len());
        assert_eq!(memo.kept().len(), 1_000);
        let last = views.last().cloned();
        drop(views);
        memo.trim(1);
        assert_eq!(memo.kept().len(), 1);
        drop(last);
    }
}
