//! Containers and whole pods written to disk while they run, and pods that go on from there: CRIU through the OCI runtime.
//!
//! What a checkpoint is of is held still by its shim until all of it is written, memory and files: see [`capture`]. A
//! request that is given up, by its timeout or its client, leaves nothing but the work under way, which ends by itself
//! and is thrown away: to kill CRIU in the middle could kill the container (ADR 127).
//!
//! What lies on disk meanwhile is below `<root>/checkpoints`, one directory a checkpoint; the next start of the service
//! clears it away, and what an unfinished one left in its caller's directory ([`journal`]).

mod capture;
mod journal;
mod manifest;
mod restore;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kernel::SysError;
use model::{ContainerId, PodId};
use shim_client::{RUNTIME_PATH, Shim};
use tokio::sync::oneshot;
use tracing::{Instrument as _, Span, warn};

use crate::Pods;
use crate::driver::Host;
use crate::error::{Cause, PodError};
use crate::state::{ContainerPhase, ContainerStatus, PodPhase, PodView};

use self::capture::Subject;
use self::journal::Scratch;
use self::manifest::PodManifest;

pub(crate) use self::journal::clear_leftovers;
pub use self::restore::Restored;

/// Of a container in a checkpoint: CRIU's own files.
pub(crate) const IMAGES: &str = "checkpoint";
/// Of a container in a checkpoint: its writable layer, as an image layer.
pub(crate) const DIFF: &str = "rootfs-diff.tar";

impl Pods {
    /// Writes a running container to the archive `location`, which other tools read (checkpointctl). It runs on. An
    /// archive that is there is replaced whole.
    ///
    /// # Errors
    /// What stopped it; `location` is as it was then. `timeout` has passed: likewise.
    pub async fn checkpoint_container(
        &self,
        id: &str,
        location: &Path,
        timeout: Option<Duration>,
    ) -> Result<(), PodError> {
        let (status, shim, handler) = self.running_with_handler("checkpoint", id)?;
        let view = self.pod(status.pod.as_str())?;
        possible(&view, &shim)?;
        let (host, container) = (Arc::clone(&self.host), status.id.clone());
        let path = location.to_owned();
        let archived = self.beside(async move {
            let scratch = Scratch::new(&host, None).await?;
            let archived = async {
                let subject =
                    Subject::new(&host, status.clone(), &handler, scratch.path().join("container"))?;
                capture::all(&host, &shim, std::slice::from_ref(&subject)).await?;
                let directory = subject.directory;
                on_container(&status.id, "write the archive", move || {
                    capture::archive(&directory, status.log_path.as_deref(), &path)
                })
                .await
            }
            .await;
            scratch.remove().await;
            archived
        });
        let archive = match timeout {
            None => archived.await,
            Some(limit) => tokio::time::timeout(limit, archived).await.unwrap_or_else(|_| {
                Err(PodError::CheckpointTimeout { container: container.clone(), seconds: limit.as_secs() })
            }),
        }?;
        on_container(&container, "name the archive", move || archive.name()).await
    }

    /// Writes containers of a pod, all from one moment, into the empty directory `output`. They run on.
    ///
    /// # Errors
    /// What stopped it; the directory is empty then.
    pub async fn checkpoint_pod(
        &self,
        pod: &str,
        output: &Path,
        containers: &[ContainerId],
    ) -> Result<(), PodError> {
        let view = self.pod(pod)?;
        let id = view.pod.id.clone();
        if view.pod.phase != PodPhase::Ready {
            let state = view.pod.phase.word();
            return Err(PodError::PodState { attempt: "checkpoint", pod: id, state });
        }
        let statuses = running_of(&view, containers)?;
        let no_shim =
            || PodError::PodState { attempt: "checkpoint", pod: id.clone(), state: "without a shim" };
        let shim = self.host.index.pod(id.as_str())?.shim().ok_or_else(no_shim)?;
        possible(&view, &shim)?;
        let (host, output) = (Arc::clone(&self.host), output.to_owned());
        let looked_at = output.clone();
        blocking(move || empty_directory(&looked_at)).await??;
        self.beside(async move {
            let scratch = Scratch::new(&host, Some(&output)).await?;
            let written = pod_into(&host, &view, statuses, &shim, &output).await;
            if written.is_err() {
                scratch.undo().await;
            } else {
                scratch.remove().await;
            }
            written.map(|()| Kept(Some(output)))
        })
        .await
        .map(Kept::keep)
    }

    /// Does what takes time beside its request: who asked may go away, and what it brought is dropped then.
    pub(super) async fn beside<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, PodError>> + Send + 'static,
    ) -> Result<T, PodError> {
        let (done, result) = oneshot::channel();
        let work = async move {
            let _ = done.send(work.await);
        };
        self.host.jobs.spawn(work.instrument(Span::current()));
        result.await.unwrap_or(Err(PodError::Stopping))
    }
}

/// A pod's checkpoint that nobody may have waited for: it is taken away again then.
struct Kept(Option<PathBuf>);

impl Kept {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(output) = &self.0
            && let Err(error) = journal::clear_output(output)
        {
            warn!(error = model::chain(&error), "a checkpoint that nobody waited for stays");
        }
    }
}

async fn pod_into(
    host: &Arc<Host>,
    view: &PodView,
    statuses: Vec<ContainerStatus>,
    shim: &Shim,
    output: &Path,
) -> Result<(), PodError> {
    let named = statuses.into_iter().enumerate();
    let subjects = named.map(|(n, status)| {
        Subject::new(host, status, &view.pod.handler, output.join(manifest::directory(n)))
    });
    let subjects = subjects.collect::<Result<Vec<_>, _>>()?;
    for subject in &subjects {
        subject.has_all_in_its_layer(host)?;
    }
    capture::all(host, shim, &subjects).await?;
    let manifest = PodManifest::new(view, &subjects, host)?;
    let (pod, output) = (view.pod.id.clone(), output.to_owned());
    on_pod(&pod, "write the manifest", move || manifest.write(&output)).await
}

/// The containers that are asked for: of this pod, running, each once.
fn running_of(view: &PodView, wanted: &[ContainerId]) -> Result<Vec<ContainerStatus>, PodError> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for id in wanted {
        let invalid = |why: String| PodError::Invalid { field: "container_ids", why };
        let status = view
            .container(id)
            .ok_or_else(|| invalid(format!("container {id} is not one of pod sandbox {}", view.pod.id)))?;
        if !seen.insert(id) {
            return Err(invalid(format!("container {id} is named twice")));
        }
        if !matches!(status.phase, ContainerPhase::Running { .. }) {
            let state = status.phase.word();
            return Err(PodError::ContainerState { attempt: "checkpoint", container: id.clone(), state });
        }
        found.push(status.clone());
    }
    Ok(found)
}

/// The caller's directory: it is there, and nothing is in it.
fn empty_directory(output: &Path) -> Result<(), PodError> {
    let invalid = |why: String| PodError::Invalid { field: "output_path", why };
    match fs::read_dir(output).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(invalid(format!("{} is not empty", output.display()))),
        Err(error) => Err(invalid(format!("{} cannot be read as a directory: {error}", output.display()))),
    }
}

/// Whether a pod's containers can be written to disk on this node.
fn possible(view: &PodView, shim: &Shim) -> Result<(), PodError> {
    let pod = &view.pod;
    if pod.config.security.namespaces.own_user().is_some() {
        let why = "CRIU cannot write a container whose user namespace is its pod's".to_owned();
        return Err(PodError::NoCheckpoint { attempt: format!("checkpoint in pod sandbox {}", pod.id), why });
    }
    has_criu(&format!("checkpoint in pod sandbox {}", pod.id))?;
    if shim.checkpoints() { Ok(()) } else { Err(old_shim(&pod.id)) }
}

/// CRIU is a program that the OCI runtime looks for.
fn has_criu(attempt: &str) -> Result<(), PodError> {
    let is_program = |path: PathBuf| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if RUNTIME_PATH.split(':').any(|directory| is_program(Path::new(directory).join("criu"))) {
        return Ok(());
    }
    let why = format!("criu is in none of {RUNTIME_PATH}: install CRIU 3.16 or later");
    Err(PodError::NoCheckpoint { attempt: attempt.to_owned(), why })
}

/// A shim of before there were checkpoints holds the pod until it ends.
pub(crate) fn old_shim(pod: &PodId) -> PodError {
    PodError::NoCheckpoint {
        attempt: format!("checkpoint or restore in pod sandbox {pod}"),
        why: "its shim is of an older version of gantline, which cannot".to_owned(),
    }
}

/// What a restored container went on from is not needed any more.
pub(crate) async fn forget_images(host: &Arc<Host>, container: &ContainerId) {
    let images = host.bundles.snapshots().checkpoint(container);
    let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(images)).await;
    if let Ok(Err(error)) = removed {
        warn!(container.id = container.as_str(), %error, "its checkpoint stays until it is removed");
    }
}

async fn on_container<R: Send + 'static>(
    container: &ContainerId,
    step: &'static str,
    work: impl FnOnce() -> Result<R, SysError> + Send + 'static,
) -> Result<R, PodError> {
    let failed = |e| PodError::ContainerStep { step, container: container.clone(), source: Cause::host(e) };
    blocking(work).await?.map_err(failed)
}

async fn on_pod<R: Send + 'static>(
    pod: &PodId,
    step: &'static str,
    work: impl FnOnce() -> Result<R, SysError> + Send + 'static,
) -> Result<R, PodError> {
    let failed = |e| PodError::PodStep { step, pod: pod.clone(), source: Cause::host(e) };
    blocking(work).await?.map_err(failed)
}

async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Result<R, PodError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PodError::Stopping)
}
