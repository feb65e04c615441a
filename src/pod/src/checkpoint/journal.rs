//! Where checkpoints lie while they are made, and how a restart finds what is left of them.
//!
//! Each has a directory below `<root>/checkpoints`. One that is written to its caller's directory says so there, durably,
//! in a file `output` before the first byte: what an interrupted one has left in it is taken away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::{SysError, durable};
use tracing::{info, warn};

use super::{blocking, manifest};
use crate::driver::Host;
use crate::error::{Cause, PodError};

const OUTPUT: &str = "output";

/// The directory of one checkpoint that is being made.
pub(super) struct Scratch {
    path: PathBuf,
    output: Option<PathBuf>,
}

impl Scratch {
    /// Makes it, and notes that `output` is written to.
    pub(super) async fn new(host: &Arc<Host>, output: Option<&Path>) -> Result<Self, PodError> {
        let failed = |source| PodError::Store(Cause::host(source));
        let id = kernel::random::id_bytes().map(model::ExecId::from_bytes).map_err(failed)?;
        let path = directory(&host.sandboxes.config.root).join(&id.as_str()[..32]);
        let (made, output) = (path.clone(), output.map(Path::to_owned));
        let noted = output.clone();
        let prepared = blocking(move || {
            fs::create_dir_all(&made).map_err(|e| SysError::path("mkdir", &made, e))?;
            match noted {
                Some(output) => {
                    let path = output.into_os_string().into_encoded_bytes();
                    durable::write(&made.join(OUTPUT), &path, 0o600)
                }
                None => Ok(()),
            }
        });
        prepared.await?.map_err(failed)?;
        Ok(Self { path, output })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// It is done with.
    pub(super) async fn remove(self) {
        self.end(false).await;
    }

    /// It failed: takes away what was written to its output.
    pub(super) async fn undo(self) {
        self.end(true).await;
    }

    async fn end(self, undo: bool) {
        let ended = blocking(move || {
            if let Some(output) = self.output.as_deref().filter(|_| undo) {
                clear_output(output)?;
            }
            fs::remove_dir_all(&self.path).map_err(|e| SysError::path("remove", &self.path, e))
        });
        if let Ok(Err(error)) = ended.await {
            warn!(
                error = model::chain(&error),
                "what is left of a checkpoint is cleared away at the next start"
            );
        }
    }
}

/// Clears away what checkpoints left that the last service did not end.
pub(crate) fn clear_leftovers(root: &Path) {
    for entry in fs::read_dir(directory(root)).into_iter().flatten().flatten() {
        let path = entry.path();
        let output = fs::read(path.join(OUTPUT)).ok();
        let output = output.map(|bytes| PathBuf::from(String::from_utf8_lossy(&bytes).into_owned()));
        let cleared = output.map_or(Ok(()), |output| clear_output(&output));
        let removed =
            cleared.and_then(|()| fs::remove_dir_all(&path).map_err(|e| SysError::path("remove", &path, e)));
        match removed {
            Ok(()) => info!(path = %path.display(), "removed what a checkpoint left that was not ended"),
            Err(error) => warn!(error = model::chain(&error), "what a checkpoint left stays"),
        }
    }
}

/// Removes what a pod's checkpoint has written to its directory; the directory stays.
pub(super) fn clear_output(output: &Path) -> Result<(), SysError> {
    let entries = match fs::read_dir(output) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|e| SysError::path("readdir", output, e))?,
    };
    for entry in entries.flatten().filter(|entry| manifest::is_ours(&entry.file_name())) {
        let path = entry.path();
        let removed = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.map_err(|e| SysError::path("remove", &path, e))?;
    }
    Ok(())
}

fn directory(root: &Path) -> PathBuf {
    root.join("checkpoints")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_service_left_is_cleared_away_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (root, output) = (dir.path().join("root"), dir.path().join("output"));
        let left = directory(&root).join("0123");
        fs::create_dir_all(left.join("container/checkpoint")).unwrap();
        fs::create_dir_all(output.join("container-0/checkpoint")).unwrap();
        fs::write(output.join("container-0/config.dump"), "x").unwrap();
        fs::write(output.join("pod.json.new"), "x").unwrap();
        fs::write(output.join("callers"), "x").unwrap();
        fs::write(left.join(OUTPUT), output.as_os_str().as_encoded_bytes()).unwrap();
        clear_leftovers(&root);
        assert_eq!(fs::read_dir(directory(&root)).unwrap().count(), 0);
        let names: Vec<_> = fs::read_dir(&output).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["callers"]);
        clear_leftovers(&root);
        clear_leftovers(&dir.path().join("none"));
    }
}
