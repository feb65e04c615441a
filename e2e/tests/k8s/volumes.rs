//! Volumes of every kind that needs no driver, and how mounts travel.

use e2e::cluster::Cluster;
use e2e::cluster::room::SOON;
use e2e::cluster::room::{busybox, container};
use e2e::eventually;
use serde_json::json;

tests![
    config_maps_secrets_projected_and_downward,
    a_changed_config_map_arrives,
    empty_dirs_on_disk_and_in_memory,
    sub_paths,
    image_volumes,
    mount_propagation_both_ways,
    read_only_and_recursive_read_only,
];

fn config_maps_secrets_projected_and_downward(cluster: &Cluster) {
    let room = cluster.room("config");
    room.apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"greeting": "hello", "other": "x"}}));
    room.apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"word": "hush"}}));
    let more = json!({
        "env": [
            {"name": "GREETING_OF_MAP", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "greeting"}}},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
        ],
        "envFrom": [{"prefix": "S_", "secretRef": {"name": "s"}}],
        "resources": {"limits": {"memory": "64Mi"}},
        "volumeMounts": [
            {"name": "map", "mountPath": "/map"}, {"name": "secret", "mountPath": "/secret"},
            {"name": "projected", "mountPath": "/projected"}, {"name": "downward", "mountPath": "/downward"},
        ],
    });
    let line = "cat /map/renamed /secret/word /projected/greeting /downward/labels; echo; test -s /projected/token && echo token; \
        echo $GREETING_OF_MAP $S_word $LIMIT; test $POD_IP = $(hostname -i) && echo address; stat -Lc %a /secret/word";
    room.pod("config", json!({
        "restartPolicy": "Never", "containers": [container("main", line, more)],
        "volumes": [
            {"name": "map", "configMap": {"name": "c", "items": [{"key": "greeting", "path": "renamed"}]}},
            {"name": "secret", "secret": {"secretName": "s", "defaultMode": 0o400}},
            {"name": "projected", "projected": {"sources": [
                {"configMap": {"name": "c"}}, {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
            ]}},
            {"name": "downward", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ],
    }));
    let phase = room.ended("config");
    let log = room.kubectl(&["logs", "config"]).ok();
    assert_eq!(phase, "Succeeded", "{log}");
    assert_eq!(log, "hellohushhelloapp=\"config\"\ntoken\nhello hush 67108864\naddress\n400\n");
}

fn a_changed_config_map_arrives(cluster: &Cluster) {
    let room = cluster.room("changed");
    let map = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"key": value}});
    room.apply(map("before"));
    let main =
        container("main", "sleep 1000", json!({"volumeMounts": [{"name": "map", "mountPath": "/map"}]}));
    room.pod("reader", json!({"terminationGracePeriodSeconds": 1, "containers": [main], "volumes": [{"name": "map", "configMap": {"name": "c"}}]}));
    room.ready("reader");
    assert_eq!(room.exec("reader", "cat /map/key").ok(), "before");
    room.apply(map("after"));
    // The kubelet looks at a pod once a minute or so, sooner when something of it changes.
    let mut look = 0;
    eventually("the new content arrives", SOON * 2, || {
        look += 1;
        let _ = room.kubectl(&["annotate", "--overwrite", "pod", "reader", &format!("look={look}")]);
        let said = room.exec("reader", "cat /map/key").stdout;
        if said == "after" { Ok(()) } else { Err(said) }
    });
}

fn empty_dirs_on_disk_and_in_memory(cluster: &Cluster) {
    let room = cluster.room("empty");
    let mounts = json!({"volumeMounts": [{"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"}]});
    let writer = container("writer", "echo shared > /disk/word; sleep 1000", mounts.clone());
    let reader = container("reader", "sleep 1000", mounts);
    room.pod("both", json!({
        "terminationGracePeriodSeconds": 1, "containers": [writer, reader],
        "volumes": [{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}}],
    }));
    room.ready("both");
    let read = |line: &str| room.kubectl(&["exec", "both", "-c", "reader", "--", "sh", "-c", line]);
    eventually("the other's word is there", SOON, || match read("cat /disk/word") {
        said if said.stdout == "shared\n" => Ok(()),
        said => Err(format!("{said:?}")),
    });
    assert!(read("grep ' /memory ' /proc/mounts").ok().contains("tmpfs"));
    assert!(read("dd if=/dev/zero of=/memory/big bs=1M count=16").fails().contains("No space left"));
}

fn sub_paths(cluster: &Cluster) {
    let room = cluster.room("subpath");
    room.apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"page": "of the map\n"}}));
    let line = "cat /www/index.html; echo mine > /data/mine; ls /all/$POD /data";
    let more = json!({
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "volumeMounts": [
            {"name": "map", "mountPath": "/www/index.html", "subPath": "page"},
            {"name": "dir", "mountPath": "/data", "subPathExpr": "$(POD)"},
            {"name": "dir", "mountPath": "/all"},
        ],
    });
    room.pod(
        "part",
        json!({
            "restartPolicy": "Never", "containers": [container("main", line, more)],
            "volumes": [{"name": "map", "configMap": {"name": "c"}}, {"name": "dir", "emptyDir": {}}],
        }),
    );
    let phase = room.ended("part");
    let log = room.kubectl(&["logs", "part"]).ok();
    assert_eq!(
        (phase.as_str(), log.as_str()),
        ("Succeeded", "of the map\n/all/part:\nmine\n\n/data:\nmine\n")
    );
}

fn image_volumes(cluster: &Cluster) {
    let room = cluster.room("imagevolume");
    let mounts = json!({"volumeMounts": [
        {"name": "image", "mountPath": "/image"}, {"name": "image", "mountPath": "/page", "subPath": "www"},
    ]});
    let line = "cat /image/www/index.html /page/index.html; touch /image/x 2>&1 | grep -o Read-only";
    room.pod(
        "volume",
        json!({
            "restartPolicy": "Never", "containers": [container("main", line, mounts)],
            "volumes": [{"name": "image", "image": {"reference": busybox(), "pullPolicy": "IfNotPresent"}}],
        }),
    );
    let phase = room.ended("volume");
    let log = room.kubectl(&["logs", "volume"]).ok();
    assert_eq!(
        (phase.as_str(), log.as_str()),
        ("Succeeded", "hello from busybox\nhello from busybox\nRead-only\n")
    );
    // A reference that is nowhere is told in words.
    room.pod("nowhere", json!({
        "containers": [container("main", "sleep 1000", json!({"volumeMounts": [{"name": "image", "mountPath": "/image"}]}))],
        "volumes": [{"name": "image", "image": {"reference": "127.0.0.1:5000/nowhere:1"}}],
    }));
    let event = room.event("nowhere", "Failed to pull image");
    assert!(event.contains("nowhere:1") && event.contains("not found"), "{event}");
}

fn mount_propagation_both_ways(cluster: &Cluster) {
    let room = cluster.room("propagation");
    let dir = cluster.place.dir.join(&room.name);
    let mount = |how: &str| json!({"volumeMounts": [{"name": "host", "mountPath": "/host", "mountPropagation": how}]});
    let mut master = container("master", "sleep 1000", mount("Bidirectional"));
    master["securityContext"] = json!({"privileged": true});
    let containers = [
        master,
        container("slave", "sleep 1000", mount("HostToContainer")),
        container("private", "sleep 1000", mount("None")),
    ];
    room.pod(
        "travel",
        json!({
            "terminationGracePeriodSeconds": 1, "containers": containers,
            "volumes": [{"name": "host", "hostPath": {"path": dir, "type": "DirectoryOrCreate"}}],
        }),
    );
    room.ready("travel");
    let of = |container: &str, line: &str| {
        room.kubectl(&["exec", "travel", "-c", container, "--", "sh", "-c", line])
    };
    of("master", "mkdir /host/at && mount -t tmpfs tmpfs /host/at && echo seen > /host/at/word").ok();
    let word = dir.join("at/word").display().to_string();
    assert_eq!(cluster.node.machine.sh(&format!("cat {word}")), "seen\n", "the host sees it");
    assert_eq!(of("slave", "cat /host/at/word").ok(), "seen\n");
    of("private", "cat /host/at/word").fails();
    of("master", "umount /host/at").ok();
    of("slave", "cat /host/at/word").fails();
}

fn read_only_and_recursive_read_only(cluster: &Cluster) {
    let room = cluster.room("readonly");
    let dir = cluster.place.dir.join(&room.name);
    let below = dir.join("below").display().to_string();
    cluster.node.machine.sh(&format!("mkdir -p {below} && mount -t tmpfs tmpfs {below}"));
    let mounts = json!({"volumeMounts": [
        {"name": "host", "mountPath": "/plain", "readOnly": true, "mountPropagation": "None"},
        {"name": "host", "mountPath": "/whole", "readOnly": true, "recursiveReadOnly": "Enabled", "mountPropagation": "None"},
    ]});
    let line = "touch /plain/x 2>/dev/null || echo plain; touch /plain/below/x && echo but below; \
        touch /whole/x 2>/dev/null || echo whole; touch /whole/below/x 2>/dev/null || echo and below";
    let made = room.try_apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ro"},
        "spec": {
            "restartPolicy": "Never", "containers": [container("main", line, mounts)],
            "volumes": [{"name": "host", "hostPath": {"path": dir}}],
        },
    }));
    made.unwrap();
    let phase = room.ended("ro");
    let log = room.kubectl(&["logs", "ro"]).ok();
    cluster.node.machine.sh(&format!("umount {below}"));
    assert_eq!((phase.as_str(), log.as_str()), ("Succeeded", "plain\nbut below\nwhole\nand below\n"));
}
