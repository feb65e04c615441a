//! What happened to containers and pods, for those who want to hear (CRI GetContainerEvents).
//!
//! An event is sent after its state is durable and published, and before the call that caused it answers.
//! Each subscriber has a bounded ring: one that falls behind loses its subscription, and nobody waits.

use std::sync::Arc;

use model::UnixNanos;
use model::limits::EVENTS_PER_SUBSCRIBER_MAX;
use tokio::sync::broadcast;

use crate::state::PodView;

/// What happened. At most once each for one container or pod, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// It exists.
    Created,
    /// Its process runs; for a pod: it is ready.
    Started,
    /// Its process ended; for a pod: it is no longer ready.
    Stopped,
    /// It is gone.
    Deleted,
}

/// Something that happened to a container or a pod.
#[derive(Clone, Debug)]
pub struct Event {
    /// The container's id, or the pod's for what happened to the pod itself.
    pub subject: String,
    /// What happened.
    pub kind: EventKind,
    /// When.
    pub at: UnixNanos,
    /// The pod and its containers, from one moment, with the change in it.
    pub view: Arc<PodView>,
}

/// Why there are no more events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMoreEvents {
    /// The reader was too slow.
    #[error("the subscriber fell behind by more than {EVENTS_PER_SUBSCRIBER_MAX} events: list again")]
    FellBehind,
    /// The service is stopping.
    #[error("the service is stopping")]
    Stopping,
}

/// Where events come from and go to.
#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Arc<Event>>);

/// One reader's place in the stream.
#[derive(Debug)]
pub struct Subscription(broadcast::Receiver<Arc<Event>>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(EVENTS_PER_SUBSCRIBER_MAX))
    }
}

impl Events {
    /// Hears everything from now on.
    pub fn subscribe(&self) -> Subscription {
        Subscription(self.0.subscribe())
    }

    /// How many hear.
    pub fn subscribers(&self) -> usize {
        self.0.receiver_count()
    }

    pub(crate) fn send(&self, event: Event) {
        // No subscriber is no fault.
        let _ = self.0.send(Arc::new(event));
    }
}

impl Subscription {
    /// The next event.
    ///
    /// # Errors
    /// [`NoMoreEvents`]: the subscription is over.
    pub async fn next(&mut self) -> Result<Arc<Event>, NoMoreEvents> {
        self.0.recv().await.map_err(|error| match error {
            broadcast::error::RecvError::Lagged(_) => NoMoreEvents::FellBehind,
            broadcast::error::RecvError::Closed => NoMoreEvents::Stopping,
        })
    }
}
