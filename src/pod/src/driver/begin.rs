//! The beginning of each kind of work: its intent is committed, then its job runs beside the driver.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kernel::clock::now;
use model::limits::OCI_RUNTIME_MAX;
use model::{ContainerConfig, ContainerId, NamespaceMode, Resources};
use shim_client::{Dump, LogTarget, OciRuntime, RunContainer, StdioSpec};
use telemetry::field;
use tokio::sync::watch;
use tracing::warn;

use super::{Driver, Product, Request, Waiter};
use crate::bundle::{self, Traces};
use crate::cgroups;
use crate::checkpoint;
use crate::config::CgroupDriver;
use crate::ending::{Ending, kill_cgroup};
use crate::error::{Cause, PodError};
use crate::queue::Job;
use crate::records::ContainerRecord;
use crate::resize;
use crate::sandbox::Site;
use crate::spec::{self, HandlerCan};
use crate::state::{ContainerPhase, PodPhase, User};

impl Driver {
    /// Begins what was asked; the waiter is answered when it ends, or now when it cannot begin.
    pub(super) async fn begin(&mut self, request: Request, waiter: Waiter) {
        let begun = match request {
            Request::Run(_) => self.begin_run().await,
            Request::StopPod => self.begin_stop_pod().await,
            Request::RemovePod => self.begin_remove_pod().await,
            Request::Create(config, from) => self.begin_create(config, from).await,
            Request::Start(id) => self.begin_start(id).await,
            Request::Stop(id, grace) => Ok(self.begin_stop(id, grace)),
            Request::Remove(id) => self.begin_remove(id).await,
            Request::Update(id, resources) => Ok(self.begin_update(id, resources)),
            Request::UpdatePod { .. } => return,
        };
        match begun {
            Ok(job) => self.waiting.entry(job).or_default().push(waiter),
            Err(error) => self.answer(waiter, Err(error)),
        }
    }

    async fn begin_run(&mut self) -> Result<Job, PodError> {
        // The record in phase Creating is the journal of every step: nothing touches the host before it.
        if let Err(error) = self.commit([self.pod_change()]).await {
            self.host.index.forget(&self.id);
            self.gone = true;
            return Err(error);
        }
        let (host, id, record) = (Arc::clone(&self.host), self.id.clone(), self.record.clone());
        self.spawn(Job::Run, async move { Product::Ran(site(&host, &id, &record).make().await) });
        Ok(Job::Run)
    }

    pub(super) async fn begin_stop_pod(&mut self) -> Result<Job, PodError> {
        self.enter(PodPhase::Stopping).await?;
        let (host, id, record) = (Arc::clone(&self.host), self.id.clone(), self.record.clone());
        let endings = self.endings();
        self.spawn(Job::StopPod, async move {
            Product::Plain(match end_all(endings).await {
                Ok(()) => {
                    let unmounted = bundle::undo_volumes(&host.bundles, &id).await;
                    site(&host, &id, &record).undo_network().await.and(unmounted)
                }
                Err(error) => Err(error),
            })
        });
        Ok(Job::StopPod)
    }

    pub(super) async fn begin_remove_pod(&mut self) -> Result<Job, PodError> {
        let ready = matches!(self.record.phase, PodPhase::Ready | PodPhase::Stopping);
        self.enter(PodPhase::Removing).await?;
        self.removed_while_ready |= ready;
        let (host, id, record) = (Arc::clone(&self.host), self.id.clone(), self.record.clone());
        let endings = self.endings();
        let containers: Vec<Traces> = self.containers.keys().filter_map(|id| self.traces(id)).collect();
        let shim = self.shim.borrow().clone();
        self.spawn(Job::RemovePod, async move {
            Product::Plain(
                async {
                    end_all(endings).await?;
                    for traces in &containers {
                        bundle::clear(&host.bundles, shim.as_ref(), traces).await?;
                        bundle::undo(&host.bundles, &traces.container).await?;
                    }
                    bundle::undo_volumes(&host.bundles, &id).await?;
                    site(&host, &id, &record).undo().await
                }
                .await,
            )
        });
        Ok(Job::RemovePod)
    }

    /// Makes a phase durable and seen, before anything is done for it.
    async fn enter(&mut self, phase: PodPhase) -> Result<(), PodError> {
        let before = std::mem::replace(&mut self.record.phase, phase);
        if let Err(error) = self.commit([self.pod_change()]).await {
            self.record.phase = before;
            return Err(error);
        }
        self.publish();
        Ok(())
    }

    /// What it takes to end each container that runs.
    fn endings(&self) -> Vec<Ending> {
        let running = |(_, record): &(&ContainerId, &ContainerRecord)| {
            matches!(record.phase, ContainerPhase::Running { .. } | ContainerPhase::Starting)
        };
        self.containers.iter().filter(running).map(|(id, record)| self.ending(id, record)).collect()
    }

    fn ending(&self, id: &ContainerId, record: &ContainerRecord) -> Ending {
        Ending {
            container: id.clone(),
            cgroup: self.host.hierarchy.group(&record.cgroup),
            signal: record.stop_signal,
            shim: self.shim.borrow().clone(),
            view: self.view.subscribe(),
        }
    }

    async fn begin_create(
        &mut self,
        config: Arc<ContainerConfig>,
        restored_from: Option<PathBuf>,
    ) -> Result<Job, PodError> {
        let id = kernel::random::id_bytes().map(ContainerId::from_bytes);
        let id = id.map_err(|e| PodError::Store(Cause::host(e)))?;
        let (_, handler) = self.host.sandboxes.config.handler(&self.record.handler)?;
        let can = HandlerCan {
            recursive_read_only: handler.recursive_read_only,
            id_mapped_mounts: handler.id_mapped_mounts,
        };
        spec::check_request(&self.record.config, &config, self.host.bundles.facts(), can)
            .map_err(|e| PodError::container_step("create", &id, e))?;
        let image = self.host.bundles.find_image(&config.image)?;
        let image_volumes = self.host.bundles.find_volumes(&config)?;
        let driver = self.host.sandboxes.config.cgroup_driver;
        let cgroup = cgroups::container_cgroup(&self.record.cgroup_parent, &id, driver);
        let cgroup = cgroup.map_err(|e| PodError::container_step("name the cgroup", &id, e))?;
        let record = ContainerRecord {
            pod: self.id.clone(),
            phase: ContainerPhase::Creating,
            created_at: now(),
            image_id: image.id.clone(),
            image_ref: image.repo_digests.first().cloned().unwrap_or_else(|| image.id.to_string()),
            log_path: bundle::log_path(&self.record.config, &config),
            resources: config.resources.clone(),
            user: User::default(),
            stop_signal: bundle::stop_signal(&config, &image)?,
            cgroup,
            config,
            restored_from,
        };
        let target_pid = self.target_pid(&record.config)?;
        self.containers.insert(id.clone(), record.clone());
        if let Err(error) = self.commit(self.container_change(&id)).await {
            self.containers.remove(&id);
            return Err(error);
        }
        let handler = self.host.sandboxes.config.handler(&self.record.handler)?.1;
        let input = bundle::Input {
            pod: self.id.clone(),
            pod_config: Arc::clone(&self.record.config),
            cgroup_parent: self.record.cgroup_parent.clone(),
            handler: can,
            privileged_devices: handler.privileged_devices,
            cgroup_writable: handler.cgroup_writable,
            pod_init: self.shim.borrow().as_ref().and_then(shim_client::Shim::pod_init),
            target_pid,
            container: id.clone(),
            record,
            image,
            image_volumes,
        };
        let host = Arc::clone(&self.host);
        self.spawn(Job::Create(id.clone()), async move {
            Product::Created(bundle::make(&host.bundles, input).await)
        });
        Ok(Job::Create(id))
    }

    /// The first process of the container whose PID namespace is to be shared.
    fn target_pid(&self, config: &ContainerConfig) -> Result<Option<u32>, PodError> {
        let NamespaceMode::Target(target) = &config.security.namespaces.pid else { return Ok(None) };
        match self.containers.get(target).map(|container| &container.phase) {
            Some(ContainerPhase::Running { pid, .. }) => Ok(Some(*pid)),
            Some(phase) => Err(PodError::ContainerState {
                attempt: "share the PID namespace of",
                container: target.clone(),
                state: phase.word(),
            }),
            None => Err(PodError::Invalid {
                field: "config.linux.security_context.namespace_options.target_id",
                why: format!("container {target} is not one of pod sandbox {}", self.id),
            }),
        }
    }

    async fn begin_start(&mut self, id: ContainerId) -> Result<Job, PodError> {
        let not_found = || PodError::ContainerNotFound(id.to_string());
        let shim = self.shim.borrow().clone();
        let shim = shim.ok_or(PodError::PodState {
            attempt: "start a container",
            pod: self.id.clone(),
            state: "without a shim",
        })?;
        let config = Arc::clone(&self.host.sandboxes.config);
        let (handler, oci) = config.handler(&self.record.handler)?;
        // Whose PID namespace is shared must still run: its pid may be another process's by now.
        let container_config = Arc::clone(&self.containers.get(&id).ok_or_else(not_found)?.config);
        self.target_pid(&container_config)?;
        let record = self.containers.get_mut(&id).ok_or_else(not_found)?;
        let cgroup = self.host.hierarchy.group(&record.cgroup);
        record.phase = ContainerPhase::Starting;
        let run = RunContainer {
            container: id.clone(),
            bundle: config.bundle(&id),
            runtime: OciRuntime {
                binary: oci.binary.clone(),
                root: config.runtime_root(&handler),
                systemd_cgroup: config.cgroup_driver == CgroupDriver::Systemd,
                args: Vec::new(),
            },
            stdio: StdioSpec {
                tty: record.config.tty,
                stdin: record.config.stdin,
                stdin_once: record.config.stdin_once,
            },
            log: record
                .log_path
                .clone()
                .map(|path| LogTarget { path, line_bytes_max: config.log_line_bytes_max }),
            memory_cgroup: cgroup.directory("memory"),
            deadline_ms: u64::try_from(OCI_RUNTIME_MAX.as_millis()).unwrap_or(u64::MAX),
            restore: record.restored_from.is_some().then(|| Dump {
                images: self.host.bundles.snapshots().checkpoint(&id),
                work: config.bundle(&id),
            }),
        };
        if run.restore.is_some() && !shim.checkpoints() {
            // It would begin anew.
            record.phase = ContainerPhase::Created;
            return Err(checkpoint::old_shim(&self.id));
        }
        if let Err(error) = self.commit(self.container_change(&id)).await {
            if let Some(record) = self.containers.get_mut(&id) {
                record.phase = ContainerPhase::Created;
            }
            return Err(error);
        }
        let (host, container) = (Arc::clone(&self.host), id.clone());
        let restored = run.restore.is_some().then(|| (self.id.clone(), self.record.clone()));
        self.spawn(Job::Start(id.clone()), async move {
            let binary = run.runtime.binary.display().to_string();
            let fields = [(field::CONTAINER_ID, container.as_str()), (field::OCI_RUNTIME, &binary)];
            let stage = host.sandboxes.stages.begin("oci_run", &fields);
            let start = async {
                bundle::prepare_log(&run).await?;
                shim.run(run).await.map_err(|e| PodError::container_step("start", &container, e))
            };
            let started = stage.run(start).await;
            if let (Ok(_), Some((pod, record))) = (&started, &restored) {
                // CRIU has brought the name of the pod that was written.
                if let Err(error) = site(&host, pod, record).set_namespaces().await {
                    warn!(
                        pod.id = pod.as_str(),
                        error = model::chain(&error),
                        "name a pod's namespaces again"
                    );
                }
                checkpoint::forget_images(&host, &container).await;
            }
            if started.is_err()
                && let Err(error) = kill_cgroup(&container, cgroup).await
            {
                // An answer that never came may have been "started".
                warn!(
                    container.id = container.as_str(),
                    error = model::chain(&error),
                    "kill what may have started"
                );
            }
            Product::Started(started)
        });
        Ok(Job::Start(id))
    }

    pub(super) fn begin_stop(&mut self, id: ContainerId, grace: Duration) -> Job {
        let job = Job::Stop(id.clone());
        let Some(record) = self.containers.get(&id) else { return job };
        let ending = self.ending(&id, record);
        let (ends, grace) = watch::channel(super::after(grace));
        self.graces.insert(id, ends);
        self.spawn(job.clone(), async move { Product::Plain(ending.stop(grace).await) });
        job
    }

    async fn begin_remove(&mut self, id: ContainerId) -> Result<Job, PodError> {
        let Some(record) = self.containers.get_mut(&id) else {
            return Err(PodError::ContainerNotFound(id.to_string()));
        };
        let exit = match &record.phase {
            ContainerPhase::Exited(exit) => Some(exit.clone()),
            ContainerPhase::Removing(exit) => exit.clone(),
            _ => None,
        };
        let before = std::mem::replace(&mut record.phase, ContainerPhase::Removing(exit));
        // One that has ended and is cleared away has a bundle left, which its record owns until it is forgotten: a
        // restart in between finds a container that ended, for its owner to remove again (ADR 121).
        let owned = matches!(before, ContainerPhase::Exited(_)) && self.reaped.contains(&id);
        if !owned && let Err(error) = self.commit(self.container_change(&id)).await {
            if let Some(record) = self.containers.get_mut(&id) {
                record.phase = before;
            }
            return Err(error);
        }
        let Some(traces) = self.traces(&id) else { return Err(PodError::ContainerNotFound(id.to_string())) };
        let (host, shim) = (Arc::clone(&self.host), self.shim.borrow().clone());
        let reaped = self.reaped.contains(&id);
        self.spawn(Job::Remove(id.clone()), async move {
            Product::Plain(
                async {
                    if !reaped {
                        bundle::clear(&host.bundles, shim.as_ref(), &traces).await?;
                    }
                    bundle::undo(&host.bundles, &traces.container).await
                }
                .await,
            )
        });
        Ok(Job::Remove(id))
    }

    fn begin_update(&mut self, id: ContainerId, wanted: Resources) -> Job {
        let job = Job::Update(id.clone());
        let Some(record) = self.containers.get(&id) else { return job };
        let pid = match record.phase {
            ContainerPhase::Running { pid, .. } => Some(pid),
            _ => None,
        };
        let resize = resize::Resize {
            cgroup: record.cgroup.clone(),
            bundle: self.host.sandboxes.config.bundle(&id),
            container: id,
            now: record.resources.clone(),
            wanted,
            pid,
            host: Arc::clone(&self.host),
        };
        self.spawn(job.clone(), async move { Product::Updated(resize.apply().await) });
        job
    }

    /// Clears away after an exit, beside everything else.
    pub(super) fn begin_reap(&mut self, id: ContainerId) {
        let Some(traces) = self.traces(&id) else { return };
        let (host, shim) = (Arc::clone(&self.host), self.shim.borrow().clone());
        self.spawn(Job::Reap(id), async move {
            Product::Reaped(bundle::clear(&host.bundles, shim.as_ref(), &traces).await)
        });
    }

    /// What a container may have left outside of its bundle.
    pub(super) fn traces(&self, id: &ContainerId) -> Option<Traces> {
        let runtime_root = self.host.sandboxes.config.runtime_root(&self.record.handler);
        Some(Traces {
            container: id.clone(),
            cgroup: self.host.hierarchy.group(&self.containers.get(id)?.cgroup),
            runtime_state: runtime_root.join(id),
        })
    }
}

/// Where and as what a pod is made and undone.
pub(super) fn site<'a>(
    host: &'a super::Host,
    pod: &'a model::PodId,
    record: &'a crate::records::PodRecord,
) -> Site<'a> {
    Site {
        builder: &host.sandboxes,
        index: &host.index,
        pod,
        pod_config: &record.config,
        cgroup: &record.cgroup,
        cgroups_made: &record.cgroups_made,
    }
}

/// Kills every container at once.
async fn end_all(endings: Vec<Ending>) -> Result<(), PodError> {
    let ends = endings.into_iter().map(Ending::kill);
    futures_util::future::join_all(ends).await.into_iter().collect()
}
