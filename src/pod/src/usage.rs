//! Reads what pods and containers use: cgroups, interfaces, writable layers, open files. Nothing here fails as a
//! whole: what vanished meanwhile is absent, and what could not be read is absent and told in the log, once.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kernel::cgroup::Extent;
use kernel::clock::now;
use kernel::{SysError, disk, procfs};
use model::UnixNanos;
use model::limits::{OPEN_FILES_LOOKED_AT_MAX, PROCESSES_COUNTED_MAX};
use rustix::io::Errno;
use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

use crate::Pods;
use crate::cgroups;
use crate::driver::{Handle, Host};
use crate::error::{Cause, PodError};
use crate::meter::{Measured, SAMPLE_PERIOD};
use crate::spread::spread;
use crate::state::{ContainerInView, ContainerPhase, ContainerStatus, PodPhase, PodView};
use crate::stats::{
    ContainerMetrics, ContainerStats, Disk, GroupMetrics, LayerUsage, Metrics, NetworkUsage, PodMetrics,
    PodStats, Processes, Usage,
};

/// The first sample after the service's start is soon, so that rates are told soon.
const FIRST_SAMPLE_AFTER: Duration = Duration::from_secs(1);

impl Pods {
    /// What these containers use now, in their order.
    ///
    /// # Errors
    /// [`PodError::Statistics`], for all three of these: what one group does not tell is absent from its entry.
    pub async fn container_stats(
        &self,
        containers: Vec<ContainerInView>,
    ) -> Result<Vec<ContainerStats>, PodError> {
        // Files of cgroups are read, which blocks.
        self.blocking(move |host| spread(&containers, |status| container(host, status))).await
    }

    /// What these pods and their containers use now, in their order.
    ///
    /// # Errors
    /// As [`Self::container_stats`].
    pub async fn pod_stats(&self, pods: Vec<Arc<PodView>>) -> Result<Vec<PodStats>, PodError> {
        self.blocking(move |host| {
            let pods: Vec<_> = pods.iter().zip(networks(&pods)).collect();
            spread(&pods, |(view, network)| pod(host, view, network.clone()))
        })
        .await
    }

    /// Everything that is counted of these pods and of those of their containers that run. Pods that are not ready
    /// have no metrics: their cgroup may be a newer sandbox's by now.
    ///
    /// # Errors
    /// As [`Self::container_stats`].
    pub async fn metrics(&self, mut pods: Vec<Arc<PodView>>) -> Result<Metrics, PodError> {
        pods.retain(|view| view.pod.phase == PodPhase::Ready);
        self.blocking(move |host| metrics(host, &pods)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Host) -> T + Send + 'static,
    ) -> Result<T, PodError> {
        let host = Arc::clone(&self.host);
        let read = tokio::task::spawn_blocking(move || read(&host)).await;
        read.map_err(|broken| PodError::Statistics(Cause::host(broken)))
    }
}

/// Has each group's CPU time written down from now on, as long as there is a host.
pub(crate) fn keep_sampling(host: &Arc<Host>) {
    let host = Arc::downgrade(host);
    tokio::spawn(async move {
        let mut ticks =
            tokio::time::interval_at(tokio::time::Instant::now() + FIRST_SAMPLE_AFTER, SAMPLE_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(host) = host.upgrade() else { return };
            // A sample that broke off is followed by the next.
            let _ = tokio::task::spawn_blocking(move || sample(&host)).await;
        }
    });
}

fn sample(host: &Host) {
    let mut live = HashSet::new();
    for view in host.index.pods().iter().map(Handle::view) {
        if has_group(&view) {
            host.meter.sample(&view.pod.cgroup, || host.hierarchy.group(&view.pod.cgroup));
            live.insert(view.pod.cgroup.clone());
        }
        for status in view.containers.iter().filter(|status| started_at(status).is_some()) {
            host.meter.sample(&status.cgroup, || cgroups::bounding(&host.hierarchy, &status.cgroup));
            live.insert(status.cgroup.clone());
        }
    }
    host.meter.retain(&live);
}

/// Whether a pod's cgroup is its own: that of one that is not ready may be a newer sandbox's.
fn has_group(view: &PodView) -> bool {
    matches!(view.pod.phase, PodPhase::Ready | PodPhase::Stopping)
}

/// When a container started that runs.
fn started_at(status: &ContainerStatus) -> Option<UnixNanos> {
    match status.phase {
        ContainerPhase::Running { started_at, .. } => Some(started_at),
        _ => None,
    }
}

fn container(host: &Host, status: &ContainerStatus) -> ContainerStats {
    let usage = measure_container(host, status, Extent::Usage)
        .map(|measured| Usage::new(&measured.stats, measured.at, measured.cpu_nano_cores));
    ContainerStats { container: status.id.clone(), usage, layer: layer(host, status) }
}

fn pod(host: &Host, view: &PodView, network: Option<NetworkUsage>) -> PodStats {
    let usage = measure_pod(host, view, Extent::Usage)
        .map(|measured| Usage::new(&measured.stats, measured.at, measured.cpu_nano_cores));
    let containers = view.containers.iter().map(|status| container(host, status)).collect();
    PodStats { pod: view.pod.id.clone(), usage, network, containers }
}

fn metrics(host: &Host, pods: &[Arc<PodView>]) -> Metrics {
    let snapshots = host.bundles.snapshots();
    let disk = host.meter.device(snapshots.mountpoint()).and_then(|device| {
        let capacity = disk::capacity(snapshots.mountpoint());
        Some(Disk {
            device,
            capacity: capacity.inspect_err(|e| warn!(error = model::chain(e), "metrics")).ok()?,
        })
    });
    let pods: Vec<_> = pods.iter().zip(networks(pods)).collect();
    let pods = spread(&pods, |(view, network)| pod_metrics(host, view, network.clone()));
    let groups = pods.iter().flat_map(|pod| pod.group.iter().chain(pod.containers.iter().map(|c| &c.group)));
    let used: HashSet<(u32, u32)> =
        groups.flat_map(|group| group.stats.io.iter().map(|io| (io.major, io.minor))).collect();
    let named = |(major, minor)| {
        let name = disk::device_name(major, minor).unwrap_or_else(|| format!("{major}:{minor}"));
        ((major, minor), name)
    };
    let devices: BTreeMap<_, _> = used.into_iter().map(named).collect();
    Metrics { disk, devices, pods }
}

fn pod_metrics(host: &Host, view: &PodView, network: Option<NetworkUsage>) -> PodMetrics {
    let of = |measured: Measured| GroupMetrics { at: measured.at, stats: measured.stats };
    let container = |status: &ContainerStatus| {
        let group = of(measure_container(host, status, Extent::Everything)?);
        let processes = processes(host, status);
        Some(ContainerMetrics { container: status.id.clone(), group, processes, layer: layer(host, status) })
    };
    PodMetrics {
        pod: view.pod.id.clone(),
        group: measure_pod(host, view, Extent::Everything).map(of),
        network,
        containers: view.containers.iter().filter_map(container).collect(),
    }
}

fn measure_pod(host: &Host, view: &PodView, extent: Extent) -> Option<Measured> {
    if !has_group(view) {
        return None;
    }
    let cgroup = &view.pod.cgroup;
    let measured = host.meter.read(cgroup, extent, None, || host.hierarchy.group(cgroup))?;
    if let Some(error) = &measured.newly_failed {
        warn!(pod.id = view.pod.id.as_str(), error, "statistics of a pod are not whole");
    }
    Some(measured)
}

fn measure_container(host: &Host, status: &ContainerStatus, extent: Extent) -> Option<Measured> {
    let began = Some(started_at(status)?);
    let group = || cgroups::bounding(&host.hierarchy, &status.cgroup);
    let measured = host.meter.read(&status.cgroup, extent, began, group)?;
    if let Some(error) = &measured.newly_failed {
        warn!(container.id = status.id.as_str(), error, "statistics of a container are not whole");
    }
    Some(measured)
}

fn layer(host: &Host, status: &ContainerStatus) -> Option<LayerUsage> {
    let snapshots = host.bundles.snapshots();
    let usage = snapshots.usage(&status.id)?;
    let mountpoint = snapshots.mountpoint().to_owned();
    Some(LayerUsage { at: usage.at, mountpoint, bytes: usage.bytes, inodes: usage.inodes })
}

/// Counts the processes of a container and their open files.
fn processes(host: &Host, status: &ContainerStatus) -> Processes {
    let group = || cgroups::bounding(&host.hierarchy, &status.cgroup);
    let pids = host.meter.processes(&status.cgroup, PROCESSES_COUNTED_MAX, group);
    let mut look_at = OPEN_FILES_LOOKED_AT_MAX;
    let mut found = Processes { count: pids.len() as u64, sockets: Some(0), ..Processes::default() };
    for pid in pids {
        let Some(files) = procfs::open_files(pid, look_at) else { continue };
        found.files += files.count;
        found.sockets = found.sockets.zip(files.sockets).map(|(all, more)| all + more);
        look_at = look_at.saturating_sub(files.count);
    }
    if let ContainerPhase::Running { pid, .. } = status.phase {
        found.open_files_max = procfs::open_files_max(pid);
    }
    found
}

/// The counters of each pod's interfaces, all read by one thread.
fn networks(pods: &[Arc<PodView>]) -> Vec<Option<NetworkUsage>> {
    let mut found = vec![None; pods.len()];
    let (places, namespaces): (Vec<usize>, Vec<&Path>) =
        pods.iter().enumerate().filter_map(|(place, view)| Some((place, view.pod.netns.as_deref()?))).unzip();
    let read = match network::interface_stats(&namespaces) {
        Ok(read) => read,
        Err(error) => {
            warn!(error = model::chain(&error), "interfaces of pods");
            return found;
        }
    };
    let at = now();
    for (place, interfaces) in places.into_iter().zip(read) {
        let pod = &pods[place].pod;
        match interfaces {
            Ok(interfaces) => {
                found[place] = Some(NetworkUsage::new(interfaces, pod.cni_result.as_ref(), at));
            }
            Err(error) if vanished(&error) => {
                debug!(pod.id = pod.id.as_str(), error = model::chain(&error), "a pod's network is gone");
            }
            Err(error) => {
                warn!(pod.id = pod.id.as_str(), error = model::chain(&error), "a pod's interfaces");
            }
        }
    }
    found
}

/// Whether a namespace's pin is gone: the file, or the mount on it.
fn vanished(error: &SysError) -> bool {
    error.is_not_found() || error.source.raw_os_error() == Some(Errno::INVAL.raw_os_error())
}
