//! The pod network by CNI: each pod's way into it and out of it.
//!
//! ```text
//!            attach                                          detach, collect
//! nothing ──────────▶ owed ──ADD──▶ attached (still owed) ──────DEL──────▶ nothing
//!                      │ ADD fails: DEL at once                │ fails
//!                      └──────────▶ nothing, or owed ◀─────────┘
//! ```
//! "Owed" is a record in the journal; it goes when the DEL succeeded, and only then.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use kernel::namespace;
use model::{PodId, chain as tell};
use serde_json::Value;
use store::CommitSink;
use telemetry::Stages;
use tokio::sync::{OwnedMutexGuard, RwLock};
use tokio::task::JoinHandle;

use crate::cache::Cache;
use crate::chain::Chain;
use crate::conf::{self, NetworkList};
use crate::journal::{Journal, Owed, blocking};
use crate::readiness::Readiness;
use crate::template::{self, Fields};
use crate::{
    Attach, Attached, IpPreference, NetworkError, NetworkStatus, POD_INTERFACE, PodNetwork, capability,
    orphan, result,
};

/// What the template becomes, in the configuration directory.
const TEMPLATE_FILE: &str = "10-gantline-net.conflist";
/// DELs that run at once when everything owed is collected.
const COLLECT_CONCURRENCY: usize = 4;

/// Where things are and how long they may take.
#[derive(Clone, Debug)]
pub struct CniConfig {
    /// Network configurations: `/etc/cni/net.d`.
    pub conf_dir: PathBuf,
    /// Plugins, looked for in this order: `/opt/cni/bin`.
    pub bin_dirs: Vec<PathBuf>,
    /// The result cache that libcni shares: `/var/lib/cni`.
    pub cache_dir: PathBuf,
    /// Where network namespaces are pinned: `/run/netns`.
    pub netns_dir: PathBuf,
    /// From which UpdateRuntimeConfig makes a configuration.
    pub conf_template: Option<PathBuf>,
    /// The journal lies in `network/` below it.
    pub root: PathBuf,
    /// What one invocation of one plugin may take (`model::limits::CNI_PLUGIN_MAX`).
    pub plugin_deadline: Duration,
    /// Which of a pod's addresses comes first.
    pub ip_preference: IpPreference,
    /// Who is told how long commits of the journal take.
    pub commits: CommitSink,
    /// Where the plugins' invocations are timed.
    pub stages: Stages,
}

/// The pod network by CNI.
pub struct Cni {
    inner: Inner,
    refresher: JoinHandle<()>,
}

impl Drop for Cni {
    fn drop(&mut self) {
        self.refresher.abort();
    }
}

struct Inner {
    config: CniConfig,
    chain: Arc<Chain>,
    cache: Arc<Cache>,
    journal: Journal,
    readiness: Arc<Readiness>,
    pods: Locks,
    /// Attached by this process, and nobody asked for their end yet: live, whatever list a collection was given.
    engaged: Mutex<HashSet<PodId>>,
    /// Read by attachments, written by GC: a plugin must not be told that an attachment under way is invalid.
    collecting: RwLock<()>,
}

impl Cni {
    /// Opens the journal, reads the configuration and begins to watch it. A missing or bad configuration is no
    /// failure: [`PodNetwork::status`] tells. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A journal that cannot be opened.
    pub fn open(config: CniConfig) -> Result<Self, NetworkError> {
        let chain =
            Arc::new(Chain::new(config.bin_dirs.clone(), config.plugin_deadline, config.stages.clone()));
        let journal = Journal::open(&config.root, config.commits.clone())?;
        let readiness =
            Arc::new(Readiness::new(config.conf_dir.clone(), config.bin_dirs.clone(), Arc::clone(&chain)));
        let refresher = tokio::spawn(Arc::clone(&readiness).keep_fresh());
        let inner = Inner {
            chain,
            cache: Arc::new(Cache::new(&config.cache_dir)),
            journal,
            readiness,
            pods: Locks::default(),
            engaged: Mutex::default(),
            collecting: RwLock::new(()),
            config,
        };
        Ok(Self { inner, refresher })
    }
}

impl Inner {
    fn engaged(&self) -> MutexGuard<'_, HashSet<PodId>> {
        self.engaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attachment from the record of its DEL on.
    async fn connect(
        &self,
        request: &Attach,
        list: &NetworkList,
        owed: &Owed,
    ) -> Result<Attached, NetworkError> {
        let netns = request.netns.clone();
        // Both wait for the disk or the kernel, and neither for the other.
        let (journaled, up) = tokio::join!(
            self.journal.owe(&request.pod, owed.clone()),
            blocking(move || crate::lo_up(&netns))
        );
        journaled?;
        up?.map_err(|source| NetworkError::Host {
            attempt: "bring up the pod's loopback interface",
            source,
        })?;
        let result = self.chain.add(list, owed).await?;
        let attached = Owed { result: Some(result.clone()), ..owed.clone() };
        let (cache, cached, of) = (Arc::clone(&self.cache), attached.clone(), result.clone());
        let (written, journaled) = tokio::join!(
            blocking(move || cache.write(&cached, &of)),
            self.journal.owe(&request.pod, attached)
        );
        written?.map_err(|source| NetworkError::Host { attempt: "write the CNI result cache", source })?;
        journaled?;
        let ips = result::addresses(&result, POD_INTERFACE, self.config.ip_preference);
        if ips.is_empty() {
            return Err(NetworkError::NoAddress { network: list.name.clone(), interface: POD_INTERFACE });
        }
        Ok(Attached { ips, interface: POD_INTERFACE.to_owned(), result })
    }

    /// Performs what is owed to a pod. The caller holds the pod's lock.
    async fn pay(&self, pod: &PodId) -> Result<(), NetworkError> {
        let Some(owed) = self.journal.owed(pod).await? else { return Ok(()) };
        let list = recorded_list(pod, &owed)?;
        if owed.result.is_none() {
            let id = owed.container_id.clone();
            let killed = blocking(move || orphan::sweep(&id)).await?;
            if killed > 0 {
                tracing::warn!(pod.id = %pod, killed, "killed CNI plugins that an interrupted ADD had left running");
            }
        }
        let result = self.cache.result(&owed).or_else(|| owed.result.clone());
        // A namespace that is gone took its interfaces along; plugins still have addresses and rules to free.
        let netns = namespace::is_pinned(&owed.netns).then_some(owed.netns.as_path());
        self.chain.del(&list, &owed, netns, result.as_ref()).await?;
        let cache = Arc::clone(&self.cache);
        blocking(move || cache.remove(&owed))
            .await?
            .map_err(|source| NetworkError::Host { attempt: "remove from the CNI result cache", source })?;
        self.journal.paid(pod).await
    }

    async fn pay_stale(&self, pod: &PodId) {
        let _pod = self.pods.lock(pod).await;
        match self.pay(pod).await {
            Ok(()) => tracing::info!(pod.id = %pod, "the network of a pod that is gone was cleaned up"),
            Err(e) => {
                tracing::warn!(pod.id = %pod, error = %tell(&e), "the network of a pod that is gone stays owed");
            }
        }
    }

    /// CNI GC with every attachment that may still be valid: ours that are not `stale`, and those that others
    /// made in the same network and cache, which are not ours to judge.
    async fn gc(&self, live: &[PodId], stale: &HashSet<PodId>) -> Result<(), NetworkError> {
        let list = self.readiness.chosen().await?;
        let list = self.chain.negotiate(&list).await?;
        let _no_attachments = self.collecting.write().await;
        let ours = self.journal.pods().await?;
        let ours = live.iter().chain(ours.iter().filter(|pod| !stale.contains(*pod)));
        let mut valid: Vec<_> = ours.map(|pod| (pod.to_string(), POD_INTERFACE.to_owned())).collect();
        let others = self.cache.attachments(&list.name).into_iter();
        let others = others.filter(|a| !stale.iter().any(|pod| pod.as_str() == a.container_id));
        valid.extend(others.map(|a| (a.container_id, a.if_name)));
        valid.sort_unstable();
        valid.dedup();
        for e in self.chain.gc(&list, &valid).await {
            tracing::warn!(error = %tell(&e), "CNI GC failed");
        }
        Ok(())
    }
}

fn recorded_list(pod: &PodId, owed: &Owed) -> Result<NetworkList, NetworkError> {
    let list = NetworkList::from_object(owed.config.clone());
    list.map_err(|source| NetworkError::Record { pod: pod.clone(), source: Box::new(source) })
}

#[async_trait]
impl PodNetwork for Cni {
    async fn attach(&self, request: &Attach) -> Result<Attached, NetworkError> {
        let inner = &self.inner;
        let pod = &request.pod;
        let args = capability::args(request)?;
        let capabilities = capability::arguments(request, &inner.journal.pod_cidrs()?)?;
        let _pod = inner.pods.lock(pod).await;
        let _attaching = inner.collecting.read().await;
        // An attachment that was cut short: CNI forbids a second ADD without a DEL.
        inner.pay(pod).await?;
        let list = inner.readiness.chosen().await?;
        let list = inner.chain.negotiate(&list).await?;
        let owed = Owed {
            container_id: pod.to_string(),
            config: list.object().clone(),
            netns: request.netns.clone(),
            if_name: POD_INTERFACE.to_owned(),
            args,
            capabilities,
            result: None,
        };
        inner.engaged().insert(pod.clone());
        let first = match inner.connect(request, &list, &owed).await {
            Ok(attached) => return Ok(attached),
            Err(first) => first,
        };
        inner.engaged().remove(pod);
        Err(match inner.pay(pod).await {
            Ok(()) => first,
            Err(undo) => {
                NetworkError::AndUndo { pod: pod.clone(), undo: tell(&undo), first: Box::new(first) }
            }
        })
    }

    async fn detach(&self, pod: &PodId) -> Result<(), NetworkError> {
        let _pod = self.inner.pods.lock(pod).await;
        self.inner.engaged().remove(pod);
        self.inner.pay(pod).await
    }

    async fn check(&self, pod: &PodId) -> Result<(), NetworkError> {
        let inner = &self.inner;
        let _pod = inner.pods.lock(pod).await;
        let not_attached = || NetworkError::NotAttached { pod: pod.clone() };
        let owed = inner.journal.owed(pod).await?.ok_or_else(not_attached)?;
        let result = inner.cache.result(&owed).or_else(|| owed.result.clone()).ok_or_else(not_attached)?;
        inner.chain.check(&recorded_list(pod, &owed)?, &owed, &result).await
    }

    async fn collect(&self, live: &[PodId]) {
        // Listed before anything is awaited for long: what is attached from here on is not judged.
        let owed = match self.inner.journal.pods().await {
            Ok(owed) => owed,
            Err(e) => {
                tracing::error!(error = %tell(&e), "cannot tell which DELs are owed");
                return;
            }
        };
        let stale: HashSet<PodId> = {
            let engaged = self.inner.engaged();
            owed.into_iter().filter(|pod| !live.contains(pod) && !engaged.contains(pod)).collect()
        };
        futures_util::stream::iter(&stale)
            .for_each_concurrent(COLLECT_CONCURRENCY, |pod| self.inner.pay_stale(pod))
            .await;
        if let Err(e) = self.inner.gc(live, &stale).await {
            tracing::debug!(error = %tell(&e), "no CNI GC");
        }
    }

    fn status(&self) -> NetworkStatus {
        self.inner.readiness.status()
    }

    fn owed(&self) -> Vec<String> {
        self.inner.journal.known()
    }

    fn reconfigure(&self, pod_cidr: &str) -> Result<(), NetworkError> {
        if pod_cidr.is_empty() {
            return Ok(());
        }
        let config = &self.inner.config;
        let cidrs = template::parse_cidrs(pod_cidr).map_err(NetworkError::PodCidr)?;
        self.inner.journal.set_pod_cidrs(&cidrs)?;
        let Some(template) = &config.conf_template else { return Ok(()) };
        if conf::discover(&config.conf_dir).chosen.is_some() {
            return Ok(());
        }
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| NetworkError::Template {
            path: template.clone(),
            source,
        };
        let text = std::fs::read_to_string(template).map_err(|e| failed(Box::new(e)))?;
        let rendered = template::render(&text, &Fields::new(&cidrs)).map_err(|e| failed(Box::new(e)))?;
        // Before it is written: a configuration that cannot be used helps nobody there.
        conf::parse(rendered.as_bytes())
            .and_then(NetworkList::from_object)
            .map_err(|e| failed(Box::new(e)))?;
        let host = |source| NetworkError::Host { attempt: "write the CNI configuration", source };
        std::fs::create_dir_all(&config.conf_dir)
            .map_err(|e| host(kernel::SysError::path("mkdir", &config.conf_dir, e)))?;
        kernel::durable::write(&config.conf_dir.join(TEMPLATE_FILE), rendered.as_bytes(), 0o644).map_err(host)
    }

    fn describe(&self) -> Value {
        self.inner.readiness.describe()
    }
}

/// One lock a pod, for as long as somebody wants it: CNI forbids two operations on one container at once.
#[derive(Default)]
struct Locks(Mutex<HashMap<PodId, Weak<tokio::sync::Mutex<()>>>>);

impl Locks {
    async fn lock(&self, pod: &PodId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, lock| lock.strong_count() > 0);
            match all.get(pod).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::default();
                    all.insert(pod.clone(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}
