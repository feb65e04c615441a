//! The pod network by CNI: which network there is, and each pod's way into it and out of it.
//!
//! ```text
//!            attach                                          detach, collect
//! nothing ──────────▶ owed ──ADD──▶ attached (still owed) ──────DEL──────▶ nothing
//!                      │ ADD fails: DEL at once                │ fails
//!                      └──────────▶ nothing, or owed ◀─────────┘
//! ```
//! "Owed" is a record in the journal; it goes when the DEL succeeded, and only then.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use kernel::namespace;
use model::{PodId, chain as tell};
use serde_json::{Value, json};
use tokio::sync::{OwnedMutexGuard, RwLock};
use tokio::task::JoinHandle;

use crate::cache::Cache;
use crate::chain::Chain;
use crate::conf::{self, Discovery, NetworkList};
use crate::journal::{Journal, Owed, blocking};
use crate::template::{self, Fields};
use crate::version::SpecVersion;
use crate::watch::Watch;
use crate::{
    Attach, Attached, IpPreference, NetworkError, NetworkStatus, POD_INTERFACE, PodNetwork, capability,
    invoke, orphan, result,
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
}

/// The pod network by CNI.
pub struct Cni {
    inner: Arc<Inner>,
    refresher: JoinHandle<()>,
}

impl Drop for Cni {
    fn drop(&mut self) {
        self.refresher.abort();
    }
}

struct Inner {
    config: CniConfig,
    chain: Chain,
    cache: Arc<Cache>,
    journal: Journal,
    network: Mutex<Network>,
    pods: Locks,
    /// Read by attachments, written by GC: a plugin must not be told that an attachment under way is invalid.
    collecting: RwLock<()>,
}

/// What is known about the network at the moment.
struct Network {
    found: Arc<Discovery>,
    status: NetworkStatus,
}

impl Cni {
    /// Opens the journal, reads the configuration and begins to watch it. A missing or bad configuration is no
    /// failure: [`PodNetwork::status`] tells. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A journal that cannot be opened.
    pub fn open(config: CniConfig) -> Result<Self, NetworkError> {
        let found = Arc::new(conf::discover(&config.conf_dir));
        let inner = Arc::new(Inner {
            chain: Chain::new(config.bin_dirs.clone(), config.plugin_deadline),
            cache: Arc::new(Cache::new(&config.cache_dir)),
            journal: Journal::open(&config.root)?,
            network: Mutex::new(Network { status: first_status(&found, &config), found }),
            pods: Locks::default(),
            collecting: RwLock::new(()),
            config,
        });
        tell_found(&inner.network().found, &inner.config.conf_dir);
        let refresher = tokio::spawn(Arc::clone(&inner).keep_fresh());
        Ok(Self { inner, refresher })
    }
}

/// Before any plugin was asked.
fn first_status(found: &Discovery, config: &CniConfig) -> NetworkStatus {
    let Some((_, list)) = &found.chosen else {
        return not_ready(&NetworkError::NotReady { why: found.why_none(&config.conf_dir) });
    };
    let missing = list.plugins.iter().find_map(|plugin| {
        invoke::find(&plugin.kind, &config.bin_dirs).err().map(|e| format!("plugin {:?}: {e}", plugin.kind))
    });
    match missing {
        Some(missing) => NetworkStatus::not_ready(missing),
        None if list.newest() >= SpecVersion::V1_1_0 => {
            NetworkStatus::not_ready("the plugins have not answered STATUS yet")
        }
        None => NetworkStatus::Ready,
    }
}

fn not_ready(error: &NetworkError) -> NetworkStatus {
    NetworkStatus::not_ready(tell(error))
}

fn tell_found(found: &Discovery, conf_dir: &Path) {
    for (path, fault) in &found.faults {
        tracing::warn!(file = %path.display(), error = %tell(fault), "not a CNI network configuration");
    }
    match &found.chosen {
        Some((path, list)) => tracing::info!(file = %path.display(), network = %list.name, "CNI network"),
        None => tracing::warn!(dir = %conf_dir.display(), "no CNI network"),
    }
}

impl Inner {
    fn network(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keep_fresh(self: Arc<Self>) {
        loop {
            let watch = Watch::arm(&self.config.conf_dir);
            self.refresh().await;
            watch.changed().await;
        }
    }

    /// Reads the configuration again, and asks the plugins whether they can serve.
    async fn refresh(&self) {
        let dir = self.config.conf_dir.clone();
        let Ok(found) = blocking(move || conf::discover(&dir)).await else { return };
        let found = Arc::new(found);
        let changed = {
            let mut network = self.network();
            let changed = network.found.chosen != found.chosen
                || network.found.why_none(Path::new("")) != found.why_none(Path::new(""));
            network.found = Arc::clone(&found);
            changed
        };
        if changed {
            tell_found(&found, &self.config.conf_dir);
        }
        let status = match self.probe(&found).await {
            Ok(()) => NetworkStatus::Ready,
            Err(e) => not_ready(&e),
        };
        let mut network = self.network();
        if network.status != status {
            match &status {
                NetworkStatus::Ready => tracing::info!("the pod network is ready"),
                NetworkStatus::NotReady { message, .. } => {
                    tracing::warn!(error = %message, "the pod network is not ready");
                }
            }
            network.status = status;
        }
    }

    async fn probe(&self, found: &Discovery) -> Result<(), NetworkError> {
        let Some((_, list)) = &found.chosen else {
            return Err(NetworkError::NotReady { why: found.why_none(&self.config.conf_dir) });
        };
        let list = self.chain.negotiate(list).await?;
        self.chain.status(&list).await
    }

    /// The network that is used; looks again first when there was none.
    async fn chosen(&self) -> Result<NetworkList, NetworkError> {
        let known = |network: &Network| network.found.chosen.as_ref().map(|(_, list)| list.clone());
        if let Some(list) = known(&self.network()) {
            return Ok(list);
        }
        self.refresh().await;
        let network = self.network();
        let why = || network.found.why_none(&self.config.conf_dir);
        known(&network).ok_or_else(|| NetworkError::NotReady { why: why() })
    }

    /// Everything of an attachment that follows the record of its DEL.
    async fn connect(
        &self,
        request: &Attach,
        list: &NetworkList,
        owed: &Owed,
    ) -> Result<Attached, NetworkError> {
        let netns = request.netns.clone();
        blocking(move || crate::lo_up(&netns)).await?.map_err(|source| NetworkError::Host {
            attempt: "bring up the pod's loopback interface",
            source,
        })?;
        let result = self.chain.add(list, owed).await?;
        let mut attached = owed.clone();
        attached.result = Some(result.clone());
        let (cache, cached, of) = (Arc::clone(&self.cache), attached.clone(), result.clone());
        blocking(move || cache.write(&cached, &of))
            .await?
            .map_err(|source| NetworkError::Host { attempt: "write the CNI result cache", source })?;
        self.journal.owe(&request.pod, attached).await?;
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
        let list = self.chosen().await?;
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
        let list = inner.chosen().await?;
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
        inner.journal.owe(pod, owed.clone()).await?;
        let first = match inner.connect(request, &list, &owed).await {
            Ok(attached) => return Ok(attached),
            Err(first) => first,
        };
        Err(match inner.pay(pod).await {
            Ok(()) => first,
            Err(undo) => {
                NetworkError::AndUndo { pod: pod.clone(), undo: tell(&undo), first: Box::new(first) }
            }
        })
    }

    async fn detach(&self, pod: &PodId) -> Result<(), NetworkError> {
        let _pod = self.inner.pods.lock(pod).await;
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
        let stale: HashSet<PodId> = owed.into_iter().filter(|pod| !live.contains(pod)).collect();
        futures_util::stream::iter(&stale)
            .for_each_concurrent(COLLECT_CONCURRENCY, |pod| self.inner.pay_stale(pod))
            .await;
        if let Err(e) = self.inner.gc(live, &stale).await {
            tracing::debug!(error = %tell(&e), "no CNI GC");
        }
    }

    fn status(&self) -> NetworkStatus {
        self.inner.network().status.clone()
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

    /// The keys are containerd's, which people's scripts read.
    fn describe(&self) -> Value {
        let config = &self.inner.config;
        let network = self.inner.network();
        let networks: Vec<Value> = network
            .found
            .chosen
            .iter()
            .map(|(path, list)| {
                let plugins = list.plugins.iter();
                let plugins: Vec<_> = plugins
                    .map(|p| json!({ "Network": p.object, "Source": Value::Object(p.object.clone()).to_string() }))
                    .collect();
                json!({
                    "Config": {
                        "Name": list.name,
                        "CNIVersion": list.newest().to_string(),
                        "Plugins": plugins,
                        "Source": Value::Object(list.object().clone()).to_string(),
                        "File": path,
                    },
                    "IFName": POD_INTERFACE,
                })
            })
            .collect();
        let faults: HashMap<String, String> =
            network.found.faults.iter().map(|(p, e)| (p.display().to_string(), tell(e))).collect();
        let load_status = match &network.status {
            NetworkStatus::Ready => "OK".to_owned(),
            NetworkStatus::NotReady { message, .. } => message.clone(),
        };
        json!({
            "cniconfig": {
                "PluginDirs": config.bin_dirs,
                "PluginConfDir": config.conf_dir,
                "PluginMaxConfNum": 1,
                "Prefix": "eth",
                "Networks": networks,
                "BadFiles": faults,
            },
            "lastCNILoadStatus": load_status,
        })
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
