//! Starts that do not come to an end: aborted, undone, and what no runtime removes, removed here.

use std::fs;
use std::time::Instant;

use kernel::SysError;
use kernel::cgroup::Hierarchy;
use model::{ContainerId, chain};
use wire::{Failure, RunContainer};

use crate::container::record_path;
use crate::note::note;
use crate::runtime::Purpose;
use crate::server::Server;

impl Server {
    /// Ends the start of a container that is wanted gone: the runtime dies with all that it has started, the
    /// rest is undone, and who asked for the start is told so.
    pub(crate) fn abort(&mut self, id: &ContainerId) {
        let now = Instant::now();
        for job in self.jobs.values_mut().filter(|job| job.purpose.starts() == Some(id)) {
            job.abort(now);
        }
    }

    /// Removes what a failed run has left; its failure is told when that is done.
    pub(crate) fn undo(&mut self, id: &ContainerId, failure: Failure) {
        if let Err(error) = self.start_delete(id, Purpose::Undo(id.clone(), failure.clone())) {
            note(format_args!("a failed start is not undone by the runtime: {error}"));
            self.undone(id, failure);
        }
    }

    pub(crate) fn undone(&mut self, id: &ContainerId, failure: Failure) {
        let Some(mut container) = self.containers.remove(id) else { return };
        // A runtime that died under way has not always told its records what there was to remove.
        clear_away(&container.spec);
        container.unwatch(&mut self.watch);
        // It did not run, so it did not exit either.
        let _ = kernel::durable::remove(&record_path(&self.exits, id));
        if let Some(asked) = container.asked {
            self.answer(asked, Err(failure), None);
        }
        // Whoever wanted it gone.
        self.sweep(Instant::now());
    }
}

/// Removes what a runtime has made of a container, without the runtime: its processes, its cgroup in every
/// hierarchy, and the runtime's record of it. What is not there is as good; the service removes the pod's
/// cgroup with all below it in the end.
pub(crate) fn clear_away(spec: &RunContainer) {
    if let Err(error) = remove_cgroup(spec) {
        note(format_args!("clear away {}: {}", spec.container.short(), chain(&error)));
    }
    // crun, runc and youki keep one directory a container.
    let record = spec.runtime.root.join(&spec.container);
    match fs::remove_dir_all(&record) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            note(format_args!("{}", chain(&SysError::path("remove", record, error))));
        }
        _ => {}
    }
}

fn remove_cgroup(spec: &RunContainer) -> Result<(), SysError> {
    let Some(directory) = &spec.memory_cgroup else { return Ok(()) };
    let hierarchy = Hierarchy::detect()?;
    let Some(path) = hierarchy.controller("memory").and_then(|root| directory.strip_prefix(root).ok()) else {
        return Ok(());
    };
    let group = hierarchy.group(path);
    if path.as_os_str().is_empty() || !group.exists() {
        return Ok(());
    }
    group.kill()?;
    group.remove()
}
