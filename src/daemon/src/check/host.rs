//! The rest of the host: space, mounts, and who else runs containers here.

use std::os::unix::net::UnixStream;
use std::path::Path;

use kernel::mount::Propagation;

use super::Report;
use crate::config::Config;
use crate::ui;

/// Below this a node cannot even hold the images of its own system pods.
const FREE_BYTES_MIN: u64 = 5 << 30;
const FREE_INODES_MIN: u64 = 100_000;

/// Other runtimes' CRI sockets.
const OTHERS: [(&str, &str); 3] = [
    ("containerd", "/run/containerd/containerd.sock"),
    ("CRI-O", "/run/crio/crio.sock"),
    ("cri-dockerd", "/run/cri-dockerd.sock"),
];

pub(super) fn check(config: &Config, report: &mut Report) {
    space(&config.root, report);
    match kernel::mount::propagation(Path::new("/")) {
        Ok(Propagation::Shared) => report.ok("mounts", "/ is a shared mount"),
        Ok(_) => report.warn(
            "mounts",
            "/ is not a shared mount",
            "the kubelet and pods with mount propagation need it: mount --make-rshared /",
        ),
        Err(error) => report.warn("mounts", model::chain(&error), "mount /proc"),
    }
    for (name, socket) in OTHERS {
        if UnixStream::connect(socket).is_ok() {
            report.warn(
                "other runtimes",
                format!("{name} answers at {socket}"),
                "both can run side by side, but a kubelet speaks to one: check its containerRuntimeEndpoint",
            );
        }
    }
    if UnixStream::connect(config.socket()).is_ok() {
        report.ok("service", format!("a service answers at {}", config.socket().display()));
    }
}

/// The nearest directory that exists: the root itself may not have been made yet.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"))
}

fn space(root: &Path, report: &mut Report) {
    let subject = "storage";
    let directory = existing(root);
    let stats = match rustix::fs::statvfs(directory) {
        Ok(stats) => stats,
        Err(errno) => {
            report.fail(
                subject,
                format!("{}: {errno}", directory.display()),
                "choose another root directory",
            );
            return;
        }
    };
    let free = stats.f_bavail.saturating_mul(stats.f_frsize);
    let found = format!("{} free for {}", ui::bytes(free), root.display());
    if free < FREE_BYTES_MIN {
        report.warn(subject, found, "images will not fit: make room, or put root on a larger file system");
    // btrfs and some others have no fixed number of inodes and say 0.
    } else if stats.f_files > 0 && stats.f_favail < FREE_INODES_MIN {
        report.warn(
            subject,
            format!("{found}, but {} inodes", stats.f_favail),
            "make room: an image has tens of thousands of files",
        );
    } else {
        report.ok(subject, found);
    }
    if let Ok(mount) = kernel::mount::holding(directory)
        && matches!(mount.file_system.as_str(), "overlay" | "nfs" | "nfs4" | "tmpfs" | "ramfs")
    {
        report.warn(
            subject,
            format!("{} is on {}", root.display(), mount.file_system),
            "put root on a local disk (ext4, xfs, btrfs): overlayfs cannot use some file systems below its upper \
             layer, and records must survive a reboot",
        );
    }
}
