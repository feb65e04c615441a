//! One connection of a service's.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use kernel::seqpacket;
use wire::Frame;

use crate::note::note;

/// Frames that may wait for a service that does not read; then it is cut off, and finds all in the state.
const QUEUE_MAX: usize = 256;

/// A connection and what waits to be sent over it.
#[derive(Debug)]
pub(crate) struct Peer {
    socket: OwnedFd,
    queue: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
}

/// Whether a connection is of use still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Nothing waits.
    Idle,
    /// Something waits for room.
    Full,
    /// To be closed.
    Broken,
}

impl Peer {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, queue: VecDeque::new() }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a frame, or keeps it until there is room.
    pub(crate) fn send(&mut self, frame: &Frame, fd: Option<OwnedFd>) -> Link {
        match frame.encode() {
            Ok(bytes) => self.queue.push_back((bytes, fd)),
            Err(error) => {
                note(format_args!("a reply cannot be sent: {error}"));
                return Link::Broken;
            }
        }
        if self.queue.len() > QUEUE_MAX { Link::Broken } else { self.flush() }
    }

    /// Sends what waits.
    pub(crate) fn flush(&mut self) -> Link {
        while let Some((bytes, fd)) = self.queue.front() {
            let fds: Vec<BorrowedFd<'_>> = fd.iter().map(|fd| fd.as_fd()).collect();
            match seqpacket::send(self.socket.as_fd(), bytes, &fds) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Link::Full,
                Err(_) => return Link::Broken,
            }
        }
        Link::Idle
    }
}
