//! What happened to containers and pods, for those who want to hear (CRI GetContainerEvents).
//!
//! An event is sent after its state is durable and published, and before the call that caused it answers. The last
//! ones are in one ring, in which each subscriber has a place: one that falls behind by the ring's length loses its
//! subscription, and nobody waits.
//!
//! What the recovery finds out happened while nobody could listen (a container died while the service was down), so
//! every subscription of the first minutes begins with it (ADR 120).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kernel::clock::now;
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
    /// When: that of [`PodView::at`].
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

/// How long after the recovery a subscription begins with what that found: clients that lost their service are back
/// by then, or list anew.
const RECOVERY_TOLD: Duration = Duration::from_secs(5 * 60);

/// Where events come from and go to.
#[derive(Clone, Debug)]
pub struct Events {
    sender: broadcast::Sender<Arc<Event>>,
    told: Arc<Mutex<Told>>,
    overflows: Arc<AtomicU64>,
}

/// What was sent already.
#[derive(Debug)]
struct Told {
    past: VecDeque<PastEvent>,
    /// When this service came: pods that are older were recovered.
    opened_at: UnixNanos,
    recovered: Recovered,
}

/// What happened to recovered pods before anyone subscribed.
#[derive(Debug)]
enum Recovered {
    /// Nobody has subscribed yet.
    Unheard(Vec<Arc<Event>>),
    /// Somebody has.
    Heard(Vec<Arc<Event>>),
    /// It is more than a subscriber may lag behind: the first one is told to list.
    TooMuch,
    /// It is told no more.
    Past,
}

/// One reader's place in the stream.
#[derive(Debug)]
pub struct Subscription {
    /// What comes before everything else.
    first: VecDeque<Arc<Event>>,
    behind: bool,
    next: broadcast::Receiver<Arc<Event>>,
    overflows: Arc<AtomicU64>,
}

impl Default for Events {
    fn default() -> Self {
        let told =
            Told { past: VecDeque::new(), opened_at: now(), recovered: Recovered::Unheard(Vec::new()) };
        Self {
            sender: broadcast::Sender::new(EVENTS_PER_SUBSCRIBER_MAX),
            told: Arc::new(Mutex::new(told)),
            overflows: Arc::default(),
        }
    }
}

impl Recovered {
    fn keep(&mut self, event: &Arc<Event>) {
        let Self::Unheard(events) = self else { return };
        if events.len() < EVENTS_PER_SUBSCRIBER_MAX {
            events.push(Arc::clone(event));
        } else {
            *self = Self::TooMuch;
        }
    }

    /// What a subscription begins with, and whether it has fallen behind already.
    fn begin(&mut self) -> (VecDeque<Arc<Event>>, bool) {
        if let Self::Unheard(events) = self {
            *self = Self::Heard(std::mem::take(events));
        }
        match self {
            Self::Heard(events) => (events.iter().cloned().collect(), false),
            Self::TooMuch => {
                *self = Self::Past;
                (VecDeque::new(), true)
            }
            Self::Unheard(_) | Self::Past => (VecDeque::new(), false),
        }
    }
}

impl Events {
    /// Hears everything from now on, and before that what happened to recovered pods while nobody listened, where that
    /// is not long ago.
    pub fn subscribe(&self) -> Subscription {
        let mut told = self.told();
        let (first, behind) = told.recovered.begin();
        self.subscription(first, behind)
    }

    /// Hears everything from now on.
    pub fn news(&self) -> Subscription {
        self.subscription(VecDeque::new(), false)
    }

    fn subscription(&self, first: VecDeque<Arc<Event>>, behind: bool) -> Subscription {
        Subscription { first, behind, next: self.sender.subscribe(), overflows: Arc::clone(&self.overflows) }
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
        // All under one lock: who asks for the past and what follows sees each event once.
        let mut told = self.told();
        if told.past.len() == EVENTS_KEPT_MAX {
            told.past.pop_front();
        }
        told.past.push_back(PastEvent::from(&event));
        let event = Arc::new(event);
        if event.view.pod.created_at < told.opened_at {
            told.recovered.keep(&event);
        }
        // No subscriber is no fault.
        let _ = self.sender.send(event);
    }

    /// Tells what the recovery found for a while yet, and returns when that is over.
    pub(crate) async fn recovered(&self) {
        tokio::time::sleep(RECOVERY_TOLD).await;
        self.told().recovered = Recovered::Past;
    }

    /// What happened last, the oldest first, and everything from now on: nothing is missed or told twice between.
    pub fn past_and_future(&self) -> (Vec<PastEvent>, Subscription) {
        let told = self.told();
        (told.past.iter().cloned().collect(), self.news())
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The next event.
    ///
    /// # Errors
    /// [`NoMoreEvents`]: the subscription is over.
    pub async fn next(&mut self) -> Result<Arc<Event>, NoMoreEvents> {
        if std::mem::take(&mut self.behind) {
            self.overflows.fetch_add(1, Ordering::Relaxed);
            return Err(NoMoreEvents::FellBehind);
        }
        if let Some(event) = self.first.pop_front() {
            return Ok(event);
        }
        self.next.recv().await.map_err(|error| match error {
            broadcast::error::RecvError::Lagged(_) => {
                self.overflows.fetch_add(1, Ordering::Relaxed);
                NoMoreEvents::FellBehind
            }
            broadcast::error::RecvError::Closed => NoMoreEvents::Stopping,
        })
    }
}

#[cfg(test)]
mod tests;
