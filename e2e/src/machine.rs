//! A machine of one's own: a mount, a network and an IPC namespace held open by a child, a directory, a cgroup
//! parent.
//!
//! Its `/` is a shared mount as a real node's is, its `/run` is empty, its network has only `lo`, and its
//! number makes its subnet. What runs in it is started with `nsenter`. The child that holds the namespaces
//! open reads a pipe whose other end is ours: however the harness ends, the namespaces go. What namespaces do
//! not take along (processes, cgroups, the directory) is removed on drop; and whatever a killed harness left,
//! the next one sweeps, for the lock of a dead one's machine is free.

use std::fs::{self, File, TryLockError};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::command::command;
use crate::leftovers;

/// Where the machines' directories and locks are.
const BASE: &str = "/var/tmp/gantline-e2e";

/// More machines at once than any test run makes; each number is the third byte of a subnet.
const MACHINES_MAX: u8 = 250;

/// What makes the namespaces a machine. crun refuses a hybrid cgroup layout whose v2 hierarchy holds a
/// controller: where that is hugetlb alone, mounting its v1 hierarchy takes it away from there.
/// Where systemd runs the host, its sockets and its bus's stay where OCI runtimes look for them.
const BOOT: &str = r#"
set -e
mkdir -p "$1/run"
mount -t tmpfs -o mode=755 tmpfs "$1/run"
if [ -d /run/systemd/system ]; then
    mkdir "$1/run/systemd" "$1/run/dbus"
    mount --bind /run/systemd "$1/run/systemd"
    mount --bind /run/dbus "$1/run/dbus"
fi
mount -n --move "$1/run" /run
mount --make-rshared /
echo "$0" > /run/gantline-e2e
ip link set lo up
unified=/sys/fs/cgroup/unified/cgroup.controllers
if [ -e $unified ] && grep -q hugetlb $unified; then
    mkdir -p /sys/fs/cgroup/hugetlb
    mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb
elif [ -d /sys/fs/cgroup/hugetlb ] && ! mountpoint -q /sys/fs/cgroup/hugetlb && [ -d /sys/fs/cgroup/memory ]; then
    mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb
fi
echo up
exec cat >/dev/null
"#;

/// One made-up node's namespaces and directory. Dropping it removes everything in it.
#[derive(Debug)]
pub struct Machine {
    /// Its number, unique among the machines alive.
    pub number: u8,
    holder: Child,
    lock: File,
}

/// Whether this host has cgroup v2 alone (cgroups(7)), and not v1 with or without it.
pub fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

impl Machine {
    /// A new machine. Under another user than root this says so and ends the test program: nothing here can
    /// run. Where all tests must run (`GANTLINE_TESTS_MUST_RUN`), that is a panic.
    #[track_caller]
    #[allow(clippy::print_stderr)]
    pub fn boot() -> Self {
        if !rustix::process::geteuid().is_root() {
            let why = "namespaces, mounts and cgroups need root";
            assert!(std::env::var_os("GANTLINE_TESTS_MUST_RUN").is_none(), "this test must run: {why}");
            eprintln!("skipped: {why}");
            std::process::exit(0);
        }
        fs::create_dir_all(BASE).expect("make the harness's directory");
        let (number, lock) = Self::claim();
        fs::create_dir_all(dir_of(number)).expect("make the machine's directory");
        let mut holder = command("unshare")
            .args(["--mount", "--net", "--ipc", "--propagation", "private", "sh", "-c", BOOT])
            .arg(number.to_string())
            .arg(dir_of(number))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start unshare (util-linux)");
        let mut word = String::new();
        if let Some(stdout) = holder.stdout.take() {
            BufReader::new(stdout).read_line(&mut word).expect("hear from the machine's holder");
        }
        assert_eq!(word, "up\n", "the machine did not come up; its complaint is above");
        // Of a killed harness whose machine had this number: some hierarchies are only mounted inside.
        remove_groups(number, holder.id());
        Self { number, holder, lock }
    }

    /// Takes the first free number, sweeping what a dead harness left of it and of every other free one.
    fn claim() -> (u8, File) {
        let mut claimed = None;
        for number in 1..=MACHINES_MAX {
            let used_before = lock_path(number).exists() || dir_of(number).exists();
            if claimed.is_some() && !used_before {
                continue;
            }
            let Some(lock) = try_claim(number) else { continue };
            if used_before {
                remove_all(number);
            }
            if claimed.is_none() {
                claimed = Some((number, lock));
            } else {
                release(number);
            }
        }
        claimed.expect("a free machine number: 250 are in use")
    }

    /// The machine's own directory, on disk, the same inside and outside.
    pub fn dir(&self) -> PathBuf {
        dir_of(self.number)
    }

    /// Where `inside` (an absolute path in the machine's mount namespace) is for the harness.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(inside.as_ref().strip_prefix("/").expect("an absolute path"))
    }

    /// A command that will run inside the machine.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = command("nsenter");
        let ns = format!("/proc/{}/ns", self.holder.id());
        command.args(
            [("mount", "mnt"), ("net", "net"), ("ipc", "ipc")]
                .map(|(flag, file)| format!("--{flag}={ns}/{file}")),
        );
        command.arg(program.as_ref());
        command
    }

    /// Runs a shell line inside the machine; panics with what it said when it fails.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        crate::command::run(self.command("/bin/sh").args(["-c", line])).ok()
    }

    /// Runs `work` on a thread of its own in the machine's network namespace; sockets made there stay in it,
    /// and so do threads that it starts.
    #[track_caller]
    pub fn on_its_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let ns = File::open(format!("/proc/{}/ns/net", self.holder.id())).expect("open the machine's netns");
        let inside = || {
            use std::os::fd::AsFd as _;
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(ns.as_fd(), kind).expect("enter the machine's netns");
            work()
        };
        match std::thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The cgroup under which all its pods live, as CRI's `cgroup_parent`.
    pub fn cgroup_parent(&self) -> String {
        format!("/{}", cgroup_of(self.number))
    }

    /// A `cgroup_parent` below that for one pod alone, named as the kubelet names them under either driver.
    pub fn cgroup_parent_of(&self, pod: &str) -> String {
        let parent = self.cgroup_parent();
        match parent.strip_suffix(".slice") {
            Some(stem) => {
                let pod = pod.replace('-', "_");
                format!("{parent}{stem}-burstable.slice{stem}-burstable-pod{pod}.slice")
            }
            None => format!("{parent}/burstable/pod{pod}"),
        }
    }

    /// The first three bytes of its pods' subnet, as `10.88.7`.
    pub fn subnet(&self) -> String {
        format!("10.88.{}", self.number)
    }

    /// The process that holds its namespaces open.
    pub(crate) fn holder(&self) -> u32 {
        self.holder.id()
    }
}

/// Numbers of machines that nobody living holds and that yet left a directory, a process or a cgroup.
pub fn forgotten() -> Vec<u8> {
    let is_forgotten = |number: &u8| {
        let there = dir_of(*number).exists()
            || !leftovers::cgroups(*number, std::process::id(), true).is_empty()
            || !leftovers::processes(*number, &[]).is_empty();
        // Only what is there is worth the lock; a living one's lock is taken.
        there && (!Path::new(BASE).exists() || try_claim(*number).is_some())
    };
    (1..=MACHINES_MAX).filter(is_forgotten).collect()
}

impl Drop for Machine {
    fn drop(&mut self) {
        kill_all(self.number, &[self.holder.id()]);
        remove_groups(self.number, self.holder.id());
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        remove_all(self.number);
        release(self.number);
        let _ = self.lock.unlock();
    }
}

/// Where a machine's files are, on the host and inside.
pub(crate) fn dir_of(number: u8) -> PathBuf {
    Path::new(BASE).join(number.to_string())
}

fn lock_path(number: u8) -> PathBuf {
    Path::new(BASE).join(format!("{number}.lock"))
}

/// The name of the machine's cgroup, in every hierarchy.
pub(crate) fn cgroup_of(number: u8) -> String {
    // `-` in a slice's name would be a slice above it.
    if systemd_driver() { format!("gantline_e2e_{number}.slice") } else { format!("gantline-e2e-{number}") }
}

/// Whether nodes use the systemd cgroup driver: `GANTLINE_E2E_CGROUP_DRIVER=systemd`, where systemd runs the host.
pub fn systemd_driver() -> bool {
    std::env::var("GANTLINE_E2E_CGROUP_DRIVER").is_ok_and(|driver| driver == "systemd")
}

/// The lock of a number, when nobody living holds it.
fn try_claim(number: u8) -> Option<File> {
    // The last one out may have taken it along a moment ago.
    fs::create_dir_all(BASE).ok()?;
    let lock = File::options().create(true).truncate(false).write(true).open(lock_path(number)).ok()?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return None,
        Err(TryLockError::Error(error)) => panic!("lock machine {number}: {error}"),
    }
    // Another may have removed the file between our open and our lock: then the lock is worth nothing.
    let same = fs::metadata(lock_path(number))
        .is_ok_and(|now| lock.metadata().is_ok_and(|own| own.ino() == now.ino()));
    same.then_some(lock)
}

fn release(number: u8) {
    let _ = fs::remove_file(lock_path(number));
    // The last one out takes the directory along.
    let _ = fs::remove_dir(BASE);
}

/// Kills whatever runs in the machine's cgroups or in its mount namespace.
fn kill_all(number: u8, spared: &[u32]) {
    for _ in 0..1000 {
        let left = leftovers::processes(number, spared);
        if left.is_empty() {
            return;
        }
        for process in left {
            if let Some(pid) = i32::try_from(process.pid).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn remove_groups(number: u8, holder: u32) {
    // A slice whose directory is removed behind systemd's back comes back; it is there for units of ours alone.
    if systemd_driver() && !leftovers::cgroups(number, holder, true).is_empty() {
        let _ = command("systemctl").args(["stop", &cgroup_of(number)]).status();
    }
    for group in leftovers::cgroups(number, holder, true) {
        for _ in 0..100 {
            if !group.exists() || fs::remove_dir(&group).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn remove_all(number: u8) {
    kill_all(number, &[]);
    remove_groups(number, std::process::id());
    let _ = fs::remove_dir_all(dir_of(number));
}
