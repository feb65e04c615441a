//! Which network there is, and whether it can serve: the configuration directory watched, the plugins asked, the
//! answer kept for whoever wants it at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::chain as tell;
use serde_json::{Value, json};

use crate::chain::Chain;
use crate::conf::{self, Discovery, NetworkList};
use crate::journal::blocking;
use crate::version::SpecVersion;
use crate::watch::Watch;
use crate::{NetworkError, NetworkStatus, POD_INTERFACE, invoke};

/// The network in use and its status.
pub(crate) struct Readiness {
    conf_dir: PathBuf,
    bin_dirs: Vec<PathBuf>,
    chain: Arc<Chain>,
    network: Mutex<Network>,
    /// Held by who reads the configuration again.
    refreshing: tokio::sync::Mutex<()>,
}

/// What is known at the moment.
struct Network {
    found: Arc<Discovery>,
    status: NetworkStatus,
}

impl Readiness {
    /// Reads the configuration once; [`Self::keep_fresh`] goes on from there.
    pub(crate) fn new(conf_dir: PathBuf, bin_dirs: Vec<PathBuf>, chain: Arc<Chain>) -> Self {
        let found = Arc::new(conf::discover(&conf_dir));
        tell_found(&found, &conf_dir);
        let status = first_status(&found, &conf_dir, &bin_dirs);
        let network = Mutex::new(Network { found, status });
        Self { conf_dir, bin_dirs, chain, network, refreshing: tokio::sync::Mutex::default() }
    }

    fn network(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From memory.
    pub(crate) fn status(&self) -> NetworkStatus {
        self.network().status.clone()
    }

    /// Looks again whenever the configuration changed, and every few seconds. Never ends.
    pub(crate) async fn keep_fresh(self: Arc<Self>) {
        loop {
            let watch = Watch::arm(&self.conf_dir);
            self.refresh().await;
            watch.changed().await;
        }
    }

    /// Reads the configuration again, and asks the plugins whether they can serve.
    async fn refresh(&self) {
        // One after the other: an older look must not overwrite what a newer one has found.
        let _one = self.refreshing.lock().await;
        let dir = self.conf_dir.clone();
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
            tell_found(&found, &self.conf_dir);
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
            return Err(NetworkError::NotReady { why: found.why_none(&self.conf_dir) });
        };
        let list = self.chain.negotiate(list).await?;
        self.chain.status(&list).await
    }

    /// The network that is used; looks again first when there was none.
    pub(crate) async fn chosen(&self) -> Result<NetworkList, NetworkError> {
        let known = |network: &Network| network.found.chosen.as_ref().map(|(_, list)| list.clone());
        if let Some(list) = known(&self.network()) {
            return Ok(list);
        }
        self.refresh().await;
        let network = self.network();
        let why = || network.found.why_none(&self.conf_dir);
        known(&network).ok_or_else(|| NetworkError::NotReady { why: why() })
    }

    /// The keys are containerd's, which people's scripts read.
    pub(crate) fn describe(&self) -> Value {
        let network = self.network();
        let networks: Vec<Value> =
            network.found.chosen.iter().map(|(file, list)| describe(file, list)).collect();
        let faults = network.found.faults.iter();
        let faults: BTreeMap<_, _> = faults.map(|(path, e)| (path.display().to_string(), tell(e))).collect();
        let load_status = match &network.status {
            NetworkStatus::Ready => "OK",
            NetworkStatus::NotReady { message, .. } => message.as_str(),
        };
        json!({
            "cniconfig": {
                "PluginDirs": self.bin_dirs,
                "PluginConfDir": self.conf_dir,
                "PluginMaxConfNum": 1,
                "Prefix": "eth",
                "Networks": networks,
                "BadFiles": faults,
            },
            "lastCNILoadStatus": load_status,
        })
    }
}

fn describe(file: &Path, list: &NetworkList) -> Value {
    let source = |object: &serde_json::Map<String, Value>| Value::Object(object.clone()).to_string();
    let plugins = list.plugins.iter().map(|p| json!({ "Network": p.object, "Source": source(&p.object) }));
    json!({
        "Config": {
            "Name": list.name,
            "CNIVersion": list.newest().to_string(),
            "Plugins": plugins.collect::<Vec<_>>(),
            "Source": source(list.object()),
            "File": file,
        },
        "IFName": POD_INTERFACE,
    })
}

/// Before any plugin was asked.
fn first_status(found: &Discovery, conf_dir: &Path, bin_dirs: &[PathBuf]) -> NetworkStatus {
    let Some((_, list)) = &found.chosen else {
        return not_ready(&NetworkError::NotReady { why: found.why_none(conf_dir) });
    };
    let missing = list.plugins.iter().find_map(|plugin| {
        invoke::find(&plugin.kind, bin_dirs).err().map(|e| format!("plugin {:?}: {e}", plugin.kind))
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
