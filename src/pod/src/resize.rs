//! UpdateContainerResources: the limits of a created or running container, changed all or not at all.

use std::path::PathBuf;
use std::sync::Arc;

use kernel::cgroup::Limits;
use kernel::{SysError, durable};
use model::{ContainerId, Resources};
use tracing::warn;

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
    pub(crate) running: bool,
    pub(crate) host: Arc<Host>,
}

impl Resize {
    /// Applies the change; what the container may use then.
    ///
    /// # Errors
    /// What stopped it; every limit is as it was then.
    pub(crate) async fn apply(self) -> Result<Resources, PodError> {
        tokio::task::spawn_blocking(move || self.apply_now()).await.unwrap_or(Err(PodError::Stopping))
    }

    fn apply_now(self) -> Result<Resources, PodError> {
        let merged = merged(&self.now, &self.wanted);
        let step = |step: &'static str| {
            let container = self.container.clone();
            move |source| PodError::ContainerStep { step, container, source }
        };
        let limits = spec::limits(&merged, "linux", self.host.bundles.facts())
            .map_err(|e| step("update the resources")(Cause::new(e)))?;
        if self.running {
            self.apply_limits(&limits).map_err(|e| step("update the resources")(Cause::host(e)))?;
        }
        // The specification agrees with what runs, and a created container starts with what was asked last.
        let path = self.bundle.join("config.json");
        let rewritten = std::fs::read(&path)
            .map_err(|e| Cause::host(kernel::SysError::path("read", &path, e)))
            .and_then(|bytes| serde_json::from_slice::<Spec>(&bytes).map_err(Cause::host))
            .and_then(|spec| serde_json::to_vec(&spec::with_limits(spec, limits)).map_err(Cause::host))
            .and_then(|bytes| durable::replace(&path, &bytes, 0o600).map_err(Cause::host));
        rewritten.map_err(|source| {
            self.take_back();
            step("write the specification")(source)
        })?;
        Ok(merged)
    }

    /// Puts back what a running container was limited to before.
    fn take_back(&self) {
        if !self.running {
            return;
        }
        if let Ok(limits) = spec::limits(&self.now, "linux", self.host.bundles.facts())
            && let Err(error) = self.apply_limits(&limits)
        {
            warn!(container.id = self.container.as_str(), error = model::chain(&error), "put limits back");
        }
    }

    /// Applies limits where the container is bounded, and where systemd might bound it again.
    fn apply_limits(&self, limits: &Limits) -> Result<(), SysError> {
        let (config, hierarchy) = (&self.host.sandboxes.config, &self.host.hierarchy);
        let (own, bounding) = (hierarchy.group(&self.cgroup), cgroups::bounding(hierarchy, &self.cgroup));
        bounding.apply(limits)?;
        if config.cgroup_driver == CgroupDriver::Systemd {
            // Otherwise the next reload brings back what it was told when the scope began. It writes rounded values.
            if let Err(error) = systemd::set_limits(&self.cgroup, limits) {
                warn!(
                    container.id = self.container.as_str(),
                    error = model::chain(&error),
                    "systemd was not told of the new limits and may undo them when it reloads"
                );
            }
            // After systemd, whose own idea of the scope's other limits would stay otherwise.
            own.apply(limits).or_else(|error| {
                // The same kernel took the same values a moment ago: the container is ending.
                if own.exists() { Err(error) } else { Ok(()) }
            })?;
        }
        Ok(())
    }
}

/// What is asked for over what is.
fn merged(now: &Resources, wanted: &Resources) -> Resources {
    let number = |wanted: i64, now: i64| if wanted == 0 { now } else { wanted };
    let text = |wanted: &str, now: &str| if wanted.is_empty() { now } else { wanted }.to_owned();
    let mut unified = now.unified.clone();
    unified.extend(wanted.unified.clone());
    Resources {
        cpu_period: number(wanted.cpu_period, now.cpu_period),
        cpu_quota: number(wanted.cpu_quota, now.cpu_quota),
        cpu_shares: number(wanted.cpu_shares, now.cpu_shares),
        memory_limit: number(wanted.memory_limit, now.memory_limit),
        memory_swap_limit: number(wanted.memory_swap_limit, now.memory_swap_limit),
        oom_score_adj: number(wanted.oom_score_adj, now.oom_score_adj),
        cpuset_cpus: text(&wanted.cpuset_cpus, &now.cpuset_cpus),
        cpuset_mems: text(&wanted.cpuset_mems, &now.cpuset_mems),
        hugepage_limits: if wanted.hugepage_limits.is_empty() {
            now.hugepage_limits.clone()
        } else {
            wanted.hugepage_limits.clone()
        },
        unified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_stays() {
        let now = Resources { cpu_shares: 512, memory_limit: 1 << 20, ..Resources::default() };
        let wanted = Resources { memory_limit: 2 << 20, cpuset_cpus: "0".to_owned(), ..Resources::default() };
        let merged = merged(&now, &wanted);
        assert_eq!(
            (merged.cpu_shares, merged.memory_limit, merged.cpuset_cpus.as_str()),
            (512, 2 << 20, "0")
        );
    }
}
