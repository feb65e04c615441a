//! What a checkpoint says of itself.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use kernel::SysError;
use kernel::clock::now;
use model::time::rfc3339_text;
use model::{ContainerConfig, ImageId, PodIdentity, UnixNanos};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::capture::{Subject, write_json};
use crate::config::PodsConfig;
use crate::driver::Host;
use crate::error::PodError;
use crate::state::{ContainerPhase, ContainerStatus, PodView};

/// The only layout so far.
const VERSION: u32 = 1;
const FILE: &str = "pod.json";
const DIRECTORY: &str = "container-";

/// The file that tells what a pod's checkpoint has; written last, so that one without it is not whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PodManifest {
    version: u32,
    pub(super) pod: PodIdentity,
    /// The program that wrote the containers, and alone can restore them: `runc`, `crun`.
    pub(super) runtime: String,
    checkpointed_at: String,
    pub(super) containers: Vec<ContainerManifest>,
}

/// One container of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ContainerManifest {
    pub(super) directory: String,
    pub(super) image: ImageId,
    pub(super) config: ContainerConfig,
}

/// Where the nth container lies.
pub(super) fn directory(n: usize) -> String {
    format!("{DIRECTORY}{n}")
}

/// Whether a checkpoint gives this name to something.
pub(super) fn is_ours(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(FILE) || name.starts_with(DIRECTORY))
}

/// The name of a handler's program.
pub(super) fn runtime(node: &PodsConfig, handler: &str) -> String {
    let program = node.handlers.get(handler).and_then(|handler| handler.binary.file_name());
    program.unwrap_or_default().to_string_lossy().into_owned()
}

impl PodManifest {
    pub(super) fn new(view: &PodView, subjects: &[Subject], host: &Host) -> Result<Self, PodError> {
        let containers = subjects.iter().enumerate().map(|(n, subject)| ContainerManifest {
            directory: directory(n),
            image: subject.status.image_id.clone(),
            config: (*subject.status.config).clone(),
        });
        Ok(Self {
            version: VERSION,
            pod: view.pod.config.identity.clone(),
            runtime: runtime(&host.sandboxes.config, &view.pod.handler),
            checkpointed_at: rfc3339_text(now()),
            containers: containers.collect(),
        })
    }

    /// Writes it, once all else is on disk.
    pub(super) fn write(&self, output: &Path) -> Result<(), SysError> {
        kernel::durable::sync_file_system(output)?;
        write_json(&output.join(FILE), self)?;
        kernel::durable::sync_file_system(output)
    }

    /// Reads a checkpoint's; `Err` says what is wrong with it.
    pub(super) fn read(checkpoint: &Path) -> Result<Self, String> {
        let path = checkpoint.join(FILE);
        let bytes =
            fs::read(&path).map_err(|e| format!("no checkpoint of a pod: read {}: {e}", path.display()))?;
        let manifest: Self = serde_json::from_slice(&bytes)
            .map_err(|e| format!("no checkpoint of gantline's: {FILE}: {e}"))?;
        if manifest.version != VERSION {
            return Err(format!("{FILE} is of version {}, and known is {VERSION}", manifest.version));
        }
        for container in &manifest.containers {
            let plain = container.directory.strip_prefix(DIRECTORY);
            if !plain.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit())) {
                return Err(format!("{FILE} names the directory {:?}", container.directory));
            }
        }
        Ok(manifest)
    }
}

/// `config.dump`, as checkpointctl reads it (its metadata package, ContainerConfig).
pub(super) fn config_dump(status: &ContainerStatus, runtime: &str, at: UnixNanos) -> Value {
    json!({
        "id": status.id,
        "name": status.config.name,
        "rootfsImage": status.config.image.image,
        "rootfsImageRef": status.image_ref,
        "rootfsImageName": match status.config.image.user_specified_image.as_str() {
            "" => &status.config.image.image,
            name => name,
        },
        "runtime": runtime,
        "createdTime": rfc3339_text(status.created_at),
        "checkpointedTime": rfc3339_text(at),
        "restored": status.restored,
    })
}

/// `status.dump`, as containerd writes it.
pub(super) fn status_dump(status: &ContainerStatus) -> Value {
    let (pid, started_at) = match status.phase {
        ContainerPhase::Running { pid, started_at, .. } => (pid, started_at),
        _ => (0, 0),
    };
    json!({
        "CreatedAt": status.created_at,
        "StartedAt": started_at,
        "FinishedAt": 0,
        "ExitCode": 0,
        "Pid": pid,
        "Reason": "",
        "Message": "",
    })
}
