//! What a kubelet does for its node: draining, garbage, the rotation of logs. Alone, for they touch everybody's things.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::cluster::manifests::{daemon_set, deployment};
use e2e::cluster::room::{SOON, container, status_of};
use e2e::cluster::{Cluster, NODE, Room};
use e2e::eventually;
use serde_json::{Value, json};

use crate::bad_days::{lives, quiet};

tests![
    drain_and_uncordon,
    dead_containers_are_collected,
    unused_images_are_collected,
    image_pressure_frees_images_and_then_evicts,
    logs_rotate_under_load_and_no_line_is_lost,
];

/// Takes pods again when it goes: those of other tests too, whatever this one comes to.
struct Cordoned<'c>(&'c Cluster);

impl Drop for Cordoned<'_> {
    fn drop(&mut self) {
        // What does not work shows: no pod is scheduled.
        let _ = self.0.kubectl(&["uncordon", NODE]);
    }
}

fn drain_and_uncordon(cluster: &Cluster) {
    let room = cluster.room("drain");
    // A drain stops at pods that nobody would make anew, such as earlier tests have.
    quiet(cluster, &room);
    let spec = json!({
        "terminationGracePeriodSeconds": 1, "volumes": [{"name": "scratch", "emptyDir": {}}],
        "containers": [container("main", "touch /scratch/x; sleep 1000", json!({
            "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
        }))],
    });
    room.apply(deployment("drained", 3, spec.clone()));
    room.apply(daemon_set("agent", spec));
    room.rolled_out("Deployment", "drained");
    room.rolled_out("DaemonSet", "agent");
    let agents = lives(&room, "app=agent");
    let all_pods = || cluster.api.list("Pod", "", "").unwrap();
    // Of a DaemonSet or the node's own: these stay.
    let stays = |pod: &Value| {
        let owner = &pod["metadata"]["ownerReferences"][0]["kind"];
        owner == "DaemonSet" || owner == "Node"
    };
    let uids: Vec<String> = all_pods()
        .iter()
        .filter(|pod| !stays(pod))
        .filter_map(|pod| pod["metadata"]["uid"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(uids.len(), 4, "three of ours and CoreDNS");
    // As docs/operations.md has it.
    let cordoned = Cordoned(cluster);
    let drain = ["drain", NODE, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"];
    cluster.kubectl(&drain).ok();
    let here = |pod: &&Value| !pod["spec"]["nodeName"].is_null();
    let left: Vec<Value> = all_pods()
        .iter()
        .filter(here)
        .filter(|pod| !stays(pod))
        .map(|pod| pod["metadata"]["name"].clone())
        .collect();
    assert!(left.is_empty(), "still on the node: {left:?}");
    assert_eq!(lives(&room, "app=agent"), agents, "the agent runs on");
    eventually("nothing of the drained pods runs or is mounted", SOON, || {
        // What is dead the kubelet removes when it comes round, once a minute.
        let of_them = |pod: &api::v1::PodSandbox| {
            pod.state() == api::v1::PodSandboxState::SandboxReady
                && pod.labels.get("io.kubernetes.pod.uid").is_some_and(|uid| uids.contains(uid))
        };
        let sandboxes = cluster.node.pods().into_iter().filter(of_them).count();
        let volumes = cluster.place.dir.join("lib/kubelet/pods");
        let volumes = uids.iter().filter(|uid| volumes.join(uid).exists()).count();
        if sandboxes + volumes == 0 {
            Ok(())
        } else {
            Err(format!("{sandboxes} sandboxes run, {volumes} pods' volumes"))
        }
    });
    drop(cordoned);
    room.rolled_out("Deployment", "drained");
    assert_eq!(lives(&room, "app=agent"), agents, "the agent runs on");
    cluster.wait_until_whole();
}

fn dead_containers_are_collected(cluster: &Cluster) {
    let room = cluster.room("garbage");
    let main = container("main", "exit 1", json!({}));
    let pod = room.pod(
        "dies",
        json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 1, "containers": [main]}),
    );
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_string();
    room.wait_pod("dies", "died often", |pod| {
        (status_of(pod, "main")["restartCount"].as_i64() >= Some(2)).then_some(())
    });
    let of_the_pod = || {
        let containers = cluster.node.containers();
        containers
            .iter()
            .filter(|container| container.labels.get("io.kubernetes.pod.uid") == Some(&uid))
            .count()
    };
    // The kubelet keeps one dead container of each name, and looks once a minute.
    eventually("but one or two are left", SOON * 3, || {
        if of_the_pod() <= 2 { Ok(()) } else { Err(of_the_pod().to_string()) }
    });
    room.delete("Pod", "dies");
    room.gone("app=dies");
    eventually("none is left, nor the sandbox", SOON * 3, || {
        let sandboxes = cluster
            .node
            .pods()
            .iter()
            .filter(|pod| pod.labels.get("io.kubernetes.pod.uid") == Some(&uid))
            .count();
        if of_the_pod() + sandboxes == 0 {
            Ok(())
        } else {
            Err(format!("{} containers, {sandboxes} sandboxes", of_the_pod()))
        }
    });
}

/// Other fields of the kubelet's configuration for as long as it lives.
struct Configured<'c>(&'c Cluster);

impl<'c> Configured<'c> {
    fn new(cluster: &'c Cluster, fields: Value) -> Self {
        cluster.restart_kubelet_with(fields);
        Self(cluster)
    }
}

impl Drop for Configured<'_> {
    fn drop(&mut self) {
        self.0.restart_kubelet_with(json!({}));
    }
}

/// A file as large as it is asked to be, of which nothing is written.
struct Ballast(PathBuf);

impl Ballast {
    fn new(path: PathBuf, bytes: u64) -> Self {
        let ballast = Self(path);
        let file = File::create(&ballast.0).unwrap();
        rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
        ballast
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An image on the node that no container uses any more.
fn unused_image(cluster: &Cluster, room: &Room<'_>, name: &str) -> String {
    let image = e2e::image::busybox_builder().layer(e2e::image::noise(name, 1_000_000, 77)).build();
    let reference = cluster.node.push(&image, &format!("{name}:1"));
    room.pod(name, json!({"restartPolicy": "Never", "containers": [{"name": "main", "image": reference, "command": ["true"]}]}));
    assert_eq!(room.ended(name), "Succeeded");
    room.delete("Pod", name);
    room.gone(&format!("app={name}"));
    assert!(cluster.node.image(&reference).is_some());
    // A dead container holds its image.
    eventually("its container is collected", SOON * 2, || {
        let label = |one: &api::v1::Container, key: &str| one.labels.get(key).cloned().unwrap_or_default();
        let of_it = |one: &api::v1::Container| {
            label(one, "io.kubernetes.pod.namespace") == room.name
                && label(one, "io.kubernetes.pod.name") == name
        };
        if cluster.node.containers().iter().any(of_it) { Err("it is there".into()) } else { Ok(()) }
    });
    reference
}

/// Waits until the node has that image no more.
fn image_goes(cluster: &Cluster, reference: &str, within: Duration) {
    eventually(&format!("{reference} is gone"), within, || match cluster.node.image(reference) {
        None => Ok(()),
        Some(_) => Err("it is there".into()),
    });
}

fn unused_images_are_collected(cluster: &Cluster) {
    // A kubelet looks at images at its start, when none is old enough yet, and then every five minutes. What it does
    // then is what pressure makes it do at once: the next test.
    if !crate::long() {
        println!("        six minutes long: left out without GANTLINE_E2E_LONG");
        return;
    }
    let room = cluster.room("imagegc");
    let reference = unused_image(cluster, &room, "unused");
    // However much of the disk is free, it is too little now.
    let eager =
        json!({"imageGCHighThresholdPercent": 1, "imageGCLowThresholdPercent": 0, "imageMinimumGCAge": "1s"});
    let configured = Configured::new(cluster, eager);
    image_goes(cluster, &reference, SOON * 7);
    drop(configured);
    cluster.wait_until_whole();
    assert!(cluster.node.image(&e2e::cluster::images::name_of("etcd")).is_some(), "what is in use stays");
}

fn image_pressure_frees_images_and_then_evicts(cluster: &Cluster) {
    let room = cluster.room("pressure");
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [container("main", "sleep 1000", json!({}))]});
    room.apply(deployment("tenant", 1, spec));
    room.rolled_out("Deployment", "tenant");
    let reference = unused_image(cluster, &room, "ballast");
    // What the kubelet knows of the disk of images it has from us.
    let summary = cluster.api.text(&format!("/api/v1/nodes/{NODE}/proxy/stats/summary")).unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    let told = summary["node"]["runtime"]["imageFs"]["usedBytes"].as_u64().unwrap();
    let ours = cluster.node.cri().image_fs_info(Default::default()).unwrap().image_filesystems[0]
        .used_bytes
        .unwrap()
        .value;
    assert!(told.abs_diff(ours) < 1 << 20, "the kubelet says {told} bytes of images, we {ours}");

    // A disk that has just enough, until a ballast lies on it; other people's files are within the margin.
    let dir = &cluster.place.dir;
    let disk = rustix::fs::statvfs(dir).unwrap();
    let available = disk.f_bavail * disk.f_frsize;
    let margin = (available / 4).min(4 << 30);
    let least = (available - margin).to_string();
    let configured = Configured::new(
        cluster,
        json!({
            "evictionHard": {"nodefs.available": least, "imagefs.available": least},
            "evictionPressureTransitionPeriod": "1s", "imageMinimumGCAge": "1s",
        }),
    );
    eventually("the new kubelet knows the pod", SOON, || {
        let path = format!("/api/v1/nodes/{NODE}/proxy/pods");
        let pods = cluster.api.text(&path).map_err(|error| error.to_string())?;
        if pods.contains(&room.name) { Ok(()) } else { Err("it does not".into()) }
    });
    let ballast = Ballast::new(dir.join("ballast"), 2 * margin);
    let under_pressure = || {
        let node = cluster.api.get("Node", "", NODE).ok().flatten().unwrap_or_default();
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|one| one["type"] == "DiskPressure" && one["status"] == "True")
    };
    eventually("the node is under pressure", SOON * 2, || {
        if under_pressure() { Ok(()) } else { Err("it is not".into()) }
    });
    image_goes(cluster, &reference, SOON * 3);
    // Its successors are turned away at the door, for the node's condition.
    eventually("its pod is evicted", SOON * 2, || {
        let pods = room.pods("app=tenant");
        let messages: Vec<_> = pods.iter().filter_map(|pod| pod["status"]["message"].as_str()).collect();
        let evicted = messages.iter().any(|message| message.contains("low on resource: ephemeral-storage"));
        if evicted { Ok(()) } else { Err(messages.join("; ")) }
    });
    drop(ballast);
    eventually("the pressure is over", SOON * 2, || {
        if under_pressure() { Err("it is not".into()) } else { Ok(()) }
    });
    room.rolled_out("Deployment", "tenant");
    drop(configured);
    cluster.wait_until_whole();
    // What a node cannot do without was spared, with its images.
    let evicted = cluster.api.list("Pod", "kube-system", "").unwrap();
    let evicted: Vec<&Value> = evicted.iter().filter(|pod| pod["status"]["reason"] == "Evicted").collect();
    assert!(evicted.is_empty(), "{evicted:?}");
    for program in ["etcd", "kube-apiserver", "coredns"] {
        let image = e2e::cluster::images::name_of(program);
        assert!(cluster.node.image(&image).is_some(), "{image} is in use and stays");
    }
}

fn logs_rotate_under_load_and_no_line_is_lost(cluster: &Cluster) {
    const LINES: usize = 200_000;
    let room = cluster.room("rotation");
    // 30 bytes and more a line, and a pause so that the kubelet comes round.
    let line = format!(
        "i=0; while [ $i -lt {LINES} ]; do n=$((i+5000)); while [ $i -lt $n ]; do echo line number $i of many; i=$((i+1)); done; usleep 500000; done; touch /tmp/done; sleep 1000"
    );
    let more = json!({"readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/done"]}, "periodSeconds": 1, "timeoutSeconds": 15}});
    let pod = room.shell("talker", &line, more);
    room.ready("talker");
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let dir = cluster.place.dir.join("log/pods").join(format!("{}_talker_{uid}/main", room.name));
    // The kubelet may be rotating and compressing still.
    let text = eventually("all lines are there", SOON, || {
        let text = rotated(&dir).map_err(|error| error.to_string())?;
        let lines = text.lines().count();
        if lines == LINES { Ok(text) } else { Err(format!("{lines} lines")) }
    });
    let wrong = text
        .lines()
        .enumerate()
        .find(|(number, line)| !line.ends_with(&format!(" line number {number} of many")));
    assert!(wrong.is_none(), "not in order: {wrong:?}");
}

/// What the rotated logs in a directory hold together, unless that changes while it is read.
fn rotated(dir: &Path) -> std::io::Result<String> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
        let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
        // 0.log.<time>[.gz] in their order, then 0.log.
        files.sort();
        files.rotate_left(1);
        Ok(files)
    };
    let files = list()?;
    assert!(files.len() >= 3, "it rotated: {files:?}");
    let mut text = String::new();
    for file in &files {
        let mut bytes = File::open(file)?;
        match file.extension().and_then(|ending| ending.to_str()) {
            Some("gz") => flate2::read::GzDecoder::new(bytes).read_to_string(&mut text)?,
            Some("tmp") => continue,
            _ => bytes.read_to_string(&mut text)?,
        };
    }
    if list()? == files { Ok(text) } else { Err(std::io::Error::other("it rotates")) }
}
