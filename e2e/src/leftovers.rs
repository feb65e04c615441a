//! What is still on a machine that should be gone: the promise of a runtime that cleans up, looked at from
//! outside.
//!
//! Each kind of thing is one function that lists what is there; a node asserts that all lists are empty when
//! its pods are removed. Nothing here asks the service.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::machine::{self, Machine};

/// A process that should not be there.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its command line, or its name when it has none.
    pub command: String,
}

/// Processes in the machine's cgroups or in its mount namespace, less `spared`; and the first processes of its pods' PID
/// namespaces, which have an empty root and outlive a killed shim.
pub fn processes(number: u8, spared: &[u32]) -> Vec<Process> {
    let group = format!("/{}", machine::cgroup_of(number));
    let mark = format!("{number}\n");
    let dir = format!("{}/", machine::dir_of(number).display());
    let ours = |pid: u32| {
        let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let in_group = of("cgroup").lines().any(|line| {
            let path = line.splitn(3, ':').nth(2).unwrap_or_default();
            path == group || path.starts_with(&format!("{group}/"))
        });
        let is_pid_one = || of("comm") == "gantline-init\n" && of("cmdline").contains(&dir);
        in_group || of("root/run/gantline-e2e") == mark || is_pid_one()
    };
    pids().filter(|pid| !spared.contains(pid) && ours(*pid)).map(describe).collect()
}

/// Living processes of the host, in no test's machine, whose program's name begins with `name`; as `pid command`.
pub fn named_on_the_host(name: &str) -> Vec<String> {
    let ours = |pid: &u32| {
        let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let command = of("cmdline");
        let program = command.split('\0').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        let named = of("comm").starts_with(name) || program.starts_with(name);
        named && !of("status").contains("State:\tZ") && of("root/run/gantline-e2e").is_empty()
    };
    pids().filter(ours).map(describe).map(|process| format!("{} {}", process.pid, process.command)).collect()
}

/// cgroups that units made on the host, in every hierarchy; those of the tests' machines are
/// [`forgotten`](crate::machine::forgotten)'s to find.
pub fn test_cgroups() -> Vec<String> {
    let mut found = Vec::new();
    for hierarchy in hierarchies(std::process::id()) {
        below(&hierarchy, &mut found);
    }
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let ours = |path: &PathBuf| {
        let of_a_machine = path.components().any(|part| {
            let part = part.as_os_str().to_string_lossy();
            part.starts_with("gantline-e2e-") || part.starts_with("gantline_e2e_")
        });
        !of_a_machine && name(path).is_some_and(|name| name.contains("gantline"))
    };
    let shown = |path: PathBuf| match path.strip_prefix(format!("/proc/{}/root", std::process::id())) {
        Ok(inside) => format!("/{}", inside.display()),
        Err(_) => path.display().to_string(),
    };
    found.into_iter().filter(ours).map(shown).collect()
}

/// Processes without a parent's `wait`, children of `parent`.
pub fn zombies_of(parent: u32) -> Vec<Process> {
    let is_zombie = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains(&format!("PPid:\t{parent}\n")) && status.contains("State:\tZ")
    };
    pids().filter(is_zombie).map(describe).collect()
}

/// Direct children of this very process: what the harness itself started.
pub fn own_children() -> Vec<u32> {
    let own = format!("PPid:\t{}\n", std::process::id());
    pids()
        .filter(|pid| fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|s| s.contains(&own)))
        .collect()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn describe(pid: u32) -> Process {
    let of = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let mut command = String::from_utf8_lossy(&of("cmdline")).replace('\0', " ");
    if command.is_empty() {
        command = format!("[{}]", String::from_utf8_lossy(&of("comm")).trim());
    }
    Process { pid, command }
}

/// The machine's cgroups in every hierarchy that its `holder` process has mounted, deepest first; its own
/// parent among them when `with_parent`.
pub fn cgroups(number: u8, holder: u32, with_parent: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies(holder) {
        let parent = hierarchy.join(machine::cgroup_of(number));
        if parent.is_dir() {
            below(&parent, &mut found);
            if with_parent {
                found.push(parent);
            }
        }
    }
    found
}

/// The mount points of every cgroup hierarchy, v1 and v2, that a process has, as paths for this one.
fn hierarchies(of: u32) -> BTreeSet<PathBuf> {
    let table = fs::read_to_string(format!("/proc/{of}/mountinfo")).unwrap_or_default();
    let is_cgroup = |line: &&str| {
        line.split_once(" - ")
            .is_some_and(|(_, rest)| rest.starts_with("cgroup ") || rest.starts_with("cgroup2 "))
    };
    let points = table.lines().filter(is_cgroup).filter_map(|line| line.split(' ').nth(4));
    points.map(|point| PathBuf::from(format!("/proc/{of}/root{point}"))).collect()
}

fn below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below(&entry.path(), found);
            found.push(entry.path());
        }
    }
}

/// The mounts inside the machine, as `mount point (type)`, in their order.
pub fn mounts(machine: &Machine) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/{}/mountinfo", machine.holder())).unwrap_or_default();
    let show = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        Some(format!("{} ({})", left.split(' ').nth(4)?, right.split(' ').next()?))
    };
    table.lines().filter_map(show).collect()
}

/// Network devices other than `lo` and the bridges, which the reference bridge plugin leaves for the next
/// pod.
pub fn links(machine: &Machine) -> Vec<String> {
    let all = machine.sh("ip -o link show");
    let bridges = machine.sh("ip -o link show type bridge");
    let kept = |line: &&str| !line.contains(": lo:") && !bridges.contains(*line);
    all.lines().filter(kept).map(str::to_string).collect()
}

/// Packet filter rules that name an address of a pod or a pod's chain. The portmap plugin's three top-level
/// chains stay, empty, as it means them to.
pub fn rules(machine: &Machine) -> Vec<String> {
    let subnet = format!("{}.", machine.subnet());
    let saved = machine.sh("iptables-save; nft list ruleset 2>/dev/null");
    let owed = |line: &&str| {
        let of_a_pod = line.contains(&subnet) || line.contains("CNI-DN-") || line.contains("CNI-SN-");
        let a_chain = line.starts_with(":CNI-") && !line.starts_with(":CNI-HOSTPORT-");
        (of_a_pod && !line.trim_start().starts_with('#')) || a_chain
    };
    saved.lines().filter(owed).map(|line| line.trim().to_string()).collect()
}

/// Entries of a directory (empty when it is absent), less `kept`.
pub fn entries(dir: &Path, kept: &[&str]) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| !kept.contains(&name.as_str()))
        .map(|name| dir.join(name).display().to_string())
        .collect()
}

/// Addresses that the host-local plugin holds reserved, under its data directory.
pub fn reservations(data: &Path) -> Vec<String> {
    let networks = fs::read_dir(data).into_iter().flatten().flatten();
    let of = |network: PathBuf| entries(&network, &["lock", "last_reserved_ip.0", "last_reserved_ip.1"]);
    networks.flat_map(|network| of(network.path())).collect()
}
