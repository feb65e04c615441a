//! What an update is about to change, as it was: written beside the specification before the first write, gone when
//! the record agrees. It lies where containers do not outlive it: a reboot takes both.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kernel::cgroup::{self, Group, Limits, Write};
use kernel::{SysError, durable};
use model::Resources;
use serde::{Deserialize, Serialize};

/// Everything that an update changes, before it did.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// What the container's record said: as long as it does, the update has not happened.
    from: Resources,
    /// Files of its cgroups and what to write to them, in this order.
    files: Vec<(PathBuf, String)>,
    /// oom_score_adj of its processes.
    oom_score_adj: BTreeMap<u32, i32>,
    /// config.json.
    specification: String,
}

impl Journal {
    /// Reads what applying `limits` to these groups would change.
    pub(super) fn before(
        from: &Resources,
        groups: &[Group],
        limits: &Limits,
        specification: String,
    ) -> Result<Self, SysError> {
        let mut files = Vec::new();
        // The group that was changed last is put back first.
        for group in groups.iter().rev() {
            let back = group.undo_of(limits)?;
            files.extend(back.into_iter().map(|Write { file, value }| (file, value)));
        }
        let oom_score_adj = match groups.first() {
            Some(group) => group.oom_score_adjs()?,
            None => BTreeMap::new(),
        };
        Ok(Self { from: from.clone(), files, oom_score_adj, specification })
    }

    pub(super) fn write(&self, bundle: &Path) -> Result<(), SysError> {
        let path = path(bundle);
        let bytes =
            serde_json::to_vec(self).map_err(|e| SysError::path("write", &path, io::Error::from(e)))?;
        durable::replace(&path, &bytes, 0o600)
    }

    /// The journal of an update that was not finished; `None` for no such update.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub(crate) fn read(bundle: &Path) -> Result<Option<Self>, SysError> {
        let path = path(bundle);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| SysError::path("read", &path, io::Error::from(e))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(SysError::path("read", &path, error)),
        }
    }

    /// Whether a container whose record says `now` has had the update.
    pub(crate) fn is_done(&self, now: &Resources) -> bool {
        self.from != *now
    }

    /// Brings everything back to what it was, whatever fails on the way, and forgets the update when nothing did.
    ///
    /// # Errors
    /// The first thing that could not be brought back; the journal stays then.
    pub(crate) fn put_back(&self, bundle: &Path) -> Result<(), SysError> {
        let to_write = |(file, value): &(PathBuf, String)| Write { file: file.clone(), value: value.clone() };
        let files = cgroup::put_back(&self.files.iter().map(to_write).collect::<Vec<_>>());
        let adjs = self.oom_score_adj.iter().map(|(pid, adj)| cgroup::set_oom_score_adj(*pid, *adj));
        let adjs = adjs.fold(Ok(()), Result::and);
        let specification =
            durable::replace(&bundle.join("config.json"), self.specification.as_bytes(), 0o600);
        files.and(adjs).and(specification)?;
        Self::forget(bundle)
    }

    /// The update has happened, or has been put back.
    ///
    /// # Errors
    /// The file could not be removed.
    pub(crate) fn forget(bundle: &Path) -> Result<(), SysError> {
        let path = path(bundle);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SysError::path("unlink", &path, error))
            }
            _ => Ok(()),
        }
    }
}

fn path(bundle: &Path) -> PathBuf {
    bundle.join("update.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::cgroup::Hierarchy;

    #[test]
    fn an_update_that_broke_off_is_put_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (bundle, root) = (dir.path().join("bundle"), dir.path().join("cgroup"));
        let group_dir = root.join("a");
        fs::create_dir_all(&bundle).unwrap();
        fs::create_dir_all(&group_dir).unwrap();
        for (file, value) in [("memory.max", "max"), ("cpu.weight", "100"), ("cgroup.procs", "")] {
            fs::write(group_dir.join(file), value).unwrap();
        }
        fs::write(bundle.join("config.json"), "old").unwrap();
        let group = Hierarchy::V2 { root }.group("/a");
        let limits = Limits { memory: Some(64), cpu_shares: Some(1024), ..Limits::default() };
        let (from, to) = (Resources::default(), Resources { memory_limit: 64, ..Resources::default() });
        let journal =
            Journal::before(&from, std::slice::from_ref(&group), &limits, "old".to_owned()).unwrap();
        journal.write(&bundle).unwrap();
        group.apply(&limits).unwrap();
        fs::write(bundle.join("config.json"), "new").unwrap();

        // As the next service finds it.
        let found = Journal::read(&bundle).unwrap().unwrap();
        assert_eq!(found, journal);
        assert!(!found.is_done(&from) && found.is_done(&to));
        found.put_back(&bundle).unwrap();
        assert_eq!(fs::read_to_string(group_dir.join("memory.max")).unwrap(), "max");
        assert_eq!(fs::read_to_string(group_dir.join("cpu.weight")).unwrap(), "100");
        assert_eq!(fs::read_to_string(bundle.join("config.json")).unwrap(), "old");
        assert_eq!(Journal::read(&bundle).unwrap(), None);
    }
}
