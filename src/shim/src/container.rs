//! One container: its life, its streams, and the record of its end.
//!
//! ```text
//! Creating ──create──▶ Starting ──start──▶ Running ──▶ Exited ──delete──▶ (forgotten)
//!    │                    │  └──────── died before start was told ──▶ Exited
//!    └──── failed ────────┴──▶ undone, (forgotten)
//! ```

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use kernel::SysError;
use kernel::epoll::Interest;
use kernel::pidfd::{PidFd, SIGKILL};
use kernel::process::Exit;
use model::{ContainerId, UnixNanos, chain};
use wire::{ContainerState, ExitRecord, Failure, FailureKind, Phase as WirePhase, RunContainer, Started};

use crate::attach::{Client, PAUSE_MAX};
use crate::cri_log::{CriLog, Stream};
use crate::memory::OomWatch;
use crate::note::note;
use crate::requests::Asked;
use crate::runtime::failed;
use crate::server::{Source, Watch};
use crate::stdio::{self, Console, Got, Output};

/// What is still read of the streams when the first process is dead, bytes: more than two full pipes.
const LAST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Where a container is in its life.
#[derive(Debug)]
pub(crate) enum Phase {
    /// The runtime creates it.
    Creating,
    /// It exists, and the runtime lets it go. Its process may already be doing its work.
    Starting { process: PidFd, since: UnixNanos },
    /// Its process runs.
    Running { process: PidFd, started: Started },
    /// Its process is dead.
    Exited(ExitRecord),
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) spec: RunContainer,
    pub(crate) phase: Phase,
    /// Who asked for it to run, until that is answered.
    pub(crate) asked: Option<Asked>,
    pub(crate) log: CriLog,
    pub(crate) outputs: Vec<Output>,
    pub(crate) stdin: Option<Stdin>,
    /// Its terminal's master, for resizing.
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) console: Option<Console>,
    pub(crate) clients: Vec<Client>,
    /// Until when the outputs are left alone, so that clients catch up.
    pub(crate) paused: Option<Instant>,
    oom: Option<(OomWatch, u64)>,
    /// The record is not on disk yet.
    pub(crate) record_owed: bool,
}

/// This side of a container's standard input.
#[derive(Debug)]
pub(crate) struct Stdin {
    fd: OwnedFd,
    /// Typed and not taken yet. While there is any, no more is read from clients.
    pending: Vec<u8>,
    token: u64,
}

impl Container {
    pub(crate) fn new(spec: RunContainer, asked: Asked, log: CriLog) -> Self {
        Self {
            id: spec.container.clone(),
            spec,
            phase: Phase::Creating,
            asked: Some(asked),
            log,
            outputs: Vec::new(),
            stdin: None,
            terminal: None,
            console: None,
            clients: Vec::new(),
            paused: None,
            oom: None,
            record_owed: false,
        }
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.spec.bundle.join("pid")
    }

    pub(crate) fn process(&self) -> Option<&PidFd> {
        match &self.phase {
            Phase::Starting { process, .. } | Phase::Running { process, .. } => Some(process),
            Phase::Creating | Phase::Exited(_) => None,
        }
    }

    pub(crate) fn set_stdin(&mut self, fd: OwnedFd) {
        self.stdin = Some(Stdin { fd, pending: Vec::new(), token: 0 });
    }

    /// The runtime has created it: takes its terminal, its process and its cgroup's counter.
    pub(crate) fn created(&mut self, watch: &mut Watch, pid: u32, now: UnixNanos) -> Result<(), Failure> {
        const STAGE: &str = "take over the created container";
        if let Some(console) = self.console.take() {
            let sent = console.receive().map_err(|e| SysError::named("receive", "the terminal", e));
            let master = sent.map_err(|e| failed(STAGE, &e))?;
            let copy = || master.try_clone().map_err(|e| failed(STAGE, &SysError::bare("dup", e)));
            if self.spec.stdio.stdin {
                let stdin = copy()?;
                self.set_stdin(stdin);
            }
            self.terminal = Some(copy()?);
            self.outputs = vec![Output { stream: Stream::Stdout, fd: master, token: 0 }];
        }
        let process = PidFd::open(pid).map_err(|e| failed(STAGE, &e))?;
        if let Some(cgroup) = &self.spec.memory_cgroup {
            let watched = OomWatch::open(cgroup).and_then(|oom| {
                let (fd, interest) = oom.source();
                let token = watch.add(fd, Source::Oom(self.id.clone()), interest)?;
                Ok((oom, token))
            });
            match watched {
                Ok(oom) => self.oom = Some(oom),
                // It runs without: a wrong reason is less than no container.
                Err(error) => note(format_args!("no OOM watch for {}: {}", self.id.short(), chain(&error))),
            }
        }
        for output in &mut self.outputs {
            let source = Source::Output(self.id.clone(), output.stream);
            output.token = watch.add(&output.fd, source, Interest::Read).map_err(|e| failed(STAGE, &e))?;
        }
        self.phase = Phase::Starting { process, since: now };
        Ok(())
    }

    /// Moves what one output has to the log and the attached clients, one buffer's worth.
    pub(crate) fn pump(
        &mut self,
        watch: &mut Watch,
        stream: Stream,
        buffer: &mut Vec<u8>,
        now: UnixNanos,
    ) -> Got {
        let Some(at) = self.outputs.iter().position(|output| output.stream == stream) else {
            return Got::End;
        };
        let got = stdio::read(&self.outputs[at].fd, buffer);
        match got {
            Got::Bytes(_) => {
                self.log.take(stream, buffer, now);
                for client in &mut self.clients {
                    client.copy(watch, stream, buffer);
                }
            }
            Got::End => {
                let output = self.outputs.remove(at);
                watch.remove(output.fd.as_fd(), output.token);
                self.log.end(stream, now);
            }
            Got::Nothing => {}
        }
        got
    }

    /// Forgets clients that are gone, and leaves the outputs alone while one is behind, or takes them up again.
    pub(crate) fn look_at_clients(&mut self, watch: &mut Watch) {
        self.clients.retain(|client| !client.is_gone());
        if self.paused.is_none() && self.clients.iter().any(Client::is_behind) {
            self.paused = Some(Instant::now() + PAUSE_MAX);
            for output in &mut self.outputs {
                watch.remove(output.fd.as_fd(), std::mem::take(&mut output.token));
            }
        } else if self.paused.is_some() && self.clients.iter().all(Client::has_caught_up) {
            self.resume(watch);
        }
    }

    /// Lets clients go that have not caught up in time.
    pub(crate) fn expire_pause(&mut self, watch: &mut Watch, at: Instant) {
        if self.paused.is_some_and(|until| at >= until) {
            for client in self.clients.iter_mut().filter(|client| !client.has_caught_up()) {
                client.let_go(watch);
            }
            self.clients.retain(|client| !client.is_gone());
            self.resume(watch);
        }
    }

    /// Whether every attached client has taken all that was written.
    pub(crate) fn is_heard(&self) -> bool {
        self.clients.iter().all(Client::has_all)
    }

    fn resume(&mut self, watch: &mut Watch) {
        self.paused = None;
        for output in &mut self.outputs {
            match watch.add(&output.fd, Source::Output(self.id.clone(), output.stream), Interest::Read) {
                Ok(token) => output.token = token,
                // The kernel has no memory: what is in the pipe is read when the container ends.
                Err(error) => note(format_args!("{}", chain(&error))),
            }
        }
    }

    /// Its first process is dead: takes its last words, and says how it ended.
    pub(crate) fn exited(&mut self, watch: &mut Watch, exit: Exit, buffer: &mut Vec<u8>, now: UnixNanos) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut taken = 0;
            while taken < LAST_BYTES_MAX {
                match self.pump(watch, stream, buffer, now) {
                    Got::Bytes(n) => taken += n,
                    Got::Nothing | Got::End => break,
                }
            }
        }
        let started_at_ns = match &self.phase {
            Phase::Running { started, .. } => started.started_at_ns,
            Phase::Starting { since, .. } => *since,
            Phase::Creating | Phase::Exited(_) => now,
        };
        // 137 without a signal is a shell's word for its child's SIGKILL; the counter tells whose it was.
        let oom = match &mut self.oom {
            Some((oom, _)) => exit.code == 128 + SIGKILL && oom.killed(),
            None => false,
        };
        if let Some((oom, token)) = self.oom.take() {
            watch.remove(oom.source().0, token);
        }
        if let Some(stdin) = self.stdin.take() {
            stdin.close(watch);
        }
        for client in &mut self.clients {
            client.end(watch);
        }
        self.clients.retain(|client| !client.is_gone());
        if self.paused.is_some() {
            // No client gets more than it has by now.
            self.resume(watch);
        }
        self.terminal = None;
        self.phase = Phase::Exited(ExitRecord {
            version: wire::VERSION,
            container: self.id.clone(),
            pid: exit.pid,
            code: exit.code,
            signal: exit.signal,
            oom,
            started_at_ns: started_at_ns.min(now),
            finished_at_ns: now,
            log_bytes_dropped: self.log.lost_in_all(),
        });
        self.record_owed = true;
    }

    /// Writes the record of its end, durably. What cannot be written stays owed.
    pub(crate) fn write_record(&mut self, exits: &Path) {
        let Phase::Exited(record) = &self.phase else { return };
        let path = record_path(exits, &self.id);
        let written = serde_json::to_vec(record)
            .map_err(|e| SysError::path("encode", &path, io::Error::from(e)))
            .and_then(|bytes| kernel::durable::write(&path, &bytes, 0o600));
        match written {
            Ok(()) => self.record_owed = false,
            Err(error) => note(format_args!("the exit record is owed: {}", chain(&error))),
        }
    }

    /// Whether the kernel has just killed somebody in its cgroup.
    pub(crate) fn oom_event(&mut self) -> bool {
        let Some((oom, _)) = &mut self.oom else { return false };
        oom.acknowledge();
        oom.killed()
    }

    /// Somebody was killed in this pod: what of it was in this container's cgroup is known from now on.
    pub(crate) fn count_oom(&mut self) {
        if let Some((oom, _)) = &mut self.oom {
            oom.count();
        }
    }

    /// A SIGKILL of ours is about to be sent: no earlier OOM kill was its end.
    pub(crate) fn about_to_kill(&mut self) {
        if let Some((oom, _)) = &mut self.oom {
            oom.forgive();
        }
    }

    pub(crate) fn state(&self) -> ContainerState {
        let phase = match &self.phase {
            Phase::Creating | Phase::Starting { .. } => WirePhase::Starting,
            Phase::Running { started, .. } => WirePhase::Running(started.clone()),
            Phase::Exited(record) => WirePhase::Exited(record.clone()),
        };
        ContainerState { container: self.id.clone(), phase }
    }

    /// Takes everything of it out of the event loop.
    pub(crate) fn unwatch(&mut self, watch: &mut Watch) {
        let now = kernel::clock::now();
        for output in self.outputs.drain(..) {
            watch.remove(output.fd.as_fd(), output.token);
            self.log.end(output.stream, now);
        }
        for client in &mut self.clients {
            client.end(watch);
        }
        self.clients.clear();
        if let Some((oom, token)) = self.oom.take() {
            watch.remove(oom.source().0, token);
        }
        if let Some(stdin) = self.stdin.take() {
            stdin.close(watch);
        }
    }

    /// Feeds its standard input from the client whose descriptor is ready.
    pub(crate) fn feed(&mut self, watch: &mut Watch, token: u64, buffer: &mut Vec<u8>) {
        let got = self
            .clients
            .iter()
            .enumerate()
            .find_map(|(at, client)| client.read_stdin(token, buffer).map(|got| (at, got)));
        match got {
            Some((_, Got::Bytes(_))) => {
                if let Some(stdin) = &mut self.stdin {
                    stdin.pending.extend_from_slice(buffer);
                }
                self.flush_stdin(watch);
            }
            Some((at, Got::End)) => {
                self.clients[at].end_stdin(watch);
                self.clients.retain(|client| !client.is_gone());
                if self.spec.stdio.stdin_once {
                    self.close_stdin(watch);
                }
            }
            Some((_, Got::Nothing)) | None => {}
        }
    }

    /// Writes what was typed; while the container does not take it, clients wait.
    pub(crate) fn flush_stdin(&mut self, watch: &mut Watch) {
        let Some(stdin) = &mut self.stdin else { return };
        let mut broken = false;
        while !stdin.pending.is_empty() && !broken {
            match rustix::io::retry_on_intr(|| rustix::io::write(&stdin.fd, &stdin.pending)) {
                Ok(n) => drop(stdin.pending.drain(..n)),
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => broken = true,
            }
        }
        if broken {
            // Nobody reads it any more.
            self.close_stdin(watch);
            return;
        }
        let full = !stdin.pending.is_empty();
        if full && stdin.token == 0 {
            stdin.token = watch.add(&stdin.fd, Source::Stdin(self.id.clone()), Interest::Write).unwrap_or(0);
        } else if !full && stdin.token != 0 {
            watch.remove(stdin.fd.as_fd(), std::mem::take(&mut stdin.token));
        }
        for client in &mut self.clients {
            client.pause_stdin(watch, &self.id, full);
        }
    }

    /// Closes its standard input; a terminal's end is typed (^D).
    pub(crate) fn close_stdin(&mut self, watch: &mut Watch) {
        if let Some(stdin) = self.stdin.take() {
            if self.spec.stdio.tty {
                let _ = rustix::io::write(&stdin.fd, b"\x04");
            }
            stdin.close(watch);
        }
        for client in &mut self.clients {
            client.end_stdin(watch);
        }
        self.clients.retain(|client| !client.is_gone());
    }
}

impl Stdin {
    fn close(self, watch: &mut Watch) {
        if self.token != 0 {
            watch.remove(self.fd.as_fd(), self.token);
        }
    }
}

pub(crate) fn record_path(exits: &Path, container: &ContainerId) -> PathBuf {
    exits.join(format!("{container}.json"))
}

/// Every process in a cgroup and below it. One that is gone has none.
pub(crate) fn processes_in(cgroup: &Path) -> Vec<u32> {
    let mut pids: Vec<u32> = fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(processes_in(&entry.path()));
        }
    }
    pids
}

/// The failure for a container that is not there.
pub(crate) fn not_found(stage: &str, container: &ContainerId) -> Failure {
    Failure {
        stage: stage.into(),
        message: format!("container {container} is not one of this pod's shim"),
        kind: FailureKind::NotFound,
    }
}
