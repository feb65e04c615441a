//! What happened to containers and pods, for those who want to hear (CRI GetContainerEvents).
//!
//! An event is sent after its state is durable and published, and before the call that caused it answers.
//! Each subscriber has a bounded ring: one that falls behind loses its subscription, and nobody waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::limits::{EVENTS_KEPT_MAX, EVENTS_PER_SUBSCRIBER_MAX};
use model::{PodIdentity, UnixNanos};
use tokio::sync::broadcast;

use crate::state::{ContainerPhase, PodView};

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

/// What is kept of an event when it is past: enough for a person to read, little enough to keep many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastEvent {
    /// When.
    pub at: UnixNanos,
    /// What happened.
    pub kind: EventKind,
    /// The container's id, or the pod's for what happened to the pod itself.
    pub subject: String,
    /// The pod.
    pub identity: PodIdentity,
    /// The container's name; `None` for what happened to the pod itself, and for a container that went with its pod.
    pub container: Option<String>,
    /// How the container ended, for [`EventKind::Stopped`].
    pub exit: Option<(i32, &'static str)>,
}

impl From<&Event> for PastEvent {
    fn from(event: &Event) -> Self {
        let container = event.view.containers.iter().find(|one| one.id.as_str() == event.subject);
        let exit = container.and_then(|one| match &one.phase {
            ContainerPhase::Exited(exit) if event.kind == EventKind::Stopped => {
                Some((exit.code, exit.reason.as_str()))
            }
            _ => None,
        });
        Self {
            at: event.at,
            kind: event.kind,
            subject: event.subject.clone(),
            identity: event.view.pod.config.identity.clone(),
            container: container.map(|one| one.config.name.clone()),
            exit,
        }
    }
}

/// Where events come from and go to.
#[derive(Clone, Debug)]
pub struct Events {
    sender: broadcast::Sender<Arc<Event>>,
    past: Arc<Mutex<VecDeque<PastEvent>>>,
    overflows: Arc<AtomicU64>,
}

/// One reader's place in the stream.
#[derive(Debug)]
pub struct Subscription {
    receiver: broadcast::Receiver<Arc<Event>>,
    overflows: Arc<AtomicU64>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(EVENTS_PER_SUBSCRIBER_MAX),
            past: Arc::default(),
            overflows: Arc::default(),
        }
    }
}

impl Events {
    /// Hears everything from now on.
    pub fn subscribe(&self) -> Subscription {
        Subscription { receiver: self.sender.subscribe(), overflows: Arc::clone(&self.overflows) }
    }

    /// How many subscriptions ended because their reader fell behind.
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }

    /// How many hear.
    pub fn subscribers(&self) -> usize {
        self.sender.receiver_count()
    }

    pub(crate) fn send(&self, event: Event) {
        // Both under one lock: who asks for the past and what follows sees each event once.
        let mut past = self.past();
        if past.len() == EVENTS_KEPT_MAX {
            past.pop_front();
        }
        past.push_back(PastEvent::from(&event));
        // No subscriber is no fault.
        let _ = self.sender.send(Arc::new(event));
    }

    /// What happened last, the oldest first, and everything from now on: nothing is missed or told twice between.
    pub fn past_and_future(&self) -> (Vec<PastEvent>, Subscription) {
        let past = self.past();
        (past.iter().cloned().collect(), self.subscribe())
    }

    fn past(&self) -> MutexGuard<'_, VecDeque<PastEvent>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The next event.
    ///
    /// # Errors
    /// [`NoMoreEvents`]: the subscription is over.
    pub async fn next(&mut self) -> Result<Arc<Event>, NoMoreEvents> {
        self.receiver.recv().await.map_err(|error| match error {
            broadcast::error::RecvError::Lagged(_) => {
                self.overflows.fetch_add(1, Ordering::Relaxed);
                NoMoreEvents::FellBehind
            }
            broadcast::error::RecvError::Closed => NoMoreEvents::Stopping,
        })
    }
}
