//! Containers held still together, and written to disk while they are.
//!
//! A pause belongs to the connection that asked for it: a service that dies leaves nothing held. Only a runtime that writes
//! a container just then is waited for, as CRIU holds the container again when it is done with one that was held.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use kernel::cgroup::Freezer;
use model::{ContainerId, chain};
use wire::{Checkpoint, Failure, FailureKind, ReplyBody};

use crate::note::note;
use crate::requests::{Asked, Outcome, failure};
use crate::runtime::{Call, Purpose, failed};
use crate::server::Server;
use crate::stdio;

const STAGE: &str = "hold still";
/// How long the kernel may take to hold all processes: one that waits for a dead disk cannot be held.
const HOLD_MAX: Duration = Duration::from_secs(5);
/// How often it is asked whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Containers that are held still.
#[derive(Debug)]
pub(crate) struct Pause {
    /// The connection that it belongs to.
    by: u64,
    held: Vec<(ContainerId, Freezer)>,
    /// Who asked for it, until all are still.
    asked: Option<Asked>,
    /// When it is looked at again, while not all are.
    again_at: Instant,
    until: Instant,
    /// It ends with the runtime's work that is under way; then these are told.
    ends: Option<Vec<Asked>>,
}

impl Pause {
    /// When something is to be done about it.
    pub(crate) fn look_at(&self) -> Option<Instant> {
        self.asked.map(|_| self.again_at)
    }

    fn let_go(&mut self) {
        for (container, freezer) in self.held.drain(..) {
            if let Err(error) = freezer.let_go() {
                note(format_args!("container {} stays held: {}", container.short(), chain(&error)));
            }
        }
    }

    fn is_still(&self) -> Result<bool, Failure> {
        for (_, freezer) in &self.held {
            if !freezer.is_still().map_err(|e| failed(STAGE, &e))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Server {
    /// Holds containers still. `None`: it is answered when they are.
    pub(crate) fn pause(&mut self, asked: Asked, pause: wire::Pause) -> Option<Outcome> {
        match self.hold(asked, pause) {
            Ok(pause) => self.pause = Some(pause),
            Err(failure) => return Some(Err(failure)),
        }
        self.look_at_pause(Instant::now());
        None
    }

    fn hold(&mut self, asked: Asked, wanted: wire::Pause) -> Result<Pause, Failure> {
        if self.pause.is_some() {
            let message = "containers of this pod are held still already, for another checkpoint";
            return Err(failure(STAGE, message, FailureKind::WrongState));
        }
        for held in &wanted.containers {
            self.running(STAGE, &held.container)?;
        }
        let now = Instant::now();
        let held: Vec<_> =
            wanted.containers.into_iter().map(|held| (held.container, Freezer::new(held.freezer))).collect();
        let mut pause = Pause {
            by: asked.peer,
            held,
            asked: Some(asked),
            again_at: now,
            until: now + HOLD_MAX,
            ends: None,
        };
        let holding = pause.held.iter().try_for_each(|(_, freezer)| freezer.hold());
        if let Err(error) = holding {
            pause.let_go();
            return Err(failed(STAGE, &error));
        }
        Ok(pause)
    }

    /// Answers who asked for the pause once all are still, or cannot be.
    pub(crate) fn look_at_pause(&mut self, at: Instant) {
        let Some(pause) = &mut self.pause else { return };
        let Some(asked) = pause.asked.filter(|_| at >= pause.again_at) else { return };
        let outcome = match pause.is_still() {
            Ok(true) => Ok(ReplyBody::Done),
            Ok(false) if at < pause.until => {
                pause.again_at = at + LOOK_AGAIN;
                return;
            }
            Ok(false) => {
                let message = format!("not every process was still after {} s", HOLD_MAX.as_secs());
                Err(failure(STAGE, message, FailureKind::Deadline))
            }
            Err(failure) => Err(failure),
        };
        pause.asked = None;
        if outcome.is_err() {
            self.end_pause();
        }
        self.answer(asked, outcome, None);
    }

    /// Lets all go on. `None`: it is answered when a runtime's work under way is done.
    pub(crate) fn resume(&mut self, asked: Asked) -> Option<Outcome> {
        let writing = self.is_writing();
        if let Some(pause) = self.pause.as_mut().filter(|_| writing) {
            pause.ends.get_or_insert_default().push(asked);
            return None;
        }
        self.end_pause();
        Some(Ok(ReplyBody::Done))
    }

    /// The connection is gone, and with it its pause.
    pub(crate) fn pause_lost(&mut self, peer: u64) {
        let writing = self.is_writing();
        let Some(pause) = self.pause.as_mut().filter(|pause| pause.by == peer) else { return };
        if writing {
            pause.ends.get_or_insert_default();
        } else {
            self.end_pause();
        }
    }

    /// A container is to die: it cannot while it is held.
    pub(crate) fn let_die(&mut self, id: &ContainerId) {
        let Some(pause) = &mut self.pause else { return };
        for (_, freezer) in pause.held.extract_if(.., |(held, _)| held == id) {
            if let Err(error) = freezer.let_go() {
                note(format_args!("container {} stays held: {}", id.short(), chain(&error)));
            }
        }
    }

    /// Has the runtime write a container to disk.
    pub(crate) fn checkpoint(&mut self, asked: Asked, wanted: &Checkpoint) -> Result<(), Failure> {
        const STAGE: &str = "runtime checkpoint";
        let id = &wanted.container;
        let of_this = |purpose: &Purpose| matches!(purpose, Purpose::Checkpoint(other, _) if other == id);
        if self.jobs.values().any(|job| of_this(&job.purpose)) {
            let message = format!("another checkpoint of container {id} is under way");
            return Err(failure(STAGE, message, FailureKind::WrongState));
        }
        let container = self.running(STAGE, id)?;
        let mut args: Vec<OsString> = vec!["checkpoint".into(), "--leave-running".into()];
        args.extend(["--image-path".into(), wanted.to.images.clone().into()]);
        args.extend(["--work-path".into(), wanted.to.work.clone().into()]);
        // Without them CRIU refuses whatever has a connection or a lock.
        args.extend(["--tcp-established".into(), "--file-locks".into(), id.to_string().into()]);
        let (ours, theirs) = stdio::words().map_err(|e| failed(STAGE, &e))?;
        let call = Call {
            runtime: &container.spec.runtime,
            log: wanted.to.work.join("runtime.log"),
            args,
            theirs,
            stderr: Some(ours),
            allowed: Duration::from_millis(wanted.deadline_ms),
        };
        let (pid, job) = call.start(Purpose::Checkpoint(id.clone(), asked))?;
        self.jobs.insert(pid, job);
        Ok(())
    }

    /// The runtime has written a container, or has failed to.
    pub(crate) fn written(&mut self, asked: Asked, outcome: Outcome) {
        self.answer(asked, outcome, None);
        let writing = self.is_writing();
        let ends = self.pause.as_mut().filter(|_| !writing).and_then(|pause| pause.ends.take());
        if let Some(told) = ends {
            self.end_pause();
            for asked in told {
                self.answer(asked, Ok(ReplyBody::Done), None);
            }
        }
    }

    fn end_pause(&mut self) {
        if let Some(mut pause) = self.pause.take() {
            pause.let_go();
            if let Some(asked) = pause.asked {
                let message = "it was given up before all were still";
                self.answer(asked, Err(failure(STAGE, message, FailureKind::WrongState)), None);
            }
        }
    }

    fn is_writing(&self) -> bool {
        self.jobs.values().any(|job| matches!(job.purpose, Purpose::Checkpoint(..)))
    }
}
