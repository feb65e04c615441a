//! The end of each kind of work: what it brought becomes the state, durable, published, told, answered.

use std::sync::Arc;

use kernel::clock::now;
use model::{ContainerId, Resources};
use tracing::{Span, info, warn};

use super::begin::site;
use super::{Driver, Outcome, Product, START_ERROR_CODE};
use crate::bundle;
use crate::cgroups;
use crate::error::PodError;
use crate::events::EventKind;
use crate::queue::Job;
use crate::records::{Change, NetworkRecord};
use crate::resize::{self, Journal};
use crate::sandbox::{Made, NotMade};
use crate::state::{ContainerPhase, Exit, ExitReason, PodPhase};

impl Driver {
    pub(super) async fn finish(&mut self, job: Job, product: Product) {
        let answer = match (&job, product) {
            (Job::Run, Product::Ran(Ok(made))) => self.ran(made).await,
            (Job::Run, Product::Ran(Err(failed))) => Err(self.not_ran(failed).await),
            (Job::StopPod, Product::Plain(result)) => self.pod_stopped(result).await,
            (Job::RemovePod, Product::Plain(result)) => self.pod_removed(result).await,
            (Job::Create(id), Product::Created(result)) => self.created(id, result).await,
            (Job::Start(id), Product::Started(result)) => self.started(id, result).await,
            (Job::Stop(id), Product::Plain(result)) => self.stopped(id, result),
            (Job::Remove(id), Product::Plain(result)) => self.removed(id, result).await,
            (Job::Update(id), Product::Updated(result)) => self.updated(id, result).await,
            (Job::Reap(id), Product::Reaped(result)) => self.cleared_away(id, result),
            _ => Ok(Outcome::Done),
        };
        if let Err(error) = &answer {
            self.note_trouble(&job, error);
            telemetry::fail(&Span::current(), &model::chain(error));
        }
        // Whoever has the answer finds nothing under way any more, in a trace neither.
        telemetry::end(&Span::current());
        self.show_doing();
        self.answer_all(&job, &answer);
    }

    /// A job ended without a result: it panicked, or the service is stopping.
    pub(super) async fn broken(&mut self, job: Job) {
        if let Job::Create(id) | Job::Start(id) = &job {
            self.owe_removal(id).await;
        }
        if job == Job::Run {
            self.record.phase = PodPhase::NotReady { why: "its creation broke off".to_owned() };
            self.publish();
        }
        if let Job::Stop(id) = &job {
            self.graces.remove(id);
        }
        telemetry::end(&Span::current());
        self.answer_all(&job, &Err(PodError::Stopping));
    }

    async fn ran(&mut self, made: Made) -> super::Answer {
        self.record.phase = PodPhase::Ready;
        self.record.network =
            made.attached.map(|attached| NetworkRecord { ips: attached.ips, result: attached.result });
        if let Err(error) = self.commit([self.pod_change()]).await {
            // What the store does not hold does not exist: undo it.
            self.record.phase = PodPhase::Creating;
            let undone = site(&self.host, &self.id, &self.record).undo().await.is_ok();
            return Err(self.not_ran(NotMade { error, undone }).await);
        }
        if let Some(shim) = made.shim {
            self.take_shim(shim);
        }
        let view = self.publish();
        info!(ips = ?view.pod.ips, "pod sandbox ready");
        self.tell(&self.id, EventKind::Created, &view);
        self.tell(&self.id, EventKind::Started, &view);
        Ok(Outcome::Done)
    }

    pub(super) async fn not_ran(&mut self, failed: NotMade) -> PodError {
        warn!(error = model::chain(&failed.error), undone = failed.undone, "pod sandbox not made");
        if failed.undone {
            // A record that stays by accident is undone again by the next start, which does nothing then.
            self.commit_fact([Change::ForgetPod(self.id.clone())]).await;
            // Before the answer: a retry finds the identity free.
            self.host.index.forget(&self.id);
            self.gone = true;
        } else {
            self.record.phase = PodPhase::NotReady { why: model::chain(&failed.error) };
            self.commit_fact([self.pod_change()]).await;
            self.publish();
        }
        failed.error
    }

    async fn pod_stopped(&mut self, result: Result<(), PodError>) -> super::Answer {
        result.inspect_err(|error| warn!(error = model::chain(error), "pod sandbox not stopped"))?;
        let why = std::mem::take(&mut self.stop_reason);
        self.record.phase = PodPhase::NotReady { why };
        self.commit([self.pod_change()]).await.inspect_err(|_| self.record.phase = PodPhase::Stopping)?;
        let view = self.publish();
        self.tell(&self.id, EventKind::Stopped, &view);
        info!("pod sandbox stopped");
        Ok(Outcome::Done)
    }

    async fn pod_removed(&mut self, result: Result<(), PodError>) -> super::Answer {
        result.inspect_err(|error| warn!(error = model::chain(error), "pod sandbox not removed"))?;
        let forget = self.containers.keys().cloned().map(Change::ForgetContainer);
        // Before anyone is told: what is gone must not come back with the next start, and be told once more.
        self.commit(forget.chain([Change::ForgetPod(self.id.clone())])).await?;
        let gone = std::mem::take(&mut self.containers);
        let view = self.publish();
        // Whoever hears of it finds nothing.
        self.host.index.forget(&self.id);
        self.host.meter.forget(&self.record.cgroup);
        if self.removed_while_ready {
            self.tell(&self.id, EventKind::Stopped, &view);
        }
        for (id, container) in &gone {
            if container.phase != ContainerPhase::Creating {
                self.tell(id, EventKind::Deleted, &view);
            }
        }
        self.tell(&self.id, EventKind::Deleted, &view);
        self.gone = true;
        info!("pod sandbox removed");
        Ok(Outcome::Done)
    }

    async fn created(
        &mut self,
        id: &ContainerId,
        result: Result<bundle::Bundle, bundle::NotMade>,
    ) -> super::Answer {
        let failed = match result {
            Ok(bundle) => {
                if let Some(container) = self.containers.get_mut(id) {
                    container.phase = ContainerPhase::Created;
                    container.user = bundle.user;
                }
                match self.commit(self.container_change(id)).await {
                    Ok(()) => {
                        self.host.index.enter_container(id.clone(), self.id.clone());
                        let view = self.publish();
                        self.tell(id, EventKind::Created, &view);
                        self.say(id, "container created");
                        return Ok(Outcome::Container(id.clone()));
                    }
                    Err(error) => {
                        let undone = bundle::undo(&self.host.bundles, id).await.is_ok();
                        bundle::NotMade { error, undone }
                    }
                }
            }
            Err(failed) => failed,
        };
        let error = model::chain(&failed.error);
        warn!(container.id = id.as_str(), error, undone = failed.undone, "container not created");
        if failed.undone {
            self.containers.remove(id);
            self.commit_fact([Change::ForgetContainer(id.clone())]).await;
        } else {
            self.owe_removal(id).await;
        }
        Err(failed.error)
    }

    /// One line of a container's life.
    fn say(&self, id: &ContainerId, event: &'static str) {
        let Some(container) = self.containers.get(id) else { return };
        let config = &container.config;
        info!(
            container.id = id.as_str(),
            container.name = config.name,
            container.attempt = config.attempt,
            image.ref = config.image.image,
            "{event}"
        );
    }

    /// A container that is good for nothing but removal: seen, so that its owner can ask for that; else it goes
    /// with the pod, or at the next start.
    pub(super) async fn owe_removal(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.phase = ContainerPhase::Removing(None);
        self.commit_fact(self.container_change(id)).await;
        self.host.index.enter_container(id.clone(), self.id.clone());
        self.publish();
    }

    async fn started(
        &mut self,
        id: &ContainerId,
        result: Result<shim_client::Started, PodError>,
    ) -> super::Answer {
        let Some(container) = self.containers.get_mut(id) else { return Ok(Outcome::Done) };
        if container.phase != ContainerPhase::Starting {
            return Ok(Outcome::Done);
        }
        match result {
            Ok(started) => {
                container.phase =
                    ContainerPhase::Running { pid: started.pid, started_at: started.started_at_ns };
                self.read_limits(id).await;
                self.commit_fact(self.container_change(id)).await;
                let view = self.publish();
                self.tell(id, EventKind::Started, &view);
                self.say(id, "container started");
                if let Some(record) = self.early_exits.remove(id) {
                    self.exited(id.clone(), record).await;
                } else if self.shim.borrow().is_none() {
                    // It was lost after this start: whoever looked for it left this container to its job.
                    self.find_shim().await;
                }
                Ok(Outcome::Done)
            }
            Err(error) => {
                self.early_exits.remove(id);
                let exit = Exit {
                    started_at: None,
                    finished_at: now(),
                    code: START_ERROR_CODE,
                    reason: ExitReason::StartError,
                    message: model::chain(&error),
                };
                self.ended(id.clone(), exit).await;
                Err(error)
            }
        }
    }

    fn stopped(&mut self, id: &ContainerId, result: Result<(), PodError>) -> super::Answer {
        self.graces.remove(id);
        if let Err(error) = &result {
            // A removal that waits for this stop cannot go on, and must not begin it again for ever.
            let kept = std::mem::take(&mut self.kept);
            for (request, waiter) in kept {
                match &request {
                    super::Request::Remove(removed) if removed == id => {
                        self.answer(waiter, Err(error.clone()));
                    }
                    _ => self.kept.push((request, waiter)),
                }
            }
        }
        result.map(|()| Outcome::Done)
    }

    async fn removed(&mut self, id: &ContainerId, result: Result<(), PodError>) -> super::Answer {
        result?;
        self.commit([Change::ForgetContainer(id.clone())]).await?;
        self.say(id, "container removed");
        self.containers.remove(id);
        self.reaped.remove(id);
        self.host.index.forget_container(id);
        let view = self.publish();
        self.tell(id, EventKind::Deleted, &view);
        Ok(Outcome::Done)
    }

    fn cleared_away(&mut self, id: &ContainerId, result: Result<(), PodError>) -> super::Answer {
        match result {
            Ok(()) => drop(self.reaped.insert(id.clone())),
            // Tried again by the removal, which reports it.
            Err(error) => {
                warn!(container.id = id.as_str(), error = model::chain(&error), "not cleared away yet");
            }
        }
        Ok(Outcome::Done)
    }

    async fn updated(&mut self, id: &ContainerId, result: Result<Resources, PodError>) -> super::Answer {
        let resources = result?;
        let Some(container) = self.containers.get_mut(id) else { return Ok(Outcome::Done) };
        let before = std::mem::replace(&mut container.resources, resources);
        let committed = self.commit(self.container_change(id)).await;
        if committed.is_err()
            && let Some(container) = self.containers.get_mut(id)
        {
            container.resources = before;
        }
        // The record is the word: where it could not be written the limits go back to what it says.
        self.settle_update(id, committed.is_ok()).await;
        self.publish();
        committed.map(|()| Outcome::Done)
    }

    /// Forgets the journal of an update that is committed, or that the record has; puts back any other.
    pub(super) async fn settle_update(&self, id: &ContainerId, committed: bool) {
        let Some(now) = self.containers.get(id).map(|container| container.resources.clone()) else { return };
        let bundle = self.host.sandboxes.config.bundle(id);
        let settled = tokio::task::spawn_blocking(move || match Journal::read(&bundle)? {
            Some(journal) if !committed && !journal.is_done(&now) => journal.put_back(&bundle),
            Some(_) => Journal::forget(&bundle),
            None => Ok(()),
        });
        if let Ok(Err(error)) = settled.await {
            warn!(container.id = id.as_str(), error = model::chain(&error), "settle an update");
        }
    }

    /// What a container that has just started may use, by the kernel's word.
    async fn read_limits(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get(id) else { return };
        let (asked, cgroup) = (container.resources.clone(), container.cgroup.clone());
        let ContainerPhase::Running { pid, .. } = container.phase else { return };
        if asked == Resources::default() {
            return;
        }
        let hierarchy = Arc::clone(&self.host.hierarchy);
        let read = tokio::task::spawn_blocking(move || {
            resize::actual(&asked, &cgroups::bounding(&hierarchy, &cgroup), pid)
        });
        if let (Ok(actual), Some(container)) = (read.await, self.containers.get_mut(id)) {
            container.resources = actual;
        }
    }
}
