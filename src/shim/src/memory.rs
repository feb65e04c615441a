//! Whether the kernel killed a container for want of memory, from a counter that is held open: a cgroup may
//! be removed as soon as its last process is dead.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use kernel::SysError;
use kernel::epoll::Interest;
use rustix::event::EventfdFlags;

/// A watch over one cgroup's OOM kills.
#[derive(Debug)]
pub(crate) struct OomWatch {
    /// v2: `memory.events`, which poll(2) tells of changes. v1: `memory.oom_control`.
    counter: File,
    /// v1: signalled by the kernel through `cgroup.event_control`.
    event: Option<OwnedFd>,
    /// v2: the same file of the group above, whose counter includes this one's. Under systemd the cgroup is gone as
    /// soon as its last process is, often before that process's end is heard of here: then this one has grown.
    above: Option<(File, u64)>,
    /// Kills at the last look.
    counted: u64,
    /// Kills that were not the container's end.
    forgiven: u64,
}

impl OomWatch {
    pub(crate) fn open(cgroup: &Path) -> Result<Self, SysError> {
        let events = cgroup.join("memory.events");
        let (counter, event) = match File::open(&events) {
            Ok(counter) => (counter, None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let control = cgroup.join("memory.oom_control");
                let counter = File::open(&control).map_err(|e| SysError::path("open", &control, e))?;
                let event = register(cgroup, &counter)?;
                (counter, Some(event))
            }
            Err(e) => return Err(SysError::path("open", events, e)),
        };
        let above = match (&event, cgroup.parent()) {
            // The root has no such file; nothing goes away there either.
            (None, Some(parent)) => File::open(parent.join("memory.events")).ok().map(|file| (file, 0)),
            _ => None,
        };
        let mut watch = Self { counter, event, above, counted: 0, forgiven: 0 };
        watch.forgive();
        Ok(watch)
    }

    /// What the event loop waits on, and for what.
    pub(crate) fn source(&self) -> (BorrowedFd<'_>, Interest) {
        match &self.event {
            Some(event) => (event.as_fd(), Interest::Read),
            None => (self.counter.as_fd(), Interest::Priority),
        }
    }

    /// Takes the readiness away, so that the loop waits again.
    pub(crate) fn acknowledge(&mut self) {
        if let Some(event) = &self.event {
            let _ = rustix::io::read(event, &mut [0; 8]);
        } else {
            self.count();
        }
    }

    /// Whether the kernel has killed since the last [`Self::forgive`].
    pub(crate) fn killed(&mut self) -> bool {
        self.count();
        self.counted > self.forgiven
    }

    /// What was killed so far was not the container's first process, which still lives.
    pub(crate) fn forgive(&mut self) {
        self.count();
        self.forgiven = self.counted;
    }

    /// Looks at the counters. To be done for every container when one has met its limit, so that what the group above
    /// counted for that one is not taken for another's.
    pub(crate) fn count(&mut self) {
        // Before the own one: a kill between the two is counted here again rather than never.
        let above = self.above.as_mut().and_then(|(file, before)| {
            let now = kills(file)?;
            Some(now.saturating_sub(std::mem::replace(before, now)))
        });
        match (kills(&mut self.counter), above) {
            (Some(own), _) => self.counted = own,
            // A cgroup that is gone reads as an error (ENODEV).
            (None, Some(new)) => self.counted += new,
            (None, None) => {}
        }
    }
}

fn kills(counter: &mut File) -> Option<u64> {
    counter.rewind().ok()?;
    parse(&io::read_to_string(counter).ok()?)
}

fn register(cgroup: &Path, control: &File) -> Result<OwnedFd, SysError> {
    let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|e| SysError::bare("eventfd2", e))?;
    let path = cgroup.join("cgroup.event_control");
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| io::Write::write_all(&mut file, line.as_bytes()))
        .map_err(|e| SysError::path("write", path, e))?;
    Ok(event)
}

/// The line `oom_kill <count>` that both versions have.
fn parse(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_in_both_formats() {
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        let v2 = "low 0\nhigh 0\nmax 9\noom 8\noom_kill 2\noom_group_kill 1\n";
        for (text, count) in [(v1, Some(3)), (v2, Some(2)), ("oom_kill x", None), ("", None)] {
            assert_eq!(parse(text), count, "{text}");
        }
    }

    #[test]
    fn a_kill_is_told_when_the_counter_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("container");
        std::fs::create_dir(&own).unwrap();
        let write = |dir: &Path, text: &str| std::fs::write(dir.join("memory.events"), text).unwrap();
        // A removed group's counter reads as nothing.
        let gone = || write(&own, "");
        let counts = |own_kills: u64, above: u64| {
            write(&own, &format!("oom_kill {own_kills}\n"));
            write(dir.path(), &format!("oom_kill {above}\n"));
        };
        counts(1, 7);
        let mut watch = OomWatch::open(&own).unwrap();
        assert!(!watch.killed(), "kills before it was opened are another's");

        counts(2, 8);
        watch.acknowledge();
        gone();
        assert!(watch.killed(), "it was seen before");
        watch.forgive();
        assert!(!watch.killed());

        counts(2, 9);
        watch.count();
        gone();
        assert!(!watch.killed(), "a neighbour's, seen while the own counter was there");
        write(dir.path(), "oom_kill 10\n");
        assert!(watch.killed(), "only the group above has it");
    }
}
