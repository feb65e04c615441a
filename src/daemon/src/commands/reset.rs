//! `gantline reset`: ends and removes every pod, so that nothing of them is left on the node: for one that is to run no
//! pods any more, or no Gantline. Does without the service what the kubelet would ask it for, by the same records and the
//! same journals; where it is cut off, the next one, or a service, goes on.

use std::path::Path;
use std::sync::Arc;

use telemetry::Metrics;
use tokio::task::JoinSet;

use crate::app::{self, House};
use crate::config::Config;
use crate::exit::Exit;
use crate::flags::{Common, Reset};
use crate::lock::{LockError, RootLock};
use crate::{runtimes, ui};

/// Pods that end at once.
const PODS_AT_ONCE_MAX: usize = 16;

/// Ends all pods, or says what there is.
pub(crate) fn run(flags: &Reset, common: &Common) -> Exit {
    let config = match super::load(common) {
        Ok(loaded) => loaded.config,
        Err(exit) => return exit,
    };
    // What never ran has nothing, and looking must not make it.
    if !config.root.exists() && !config.state.exists() {
        return Exit::Success;
    }
    let _lock = match RootLock::take(&config.root) {
        Ok(lock) => lock,
        Err(error) => {
            ui::complain(model::chain(&error));
            return if matches!(error, LockError::Held { .. }) { Exit::Held } else { Exit::Host };
        }
    };
    let left = match left(&config) {
        Ok(left) => left,
        Err(why) => {
            ui::complain(why);
            return Exit::Host;
        }
    };
    if flags.dry_run {
        for line in &left {
            ui::print(line);
        }
        return Exit::Success;
    }
    // Without a pod no OCI runtime is needed, and there may be none any more.
    if left.is_empty() { Exit::Success } else { end(&config, common) }
}

/// What is here of pods, a line each, by the records and by the directories.
fn left(config: &Config) -> Result<Vec<String>, String> {
    let mut left = pod::recorded(&config.root).map_err(|error| model::chain(&error))?;
    let owed = network::owed(&config.root).map_err(|error| model::chain(&error))?;
    // What is owed to pods is said once, with them.
    if left.is_empty() {
        left.extend(owed.iter().map(|pod| format!("the network of pod {pod}")));
        for directory in ["pods", "containers"] {
            left.extend(entries(&config.state.join(directory)));
        }
    }
    Ok(left)
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

fn end(config: &Config, common: &Common) -> Exit {
    // Standard error is for what matters, unless a flag asks for more.
    let level = common.log_level.clone().unwrap_or_else(|| "warn".to_owned());
    if let Err(error) = telemetry::init(&telemetry::LogConfig { level, ..config.log_config() }, None) {
        ui::complain(error);
        return Exit::Usage;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            ui::complain(format_args!("start the runtime: {error}"));
            return Exit::Host;
        }
    };
    runtime.block_on(async {
        let house = match open(config) {
            Ok(house) => house,
            Err(why) => {
                ui::complain(why);
                return Exit::Host;
            }
        };
        end_all(&house).await
    })
}

fn open(config: &Config) -> Result<House, String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = runtimes::find(config, &path).map_err(|error| error.to_string())?;
    let shim = runtimes::find_shim(config, &path).map_err(|error| error.to_string())?;
    let metrics: Arc<Metrics> = Metrics::new();
    app::open_rooms(config, &found, shim, &metrics).map_err(|error| model::chain(&error))
}

/// Ends every pod and pays what is owed to their networks; says what stays.
async fn end_all(house: &House) -> Exit {
    let House { pods, network, .. } = house;
    pods.recovered().await;
    let mut ending = JoinSet::new();
    let mut failed = false;
    for view in pods.list() {
        if ending.len() >= PODS_AT_ONCE_MAX {
            failed |= told(ending.join_next().await);
        }
        let pods = pods.clone();
        ending.spawn(async move {
            let id = view.pod.id.as_str();
            let ended = async {
                pods.stop_pod(id).await?;
                pods.remove_pod(id).await
            };
            match ended.await {
                Ok(()) => Ok(format!("pod {}", view.pod.config.identity)),
                Err(error) => Err(format!("pod {}: {}", view.pod.config.identity, model::chain(&error))),
            }
        });
    }
    while let Some(ended) = ending.join_next().await {
        failed |= told(Some(ended));
    }
    pods.drained().await;
    // Those of pods that were gone before, too.
    network.collect(&[]).await;
    for pod in network.owed() {
        ui::complain(format_args!("the network of pod {pod} is not released: its plugins fail, see above"));
        failed = true;
    }
    for why in pods.overview().unreadable {
        ui::complain(format_args!("a record that cannot be read stays: {why}"));
        failed = true;
    }
    if failed { Exit::Failure } else { Exit::Success }
}

/// Says how a pod's end went; true when it failed.
fn told(ended: Option<Result<Result<String, String>, tokio::task::JoinError>>) -> bool {
    match ended {
        Some(Ok(Err(why))) => ui::complain(why),
        Some(Err(error)) => ui::complain(error),
        Some(Ok(Ok(pod))) => {
            ui::print(format_args!("{pod} removed"));
            return false;
        }
        None => return false,
    }
    true
}
