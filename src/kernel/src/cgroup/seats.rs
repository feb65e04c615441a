//! Where a process sits in every hierarchy, and sitting down there too.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};

use super::Hierarchy;
use crate::SysError;
use crate::pidfd::PidFd;

/// The cgroups of a process, as directories; those that are the reader's own too are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seats {
    /// One for each v1 hierarchy.
    pub v1: Vec<PathBuf>,
    /// In the v2 hierarchy.
    pub v2: Option<PathBuf>,
}

impl Hierarchy {
    /// The cgroups of a process that are not this one's.
    ///
    /// # Errors
    /// The process is gone, or is somewhere that cannot be named from here.
    pub fn seats(&self, process: &PidFd) -> Result<Seats, SysError> {
        let read = |path: String| fs::read_to_string(&path).map_err(|e| SysError::path("read", path, e));
        let path = format!("/proc/{}/cgroup", process.pid());
        let (theirs, own) = (read(path.clone())?, read("/proc/self/cgroup".to_owned())?);
        // It was this process that was read about, and no later one of its number.
        process.signal_strictly(0)?;
        self.seats_of(&theirs, &own).map_err(|why| {
            SysError::path("find the cgroups in", path, io::Error::new(io::ErrorKind::Unsupported, why))
        })
    }

    /// From two texts as `/proc/PID/cgroup` has them (cgroups(7)).
    fn seats_of(&self, theirs: &str, own: &str) -> Result<Seats, String> {
        let mut seats = Seats::default();
        for line in theirs.lines().filter(|line| !own.lines().any(|own| own == *line)) {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
                return Err(format!("{line:?} is no cgroup"));
            };
            let named =
                Path::new(path).components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
            if !named || path.ends_with(" (deleted)") {
                return Err(format!("{path} cannot be reached from here"));
            }
            let root = match (self, controllers) {
                (Self::V2 { root }, "") => Some(root),
                (Self::V1 { unified, .. }, "") => unified.as_ref(),
                (Self::V1 { controllers: roots, .. }, names) => {
                    names.split(',').find_map(|name| roots.get(name))
                }
                // Named hierarchies beside v2 limit nothing.
                (Self::V2 { .. }, _) => continue,
            };
            match root {
                Some(root) if controllers.is_empty() => {
                    seats.v2 = Some(root.join(path.trim_start_matches('/')))
                }
                Some(root) => seats.v1.push(root.join(path.trim_start_matches('/'))),
                // One that is mounted nowhere can be joined by nobody.
                None => {}
            }
        }
        Ok(seats)
    }
}

impl Seats {
    /// Moves this process, which has one thread, into the v1 groups, and into the v2 one unless it was born there.
    ///
    /// # Errors
    /// The first group that does not take it.
    pub fn take(&self, born_in_v2: bool) -> Result<(), SysError> {
        let v2 = self.v2.as_ref().filter(|_| !born_in_v2).map(|group| group.join("cgroup.procs"));
        // A thread that moves itself need not wait until nobody forks any more (a grace period of milliseconds for each
        // hierarchy); with one thread that is the whole process.
        let v1 = self.v1.iter().map(|group| group.join("tasks"));
        v1.chain(v2).try_for_each(|file| {
            let opened = OpenOptions::new().write(true).open(&file);
            opened
                .and_then(|mut open| open.write_all(b"0"))
                .map_err(|e| SysError::path("move this process to", &file, e))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1() -> Hierarchy {
        let controllers = [("cpu", "/c/cpu"), ("cpuacct", "/c/cpu"), ("memory", "/c/memory")];
        Hierarchy::V1 {
            controllers: controllers.map(|(name, path)| (name.to_owned(), path.into())).into(),
            unified: Some("/c/unified".into()),
        }
    }

    #[test]
    fn seats_are_found_in_both_versions() {
        let own = "5:memory:/\n3:cpu,cpuacct:/\n0::/\n";
        let rows = [
            (
                "5:memory:/pods/a\n3:cpu,cpuacct:/pods/a\n0::/\n",
                vec!["/c/memory/pods/a", "/c/cpu/pods/a"],
                None,
            ),
            ("5:memory:/\n3:cpu,cpuacct:/x\n0::/y\n", vec!["/c/cpu/x"], Some("/c/unified/y")),
            ("9:net_cls:/elsewhere\n5:memory:/\n", vec![], None),
            ("5:memory:/a:b\n", vec!["/c/memory/a:b"], None),
        ];
        for (theirs, v1_expected, v2_expected) in rows {
            let seats = v1().seats_of(theirs, own).unwrap();
            assert_eq!(seats.v1, v1_expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{theirs}");
            assert_eq!(seats.v2, v2_expected.map(PathBuf::from), "{theirs}");
        }
        let v2 = Hierarchy::V2 { root: "/c".into() };
        let seats = v2.seats_of("1:name=systemd:/x\n0::/pods/a\n", "0::/system.slice\n").unwrap();
        assert_eq!(seats, Seats { v1: Vec::new(), v2: Some("/c/pods/a".into()) });
    }

    #[test]
    fn what_cannot_be_named_from_here_is_an_error() {
        for line in ["5:memory:/../x", "0::/pods/a (deleted)", "memory"] {
            assert!(v1().seats_of(line, "").is_err(), "{line}");
        }
    }
}
