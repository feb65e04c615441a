//! epoll(7) behind a small safe face, for the shim's one loop.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::SysError;

/// What is waited for. The end of the other side is always told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something to read.
    Read,
    /// Room to write.
    Write,
    /// What poll(2) calls an exceptional condition: a cgroup file has changed.
    Priority,
    /// Nothing but the other side's end.
    Hangup,
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Self::Read => EventFlags::IN | EventFlags::RDHUP,
            Self::Write => EventFlags::OUT,
            Self::Priority => EventFlags::PRI,
            Self::Hangup => EventFlags::empty(),
        }
    }
}

/// A watched descriptor that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// As it was given to [`Epoll::add`].
    pub token: u64,
    /// The other side has closed, or failed. There may still be something to read.
    pub hangup: bool,
}

/// A set of watched descriptors, level-triggered.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    /// An empty set.
    ///
    /// # Errors
    /// The system call.
    pub fn new() -> Result<Self, SysError> {
        let fd = epoll::create(CreateFlags::CLOEXEC).map_err(|e| SysError::bare("epoll_create1", e))?;
        Ok(Self { fd })
    }

    /// Watches a descriptor.
    ///
    /// # Errors
    /// The system call; files that are always ready cannot be watched (EPERM).
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<(), SysError> {
        epoll::add(&self.fd, fd, EventData::new_u64(token), interest.flags())
            .map_err(|e| SysError::bare("epoll_ctl add", e))
    }

    /// Changes what is waited for.
    ///
    /// # Errors
    /// The system call.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<(), SysError> {
        epoll::modify(&self.fd, fd, EventData::new_u64(token), interest.flags())
            .map_err(|e| SysError::bare("epoll_ctl mod", e))
    }

    /// Stops watching. Needed before a descriptor closes that has duplicates elsewhere.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.fd, fd);
    }

    /// Waits for at least one ready descriptor, or until the timeout; `ready` then holds what there is.
    ///
    /// # Errors
    /// The system call. A signal that interrupts it is an empty wait.
    pub fn wait(&self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> Result<(), SysError> {
        ready.clear();
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        let mut events: [epoll::Event; 32] =
            [const { epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) } }; 32];
        let count = match epoll::wait(&self.fd, &mut events[..], timeout.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(e) => return Err(SysError::bare("epoll_wait", e)),
        };
        ready.extend(events[..count].iter().map(|event| {
            let flags = event.flags;
            Ready { token: event.data.u64(), hangup: flags.intersects(EventFlags::HUP | EventFlags::ERR) }
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn readiness_and_the_end_are_told_by_token() {
        let epoll = Epoll::new().unwrap();
        let (read, mut write) = std::io::pipe().unwrap();
        epoll.add(&read, 7, Interest::Read).unwrap();
        let mut ready = Vec::new();
        epoll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert_eq!(ready, []);
        write.write_all(b"x").unwrap();
        epoll.wait(&mut ready, None).unwrap();
        assert_eq!(ready, [Ready { token: 7, hangup: false }]);
        epoll.modify(&read, 8, Interest::Hangup).unwrap();
        epoll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert_eq!(ready, []);
        drop(write);
        epoll.wait(&mut ready, None).unwrap();
        assert_eq!(ready, [Ready { token: 8, hangup: true }]);
        epoll.remove(&read);
        epoll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert_eq!(ready, []);
    }
}
