//! Children that have ended: whose they were, and what follows. Each is acted on first and reaped then, so
//! that a record is on disk before its process is gone from the process table.

use std::time::Instant;

use kernel::clock::now;
use kernel::pidfd::{PidFd, SIGKILL};
use kernel::process::{self, Exit};
use model::{ContainerId, UnixNanos};
use wire::{Event, ReplyBody};

use crate::container::{Container, Phase, processes_in};
use crate::cri_log::Stream;
use crate::note::note;
use crate::runtime::{Job, Purpose};
use crate::server::Server;
use crate::stdio::drain;
use crate::undo::clear_away;

impl Server {
    /// Looks at every child that has ended, acts on it, and only then reaps it.
    pub(crate) fn reap(&mut self) {
        loop {
            match process::peek_exit() {
                Ok(Some(exit)) => {
                    self.ended(exit, now());
                    process::reap(exit.pid);
                }
                Ok(None) => break,
                Err(error) => {
                    note(format_args!("{}", model::chain(&error)));
                    break;
                }
            }
        }
        if self.jobs.is_empty() {
            self.strays.clear();
        }
    }

    fn ended(&mut self, exit: Exit, at: UnixNanos) {
        self.hear_all();
        let is = |process: Option<&PidFd>| process.is_some_and(|process| process.pid() == exit.pid);
        if let Some(job) = self.jobs.remove(&exit.pid) {
            self.job_ended(job, exit.code);
        } else if let Some(id) = self.containers.values().find(|c| is(c.process())).map(|c| c.id.clone()) {
            self.container_exited(&id, exit, at);
        } else if let Some(id) =
            self.execs.iter().find(|(_, e)| is(e.process.as_ref())).map(|(id, _)| id.clone())
        {
            self.exec_exited(&id, exit);
        } else if self.pod_init == Some(exit.pid) {
            note(format_args!("pid 1 of the shared PID namespace ended with {}", exit.code));
            self.pod_init = None;
            self.tell(&Event::PodInitExited);
        } else if !self.jobs.is_empty() {
            self.strays.insert(exit.pid, (exit, at));
        }
    }

    fn container_exited(&mut self, id: &ContainerId, exit: Exit, at: UnixNanos) {
        if let Some(container) = self.containers.get_mut(id) {
            // In a PID namespace of its own they are dying with it; in a shared one they would live on.
            for pid in container.spec.memory_cgroup.as_deref().map(processes_in).unwrap_or_default() {
                if pid != exit.pid {
                    let _ = kernel::pidfd::signal(pid, SIGKILL);
                }
            }
            container.exited(&mut self.watch, exit, &mut self.buffer, at);
            container.write_record(&self.exits);
            if matches!(&container.phase, Phase::Exited(record) if record.oom) {
                // Its own event may not have come yet, and does not any more.
                self.containers.values_mut().for_each(Container::count_oom);
            }
            let Some(container) = self.containers.get(id) else { return };
            // Who asked for its start is answered first.
            if let (Phase::Exited(record), None) = (&container.phase, container.asked) {
                let event = Event::Exited { container: id.clone(), record: record.clone() };
                self.tell(&event);
            }
        }
    }

    /// Notes a runtime's part in what somebody asked for, to be told with the answer.
    fn note_call(&mut self, job: &Job, done: bool) {
        let asked = match &job.purpose {
            Purpose::Create(id) | Purpose::Restore(id) | Purpose::Start(id) | Purpose::Undo(id, _) => {
                self.containers.get(id).and_then(|container| container.asked)
            }
            Purpose::Delete(_, asked) | Purpose::DeleteByForce(_, asked) | Purpose::Checkpoint(_, asked) => {
                Some(*asked)
            }
            Purpose::Exec(id) => self.execs.get(id).and_then(|exec| exec.asked),
        };
        if let Some(asked) = asked {
            self.calls.entry(asked).or_default().push(job.call(done));
        }
    }

    fn job_ended(&mut self, mut job: Job, code: i32) {
        let done = code == 0 && !job.is_aborted();
        self.note_call(&job, done);
        if done {
            let left = job.deadline.saturating_duration_since(Instant::now());
            let result = match &job.purpose {
                Purpose::Create(id) => self.created(&id.clone(), left).map_err(|f| (id.clone(), f)),
                Purpose::Restore(id) => self.restored(&id.clone()).map_err(|f| (id.clone(), f)),
                Purpose::Start(id) => {
                    self.started(&id.clone());
                    Ok(())
                }
                Purpose::Undo(id, failure) => {
                    self.undone(&id.clone(), failure.clone());
                    Ok(())
                }
                Purpose::Delete(id, asked) | Purpose::DeleteByForce(id, asked) => {
                    self.deleted(&id.clone(), *asked);
                    Ok(())
                }
                Purpose::Checkpoint(_, asked) => {
                    self.written(*asked, Ok(ReplyBody::Done));
                    Ok(())
                }
                Purpose::Exec(id) => {
                    if let Err(failure) = self.exec_started(&id.clone()) {
                        self.exec_failed(&id.clone(), failure);
                    }
                    Ok(())
                }
            };
            if let Err((id, failure)) = result {
                self.undo(&id, failure);
            }
            return;
        }
        let mut more = String::new();
        if let Purpose::Create(id) | Purpose::Restore(id) = &job.purpose
            && let Some(container) = self.containers.get_mut(id)
            && let Some(at) = container.outputs.iter().position(|output| output.stream == Stream::Stderr)
        {
            // Nothing of the container's ran yet: what is there is the runtime's.
            more = drain(container.outputs.remove(at).fd, 64 * 1024);
        }
        let (failure, late) = (job.failure(code, &more), job.is_late());
        match job.purpose {
            Purpose::Create(id) | Purpose::Restore(id) | Purpose::Start(id) => self.undo(&id, failure),
            Purpose::Undo(id, first) => {
                note(format_args!("undoing a failed start failed: {failure}"));
                self.undone(&id, first);
            }
            // Its processes are dead, and a runtime that hangs once hangs twice.
            Purpose::Delete(id, asked) | Purpose::DeleteByForce(id, asked) if late => {
                note(format_args!("deleted without the runtime: {failure}"));
                if let Some(container) = self.containers.get(&id) {
                    clear_away(&container.spec);
                }
                self.deleted(&id, asked);
            }
            Purpose::Delete(id, asked) => {
                if let Err(failure) = self.delete_by_force(&id, asked) {
                    self.answer(asked, Err(failure), None);
                }
            }
            Purpose::DeleteByForce(_, asked) => self.answer(asked, Err(failure), None),
            Purpose::Exec(id) => self.exec_failed(&id, failure),
            Purpose::Checkpoint(_, asked) => self.written(asked, Err(failure)),
        }
    }
}
