//! The service goes and comes back; pods do not notice, and nothing is forgotten.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use api::v1::ContainerState;
use e2e::faulty::{Fault, Proxy};
use e2e::image::{busybox_builder, noise};
use e2e::random::Random;
use e2e::{Node, eventually, patience};

/// Prints numbered lines in bursts of a thousand, three times the 10,000 a second that are promised. Before that it writes down
/// how many a second it prints to nobody.
const COUNTER: &str = "
    lines() { while [ $i -lt $1 ]; do echo $i; i=$((i+1)); done; }
    now() { read up idle </proc/uptime; echo ${up%.*}${up#*.}; }
    began=$(now); i=0; lines 50000 >/dev/null; echo $((50000 * 100 / ($(now) - began))) >/pace
    i=0; while :; do lines $((i+1000)); usleep 20000; done";

#[test]
fn no_line_of_a_log_is_lost_or_doubled_when_the_service_is_killed() {
    let node = Node::start();
    let pod = node.pod("counter").run();
    let counter = pod.container("c").sh(COUNTER).start();
    counter.logs("\n5000\n");
    for _ in 0..3 {
        node.kill9();
        std::thread::sleep(Duration::from_millis(700));
        node.start_service();
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(counter.is_running());
    let pace: f64 = counter.sh("cat /pace").trim().parse().unwrap();
    counter.stop(0);
    let lines = counter.log().lines();
    let rate = counter.log().rate();
    // What the container's own shell can print is the machine's doing: a third of what it prints to nobody is enough.
    let promised = (10_000.0 / f64::from(patience().pow(2))).min(pace / 3.0);
    assert!(rate >= promised, "only {rate:.0} lines a second; to nobody {pace:.0}");
    for (expected, line) in lines.iter().enumerate() {
        assert!(line.full && line.text == expected.to_string(), "line {expected} is {line:?}");
    }
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn an_exit_while_nobody_looked_is_told_as_it_was() {
    let node = Node::start();
    let pod = node.pod("exits").run();
    let quick = pod.container("quick").sh("sleep 2; exit 9").start();
    let other = pod.container("other").idle().start();
    let (quick_pid, pid) = (quick.pid(), other.pid());
    // Its shim writes down how it ended before it lets go of its pid.
    let is_gone = |pid: u32| {
        eventually("it has died", Duration::from_secs(20), || {
            match std::fs::exists(format!("/proc/{pid}")) {
                Ok(false) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };
    node.kill9();
    is_gone(quick_pid);
    node.machine.sh(&format!("kill -KILL {pid}"));
    is_gone(pid);
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let looked_again = i64::try_from(since_1970.as_nanos()).unwrap();
    node.start_service();
    assert_eq!(quick.exit().exit_code, 9);
    assert_eq!(other.exit().exit_code, 137);
    let status = quick.status();
    let between = status.finished_at - status.started_at;
    // A shim that comes late to its start takes that for younger than it is.
    assert!(between >= 900_000_000, "it ran two seconds, not {between} ns");
    assert!(status.finished_at < looked_again, "it ended before anybody looked again: {status:?}");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn pods_containers_and_images_are_the_same_after_a_restart() {
    let node = Node::start();
    let pod = node.pod("lives").run();
    let running = pod.container("running").idle().start();
    let created = pod.container("created").idle().create();
    let exited = pod.container("exited").sh("exit 3").start();
    exited.exit();
    let stopped = node.pod("stopped").run();
    stopped.stop();
    let (pods, containers, ip) = (node.pods(), node.containers(), pod.ip());
    let image = node.image(&node.busybox());
    let pid = running.pid();
    node.restart();
    assert_eq!((node.pods(), node.containers(), pod.ip()), (pods, containers, ip));
    assert_eq!(node.image(&node.busybox()), image);
    assert_eq!(running.pid(), pid);
    assert_eq!(running.sh("echo still here"), "still here\n");
    created.try_start().expect("a created container starts after a restart");
    assert_eq!(exited.status().exit_code, 3);
    pod.container("new").idle().start();
    pod.remove();
    stopped.remove();
    node.leaves_nothing();
}

#[test]
fn a_polite_end_leaves_every_pod_running() {
    let node = Node::start();
    let pod = node.pod("stays").run();
    let container = pod.container("c").idle().start();
    let pid = container.pid();
    assert_eq!(node.terminate(), Some(0), "SIGTERM is no failure");
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(!node.machine.path(&node.config.socket).exists(), "the socket is gone with the service");
    node.start_service();
    assert!(container.is_running() && pod.is_ready());
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_second_service_on_the_same_root_is_refused_with_the_firsts_pid() {
    let node = Node::start();
    let said = node.gantline(&["serve"]).fails();
    let pid = node.service_pid().unwrap();
    assert!(said.contains(&pid.to_string()), "{pid} is not in {said:?}");
    assert!(node.service_runs());
}

#[test]
fn a_pod_whose_shim_died_is_seen_and_can_be_removed() {
    let node = Node::start();
    let pod = node.pod("orphaned").run();
    let container = pod.container("c").idle().start();
    let shims = node.processes(|command| command.contains("gantline-shim run "));
    assert_eq!(shims.len(), 1, "one shim a pod: {shims:?}");
    node.machine.sh(&format!("kill -KILL {}", shims[0].pid));
    eventually("the death is noticed", Duration::from_secs(10), || {
        let state = container.status().state();
        if state == ContainerState::ContainerExited { Ok(()) } else { Err(format!("{state:?}")) }
    });
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_pull_that_was_killed_leaves_nothing_and_succeeds_the_next_time() {
    let node = Node::start();
    node.push(&busybox_builder().layer(noise("large", 8 << 20, 9)).build(), "large:1");
    let proxy = Proxy::start(&node.machine, Fault::Slow(Duration::from_millis(20)));
    let reference = proxy.reference("large:1");
    node.config.plain_http(reference.split('/').next().unwrap());
    std::thread::scope(|scope| {
        let pull = scope.spawn(|| node.try_pull(&reference));
        std::thread::sleep(Duration::from_millis(700));
        node.kill9();
        assert!(pull.join().unwrap().is_err());
    });
    node.start_service();
    eventually("the parts are swept", Duration::from_secs(5), || {
        let parts = e2e::leftovers::entries(&node.config.root.join("image/ingest"), &[]);
        if parts.is_empty() { Ok(()) } else { Err(format!("{parts:?}")) }
    });
    node.pull(&reference);
    proxy.stop(&node.machine);
}

/// One after another: runs a pod, a container in it, and takes them away again; errors are the weather here.
fn make_and_unmake(node: &Node, thread: u32, serial: &AtomicU32) {
    let number = serial.fetch_add(1, Ordering::Relaxed);
    let Ok(pod) = node.pod(&format!("load-{thread}-{number}")).try_run() else { return };
    if let Ok(container) = pod.container("c").idle().try_create()
        && container.try_start().is_ok()
        && number.is_multiple_of(2)
    {
        let _ = container.try_stop(0);
    }
    if !number.is_multiple_of(3) && pod.try_stop().is_ok() {
        let request = api::v1::RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        let _ = node.cri().remove_pod_sandbox(request);
    }
}

#[test]
fn twenty_kills_under_load_leave_nothing_and_no_address_reserved() {
    let node = Node::start();
    node.pull(&node.busybox());
    let mut random = Random::seeded();
    let (stop, serial) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (node, stop, serial) = (&node, &stop, &serial);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    make_and_unmake(node, thread, serial);
                }
            });
        }
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(50 + random.below(600)));
            node.kill9();
            node.start_service();
        }
        stop.store(true, Ordering::Relaxed);
    });
    node.restart();
    let made = serial.load(Ordering::Relaxed);
    assert!(made > 20, "only {made} pods in all: no load to speak of");
    node.remove_all_pods();
    assert!(node.containers().is_empty());
    node.leaves_nothing();
}
