//! Clients that are attached to a container: copies of its output, and one that feeds its input.
//!
//! A client that reads more slowly than the container writes has some of the output kept for it. When that is much,
//! the container's output is left in its pipes, so that the container waits as it would for any slow terminal; but
//! no longer than [`PAUSE_MAX`]: a client that has not caught up by then is let go (ADR 112).

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use kernel::epoll::Interest;
use model::ContainerId;

use crate::cri_log::Stream;
use crate::server::{Source, Watch};
use crate::stdio::{self, Got};

/// How long a container waits for a client that is behind.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A client that has to take more than this is behind, bytes.
const BEHIND_BYTES: usize = 512 * 1024;
/// One that was has caught up when it has to take no more than this, bytes.
const CAUGHT_UP_BYTES: usize = 256 * 1024;
/// Output kept for a client at most, bytes: behind, and then the last words of a container that ends.
const PENDING_BYTES_MAX: usize = 1024 * 1024;

/// Where a client's copy of one stream goes.
#[derive(Debug)]
struct Sink {
    stream: Stream,
    fd: OwnedFd,
    token: u64,
    pending: Vec<u8>,
    /// Whether the loop waits for room.
    waiting: bool,
}

/// One attached client.
#[derive(Debug)]
pub(crate) struct Client {
    sinks: Vec<Sink>,
    /// What it types, until it ends.
    stdin: Option<(OwnedFd, u64)>,
    /// The container is gone: nothing comes any more, what is pending still goes.
    ending: bool,
}

impl Client {
    pub(crate) fn attach(
        watch: &mut Watch,
        container: &ContainerId,
        outputs: Vec<(Stream, OwnedFd)>,
        stdin: Option<OwnedFd>,
    ) -> Result<Self, kernel::SysError> {
        let mut client = Self { sinks: Vec::new(), stdin: None, ending: false };
        for (stream, fd) in outputs {
            stdio::not_blocking(&fd)?;
            // The end of the reader is told without asking, even while nothing is written.
            let token = watch.add(&fd, Source::AttachOut(container.clone()), Interest::Hangup)?;
            client.sinks.push(Sink { stream, fd, token, pending: Vec::new(), waiting: false });
        }
        if let Some(fd) = stdin {
            stdio::not_blocking(&fd)?;
            let token = watch.add(&fd, Source::AttachIn(container.clone()), Interest::Read)?;
            client.stdin = Some((fd, token));
        }
        Ok(client)
    }

    /// Copies output to the client.
    pub(crate) fn copy(&mut self, watch: &mut Watch, stream: Stream, bytes: &[u8]) {
        self.sinks.retain_mut(|sink| sink.stream != stream || sink.take(watch, bytes));
    }

    /// A sink may be written again, or its reader has gone.
    pub(crate) fn sink_ready(&mut self, watch: &mut Watch, token: u64, hangup: bool) {
        self.sinks.retain_mut(|sink| {
            sink.token != token || (!hangup && sink.take(watch, &[])) || sink.close(watch)
        });
        self.close_if_ending(watch);
    }

    /// Nothing comes any more.
    pub(crate) fn end(&mut self, watch: &mut Watch) {
        self.ending = true;
        self.end_stdin(watch);
        self.close_if_ending(watch);
    }

    fn close_if_ending(&mut self, watch: &mut Watch) {
        if self.ending {
            self.sinks.retain_mut(|sink| !sink.pending.is_empty() || sink.close(watch));
        }
    }

    /// Whether the container has to wait for it.
    pub(crate) fn is_behind(&self) -> bool {
        self.sinks.iter().any(|sink| sink.pending.len() > BEHIND_BYTES)
    }

    /// Whether the container need not wait for it any more.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.sinks.iter().all(|sink| sink.pending.len() <= CAUGHT_UP_BYTES)
    }

    /// Whether nothing waits for it to read.
    pub(crate) fn has_all(&self) -> bool {
        self.sinks.iter().all(|sink| sink.pending.is_empty())
    }

    /// Closes its outputs, whatever it has not taken.
    pub(crate) fn let_go(&mut self, watch: &mut Watch) {
        crate::note::note(format_args!("an attached client that reads too slowly is let go"));
        self.sinks.retain_mut(|sink| sink.close(watch));
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_gone(&self) -> bool {
        self.sinks.is_empty() && self.stdin.is_none()
    }

    /// Reads what was typed.
    pub(crate) fn read_stdin(&self, token: u64, buffer: &mut Vec<u8>) -> Option<Got> {
        let (fd, own) = self.stdin.as_ref()?;
        (*own == token).then(|| stdio::read(fd, buffer))
    }

    /// Holds its input back, or takes it again.
    pub(crate) fn pause_stdin(&mut self, watch: &mut Watch, container: &ContainerId, pause: bool) {
        let Some((fd, token)) = &mut self.stdin else { return };
        if pause {
            watch.remove(fd.as_fd(), *token);
            *token = 0;
        } else if *token == 0
            && let Ok(new) = watch.add(fd.as_fd(), Source::AttachIn(container.clone()), Interest::Read)
        {
            *token = new;
        }
    }

    /// Its input has ended.
    pub(crate) fn end_stdin(&mut self, watch: &mut Watch) {
        if let Some((fd, token)) = self.stdin.take() {
            watch.remove(fd.as_fd(), token);
        }
    }
}

impl Sink {
    /// Writes what is pending and then `bytes`; false when the client is to be let go.
    fn take(&mut self, watch: &mut Watch, mut bytes: &[u8]) -> bool {
        while !self.pending.is_empty() {
            match write(self.fd.as_fd(), &self.pending) {
                Some(0) => break,
                Some(n) => drop(self.pending.drain(..n)),
                None => return self.fail(watch),
            }
        }
        while self.pending.is_empty() && !bytes.is_empty() {
            match write(self.fd.as_fd(), bytes) {
                Some(0) => break,
                Some(n) => bytes = &bytes[n..],
                None => return self.fail(watch),
            }
        }
        if self.pending.len() + bytes.len() > PENDING_BYTES_MAX {
            crate::note::note(format_args!("an attached client that reads too slowly is let go"));
            return self.fail(watch);
        }
        self.pending.extend_from_slice(bytes);
        if self.waiting == self.pending.is_empty() {
            self.waiting = !self.pending.is_empty();
            let interest = if self.waiting { Interest::Write } else { Interest::Hangup };
            watch.modify(self.fd.as_fd(), self.token, interest);
            if !self.waiting {
                // It may have grown large once; the memory goes back.
                self.pending = Vec::new();
            }
        }
        true
    }

    fn fail(&mut self, watch: &mut Watch) -> bool {
        self.close(watch)
    }

    /// Stops watching; false, as the one answer that lets it go.
    fn close(&mut self, watch: &mut Watch) -> bool {
        watch.remove(self.fd.as_fd(), self.token);
        false
    }
}

/// What was written; 0 when there is no room now, `None` when the reader has gone.
fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> Option<usize> {
    match rustix::io::retry_on_intr(|| rustix::io::write(fd, bytes)) {
        Ok(n) => Some(n),
        Err(rustix::io::Errno::AGAIN) => Some(0),
        Err(_) => None,
    }
}
