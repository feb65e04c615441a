//! Why a pod is not further: what its driver is doing, at which stage, since when, and what failed before.
//!
//! For `gantline why`, which must answer above all when something hangs: everything here is published or
//! kept beside the drivers, and reading it waits for none of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::limits::TROUBLES_MAX;
use model::{ContainerId, PodId, PodIdentity, UnixNanos};
use telemetry::StageNow;

use crate::Pods;
use crate::driver::Handle;
use crate::state::PodView;

/// Work that a pod's driver has under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doing {
    /// What, for a person: `create`, `stop`, `remove the pod`.
    pub what: &'static str,
    /// The container that it is about; `None`: the pod itself.
    pub container: Option<ContainerId>,
    /// When it began.
    pub since: UnixNanos,
    /// How many callers wait for it.
    pub callers: usize,
}

/// Something that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// When.
    pub at: UnixNanos,
    /// Of which pod.
    pub pod: PodId,
    /// Who that was: a pod that could not be made is known by nothing else.
    pub identity: PodIdentity,
    /// The container that it was about, if any.
    pub container: Option<ContainerId>,
    /// What was attempted.
    pub what: &'static str,
    /// The error with its causes.
    pub message: String,
}

/// What failed last on this node, the oldest first; bounded.
#[derive(Debug, Default)]
pub(crate) struct Troubles(Mutex<VecDeque<Trouble>>);

impl Troubles {
    pub(crate) fn note(&self, trouble: Trouble) {
        let mut kept = self.lock();
        if kept.len() == TROUBLES_MAX {
            kept.pop_front();
        }
        kept.push_back(trouble);
    }

    /// The last ones, the newest first.
    pub(crate) fn last(&self, most: usize) -> Vec<Trouble> {
        self.lock().iter().rev().take(most).cloned().collect()
    }

    fn of(&self, is_meant: impl Fn(&Trouble) -> bool) -> Vec<Trouble> {
        self.lock().iter().filter(|trouble| is_meant(trouble)).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Trouble>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that is known of why one pod is where it is.
#[derive(Clone, Debug)]
pub struct Story {
    /// Who it is.
    pub identity: PodIdentity,
    /// The pod; `None` when it is gone and only its troubles are left.
    pub view: Option<Arc<PodView>>,
    /// What is being done, by kind and container.
    pub doing: Vec<Doing>,
    /// Requests that wait for the driver to look at them.
    pub queued: usize,
    /// The stages of that work which are under way, the oldest first.
    pub stages: Vec<StageNow>,
    /// What failed, the oldest first.
    pub troubles: Vec<Trouble>,
}

impl Pods {
    /// The stories of every pod that `wanted` means: an id, a prefix of one, `namespace/name` or a name. Those that
    /// are being made are told too, and those that could not be.
    pub fn stories(&self, wanted: &str) -> Vec<Story> {
        let means = |id: &PodId, identity: &PodIdentity| {
            wanted == identity.name
                || wanted.split_once('/') == Some((&identity.namespace, &identity.name))
                || (!wanted.is_empty() && id.as_str().starts_with(wanted))
        };
        let mut troubles = self.host.troubles.of(|trouble| means(&trouble.pod, &trouble.identity));
        let mut stories = Vec::new();
        for handle in self.host.index.pods() {
            let view = handle.view();
            if means(&handle.id, &view.pod.config.identity) {
                let (its, others) = troubles.into_iter().partition(|trouble| trouble.pod == handle.id);
                troubles = others;
                stories.push(self.story(&handle, view, its));
            }
        }
        // What is left belongs to pods that are gone.
        for trouble in troubles {
            match stories.iter_mut().find(|story| story.identity == trouble.identity) {
                Some(story) => story.troubles.push(trouble),
                None => stories.push(Story {
                    identity: trouble.identity.clone(),
                    view: None,
                    doing: Vec::new(),
                    queued: 0,
                    stages: Vec::new(),
                    troubles: vec![trouble],
                }),
            }
        }
        for story in &mut stories {
            story.troubles.sort_by_key(|trouble| trouble.at);
        }
        stories
    }

    fn story(&self, handle: &Handle, view: Arc<PodView>, troubles: Vec<Trouble>) -> Story {
        let doing = handle.doing();
        let is_its = |subject: &str| {
            subject == handle.id.as_str()
                || doing.iter().any(|doing| doing.container.as_ref().is_some_and(|id| id.as_str() == subject))
        };
        let mut stages = self.host.sandboxes.stages.under_way();
        stages.retain(|stage| is_its(&stage.subject));
        let identity = view.pod.config.identity.clone();
        Story { identity, view: Some(view), queued: handle.queued(), doing, stages, troubles }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_trouble_makes_room() {
        let troubles = Troubles::default();
        for at in 0..=i64::try_from(TROUBLES_MAX).unwrap() {
            troubles.note(Trouble {
                at,
                pod: PodId::from_bytes([7; 32]),
                identity: PodIdentity {
                    namespace: "default".into(),
                    name: "web".into(),
                    uid: "u".into(),
                    attempt: 0,
                },
                container: None,
                what: "run",
                message: "no".into(),
            });
        }
        let kept = troubles.of(|_| true);
        assert_eq!(kept.len(), TROUBLES_MAX);
        assert_eq!(kept[0].at, 1);
    }
}
