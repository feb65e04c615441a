//! A pod sandbox on the host: the steps that make it, and the undo of each.
//!
//! No pause process: a sandbox is pinned namespaces, a few files, a /dev/shm, a network and a shim. The
//! list of steps follows from the configuration alone, so the record that says "this pod is being created"
//! is the journal of them all: it is durable before the first one touches the host. Each undo succeeds
//! when there is nothing to undo, whether its step ran wholly, partly or not at all.

pub(crate) mod cgroup;
mod files;
mod namespaces;

use std::sync::Arc;

use kernel::cgroup::Hierarchy;
use model::{Classify as _, ErrorKind, NamespaceMode, PodConfig, PodId};
use network::{Attach, Attached, PodNetwork};
use shim_client::{Shim, ShimError, ShimSpec, Shims};
use telemetry::{Stages, field};
use tracing::warn;

use crate::config::{PodPaths, PodsConfig};
use crate::error::{Cause, PodError};
use crate::index::Index;

pub(crate) use files::{hostname, remove_directory};

/// What a sandbox is made with.
#[derive(Clone)]
pub(crate) struct Builder {
    pub(crate) config: Arc<PodsConfig>,
    /// The cgroups that are mounted.
    pub(crate) hierarchy: Arc<Hierarchy>,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) shims: Arc<dyn Shims>,
    pub(crate) stages: Stages,
    pub(crate) slices: cgroup::Slices,
}

/// One thing that a sandbox has on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// `<state>/pods/<id>`, and the log directory.
    Directory,
    /// The cgroup that its containers' cgroups lie in.
    Cgroup,
    /// User, network, IPC and UTS namespaces, as asked, pinned; hostname and sysctls in them.
    Namespaces,
    /// resolv.conf, hostname, hosts.
    Files,
    /// The tmpfs that its containers share as /dev/shm.
    SharedMemory,
    /// CNI ADD.
    Network,
    /// The shim process.
    Shim,
}

impl Step {
    /// The step in words, for errors; also the name of its stage in the metrics.
    fn name(self) -> &'static str {
        match self {
            Self::Directory => "make the directory",
            Self::Cgroup => "make the cgroup",
            Self::Namespaces => "make the namespaces",
            Self::Files => "write the files",
            Self::SharedMemory => "mount /dev/shm",
            Self::Network => "set up the network",
            Self::Shim => "start the shim",
        }
    }

    fn stage(self) -> &'static str {
        match self {
            Self::Directory => "pod_directory",
            Self::Cgroup => "pod_cgroup",
            Self::Namespaces => "namespaces",
            Self::Files => "pod_files",
            Self::SharedMemory => "pod_shm",
            Self::Network => "cni_add",
            Self::Shim => "shim_start",
        }
    }
}

/// The steps of a pod, in stages: the steps of one stage are made at the same time.
fn plan(config: &PodConfig) -> Vec<Vec<Step>> {
    let mut first = vec![Step::Cgroup, Step::Namespaces, Step::Files];
    if config.security.namespaces.ipc == NamespaceMode::Pod {
        first.push(Step::SharedMemory);
    }
    let mut last = vec![Step::Shim];
    if config.security.namespaces.network == NamespaceMode::Pod {
        last.push(Step::Network);
    }
    vec![vec![Step::Directory], first, last]
}

/// What the steps made that others need.
#[derive(Default)]
pub(crate) struct Made {
    pub(crate) attached: Option<Attached>,
    pub(crate) shim: Option<Shim>,
}

/// A sandbox that could not be made.
#[derive(Debug)]
pub(crate) struct NotMade {
    /// Why.
    pub(crate) error: PodError,
    /// Whether every step was undone: nothing of the pod is left on the host.
    pub(crate) undone: bool,
}

enum Product {
    Nothing,
    Network(Attached),
    Shim(Shim),
}

/// One pod's sandbox, to be made or undone.
pub(crate) struct Site<'a> {
    pub(crate) builder: &'a Builder,
    /// Who else is on this node.
    pub(crate) index: &'a Index,
    pub(crate) pod: &'a PodId,
    pub(crate) pod_config: &'a PodConfig,
    pub(crate) cgroup: &'a str,
    pub(crate) cgroups_made: &'a [String],
}

impl Site<'_> {
    /// Makes every step, or undoes those that were begun.
    pub(crate) async fn make(&self) -> Result<Made, NotMade> {
        let mut made = Made::default();
        for stage in plan(self.pod_config) {
            let products =
                futures_util::future::join_all(stage.iter().map(|step| self.make_step(*step))).await;
            let mut failed = None;
            for product in products {
                match product {
                    Ok(Product::Nothing) => {}
                    Ok(Product::Network(attached)) => made.attached = Some(attached),
                    Ok(Product::Shim(shim)) => made.shim = Some(shim),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            if let Some(first) = failed {
                return Err(match self.undo().await {
                    Ok(()) => NotMade { error: first, undone: true },
                    Err(undo) => NotMade {
                        error: PodError::AndUndo { first: Box::new(first), undo: model::chain(&undo) },
                        undone: false,
                    },
                });
            }
        }
        Ok(made)
    }

    /// Undoes every step, last first; the steps that fail do not keep the others from being undone.
    ///
    /// # Errors
    /// The first that failed.
    pub(crate) async fn undo(&self) -> Result<(), PodError> {
        let mut first = Ok(());
        for stage in plan(self.pod_config).iter().rev() {
            for step in stage.iter().rev() {
                // The directory holds the shim's socket: what is still owed must stay to be found.
                if *step != Step::Directory || first.is_ok() {
                    first = first.and(self.undo_step(*step).await);
                }
            }
        }
        first
    }

    /// Undoes what a stopped pod no longer needs: its network, and the namespaces that held it.
    pub(crate) async fn undo_network(&self) -> Result<(), PodError> {
        self.undo_step(Step::Network).await?;
        self.undo_step(Step::Namespaces).await
    }

    /// Gives the namespaces the pod's name and kernel parameters again.
    pub(crate) async fn set_namespaces(&self) -> Result<(), PodError> {
        self.on_host(Step::Namespaces, namespaces::set(self)).await.map(drop)
    }

    async fn make_step(&self, step: Step) -> Result<Product, PodError> {
        let stage = self.builder.stages.begin(step.stage(), &[(field::POD_ID, self.pod.as_str())]);
        stage.run(self.do_step(step)).await
    }

    async fn do_step(&self, step: Step) -> Result<Product, PodError> {
        match step {
            Step::Directory => self.on_host(step, files::make_directories(self)).await,
            Step::Cgroup => self.on_host(step, cgroup::make(self)).await,
            Step::Namespaces => self.on_host(step, namespaces::make(self)).await,
            Step::Files => self.on_host(step, files::write(self)).await,
            Step::SharedMemory => self.on_host(step, files::mount_shm(self)).await,
            Step::Network => {
                let attach = Attach {
                    pod: self.pod.clone(),
                    identity: self.pod_config.identity.clone(),
                    netns: self.builder.config.netns(self.pod),
                    port_mappings: self.pod_config.port_mappings.clone(),
                    dns: self.pod_config.dns.clone(),
                    annotations: self.pod_config.annotations.clone(),
                    cgroup_path: self.cgroup.to_owned(),
                };
                let attached = self.builder.network.attach(&attach).await;
                attached.map(Product::Network).map_err(|e| PodError::pod_step(step.name(), self.pod, e))
            }
            Step::Shim => {
                let namespaces = &self.pod_config.security.namespaces;
                let spec = ShimSpec {
                    pod: self.pod.clone(),
                    shared_pid: namespaces.pid == NamespaceMode::Pod,
                    user_namespace: namespaces.own_user().map(|_| self.paths().user()),
                };
                let shim = self.builder.shims.start(&spec).await;
                shim.map(Product::Shim).map_err(|e| PodError::pod_step(step.name(), self.pod, e))
            }
        }
    }

    async fn undo_step(&self, step: Step) -> Result<(), PodError> {
        match step {
            Step::Directory => {
                let dir = self.paths().dir().to_owned();
                self.on_host(step, move || files::remove_directory(&dir)).await.map(drop)
            }
            Step::Cgroup => self.on_host(step, cgroup::remove(self)).await.map(drop),
            Step::Namespaces => self.on_host(step, namespaces::undo(self)).await.map(drop),
            // They lie in the directory and go with it.
            Step::Files => Ok(()),
            Step::SharedMemory => self.on_host(step, files::unmount_shm(self)).await.map(drop),
            Step::Network => {
                let stage = self.builder.stages.begin("cni_del", &[(field::POD_ID, self.pod.as_str())]);
                let detached = stage.run(self.builder.network.detach(self.pod)).await;
                detached.map_err(|e| PodError::pod_step("take down the network", self.pod, e))
            }
            Step::Shim => {
                let stage = self.builder.stages.begin("shim_stop", &[(field::POD_ID, self.pod.as_str())]);
                stage.run(self.end_shim()).await
            }
        }
    }

    /// Shuts the shim down, and before that ends what it still runs: the pod's containers are removed already, so that
    /// is one whose start it went on with after its service had given that up.
    async fn shut_down(&self, shim: &Shim) -> Result<(), ShimError> {
        match shim.shutdown().await {
            Err(error) if error.kind() == ErrorKind::WrongState => {}
            ended => return ended,
        }
        for held in shim.state().await? {
            warn!(
                pod.id = self.pod.as_str(),
                container.id = held.container.as_str(),
                "a container nobody knows"
            );
            shim.delete(&held.container).await?;
        }
        shim.shutdown().await
    }

    /// Ends the shim, wherever its start or its life stood.
    async fn end_shim(&self) -> Result<(), PodError> {
        let failed = |e: ShimError| PodError::pod_step("end the shim", self.pod, e);
        // Ended is only what does not answer: a connection that was lost in the middle proves nothing.
        loop {
            match self.builder.shims.connect(self.pod).await {
                Ok(shim) => self.shut_down(&shim).await.map_err(failed)?,
                Err(ShimError::NotRunning { .. }) => break,
                Err(error) => return Err(failed(error)),
            }
        }
        let (root, pod) = (self.builder.config.root.clone(), self.pod.clone());
        let forget = tokio::task::spawn_blocking(move || shim_client::forget_exits(&root, &pod)).await;
        match forget {
            Ok(result) => result.map_err(|e| PodError::PodStep {
                step: "forget the exit records",
                pod: self.pod.clone(),
                source: Cause::host(e),
            }),
            Err(_) => Err(PodError::Stopping),
        }
    }

    /// Runs synchronous work on the blocking pool.
    async fn on_host(
        &self,
        step: Step,
        work: impl FnOnce() -> Result<(), Cause> + Send + 'static,
    ) -> Result<Product, PodError> {
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(())) => Ok(Product::Nothing),
            Ok(Err(source)) => Err(PodError::PodStep { step: step.name(), pod: self.pod.clone(), source }),
            Err(_) => Err(PodError::Stopping),
        }
    }

    fn paths(&self) -> PodPaths {
        PodPaths::new(&self.builder.config, self.pod)
    }
}
