//! Exits: what a shim recorded becomes a durable, published, told fact, and what is left is cleared away.

use model::ContainerId;
use shim_client::ExitRecord;
use tracing::{info, warn};

use super::Driver;
use crate::events::EventKind;
use crate::state::{ContainerPhase, Exit, ExitReason};

impl Driver {
    /// A container's process has ended, and its shim has the record on disk.
    pub(super) async fn exited(&mut self, id: ContainerId, record: ExitRecord) {
        match self.containers.get(&id).map(|container| &container.phase) {
            Some(ContainerPhase::Running { .. }) => self.ended_so(&record).await,
            // Its start has not been told yet: first things first.
            Some(ContainerPhase::Starting) => drop(self.early_exits.insert(id, record)),
            _ => {}
        }
    }

    /// Makes what a shim recorded the container's state.
    pub(super) async fn ended_so(&mut self, record: &ExitRecord) {
        self.host.log_dropped_bytes.add(record.log_bytes_dropped);
        self.ended(record.container.clone(), exit_of(record)).await;
    }

    /// Makes an exit the container's state, and clears away after it.
    pub(super) async fn ended(&mut self, id: ContainerId, exit: Exit) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        info!(
            container.id = id.as_str(),
            container.name = container.config.name,
            code = exit.code,
            reason = exit.reason.as_str(),
            "container ended"
        );
        self.host.exits.increment(exit.reason.as_str());
        container.phase = ContainerPhase::Exited(exit);
        self.host.meter.forget(&container.cgroup);
        self.commit_fact(self.container_change(&id)).await;
        let view = self.publish();
        self.tell(&id, EventKind::Stopped, &view);
        self.begin_reap(id);
    }

    /// Applies the records on disk to containers that run as far as is known here.
    pub(super) async fn read_exit_records(&mut self) {
        let (root, pod) = (self.host.sandboxes.config.root.clone(), self.id.clone());
        let read = tokio::task::spawn_blocking(move || shim_client::exit_records(&root, &pod)).await;
        let records = match read {
            Ok(Ok(records)) => records,
            Ok(Err(error)) => {
                warn!(error = model::chain(&error), "read the exit records");
                return;
            }
            Err(_) => return,
        };
        let ours = self.unattended();
        for record in records.iter().filter(|record| ours.contains(&record.container)) {
            self.ended_so(record).await;
        }
    }
}

/// A shim's record in CRI's words.
fn exit_of(record: &ExitRecord) -> Exit {
    let reason = match record.code {
        _ if record.oom => ExitReason::OomKilled,
        0 => ExitReason::Completed,
        _ => ExitReason::Error,
    };
    let message = match record.signal {
        Some(signal) => {
            let name =
                model::Signal::from_number(signal).map_or_else(|| signal.to_string(), |s| s.to_string());
            format!("killed by {name}")
        }
        None => String::new(),
    };
    Exit {
        started_at: Some(record.started_at_ns),
        finished_at: record.finished_at_ns,
        code: record.code,
        reason,
        message,
    }
}
