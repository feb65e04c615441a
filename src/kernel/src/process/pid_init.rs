//! The first process of a PID namespace (pid_namespaces(7)) that a pod's containers share.
//!
//! It only reaps. It ignores what containers send it, lives until it is killed from outside, and holds nothing of the
//! host's that a container could reach through `/proc/1`: no open file, and an empty file system for its root.

use std::convert::Infallible;
use std::io::{self, PipeWriter, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::WaitOptions;
use rustix::thread::{Gid, LinkNameSpaceType, Uid, UnshareFlags};

use super::{Fork, fork, reap, to_pid};
use crate::SysError;

/// Makes a PID namespace whose pid 1 is a descendant of this process, and its child in the end. Returns its id on the
/// host. This process stays where it is, and must be a subreaper ([`super::become_subreaper`]). For a process of one
/// thread only.
///
/// With `user`, a pinned user namespace, that one owns the new one, and pid 1 is its user 0. `root` is a directory: the
/// empty file system is mounted on it, where nobody but pid 1 sees it.
///
/// # Errors
/// The system call that failed; no process is left then.
pub fn spawn_pid_init(user: Option<&Path>, root: &Path) -> Result<u32, SysError> {
    let (mut read, mut write) = io::pipe().map_err(|e| SysError::bare("pipe2", e))?;
    // A process between this one and pid 1 enters the namespaces, from which there is no way back.
    let between = match fork()? {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            let Err(error) = enter_and_fork(user, root, &mut write);
            say(&mut write, &format!("{error}: {}", error.source));
            exit()
        }
    };
    drop(write);
    let mut said = String::new();
    let heard = read.read_to_string(&mut said);
    if let Some(between) = to_pid(between) {
        let _ = rustix::process::waitpid(Some(between), WaitOptions::empty());
    }
    let pid = said.lines().find_map(|line| line.strip_prefix(PID)?.parse().ok());
    match (pid, said.lines().any(|line| line == READY)) {
        (Some(pid), true) => Ok(pid),
        (pid, _) => {
            if let Some(pid) = pid {
                let _ = crate::pidfd::signal(pid, libc::SIGKILL);
                reap(pid);
            }
            let words = said.lines().find(|line| !line.starts_with(PID)).unwrap_or("it died").to_owned();
            let why = heard.err().unwrap_or_else(|| io::Error::other(words));
            Err(SysError::named("start", "pid 1 of a PID namespace", why))
        }
    }
}

/// Begins the line that tells pid 1's number.
const PID: &str = "pid ";
/// The line of a pid 1 that is what it should be.
const READY: &str = "ready";

fn say(pipe: &mut PipeWriter, line: &str) {
    let _ = pipe.write_all(format!("{line}\n").as_bytes());
}

fn exit() -> ! {
    // SAFETY: ends a forked process without running what its parent has registered for its own end.
    unsafe { libc::_exit(0) }
}

/// The process between: returns only if it fails.
fn enter_and_fork(user: Option<&Path>, root: &Path, pipe: &mut PipeWriter) -> Result<Infallible, SysError> {
    if let Some(user) = user {
        become_root_of(user)?;
    }
    // SAFETY: a new PID namespace for children changes nothing that this process's memory or files depend on.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }
        .map_err(|e| SysError::named("unshare", "a PID namespace", e))?;
    match fork()? {
        Fork::Parent(pid) => say(pipe, &format!("{PID}{pid}")),
        Fork::Child => match empty_root(root) {
            Ok(()) => be_pid_one(pipe),
            Err(error) => say(pipe, &format!("{error}: {}", error.source)),
        },
    }
    exit()
}

fn become_root_of(user: &Path) -> Result<(), SysError> {
    let namespace = rustix::fs::open(user, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::path("open namespace", user, e))?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))
        .map_err(|e| SysError::path("enter namespace", user, e))?;
    rustix::thread::set_thread_groups(&[])
        .and_then(|()| rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT))
        .and_then(|()| rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT))
        .map_err(|e| SysError::path("become user 0 of", user, e))
}

/// Puts an empty file system in the place of everything. A chroot(2) would not do: who may follow `/proc/1/root` leaves
/// it by `..`.
fn empty_root(place: &Path) -> Result<(), SysError> {
    let failed = |call| move |e: Errno| SysError::path(call, place, e);
    // SAFETY: a mount namespace of this process's own, which has one thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
        .map_err(|e| SysError::named("unshare", "a mount namespace", e))?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("make private all mounts before mounting"))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", place, "tmpfs", flags, Some(c"size=4k,nr_inodes=1,mode=555"))
        .map_err(failed("mount tmpfs"))?;
    rustix::process::chdir(place).map_err(failed("chdir"))?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed("umount2 above"))?,
        // The root is the kernel's first one (an initramfs), which stays: it is covered.
        Err(Errno::INVAL) => rustix::mount::mount_move(".", "/")
            .and_then(|()| rustix::process::chroot("."))
            .map_err(failed("move to /"))?,
        Err(e) => return Err(failed("pivot_root")(e)),
    }
    rustix::process::chdir("/").map_err(failed("chdir"))
}

fn be_pid_one(pipe: &mut PipeWriter) -> ! {
    // The kernel reaps at once the children of a process that ignores SIGCHLD, orphans included; and it
    // drops every other signal from inside the namespace, for which pid 1 has no handler.
    // SAFETY: ignoring a signal installs no code.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let _ = rustix::thread::set_name(c"gantline-init");
    say(pipe, READY);
    // Nothing of the parent's stays open here: a listening socket would outlive it.
    // SAFETY: this process owns all its descriptors and never uses one again.
    unsafe { libc::syscall(libc::SYS_close_range, 0_u32, u32::MAX, 0_u32) };
    loop {
        rustix::event::pause();
    }
}
