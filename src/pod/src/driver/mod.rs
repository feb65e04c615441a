//! One task per pod: it alone changes the pod and its containers.
//!
//! Requests come by a bounded queue; [`crate::queue`] says what becomes of each. Work that takes time runs
//! as a job beside the driver, on data of its own, and brings back a result; the driver commits what it
//! means, publishes the new [`PodView`], sends the events, and answers everyone who waited, in that order.
//! A client that goes away takes nothing with it: its answer has no reader, and that is all.

mod begin;
mod doing;
mod exits;
mod finish;
mod handle;
mod policy;
mod recover;
mod shim;
mod view;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kernel::cgroup::Hierarchy;
use kernel::clock::now;
use model::limits::POD_QUEUE_MAX;
use model::{Classify as _, ContainerId, ErrorKind, PodId, Resources, Signal, UnixNanos};
use shim_client::Shim;
use telemetry::{Counter, CounterBy, field};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{self, JoinSet};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{Instrument as _, Span, error, info_span, warn};

use crate::bundle;
use crate::error::PodError;
use crate::events::{Event, EventKind, Events};
use crate::index::Index;
use crate::meter::Meter;
use crate::overview::Recovery;
use crate::probe::Prober;
use crate::queue::{self, Ask, Job, Verdict};
use crate::records::{Change, ContainerRecord, PodRecord, Records};
use crate::sandbox::{self, NotMade};
use crate::state::PodView;
use crate::story::{Doing, Troubles};

use self::handle::{Answer, Waiter};

pub(crate) use self::handle::{Handle, Outcome, Request};

/// What CRI says of a container that could not be started.
const START_ERROR_CODE: i32 = 128;
/// What CRI says of a container that nobody saw end.
const UNSEEN_CODE: i32 = 255;

/// How long a start that is to be broken off may take to ask the shim for it; then it is not broken off.
const BREAK_OFF_MAX: Duration = Duration::from_secs(10);
/// How often it is tried meanwhile.
const BREAK_OFF_AGAIN: Duration = Duration::from_millis(20);

/// What every driver works with.
pub(crate) struct Host {
    pub(crate) sandboxes: sandbox::Builder,
    pub(crate) bundles: bundle::Builder,
    /// The cgroups that are mounted.
    pub(crate) hierarchy: Arc<Hierarchy>,
    pub(crate) records: Records,
    pub(crate) events: Events,
    /// What failed last.
    pub(crate) troubles: Troubles,
    pub(crate) index: Index,
    /// Work under way, so that a service that stops can wait for it.
    pub(crate) jobs: TaskTracker,
    /// What is measured, for those who ask for statistics.
    pub(crate) meter: Meter,
    /// Whether pods can be run, as was last found out.
    pub(crate) prober: Prober,
    /// Output that never reached a log, for want of disk space.
    pub(crate) log_dropped_bytes: Counter,
    /// Containers that ended, by reason.
    pub(crate) exits: CounterBy,
    /// Jobs that failed.
    pub(crate) failures: Counter,
    /// What the start found; set once when recovery is done.
    pub(crate) recovery: OnceLock<Recovery>,
    /// Records that could not be read, in words.
    pub(crate) unreadable: Vec<String>,
}

/// What a job brought back.
enum Product {
    Ran(Result<sandbox::Made, NotMade>),
    Created(Result<bundle::Bundle, bundle::NotMade>),
    Started(Result<shim_client::Started, PodError>),
    Updated(Result<Resources, PodError>),
    /// Stop, StopPod, Remove, RemovePod.
    Plain(Result<(), PodError>),
    /// Clearing away after an exit: what failed is done again by the removal.
    Reaped(Result<(), PodError>),
}

/// A job under way.
struct Begun {
    job: Job,
    since: UnixNanos,
    /// What is said and timed of it belongs to the request that it was begun for.
    span: Span,
    /// The service does not end before what came of it is committed and told.
    _under_way: TaskTrackerToken,
}

struct Finished {
    job: Job,
    product: Product,
}

/// The pod's owner.
pub(crate) struct Driver {
    host: Arc<Host>,
    id: PodId,
    record: PodRecord,
    containers: BTreeMap<ContainerId, ContainerRecord>,
    inbox: mpsc::Receiver<(Request, Waiter)>,
    view: watch::Sender<Arc<PodView>>,
    shim: watch::Sender<Option<Shim>>,
    doing: watch::Sender<Vec<Doing>>,
    /// What the shim tells, while there is one.
    heard: Option<shim::Heard>,
    /// When a shim that did not answer is looked for again.
    look_again: Option<Instant>,
    work: JoinSet<Finished>,
    running: HashMap<task::Id, Begun>,
    waiting: HashMap<Job, Vec<Waiter>>,
    kept: Vec<(Request, Waiter)>,
    end_is_asked_for: bool,
    /// When the grace of each stop under way ends.
    graces: HashMap<ContainerId, watch::Sender<Instant>>,
    /// Containers that left nothing but their bundle: the removal has less to do.
    reaped: HashSet<ContainerId>,
    /// Exits that came before their start was told.
    early_exits: HashMap<ContainerId, shim_client::ExitRecord>,
    /// Why a stop of the pod that nobody asked for is under way.
    stop_reason: String,
    /// Whether the pod was ready when its removal began: its end is told before it is gone.
    removed_while_ready: bool,
    /// It is in no table any more: the driver ends.
    gone: bool,
}

impl Driver {
    /// A driver for a pod in the phase that its record says, and where it is reached.
    pub(crate) fn new(
        host: Arc<Host>,
        id: PodId,
        record: PodRecord,
        containers: BTreeMap<ContainerId, ContainerRecord>,
    ) -> (Self, Handle) {
        let (to_inbox, inbox) = mpsc::channel(POD_QUEUE_MAX);
        let (shim, shim_seen) = watch::channel(None);
        let (doing, doing_seen) = watch::channel(Vec::new());
        let view = view::of(&host, &id, &record, &containers, None, (0, now()));
        let (view, view_seen) = watch::channel(Arc::new(view));
        let handle = Handle {
            id: id.clone(),
            cgroup: record.cgroup.as_str().into(),
            cgroups_made: record.cgroups_made.as_slice().into(),
            inbox: to_inbox,
            view: view_seen,
            shim: shim_seen,
            doing: doing_seen,
        };
        let driver = Self {
            host,
            id,
            record,
            containers,
            inbox,
            view,
            shim,
            doing,
            heard: None,
            look_again: None,
            work: JoinSet::new(),
            running: HashMap::new(),
            waiting: HashMap::new(),
            kept: Vec::new(),
            end_is_asked_for: false,
            graces: HashMap::new(),
            reaped: HashSet::new(),
            early_exits: HashMap::new(),
            stop_reason: String::new(),
            removed_while_ready: false,
            gone: false,
        };
        (driver, handle)
    }

    /// Serves the pod until it is gone. A pod that a restart found is recovered first, and `recovered` told.
    pub(crate) async fn run(mut self, recovered: Option<oneshot::Sender<()>>) {
        let identity = &self.record.config.identity;
        // What nobody asked for. As long as the pod, it is no span for others.
        let span = info_span!(
            parent: None,
            "pod",
            pod.id = self.id.as_str(),
            pod.name = identity.name,
            pod.namespace = identity.namespace,
        );
        async {
            if let Some(recovered) = recovered {
                self.recover().await;
                let _ = recovered.send(());
            }
            while !self.gone {
                self.turn().await;
            }
        }
        .instrument(span)
        .await;
    }

    /// Everything that can wake a pod is here.
    async fn turn(&mut self) {
        tokio::select! {
            Some((request, waiter)) = self.inbox.recv() => self.handle(request, waiter).await,
            Some(joined) = self.work.join_next_with_id() => self.joined(joined).await,
            said = shim::next(&mut self.heard) => self.shim_said(said).await,
            () = shim::look_again(self.look_again) => self.find_shim().await,
        }
        self.show_doing();
    }

    async fn joined(&mut self, joined: Result<(task::Id, Finished), task::JoinError>) {
        match joined {
            Ok((task, Finished { job, product })) => {
                let Some(begun) = self.running.remove(&task) else { return };
                self.finish(job, product).instrument(begun.span.clone()).await;
                self.go_on().await;
            }
            Err(failed) => {
                let Some(begun) = self.running.remove(&failed.id()) else { return };
                begun
                    .span
                    .in_scope(|| error!(job = ?begun.job, error = %failed, "a job ended without a result"));
                self.broken(begun.job).instrument(begun.span).await;
                self.go_on().await;
            }
        }
    }

    async fn handle(&mut self, request: Request, waiter: Waiter) {
        let ask = match self.as_ask(&request) {
            Some(ask) => ask,
            None => return self.update_pod(request, waiter).await,
        };
        match queue::decide(&self.facts(), &ask) {
            Verdict::Begin => {
                let span = self.span_of(&request, &waiter);
                self.begin(request, waiter).instrument(span).await;
            }
            Verdict::Join(job) => {
                if let Some(begun) = self.running.values().find(|begun| begun.job == job) {
                    waiter.span.follows_from(&begun.span);
                }
                if let Request::Stop(id, grace) = &request {
                    self.shorten(id, *grace);
                }
                self.waiting.entry(job).or_default().push(waiter);
            }
            Verdict::Done => self.answer(waiter, Ok(self.outcome(&ask))),
            Verdict::Keep => self.keep(request, waiter),
            Verdict::Hasten(jobs) => {
                for job in jobs {
                    match job {
                        Job::Stop(id) => self.shorten(&id, Duration::ZERO),
                        Job::Start(id) => self.break_off(id),
                        _ => {}
                    }
                }
                self.keep(request, waiter);
            }
            Verdict::KillFirst => {
                if let Ask::Remove(id) = ask {
                    self.begin_stop(id, Duration::ZERO);
                }
                self.keep(request, waiter);
            }
            Verdict::Refuse(refusal) => {
                let error = self.refused(refusal, &request);
                self.answer(waiter, Err(error));
            }
        }
    }

    fn keep(&mut self, request: Request, waiter: Waiter) {
        self.end_is_asked_for |= ends_the_pod(&request);
        self.kept.push((request, waiter));
    }

    /// What waited for a job that is over.
    async fn go_on(&mut self) {
        if self.gone {
            return;
        }
        for (request, waiter) in std::mem::take(&mut self.kept) {
            self.handle(request, waiter).await;
        }
        self.end_is_asked_for = self.kept.iter().any(|(request, _)| ends_the_pod(request));
    }

    /// Lets the grace of a stop end after `grace`, if that is sooner.
    fn shorten(&self, id: &ContainerId, grace: Duration) {
        if let Some(ends) = self.graces.get(id) {
            let asked = after(grace);
            ends.send_if_modified(|ends| {
                let sooner = asked < *ends;
                *ends = asked.min(*ends);
                sooner
            });
        }
    }

    /// Breaks off a start, beside everything else: its job fails then.
    fn break_off(&self, id: ContainerId) {
        let Some(shim) = self.shim.borrow().clone() else { return };
        let gives_up = Instant::now() + BREAK_OFF_MAX;
        tokio::spawn(async move {
            loop {
                match shim.kill(&id, Signal::KILL, true).await {
                    // The job may not have asked for the start yet.
                    Err(error) if error.kind() == ErrorKind::NotFound && Instant::now() < gives_up => {
                        tokio::time::sleep(BREAK_OFF_AGAIN).await;
                    }
                    Err(error) => {
                        warn!(container.id = id.as_str(), error = model::chain(&error), "break off a start");
                        return;
                    }
                    Ok(()) => return,
                }
            }
        });
    }

    fn answer(&self, waiter: Waiter, answer: Answer) {
        // A client that went away has no use for the answer.
        let _ = waiter.answer.send(answer);
    }

    fn answer_all(&mut self, job: &Job, answer: &Answer) {
        for waiter in self.waiting.remove(job).unwrap_or_default() {
            self.answer(waiter, answer.clone());
        }
    }

    fn spawn(&mut self, job: Job, work: impl Future<Output = Product> + Send + 'static) {
        let named = job.clone();
        let work = async move { Finished { job: named, product: work.await } };
        let task = self.work.spawn(work.in_current_span());
        let begun = Begun { job, since: now(), span: Span::current(), _under_way: self.host.jobs.token() };
        self.running.insert(task.id(), begun);
    }

    /// What is done for a request: part of its trace, and named in every line.
    fn span_of(&self, request: &Request, waiter: &Waiter) -> Span {
        let identity = &self.record.config.identity;
        info_span!(
            parent: &waiter.span,
            "pod",
            otel.name = request.word(),
            otel.status_code = tracing::field::Empty,
            otel.status_description = tracing::field::Empty,
            pod.id = self.id.as_str(),
            pod.name = identity.name,
            pod.namespace = identity.namespace,
        )
    }

    // === What changes is committed, then published, then told ===

    fn pod_change(&self) -> Change {
        Change::Pod(self.id.clone(), Box::new(self.record.clone()))
    }

    fn container_change(&self, id: &ContainerId) -> Option<Change> {
        let record = self.containers.get(id)?;
        Some(Change::Container(id.clone(), Box::new(record.clone())))
    }

    async fn commit(&self, changes: impl IntoIterator<Item = Change>) -> Result<(), PodError> {
        let stage = self.host.sandboxes.stages.begin("store_commit", &[(field::POD_ID, self.id.as_str())]);
        stage.run(self.host.records.commit(changes.into_iter().collect())).await
    }

    /// Commits what is known already to be so. A store that does not take it now must not change what the
    /// node reports: a restart finds out again from the shim and its exit records.
    async fn commit_fact(&self, changes: impl IntoIterator<Item = Change>) {
        if let Err(failed) = self.commit(changes).await {
            error!(error = model::chain(&failed), "a fact is not in the store yet");
        }
    }

    fn publish(&self) -> Arc<PodView> {
        let next = {
            let before = self.view.borrow();
            // Later, also where the clock was set back: who compares two views must not take the older one.
            (before.revision + 1, now().max(before.at + 1))
        };
        let shim = self.shim.borrow();
        let view = view::of(&self.host, &self.id, &self.record, &self.containers, shim.as_ref(), next);
        let view = Arc::new(view);
        self.host.index.publish(|| drop(self.view.send_replace(Arc::clone(&view))));
        view
    }

    fn tell(&self, subject: impl ToString, kind: EventKind, view: &Arc<PodView>) {
        // Of the moment of the view that it carries: a status that is read later is never taken for an older one.
        let event = Event { subject: subject.to_string(), kind, at: view.at, view: Arc::clone(view) };
        self.host.events.send(event);
    }

    async fn update_pod(&mut self, request: Request, waiter: Waiter) {
        let Request::UpdatePod { overhead, resources } = request else { return };
        let mut config = (*self.record.config).clone();
        config.overhead = overhead.or(config.overhead);
        config.resources = resources.or(config.resources);
        let before = std::mem::replace(&mut self.record.config, Arc::new(config));
        let committed = self.commit([self.pod_change()]).await;
        match &committed {
            Ok(()) => drop(self.publish()),
            Err(_) => self.record.config = before,
        }
        self.answer(waiter, committed.map(|()| Outcome::Done));
    }
}

/// The moment after some time, which a client may have chosen as long as it likes.
fn after(time: Duration) -> Instant {
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    Instant::now() + time.min(LONGEST)
}

fn ends_the_pod(request: &Request) -> bool {
    matches!(request, Request::StopPod | Request::RemovePod)
}
