//! Containers on their way to disk: held still together, written one after the other, and let go.
//!
//! A container's directory is laid out as other runtimes lay out their archives (checkpointctl reads it): `checkpoint/` has
//! CRIU's images, `dump.log` and `stats-dump` what CRIU says of its work, `spec.dump` the OCI configuration, `config.dump`
//! and `status.dump` who it is, `rootfs-diff.tar` its writable layer.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::Snapshots;
use kernel::SysError;
use kernel::clock::now;
use kernel::unnamed::Unnamed;
use model::Classify as _;
use shim_client::{Dump, Shim, ShimError};

use super::{DIFF, IMAGES, manifest};
use crate::driver::Host;
use crate::error::{Cause, PodError};
use crate::state::ContainerStatus;

/// A container to write.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) status: ContainerStatus,
    /// Where to; it does not exist yet.
    pub(super) directory: PathBuf,
    /// The directory of its freezer.
    freezer: PathBuf,
    /// The name of its OCI runtime's program.
    runtime: String,
}

impl Subject {
    pub(super) fn new(
        host: &Host,
        status: ContainerStatus,
        handler: &str,
        directory: PathBuf,
    ) -> Result<Self, PodError> {
        let freezer = host.hierarchy.group(&status.cgroup).directory("freezer");
        let freezer = freezer.ok_or_else(|| PodError::NoCheckpoint {
            attempt: format!("checkpoint container {}", status.id),
            why: "no freezer hierarchy of cgroup v1 is mounted".to_owned(),
        })?;
        let runtime = manifest::runtime(&host.sandboxes.config, handler);
        Ok(Self { status, directory, freezer, runtime })
    }

    /// Whether its writable layer is all that it wrote: the volumes that its image asks for lie beside it.
    pub(super) fn has_all_in_its_layer(&self, host: &Host) -> Result<(), PodError> {
        if !host.bundles.snapshots().volumes(&self.status.id).exists() {
            return Ok(());
        }
        Err(PodError::NoCheckpoint {
            attempt: format!("checkpoint container {}", self.status.id),
            why: "its image asks for volumes, which no checkpoint has: mount volumes of the pod's there"
                .to_owned(),
        })
    }

    fn step(&self, step: &'static str, source: Cause) -> PodError {
        PodError::ContainerStep { step, container: self.status.id.clone(), source }
    }
}

/// Writes all of them, as they were at one moment. They run on, whatever comes of it.
pub(super) async fn all(host: &Arc<Host>, shim: &Shim, subjects: &[Subject]) -> Result<(), PodError> {
    let held = subjects.iter().map(|subject| (subject.status.id.clone(), subject.freezer.clone()));
    let first = &subjects[0];
    let pod = &first.status.pod;
    let stage = host.sandboxes.stages.begin("checkpoint", &[(telemetry::field::POD_ID, pod.as_str())]);
    let work = async {
        let paused = shim.pause(held.collect()).await;
        paused.map_err(|e| PodError::pod_step("hold the containers still", pod, e))?;
        let mut written = Ok(());
        for subject in subjects {
            written = one(host, shim, subject).await;
            if written.is_err() {
                break;
            }
        }
        let resumed = shim.resume().await;
        // With the connection its pause is gone.
        let resumed = resumed.or_else(|e| if matches!(e, ShimError::Lost { .. }) { Ok(()) } else { Err(e) });
        written.and(resumed.map_err(|e| PodError::pod_step("let the containers go on", pod, e)))
    };
    stage.run(work).await
}

async fn one(host: &Arc<Host>, shim: &Shim, subject: &Subject) -> Result<(), PodError> {
    let (made, images) = (subject.directory.clone(), subject.directory.join(IMAGES));
    let dump = Dump { images: images.clone(), work: made.clone() };
    let prepared = super::blocking(move || make_private(&made).and_then(|()| make_private(&images))).await?;
    prepared.map_err(|e| subject.step("make the checkpoint's directory", Cause::host(e)))?;
    if let Err(error) = shim.checkpoint(&subject.status.id, dump).await {
        return Err(subject.step("write the processes", with_crius_words(error, &subject.directory)));
    }
    let (snapshots, writes) = (Arc::clone(host.bundles.snapshots()), subject.clone());
    super::blocking(move || files(&*snapshots, &writes)).await?
}

/// What is beside the processes.
fn files(snapshots: &dyn Snapshots, subject: &Subject) -> Result<(), PodError> {
    const STEP: &str = "write the writable layer";
    let directory = &subject.directory;
    let path = directory.join(DIFF);
    let diff = File::create_new(&path)
        .map_err(|e| subject.step(STEP, Cause::host(SysError::path("create", &path, e))))?;
    let mut diff = BufWriter::with_capacity(128 * 1024, diff);
    snapshots.write_diff(&subject.status.id, &mut diff).map_err(|e| subject.step(STEP, Cause::new(e)))?;
    let flushed = diff.flush().map_err(|e| SysError::path("write", &path, e));
    let spec = subject.status.bundle.join("config.json");
    let written = flushed
        .and_then(|()| {
            let copied = fs::copy(&spec, directory.join("spec.dump"));
            copied.map(drop).map_err(|e| SysError::path("copy", &spec, e))
        })
        .and_then(|()| {
            let who = manifest::config_dump(&subject.status, &subject.runtime, now());
            write_json(&directory.join("config.dump"), &who)
        })
        .and_then(|()| write_json(&directory.join("status.dump"), &manifest::status_dump(&subject.status)));
    written.map_err(|e| subject.step("write what the container is", Cause::host(e)))
}

/// A container's directory in one file that has no name yet, with the log that it has written.
pub(super) fn archive(directory: &Path, log: Option<&Path>, location: &Path) -> Result<Unnamed, SysError> {
    let mut archive = Unnamed::create(location)?;
    let failed = |e| SysError::path("write", location, e);
    let mut tar = tar::Builder::new(BufWriter::with_capacity(128 * 1024, archive.file()));
    tar.follow_symlinks(false);
    for entry in fs::read_dir(directory).map_err(|e| SysError::path("readdir", directory, e))? {
        let entry = entry.map_err(|e| SysError::path("readdir", directory, e))?;
        let (name, path) = (entry.file_name(), entry.path());
        let added = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => tar.append_dir_all(name, path),
            false => tar.append_path_with_name(path, name),
        };
        added.map_err(failed)?;
    }
    // It may be written to meanwhile, or rotated away: so much as it has now.
    if let Some(mut log) = log.and_then(|log| File::open(log).ok()) {
        let mut header = tar::Header::new_gnu();
        let metadata = log.metadata().map_err(failed)?;
        header.set_metadata(&metadata);
        let whole = io::Read::take(io::Read::chain(&mut log, io::repeat(0)), metadata.len());
        tar.append_data(&mut header, "container.log", whole).map_err(failed)?;
    }
    tar.into_inner().and_then(|mut out| out.flush()).map_err(failed)?;
    Ok(archive)
}

/// CRIU says in its log why it failed; the runtime says only where that is.
fn with_crius_words(error: ShimError, directory: &Path) -> Cause {
    let log = fs::read_to_string(directory.join("dump.log")).unwrap_or_default();
    let last = log.lines().rfind(|line| line.contains("Error ("));
    match last {
        Some(line) => Cause::new(Said { kind: error.kind(), criu: line.trim().to_owned(), error }),
        None => Cause::new(error),
    }
}

/// An OCI runtime's failure with CRIU's own words.
#[derive(Debug, thiserror::Error)]
#[error("criu said {criu:?}")]
struct Said {
    kind: model::ErrorKind,
    criu: String,
    #[source]
    error: ShimError,
}

impl model::Classify for Said {
    fn kind(&self) -> model::ErrorKind {
        self.kind
    }
}

fn make_private(directory: &Path) -> Result<(), SysError> {
    DirBuilder::new().mode(0o700).create(directory).map_err(|e| SysError::path("mkdir", directory, e))
}

pub(super) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), SysError> {
    let bytes =
        serde_json::to_vec_pretty(value).map_err(|e| SysError::path("encode", path, io::Error::from(e)))?;
    kernel::durable::replace(path, &bytes, 0o600)
}
