//! The journal of owed DELs. A record is written before the first plugin of an ADD runs and is removed after the
//! last plugin of the DEL succeeded; it holds all that the DEL needs, whatever became of the configuration, the
//! network namespace or the service in between.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::PodId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use store::{CommitSink, Store, StoreError, Table};

use crate::NetworkError;

const OWED: Table<Owed> = Table::new("owed", 1);
const NODE: Table<Vec<String>> = Table::new("node", 1);
const POD_CIDRS: &str = "pod-cidrs";

/// One attachment: made, half made, or about to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Owed {
    /// CNI_CONTAINERID: the pod's id.
    pub(crate) container_id: String,
    /// The network list it is made with, in one version.
    pub(crate) config: Map<String, Value>,
    /// Where the network namespace was pinned.
    pub(crate) netns: PathBuf,
    /// CNI_IFNAME.
    pub(crate) if_name: String,
    /// CNI_ARGS.
    pub(crate) args: Vec<(String, String)>,
    /// Every capability argument; each plugin gets what it declares.
    pub(crate) capabilities: Map<String, Value>,
    /// What the ADD gave, once it succeeded. The result cache has it too, but others may clean that.
    pub(crate) result: Option<Value>,
}

impl Owed {
    /// The network's name.
    pub(crate) fn network(&self) -> &str {
        self.config.get("name").and_then(Value::as_str).unwrap_or_default()
    }
}

/// The ids of the pods whose DEL is owed in the journal below a service's root, for when no service runs.
///
/// # Errors
/// A journal that cannot be opened or read.
pub fn owed(root: &Path) -> Result<Vec<String>, NetworkError> {
    if !file(root).exists() {
        return Ok(Vec::new());
    }
    Ok(Journal::open(root, CommitSink::default())?.known())
}

fn file(root: &Path) -> PathBuf {
    root.join("network/store.redb")
}

/// The journal. Cheap to clone; every call runs on the blocking pool, because a commit waits for the disk.
#[derive(Clone)]
pub(crate) struct Journal {
    store: Arc<Store>,
    /// The keys of the records, for those who may not wait for the disk.
    owed: Arc<Mutex<HashSet<String>>>,
}

impl Journal {
    /// Opens or makes `<root>/network/store.redb`.
    pub(crate) fn open(root: &Path, commits: CommitSink) -> Result<Self, NetworkError> {
        let dir = root.join("network");
        std::fs::create_dir_all(&dir).map_err(|e| NetworkError::Host {
            attempt: "make the network journal's directory",
            source: kernel::SysError::path("mkdir", &dir, e),
        })?;
        let store = Store::open(&file(root)).map_err(failed("open"))?.telling(commits);
        let all = store.list(&OWED).map_err(failed("list owed DELs"))?;
        let owed = all.into_iter().map(|(key, _)| key).collect();
        Ok(Self { store: Arc::new(store), owed: Arc::new(Mutex::new(owed)) })
    }

    /// The ids of all pods that something is owed to, from memory.
    pub(crate) fn known(&self) -> Vec<String> {
        self.keys().iter().cloned().collect()
    }

    fn keys(&self) -> MutexGuard<'_, HashSet<String>> {
        // Each change is one insertion or removal.
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on a DEL is owed to the pod.
    pub(crate) async fn owe(&self, pod: &PodId, owed: Owed) -> Result<(), NetworkError> {
        let key = pod.clone();
        self.blocking("write an owed DEL", move |store| store.write(|w| w.put(&OWED, key.as_str(), &owed)))
            .await?;
        self.keys().insert(pod.to_string());
        Ok(())
    }

    /// What is owed to the pod, if anything.
    pub(crate) async fn owed(&self, pod: &PodId) -> Result<Option<Owed>, NetworkError> {
        let pod = pod.clone();
        self.blocking("read an owed DEL", move |store| store.get(&OWED, pod.as_str())).await
    }

    /// Nothing is owed to the pod any more.
    pub(crate) async fn paid(&self, pod: &PodId) -> Result<(), NetworkError> {
        let key = pod.clone();
        self.blocking("remove an owed DEL", move |store| {
            store.write(|w| w.remove(&OWED, key.as_str())).map(drop)
        })
        .await?;
        self.keys().remove(pod.as_str());
        Ok(())
    }

    /// Every pod that something is owed to. A record that cannot be read is told and does not hide the others.
    pub(crate) async fn pods(&self) -> Result<Vec<PodId>, NetworkError> {
        let all = self.blocking("list owed DELs", |store| store.list(&OWED)).await?;
        let mut pods = Vec::new();
        for (key, record) in all {
            if let Err(e) = record {
                tracing::error!(pod.id = %key, error = %model::chain(&e), "the record of an owed DEL is lost");
            } else if let Ok(pod) = key.parse() {
                pods.push(pod);
            }
        }
        Ok(pods)
    }

    /// The node's pod CIDRs, as the kubelet last said them.
    pub(crate) fn pod_cidrs(&self) -> Result<Vec<String>, NetworkError> {
        Ok(self.store.get(&NODE, POD_CIDRS).map_err(failed("read the pod CIDRs"))?.unwrap_or_default())
    }

    /// Keeps them: the kubelet says them once.
    pub(crate) fn set_pod_cidrs(&self, cidrs: &Vec<String>) -> Result<(), NetworkError> {
        self.store.write(|w| w.put(&NODE, POD_CIDRS, cidrs)).map_err(failed("write the pod CIDRs"))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        attempt: &'static str,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let store = Arc::clone(&self.store);
        blocking(move || work(&store)).await?.map_err(failed(attempt))
    }
}

/// Runs what waits for the disk on the blocking pool.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NetworkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => Err(NetworkError::Ending),
    }
}

fn failed(attempt: &'static str) -> impl FnOnce(StoreError) -> NetworkError {
    move |source| NetworkError::Journal { attempt, source }
}
