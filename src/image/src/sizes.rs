//! How large each writable layer is. Where the file system counts what its projects take (project quotas), each layer
//! is a project and the file system is asked; elsewhere sizes are answered from memory and measured in the background.
//!
//! There one thread walks the layers, a slice of some directory at a time and in turns, and rests nine times as long as it
//! worked: a layer of a million files costs a tenth of one core while it is looked at, and keeps nobody's answer. How
//! old a size is stands in its timestamp.

use std::collections::{HashMap, HashSet};
use std::fs::{self, ReadDir};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kernel::clock::now;
use kernel::{SysError, quota};
use model::ContainerId;

use crate::snapshot::Usage;

/// How many entries are looked at before a rest.
const SLICE_ENTRIES: usize = 1_000;
/// How long a rest is, in times of the work before it.
const REST_FACTOR: u32 = 9;
/// How long a layer is left alone, in times of what looking at it cost.
const PAUSE_FACTOR: u32 = 20;
/// A layer that does not change is looked at this much more rarely at most.
const UNCHANGED_FACTOR_MAX: u32 = 3;

/// Layers' projects have numbers from here on, far from those that people and the kubelet choose.
const PROJECTS_FROM: u32 = 0x4000_0000;

/// The sizes of all writable layers.
pub(crate) struct Sizes {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// There is something to do sooner than was known.
    changed: Condvar,
    /// How soon a layer is looked at again, at the earliest.
    period: Duration,
}

#[derive(Default)]
struct State {
    layers: HashMap<ContainerId, Layer>,
    /// The highest number of a project that was given to a layer.
    last_project: Option<u32>,
    walker_runs: bool,
    ended: bool,
}

struct Layer {
    directory: PathBuf,
    /// Whom the file system counts it as; such a layer is never walked.
    project: Option<u32>,
    known: Option<Usage>,
    due: Instant,
    /// In periods.
    interval: u32,
    walk: Option<Walk>,
}

/// A walk through a tree that may be left off and gone on with. Each inode is counted once; what vanishes meanwhile is
/// not counted.
struct Walk {
    bytes: u64,
    inodes: u64,
    linked: HashSet<(u64, u64)>,
    waiting: Vec<PathBuf>,
    open: Option<(PathBuf, ReadDir)>,
    worked: Duration,
}

// === impl Sizes ===

impl Sizes {
    /// Sizes that are measured again after `period` at the earliest.
    pub(crate) fn new(period: Duration) -> Self {
        let shared = Shared { state: Mutex::default(), changed: Condvar::new(), period };
        Self { shared: Arc::new(shared) }
    }

    /// Makes an empty directory a project of its own, where the file system counts projects: what is made in it from
    /// now on is counted. Where that fails the layer is walked.
    pub(crate) fn count(&self, directory: &Path) {
        if !quota::counts_projects(directory) || project_of(directory).is_some() {
            return;
        }
        let project = {
            let mut state = self.shared.lock();
            let next = state.last_project.and_then(|last| last.checked_add(1)).unwrap_or(PROJECTS_FROM);
            state.last_project = Some(next);
            next
        };
        if let Err(error) = quota::set_project(directory, project) {
            tracing::debug!(error = %model::chain(&error), "a writable layer is walked");
        }
    }

    /// A layer is there: `directory`, in one that [`Sizes::count`] was told of. One that was made just now is small, and
    /// its size is known at once.
    pub(crate) fn enter(&self, container: &ContainerId, directory: &Path, fresh: bool) {
        let project = project_of(directory);
        let known = if fresh && project.is_none() { measure(directory).ok() } else { None };
        let due = Instant::now() + if fresh { self.shared.period } else { Duration::ZERO };
        let layer = Layer { directory: directory.to_owned(), project, known, due, interval: 1, walk: None };
        let mut state = self.shared.lock();
        state.last_project = state.last_project.max(project);
        state.layers.insert(container.clone(), layer);
        if !state.walker_runs && project.is_none() {
            let shared = Arc::clone(&self.shared);
            let walker = thread::Builder::new().name("layer sizes".to_owned());
            match walker.spawn(move || shared.walk()) {
                Ok(_) => state.walker_runs = true,
                // The next layer tries again; until then sizes grow old, and their timestamps say so.
                Err(error) => tracing::warn!(%error, "start the thread that measures writable layers"),
            }
        }
        self.shared.changed.notify_one();
    }

    /// A layer is gone.
    pub(crate) fn forget(&self, container: &ContainerId) {
        self.shared.lock().layers.remove(container);
    }

    /// What a layer took when it was last looked at; `None` before that, and of an unknown one.
    pub(crate) fn of(&self, container: &ContainerId) -> Option<Usage> {
        let (directory, project) = {
            let state = self.shared.lock();
            let layer = state.layers.get(container)?;
            match layer.project {
                None => return layer.known,
                Some(project) => (layer.directory.clone(), project),
            }
        };
        counted(&directory, project)
    }

    /// What all layers take together, by the oldest of their sizes.
    pub(crate) fn total(&self) -> Usage {
        let layers: Vec<_> = {
            let state = self.shared.lock();
            let asked = |layer: &Layer| layer.project.map(|project| (layer.directory.clone(), project));
            state.layers.values().map(|layer| (asked(layer), layer.known)).collect()
        };
        let known = |(asked, known): (Option<(PathBuf, u32)>, _)| match asked {
            Some((directory, project)) => counted(&directory, project),
            None => known,
        };
        let mut total = Usage { bytes: 0, inodes: 0, at: now() };
        for known in layers.into_iter().filter_map(known) {
            total.bytes = total.bytes.saturating_add(known.bytes);
            total.inodes = total.inodes.saturating_add(known.inodes);
            total.at = total.at.min(known.at);
        }
        total
    }
}

impl Drop for Sizes {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_one();
    }
}

// === impl Shared ===

impl Shared {
    /// Locks; what a panicking thread left behind is measured again.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures what is due until there are no more sizes to tell.
    fn walk(&self) {
        loop {
            let began = Instant::now();
            let mut budget = SLICE_ENTRIES;
            while budget > 0 {
                let Some((container, walk)) = self.take_due() else { break };
                budget = self.go_on(container, walk, budget);
            }
            let rest = began.elapsed() * REST_FACTOR;
            if self.wait(Instant::now() + rest) {
                return;
            }
        }
    }

    /// The layer that has waited longest, and its walk.
    fn take_due(&self) -> Option<(ContainerId, Walk)> {
        let mut state = self.lock();
        let time = Instant::now();
        let due = state.layers.iter_mut().filter(|(_, layer)| layer.project.is_none() && layer.due <= time);
        let (container, layer) = due.min_by_key(|(_, layer)| layer.due)?;
        // Those who wait longer come first, also when this slice ends before the tree does.
        layer.due = time;
        let walk = layer.walk.take().unwrap_or_else(|| Walk::new(layer.directory.clone()));
        Some((container.clone(), walk))
    }

    /// Goes on with a walk, without the lock; what is left of the budget.
    fn go_on(&self, container: ContainerId, mut walk: Walk, budget: usize) -> usize {
        let began = Instant::now();
        let (left, done) = walk.step(budget);
        walk.worked += began.elapsed();
        let mut state = self.lock();
        // One that was removed meanwhile has no size.
        let Some(layer) = state.layers.get_mut(&container) else { return left };
        if !done {
            layer.walk = Some(walk);
            return left;
        }
        let usage = Usage { bytes: walk.bytes, inodes: walk.inodes, at: now() };
        let unchanged =
            layer.known.is_some_and(|known| (known.bytes, known.inodes) == (usage.bytes, usage.inodes));
        layer.interval = if unchanged { (layer.interval + 1).min(UNCHANGED_FACTOR_MAX) } else { 1 };
        layer.due = Instant::now() + (self.period * layer.interval).max(walk.worked * PAUSE_FACTOR);
        layer.known = Some(usage);
        left
    }

    /// Waits until a layer is due, and in any case until `rested`; whether all is over.
    fn wait(&self, rested: Instant) -> bool {
        let mut state = self.lock();
        loop {
            let time = Instant::now();
            let walked = state.layers.values().filter(|layer| layer.project.is_none());
            let due = walked.map(|layer| layer.due).min();
            let wake = due.map(|due| due.max(rested));
            match wake {
                _ if state.ended => return true,
                Some(wake) if wake <= time => return false,
                Some(wake) => {
                    let waited = self.changed.wait_timeout(state, wake - time);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// The project that a layer was given.
fn project_of(directory: &Path) -> Option<u32> {
    quota::project(directory).ok().filter(|project| *project >= PROJECTS_FROM)
}

/// What the file system counted of a project.
fn counted(directory: &Path, project: u32) -> Option<Usage> {
    let used = quota::usage(directory, project);
    let used =
        used.inspect_err(|e| tracing::debug!(error = %model::chain(e), "a writable layer's size")).ok()?;
    Some(Usage { bytes: used.bytes, inodes: used.inodes, at: now() })
}

/// What a small tree takes, now.
fn measure(directory: &Path) -> Result<Usage, SysError> {
    fs::symlink_metadata(directory).map_err(|e| SysError::path("stat", directory, e))?;
    let mut walk = Walk::new(directory.to_owned());
    while !walk.step(SLICE_ENTRIES).1 {}
    Ok(Usage { bytes: walk.bytes, inodes: walk.inodes, at: now() })
}

// === impl Walk ===

impl Walk {
    fn new(root: PathBuf) -> Self {
        let root_itself = fs::symlink_metadata(&root).map(|metadata| metadata.blocks() * 512);
        Self {
            bytes: root_itself.as_ref().copied().unwrap_or_default(),
            inodes: u64::from(root_itself.is_ok()),
            linked: HashSet::new(),
            waiting: vec![root],
            open: None,
            worked: Duration::ZERO,
        }
    }

    /// Looks at some entries; how many more it might have, and whether it came to the end.
    fn step(&mut self, mut budget: usize) -> (usize, bool) {
        while budget > 0 {
            let Some((path, entries)) = &mut self.open else {
                let Some(path) = self.waiting.pop() else { return (budget, true) };
                // A directory counts as one entry too, so that a tree of empty ones comes to an end of the slice.
                budget -= 1;
                self.open = fs::read_dir(&path).ok().map(|entries| (path, entries));
                continue;
            };
            let Some(entry) = entries.next() else {
                self.open = None;
                continue;
            };
            budget -= 1;
            let Some((entry, metadata)) =
                entry.ok().and_then(|entry| Some((entry.file_name(), entry.metadata().ok()?)))
            else {
                continue;
            };
            let again = !metadata.is_dir()
                && metadata.nlink() > 1
                && !self.linked.insert((metadata.dev(), metadata.ino()));
            if again {
                continue;
            }
            self.bytes += metadata.blocks() * 512;
            self.inodes += 1;
            if metadata.is_dir() {
                self.waiting.push(path.join(entry));
            }
        }
        (budget, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(20);

    fn container(n: u8) -> ContainerId {
        ContainerId::from_bytes([n; 32])
    }

    #[track_caller]
    fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_walk_in_slices_counts_what_one_walk_counts() {
        let dir = tempfile::tempdir().unwrap();
        for d in 0..5 {
            let deep = dir.path().join(format!("d{d}/deeper"));
            fs::create_dir_all(&deep).unwrap();
            for f in 0..20 {
                fs::write(deep.join(format!("f{f}")), vec![1; 5000]).unwrap();
            }
            fs::hard_link(deep.join("f0"), deep.join("again")).unwrap();
        }
        let whole = measure(dir.path()).unwrap();
        assert_eq!(whole.inodes, 1 + 5 * 2 + 5 * 20);
        assert!(whole.bytes >= 100 * 5000);
        for slice in [1, 7, 50] {
            let mut walk = Walk::new(dir.path().to_owned());
            while !walk.step(slice).1 {}
            assert_eq!((walk.bytes, walk.inodes), (whole.bytes, whole.inodes), "{slice} at a time");
        }
        assert!(measure(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn sizes_follow_the_layers_and_say_when() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::create_dir_all(&old).unwrap();
        fs::create_dir_all(&new).unwrap();
        fs::write(old.join("data"), vec![1; 100_000]).unwrap();
        let sizes = Sizes::new(PERIOD);
        sizes.enter(&container(1), &old, false);
        sizes.enter(&container(2), &new, true);
        let first = sizes.of(&container(2)).expect("a fresh layer's size is known at once");
        assert_eq!(first.inodes, 1);
        eventually("one of the last run is measured", || {
            sizes.of(&container(1)).is_some_and(|u| u.bytes >= 100_000)
        });
        fs::write(new.join("more"), vec![1; 50_000]).unwrap();
        eventually("growth is seen", || {
            sizes.of(&container(2)).is_some_and(|u| u.bytes >= 50_000 && u.at > first.at)
        });
        assert!(sizes.total().bytes >= 150_000);
        sizes.forget(&container(1));
        assert_eq!(sizes.of(&container(1)), None);
        assert!(sizes.total().bytes < 150_000);
    }

    #[test]
    fn a_large_layer_keeps_no_other_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let (large, small) = (dir.path().join("large"), dir.path().join("small"));
        fs::create_dir_all(&large).unwrap();
        fs::create_dir_all(&small).unwrap();
        for f in 0..30_000 {
            fs::write(large.join(f.to_string()), b"").unwrap();
        }
        let sizes = Sizes::new(PERIOD);
        sizes.enter(&container(1), &large, false);
        sizes.enter(&container(2), &small, false);
        eventually("the small one is measured", || sizes.of(&container(2)).is_some());
        assert!(sizes.of(&container(1)).is_none(), "before the large one is");
        eventually("the large one too", || sizes.of(&container(1)).is_some_and(|u| u.inodes == 30_001));
    }
}
