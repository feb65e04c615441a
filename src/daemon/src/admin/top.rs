//! `GET /top`: what each pod uses now, as counters and levels; `gantline top` makes rates of two answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernel::procfs;
use pod::stats::PodStats;
use pod::{PodError, PodView, Pods};
use serde::{Deserialize, Serialize};

use super::status::runs;

/// The node and its pods at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Top {
    /// When, RFC 3339.
    pub(crate) at: String,
    /// The same, nanoseconds since 1970.
    pub(crate) at_ns: i64,
    /// CPUs that the service may use.
    pub(crate) cpus: usize,
    /// The node's memory, bytes.
    pub(crate) memory_bytes: u64,
    /// What new work could have of it without swapping.
    pub(crate) memory_available_bytes: u64,
    /// By creation.
    pub(crate) pods: Vec<PodUse>,
}

/// What one pod uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PodUse {
    /// Its id.
    pub(crate) id: String,
    /// The Kubernetes namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Where it is in its life, in words.
    pub(crate) state: String,
    /// Its age, seconds.
    pub(crate) age_s: u64,
    /// Containers that run.
    pub(crate) containers_running: usize,
    /// All its containers.
    pub(crate) containers: usize,
    /// How often its containers were started again: the sum of their highest attempts.
    pub(crate) restarts: u64,
    /// When its cgroup was read, nanoseconds since 1970.
    pub(crate) at_ns: i64,
    /// CPU time since the cgroup was made, nanoseconds.
    pub(crate) cpu_ns: Option<u64>,
    /// CPU time per second as the service samples it, nanoseconds.
    pub(crate) cpu_nano_cores: Option<u64>,
    /// Memory that cannot be taken back without harm, bytes.
    pub(crate) memory_bytes: Option<u64>,
    /// When its interfaces were read, nanoseconds since 1970.
    pub(crate) network_at_ns: i64,
    /// Bytes that came over all its interfaces; `None` with the host's network.
    pub(crate) received_bytes: Option<u64>,
    /// Bytes that left.
    pub(crate) transmitted_bytes: Option<u64>,
}

/// Reads it all. The files of cgroups are read on the calling runtime's blocking threads.
///
/// # Errors
/// As [`Pods::pod_stats`].
pub(super) async fn tell(pods: &Pods) -> Result<Top, PodError> {
    let views = pods.list();
    let stats = pods.pod_stats(views.clone()).await?;
    let now = kernel::clock::now();
    let (memory_bytes, memory_available_bytes) = procfs::node_memory().unwrap_or_default();
    Ok(Top {
        at: model::time::rfc3339_text(now),
        at_ns: now,
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes,
        memory_available_bytes,
        pods: views.iter().zip(&stats).map(|(view, stats)| pod_use(view, stats, now)).collect(),
    })
}

fn pod_use(view: &Arc<PodView>, stats: &PodStats, now: i64) -> PodUse {
    let identity = &view.pod.config.identity;
    let usage = stats.usage.as_ref();
    let network = stats.network.as_ref();
    let sum = |of: fn(&pod::stats::InterfaceStats) -> u64| {
        network.map(|network| network.default_interface.iter().chain(&network.interfaces).map(of).sum())
    };
    let attempts =
        view.containers.iter().map(|one| (one.config.name.as_str(), u64::from(one.config.attempt)));
    PodUse {
        id: view.pod.id.to_string(),
        namespace: identity.namespace.clone(),
        name: identity.name.clone(),
        state: view.pod.phase.word().to_owned(),
        age_s: u64::try_from((now - view.pod.created_at) / 1_000_000_000).unwrap_or(0),
        containers_running: view.containers.iter().filter(|one| runs(&one.phase)).count(),
        containers: view.containers.len(),
        restarts: restarts(attempts),
        at_ns: usage.map_or(now, |usage| usage.at),
        cpu_ns: usage.and_then(|usage| usage.cpu_ns),
        cpu_nano_cores: usage.and_then(|usage| usage.cpu_nano_cores),
        memory_bytes: usage.and_then(|usage| usage.working_set),
        network_at_ns: network.map_or(now, |network| network.at),
        received_bytes: sum(|interface| interface.rx_bytes),
        transmitted_bytes: sum(|interface| interface.tx_bytes),
    }
}

/// The kubelet counts a container's restarts in its attempt, and removes old attempts now and then.
fn restarts<'a>(attempts: impl Iterator<Item = (&'a str, u64)>) -> u64 {
    let mut highest: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, attempt) in attempts {
        let known = highest.entry(name).or_default();
        *known = attempt.max(*known);
    }
    highest.values().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_each_containers_highest_attempt() {
        assert_eq!(restarts([("a", 0), ("b", 0)].into_iter()), 0);
        assert_eq!(restarts([("a", 3), ("a", 4), ("b", 1)].into_iter()), 5);
    }
}
