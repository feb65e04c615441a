//! Durable records of pods and containers, in `<root>/pod.redb`.
//!
//! A record is the intent before it is the fact: a pod in phase `Creating` says that any of its steps may
//! have touched the host. See [`crate::state`] for what each phase means after a crash.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{ContainerConfig, ContainerId, ImageId, PodConfig, PodId, Resources, Signal, UnixNanos};
use serde::{Deserialize, Serialize};
use store::{CommitSink, Store, StoreError, Table};

use crate::error::{Cause, PodError};
use crate::state::{ContainerPhase, PodPhase, User};

/// What the network room gave the pod.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) result: serde_json::Value,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) config: Arc<PodConfig>,
    pub(crate) phase: PodPhase,
    pub(crate) created_at: UnixNanos,
    pub(crate) handler: String,
    pub(crate) network: Option<NetworkRecord>,
    /// The parent of its containers' cgroups, as the cgroup driver writes it.
    pub(crate) cgroup_parent: String,
    /// The same, below a hierarchy's root.
    pub(crate) cgroup: String,
    /// The cgroups that were made for it or for pods beside it, outermost first: removed with the last of them.
    pub(crate) cgroups_made: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) pod: PodId,
    pub(crate) config: Arc<ContainerConfig>,
    pub(crate) phase: ContainerPhase,
    pub(crate) created_at: UnixNanos,
    pub(crate) image_id: ImageId,
    pub(crate) image_ref: String,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) resources: Resources,
    pub(crate) user: User,
    pub(crate) stop_signal: Signal,
    pub(crate) cgroup: String,
    /// What a checkpoint has of it, where it goes on from one: read while it is created.
    #[serde(default)]
    pub(crate) restored_from: Option<PathBuf>,
}

const FILE: &str = "pod.redb";
const PODS: Table<PodRecord> = Table::new("pods", 1);
const CONTAINERS: Table<ContainerRecord> = Table::new("containers", 1);
/// One record, written again and again to see whether the store takes it: when that was.
const PROBE: Table<UnixNanos> = Table::new("probe", 1);

/// One durable change; several are committed as one.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Pod(PodId, Box<PodRecord>),
    Container(ContainerId, Box<ContainerRecord>),
    ForgetPod(PodId),
    ForgetContainer(ContainerId),
}

/// Every record, as a restart finds them.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) pods: Vec<(PodId, PodRecord)>,
    pub(crate) containers: Vec<(ContainerId, ContainerRecord)>,
    /// Records that could not be read: kept where they are, told to the operator.
    pub(crate) unreadable: Vec<String>,
}

/// The tables of this room.
#[derive(Clone)]
pub(crate) struct Records(Arc<Store>);

/// The pods that are recorded below a service's root, in words, for when no service runs: nothing is taken over, nothing is
/// touched.
///
/// # Errors
/// A store that cannot be opened or read.
pub fn recorded(root: &Path) -> Result<Vec<String>, PodError> {
    if !root.join(FILE).exists() {
        return Ok(Vec::new());
    }
    let found = Records::open(root, CommitSink::default())?.load()?;
    let pods = found.pods.into_iter().map(|(_, record)| format!("pod {}", record.config.identity));
    let unreadable = found.unreadable.into_iter().map(|why| format!("a record that cannot be read: {why}"));
    Ok(pods.chain(unreadable).collect())
}

impl Records {
    /// Opens `pod.redb` below the service's root.
    pub(crate) fn open(root: &Path, commits: CommitSink) -> Result<Self, PodError> {
        let store = Store::open(&root.join(FILE)).map_err(|e| PodError::Store(Cause::new(e)))?;
        Ok(Self(Arc::new(store.telling(commits))))
    }

    /// Commits changes durably, all or none.
    pub(crate) async fn commit(&self, changes: Vec<Change>) -> Result<(), PodError> {
        let store = Arc::clone(&self.0);
        let committed = tokio::task::spawn_blocking(move || {
            store.write(|write| changes.iter().try_for_each(|change| apply(write, change)))
        });
        match committed.await {
            Ok(result) => result.map_err(|e| PodError::Store(Cause::new(e))),
            Err(_) => Err(PodError::Stopping),
        }
    }

    /// Commits something of no consequence, durably. Blocks.
    pub(crate) fn probe(&self) -> Result<(), StoreError> {
        self.0.write(|write| write.put(&PROBE, "probed_at", &kernel::clock::now()))
    }

    /// Reads everything.
    pub(crate) fn load(&self) -> Result<Found, PodError> {
        let mut found = Found::default();
        let load = |e: StoreError| PodError::Store(Cause::new(e));
        for (key, record) in self.0.list(&PODS).map_err(load)? {
            match (key.parse(), record) {
                (Ok(id), Ok(record)) => found.pods.push((id, record)),
                (_, Err(error)) => found.unreadable.push(model::chain(&error)),
                (Err(error), _) => found.unreadable.push(error.to_string()),
            }
        }
        for (key, record) in self.0.list(&CONTAINERS).map_err(load)? {
            match (key.parse(), record) {
                (Ok(id), Ok(record)) => found.containers.push((id, record)),
                (_, Err(error)) => found.unreadable.push(model::chain(&error)),
                (Err(error), _) => found.unreadable.push(error.to_string()),
            }
        }
        Ok(found)
    }
}

fn apply(write: &mut store::Write<'_>, change: &Change) -> Result<(), StoreError> {
    match change {
        Change::Pod(id, record) => write.put(&PODS, id.as_str(), record),
        Change::Container(id, record) => write.put(&CONTAINERS, id.as_str(), record),
        Change::ForgetPod(id) => write.remove(&PODS, id.as_str()).map(drop),
        Change::ForgetContainer(id) => write.remove(&CONTAINERS, id.as_str()).map(drop),
    }
}
