//! Commands in containers, and ways into them: ExecSync answers itself, the rest answer with a URL.

use api::v1;
use pod::ContainerPhase;
use tonic::Status;
use tracing::Span;

use super::RuntimeRpc;
use super::named::record_container;
use crate::convert::request;
use crate::status::status;
use crate::streaming::Task;

pub(super) async fn exec_sync(
    rpc: &RuntimeRpc,
    request: v1::ExecSyncRequest,
) -> Result<v1::ExecSyncResponse, Status> {
    let (container, command, timeout) = request::exec_sync(request)?;
    record_container(rpc, &container);
    let output = rpc.pods.exec_sync(&container, command, timeout).await.map_err(status)?;
    Ok(v1::ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code: output.code })
}

pub(super) async fn exec(rpc: &RuntimeRpc, request: v1::ExecRequest) -> Result<v1::ExecResponse, Status> {
    let (container, command, wanted) = request::exec(request)?;
    let container = running(rpc, "exec in", &container)?;
    let url = rpc.streaming.admit(Task::Exec { container, command, wanted }).map_err(status)?;
    Ok(v1::ExecResponse { url })
}

pub(super) async fn attach(
    rpc: &RuntimeRpc,
    request: v1::AttachRequest,
) -> Result<v1::AttachResponse, Status> {
    let (container, wanted) = request::attach(request)?;
    let container = running(rpc, "attach to", &container)?;
    let url = rpc.streaming.admit(Task::Attach { container, wanted }).map_err(status)?;
    Ok(v1::AttachResponse { url })
}

pub(super) async fn port_forward(
    rpc: &RuntimeRpc,
    request: v1::PortForwardRequest,
) -> Result<v1::PortForwardResponse, Status> {
    let (pod, ports) = request::port_forward(request)?;
    let view = rpc.pods.pod(&pod).map_err(status)?;
    Span::current().record("pod.id", view.pod.id.as_str());
    if view.pod.phase != pod::PodPhase::Ready {
        let (pod, state) = (view.pod.id.clone(), view.pod.phase.word());
        return Err(status(pod::PodError::PodState { attempt: "forward a port", pod, state }));
    }
    let task = Task::PortForward { pod: view.pod.id.to_string(), ports };
    Ok(v1::PortForwardResponse { url: rpc.streaming.admit(task).map_err(status)? })
}

/// The whole id of a container that runs now; it is looked at again when the client connects.
fn running(rpc: &RuntimeRpc, attempt: &'static str, id: &str) -> Result<String, Status> {
    let container = rpc.pods.container(id).map_err(status)?;
    Span::current().record("container.id", container.id.as_str());
    match &container.phase {
        ContainerPhase::Running { .. } => Ok(container.id.to_string()),
        phase => {
            let (container, state) = (container.id.clone(), phase.word());
            Err(status(pod::PodError::ContainerState { attempt, container, state }))
        }
    }
}
