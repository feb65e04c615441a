//! What each request does: those that are answered at once are here, the others in their own modules.

use std::ops::Bound;
use std::os::fd::OwnedFd;

use kernel::SysError;
use model::ContainerId;
use wire::{Failure, FailureKind, HelloReply, ReplyBody, RequestBody, StateReply};

use crate::attach::Client;
use crate::container::{Container, Phase, not_found};
use crate::cri_log::Stream;
use crate::runtime::failed;
use crate::server::Server;

/// Whom to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    pub(crate) peer: u64,
    pub(crate) seq: u64,
}

pub(crate) type Outcome = Result<ReplyBody, Failure>;

pub(crate) fn failure(stage: &str, message: impl Into<String>, kind: FailureKind) -> Failure {
    Failure { stage: stage.into(), message: message.into(), kind }
}

impl Server {
    /// Does what is asked. `None`: it is answered later.
    pub(crate) fn request(&mut self, asked: Asked, body: RequestBody, fds: Vec<OwnedFd>) -> Option<Outcome> {
        let done = |result: Result<(), Failure>| Some(result.map(|()| ReplyBody::Done));
        match body {
            RequestBody::Hello => Some(Ok(ReplyBody::Hello(HelloReply {
                version: wire::VERSION,
                pid: std::process::id(),
                pod_init: self.pod_init,
                native_exec: self.sealed,
                checkpoints: true,
            }))),
            RequestBody::Run(spec) => self.run_container(asked, *spec).err().map(Err),
            RequestBody::Kill(kill) => {
                self.kill(asked, &kill).transpose().map(|r| r.map(|()| ReplyBody::Done))
            }
            RequestBody::Delete { container } => self.delete(asked, &container),
            RequestBody::Exec(exec) => self.exec(asked, exec, fds).err().map(Err),
            RequestBody::KillExec(kill) => done(self.kill_exec(&kill)),
            RequestBody::Attach(attach) => done(self.attach(&attach, fds)),
            RequestBody::Resize(resize) => done(self.resize(&resize)),
            RequestBody::CloseStdin { container } => done(self.close_stdin(&container)),
            RequestBody::ReopenLog { container } => done(self.reopen_log(&container)),
            RequestBody::Pause(pause) => self.pause(asked, pause),
            RequestBody::Resume => self.resume(asked),
            RequestBody::Checkpoint(wanted) => self.checkpoint(asked, &wanted).err().map(Err),
            RequestBody::State(after) => {
                let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                let containers = self.containers.range::<ContainerId, _>((from, Bound::Unbounded));
                let states = containers.map(|(_, container)| container.state());
                Some(Ok(ReplyBody::State(StateReply::page(self.pod_init, states))))
            }
            RequestBody::Shutdown => done(self.shutdown()),
        }
    }

    fn attach(&mut self, attach: &wire::Attach, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        const STAGE: &str = "attach";
        let container = self.running(STAGE, &attach.container)?;
        let missing = || failure(STAGE, "a file descriptor is missing", FailureKind::Invalid);
        let mut fds = fds.into_iter();
        let mut next =
            |present: bool| if present { fds.next().map(Some).ok_or_else(missing) } else { Ok(None) };
        let stdin = next(attach.stdin)?;
        let mut outputs = Vec::new();
        for (stream, present) in [(Stream::Stdout, attach.stdout), (Stream::Stderr, attach.stderr)] {
            outputs.extend(next(present)?.map(|fd| (stream, fd)));
        }
        let id = container.id.clone();
        // Input for a container without one is not read: its client sees its pipe close.
        let stdin = stdin.filter(|_| container.stdin.is_some());
        let Some(container) = self.containers.get_mut(&id) else { return Ok(()) };
        let client = Client::attach(&mut self.watch, &id, outputs, stdin).map_err(|e| failed(STAGE, &e))?;
        container.clients.push(client);
        Ok(())
    }

    fn resize(&mut self, resize: &wire::Resize) -> Result<(), Failure> {
        const STAGE: &str = "resize";
        let container = self.running(STAGE, &resize.container)?;
        let Some(terminal) = &container.terminal else {
            return Err(failure(STAGE, "the container has no terminal", FailureKind::WrongState));
        };
        kernel::pty::resize(terminal, resize.width, resize.height).map_err(|e| failed(STAGE, &e))
    }

    fn close_stdin(&mut self, id: &ContainerId) -> Result<(), Failure> {
        let container = self.containers.get_mut(id).ok_or_else(|| not_found("close stdin", id))?;
        container.close_stdin(&mut self.watch);
        Ok(())
    }

    fn reopen_log(&mut self, id: &ContainerId) -> Result<(), Failure> {
        const STAGE: &str = "reopen log";
        let container = self.running(STAGE, id)?;
        container.log.reopen().map_err(|e| {
            let path =
                container.spec.log.as_ref().map(|log| log.path.display().to_string()).unwrap_or_default();
            failed(STAGE, &SysError::path("open", path, e))
        })
    }

    pub(crate) fn running(&mut self, stage: &str, id: &ContainerId) -> Result<&mut Container, Failure> {
        let container = self.containers.get_mut(id).ok_or_else(|| not_found(stage, id))?;
        if matches!(container.phase, Phase::Running { .. }) {
            Ok(container)
        } else {
            Err(failure(stage, format!("container {id} does not run"), FailureKind::WrongState))
        }
    }
}
