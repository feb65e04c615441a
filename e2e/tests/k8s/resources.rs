//! Limits, OOM kills, resizing in place, quality of service.

use e2e::cluster::Cluster;
use e2e::cluster::room::{SOON, container, status_of};
use e2e::eventually;
use serde_json::{Value, json};

tests![
    oom_killed,
    resize_in_place_without_a_restart,
    resize_of_a_whole_pod,
    resize_that_wants_a_restart,
    ephemeral_storage_beyond_its_limit_evicts,
    qos_classes_have_their_cgroups,
    limits_are_in_the_kernel,
];

fn limited(requests: Value, limits: Value) -> Value {
    json!({"resources": {"requests": requests, "limits": limits}})
}

pub(crate) fn oom_killed(cluster: &Cluster) {
    let room = cluster.room("oom");
    let main =
        container("main", "x=x; while :; do x=$x$x; done", limited(json!({}), json!({"memory": "32Mi"})));
    room.pod(
        "hungry",
        json!({"restartPolicy": "Never", "containers": [main, container("other", "sleep 5", json!({}))]}),
    );
    assert_eq!(room.ended("hungry"), "Failed");
    let pod = room.get("Pod", "hungry").unwrap();
    let end = &status_of(&pod, "main")["state"]["terminated"];
    assert_eq!((&end["reason"], &end["exitCode"]), (&json!("OOMKilled"), &json!(137)), "{end}");
    assert_eq!(status_of(&pod, "other")["state"]["terminated"]["reason"], "Completed");
}

/// What a container's cgroup says: memory limit in bytes and CPU quota in microseconds of each 100 ms.
const LIMITS: &str = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || \
    cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max";

fn resize_in_place_without_a_restart(cluster: &Cluster) {
    let room = cluster.room("resize");
    let before = json!({"cpu": "100m", "memory": "64Mi"});
    room.pod("grows", json!({"terminationGracePeriodSeconds": 1, "containers": [container("main", "sleep 1000", limited(before.clone(), before))]}));
    room.ready("grows");
    let limits = |room: &e2e::cluster::Room<'_>| {
        room.exec("grows", LIMITS).ok().split_whitespace().map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(limits(&room), ["67108864", "10000"]);
    let after = json!({"cpu": "200m", "memory": "96Mi"});
    let change = json!({"spec": {"containers": [{"name": "main", "resources": {"requests": after, "limits": after}}]}});
    cluster.api.merge("Pod", &room.name, "grows", Some("resize"), &change).unwrap();
    room.wait_pod("grows", "was resized", |pod| {
        let told = &status_of(pod, "main")["resources"]["limits"];
        (told["memory"] == "96Mi" && told["cpu"] == "200m").then_some(())
    });
    assert_eq!(limits(&room), ["100663296", "20000"]);
    let pod = room.get("Pod", "grows").unwrap();
    assert_eq!(status_of(&pod, "main")["restartCount"], 0);
    assert_eq!(status_of(&pod, "main")["allocatedResources"]["memory"], "96Mi");
}

/// A file of a pod's cgroup, by the names that it has on cgroup v1 and v2; nobody's limit there is `max` or -1.
fn of_the_pod(cluster: &Cluster, pod: &Value, v1: &str, v2: &str) -> String {
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let find =
        |file: &str| format!("find /sys/fs/cgroup -maxdepth 7 -path '*/pod{uid}/{file}' -exec cat {{}} +");
    // Others' groups vanish while it looks: that is no failure.
    cluster
        .node
        .machine
        .sh(&format!("{{ {}; {}; }} 2>/dev/null || true", find(v1), find(v2)))
        .trim()
        .to_owned()
}

/// The cgroups of a pod, a line each.
fn groups_of(cluster: &Cluster, uid: &str) -> String {
    let find = format!("find /sys/fs/cgroup -maxdepth 6 -type d -name 'pod{uid}' 2>/dev/null || true");
    cluster.node.machine.sh(&find)
}

fn resize_of_a_whole_pod(cluster: &Cluster) {
    let room = cluster.room("podresize");
    let before = json!({"cpu": "100m", "memory": "64Mi"});
    room.pod("grows", json!({
        "terminationGracePeriodSeconds": 1, "resources": {"requests": before, "limits": before},
        "containers": [container("main", "sleep 1000", json!({})), container("other", "sleep 1000", json!({}))],
    }));
    let pod = room.ready("grows");
    let limits = |pod: &Value| {
        (
            of_the_pod(cluster, pod, "memory.limit_in_bytes", "memory.max"),
            of_the_pod(cluster, pod, "cpu.cfs_quota_us", "cpu.max"),
        )
    };
    assert_eq!(limits(&pod), ("67108864".into(), "10000".into()));
    // Up, then down again.
    for (memory, cpu, bytes, quota) in
        [("96Mi", "200m", "100663296", "20000"), ("80Mi", "150m", "83886080", "15000")]
    {
        let after = json!({"cpu": cpu, "memory": memory});
        let change = json!({"spec": {"resources": {"requests": after, "limits": after}}});
        cluster.api.merge("Pod", &room.name, "grows", Some("resize"), &change).unwrap();
        room.wait_pod("grows", "was resized", |pod| {
            let told = &pod["status"]["resources"]["limits"];
            (told["memory"] == memory && told["cpu"] == cpu).then_some(())
        });
        assert_eq!(limits(&pod), (bytes.into(), quota.into()));
    }
    let pod = room.get("Pod", "grows").unwrap();
    for name in ["main", "other"] {
        assert_eq!(status_of(&pod, name)["restartCount"], 0, "{name}");
    }
}

fn resize_that_wants_a_restart(cluster: &Cluster) {
    let room = cluster.room("resizerestart");
    let before = json!({"cpu": "100m", "memory": "64Mi"});
    let mut main = container("main", "sleep 1000", limited(before.clone(), before));
    main["resizePolicy"] = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    room.pod("again", json!({"terminationGracePeriodSeconds": 1, "containers": [main]}));
    room.ready("again");
    let after = json!({"cpu": "100m", "memory": "80Mi"});
    let change = json!({"spec": {"containers": [{"name": "main", "resources": {"requests": after, "limits": after}}]}});
    cluster.api.merge("Pod", &room.name, "again", Some("resize"), &change).unwrap();
    room.wait_pod("again", "was restarted with its new limit", |pod| {
        let status = status_of(pod, "main");
        (status["restartCount"] == 1 && status["resources"]["limits"]["memory"] == "80Mi").then_some(())
    });
    room.ready("again");
    let told = room.exec("again", LIMITS).ok();
    assert_eq!(told.split_whitespace().collect::<Vec<_>>(), ["83886080", "10000"]);
}

/// The kubelet asks us how much a container wrote.
pub(crate) fn ephemeral_storage_beyond_its_limit_evicts(cluster: &Cluster) {
    let room = cluster.room("ephemeral");
    let limit = json!({"resources": {"limits": {"ephemeral-storage": "4Mi"}}});
    let line = |count: u32| format!("dd if=/dev/zero of=/big bs=1M count={count} 2>/dev/null; sleep 1000");
    for (name, count) in [("writer", 16), ("modest", 1)] {
        room.pod(name, json!({"terminationGracePeriodSeconds": 1, "containers": [container("main", &line(count), limit.clone())]}));
    }
    let message = room.wait_pod("writer", "was evicted", |pod| {
        (pod["status"]["reason"] == "Evicted")
            .then(|| pod["status"]["message"].as_str().unwrap_or_default().to_owned())
    });
    assert!(
        message.contains("local ephemeral storage") || message.contains("ephemeral local storage"),
        "{message}"
    );
    room.ready("modest");
}

fn qos_classes_have_their_cgroups(cluster: &Cluster) {
    let room = cluster.room("qos");
    let same = json!({"cpu": "50m", "memory": "32Mi"});
    let pods = [
        ("guaranteed", limited(same.clone(), same), "Guaranteed"),
        ("burstable", limited(json!({"cpu": "50m"}), json!({})), "Burstable"),
        ("besteffort", json!({}), "BestEffort"),
    ];
    for (name, resources, _) in &pods {
        room.pod(name, json!({"terminationGracePeriodSeconds": 1, "containers": [container("main", "sleep 1000", resources.clone())]}));
    }
    for (name, _, class) in &pods {
        let pod = room.ready(name);
        assert_eq!(pod["status"]["qosClass"], *class);
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let group = groups_of(cluster, uid);
        let within = format!(
            "{}/kubepods/{}",
            cluster.place.cgroup,
            if *name == "guaranteed" { String::new() } else { format!("{name}/") }
        );
        assert!(!group.is_empty() && group.lines().all(|line| line.contains(&within)), "{name}: {group}");
        let score: i64 = room.exec(name, "cat /proc/1/oom_score_adj").ok().trim().parse().unwrap();
        match *name {
            "besteffort" => assert_eq!(score, 1000),
            "burstable" => assert!((2..1000).contains(&score), "{score}"),
            // -997, or as low as a service without CAP_SYS_RESOURCE may go.
            _ => assert!(score <= 0, "{score}"),
        }
    }
    let uids: Vec<String> =
        room.pods("").iter().map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_string()).collect();
    for (name, _, _) in &pods {
        room.delete("Pod", name);
        room.gone(&format!("app={name}"));
    }
    eventually("their cgroups are gone", SOON, || {
        let left: String = uids.iter().map(|uid| groups_of(cluster, uid)).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

fn limits_are_in_the_kernel(cluster: &Cluster) {
    let room = cluster.room("limits");
    let log =
        room.once("told", LIMITS, limited(json!({"cpu": "250m"}), json!({"cpu": "500m", "memory": "48Mi"})));
    assert_eq!(log.split_whitespace().collect::<Vec<_>>(), ["50331648", "50000"]);
}
