//! [`Snapshots`] on overlayfs: writable layers in `<root>/containers/<id>/{upper,work}`, volumes beside them.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::SysError;
use kernel::mount;
use model::{ContainerId, Digest, host_id};

use super::{Seen, SnapshotError, Snapshots, Usage, diff};
use crate::image::Image;
use crate::images::{Images, Shared, lock};
use crate::layers::make_dir;
use crate::records::{LEASES, LeaseRecord};
use crate::unpack::extract;

/// Root filesystems as overlay mounts of layer directories.
pub struct Overlay {
    shared: Arc<Shared>,
    containers: PathBuf,
}

const CONTAINER: &str = "container/";
const VIEW: &str = "view/";

impl Overlay {
    /// Snapshots of these images, under the same root.
    ///
    /// # Errors
    /// `<root>/containers` cannot be made.
    pub fn new(images: &Images) -> Result<Self, SysError> {
        let containers = images.shared.config.root.join("containers");
        make_dir(&containers)?;
        let overlay = Self { shared: images.shared.clone(), containers };
        for container in overlay.on_disk() {
            overlay.shared.sizes.enter(&container, &overlay.upper(&container), false);
        }
        Ok(overlay)
    }

    fn on_disk(&self) -> Vec<ContainerId> {
        let entries = fs::read_dir(&self.containers).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    fn dir(&self, container: &ContainerId) -> PathBuf {
        self.containers.join(container)
    }

    /// Records who holds which layers: the one durable commit of a snapshot's making.
    fn lease(&self, key: &str, image: &Image) -> Result<(), SnapshotError> {
        let lease = LeaseRecord { image: image.id.clone(), stack: image.stack.clone() };
        {
            let mut index = lock(&self.shared.index);
            if index.lease(key) == Some(&lease) {
                return Ok(());
            }
            if !index.add_lease(key, lease.clone()) {
                let absent = image.stack.iter().find(|digest| index.layer(digest).is_none());
                let layer = absent.unwrap_or(&image.id.0).clone();
                return Err(SnapshotError::LayerMissing { key: key.to_owned(), layer });
            }
        }
        self.shared.store.write(|w| w.put(&LEASES, key, &lease)).map_err(|source| {
            self.let_go(key);
            SnapshotError::Store { stage: "record the lease", key: key.to_owned(), source }
        })
    }

    /// Forgets the lease, the last thing of a snapshot's removal. A lease that comes back in a crash is of a snapshot that
    /// no container has, and is swept; should its layers go before that, their records take it along.
    fn unlease(&self, key: &str) -> Result<(), SnapshotError> {
        if lock(&self.shared.index).lease(key).is_none() {
            return Ok(());
        }
        self.shared.store.write_soon(|w| w.remove(&LEASES, key)).map_err(|source| SnapshotError::Store {
            stage: "forget the lease",
            key: key.to_owned(),
            source,
        })?;
        self.let_go(key);
        Ok(())
    }

    fn let_go(&self, key: &str) {
        let lease = lock(&self.shared.index).remove_lease(key);
        if let Some(lease) = lease {
            self.shared.release(&lease.stack);
        }
    }

    /// The lower directories, top first as overlayfs wants them; never none.
    fn lower(&self, stack: &[Digest]) -> Vec<PathBuf> {
        let mut lower: Vec<_> = stack.iter().rev().map(|digest| self.shared.layers.path(digest)).collect();
        if lower.is_empty() {
            lower.push(self.shared.layers.empty(0));
        }
        lower
    }

    fn mount(
        &self,
        container: &ContainerId,
        stack: &[Digest],
        rootfs: &Path,
        seen: Seen<'_>,
    ) -> Result<(), SysError> {
        let dir = self.dir(container);
        make_dir(rootfs)?;
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        let lower = self.lower(stack);
        let overlay =
            mount::Overlay { lower: &lower, upper: Some(&upper), work: Some(&work), ..Default::default() };
        mount_for(seen, &overlay, rootfs)
    }

    /// Fills the writable layer, while nothing is mounted over it.
    fn unpack(&self, container: &ContainerId, diff: &Path, rootfs: &Path) -> Result<(), SnapshotError> {
        let key = format!("{CONTAINER}{container}");
        let disk =
            |source| SnapshotError::Disk { stage: "open the writable layer", key: key.clone(), source };
        if mount::is_mount_point(rootfs).map_err(disk)? {
            return Ok(());
        }
        let tar = File::open(diff).map_err(|e| disk(SysError::path("open", diff, e)))?;
        let unpacked = extract(&self.upper(container), BufReader::new(tar));
        unpacked.map(drop).map_err(|source| SnapshotError::Diff { key: key.clone(), source })
    }

    fn make_upper(&self, container: &ContainerId, stack: &[Digest], seen: Seen<'_>) -> Result<(), SysError> {
        let dir = self.dir(container);
        let upper = dir.join("upper");
        make_dir(&dir)?;
        self.shared.sizes.count(&dir);
        make_dir(&upper)?;
        make_dir(&dir.join("work"))?;
        // The mount's root has the upper directory's owner and mode: give it what the topmost layer says
        // that says anything about it.
        let says = {
            let index = lock(&self.shared.index);
            let explicit = |digest: &&Digest| index.layer(digest).is_some_and(|l| l.record.explicit_root);
            stack.iter().rev().find(explicit).map(|digest| self.shared.layers.path(digest))
        };
        let top = match says {
            Some(top) => fs::metadata(&top)
                .map(|m| (m.uid(), m.gid(), m.mode()))
                .map_err(|e| SysError::path("stat", &top, e))?,
            None => (0, 0, 0o755),
        };
        // An owner whom the namespace does not know could not be shown in it; its root is the next best.
        let mapped = |ids: &[_], id| host_id(ids, id).or_else(|| host_id(ids, 0)).unwrap_or(id);
        let top = seen
            .user
            .map_or(top, |user| (mapped(&user.ids.uids, top.0), mapped(&user.ids.gids, top.1), top.2));
        std::os::unix::fs::chown(&upper, Some(top.0), Some(top.1))
            .map_err(|e| SysError::path("chown", &upper, e))?;
        fs::set_permissions(&upper, fs::Permissions::from_mode(top.2 & 0o7777))
            .map_err(|e| SysError::path("chmod", &upper, e))
    }
}

fn mount_for(seen: Seen<'_>, overlay: &mount::Overlay<'_>, target: &Path) -> Result<(), SysError> {
    let label = seen.label.map(|label| [("context", label)]);
    let overlay = &mount::Overlay { options: label.as_ref().map_or(&[], |label| &label[..]), ..*overlay };
    match seen.user {
        Some(user) => mount::overlay_mapped(overlay, user.namespace, target),
        None => mount::overlay(overlay, target),
    }
}

impl Snapshots for Overlay {
    fn prepare_from(
        &self,
        container: &ContainerId,
        image: &Image,
        diff: Option<&Path>,
        rootfs: &Path,
        seen: Seen<'_>,
    ) -> Result<(), SnapshotError> {
        let key = format!("{CONTAINER}{container}");
        self.lease(&key, image)?;
        let disk = |source| SnapshotError::Disk { stage: "make", key: key.clone(), source };
        let made = self.make_upper(container, &image.stack, seen).map_err(disk);
        let made = made.and_then(|()| match diff {
            Some(diff) => self.unpack(container, diff, rootfs),
            None => Ok(()),
        });
        let made = made.and_then(|()| self.mount(container, &image.stack, rootfs, seen).map_err(disk));
        let made = made.inspect_err(|_| {
            let undone = self.unmount(rootfs).and_then(|()| self.remove(container));
            if let Err(error) = undone {
                tracing::warn!(container.id = %container, error = %model::chain(&error), "undo of prepare");
            }
        });
        made.inspect(|()| self.shared.sizes.enter(container, &self.upper(container), true))
    }

    fn write_diff(&self, container: &ContainerId, out: &mut dyn Write) -> Result<(), SnapshotError> {
        diff::write(&self.upper(container), out).map_err(|source| SnapshotError::Disk {
            stage: "read the writable layer",
            key: format!("{CONTAINER}{container}"),
            source,
        })
    }

    fn unmount(&self, rootfs: &Path) -> Result<(), SnapshotError> {
        mount::unmount(rootfs).map_err(|source| SnapshotError::Disk {
            stage: "unmount",
            key: rootfs.display().to_string(),
            source,
        })
    }

    fn remove(&self, container: &ContainerId) -> Result<(), SnapshotError> {
        let key = format!("{CONTAINER}{container}");
        self.shared.sizes.forget(container);
        kernel::beneath::remove_tree(&self.dir(container)).map_err(|source| SnapshotError::Disk {
            stage: "remove",
            key: key.clone(),
            source,
        })?;
        self.unlease(&key)
    }

    fn usage(&self, container: &ContainerId) -> Option<Usage> {
        self.shared.sizes.of(container)
    }

    fn mountpoint(&self) -> &Path {
        &self.shared.writable
    }

    fn upper(&self, container: &ContainerId) -> PathBuf {
        self.dir(container).join("upper")
    }

    fn volumes(&self, container: &ContainerId) -> PathBuf {
        self.dir(container).join("volumes")
    }

    fn checkpoint(&self, container: &ContainerId) -> PathBuf {
        self.dir(container).join("checkpoint")
    }

    fn containers(&self) -> Vec<ContainerId> {
        let mut found: Vec<ContainerId> = {
            let index = lock(&self.shared.index);
            index.lease_keys().filter_map(|key| key.strip_prefix(CONTAINER)?.parse().ok()).collect()
        };
        found.extend(self.on_disk());
        found.sort();
        found.dedup();
        found
    }

    fn view(&self, key: &str, image: &Image, target: &Path, seen: Seen<'_>) -> Result<(), SnapshotError> {
        if key.is_empty() || key.contains('/') {
            return Err(SnapshotError::Key(key.to_owned()));
        }
        let lease = format!("{VIEW}{key}");
        self.lease(&lease, image)?;
        let disk = |source| SnapshotError::Disk { stage: "look at the mount", key: lease.clone(), source };
        if mount::is_mount_point(target).map_err(disk)? {
            return Ok(());
        }
        let mut lower = self.lower(&image.stack);
        if lower.len() == 1 {
            // Without an upper directory overlayfs wants two lower ones.
            lower.push(self.shared.layers.empty(1));
        }
        let overlay = mount::Overlay { lower: &lower, flags: mount::Flags::PLAIN, ..Default::default() };
        make_dir(target).and_then(|()| mount_for(seen, &overlay, target)).map_err(|source| {
            if let Err(error) = self.remove_view(key, target) {
                tracing::warn!(view = key, error = %model::chain(&error), "undo of view");
            }
            SnapshotError::Disk { stage: "mount", key: lease, source }
        })
    }

    fn remove_view(&self, key: &str, target: &Path) -> Result<(), SnapshotError> {
        self.unmount(target)?;
        self.unlease(&format!("{VIEW}{key}"))
    }

    fn views(&self) -> Vec<String> {
        let index = lock(&self.shared.index);
        index.lease_keys().filter_map(|key| key.strip_prefix(VIEW)).map(str::to_owned).collect()
    }
}
