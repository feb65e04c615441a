//! One socket to a shim: requests out, replies matched by number, events spread.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use kernel::{SysError, seqpacket};
use model::limits::{EVENTS_PER_SUBSCRIBER_MAX, SHIM_FRAME_BYTES_MAX};
use model::{ExecId, PodId};
use telemetry::{Stages, field};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, oneshot, watch};
use wire::{DecodeError, Event, Failure, Frame, ReplyBody, Request, RequestBody, RuntimeCall};

use crate::{ExecExit, ShimError};

/// What came of a request, the OCI runtime's part in it, and what came along.
type Answer = (Result<ReplyBody, Failure>, Vec<RuntimeCall>, Vec<OwnedFd>);

/// What waits for the other side.
#[derive(Default)]
struct Waiting {
    replies: HashMap<u64, oneshot::Sender<Answer>>,
    /// Registered before the request goes out, so that no exit can come too early to be seen.
    execs: HashMap<ExecId, watch::Sender<Option<ExecExit>>>,
    /// Set with the lock held: nothing is added afterwards.
    lost: bool,
}

pub(crate) struct Connection {
    pub(crate) pod: PodId,
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    waiting: Mutex<Waiting>,
    events: broadcast::Sender<Event>,
    /// For the first who listens: the shim may tell something before.
    first: Mutex<Option<broadcast::Receiver<Event>>>,
    lost: watch::Sender<bool>,
    stages: Stages,
}

impl Connection {
    /// Takes a connected socket; somebody must [`read`](Self::read) it.
    pub(crate) fn new(pod: PodId, socket: OwnedFd, stages: Stages) -> Result<Self, ShimError> {
        #[expect(
            deprecated,
            reason = "its replacement is unsafe for types that lie about their fd; OwnedFd cannot"
        )]
        let socket = AsyncFd::new(socket).map_err(|e| ShimError::System {
            attempt: "watch the socket",
            pod: pod.clone(),
            source: SysError::bare("epoll_ctl", e),
        })?;
        let (events, first) = broadcast::channel(EVENTS_PER_SUBSCRIBER_MAX);
        Ok(Self {
            pod,
            socket,
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            events,
            first: Mutex::new(Some(first)),
            lost: watch::Sender::new(false),
            stages,
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it holds the lock; if it did, the table would still be whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| self.events.subscribe())
    }

    pub(crate) async fn closed(&self) {
        let mut lost = self.lost.subscribe();
        // The sender lives as long as `self`.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    fn lost(&self, attempt: &'static str) -> ShimError {
        ShimError::Lost { attempt, pod: self.pod.clone() }
    }

    /// Sends a request and waits for its answer, `within` at most; a stage, and so is what the OCI runtime did for it.
    pub(crate) async fn call(
        &self,
        attempt: &'static str,
        body: RequestBody,
        fds: &[BorrowedFd<'_>],
        within: Duration,
    ) -> Result<(ReplyBody, Vec<OwnedFd>), ShimError> {
        let fields = [(field::POD_ID, self.pod.as_str()), (field::SHIM_CALL, attempt)];
        self.stages.begin("shim_call", &fields).run(self.exchange(attempt, body, fds, within)).await
    }

    async fn exchange(
        &self,
        attempt: &'static str,
        body: RequestBody,
        fds: &[BorrowedFd<'_>],
        within: Duration,
    ) -> Result<(ReplyBody, Vec<OwnedFd>), ShimError> {
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        let bytes = Frame::Request(Request { seq, body }).encode().map_err(|source| ShimError::Encode {
            attempt,
            pod: self.pod.clone(),
            source,
        })?;
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if waiting.lost {
                return Err(self.lost(attempt));
            }
            waiting.replies.insert(seq, sender);
        }
        // A caller that stops waiting leaves no entry behind.
        let _entry = Entry { connection: self, seq };
        let exchange = async {
            self.send(&bytes, fds).await.map_err(|_| self.lost(attempt))?;
            answer.await.map_err(|_| self.lost(attempt))
        };
        let (outcome, runtime, fds) = tokio::time::timeout(within, exchange)
            .await
            .map_err(|_| ShimError::Deadline { attempt, pod: self.pod.clone(), after: within })??;
        for call in &runtime {
            self.note(call);
        }
        outcome.map(|body| (body, fds)).map_err(|failure| ShimError::Failed { attempt, failure })
    }

    /// What an OCI runtime did, as its shim timed it.
    fn note(&self, call: &RuntimeCall) {
        let stage = match call.command.as_str() {
            "create" => "oci_create",
            "start" => "oci_start",
            "exec" => "oci_exec",
            "delete" => "oci_delete",
            // Of a newer shim.
            _ => return,
        };
        let began = UNIX_EPOCH + Duration::from_nanos(u64::try_from(call.began_at_ns).unwrap_or(0));
        let took = Duration::from_nanos(call.took_ns);
        self.stages.note(stage, &[(field::POD_ID, self.pod.as_str())], began, took, call.done);
    }

    async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.socket.async_io(Interest::WRITABLE, |socket| seqpacket::send(socket.as_fd(), bytes, fds)).await
    }

    /// Expects the exit of an exec that is about to be asked for.
    pub(crate) fn expect_exit(&self, exec: &ExecId) {
        let mut waiting = self.waiting();
        if !waiting.lost {
            waiting.execs.insert(exec.clone(), watch::Sender::new(None));
        }
    }

    pub(crate) fn forget_exit(&self, exec: &ExecId) {
        self.waiting().execs.remove(exec);
    }

    /// How the exec ended, waiting for it; forgotten once it was told.
    pub(crate) async fn wait_exit(&self, exec: &ExecId) -> Result<ExecExit, ShimError> {
        let mut exit = {
            let waiting = self.waiting();
            match waiting.execs.get(exec) {
                Some(sender) => sender.subscribe(),
                None if waiting.lost => return Err(self.lost("wait for an exec")),
                None => return Err(ShimError::UnknownExec { exec: exec.clone() }),
            }
        };
        let exit = match exit.wait_for(Option::is_some).await {
            Ok(exit) => *exit,
            // The sender went with the connection, or with another waiter that was told first.
            Err(_) => None,
        };
        self.forget_exit(exec);
        exit.ok_or_else(|| self.lost("wait for an exec"))
    }

    /// Reads until the other side is gone, then fails everything that waits.
    pub(crate) async fn read(self: Arc<Self>) {
        let mut buffer = vec![0; SHIM_FRAME_BYTES_MAX];
        loop {
            let received = self
                .socket
                .async_io(Interest::READABLE, |socket| seqpacket::receive(socket.as_fd(), &mut buffer))
                .await;
            match received {
                Ok(message) if message.length > 0 => self.take(&buffer[..message.length], message.fds),
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(pod.id = %self.pod, %error, "receive from the shim");
                    break;
                }
            }
        }
        let Waiting { replies, execs, .. } =
            std::mem::replace(&mut *self.waiting(), Waiting { lost: true, ..Waiting::default() });
        drop((replies, execs));
        self.lost.send_replace(true);
    }

    fn take(&self, bytes: &[u8], fds: Vec<OwnedFd>) {
        match Frame::decode(bytes) {
            Ok(Frame::Reply(reply)) => {
                if let Some(sender) = self.waiting().replies.remove(&reply.seq) {
                    // The caller may have gone; then the descriptors close here.
                    let _ = sender.send((reply.outcome, reply.runtime, fds));
                }
            }
            Ok(Frame::Event(event)) => {
                if let Event::ExecExited { exec, code, timed_out } = &event
                    && let Some(sender) = self.waiting().execs.get(exec)
                {
                    sender.send_replace(Some(ExecExit { code: *code, timed_out: *timed_out }));
                }
                // No subscriber is no fault.
                let _ = self.events.send(event);
            }
            Ok(Frame::Request(_)) => tracing::warn!(pod.id = %self.pod, "the shim sent a request"),
            Err(DecodeError::UnknownKind { kind, .. }) => {
                tracing::debug!(pod.id = %self.pod, kind, "the shim is newer than this service");
            }
            Err(error) => tracing::warn!(pod.id = %self.pod, %error, "a frame of the shim is unreadable"),
        }
    }
}

struct Entry<'a> {
    connection: &'a Connection,
    seq: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.connection.waiting().replies.remove(&self.seq);
    }
}
