//! UpdateContainerResources: the limits of a created or running container, changed all or not at all.
//!
//! [`Journal`] holds everything as it was before the first write. Whatever fails afterwards, the record in the store
//! among it, puts it back; a service that died in between does so when it comes back.

mod journal;
mod refused;
mod values;

use std::path::PathBuf;
use std::sync::Arc;

use kernel::cgroup::{Group, Hierarchy, Limits};
use kernel::{SysError, durable};
use model::{ContainerId, Resources};
use tracing::warn;

pub(crate) use journal::Journal;
use refused::Refused;
pub(crate) use values::actual;

use crate::config::CgroupDriver;
use crate::driver::Host;
use crate::error::{Cause, PodError};
use crate::spec::{self, Spec};
use crate::{cgroups, systemd};

/// A change under way.
pub(crate) struct Resize {
    pub(crate) container: ContainerId,
    pub(crate) cgroup: String,
    pub(crate) bundle: PathBuf,
    /// What it may use now.
    pub(crate) now: Resources,
    /// What is asked for; zero or empty stays.
    pub(crate) wanted: Resources,
    /// Its first process, where it runs.
    pub(crate) pid: Option<u32>,
    pub(crate) host: Arc<Host>,
}

impl Resize {
    /// Applies the change; what the container may use then, by the kernel's word where it runs. The journal stays
    /// until the record says the same.
    ///
    /// # Errors
    /// What stopped it; every limit is as it was then.
    pub(crate) async fn apply(self) -> Result<Resources, PodError> {
        tokio::task::spawn_blocking(move || self.apply_now()).await.unwrap_or(Err(PodError::Stopping))
    }

    fn apply_now(self) -> Result<Resources, PodError> {
        let facts = self.host.bundles.facts();
        let mut merged = values::merged(&self.now, &self.wanted);
        if merged.oom_score_adj != 0 {
            // As at the creation: a container that is killed a little sooner is better than none.
            merged.oom_score_adj = merged.oom_score_adj.max(facts.oom_score_adj_min.into());
        }
        let limits = spec::limits(&merged, "linux", facts).map_err(|e| self.failed(Cause::new(e)))?;
        let groups = if self.pid.is_some() { self.groups(&self.host.hierarchy) } else { Vec::new() };
        if let [bounding, ..] = &groups[..] {
            refused::check_in_use(bounding, &limits).map_err(|e| self.failed(Cause::new(e)))?;
        }
        let path = self.bundle.join("config.json");
        let before = std::fs::read_to_string(&path)
            .map_err(|e| self.failed(Cause::host(SysError::path("read", &path, e))))?;
        let after = serde_json::from_str::<Spec>(&before)
            .and_then(|spec| {
                serde_json::to_vec(&spec::with_limits(spec, limits.clone(), merged.oom_score_adj))
            })
            .map_err(|e| self.failed(Cause::host(e)))?;
        let journal = Journal::before(&self.now, &groups, &limits, before)
            .map_err(|e| self.failed(Cause::new(Refused::by_kernel(e, &limits, &groups))))?;
        journal.write(&self.bundle).map_err(|e| self.failed(Cause::host(e)))?;
        let changed = self.change(&groups, &limits, &merged).and_then(|()| {
            // The specification agrees with what runs, and a created container starts with what was asked last.
            durable::replace(&path, &after, 0o600).map_err(Cause::host)
        });
        if let Err(error) = changed {
            self.take_back(&journal);
            return Err(self.failed(error));
        }
        Ok(match (self.pid, groups.first()) {
            (Some(pid), Some(group)) => actual(&merged, group, pid),
            _ => merged,
        })
    }

    fn failed(&self, source: Cause) -> PodError {
        PodError::ContainerStep { step: "update the resources", container: self.container.clone(), source }
    }

    /// Where the container is bounded, and where systemd might bound it again.
    fn groups(&self, hierarchy: &Hierarchy) -> Vec<Group> {
        let mut groups = vec![cgroups::bounding(hierarchy, &self.cgroup)];
        if self.host.sandboxes.config.cgroup_driver == CgroupDriver::Systemd {
            groups.push(hierarchy.group(&self.cgroup));
        }
        groups
    }

    fn change(&self, groups: &[Group], limits: &Limits, merged: &Resources) -> Result<(), Cause> {
        let refused = |e| Cause::new(Refused::by_kernel(e, limits, groups));
        let Some((bounding, others)) = groups.split_first() else { return Ok(()) };
        bounding.apply(limits).map_err(refused)?;
        if !others.is_empty() {
            // Otherwise the next reload brings back what it was told when the scope began. It writes rounded values.
            self.tell_systemd(limits);
        }
        for own in others {
            // After systemd, whose own idea of the scope's other limits would stay otherwise. The same kernel took
            // the same values a moment ago: where the group is gone the container is ending.
            own.apply(limits).or_else(|e| if own.exists() { Err(e) } else { Ok(()) }).map_err(refused)?;
        }
        match i32::try_from(merged.oom_score_adj) {
            // The kubelet sends it with every update, and processes may have moved their own meanwhile.
            Ok(adj) if merged.oom_score_adj != self.now.oom_score_adj => {
                bounding.set_oom_score_adj(adj).map_err(refused)
            }
            _ => Ok(()),
        }
    }

    fn tell_systemd(&self, limits: &Limits) {
        if let Err(error) = systemd::set_limits(&self.cgroup, limits) {
            warn!(
                container.id = self.container.as_str(),
                error = model::chain(&error),
                "systemd was not told of the new limits and may undo them when it reloads"
            );
        }
    }

    fn take_back(&self, journal: &Journal) {
        if self.pid.is_some()
            && self.host.sandboxes.config.cgroup_driver == CgroupDriver::Systemd
            && let Ok(limits) = spec::limits(&self.now, "linux", self.host.bundles.facts())
        {
            self.tell_systemd(&limits);
        }
        if let Err(error) = journal.put_back(&self.bundle) {
            warn!(container.id = self.container.as_str(), error = model::chain(&error), "put limits back");
        }
    }
}
