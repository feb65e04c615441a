//! Whether this node can run pods now: tried again and again, not assumed (CRI RuntimeReady).
//!
//! Off the path of every request: what was found last is told at once, with its age. Whatever a part hangs on, the
//! others are looked at, and no second attempt piles up behind one that has not come back.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kernel::clock::now;
use kernel::disk;
use model::UnixNanos;
use model::limits::{DISK_RESERVE_BYTES, DISK_RESERVE_INODES};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::Pods;
use crate::driver::Host;

/// How often all is tried while it is well.
const PERIOD: Duration = Duration::from_secs(10);
/// And while it is not.
const PERIOD_FAILING: Duration = Duration::from_secs(3);
/// How long one part may take.
const PART_MAX: Duration = Duration::from_secs(10);
/// The group that is made and removed, below the hierarchies' roots.
const CGROUP: &str = "gantline-probe";

/// What running a pod takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The store of records takes a durable commit.
    Store,
    /// A shim's program runs.
    Shim,
    /// A cgroup can be made and removed.
    Cgroup,
    /// The file systems of the root and state directories have their reserve.
    Disk,
}

impl Part {
    /// What a condition's reason says when it fails.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Store => "StoreNotWritable",
            Self::Shim => "ShimDoesNotStart",
            Self::Cgroup => "CgroupCannotBeMade",
            Self::Disk => "DiskReserveUsedUp",
        }
    }
}

/// A part that failed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Which.
    pub part: Part,
    /// Why, for a person.
    pub why: String,
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.part.reason(), self.why)
    }
}

/// What was found out last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// When.
    pub at: UnixNanos,
    /// How long ago.
    pub age: Duration,
    /// What it took.
    pub took: Duration,
    /// What failed; nothing: pods can be run.
    pub failing: Vec<Failing>,
}

/// What was found out last, and when.
#[derive(Debug, Default)]
pub(crate) struct Prober(Mutex<Option<Found>>);

#[derive(Clone, Debug)]
struct Found {
    at: UnixNanos,
    ended: Instant,
    took: Duration,
    failing: Vec<Failing>,
}

impl Prober {
    fn found(&self) -> MutexGuard<'_, Option<Found>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pods {
    /// Whether pods can be run, as was last found out; `None`: the first attempt is under way.
    pub fn health(&self) -> Option<Health> {
        let found = self.host.prober.found().clone()?;
        Some(Health { at: found.at, age: found.ended.elapsed(), took: found.took, failing: found.failing })
    }
}

/// Tries all parts from now on, as long as there is a host.
pub(crate) fn keep_probing(host: &Arc<Host>) {
    let host = Arc::downgrade(host);
    tokio::spawn(async move {
        let mut attempts = Attempts::default();
        loop {
            let Some(host) = host.upgrade() else { return };
            let failing = attempts.all(&host).await;
            let period = if failing { PERIOD_FAILING } else { PERIOD };
            drop(host);
            tokio::time::sleep(period).await;
        }
    });
}

/// An attempt that has not come back.
type Pending = Option<JoinHandle<Result<(), String>>>;

#[derive(Default)]
struct Attempts {
    store: Pending,
    shim: Pending,
    cgroup: Pending,
    disk: Pending,
}

impl Attempts {
    /// Tries all parts at once, and keeps what came of it; whether something failed.
    async fn all(&mut self, host: &Arc<Host>) -> bool {
        let (at, began) = (now(), Instant::now());
        let (store, shim, cgroup, disk) = tokio::join!(
            attempt(&mut self.store, blocking(host, |host| host.records.probe().map_err(told))),
            attempt(&mut self.shim, || {
                let host = Arc::clone(host);
                tokio::spawn(async move { host.sandboxes.shims.probe().await.map_err(told) })
            }),
            attempt(&mut self.cgroup, blocking(host, make_a_cgroup)),
            attempt(
                &mut self.disk,
                blocking(host, |host| {
                    let config = &host.sandboxes.config;
                    disk_has_reserve(&[&config.root, &config.state])
                })
            ),
        );
        let parts = [(Part::Store, store), (Part::Shim, shim), (Part::Cgroup, cgroup), (Part::Disk, disk)];
        let failing: Vec<Failing> =
            parts.into_iter().filter_map(|(part, tried)| Some(Failing { part, why: tried.err()? })).collect();
        let mut found = host.prober.found();
        let before = found.as_ref().map(|found| found.failing.clone()).unwrap_or_default();
        if failing != before {
            tell(&failing);
        }
        let failed = !failing.is_empty();
        *found = Some(Found { at, ended: Instant::now(), took: began.elapsed(), failing });
        failed
    }
}

fn tell(failing: &[Failing]) {
    if failing.is_empty() {
        info!("pods can be run again");
    }
    for failing in failing {
        warn!(error = %failing, "pods cannot be run");
    }
}

fn told<E: std::error::Error>(error: E) -> String {
    model::chain(&error)
}

/// Begins an attempt on the blocking pool.
fn blocking(
    host: &Arc<Host>,
    work: impl FnOnce(&Host) -> Result<(), String> + Send + 'static,
) -> impl FnOnce() -> JoinHandle<Result<(), String>> {
    let host = Arc::clone(host);
    move || tokio::task::spawn_blocking(move || work(&host))
}

/// Waits for the attempt under way, or for a new one where there is none.
async fn attempt(
    pending: &mut Pending,
    begin: impl FnOnce() -> JoinHandle<Result<(), String>>,
) -> Result<(), String> {
    let under_way = pending.get_or_insert_with(begin);
    match tokio::time::timeout(PART_MAX, under_way).await {
        Ok(came_back) => {
            *pending = None;
            came_back.unwrap_or_else(|_| Err("the attempt broke off".to_owned()))
        }
        Err(_) => Err(format!("no answer within {} s", PART_MAX.as_secs())),
    }
}

fn make_a_cgroup(host: &Host) -> Result<(), String> {
    // With systemd too: it leaves a group alone that it does not know, and this one is there for a moment.
    let group = host.hierarchy.group(CGROUP);
    // One that a killed service left is as good, and goes now.
    group.create().and_then(|()| group.remove_if_empty()).map_err(told)
}

fn disk_has_reserve(directories: &[&PathBuf]) -> Result<(), String> {
    for directory in directories {
        let free = disk::free(directory).map_err(told)?;
        if free.bytes < DISK_RESERVE_BYTES || free.inodes < DISK_RESERVE_INODES {
            return Err(format!(
                "{} has {} bytes and {} inodes left; {DISK_RESERVE_BYTES} and {DISK_RESERVE_INODES} are needed to \
                 write records and to clear away",
                directory.display(),
                free.bytes,
                free.inodes,
            ));
        }
    }
    Ok(())
}
