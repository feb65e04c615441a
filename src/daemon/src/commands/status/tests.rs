//! The page, at widths that people have.

use super::*;
use crate::admin::status::{Condition, Disk, EventStreams, Failure, Shims, UnderWay};

fn some() -> Status {
    let met = |name: &str| Condition { name: name.to_owned(), met: true, ..Condition::default() };
    Status {
        version: "0.1.0".to_owned(),
        pid: 4242,
        phase: "serving".to_owned(),
        uptime_s: 14_700,
        recovery_ms: Some(120),
        requests_in_flight: 2,
        socket: "/run/gantline/gantline.sock".to_owned(),
        node: Some(NodeStatus {
            conditions: vec![met("RuntimeReady"), met("NetworkReady")],
            pods_ready: 12,
            pods_not_ready: 1,
            containers_running: 24,
            containers_other: 3,
            images: 7,
            image_bytes: 5 << 30,
            writable_bytes: 3 << 20,
            pulls_in_progress: 1,
            disk: Some(Disk {
                path: "/var/lib/gantline".into(),
                size_bytes: 100 << 30,
                available_bytes: 38 << 30,
                inodes: 1000,
                inodes_free: 980,
            }),
            shims: Shims { connected: 12, lost: 0, resident_bytes: 2 << 20 },
            recovered_pods: Some(13),
            owed: Owed::default(),
            events: EventStreams { subscribers: 1, overflows: 0 },
            under_way: Vec::new(),
            slowest_stages: vec![
                StageCost { stage: "pull_layers".into(), count: 7, mean_ms: 2_345.6, slowest_ms: 9_999.9 },
                StageCost { stage: "cni_add".into(), count: 13, mean_ms: 123.4, slowest_ms: 150.0 },
            ],
            failures: Vec::new(),
        }),
    }
}

/// As [`some`], on a bad day: everything has something to say, at length.
fn bad_day() -> Status {
    let name = format!("{}/{}", "a-namespace-".repeat(5), "a-very-long-pod-name-".repeat(11));
    let mut status = some();
    let node = status.node.as_mut().unwrap();
    node.conditions[1] = Condition {
        name: "NetworkReady".into(),
        met: false,
        reason: "NetworkPluginNotReady".into(),
        message: "Network plugin returns error: no configuration in /etc/cni/net.d\nnor anywhere".into(),
    };
    node.shims.lost = 3;
    node.events.overflows = 2;
    node.owed = Owed {
        cni_dels: vec![name.clone(), "0123456789ab".repeat(5)],
        pods_ending: 1,
        records_unreadable: vec!["record \"x\" of table pods".into()],
    };
    node.under_way = vec![
        UnderWay { stage: "cni_add".into(), subject: name.clone(), for_ms: 61_200 },
        UnderWay { stage: "snapshot".into(), subject: "default/quick".into(), for_ms: 12 },
    ];
    node.failures = vec![Failure {
        at: "2026-11-21T10:00:00.123Z".into(),
        pod: name,
        what: "run".into(),
        message: "plugin bridge: \u{1b}[31mno more addresses\n".into(),
    }];
    status
}

#[test]
fn a_page_of_a_good_day() {
    let page = "\
service       0.1.0 serving, pid 4242, up 4h 5m
socket        /run/gantline/gantline.sock
RuntimeReady  yes
NetworkReady  yes
pods          12 ready, 1 not ready
containers    24 running, 3 not
shims         12, 2.0 MiB of memory
images        7, 5.0 GiB on disk; 1 pull under way
writable      3.0 MiB in containers' layers
disk          38.0 GiB of 100.0 GiB free, 98% of inodes: /var/lib/gantline
requests      2 in flight
event streams 1 open
recovery      13 pods taken over; served after 120 ms
owed          nothing

SLOWEST STAGES     TIMES       MEAN    SLOWEST
pull_layers            7      2.3 s     10.0 s
cni_add               13   123.4 ms   150.0 ms
";
    assert_eq!(text(&some(), Some(80)), page);
    assert_eq!(text(&some(), None), page, "nothing of it is too wide for a terminal of 80 columns");
}

#[test]
fn no_line_is_wider_than_the_terminal_and_nothing_is_obeyed() {
    for columns in [40, 80, 132] {
        let page = text(&bad_day(), Some(columns));
        for line in page.lines() {
            assert!(line.chars().count() <= columns, "{columns}: {line}");
        }
        assert!(!page.contains('\u{1b}'), "{page}");
    }
    let page = text(&bad_day(), Some(80));
    for words in [
        "NetworkReady  no: NetworkPluginNotReady: Network plugin returns error: no",
        "              configuration in /etc/cni/net.d nor anywhere",
        "owed          CNI DELs: 2",
        "pods being ended: 1; unreadable records: 1",
        "cni_add           61.2 s  a-namespace-",
        "10:00:00 a-namespace-",
        "long-pod-name- run:\n         plugin bridge: [31mno more addresses",
        "3 ready pods have none",
        "2 fell behind and were closed",
    ] {
        assert!(page.contains(words), "{words:?} is not in\n{page}");
    }
    assert!(!page.contains("default/quick"), "what is quick is no news:\n{page}");
}

#[test]
fn a_pipe_gets_everything_whole() {
    let page = text(&bad_day(), None);
    let name = format!("{}/{}", "a-namespace-".repeat(5), "a-very-long-pod-name-".repeat(11));
    let last = page.lines().last().unwrap();
    assert_eq!(last, format!("10:00:00 {name} run: plugin bridge: [31mno more addresses"));
}
