//! The face of this room: every pod of the node, by id.
//!
//! Holds no state of its own: it finds the pod's driver and asks it, or reads the view that the driver
//! published. Reads never wait for work.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use image::{Images, Snapshots};
use kernel::clock::now;
use model::{ContainerConfig, ContainerId, PodConfig, PodId, Resources};
use network::PodNetwork;
use shim_client::{Shim, Shims};
use telemetry::Metrics;
use tokio::sync::{oneshot, watch};
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use crate::bundle;
use crate::cgroups;
use crate::checkpoint;
use crate::config::PodsConfig;
use crate::driver::{Driver, Handle, Host, Outcome, Request};
use crate::error::{Cause, PodError};
use crate::events::{Events, PastEvent, Subscription};
use crate::filters::Filters;
use crate::host;
use crate::index::Index;
use crate::meter::Meter;
use crate::overview::Recovery;
use crate::probe::{self, Prober};
use crate::records::{ContainerRecord, PodRecord, Records};
use crate::sandbox;
use crate::spec;
use crate::state::{ContainerInView, ContainerPhase, ContainerStatus, PodPhase, PodView};
use crate::story::Troubles;
use crate::sweep;
use crate::usage;
use crate::user_namespace;

/// A driver that breaks off again and again must not keep the node busy.
const REVIVE_AFTER: Duration = Duration::from_secs(1);

/// The other rooms that pods are made with.
pub struct Rooms {
    /// Finds images.
    pub images: Images,
    /// Makes root filesystems of them.
    pub snapshots: Arc<dyn Snapshots>,
    /// Gives pods their network.
    pub network: Arc<dyn PodNetwork>,
    /// Starts and finds shims.
    pub shims: Arc<dyn Shims>,
    /// Where stages are timed.
    pub metrics: Arc<Metrics>,
}

/// Every pod of the node. Clones share it.
#[derive(Clone)]
pub struct Pods {
    pub(crate) host: Arc<Host>,
    recovered: watch::Receiver<bool>,
    pub(crate) filters: Filters,
}

impl Pods {
    /// Opens the store and begins to recover the pods in it. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// When the store cannot be opened or read, or the node has no cgroups.
    pub fn open(config: PodsConfig, rooms: Rooms) -> Result<Self, PodError> {
        let config = Arc::new(config);
        let metrics = Arc::clone(&rooms.metrics);
        let commits = store::CommitSink::new(move |took| metrics.node.committed("pod", took));
        let records = Records::open(&config.root, commits)?;
        let found = records.load()?;
        checkpoint::clear_leftovers(&config.root);
        for record in &found.unreadable {
            error!(error = %record, "a record that cannot be read is left where it is");
        }
        let (hierarchy, facts) = host::facts().map_err(|e| PodError::Store(Cause::host(e)))?;
        let bundles = bundle::Builder::new(
            Arc::clone(&config),
            rooms.images,
            rooms.snapshots,
            rooms.metrics.stages.clone(),
            facts,
        );
        let sandboxes = sandbox::Builder {
            config,
            hierarchy: Arc::clone(&hierarchy),
            network: rooms.network,
            shims: rooms.shims,
            stages: rooms.metrics.stages.clone(),
            slices: sandbox::cgroup::Slices::default(),
        };
        let host = Arc::new(Host {
            sandboxes,
            bundles,
            hierarchy,
            records,
            events: Events::default(),
            troubles: Troubles::default(),
            index: Index::default(),
            jobs: TaskTracker::new(),
            meter: Meter::default(),
            prober: Prober::default(),
            log_dropped_bytes: rooms.metrics.log_dropped_bytes.clone(),
            exits: rooms.metrics.node.container_exits.clone(),
            failures: rooms.metrics.node.failures.clone(),
            recovery: OnceLock::new(),
            unreadable: found.unreadable,
        });
        let (done, recovered) = watch::channel(false);
        let pods = Self { host: Arc::clone(&host), recovered, filters: Filters::default() };
        let waits = enter_found(&host, found.pods, found.containers);
        usage::keep_sampling(&host);
        probe::keep_probing(&host);
        tokio::spawn(async move {
            let began = Instant::now();
            let count = waits.len();
            for recovered in waits {
                let _ = recovered.await;
            }
            sweep::sweep(&host).await;
            let took = began.elapsed();
            rooms.metrics.recovered_in(took);
            // Set once, here.
            let _ = host.recovery.set(Recovery { pods: count, took });
            info!(pods = count, elapsed_ms = began.elapsed().as_millis(), "recovered");
            // What is awaited below holds no pod.
            let events = host.events.clone();
            drop(host);
            done.send_replace(true);
            events.recovered().await;
        });
        Ok(pods)
    }

    /// Holds true from the moment on in which every pod that the store held is recovered.
    pub fn recovery(&self) -> watch::Receiver<bool> {
        self.recovered.clone()
    }

    /// Resolves in that moment.
    pub async fn recovered(&self) {
        let _ = self.recovery().wait_for(|done| *done).await;
    }

    /// Whether it was.
    pub fn is_recovered(&self) -> bool {
        *self.recovered.borrow()
    }

    /// Resolves when no work is under way. New requests should not come in meanwhile.
    pub async fn drained(&self) {
        self.host.jobs.close();
        self.host.jobs.wait().await;
    }

    /// Makes a pod sandbox, or joins the making of it, or finds it made.
    ///
    /// # Errors
    /// What stopped it; nothing is left on the host then, or the pod is listed as not ready.
    pub async fn run_pod(&self, config: PodConfig) -> Result<PodId, PodError> {
        let config = Arc::new(config);
        let (handler, oci) = self.host.sandboxes.config.handler(&config.runtime_handler)?;
        user_namespace::check(&config, &handler, oci)?;
        spec::check_pod(&config, self.host.bundles.facts())
            .map_err(|e| PodError::Invalid { field: "config", why: model::chain(&e) })?;
        loop {
            let id = kernel::random::id_bytes()
                .map(PodId::from_bytes)
                .map_err(|e| PodError::Store(Cause::host(e)))?;
            let record = self.new_record(&id, &config, &handler)?;
            let mut begun = None;
            let handle = self.host.index.claim(&config.identity, || {
                let (driver, handle) =
                    Driver::new(Arc::clone(&self.host), id.clone(), record, BTreeMap::new());
                begun = Some(driver);
                (id, handle)
            });
            if let Some(driver) = begun {
                start(Arc::clone(&self.host), handle.id.clone(), driver, None);
            }
            // `None`: the pod that had this identity went away before it could answer.
            if let Some(answer) = handle.ask(Request::Run(Arc::clone(&config))).await {
                return answer.map(|_| handle.id);
            }
            tokio::task::yield_now().await;
        }
    }

    fn new_record(&self, id: &PodId, config: &Arc<PodConfig>, handler: &str) -> Result<PodRecord, PodError> {
        let node = &self.host.sandboxes.config;
        let cgroup_parent = cgroups::parent(id, config, node);
        let cgroup = cgroups::pod_cgroup(&cgroup_parent, node.cgroup_driver)
            .map_err(|e| PodError::Invalid { field: "config.linux.cgroup_parent", why: model::chain(&e) })?;
        Ok(PodRecord {
            config: Arc::clone(config),
            phase: PodPhase::Creating,
            created_at: now(),
            handler: handler.to_owned(),
            network: None,
            cgroups_made: sandbox::cgroup::answers_for(&self.host.index, &self.host.hierarchy.group(&cgroup)),
            cgroup_parent,
            cgroup,
        })
    }

    /// Kills a pod's containers and takes down its network. An unknown or stopped one is success.
    ///
    /// # Errors
    /// What stopped it; it may be called again.
    pub async fn stop_pod(&self, id: &str) -> Result<(), PodError> {
        self.end_pod(id, Request::StopPod).await
    }

    /// Removes a pod and all that it has. An unknown one is success.
    ///
    /// # Errors
    /// What stopped it; it may be called again.
    pub async fn remove_pod(&self, id: &str) -> Result<(), PodError> {
        self.end_pod(id, Request::RemovePod).await
    }

    async fn end_pod(&self, id: &str, request: Request) -> Result<(), PodError> {
        let handle = match self.host.index.pod(id) {
            Ok(handle) => handle,
            Err(PodError::PodNotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        // `None`: it went away meanwhile, which is what was asked for.
        handle.ask(request).await.unwrap_or(Ok(Outcome::Done)).map(drop)
    }

    /// A pod and its containers, from one moment.
    ///
    /// # Errors
    /// An id that no pod or more than one has.
    pub fn pod(&self, id: &str) -> Result<Arc<PodView>, PodError> {
        let view = self.host.index.pod(id)?.view();
        if visible(&view) { Ok(view) } else { Err(PodError::PodNotFound(id.to_owned())) }
    }

    /// A pod by its whole id, also one that no list has yet or any more: it is being made, or undone.
    pub fn find(&self, id: &str) -> Option<Arc<PodView>> {
        Some(self.host.index.pod(id).ok()?.view())
    }

    /// Every pod with its containers, by creation, then id, all from one moment.
    pub fn list(&self) -> Vec<Arc<PodView>> {
        let mut views = self.host.index.views();
        views.retain(visible);
        views.sort_by(|a, b| (a.pod.created_at, &a.pod.id).cmp(&(b.pod.created_at, &b.pod.id)));
        views
    }

    /// A container.
    ///
    /// # Errors
    /// An id that no container or more than one has.
    pub fn container(&self, id: &str) -> Result<ContainerInView, PodError> {
        let (container, handle) = self.host.index.container(id)?;
        let found = ContainerInView::of(handle.view(), &container);
        found.ok_or_else(|| PodError::ContainerNotFound(id.to_owned()))
    }

    /// A container, and the view that it is in.
    pub(crate) fn container_with_pod(&self, id: &str) -> Result<(ContainerStatus, Handle), PodError> {
        let (container, handle) = self.host.index.container(id)?;
        let status = handle.view().container(&container).cloned();
        status.map(|status| (status, handle)).ok_or_else(|| PodError::ContainerNotFound(id.to_owned()))
    }

    /// A running container and the shim that holds it.
    pub(crate) fn running(
        &self,
        attempt: &'static str,
        id: &str,
    ) -> Result<(ContainerStatus, Shim), PodError> {
        self.running_with_handler(attempt, id).map(|(status, shim, _)| (status, shim))
    }

    /// As [`Self::running`], with the name of its runtime handler.
    pub(crate) fn running_with_handler(
        &self,
        attempt: &'static str,
        id: &str,
    ) -> Result<(ContainerStatus, Shim, String), PodError> {
        let (status, handle) = self.container_with_pod(id)?;
        if !matches!(status.phase, ContainerPhase::Running { .. }) {
            let state = status.phase.word();
            return Err(PodError::ContainerState { attempt, container: status.id, state });
        }
        let no_shim = || PodError::PodState { attempt, pod: handle.id.clone(), state: "without a shim" };
        let shim = handle.shim().ok_or_else(no_shim)?;
        Ok((status, shim, handle.view().pod.handler.clone()))
    }

    /// Every container, by creation, then id, all from one moment.
    pub fn list_containers(&self) -> Vec<ContainerInView> {
        let mut all: Vec<_> = self.host.index.views().iter().flat_map(ContainerInView::all).collect();
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        all
    }

    /// Makes a container's bundle, or joins the making of it, or finds it made.
    ///
    /// # Errors
    /// What stopped it; nothing is left on the host then.
    pub async fn create_container(
        &self,
        pod: &str,
        config: ContainerConfig,
    ) -> Result<ContainerId, PodError> {
        self.create_from(pod, config, None).await
    }

    /// As [`Self::create_container`], for one that goes on from what a checkpoint has of it.
    pub(crate) async fn create_from(
        &self,
        pod: &str,
        config: ContainerConfig,
        checkpoint: Option<PathBuf>,
    ) -> Result<ContainerId, PodError> {
        let handle = self.host.index.pod(pod)?;
        match handle.ask(Request::Create(Arc::new(config), checkpoint)).await {
            Some(Ok(Outcome::Container(id))) => Ok(id),
            Some(Err(error)) => Err(error),
            Some(Ok(Outcome::Done)) | None => Err(PodError::PodNotFound(pod.to_owned())),
        }
    }

    /// Starts a created container.
    ///
    /// # Errors
    /// What stopped it; the container is exited then, with the reason `StartError`.
    pub async fn start_container(&self, id: &str) -> Result<(), PodError> {
        let (container, handle) = self.host.index.container(id)?;
        let gone = || PodError::ContainerNotFound(id.to_owned());
        handle.ask(Request::Start(container)).await.ok_or_else(gone)?.map(drop)
    }

    /// Asks a container to end, and after `grace` makes it. An unknown or ended one is success.
    ///
    /// # Errors
    /// When it does not die.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), PodError> {
        self.end_container(id, |container| Request::Stop(container, grace)).await
    }

    /// Removes a container, killing it where it runs. An unknown one is success. Its log stays.
    ///
    /// # Errors
    /// What stopped it; it may be called again.
    pub async fn remove_container(&self, id: &str) -> Result<(), PodError> {
        self.end_container(id, Request::Remove).await
    }

    async fn end_container(
        &self,
        id: &str,
        ask: impl FnOnce(ContainerId) -> Request,
    ) -> Result<(), PodError> {
        let (container, handle) = match self.host.index.container(id) {
            Ok(found) => found,
            Err(PodError::ContainerNotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        handle.ask(ask(container)).await.unwrap_or(Ok(Outcome::Done)).map(drop)
    }

    /// Changes what a container may use. What is zero or empty stays as it is.
    ///
    /// # Errors
    /// What stopped it; every limit is as it was then.
    pub async fn update_container(&self, id: &str, resources: Resources) -> Result<(), PodError> {
        let (container, handle) = self.host.index.container(id)?;
        let gone = || PodError::ContainerNotFound(id.to_owned());
        handle.ask(Request::Update(container, resources)).await.ok_or_else(gone)?.map(drop)
    }

    /// Keeps what a pod's sandbox costs and its containers sum up to.
    ///
    /// # Errors
    /// An unknown pod, or the store.
    pub async fn update_pod(
        &self,
        id: &str,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<(), PodError> {
        let handle = self.host.index.pod(id)?;
        let gone = || PodError::PodNotFound(id.to_owned());
        handle.ask(Request::UpdatePod { overhead, resources }).await.ok_or_else(gone)?.map(drop)
    }

    /// Hears what happens from now on, and before that what happened to recovered pods while nobody listened.
    pub fn events(&self) -> Subscription {
        self.host.events.subscribe()
    }

    /// Hears what happens from now on.
    pub fn news(&self) -> Subscription {
        self.host.events.news()
    }

    /// What happened last, and what happens from now on.
    pub fn past_and_future_events(&self) -> (Vec<PastEvent>, Subscription) {
        self.host.events.past_and_future()
    }

    /// How this node runs pods.
    pub fn config(&self) -> &PodsConfig {
        &self.host.sandboxes.config
    }
}

/// One that is still being made is nobody's business: its id has been told to no one.
fn visible(view: &Arc<PodView>) -> bool {
    view.pod.phase != PodPhase::Creating
}

/// Enters what the store held and starts a driver for each pod.
fn enter_found(
    host: &Arc<Host>,
    pods: Vec<(PodId, PodRecord)>,
    containers: Vec<(ContainerId, ContainerRecord)>,
) -> Vec<oneshot::Receiver<()>> {
    let mut by_pod: HashMap<PodId, BTreeMap<ContainerId, ContainerRecord>> = HashMap::new();
    for (id, record) in containers {
        by_pod.entry(record.pod.clone()).or_default().insert(id, record);
    }
    let mut waits = Vec::new();
    for (id, record) in pods {
        let containers = by_pod.remove(&id).unwrap_or_default();
        let told: Vec<ContainerId> = containers
            .iter()
            .filter(|(_, record)| record.phase != ContainerPhase::Creating)
            .map(|(id, _)| id.clone())
            .collect();
        // What is on its way out no longer bears its name: a newer pod may have it.
        let leaving = matches!(record.phase, PodPhase::Creating | PodPhase::Removing);
        let identity = (!leaving).then(|| record.config.identity.clone());
        let (driver, handle) = Driver::new(Arc::clone(host), id.clone(), record, containers);
        host.index.enter(id.clone(), identity, handle);
        for container in told {
            host.index.enter_container(container, id.clone());
        }
        let (done, wait) = oneshot::channel();
        start(Arc::clone(host), id, driver, Some(done));
        waits.push(wait);
    }
    waits
}

/// Starts a driver. One that panics is a bug of ours, and must not leave a pod that nobody drives: what the store
/// holds of it gets a new driver, which recovers it as after a restart.
fn start(host: Arc<Host>, id: PodId, driver: Driver, recovered: Option<oneshot::Sender<()>>) {
    tokio::spawn(async move {
        if tokio::spawn(driver.run(recovered)).await.is_ok() {
            return;
        }
        error!(pod.id = id.as_str(), "the driver of a pod broke off; it is recovered from its records");
        host.index.forget(&id);
        tokio::time::sleep(REVIVE_AFTER).await;
        let records = host.records.clone();
        match tokio::task::spawn_blocking(move || records.load()).await {
            Ok(Ok(found)) => {
                let pods = found.pods.into_iter().filter(|(pod, _)| *pod == id).collect();
                let containers = found.containers.into_iter().filter(|(_, c)| c.pod == id).collect();
                enter_found(&host, pods, containers);
            }
            Ok(Err(error)) => error!(pod.id = id.as_str(), error = model::chain(&error), "read its records"),
            Err(_) => {}
        }
    });
}
