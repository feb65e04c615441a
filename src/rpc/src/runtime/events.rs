//! GetContainerEvents: what happened, as it happens, until the client leaves or falls behind.

use api::v1;
use futures_util::stream;
use pod::{Event, EventKind, NoMoreEvents};
use tonic::Status;

use super::RuntimeRpc;
use crate::convert::reply;
use crate::streams::Chunks;

/// The subscription begins before this returns: nothing that happens afterwards is missed.
pub(super) async fn get_container_events(
    rpc: &RuntimeRpc,
    _: v1::GetEventsRequest,
) -> Result<Chunks<v1::ContainerEventResponse>, Status> {
    let subscription = rpc.pods.events();
    let drain = rpc.drain();
    Ok(Box::pin(stream::unfold(Some(subscription), move |subscription| {
        let drain = drain.clone();
        async move {
            let mut subscription = subscription?;
            let next = tokio::select! {
                next = subscription.next() => next,
                () = drain.cancelled() => Err(NoMoreEvents::Stopping),
            };
            match next {
                Ok(event) => Some((Ok(message(&event)), Some(subscription))),
                // A closed stream makes the kubelet list again; nothing here waits for it.
                Err(over @ NoMoreEvents::FellBehind) => {
                    Some((Err(Status::resource_exhausted(over.to_string())), None))
                }
                Err(over @ NoMoreEvents::Stopping) => {
                    Some((Err(Status::unavailable(over.to_string())), None))
                }
            }
        }
    })))
}

fn message(event: &Event) -> v1::ContainerEventResponse {
    let kind = match event.kind {
        EventKind::Created => v1::ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => v1::ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => v1::ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => v1::ContainerEventType::ContainerDeletedEvent,
    };
    // A pod that is gone has no status; its last event says only which it was.
    let gone = event.kind == EventKind::Deleted && event.subject == event.view.pod.id.as_str();
    v1::ContainerEventResponse {
        container_id: event.subject.clone(),
        container_event_type: kind.into(),
        created_at: event.at,
        pod_sandbox_status: (!gone).then(|| reply::pod_status(&event.view.pod)),
        containers_statuses: event.view.containers.iter().map(reply::container_status).collect(),
    }
}
