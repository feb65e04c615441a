//! The pod or container that a request names, in the request's span.
//!
//! Clients may send a prefix of an id. Logs are searched by the whole one, so that is what the span gets; of
//! what is unknown, or meant by more than one, it gets nothing.

use tonic::Status;
use tracing::Span;

use super::RuntimeRpc;
use crate::convert::request::id;

/// The id, or a prefix of it, of the sandbox that a request names.
pub(super) fn pod_id(rpc: &RuntimeRpc, text: String) -> Result<String, Status> {
    let id = id("pod_sandbox_id", text)?;
    record_pod(rpc, &id);
    Ok(id)
}

/// The id, or a prefix of it, of the container that a request names.
pub(super) fn container_id(rpc: &RuntimeRpc, text: String) -> Result<String, Status> {
    let id = id("container_id", text)?;
    record_container(rpc, &id);
    Ok(id)
}

pub(super) fn record_pod(rpc: &RuntimeRpc, id: &str) {
    if let Ok(view) = rpc.pods.pod(id) {
        Span::current().record("pod.id", view.pod.id.as_str());
    }
}

pub(super) fn record_container(rpc: &RuntimeRpc, id: &str) {
    if let Ok(container) = rpc.pods.container(id) {
        Span::current().record("container.id", container.id.as_str());
    }
}
