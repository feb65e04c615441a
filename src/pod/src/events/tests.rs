use std::collections::BTreeMap;

use model::{PodConfig, PodId, PodIdentity, PodSecurity};

use super::*;
use crate::state::{PodPhase, PodStatus};

/// An event of a pod that was created at `created_at`.
fn event(subject: usize, created_at: UnixNanos) -> Event {
    let config = PodConfig {
        identity: PodIdentity { namespace: "n".into(), name: "p".into(), uid: "u".into(), attempt: 0 },
        hostname: String::new(),
        log_directory: None,
        dns: None,
        port_mappings: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        cgroup_parent: String::new(),
        sysctls: BTreeMap::new(),
        overhead: None,
        resources: None,
        security: PodSecurity::default(),
        runtime_handler: String::new(),
    };
    let pod = PodStatus {
        id: PodId::from_bytes([1; 32]),
        config: Arc::new(config),
        phase: PodPhase::Ready,
        created_at,
        ips: Vec::new(),
        netns: None,
        handler: "crun".into(),
        shim_pid: None,
        cni_result: None,
        cgroup: String::new(),
    };
    let view = Arc::new(PodView { pod, containers: Vec::new(), revision: 1, at: 7 });
    Event { subject: subject.to_string(), kind: EventKind::Stopped, at: 7, view }
}

/// Everything that a subscription has at once.
fn hear(subscription: &mut Subscription) -> (Vec<String>, Option<NoMoreEvents>) {
    let mut heard = Vec::new();
    loop {
        let mut next = std::pin::pin!(subscription.next());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match next.as_mut().poll(&mut context) {
            std::task::Poll::Ready(Ok(event)) => heard.push(event.subject.clone()),
            std::task::Poll::Ready(Err(over)) => return (heard, Some(over)),
            std::task::Poll::Pending => return (heard, None),
        }
    }
}

fn subjects(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

#[test]
fn who_falls_behind_by_the_ring_is_told_so_and_nobody_else_is() {
    let events = Events::default();
    let (mut deaf, mut reads) = (events.subscribe(), events.subscribe());
    for number in 0..EVENTS_PER_SUBSCRIBER_MAX {
        events.send(event(number, now()));
    }
    assert_eq!(hear(&mut reads), (subjects(0..EVENTS_PER_SUBSCRIBER_MAX), None));
    events.send(event(EVENTS_PER_SUBSCRIBER_MAX, now()));
    let heard = hear(&mut deaf);
    assert_eq!(heard, (Vec::new(), Some(NoMoreEvents::FellBehind)));
    assert_eq!(events.overflows(), 1, "it is counted, once");
    assert_eq!(hear(&mut reads).0, [EVENTS_PER_SUBSCRIBER_MAX.to_string()]);
}

#[test]
fn what_happened_to_recovered_pods_is_told_to_each_who_comes_later_once_and_in_order() {
    let events = Events::default();
    let before = events.told().opened_at - 1;
    events.send(event(0, before));
    events.send(event(1, now()));
    events.send(event(2, before));
    let mut first = events.subscribe();
    events.send(event(3, before));
    assert_eq!(hear(&mut first).0, ["0", "2", "3"], "a new pod is no business of the recovery");
    assert_eq!(hear(&mut events.subscribe()).0, ["0", "2"], "since then somebody listened");
    let (past, mut future) = events.past_and_future();
    assert_eq!((past.len(), hear(&mut future).0.len()), (4, 0), "each in one of the two");
}

#[test]
fn more_than_a_ring_of_it_makes_one_reader_list() {
    let events = Events::default();
    let before = events.told().opened_at - 1;
    for number in 0..=EVENTS_PER_SUBSCRIBER_MAX {
        events.send(event(number, before));
    }
    assert_eq!(hear(&mut events.subscribe()), (Vec::new(), Some(NoMoreEvents::FellBehind)));
    assert_eq!(hear(&mut events.subscribe()), (Vec::new(), None));
}
