//! The exit records that shims leave at `<root>/exits/<pod>/`, for when the shim itself is gone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use model::PodId;
use wire::ExitRecord;

use crate::ShimError;

pub(crate) fn directory(root: &Path, pod: &PodId) -> PathBuf {
    root.join("exits").join(pod)
}

/// Every exit record of the pod, in no order. One that cannot be read is logged and left out: a record is
/// written whole or not at all, so it was damaged later.
///
/// # Errors
/// When the directory cannot be read; an absent one is empty.
pub fn exit_records(root: &Path, pod: &PodId) -> Result<Vec<ExitRecord>, ShimError> {
    let dir = directory(root, pod);
    let failed = |source| ShimError::Exits { path: dir.clone(), source };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut records = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let record = fs::read(&path)
            .and_then(|bytes| serde_json::from_slice::<ExitRecord>(&bytes).map_err(io::Error::from));
        match record {
            Ok(record) => records.push(record),
            Err(error) => {
                tracing::warn!(pod.id = %pod, path = %path.display(), %error, "exit record is unreadable")
            }
        }
    }
    Ok(records)
}

/// Removes the pod's exit records, durably.
///
/// # Errors
/// When they cannot be removed; absent ones are success.
pub fn forget_exits(root: &Path, pod: &PodId) -> Result<(), ShimError> {
    let dir = directory(root, pod);
    match fs::remove_dir_all(&dir) {
        Ok(()) => {
            kernel::durable::sync_parent(&dir).map_err(|e| ShimError::Exits { path: dir, source: e.source })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(ShimError::Exits { path: dir, source }),
    }
}

#[cfg(test)]
mod tests {
    use model::ContainerId;

    use super::*;

    #[test]
    fn a_damaged_record_does_not_hide_the_others() {
        let root = tempfile::tempdir().unwrap();
        let pod = PodId::from_bytes([1; 32]);
        assert_eq!(exit_records(root.path(), &pod).unwrap(), []);
        let record = ExitRecord {
            version: 1,
            container: ContainerId::from_bytes([2; 32]),
            pid: 1,
            code: 3,
            signal: None,
            oom: false,
            started_at_ns: 1,
            finished_at_ns: 2,
            log_bytes_dropped: 0,
        };
        let dir = directory(root.path(), &pod);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("a.json"), serde_json::to_vec(&record).unwrap()).unwrap();
        fs::write(dir.join("b.json"), b"{\"version\":1,").unwrap();
        fs::write(dir.join("c.json.new"), b"").unwrap();
        assert_eq!(exit_records(root.path(), &pod).unwrap(), [record]);
        forget_exits(root.path(), &pod).unwrap();
        forget_exits(root.path(), &pod).unwrap();
        assert!(!dir.exists());
    }
}
