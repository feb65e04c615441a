//! The room as a whole, for those who watch the node: what is there beside the pods themselves. Everything is read from
//! memory and waits for no driver.

use std::collections::HashMap;
use std::time::Duration;

use model::PodIdentity;
use telemetry::StageNow;

use crate::Pods;
use crate::state::PodPhase;
use crate::story::{Doing, Trouble};

/// What the last start took over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Pods that the store held.
    pub pods: usize,
    /// How long it took.
    pub took: Duration,
}

/// The pod room at one moment.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// `None` while it goes on.
    pub recovery: Option<Recovery>,
    /// The processes of the shims that are connected.
    pub shims: Vec<u32>,
    /// Ready pods whose shim is not.
    pub shims_lost: usize,
    /// Records that could not be read at the start, in words; they are left where they are.
    pub unreadable: Vec<String>,
    /// Streams of events that are open.
    pub event_subscribers: usize,
    /// Those that ended because their reader fell behind.
    pub event_overflows: u64,
    /// Work under way, the oldest first.
    pub doing: Vec<(PodIdentity, Doing)>,
    /// The stages under way, the oldest first, and whose they are where that is a pod.
    pub stages: Vec<(StageNow, Option<PodIdentity>)>,
}

impl Pods {
    /// The room as a whole.
    pub fn overview(&self) -> Overview {
        let host = &self.host;
        let stages = host.sandboxes.stages.under_way();
        // Of the pods and containers that are being made, too.
        let mut whose: HashMap<String, PodIdentity> = HashMap::new();
        let mut found = Overview {
            recovery: host.recovery.get().copied(),
            unreadable: host.unreadable.clone(),
            event_subscribers: host.events.subscribers(),
            event_overflows: host.events.overflows(),
            ..Overview::default()
        };
        for handle in host.index.pods() {
            let view = handle.view();
            match view.pod.shim_pid {
                Some(pid) => found.shims.push(pid),
                None if view.pod.phase == PodPhase::Ready => found.shims_lost += 1,
                None => {}
            }
            let (identity, doing) = (&view.pod.config.identity, handle.doing());
            if !stages.is_empty() {
                whose.insert(handle.id.to_string(), identity.clone());
                let containers = view.containers.iter().map(|one| &one.id);
                for container in containers.chain(doing.iter().filter_map(|doing| doing.container.as_ref())) {
                    whose.insert(container.to_string(), identity.clone());
                }
            }
            let doing = doing.into_iter();
            found.doing.extend(doing.map(|doing| (identity.clone(), doing)));
        }
        let named = stages.into_iter().map(|stage| {
            let identity = whose.get(&stage.subject).cloned();
            (stage, identity)
        });
        found.stages = named.collect();
        found.doing.sort_by_key(|(_, doing)| doing.since);
        found
    }

    /// What failed last, the newest first.
    pub fn last_troubles(&self, most: usize) -> Vec<Trouble> {
        self.host.troubles.last(most)
    }
}
