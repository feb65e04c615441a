//! Waiting until a configuration directory may have changed: inotify(7) on the directory, or on the nearest
//! ancestor while it is absent, and a slow clock for what inotify does not tell (an ancestor that was renamed,
//! the target of a symbolic link, an exhausted `fs.inotify.max_user_watches`).

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

/// How long a change may go unnoticed at most. CNI STATUS is asked as often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Changes come in flocks (create, write, close): look once they have landed.
const SETTLE: Duration = Duration::from_millis(50);

const IN_DIRECTORY: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);
const IN_ANCESTOR: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// An armed watch. Look at the directory after arming, so that nothing falls in between.
pub(crate) struct Watch(Option<AsyncFd<OwnedFd>>);

impl Watch {
    /// Arms a watch. Without inotify the clock alone remains.
    pub(crate) fn arm(dir: &Path) -> Self {
        let armed = Self::inotify(dir);
        if let Err(e) = &armed {
            tracing::debug!(dir = %dir.display(), error = %e, "cannot watch the CNI configuration; looking every 5 s");
        }
        Self(armed.ok())
    }

    fn inotify(dir: &Path) -> std::io::Result<AsyncFd<OwnedFd>> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut path = dir;
        let mut events = IN_DIRECTORY;
        loop {
            match inotify::add_watch(&inotify, path, events) {
                Ok(_) => break,
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(e) => return Err(e.into()),
            }
            path = path.parent().ok_or(Errno::NOENT)?;
            events = IN_ANCESTOR;
        }
        // The directory may have come while its ancestor's watch was being made.
        if path != dir && dir.is_dir() {
            inotify::add_watch(&inotify, dir, IN_DIRECTORY)?;
        }
        #[expect(
            deprecated,
            reason = "its replacement is unsafe; an OwnedFd stays the same descriptor while it lives"
        )]
        AsyncFd::new(inotify)
    }

    /// Returns when it is time to look again, and arm again.
    pub(crate) async fn changed(self) {
        let event = async {
            match &self.0 {
                Some(inotify) => drop(inotify.readable().await),
                None => std::future::pending().await,
            }
        };
        if timeout(LOOK_AGAIN, event).await.is_ok() {
            sleep(SETTLE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Instant;

    async fn noticed(watch: Watch) -> bool {
        let begun = Instant::now();
        watch.changed().await;
        begun.elapsed() < LOOK_AGAIN / 2
    }

    #[tokio::test]
    async fn every_kind_of_change_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("etc/cni/net.d");
        let file = conf.join("10-a.conflist");
        let steps: [(&str, &dyn Fn()); 7] = [
            ("an ancestor comes", &|| fs::create_dir_all(conf.parent().unwrap()).unwrap()),
            ("the directory comes", &|| fs::create_dir(&conf).unwrap()),
            ("a file is written", &|| fs::write(&file, "x").unwrap()),
            ("a file is renamed", &|| fs::rename(&file, conf.join("b")).unwrap()),
            ("a file goes", &|| fs::remove_file(conf.join("b")).unwrap()),
            ("the directory goes", &|| fs::remove_dir(&conf).unwrap()),
            ("it all goes", &|| fs::remove_dir_all(dir.path().join("etc")).unwrap()),
        ];
        for (step, change) in steps {
            let watch = Watch::arm(&conf);
            change();
            assert!(noticed(watch).await, "{step}");
        }
    }

    #[tokio::test]
    async fn a_file_where_a_directory_should_be_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("net.d");
        fs::write(&conf, "not a directory").unwrap();
        let watch = Watch::arm(&conf);
        fs::remove_file(&conf).unwrap();
        fs::create_dir(&conf).unwrap();
        assert!(noticed(watch).await);
    }
}
