//! Everything that a process has started, found in the process table.

use std::collections::BTreeSet;

use kernel::enter::Mark;
use kernel::pidfd::{SIGKILL, SIGSTOP};
use kernel::process::{self, Process};

/// Passes over the process table before what forks faster than it is killed is left to the next call.
const PASSES_MAX: usize = 8;

/// Kills `roots` and all that they have started. What it found is added to `roots`, so that a later call
/// still knows the sessions and groups of those that are dead by then.
///
/// What has left by a double fork belongs to the container's pid 1 by now; it is found where it carries the `mark`.
pub(crate) fn kill(roots: &mut BTreeSet<u32>, mark: Option<&Mark>) {
    let table = || process::table().unwrap_or_default();
    // First they are stopped, and the table is read again until it shows nobody new: what one of them forked
    // before it stopped is found, and a stopped one forks no more.
    let mut stopped = BTreeSet::new();
    for _ in 0..PASSES_MAX {
        let table = table();
        if let Some(mark) = mark {
            roots.extend(table.iter().map(|process| process.pid).filter(|pid| mark.is_on(*pid)));
        }
        let members = members(&table, roots);
        roots.extend(&members);
        let new: Vec<u32> = members.difference(&stopped).copied().collect();
        if new.is_empty() {
            break;
        }
        for pid in new {
            let _ = kernel::pidfd::signal(pid, SIGSTOP);
            stopped.insert(pid);
        }
    }
    for process in table() {
        if roots.contains(&process.pid) && !process.zombie {
            let _ = kernel::pidfd::signal(process.pid, SIGKILL);
        }
    }
}

/// Descendants of the roots, and whoever is in a session or group that one of them leads.
fn members(table: &[Process], roots: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut members = roots.clone();
    loop {
        let before = members.len();
        for process in table {
            if [process.parent, process.group, process.session].iter().any(|id| members.contains(id)) {
                members.insert(process.pid);
            }
        }
        if members.len() == before {
            return members;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, group: u32, session: u32) -> Process {
        Process { pid, parent, group, session, zombie: false }
    }

    #[test]
    fn children_groups_and_sessions_belong_and_others_do_not() {
        let table = [
            process(1, 0, 1, 1),
            process(10, 1, 10, 10),
            process(12, 11, 10, 10),
            process(11, 10, 10, 10),
            // Its parent died, its session is the tree's.
            process(13, 1, 13, 10),
            // A daemon of one that is in the tree.
            process(14, 12, 14, 14),
            process(15, 14, 15, 15),
            process(20, 1, 20, 20),
        ];
        let found = members(&table, &BTreeSet::from([10]));
        assert_eq!(found, BTreeSet::from([10, 11, 12, 13, 14, 15]));
    }
}
