//! What a driver shows of its work while it is under way, and what it remembers of work that failed.

use kernel::clock::now;

use super::Driver;
use crate::error::PodError;
use crate::queue::Job;
use crate::story::{Doing, Trouble};

impl Driver {
    /// Whether this work is under way.
    pub(super) fn is_doing(&self, job: &Job) -> bool {
        self.running.values().any(|begun| begun.job == *job)
    }

    /// Shows the jobs under way to those who ask why the pod is not further.
    pub(super) fn show_doing(&self) {
        let mut doing: Vec<Doing> = self
            .running
            .values()
            .map(|begun| Doing {
                what: begun.job.word(),
                container: begun.job.container().cloned(),
                since: begun.since,
                callers: self.waiting.get(&begun.job).map_or(0, Vec::len),
            })
            .collect();
        doing.sort_by(|a, b| (a.since, a.what).cmp(&(b.since, b.what)));
        self.doing.send_if_modified(|shown| {
            let changed = *shown != doing;
            *shown = doing;
            changed
        });
    }

    /// Remembers that a job failed.
    pub(super) fn note_trouble(&self, job: &Job, error: &PodError) {
        self.host.failures.add(1);
        self.host.troubles.note(Trouble {
            at: now(),
            pod: self.id.clone(),
            identity: self.record.config.identity.clone(),
            container: job.container().cloned(),
            what: job.word(),
            message: model::chain(error),
        });
    }
}
