//! oom_score_adj of a group's processes: the kernel keeps it for each process, and children inherit it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::SysError;

/// How often a group is looked at again for processes that others have forked meanwhile.
const ROUNDS_MAX: usize = 100;

fn file(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/oom_score_adj"))
}

/// A process's value; `None` for one that is gone.
fn of(pid: u32) -> Result<Option<i32>, SysError> {
    match fs::read_to_string(file(pid)) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(SysError::path("read", file(pid), error)),
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Gives a process this value; one that is gone needs none.
///
/// # Errors
/// The kernel refused it: lowering takes CAP_SYS_RESOURCE.
pub fn set(pid: u32, adj: i32) -> Result<(), SysError> {
    match fs::write(file(pid), adj.to_string()) {
        Err(error) if !is_gone(&error) => Err(SysError::path("write", file(pid), error)),
        _ => Ok(()),
    }
}

pub(super) fn read(pids: &BTreeSet<u32>) -> Result<BTreeMap<u32, i32>, SysError> {
    let mut values = BTreeMap::new();
    for pid in pids {
        if let Some(value) = of(*pid)? {
            values.insert(*pid, value);
        }
    }
    Ok(values)
}

/// Until a whole round finds nobody who has another value.
pub(super) fn set_all(pids: impl Fn() -> Result<BTreeSet<u32>, SysError>, adj: i32) -> Result<(), SysError> {
    for _ in 0..ROUNDS_MAX {
        let others = read(&pids()?)?.into_iter().filter(|(_, value)| *value != adj);
        let others: Vec<u32> = others.map(|(pid, _)| pid).collect();
        if others.is_empty() {
            return Ok(());
        }
        others.into_iter().try_for_each(|pid| set(pid, adj))?;
    }
    let why = io::Error::other(format!("processes appear after {ROUNDS_MAX} rounds"));
    Err(SysError::named("write", "oom_score_adj of a whole cgroup", why))
}
