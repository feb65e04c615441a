//! What no file tells: system calls that are there or not, room on disks, sockets that answer, programs that speak.

use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::PidfdFlags;

use crate::runtimes::{self, Features};

/// The room of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    /// Bytes that root may still write.
    pub(super) free: u64,
    /// Of which others may not.
    pub(super) reserved: u64,
    /// Files that may still be made; `None` where there is no such number.
    pub(super) inodes: Option<u64>,
    /// Whether a directory says of what type its entries are; `None` where it has none to ask about.
    pub(super) tells_types: Option<bool>,
}

/// How a socket answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    /// The process that listens, where the kernel tells.
    pub(super) pid: Option<u32>,
}

/// What is asked of the system.
pub(super) trait Probe {
    /// Whether openat2(2) is there.
    fn openat2(&self) -> bool;
    /// Whether pidfd_open(2) is there.
    fn pidfd(&self) -> bool;
    /// Whether overlayfs takes its layers one by one; `Err` when that could not be tried.
    fn overlay_takes_many_layers(&self) -> Result<bool, String>;
    /// The room where a directory is.
    fn space(&self, directory: &Path) -> Result<Space, String>;
    /// Whether somebody listens on a socket.
    fn listener(&self, socket: &Path) -> Option<Listener>;
    /// The first line that a program prints to `--version`.
    fn version(&self, program: &Path) -> Result<String, String>;
    /// What an OCI runtime says that it can do.
    fn features(&self, program: &Path) -> Features;
    /// What a CNI plugin answers to VERSION.
    fn cni_versions(&self, program: &Path) -> Result<Vec<String>, String>;
}

/// This machine.
pub(super) struct System;

impl Probe for System {
    fn openat2(&self) -> bool {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let opened = rustix::fs::openat2(CWD, "/", flags, Mode::empty(), ResolveFlags::IN_ROOT);
        opened.err() != Some(Errno::NOSYS)
    }

    fn pidfd(&self) -> bool {
        let opened = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
        opened.err() != Some(Errno::NOSYS)
    }

    fn overlay_takes_many_layers(&self) -> Result<bool, String> {
        kernel::mount::overlay_takes_many_layers().map_err(|error| model::chain(&error))
    }

    fn space(&self, directory: &Path) -> Result<Space, String> {
        let stats = rustix::fs::statvfs(directory).map_err(|errno| errno.to_string())?;
        let bytes = |blocks: u64| blocks.saturating_mul(stats.f_frsize);
        Ok(Space {
            free: bytes(stats.f_bavail),
            reserved: bytes(stats.f_bfree.saturating_sub(stats.f_bavail)),
            // btrfs and some others have no fixed number of inodes and say 0.
            inodes: (stats.f_files > 0).then_some(stats.f_favail),
            tells_types: tells_types(directory),
        })
    }

    fn listener(&self, socket: &Path) -> Option<Listener> {
        let stream = UnixStream::connect(socket).ok()?;
        let pid = rustix::net::sockopt::socket_peercred(&stream).ok().map(|peer| peer.pid);
        Some(Listener { pid: pid.and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok()) })
    }

    fn version(&self, program: &Path) -> Result<String, String> {
        let text = runtimes::briefly(program, "--version")?;
        Ok(text.lines().next().unwrap_or_default().trim().to_owned())
    }

    fn features(&self, program: &Path) -> Features {
        runtimes::features(program)
    }

    fn cni_versions(&self, program: &Path) -> Result<Vec<String>, String> {
        // CNI 1.1.0, "VERSION": asked by the environment. Old plugins want the other variables too.
        let mut command = kernel::process::command(program);
        command
            .env_clear()
            .envs([
                ("CNI_COMMAND", "VERSION"),
                ("CNI_NETNS", "dummy"),
                ("CNI_IFNAME", "dummy"),
                ("CNI_PATH", "dummy"),
                ("CNI_CONTAINERID", "dummy"),
            ])
            .stdin(std::process::Stdio::null());
        let text = runtimes::answer(command)?;
        parse_versions(&text).ok_or_else(|| "its answer to VERSION is not understood".to_owned())
    }
}

/// overlayfs needs them (d_type): an xfs made with ftype=0 has them not.
fn tells_types(directory: &Path) -> Option<bool> {
    let handle =
        rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .ok()?;
    let entries = rustix::fs::Dir::read_from(handle).ok()?;
    let entry = entries.flatten().find(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))?;
    Some(entry.file_type() != FileType::Unknown)
}

fn parse_versions(text: &str) -> Option<Vec<String>> {
    let answer: serde_json::Value = serde_json::from_str(text).ok()?;
    let list = answer.get("supportedVersions")?.as_array()?;
    Some(list.iter().filter_map(|version| version.as_str().map(str::to_owned)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_plugins_are_read() {
        let text = r#"{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}"#;
        assert_eq!(parse_versions(text), Some(vec!["0.4.0".to_owned(), "1.0.0".to_owned()]));
        assert_eq!(parse_versions("{}"), None);
    }
}
