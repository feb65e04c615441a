//! Items of lists, encoded once for as long as what they tell of does not change.
//!
//! A kubelet asks for every pod and every container each second, and between two of its questions hardly any of them
//! changes. Their strings would be copied, encoded and given back each time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use model::PodId;
use pod::{ContainerInView, PodView};

use crate::convert::reply;
use crate::streams::encoded;

/// What was encoded, by pod.
#[derive(Default)]
pub(super) struct Memo(Mutex<Told>);

#[derive(Default)]
struct Told {
    pods: HashMap<PodId, Arc<Items>>,
    /// How many pods there may be before those that are gone are looked for.
    room: usize,
}

struct Items {
    /// What they were made from. Weak: it is kept by those who work with it; nothing else takes its address meanwhile.
    view: Weak<PodView>,
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

    fn items(&self, view: &Arc<PodView>) -> Arc<Items> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match told.pods.get(&view.pod.id) {
            Some(items) if std::ptr::eq(items.view.as_ptr(), Arc::as_ptr(view)) => Arc::clone(items),
            _ => {
                let items = Arc::new(Items::of(view));
                told.keep(view.pod.id.clone(), Arc::clone(&items));
                items
            }
        }
    }
}

impl Told {
    fn keep(&mut self, id: PodId, items: Arc<Items>) {
        self.pods.insert(id, items);
        if self.pods.len() > self.room {
            self.pods.retain(|_, items| items.view.strong_count() > 0);
            self.room = 2 * self.pods.len() + 16;
        }
    }
}

impl Items {
    fn of(view: &Arc<PodView>) -> Self {
        Self {
            view: Arc::downgrade(view),
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

    fn memorised(memo: &Memo) -> usize {
        memo.0.lock().unwrap().pods.len()
    }

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
        let stopped = Arc::new(stopped);
        let told = v1::PodSandbox::decode(memo.pod(&stopped)).unwrap();
        assert_eq!(told.state(), v1::PodSandboxState::SandboxNotready);
        // Somebody still has the older one in a list.
        let told = v1::Container::decode(memo.container(&container)).unwrap();
        assert_eq!(told, reply::container(&container));
        assert_eq!(memorised(&memo), 1);
    }

    #[test]
    fn pods_that_are_gone_are_forgotten() {
        let memo = Memo::default();
        for number in 0..1_000_u32 {
            let mut view = fixture::view();
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            view.pod.id = PodId::from_bytes(bytes);
            memo.pod(&Arc::new(view));
        }
        assert!(memorised(&memo) < 40, "{}", memorised(&memo));
    }
}
