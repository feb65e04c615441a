//! A pod's cgroup, and those above it that were made for it.
//!
//! What did not exist before a pod is made for it, is written in its record, and goes with the last pod that lives
//! below it: a pod that begins beside another answers for what that one made, too. With the systemd driver slices are
//! systemd's alone. It makes one when the first scope in it starts, keeps it for ever, makes it again when its
//! directory is removed behind its back, and ends everything in it when it stops: so a slice is stopped only when no
//! other pod lives below it, and none can begin to meanwhile.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::cgroup::Group;
use model::PodId;

use super::Site;
use crate::config::CgroupDriver;
use crate::driver::Handle;
use crate::error::Cause;
use crate::index::Index;
use crate::systemd;

/// Held while slices are stopped, so that no pod begins in one of them. In it, the pods that have left theirs and are
/// still being removed.
#[derive(Clone, Default)]
pub(crate) struct Slices(Arc<Mutex<BTreeSet<PodId>>>);

impl Slices {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<PodId>> {
        // A set of ids is as good after a panic as before.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The groups that a pod in `group` answers for, outermost first: those that are missing, and those that other pods
/// answer for.
pub(crate) fn answers_for(index: &Index, group: &Group) -> Vec<String> {
    // Looked at first: a pod that is gone from the index by now has removed what it made, and then it is missing.
    let others = index.pods();
    let missing = group.missing();
    let of_others = |path: &&str| others.iter().any(|pod| pod.cgroups_made.iter().any(|made| made == path));
    let path = group.path();
    let all: Vec<&Path> = path.ancestors().collect();
    let all = all.iter().rev().filter_map(|path| path.to_str());
    all.filter(|path| missing.iter().any(|made| made == path) || of_others(path)).map(str::to_owned).collect()
}

pub(super) fn make(site: &Site<'_>) -> impl FnOnce() -> Result<(), Cause> + use<> {
    let group = site.builder.hierarchy.group(site.cgroup);
    let driver = site.builder.config.cgroup_driver;
    let slices = site.builder.slices.clone();
    // One that exists is the kubelet's: its limits are not ours to write.
    let ours = !site.cgroups_made.is_empty();
    move || match driver {
        CgroupDriver::Cgroupfs if ours => group.create().map_err(Cause::host),
        CgroupDriver::Cgroupfs => Ok(()),
        CgroupDriver::Systemd => {
            // Who looked before this pod was in the index has stopped its slices once this is free.
            drop(slices.lock());
            Ok(())
        }
    }
}

pub(super) fn remove(site: &Site<'_>) -> impl FnOnce() -> Result<(), Cause> + use<> {
    let hierarchy = Arc::clone(&site.builder.hierarchy);
    // Innermost first. One that another pod lives in by now stays, and goes with that pod.
    let groups: Vec<Group> = site.cgroups_made.iter().rev().map(|made| hierarchy.group(made)).collect();
    let driver = site.builder.config.cgroup_driver;
    let (slices, index, pod) = (site.builder.slices.clone(), site.index.clone(), site.pod.clone());
    move || match driver {
        CgroupDriver::Cgroupfs => {
            groups.iter().try_for_each(|group| group.remove_if_empty().map_err(Cause::host))
        }
        CgroupDriver::Systemd if groups.is_empty() => Ok(()),
        CgroupDriver::Systemd => {
            let mut left = slices.lock();
            let pods = index.pods();
            left.retain(|pod| pods.iter().any(|known| known.id == *pod));
            left.insert(pod);
            let others: Vec<&Handle> = pods.iter().filter(|pod| !left.contains(&pod.id)).collect();
            for group in groups {
                let lives_below = |pod: &&Handle| Path::new(&*pod.cgroup).starts_with(group.path());
                if others.iter().any(lives_below) || !group.is_empty().map_err(Cause::host)? {
                    break;
                }
                systemd::forget_slice(&group).map_err(Cause::host)?;
                // Under v1 the OCI runtime makes directories in hierarchies that systemd does not look after.
                if !hierarchy.is_v2() {
                    group.remove_if_empty().map_err(Cause::host)?;
                }
            }
            Ok(())
        }
    }
}
