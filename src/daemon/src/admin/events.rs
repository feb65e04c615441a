//! `POST /events`: what happened to pods and containers, one line of JSON each, for `gantline events`.

use model::PodIdentity;
use pod::{EventKind, PastEvent, Pods};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EventsBody {
    /// Whether to go on with what happens from now on.
    pub(crate) follow: bool,
}

/// One event; the last line of a subscription that ended has `over`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// Something happened.
    Event(Happened),
    /// The service ends the stream, and why.
    Over(String),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Happened {
    /// When, RFC 3339.
    pub(crate) at: String,
    /// `created`, `started`, `stopped`, `deleted`
    pub(crate) kind: String,
    /// The pod's Kubernetes namespace.
    pub(crate) namespace: String,
    /// The pod's name.
    pub(crate) pod: String,
    /// The container's name; `None`: it happened to the pod itself.
    pub(crate) container: Option<String>,
    /// The container's id, or the pod's.
    pub(crate) id: String,
    /// How a container ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<i32>,
    /// Why, in CRI's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

impl From<&PastEvent> for Happened {
    fn from(event: &PastEvent) -> Self {
        let PodIdentity { namespace, name, .. } = event.identity.clone();
        let kind = match event.kind {
            EventKind::Created => "created",
            EventKind::Started => "started",
            EventKind::Stopped => "stopped",
            EventKind::Deleted => "deleted",
        };
        Self {
            at: model::time::rfc3339_text(event.at),
            kind: kind.to_owned(),
            namespace,
            pod: name,
            container: event.container.clone(),
            id: event.subject.clone(),
            exit_code: event.exit.map(|(code, _)| code),
            reason: event.exit.map(|(_, reason)| reason.to_owned()),
        }
    }
}

/// Sends what happened, and with `follow` what happens, until the reader leaves or falls behind.
pub(super) async fn tell(pods: Pods, body: EventsBody, lines: mpsc::Sender<Line>) {
    let (past, mut future) = pods.past_and_future_events();
    for event in &past {
        if lines.send(Line::Event(event.into())).await.is_err() {
            return;
        }
    }
    if !body.follow {
        return;
    }
    loop {
        let line = tokio::select! {
            () = lines.closed() => return,
            next = future.next() => match next {
                Ok(event) => Line::Event((&PastEvent::from(event.as_ref())).into()),
                Err(over) => return drop(lines.send(Line::Over(over.to_string())).await),
            },
        };
        if lines.send(line).await.is_err() {
            return;
        }
    }
}
