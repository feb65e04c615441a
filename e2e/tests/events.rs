//! GetContainerEvents: each event once, in order, whoever else listens or does not; and across restarts of the service.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use api::v1::{
    ContainerEventResponse, ContainerEventType, ContainerState, GetEventsRequest, PodSandboxState,
    RemovePodSandboxRequest,
};
use e2e::bench::Times;
use e2e::cri::{Cri, runtime};
use e2e::{Node, bench, eventually, patience, patient};
use prost::Message as _;
use prost::bytes::Buf as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status, Streaming};

use ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted, ContainerStartedEvent as Started,
    ContainerStoppedEvent as Stopped,
};

/// A subscription of its own connection's, or of one that others share.
#[track_caller]
fn subscribe(cri: &Cri) -> Streaming<ContainerEventResponse> {
    let mut client = cri.raw();
    runtime().block_on(client.get_container_events(GetEventsRequest::default())).unwrap().into_inner()
}

/// The next event, or a panic if none comes.
#[track_caller]
fn next(stream: &mut Streaming<ContainerEventResponse>) -> ContainerEventResponse {
    let wait = async { tokio::time::timeout(patient(Duration::from_secs(10)), stream.message()).await };
    runtime().block_on(wait).expect("an event in time").unwrap().expect("the stream goes on")
}

/// The next `count` events as subject and kind.
#[track_caller]
fn told(stream: &mut Streaming<ContainerEventResponse>, count: usize) -> Vec<(String, ContainerEventType)> {
    (0..count)
        .map(|_| next(stream))
        .map(|event| (event.container_id.clone(), event.container_event_type()))
        .collect()
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}

const DEAF: usize = 500;
const READERS: usize = 500;
/// Readers that share one connection; each deaf one has its own.
const PER_CONNECTION: usize = 5;
/// More than the ring's 1,024 and what a stream's window of 64 KiB holds.
const EVENTS_WANTED: usize = 1200;

/// A stream of messages as they came: five hundred readers that parse each would measure this program.
type Raw = Streaming<Vec<u8>>;

#[derive(Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = GetEventsRequest;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = GetEventsRequest;
    type Error = Status;

    fn encode(&mut self, _: GetEventsRequest, _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; message.remaining()];
        message.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

#[track_caller]
fn subscribe_raw(cri: &Cri) -> Raw {
    runtime().block_on(async {
        let mut client = tonic::client::Grpc::new(cri.channel());
        client.ready().await.unwrap();
        let path = "/runtime.v1.RuntimeService/GetContainerEvents".parse().unwrap();
        let request = tonic::Request::new(GetEventsRequest::default());
        client.server_streaming(request, path, RawCodec).await.unwrap().into_inner()
    })
}

fn hash(message: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(message);
    hasher.finish()
}

/// Reads until `wanted` is known and reached; `keep` makes of each message what is kept.
async fn read<T>(mut stream: Raw, wanted: &AtomicUsize, keep: fn(&[u8]) -> T) -> Vec<T> {
    let mut heard = Vec::new();
    let began = Instant::now();
    while heard.len() < wanted.load(Ordering::Relaxed) {
        match tokio::time::timeout(Duration::from_millis(200), stream.message()).await {
            Ok(event) => {
                let event = event.expect("a reader keeps its place").expect("the stream goes on");
                heard.push(keep(&event));
            }
            Err(_) => assert!(began.elapsed() < patient(Duration::from_secs(300)), "{} heard", heard.len()),
        }
    }
    heard
}

/// How many events the life of [`live_and_go`] is.
const EVENTS_OF_A_LIFE: usize = 8 + 2 * 20;

/// Makes a pod with a container, ends both, and adds how long each call took.
fn live_and_go(node: &Node, name: &str, times: &Mutex<Times>) {
    fn timed<T>(times: &Mutex<Times>, call: &'static str, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let value = work();
        let took = began.elapsed();
        times.lock().unwrap().add(call, took);
        value
    }
    let pod = timed(times, "run a pod", || node.pod(name).run());
    let container = timed(times, "create", || pod.container("c").idle().create());
    timed(times, "start", || container.try_start().unwrap());
    timed(times, "stop", || container.stop(0));
    timed(times, "remove", || container.remove());
    // Containers that never run are quick to make and to remove: they fill the rings.
    for number in 0..20 {
        let more = timed(times, "create", || pod.container(&format!("more-{number}")).idle().create());
        timed(times, "remove", || more.remove());
    }
    timed(times, "stop a pod", || pod.stop());
    timed(times, "remove a pod", || pod.remove());
}

/// Lives on four threads until there were so many events; how many pods that was, and the times of all calls.
fn full_speed(node: &Node, name: &str, events: usize) -> (usize, Times) {
    let (serial, times) = (AtomicUsize::new(0), Mutex::new(Times::default()));
    let pods = events.div_ceil(EVENTS_OF_A_LIFE);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = serial.fetch_add(1, Ordering::Relaxed);
                    if number >= pods {
                        break;
                    }
                    live_and_go(node, &format!("{name}-{number}"), &times);
                }
            });
        }
    });
    (pods, times.into_inner().unwrap())
}

/// The median of each call has grown by no more than this factor and a second: what else the machine does is not the same in
/// both. A call that waits for a deaf reader waits for ever.
#[track_caller]
fn within(alone: &Times, now: &Times, factor: f64) {
    for call in now.operations() {
        let (before, after) = (alone.percentile(call, 50), now.percentile(call, 50));
        println!("{call}: {before:.1} ms alone, {after:.1} ms now");
        assert!(
            after <= before * factor + 1000.0 * f64::from(patience()),
            "{call} took {before:.1} ms while nobody listened, and {after:.1} ms now"
        );
    }
}

#[test]
fn a_thousand_subscribers_of_which_half_are_deaf_hold_up_nobody() {
    let node = Node::builder().with_metrics().start();
    node.pull(&node.busybox());
    let before_mib = bench::pss_mib(node.service_pid().unwrap());
    let socket = node.machine.path(&node.config.socket);
    let deafen = || -> Vec<Raw> {
        (0..DEAF).map(|_| subscribe_raw(&Cri::with_small_windows(socket.clone()))).collect()
    };
    // What the machine can do today, and the same when all who listen are deaf: they cost their windows, and no time.
    let (_, alone) = full_speed(&node, "alone", EVENTS_WANTED / 2);
    let deaf = deafen();
    let (_, ignored) = full_speed(&node, "ignored", EVENTS_WANTED / 2);
    within(&alone, &ignored, 5.0);
    drop(deaf);
    eventually("those who hang up are forgotten", Duration::from_secs(20), || {
        match node.metric("gantline_event_subscribers") {
            0 => Ok(()),
            left => Err(format!("{left} are left")),
        }
    });
    let overflows = || node.metric("gantline_event_overflows_total");
    let overflows_before = overflows();

    let deaf = deafen();
    let connections = (0..READERS / PER_CONNECTION).map(|_| Cri::new(socket.clone()));
    let readers: Vec<Raw> =
        connections.flat_map(|cri| (0..PER_CONNECTION).map(move |_| subscribe_raw(&cri))).collect();
    let witness = subscribe_raw(node.cri());

    let wanted: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(usize::MAX)));
    let readers: Vec<_> =
        readers.into_iter().map(|stream| runtime().spawn(read(stream, wanted, hash))).collect();
    let witness = runtime().spawn(read(witness, wanted, <[u8]>::to_vec));
    let (pods, listened_to) = full_speed(&node, "listened-to", EVENTS_WANTED);
    wanted.store(pods * EVENTS_OF_A_LIFE, Ordering::Relaxed);

    let sequence = runtime().block_on(witness).unwrap();
    let hashes: Vec<u64> = sequence.iter().map(|message| hash(message)).collect();
    for (number, reader) in readers.into_iter().enumerate() {
        assert!(runtime().block_on(reader).unwrap() == hashes, "reader {number} heard something else");
    }
    // Nobody but the deaf ones is behind now.
    let after_mib = bench::pss_mib(node.service_pid().unwrap());
    let mut of_each: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for message in &sequence {
        let event = ContainerEventResponse::decode(&message[..]).unwrap();
        assert!(event.created_at > 0);
        of_each.entry(event.container_id).or_default().push(event.container_event_type);
    }
    let whole = [Created, Started, Stopped, Deleted].map(i32::from);
    let never_run = [Created, Deleted].map(i32::from);
    let lives = of_each.values().filter(|kinds| **kinds == whole).count();
    let rest = of_each.values().filter(|kinds| **kinds == never_run).count();
    assert_eq!((lives, rest, of_each.len()), (2 * pods, 20 * pods, 22 * pods));

    // The deaf ones had their windows' worth, and lost their places.
    for mut stream in deaf {
        let mut heard = Vec::new();
        let over = loop {
            let wait =
                async { tokio::time::timeout(patient(Duration::from_secs(20)), stream.message()).await };
            match runtime().block_on(wait).expect("an answer in time") {
                Ok(Some(event)) => heard.push(hash(&event)),
                Ok(None) => panic!("the stream ended as if nothing were wrong after {}", heard.len()),
                Err(status) => break status,
            }
        };
        assert_eq!(over.code(), Code::ResourceExhausted, "{over}");
        assert!(over.message().contains("list again"), "{over}");
        assert_eq!(heard, hashes[..heard.len()], "what it had is the beginning");
    }
    assert_eq!(overflows() - overflows_before, DEAF as u64, "each that was closed is counted, and no reader");
    println!("{pods} pods, {before_mib:.0} to {after_mib:.0} MiB");
    // Each event is written and read 500 times, by two processes that share the processors with the calls.
    within(&alone, &listened_to, 25.0);
    // 1,024 events of a few KiB, and a window for each subscriber.
    let grown = after_mib - before_mib;
    assert!(grown < 96.0, "the service has grown by {grown:.0} MiB from {before_mib:.0} MiB");
    node.leaves_nothing();
}

#[test]
fn a_container_that_died_while_the_service_was_down_is_told_to_those_who_come_back() {
    let node = Node::start();
    let pod = node.pod("down").run();
    let dies = pod.container("dies").sh("while [ ! -e /end ]; do sleep 0.05; done; exit 7").start();
    let lives = pod.container("lives").idle().start();
    let pid = dies.pid();
    let end = format!("/proc/{pid}/root/end");
    let mut stream = subscribe(node.cri());
    node.kill9();
    runtime().block_on(stream.message()).expect_err("the service is gone");
    std::fs::write(end, "").unwrap();
    eventually("it has died", Duration::from_secs(20), || match std::fs::exists(format!("/proc/{pid}")) {
        Ok(false) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    node.start_service();
    for listener in 0..2 {
        let mut stream = subscribe(node.cri());
        let event = next(&mut stream);
        assert_eq!((&event.container_id, event.container_event_type()), (&dies.id, Stopped), "{listener}");
        let statuses = &event.containers_statuses;
        assert_eq!(statuses.len(), 2, "{statuses:?}");
        let status = statuses.iter().find(|status| status.id == dies.id).unwrap();
        assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 7));
        let other = statuses.iter().find(|status| status.id == lives.id).unwrap();
        assert_eq!(other.state(), ContainerState::ContainerRunning);
        // Nothing else of the past: what comes next is new.
        let more = pod.container(&format!("more-{listener}")).idle().create();
        assert_eq!(told(&mut stream, 1), [(more.id.clone(), Created)]);
    }
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn what_is_told_is_durable_and_told_before_the_answer() {
    let node = Node::start();
    node.pull(&node.busybox());
    let mut stream = subscribe(node.cri());
    let pod = node.pod("durable").run();
    let answered = now();
    for kind in [Created, Started] {
        let event = next(&mut stream);
        assert_eq!((&event.container_id, event.container_event_type()), (&pod.id, kind));
        assert!(event.created_at < answered);
        assert_eq!(event.pod_sandbox_status.unwrap().state(), PodSandboxState::SandboxReady);
    }
    // The service dies as soon as an event is heard: what it told must be so for ever.
    let told_then_dead = |kind: ContainerEventType, work: &(dyn Fn() + Sync)| {
        let mut stream = subscribe(node.cri());
        std::thread::scope(|scope| {
            scope.spawn(work);
            while next(&mut stream).container_event_type() != kind {}
            node.kill9();
        });
        node.start_service();
    };
    told_then_dead(Created, &|| drop(pod.container("c").idle().try_create()));
    let containers = node.containers();
    assert_eq!(containers.len(), 1, "it was told");
    let id = containers[0].id.clone();
    let state = || node.containers().first().map(|container| container.state());
    let call = |work: fn(&Cri, String) -> bool| {
        let id = id.clone();
        let cri = node.cri();
        move || {
            // It has no answer where the service is dead by then.
            let _ = work(cri, id.clone());
        }
    };
    told_then_dead(
        Started,
        &call(|cri, container_id| {
            cri.start_container(api::v1::StartContainerRequest { container_id }).is_ok()
        }),
    );
    assert_eq!(state(), Some(ContainerState::ContainerRunning));
    told_then_dead(
        Stopped,
        &call(|cri, container_id| {
            cri.stop_container(api::v1::StopContainerRequest { container_id, timeout: 0 }).is_ok()
        }),
    );
    assert_eq!(state(), Some(ContainerState::ContainerExited));
    told_then_dead(
        Deleted,
        &call(|cri, container_id| {
            cri.remove_container(api::v1::RemoveContainerRequest { container_id }).is_ok()
        }),
    );
    assert_eq!(state(), None, "told to be gone, and back again");
    told_then_dead(Deleted, &|| {
        drop(node.cri().remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() }))
    });
    assert!(node.pods().is_empty());
    // And it is not told twice: the next pod's events are the first ones.
    let mut stream = subscribe(node.cri());
    let last = node.pod("last").run();
    let heard = told(&mut stream, 2);
    let old = heard.iter().filter(|(id, kind)| *id == pod.id && *kind == Deleted).count();
    assert_eq!(old, 0, "{heard:?}");
    last.remove();
    node.leaves_nothing();
}

#[test]
fn a_pod_that_is_removed_while_it_is_ready_ends_before_it_is_gone() {
    let node = Node::start();
    let pod = node.pod("removed").run();
    let container = pod.container("c").idle().start();
    let mut stream = subscribe(node.cri());
    node.cri().remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() }).unwrap();
    let heard = told(&mut stream, 4);
    let of = |id: &str| heard.iter().filter(|(of, _)| of == id).map(|(_, kind)| *kind).collect::<Vec<_>>();
    assert_eq!(of(&pod.id), [Stopped, Deleted], "{heard:?}");
    assert_eq!(of(&container.id), [Stopped, Deleted], "{heard:?}");
    assert_eq!(heard[3], (pod.id.clone(), Deleted), "the pod last: {heard:?}");
    node.leaves_nothing();
}

/// Of a status and an event the kubelet keeps the later one: their times must tell which that is.
#[test]
fn a_status_is_of_the_time_of_the_last_event() {
    let node = Node::start();
    let mut stream = subscribe(node.cri());
    let pod = node.pod("timed").run();
    let container = pod.container("c").idle().start();
    let mut times = BTreeSet::new();
    let mut last = 0;
    for _ in 0..4 {
        let event = next(&mut stream);
        assert!(event.created_at >= last, "time goes on");
        last = event.created_at;
        times.insert(last);
    }
    let status = |verbose| {
        let request = api::v1::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose };
        node.cri().pod_sandbox_status(request).unwrap()
    };
    assert_eq!(status(true).timestamp, last, "nothing has happened since");
    container.stop(0);
    let event = next(&mut stream);
    assert!(event.created_at > last);
    let now = status(true);
    assert!(now.timestamp >= event.created_at);
    assert_eq!(now.containers_statuses, event.containers_statuses);
    // A kubelet, which is never verbose, finds the statuses without a time (ADR 133).
    let kubelets = status(false);
    assert_eq!((kubelets.timestamp, kubelets.containers_statuses), (0, now.containers_statuses));
    pod.remove();
    node.leaves_nothing();
}
