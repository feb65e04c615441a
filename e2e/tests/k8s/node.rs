//! What a kubelet does for its node: draining, garbage, the rotation of logs. Alone, for they touch everybody's things.

use std::io::Read as _;

use e2e::cluster::room::{SOON, container, status_of};
use e2e::cluster::{Cluster, NODE};
use e2e::eventually;
use serde_json::json;

use crate::workloads::deployment;

tests![
    drain_and_uncordon,
    dead_containers_are_collected,
    unused_images_are_collected,
    logs_rotate_under_load_and_no_line_is_lost,
];

fn drain_and_uncordon(cluster: &Cluster) {
    let room = cluster.room("drain");
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [container("main", "sleep 1000", json!({}))]});
    room.apply(deployment("drained", 3, spec));
    room.rolled_out("Deployment", "drained");
    let drain = ["drain", NODE, "--ignore-daemonsets", "--pod-selector=app=drained", "--timeout=60s"];
    cluster.kubectl(&drain).ok();
    assert!(room.pods("app=drained").iter().all(|pod| pod["spec"]["nodeName"].is_null()), "none runs");
    cluster.kubectl(&["uncordon", NODE]).ok();
    room.rolled_out("Deployment", "drained");
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
        (status_of(pod, "main")["restartCount"].as_i64() >= Some(3)).then_some(())
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

fn unused_images_are_collected(cluster: &Cluster) {
    let room = cluster.room("imagegc");
    let image = e2e::image::busybox_builder().layer(e2e::image::noise("noise", 1_000_000, 77)).build();
    let reference = cluster.node.push(&image, "unused:1");
    room.pod("user", json!({"restartPolicy": "Never", "containers": [{"name": "main", "image": reference, "command": ["true"]}]}));
    assert_eq!(room.ended("user"), "Succeeded");
    room.delete("Pod", "user");
    room.gone("app=user");
    assert!(cluster.node.image(&reference).is_some());
    // However much of the disk is free, it is too little now.
    let eager =
        json!({"imageGCHighThresholdPercent": 1, "imageGCLowThresholdPercent": 0, "imageMinimumGCAge": "1s"});
    cluster.restart_kubelet_with(eager);
    eventually("the image is gone", SOON * 3, || match cluster.node.image(&reference) {
        None => Ok(()),
        Some(_) => Err("it is there".into()),
    });
    cluster.restart_kubelet_with(json!({}));
    cluster.wait_until_whole();
    assert!(cluster.node.image(&e2e::cluster::images::name_of("etcd")).is_some(), "what is in use stays");
}

fn logs_rotate_under_load_and_no_line_is_lost(cluster: &Cluster) {
    const LINES: usize = 200_000;
    let room = cluster.room("rotation");
    // 30 bytes and more a line, and a pause so that the kubelet comes round.
    let line = format!(
        "i=0; while [ $i -lt {LINES} ]; do n=$((i+5000)); while [ $i -lt $n ]; do echo line number $i of many; i=$((i+1)); done; usleep 500000; done; touch /tmp/done; sleep 1000"
    );
    let more =
        json!({"readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/done"]}, "periodSeconds": 1}});
    let pod = room.shell("talker", &line, more);
    room.ready("talker");
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let dir = cluster.place.dir.join("log/pods").join(format!("{}_talker_{uid}/main", room.name));
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().flatten().map(|entry| entry.path()).collect();
    // 0.log.<time>[.gz] in their order, then 0.log.
    files.sort();
    files.rotate_left(1);
    assert!(files.len() >= 3, "it rotated: {files:?}");
    let mut text = String::new();
    for file in &files {
        let bytes = std::fs::File::open(file).unwrap();
        if file.extension().is_some_and(|ending| ending == "gz") {
            flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
        } else {
            let mut bytes = bytes;
            bytes.read_to_string(&mut text).unwrap();
        }
    }
    let wrong = text
        .lines()
        .enumerate()
        .find(|(number, line)| !line.ends_with(&format!(" line number {number} of many")));
    assert!(wrong.is_none(), "not in order: {wrong:?}");
    assert_eq!(text.lines().count(), LINES);
}
