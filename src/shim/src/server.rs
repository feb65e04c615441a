//! The event loop: what is watched, and who gets what has happened.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kernel::cgroup::Hierarchy;
use kernel::clock::now;
use kernel::epoll::{Epoll, Interest, Ready};
use kernel::pidfd::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use kernel::process::{self, Exit};
use kernel::{SysError, seqpacket};
use model::limits::SHIM_FRAME_BYTES_MAX;
use model::{ContainerId, ExecId, UnixNanos};
use wire::{Event, Failure, FailureKind, Frame, Reply, ReplyBody, RuntimeCall};

use crate::checkpoint::Pause;
use crate::container::Container;
use crate::cri_log::Stream;
use crate::exec::Exec;
use crate::note::note;
use crate::options::Options;
use crate::orphan::Orphan;
use crate::peer::{Link, Peer};
use crate::power::Down;
use crate::requests::Asked;
use crate::runtime::Job;
use crate::stdio::Got;
use crate::stop::Sweep;

/// How often a full disk is tried again.
const RETRY_DISK: Duration = Duration::from_secs(1);

/// What a watched descriptor is.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Listener,
    Signals,
    Peer,
    Output(ContainerId, Stream),
    Stdin(ContainerId),
    AttachOut(ContainerId),
    AttachIn(ContainerId),
    Oom(ContainerId),
    /// What the children of a native exec say.
    Words(ExecId),
}

/// The descriptors that the loop waits on, by token.
#[derive(Debug)]
pub(crate) struct Watch {
    epoll: Epoll,
    sources: BTreeMap<u64, Source>,
    last: u64,
}

impl Watch {
    pub(crate) fn add(&mut self, fd: impl AsFd, source: Source, interest: Interest) -> Result<u64, SysError> {
        let token = self.last + 1;
        self.epoll.add(fd, token, interest)?;
        self.last = token;
        self.sources.insert(token, source);
        Ok(token)
    }

    pub(crate) fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) {
        if let Err(error) = self.epoll.modify(fd, token, interest) {
            note(format_args!("{}", model::chain(&error)));
        }
    }

    pub(crate) fn remove(&mut self, fd: impl AsFd, token: u64) {
        if self.sources.remove(&token).is_some() {
            self.epoll.remove(fd);
        }
    }
}

/// Everything that the shim holds.
pub(crate) struct Server {
    pub(crate) watch: Watch,
    listener: OwnedFd,
    signals: OwnedFd,
    peers: BTreeMap<u64, Peer>,
    pub(crate) containers: BTreeMap<ContainerId, Container>,
    pub(crate) execs: BTreeMap<ExecId, Exec>,
    /// Invocations of OCI runtimes, by process id.
    pub(crate) jobs: BTreeMap<u32, Job>,
    /// Children that ended before anybody knew whose they were: a runtime's child may become ours and end
    /// while the runtime still runs. Kept while any runtime does.
    pub(crate) strays: BTreeMap<u32, (Exit, UnixNanos)>,
    /// The OCI runtime's part in what is not answered yet.
    pub(crate) calls: BTreeMap<Asked, Vec<RuntimeCall>>,
    pub(crate) sweeps: Vec<Sweep>,
    /// Containers that are held still.
    pub(crate) pause: Option<Pause>,
    pub(crate) pod_init: Option<u32>,
    /// Where cgroups are, once an exec had to know.
    pub(crate) hierarchy: Option<Hierarchy>,
    /// Whether nobody can write the program that this process runs: then it may enter containers.
    pub(crate) sealed: bool,
    pub(crate) exits: PathBuf,
    pub(crate) socket: PathBuf,
    /// Set by the last request.
    pub(crate) finished: bool,
    orphan: Orphan,
    pub(crate) down: Option<Down>,
    /// For every read of an output or an input.
    pub(crate) buffer: Vec<u8>,
    disk_retry: Instant,
}

impl Server {
    pub(crate) fn new(options: &Options, listener: OwnedFd, pod_init: Option<u32>) -> Result<Self, SysError> {
        // What a service manager or a terminal sends to the service's group never ends a pod, but where the machine goes
        // down. They are blocked, not ignored: containers would inherit that.
        let signals = process::signal_fd(&[SIGCHLD, SIGTERM, SIGINT, SIGHUP])?;
        let socket = options.dir.join("shim.sock");
        let mut watch = Watch { epoll: Epoll::new()?, sources: BTreeMap::new(), last: 0 };
        watch.add(&listener, Source::Listener, Interest::Read)?;
        watch.add(&signals, Source::Signals, Interest::Read)?;
        Ok(Self {
            watch,
            listener,
            signals,
            peers: BTreeMap::new(),
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            jobs: BTreeMap::new(),
            strays: BTreeMap::new(),
            calls: BTreeMap::new(),
            sweeps: Vec::new(),
            pause: None,
            pod_init,
            hierarchy: None,
            sealed: kernel::sealed::is_own_program(),
            exits: options.exits.clone(),
            orphan: Orphan::new(socket.clone())?,
            down: None,
            socket,
            finished: false,
            buffer: Vec::new(),
            disk_retry: Instant::now(),
        })
    }

    /// Serves until it is shut down.
    pub(crate) fn run(&mut self) -> Result<(), SysError> {
        let mut ready = Vec::new();
        // A child that ended before its signal was waited for.
        self.reap();
        while !self.finished {
            self.watch.epoll.wait(&mut ready, self.timeout())?;
            for ready in &ready {
                // What an earlier one of this batch has closed is not there any more.
                if let Some(source) = self.watch.sources.get(&ready.token).cloned() {
                    self.dispatch(source, *ready);
                }
            }
            self.tick();
        }
        Ok(())
    }

    fn dispatch(&mut self, source: Source, ready: Ready) {
        match source {
            Source::Listener => self.accept(),
            Source::Signals => {
                let signals = process::take_signals(&self.signals);
                self.reap();
                self.heard(&signals);
            }
            Source::Peer => {
                self.serve(ready.token);
                // The service is dead. What it has sent is done before its successor is heard, whom this batch can accept at
                // the earliest.
                while ready.hangup && self.peers.contains_key(&ready.token) {
                    self.serve(ready.token);
                }
            }
            Source::Output(id, stream) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    let _: Got = container.pump(&mut self.watch, stream, &mut self.buffer, now());
                    container.look_at_clients(&mut self.watch);
                }
            }
            Source::Words(id) => self.hear(&id),
            Source::Stdin(id) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.flush_stdin(&mut self.watch);
                }
            }
            Source::AttachIn(id) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.feed(&mut self.watch, ready.token, &mut self.buffer);
                }
            }
            Source::AttachOut(id) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    for client in &mut container.clients {
                        client.sink_ready(&mut self.watch, ready.token, ready.hangup);
                    }
                    container.look_at_clients(&mut self.watch);
                }
            }
            Source::Oom(id) => {
                let killed = self.containers.get_mut(&id).is_some_and(Container::oom_event);
                self.containers.values_mut().for_each(Container::count_oom);
                if killed {
                    self.tell(&Event::Oom { container: id });
                }
            }
        }
    }

    /// How long nothing has to be done unless something happens.
    fn timeout(&self) -> Option<Duration> {
        let jobs = self.jobs.values().map(|job| job.deadline);
        let execs = self
            .execs
            .values()
            .filter(|exec| exec.process.is_some() && exec.start.is_none())
            .filter_map(|exec| exec.kill_at);
        let starts = self.execs.values().filter_map(|exec| exec.start.as_ref().map(|start| start.deadline));
        let sweeps = self.sweeps.iter().map(|sweep| sweep.again_at);
        let disk =
            self.containers.values().any(|c| c.record_owed || c.log.owes_marker()).then_some(self.disk_retry);
        let pauses = self.containers.values().filter_map(|container| container.paused);
        let held = self.pause.as_ref().and_then(Pause::look_at);
        let lives = jobs.chain(execs).chain(starts).chain(sweeps).chain(pauses);
        let next =
            lives.chain(held).chain(disk).chain(self.orphan.look_at()).chain(self.look_at_down()).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn tick(&mut self) {
        let at = Instant::now();
        self.jobs.values_mut().for_each(|job| job.expire(at));
        self.execs.values_mut().for_each(|exec| exec.expire(at));
        for container in self.containers.values_mut() {
            container.expire_pause(&mut self.watch, at);
        }
        self.sweep(at);
        self.look_at_pause(at);
        self.go_down(at);
        if self.orphan.is_lost(at) {
            self.end_unfound();
        }
        if at >= self.disk_retry {
            for container in self.containers.values_mut() {
                if container.record_owed {
                    container.write_record(&self.exits);
                }
                if container.log.owes_marker() {
                    container.log.retry(now());
                }
            }
            self.disk_retry = at + RETRY_DISK;
        }
    }

    fn accept(&mut self) {
        match seqpacket::accept(self.listener.as_fd()) {
            Ok(Some(socket)) => match self.watch.add(&socket, Source::Peer, Interest::Read) {
                Ok(token) => {
                    self.orphan.found();
                    self.peers.insert(token, Peer::new(socket));
                }
                Err(error) => note(format_args!("a connection is refused: {}", model::chain(&error))),
            },
            Ok(None) => {}
            Err(error) => note(format_args!("{}", model::chain(&error))),
        }
    }

    /// Reads one request of a connection's, or sends what waits for it.
    fn serve(&mut self, token: u64) {
        let Some(peer) = self.peers.get_mut(&token) else { return };
        match peer.flush() {
            Link::Idle => self.watch.modify(peer.fd(), token, Interest::Read),
            // It is not listened to before it has read what waits for it.
            Link::Full => return,
            Link::Broken => return self.drop_peer(token),
        }
        // As much as the message has, not as much as any could have.
        let length = seqpacket::next_length(peer.fd()).map(|length| length.min(SHIM_FRAME_BYTES_MAX));
        let mut buffer = vec![0; length.as_ref().map_or(1, |length| length + 1)];
        match length.and_then(|_| seqpacket::receive(peer.fd(), &mut buffer)) {
            Ok(message) if message.length > 0 => self.frame(token, &buffer[..message.length], message.fds),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => self.drop_peer(token),
        }
    }

    fn frame(&mut self, token: u64, bytes: &[u8], fds: Vec<OwnedFd>) {
        match Frame::decode(bytes) {
            Ok(Frame::Request(request)) => {
                let asked = Asked { peer: token, seq: request.seq };
                if let Some(outcome) = self.request(asked, request.body, fds) {
                    self.answer(asked, outcome, None);
                }
            }
            Ok(Frame::Reply(_) | Frame::Event(_)) => self.drop_peer(token),
            Err(error) => {
                let kind = match error {
                    wire::DecodeError::UnknownKind { .. } | wire::DecodeError::Version(_) => {
                        FailureKind::Unsupported
                    }
                    _ => FailureKind::Invalid,
                };
                let failure =
                    Failure { stage: "read the request".into(), message: model::chain(&error), kind };
                self.answer(Asked { peer: token, seq: error.seq() }, Err(failure), None);
            }
        }
    }

    /// Answers a request. Its asker may be gone.
    pub(crate) fn answer(&mut self, asked: Asked, outcome: Result<ReplyBody, Failure>, fd: Option<OwnedFd>) {
        let runtime = self.calls.remove(&asked).unwrap_or_default();
        self.send(asked.peer, &Frame::Reply(Reply { seq: asked.seq, outcome, runtime }), fd);
    }

    /// Tells every connection.
    pub(crate) fn tell(&mut self, event: &Event) {
        let frame = Frame::Event(event.clone());
        let tokens: Vec<u64> = self.peers.keys().copied().collect();
        for token in tokens {
            self.send(token, &frame, None);
        }
    }

    fn send(&mut self, token: u64, frame: &Frame, fd: Option<OwnedFd>) {
        let Some(peer) = self.peers.get_mut(&token) else { return };
        match peer.send(frame, fd) {
            Link::Idle => {}
            Link::Full => self.watch.modify(peer.fd(), token, Interest::Write),
            Link::Broken => self.drop_peer(token),
        }
    }

    fn drop_peer(&mut self, token: u64) {
        if let Some(peer) = self.peers.remove(&token) {
            self.watch.remove(peer.fd(), token);
            self.pause_lost(token);
        }
    }
}
