//! Containers and pods written to disk, and pods that go on from there.

use std::collections::BTreeMap;

use api::v1;
use tonic::Status;
use tracing::Span;

use super::RuntimeRpc;
use super::named::{container_id, pod_id};
use crate::convert::request::{absolute, container, pod_config, seconds};
use crate::convert::{Invalid, Under as _};
use crate::status::status;

pub(super) async fn checkpoint_container(
    rpc: &RuntimeRpc,
    request: v1::CheckpointContainerRequest,
) -> Result<v1::CheckpointContainerResponse, Status> {
    let location = absolute("location", request.location)?;
    // 0 is as long as it takes.
    let timeout = Some(seconds("timeout", request.timeout)?).filter(|timeout| !timeout.is_zero());
    let id = container_id(rpc, request.container_id)?;
    rpc.pods.checkpoint_container(&id, &location, timeout).await.map_err(status)?;
    Ok(v1::CheckpointContainerResponse {})
}

pub(super) async fn checkpoint_pod(
    rpc: &RuntimeRpc,
    request: v1::CheckpointPodRequest,
) -> Result<v1::CheckpointPodResponse, Status> {
    no_options(&request.options)?;
    let output = absolute("output_path", request.output_path)?;
    let pod = pod_id(rpc, request.pod_sandbox_id)?;
    if request.container_ids.is_empty() {
        return Err(Invalid::new("container_ids", "is empty").into());
    }
    let mut containers = Vec::new();
    for id in request.container_ids {
        // A prefix serves, as everywhere.
        containers.push(rpc.pods.container(&id).map_err(status)?.id.clone());
    }
    rpc.pods.checkpoint_pod(&pod, &output, &containers).await.map_err(status)?;
    Ok(v1::CheckpointPodResponse {})
}

pub(super) async fn restore_pod(
    rpc: &RuntimeRpc,
    request: v1::RestorePodRequest,
) -> Result<v1::RestorePodResponse, Status> {
    no_options(&request.options)?;
    let checkpoint = absolute("checkpoint_path", request.checkpoint_path)?;
    let config = pod_config(request.config, request.runtime_handler)?;
    if request.container_configs.is_empty() {
        return Err(Invalid::new("container_configs", "is empty").into());
    }
    let mut containers = Vec::new();
    for (n, config) in request.container_configs.into_iter().enumerate() {
        let config = container(config).under(format_args!("container_configs[{n}]"))?;
        super::containers::known_handlers(rpc, &config)?;
        containers.push(config);
    }
    let restored = rpc.pods.restore_pod(&checkpoint, config, containers).await.map_err(status)?;
    Span::current().record("pod.id", restored.pod.as_str());
    let named = |(name, id): (String, model::ContainerId)| v1::RestoredContainer {
        name,
        container_id: id.to_string(),
    };
    Ok(v1::RestorePodResponse {
        pod_sandbox_id: restored.pod.to_string(),
        restored_containers: restored.containers.into_iter().map(named).collect(),
    })
}

/// cri-api: options are the handler's own, and what it does not know it must not ignore. Ours knows none.
fn no_options(options: &BTreeMap<String, String>) -> Result<(), Invalid> {
    match options.keys().next() {
        None => Ok(()),
        Some(key) => Err(Invalid::new("options", format!("{key:?} is no option that this service knows"))),
    }
}
