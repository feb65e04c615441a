//! Bad days of a node: the service killed again and again, kubelet and node restarted, storms of pods.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2e::cluster::manifests::deployment;
use e2e::cluster::room::{SOON, container, is_ready, status_of};
use e2e::cluster::{Cluster, Room};
use e2e::eventually;
use serde_json::{Value, json};

use crate::network::Load;
use crate::workloads::{service, web};

tests![
    gantline_killed_every_two_seconds_under_load,
    gantline_upgraded_in_place,
    the_kubelet_restarted,
    a_storm_of_a_hundred_pods,
    the_node_rebooted,
];

/// How often each container of these pods was restarted, and the pods' uids: what must not change.
pub(crate) fn lives(room: &Room<'_>, labels: &str) -> Vec<(String, String)> {
    let mut lives: Vec<_> = room
        .pods(labels)
        .iter()
        .map(|pod| {
            let restarts: Vec<Value> = pod["status"]["containerStatuses"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["restartCount"].clone())
                .collect();
            (pod["metadata"]["uid"].to_string(), json!(restarts).to_string())
        })
        .collect();
    lives.sort();
    lives
}

/// A Deployment of three web servers behind a service, ready.
fn served<'c>(cluster: &'c Cluster, name: &str) -> Room<'c> {
    let room = cluster.room(name);
    let mut web = web("here");
    // Probes by exec too: they go through the service, and must not fail for its death.
    web["livenessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1, "timeoutSeconds": 15, "failureThreshold": 3});
    room.apply(deployment("web", 3, json!({"terminationGracePeriodSeconds": 5, "containers": [web]})));
    room.apply(service("web"));
    room.rolled_out("Deployment", "web");
    room
}

/// Waits until kubectl says this: a kubelet's client tries a lost connection again when its own pause is over, a second or
/// three.
fn says(room: &Room<'_>, when: &str, words: &[&str], expected: &str) {
    eventually(&format!("{words:?} {when}"), Duration::from_secs(60), || {
        let said = room.kubectl(words);
        if said.code == 0 && said.stdout.contains(expected) { Ok(()) } else { Err(format!("{said:?}")) }
    });
}

fn gantline_killed_every_two_seconds_under_load(cluster: &Cluster) {
    let room = served(cluster, "killed");
    room.shell("shell", "i=0; while :; do echo $i; i=$((i+1)); usleep 100000; done", json!({}));
    room.ready("shell");
    let (before, control) = (lives(&room, "app=web"), control_plane(cluster));
    let load = Load::start(cluster, &room, "web");
    let start = Instant::now();
    let mut kills = 0_u64;
    let whole = Duration::from_secs(if crate::long() { 60 } else { 20 });
    while start.elapsed() < whole {
        let round = Instant::now();
        cluster.node.kill9();
        cluster.node.start_service();
        kills += 1;
        let when = format!("after {kills} kills");
        says(&room, &when, &["exec", "shell", "--", "echo", "works"], "works");
        says(&room, &when, &["logs", "--tail=1", "shell"], "");
        std::thread::sleep(Duration::from_secs(2).saturating_sub(round.elapsed()));
    }
    let told = load.stop();
    told.none_failed();
    let (requests, least) = (told.count as u64, whole.as_secs());
    println!("        {kills} kills in {least} s, {requests} requests");
    // A slow machine takes longer to start the service and to answer; two fifths of the pace it must hold.
    assert!(requests > 4 * least && kills * 5 >= least, "{requests} requests, {kills} kills in {least} s");
    assert_eq!(lives(&room, "app=web"), before, "after {kills} kills");
    assert_eq!(control_plane(cluster), control, "after {kills} kills");
    let log = room.kubectl(&["logs", "shell"]).ok();
    let gap = log.lines().enumerate().find(|(number, line)| *line != number.to_string());
    assert!(gap.is_none(), "a gap in the log: {gap:?}");
    cluster.wait_until_whole();
}

fn gantline_upgraded_in_place(cluster: &Cluster) {
    let room = served(cluster, "upgrade");
    room.shell("old", "sleep 10000", json!({}));
    room.ready("old");
    let (before, control) = (lives(&room, "app=web"), control_plane(cluster));
    let exe = || std::fs::metadata(format!("/proc/{}/exe", cluster.node.service_pid().unwrap())).unwrap();
    let old = exe();
    let load = Load::start(cluster, &room, "web");
    // As a package would: other files by the same names, then the service anew. Bound over them, for they are not the
    // machine's own.
    let programs = e2e::programs::Programs::dev();
    for (name, program) in [("gantline", &programs.gantline), ("gantline-shim", &programs.shim)] {
        let new = cluster.place.dir.join(format!("{name}-new")).display().to_string();
        let program = program.canonicalize().unwrap().display().to_string();
        cluster
            .node
            .machine
            .sh(&format!("cp {program} {new} && echo next >>{new} && mount --bind {new} {program}"));
    }
    assert_eq!(cluster.node.terminate(), Some(0));
    cluster.node.start_service();
    assert_eq!(exe().len(), old.len() + 5, "the new one runs");
    says(&room, "after the upgrade", &["exec", "old", "--", "echo", "works"], "works");
    assert_eq!(room.once("new", "echo well", json!({})), "well\n");
    load.stop().none_failed();
    assert_eq!(lives(&room, "app=web"), before);
    assert_eq!(control_plane(cluster), control);
}

/// Restarts of the cluster's own containers. A kubelet tells of its static pods when it comes round to each, which is
/// once a minute.
fn control_plane(cluster: &Cluster) -> Vec<(String, Value)> {
    eventually("all of the cluster's pods are told of", SOON * 3, || {
        let pods = cluster.api.list("Pod", "kube-system", "").map_err(|error| error.to_string())?;
        let restarts = |pod: &Value| {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            (name, pod["status"]["containerStatuses"][0]["restartCount"].clone())
        };
        let mut all: Vec<_> = pods.iter().map(restarts).filter(|(_, count)| count.is_number()).collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        // Four of the control plane, kube-proxy, CoreDNS.
        if all.len() == 6 { Ok(all) } else { Err(format!("{all:?}")) }
    })
}

fn the_kubelet_restarted(cluster: &Cluster) {
    let room = served(cluster, "kubelet");
    let (before, control) = (lives(&room, "app=web"), control_plane(cluster));
    // To a kubelet a container is new that started less than ten seconds before itself, and so not ready until a probe says so.
    std::thread::sleep(Duration::from_secs(12));
    let load = Load::start(cluster, &room, "web");
    for _ in 0..3 {
        cluster.kill_kubelet();
        std::thread::sleep(Duration::from_secs(1));
        cluster.start_kubelet();
        std::thread::sleep(Duration::from_secs(5));
    }
    room.once("after", "echo well", json!({}));
    load.stop().none_failed();
    assert_eq!(lives(&room, "app=web"), before);
    assert_eq!(control_plane(cluster), control);
}

fn a_storm_of_a_hundred_pods(cluster: &Cluster) {
    let room = cluster.room("storm");
    quiet(cluster, &room);
    let before = settled(cluster);
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [container("main", "sleep 10000", json!({}))]});
    let start = Instant::now();
    room.apply(deployment("storm", 100, spec));
    eventually("all are ready", SOON * 5, || {
        let ready = room.pods("app=storm").iter().filter(|pod| is_ready(pod)).count();
        if ready == 100 { Ok(()) } else { Err(format!("{ready} are; {:?}", room.events("").last())) }
    });
    let up = start.elapsed();
    room.delete("Deployment", "storm");
    eventually("all are gone", SOON * 5, || {
        let left = room.pods("app=storm").len();
        if left == 0 { Ok(()) } else { Err(format!("{left} are there")) }
    });
    println!(
        "        100 pods: ready in {:.1} s, gone in {:.1} s",
        up.as_secs_f64(),
        (start.elapsed() - up).as_secs_f64()
    );
    nothing_of(cluster, &room, &before);
}

/// Waits until pods of other tests are gone: their namespaces are being deleted.
pub(crate) fn quiet(cluster: &Cluster, room: &Room<'_>) {
    eventually("other tests' pods are gone", SOON * 4, || {
        let pods = cluster.api.list("Pod", "", "").map_err(|error| error.to_string())?;
        let other = |pod: &&Value| {
            pod["metadata"]["namespace"] != "kube-system"
                && pod["metadata"]["namespace"] != room.name.as_str()
        };
        let left: Vec<String> = pods
            .iter()
            .filter(other)
            .map(|pod| format!("{}/{}", pod["metadata"]["namespace"], pod["metadata"]["name"]))
            .collect();
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    });
    eventually("every sandbox is a pod's", SOON * 4, || {
        let (sandboxes, pods) =
            (cluster.node.pods().len(), cluster.api.list("Pod", "", "").unwrap_or_default().len());
        if sandboxes <= pods { Ok(()) } else { Err(format!("{sandboxes} sandboxes, {pods} pods")) }
    });
}

/// Addresses that the network plugin holds.
fn reserved(cluster: &Cluster) -> usize {
    e2e::leftovers::reservations(&cluster.node.config.reservations).len()
}

/// What pods have on the machine, in words and in order: mounts, cgroups, links, rules, addresses, directories. Not
/// processes: kubelet and service start some of their own at any time. Shims are compared by their number.
fn things(cluster: &Cluster) -> Vec<String> {
    let told = cluster.node.leftovers();
    let mut things: Vec<String> =
        told.iter().filter(|thing| !thing.starts_with("process ")).map(|thing| uncounted(thing)).collect();
    things.sort();
    things
}

/// A rule of the packet filter without what it has counted.
fn uncounted(thing: &str) -> String {
    let mut before = "";
    let kept = thing.split(' ').filter(|word| {
        let number = ["packets", "bytes"].contains(&before);
        before = word;
        !number
    });
    kept.collect::<Vec<_>>().join(" ")
}

/// [`things`] once they stay as they are: a kubelet clears up after pods for some seconds when these are gone.
fn settled(cluster: &Cluster) -> Vec<String> {
    let mut last = things(cluster);
    eventually("the machine is at rest", SOON, || {
        std::thread::sleep(Duration::from_secs(3));
        let now = things(cluster);
        let change = beyond(&last, &now);
        let rests = now == last;
        last.clone_from(&now);
        if rests { Ok(now) } else { Err(format!("new: {change:?}")) }
    })
}

/// Things there now that were not there before, as often as they were.
fn beyond(before: &[String], now: &[String]) -> Vec<String> {
    let mut before = before.to_vec();
    let is_new = |thing: &&String| match before.iter().position(|one| one == *thing) {
        Some(at) => {
            before.swap_remove(at);
            false
        }
        None => true,
    };
    now.iter().filter(is_new).cloned().collect()
}

/// Nothing is left of a room's pods, asked of Gantline and of the kernel.
fn nothing_of(cluster: &Cluster, room: &Room<'_>, before: &[String]) {
    eventually("nothing is left", SOON * 3, || {
        let sandboxes = cluster
            .node
            .pods()
            .iter()
            .filter(|pod| pod.metadata.as_ref().is_some_and(|of| of.namespace == room.name))
            .count();
        let shims = cluster.node.processes(|line| line.contains("gantline-shim run ")).len();
        let all = cluster.node.pods().len();
        if sandboxes > 0 || shims != all {
            return Err(format!("{sandboxes} sandboxes of it; {shims} shims for {all} sandboxes"));
        }
        let left = beyond(before, &things(cluster));
        if left.is_empty() { Ok(()) } else { Err(format!("\n  {}", left.join("\n  "))) }
    });
}

fn the_node_rebooted(cluster: &Cluster) {
    let room = served(cluster, "reboot");
    quiet(cluster, &room);
    let addresses = reserved(cluster);
    let (before, had) = (room.pods("app=web").len(), settled(cluster));
    cluster.reboot();
    cluster.wait_until_whole();
    eventually("every pod is back", SOON * 3, || {
        let pods = room.pods("app=web");
        let back = pods
            .iter()
            .filter(|pod| is_ready(pod) && status_of(pod, "web")["restartCount"].as_i64() >= Some(1))
            .count();
        if back == before { Ok(()) } else { Err(cluster.pods_in_words(&room.name)) }
    });
    let load = Load::start(cluster, &room, "web");
    std::thread::sleep(Duration::from_secs(2));
    let told = load.stop();
    assert!(told.failed.is_empty(), "{:?}", told.failed);
    eventually("no address is leaked", SOON * 3, || {
        let now = reserved(cluster);
        if now == addresses { Ok(()) } else { Err(format!("{now} addresses, {addresses} before")) }
    });
    // Ids, links and namespaces are others now, so that these are counted. Directories are not: beside each container the
    // kubelet keeps the dead one of before, and whatever it knows of may have its own.
    let had = kinds(&had);
    eventually("nothing is left of the pods before", SOON, || {
        let mut known: Vec<String> = cluster.node.pods().into_iter().map(|pod| pod.id).collect();
        known.extend(cluster.node.containers().into_iter().map(|container| container.id));
        let now = things(cluster);
        let (dirs, others): (Vec<_>, Vec<_>) =
            now.into_iter().partition(|thing| thing.starts_with("state ") || thing.starts_with("directory "));
        let nobodys: Vec<_> = dirs.iter().filter(|dir| !known.iter().any(|id| dir.contains(id))).collect();
        let mut more = kinds(&others);
        more.retain(|kind, count| *count > had.get(kind).copied().unwrap_or_default());
        if nobodys.is_empty() && more.is_empty() {
            Ok(())
        } else {
            Err(format!("nobody's: {nobodys:?}; more than the {had:?} of before: {more:?}"))
        }
    });
}

/// How many things there are of each kind.
fn kinds(things: &[String]) -> BTreeMap<&str, usize> {
    let mut kinds = BTreeMap::new();
    for thing in things {
        *kinds.entry(thing.split(' ').next().unwrap_or_default()).or_default() += 1;
    }
    kinds
}
