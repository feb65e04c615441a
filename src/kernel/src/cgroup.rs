//! cgroup v1 and v2: which are mounted, and groups made, limited, read, killed and removed (cgroups(7)).
//!
//! A [`Group`] is a path below every hierarchy's root; the same calls serve both versions. Nothing is kept between
//! calls: the files are the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::SysError;
use crate::mount::{self, MountInfo};

mod freezer;
mod kill;
mod limits;
mod oom;
mod reader;
mod seats;
mod stats;

pub use freezer::Freezer;
pub use limits::{Limits, Write, is_weight_of_shares, put_back, weight_of_shares};
pub use oom::set as set_oom_score_adj;
pub use reader::{Extent, Reader, Reading};
pub use seats::Seats;
pub use stats::{CgroupStats, CpuStats, DeviceIo, HugepageStats, MemoryStats, Pressure, PressureLine};

/// How long [`Group::remove`] and [`Group::is_empty`] wait for the kernel to let go of processes that have just died.
const REMOVE_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long [`Group::remove_if_empty`] waits before it believes that somebody lives there.
const LEAVE_WAIT_MAX: Duration = Duration::from_millis(100);
/// How often [`Group::create`] begins again when a group above goes away meanwhile.
const CREATE_TRIES_MAX: usize = 20;
/// The v1 hierarchy that systemd keeps its units in; it has no controller.
const NAMED_PREFIX: &str = "name=";

/// The cgroup hierarchies of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// One for all controllers.
    V2 {
        /// Where it is mounted.
        root: PathBuf,
    },
    /// One for each controller, or for several together.
    V1 {
        /// Where each controller is mounted; `name=systemd` for a hierarchy that has only a name.
        controllers: BTreeMap<String, PathBuf>,
        /// A v2 hierarchy beside them (a hybrid layout). It limits nothing of ours.
        unified: Option<PathBuf>,
    },
}

/// One cgroup, in every hierarchy that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    hierarchy: Hierarchy,
    path: PathBuf,
}

// === impl Hierarchy ===

impl Hierarchy {
    /// The hierarchies that are mounted.
    ///
    /// # Errors
    /// The mount table could not be read, or no cgroup file system is in it.
    pub fn detect() -> Result<Self, SysError> {
        Self::of_table(&mount::table()?)
    }

    /// The hierarchies of a mount table. Of several mounts of one hierarchy the first is taken.
    ///
    /// # Errors
    /// No cgroup file system is in it.
    pub fn of_table(table: &[MountInfo]) -> Result<Self, SysError> {
        let mut controllers = BTreeMap::new();
        let mut unified = None;
        for mount in table {
            match mount.file_system.as_str() {
                "cgroup2" => {
                    unified.get_or_insert_with(|| mount.mount_point.clone());
                }
                "cgroup" => {
                    let known = |option: &str| !matches!(option, "rw" | "ro" | "xattr" | "clone_children");
                    for option in mount.super_options.split(',').filter(|option| known(option)) {
                        if !option.starts_with("release_agent=") {
                            let place = || mount.mount_point.clone();
                            controllers.entry(option.to_owned()).or_insert_with(place);
                        }
                    }
                }
                _ => {}
            }
        }
        let limits = controllers.keys().any(|name| !name.starts_with(NAMED_PREFIX));
        match (limits, unified) {
            (false, Some(root)) => Ok(Self::V2 { root }),
            (true, unified) => Ok(Self::V1 { controllers, unified }),
            (false, None) => {
                let absent = io::Error::new(io::ErrorKind::NotFound, "no cgroup file system is mounted");
                Err(SysError::path("find cgroups in", "/proc/self/mountinfo", absent))
            }
        }
    }

    /// Whether this is the unified hierarchy.
    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2 { .. })
    }

    /// The group at a path, `/` for the root; it need not exist.
    pub fn group(&self, path: impl AsRef<Path>) -> Group {
        let path = path.as_ref();
        let path = path.strip_prefix("/").unwrap_or(path).to_owned();
        Group { hierarchy: self.clone(), path }
    }

    /// The directory of the root group in which a controller's files are, where the controller is enabled.
    pub fn controller(&self, name: &str) -> Option<PathBuf> {
        match self {
            Self::V1 { controllers, .. } => controllers.get(name).cloned(),
            Self::V2 { root } => available(root).iter().any(|known| known == name).then(|| root.clone()),
        }
    }

    /// Whether swap can be limited. Under v2 the root group has no limits to look at: the kernel's own word for it is
    /// `memory.swap.max` in any other group, or else that it has swap at all.
    pub fn limits_swap(&self) -> bool {
        match self {
            Self::V1 { controllers, .. } => {
                controllers.get("memory").is_some_and(|dir| dir.join("memory.memsw.limit_in_bytes").exists())
            }
            Self::V2 { root } => {
                let child = fs::read_dir(root).into_iter().flatten().flatten().find_map(|entry| {
                    let limit = entry.path().join("memory.max");
                    limit.exists().then(|| entry.path().join("memory.swap.max").exists())
                });
                child.unwrap_or_else(|| {
                    Path::new("/proc/swaps").exists() && self.controller("memory").is_some()
                })
            }
        }
    }

    /// The huge page sizes that can be limited, as cgroup files name them: `2MB`. From /sys/kernel/mm/hugepages.
    pub fn hugepage_sizes(&self) -> BTreeSet<String> {
        if self.controller("hugetlb").is_none() {
            return BTreeSet::new();
        }
        let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
        entries.filter_map(|entry| stats::hugepage_size(&entry.file_name().to_string_lossy())).collect()
    }

    /// The roots, each once, v2's last.
    fn roots(&self) -> Vec<&Path> {
        match self {
            Self::V2 { root } => vec![root],
            Self::V1 { controllers, unified } => {
                let distinct: BTreeSet<&Path> = controllers.values().map(PathBuf::as_path).collect();
                distinct.into_iter().chain(unified.as_deref()).collect()
            }
        }
    }
}

/// The controllers that a v2 group may hand on.
fn available(directory: &Path) -> Vec<String> {
    let text = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

// === impl Group ===

impl Group {
    /// Whether it is of the unified hierarchy.
    pub fn is_v2(&self) -> bool {
        self.hierarchy.is_v2()
    }

    /// The path below the roots, with a leading slash, as /proc/self/cgroup has it.
    pub fn path(&self) -> PathBuf {
        Path::new("/").join(&self.path)
    }

    /// The directory in which a controller's files of this group are; `None` without the controller's hierarchy.
    pub fn directory(&self, controller: &str) -> Option<PathBuf> {
        match &self.hierarchy {
            Hierarchy::V2 { root } => Some(root.join(&self.path)),
            Hierarchy::V1 { controllers, .. } => {
                controllers.get(controller).map(|root| root.join(&self.path))
            }
        }
    }

    /// Whether it exists in any hierarchy.
    pub fn exists(&self) -> bool {
        self.existing().next().is_some()
    }

    /// Makes the group and those above it, everywhere. Existing ones are as good.
    ///
    /// Under v2 every controller that is there is handed down to the group; what a group above refuses to hand down
    /// (it holds processes) is left out, as the group can live without. Under v1 a new cpuset gets its parent's CPUs
    /// and memory nodes, without which no process may enter it.
    ///
    /// A group above that somebody removes meanwhile is made again.
    ///
    /// # Errors
    /// The directory that could not be made; those that were made stay.
    pub fn create(&self) -> Result<(), SysError> {
        let mut tries = CREATE_TRIES_MAX;
        loop {
            tries -= 1;
            match self.create_once() {
                Err(e) if e.is_gone() && tries > 0 => {}
                created => return created,
            }
        }
    }

    fn create_once(&self) -> Result<(), SysError> {
        match &self.hierarchy {
            Hierarchy::V2 { root } => {
                let mut directory = root.clone();
                for part in self.path.components() {
                    hand_down(&directory);
                    directory.push(part);
                    make(&directory)?;
                }
                Ok(())
            }
            Hierarchy::V1 { controllers, .. } => {
                let cpuset = controllers.get("cpuset");
                for root in controllers.values().collect::<BTreeSet<_>>() {
                    let mut directory = root.clone();
                    for part in self.path.components() {
                        let parent = directory.clone();
                        directory.push(part);
                        make(&directory)?;
                        if Some(root) == cpuset {
                            inherit_cpuset(&parent, &directory)?;
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// The group and those above it that exist in no hierarchy, outermost first: what [`Group::create`] would make,
    /// and what an undo may remove.
    pub fn missing(&self) -> Vec<String> {
        let mut group = Self { hierarchy: self.hierarchy.clone(), path: PathBuf::new() };
        let mut missing = Vec::new();
        for part in self.path.components() {
            group.path.push(part);
            if !group.exists() {
                missing.push(group.path().to_string_lossy().into_owned());
            }
        }
        missing
    }

    /// Whether nothing is below the group and nobody lives in it, in any hierarchy. Those that are on their way out have
    /// a moment.
    ///
    /// # Errors
    /// The group could not be read.
    pub fn is_empty(&self) -> Result<bool, SysError> {
        let start = Instant::now();
        loop {
            let mut empty = true;
            for directory in self.existing() {
                empty &= pids_in(&directory)?.is_empty() && children(&directory)?.is_empty();
            }
            if empty || start.elapsed() > REMOVE_WAIT_MAX {
                return Ok(empty);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Removes the group, everywhere, unless somebody lives in it or below it: then it stays, and that is success, as
    /// for an absent one.
    ///
    /// # Errors
    /// A directory that is empty and still could not be removed.
    pub fn remove_if_empty(&self) -> Result<(), SysError> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        let (start, mut pause) = (Instant::now(), Duration::from_millis(1));
        for directory in self.existing() {
            loop {
                match rustix::fs::rmdir(&directory) {
                    Ok(()) | Err(Errno::NOENT) => break,
                    Err(Errno::BUSY) => {}
                    Err(e) => return Err(SysError::path("rmdir", &directory, e)),
                }
                // Those who were killed a moment ago may still be on their way out.
                let lived_in = !pids_in(&directory)?.is_empty() && start.elapsed() > LEAVE_WAIT_MAX;
                if lived_in || !children(&directory)?.is_empty() {
                    break;
                }
                if start.elapsed() > REMOVE_WAIT_MAX {
                    return Err(SysError::path("rmdir", &directory, Errno::BUSY));
                }
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// Removes the group and everything below it, everywhere; waits a little for dying processes. Absent is success.
    ///
    /// # Errors
    /// The directory that is still in use after two seconds, or could not be removed.
    pub fn remove(&self) -> Result<(), SysError> {
        if self.path.as_os_str().is_empty() {
            let refused = io::Error::new(io::ErrorKind::InvalidInput, "the root group stays");
            return Err(SysError::path("remove cgroup", "/", refused));
        }
        let deadline = Instant::now() + REMOVE_WAIT_MAX;
        self.existing().try_for_each(|directory| remove_tree(&directory, deadline))
    }

    /// The processes of the group and of those below it.
    ///
    /// # Errors
    /// A list that could not be read.
    pub fn pids(&self) -> Result<BTreeSet<u32>, SysError> {
        let mut pids = BTreeSet::new();
        for directory in self.existing() {
            collect_pids(&directory, &mut pids)?;
        }
        Ok(pids)
    }

    /// Writes the limits that are set, in an order in which no value contradicts another meanwhile. When one cannot be
    /// written, those already written are put back.
    ///
    /// # Errors
    /// The first file that refused its value.
    pub fn apply(&self, limits: &Limits) -> Result<(), SysError> {
        limits::apply(self, limits)
    }

    /// The writes that put back what [`Group::apply`] of these limits would change, for [`put_back`].
    ///
    /// # Errors
    /// A file that cannot be read, or a limit that this hierarchy has no file for.
    pub fn undo_of(&self, limits: &Limits) -> Result<Vec<Write>, SysError> {
        limits::undo(self, limits)
    }

    /// The limit in force on one size of huge page (`2MB`), bytes.
    pub fn hugepage_limit(&self, size: &str) -> Option<u64> {
        limits::hugepage_limit(self, size)
    }

    /// Memory in use that no reclaim of page cache gives back, bytes: v2 kills for a limit below this, v1 refuses it.
    pub fn unreclaimable(&self) -> Option<u64> {
        limits::unreclaimable(self)
    }

    /// oom_score_adj of every process of the group and of those below it (proc_pid_oom_score_adj(5)).
    ///
    /// # Errors
    /// The list of processes, or a value that could not be read.
    pub fn oom_score_adjs(&self) -> Result<BTreeMap<u32, i32>, SysError> {
        oom::read(&self.pids()?)
    }

    /// Gives every process of the group and of those below it this oom_score_adj, also those that fork meanwhile.
    ///
    /// # Errors
    /// The first that refused it: lowering takes CAP_SYS_RESOURCE. Others may have it by then.
    pub fn set_oom_score_adj(&self, adj: i32) -> Result<(), SysError> {
        oom::set_all(|| self.pids(), adj)
    }

    /// The limits in force; `None` for what is not limited or not there.
    pub fn read_limits(&self) -> Limits {
        limits::read(self)
    }

    /// What the group has used. Every part that the kernel does not give is `None`.
    pub fn read_stats(&self) -> CgroupStats {
        stats::read(&mut Reader::new(self.clone(), false), Extent::Everything)
    }

    /// The group's directories that exist.
    fn existing(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchy
            .roots()
            .into_iter()
            .map(|root| root.join(&self.path))
            .filter(|directory| directory.is_dir())
    }
}

fn make(directory: &Path) -> Result<(), SysError> {
    match fs::create_dir(directory) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(SysError::path("mkdir", directory, e)),
        _ => Ok(()),
    }
}

/// Hands a v2 group's controllers to those below it, one by one, so that one that cannot be spoils no other.
fn hand_down(directory: &Path) {
    let file = directory.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file).unwrap_or_default();
    for controller in available(directory) {
        if !enabled.split_whitespace().any(|known| known == controller) {
            let _ = append(&file, &format!("+{controller}"));
        }
    }
}

fn inherit_cpuset(parent: &Path, directory: &Path) -> Result<(), SysError> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let own = directory.join(name);
        if read_text(&own)?.trim().is_empty() {
            write(&own, read_text(&parent.join(name))?.trim())?;
        }
    }
    Ok(())
}

fn children(directory: &Path) -> Result<Vec<PathBuf>, SysError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(SysError::path("list", directory, e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| SysError::path("list", directory, e))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove_tree(directory: &Path, deadline: Instant) -> Result<(), SysError> {
    for child in children(directory)? {
        remove_tree(&child, deadline)?;
    }
    let mut pause = Duration::from_millis(1);
    loop {
        match rustix::fs::rmdir(directory) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < deadline => thread::sleep(pause),
            Err(e) => return Err(SysError::path("rmdir", directory, e)),
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// The processes of one directory; none of one that is gone.
fn pids_in(directory: &Path) -> Result<Vec<u32>, SysError> {
    match read_text(&directory.join("cgroup.procs")) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
        Err(e) if e.is_gone() => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn collect_pids(directory: &Path, pids: &mut BTreeSet<u32>) -> Result<(), SysError> {
    pids.extend(pids_in(directory)?);
    children(directory)?.iter().try_for_each(|child| collect_pids(child, pids))
}

fn read_text(file: &Path) -> Result<String, SysError> {
    fs::read_to_string(file).map_err(|e| SysError::path("read", file, e))
}

/// One write(2) with the whole value, as cgroup files want it. Never creates a file.
fn write(file: &Path, value: &str) -> Result<(), SysError> {
    // Writing nothing is no write at all, and an empty list has to be written as well.
    let value = if value.is_empty() { "\n" } else { value };
    let opened = OpenOptions::new().write(true).truncate(true).open(file);
    opened.and_then(|mut file| file.write_all(value.as_bytes())).map_err(|e| SysError::path("write", file, e))
}

fn append(file: &Path, value: &str) -> Result<(), SysError> {
    let opened = OpenOptions::new().append(true).open(file);
    opened.and_then(|mut file| file.write_all(value.as_bytes())).map_err(|e| SysError::path("write", file, e))
}

#[cfg(test)]
mod tests;
