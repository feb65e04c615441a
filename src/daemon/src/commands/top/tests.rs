//! Rates, order and the table at widths that people have.

use super::*;
use crate::admin::top::PodUse;

const SECOND: i64 = 1_000_000_000;

fn pod(name: &str, at: i64, cpu_ns: u64, received: Option<u64>) -> PodUse {
    PodUse {
        id: format!("id-{name}"),
        namespace: "default".into(),
        name: name.into(),
        state: "ready".into(),
        age_s: 61,
        containers_running: 1,
        containers: 2,
        restarts: 3,
        at_ns: at,
        cpu_ns: Some(cpu_ns),
        cpu_nano_cores: Some(7_000_000),
        memory_bytes: Some(12 << 20),
        network_at_ns: at,
        received_bytes: received,
        transmitted_bytes: received.map(|bytes| bytes / 2),
    }
}

fn answer(at: i64, pods: Vec<PodUse>) -> Top {
    Top {
        at: "2026-11-21T10:00:00.5Z".into(),
        at_ns: at,
        cpus: 8,
        memory_bytes: 16 << 30,
        memory_available_bytes: 12 << 30,
        pods,
    }
}

#[test]
fn rates_are_what_was_used_between_two_answers() {
    let before = answer(0, vec![pod("web", 0, 1_000, Some(1_000)), pod("again", 0, 9_000, Some(9_000))]);
    let now = answer(
        2 * SECOND,
        vec![
            pod("web", 2 * SECOND, 1_000 + 500_000_000, Some(5_000)),
            pod("again", 2 * SECOND, 5, Some(5)),
            pod("new", 2 * SECOND, 5, None),
        ],
    );
    let shown = rates(Some(&before), &now);
    let of = |index: usize| {
        let row: &Row = &shown.pods[index];
        (row.cpu_cores, row.receive_bytes_per_second, row.transmit_bytes_per_second)
    };
    assert_eq!(of(0), (Some(0.25), Some(2_000.0), Some(1_000.0)));
    assert_eq!(of(1), (Some(0.007), None, None), "counters that went back: the service's own rate");
    assert_eq!(of(2), (Some(0.007), None, None), "nothing to compare with yet");
    assert_eq!(rates(None, &now).pods[0].cpu_cores, Some(0.007));
}

fn some() -> Snapshot {
    let before = answer(0, vec![pod("web", 0, 0, Some(0)), pod("db", 0, 0, None)]);
    let now = answer(
        SECOND,
        vec![pod("web", SECOND, 1_250_000_000, Some(3 << 20)), pod("db", SECOND, 250_000_000, None)],
    );
    rates(Some(&before), &now)
}

#[test]
fn each_key_has_its_order() {
    let mut rows = some().pods;
    rows[1].memory_bytes = Some(1 << 30);
    rows[1].restarts = 9;
    rows[1].age_s = 5;
    for (key, first) in [
        (SortKey::Cpu, "web"),
        (SortKey::Memory, "db"),
        (SortKey::In, "web"),
        (SortKey::Out, "web"),
        (SortKey::Restarts, "db"),
        (SortKey::Age, "db"),
        (SortKey::Name, "db"),
    ] {
        sort(&mut rows, key);
        assert_eq!(rows[0].name, first, "{key:?}");
    }
    for (pressed, key) in [(b'c', Some(SortKey::Cpu)), (b'N', Some(SortKey::Name)), (b'x', None)] {
        assert_eq!(sort_key(pressed), key);
    }
}

#[test]
fn a_table_on_a_terminal_of_80_columns() {
    let mut snapshot = some();
    snapshot.pods[1].state = "not ready".into();
    assert_eq!(
        display(&snapshot, SortKey::Cpu, (80, 6)),
        [
            "10:00:00  2 pods, 2 containers   CPU 1.50 of 8   memory 4.0G of 16G",
            "POD                       CPU     MEM    IN/s   OUT/s  UP  RESTARTS   AGE",
            "default/web              1.25     12M    3.0M    1.5M 1/2         3    1m",
            "default/db (not ready)   250m     12M       -       - 1/2         3    1m",
            "",
            "by cpu: c m i o r a n   q ends",
        ]
    );
}

#[test]
fn no_line_is_wider_than_the_terminal_and_the_rest_is_counted() {
    let mut snapshot = some();
    let long = Row {
        namespace: "a-namespace-".repeat(5),
        name: format!("{}x2k4q\u{1b}[31m", "a-very-long-pod-name-".repeat(11)),
        receive_bytes_per_second: Some(1e18),
        memory_bytes: Some(u64::MAX),
        cpu_cores: Some(128.0),
        age_s: u64::MAX,
        ..snapshot.pods[0].clone()
    };
    snapshot.pods.extend(std::iter::repeat_n(long, 40));
    for columns in [40, 60, 80, 200] {
        let lines = display(&snapshot, SortKey::Cpu, (columns, 24));
        assert_eq!(lines.len(), 24);
        for line in &lines {
            assert!(line.chars().count() <= columns, "{columns}: {line}");
            assert!(!line.contains('\u{1b}'), "{line}");
        }
        assert_eq!(lines[22], "and 22 more");
    }
    let whole = table(&snapshot, None).join("\n");
    assert!(whole.contains(&"a-very-long-pod-name-".repeat(11)), "a pipe gets names whole");
    assert!(table(&snapshot, Some(80))[3].contains("x2k4q"), "the end of a name tells replicas apart");
}
