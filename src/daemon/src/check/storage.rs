//! Where images and records will lie: room, files, and a file system that overlayfs can use.

use std::path::Path;

use super::probe::Space;
use super::{Host, Report};
use crate::ui;

/// Below this a node cannot even hold the images of its own system pods.
const FREE_BYTES_MIN: u64 = 5 << 30;
const FREE_INODES_MIN: u64 = 100_000;
const SUBJECT: &str = "storage";

pub(super) fn check(host: &Host<'_>, report: &mut Report) {
    let root = &host.config.root;
    // The root itself may not have been made yet.
    let directory = root.ancestors().find(|ancestor| host.files.exists(ancestor)).unwrap_or(Path::new("/"));
    match host.probe.space(directory) {
        Ok(space) => judge(root, &space, report),
        Err(why) => {
            report.fail(SUBJECT, format!("{}: {why}", directory.display()), "choose another root directory");
        }
    }
    let table = host.files.word("/proc/self/mountinfo");
    let mounts = kernel::mount::parse(format!("{table}\n").as_bytes()).unwrap_or_default();
    let Some(mount) = kernel::mount::holding_in(&mounts, directory, None) else { return };
    match mount.file_system.as_str() {
        kind @ ("overlay" | "nfs" | "nfs4" | "tmpfs" | "ramfs") => report.warn(
            SUBJECT,
            format!("{} is on {kind}", root.display()),
            "put root on a local disk (ext4, xfs, btrfs): overlayfs cannot use some file systems below its upper \
             layer, and records must survive a reboot",
        ),
        kind => report.ok(SUBJECT, format!("{} is on {kind}", root.display())),
    }
    if mount.options.iter().any(|option| option == "ro") {
        report.fail(
            SUBJECT,
            format!("{} is mounted read-only", root.display()),
            "mount it writable, or choose another root",
        );
    }
    // What forbids programs or devices there forbids them in every container.
    let barred: Vec<_> = ["noexec", "nodev", "nosuid"]
        .into_iter()
        .filter(|option| mount.options.iter().any(|o| o == option))
        .collect();
    if !barred.is_empty() {
        report.warn(
            SUBJECT,
            format!("{} is mounted {}", root.display(), barred.join(",")),
            "containers' programs lie there, and are held to it: mount it without",
        );
    }
}

fn judge(root: &Path, space: &Space, report: &mut Report) {
    let reserved = if space.reserved > 0 {
        format!(", {} more for root alone", ui::bytes(space.reserved))
    } else {
        String::new()
    };
    let found = format!("{} free for {}{reserved}", ui::bytes(space.free), root.display());
    if space.free < FREE_BYTES_MIN {
        report.warn(SUBJECT, found, "images will not fit: make room, or put root on a larger file system");
    } else if let Some(inodes) = space.inodes.filter(|inodes| *inodes < FREE_INODES_MIN) {
        report.warn(
            SUBJECT,
            format!("{found}, but {inodes} inodes"),
            "make room: an image has tens of thousands of files",
        );
    } else {
        report.ok(SUBJECT, found);
    }
    if space.tells_types == Some(false) {
        report.fail(
            SUBJECT,
            format!("directories of {} do not tell the types of their entries (d_type)", root.display()),
            "overlayfs needs it: make the file system anew (xfs with -n ftype=1), or put root elsewhere",
        );
    }
}
