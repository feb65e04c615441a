//! A pod's and a container's security context in their parts, and runtime classes.

use e2e::cluster::Cluster;
use e2e::cluster::room::{container, status_of};
use serde_json::{Value, json};

tests![
    users_and_groups,
    capabilities_and_no_new_privileges,
    privileged_and_unprivileged,
    read_only_root,
    seccomp_profiles,
    proc_mount_masks,
    proc_unmasked_in_a_user_namespace,
    what_the_node_cannot_do_is_refused_in_words,
    run_as_non_root_is_refused_in_words,
    runtime_classes,
];

/// Runs a line once under a pod's and a container's security context; its log.
fn under(cluster: &Cluster, name: &str, pod: Value, main: Value, line: &str) -> String {
    let room = cluster.room(name);
    let spec = json!({
        "restartPolicy": "Never", "securityContext": pod,
        "containers": [container("main", line, json!({
            "securityContext": main, "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
        }))],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    });
    room.pod("main", spec);
    let phase = room.ended("main");
    let log = room.kubectl(&["logs", "main"]).ok();
    assert_eq!(phase, "Succeeded", "{log}");
    log
}

fn users_and_groups(cluster: &Cluster) {
    let pod = json!({"runAsUser": 1000, "runAsGroup": 3000, "supplementalGroups": [4000], "fsGroup": 5000});
    let log = under(
        cluster,
        "users",
        pod,
        json!({}),
        "id -u; id -g; id -G; stat -c '%g %A' /scratch; touch /scratch/x && stat -c %g /scratch/x",
    );
    let mut lines = log.lines();
    assert_eq!((lines.next(), lines.next()), (Some("1000"), Some("3000")));
    let groups: Vec<&str> = lines.next().unwrap().split(' ').collect();
    // `app` of the image's /etc/group has `extra`, 2000: Merge is the default policy.
    for group in ["3000", "4000", "5000", "2000"] {
        assert!(groups.contains(&group), "{groups:?}");
    }
    assert_eq!((lines.next(), lines.next()), (Some("5000 drwxrwsrwx"), Some("5000")));
    let strict = json!({"runAsUser": 1000, "runAsGroup": 3000, "supplementalGroups": [4000], "supplementalGroupsPolicy": "Strict"});
    assert_eq!(
        under(cluster, "strict", strict, json!({"runAsUser": 1001}), "id -u; id -G"),
        "1001\n3000 4000\n"
    );
}

fn capabilities_and_no_new_privileges(cluster: &Cluster) {
    let show = "grep -E 'CapEff|NoNewPrivs' /proc/self/status | cut -f2";
    let log = under(
        cluster,
        "caps",
        json!({}),
        json!({
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}, "allowPrivilegeEscalation": false,
        }),
        show,
    );
    assert_eq!(log, "0000000000000400\n1\n");
    let log = under(
        cluster,
        "caps",
        json!({}),
        json!({"capabilities": {"add": ["NET_ADMIN"]}}),
        "ip link add dummy1 type dummy 2>&1 && echo made; grep NoNewPrivs /proc/self/status | cut -f2",
    );
    assert!(log.ends_with("0\n"), "{log}");
    assert!(log.contains("made") || log.contains("not supported") || log.contains("Unknown device"), "{log}");
}

fn privileged_and_unprivileged(cluster: &Cluster) {
    let line = "mount -t tmpfs tmpfs /scratch 2>/dev/null && echo mounts; test -w /sys/fs/cgroup && touch /proc/sys/kernel/domainname 2>/dev/null && echo proc; ls /dev | wc -l";
    let log = under(cluster, "privileged", json!({}), json!({"privileged": true}), line);
    assert!(log.starts_with("mounts\n"), "{log}");
    let log = under(cluster, "unprivileged", json!({}), json!({}), line);
    assert!(!log.contains("mounts"), "{log}");
}

fn read_only_root(cluster: &Cluster) {
    let log = under(
        cluster,
        "root",
        json!({}),
        json!({"readOnlyRootFilesystem": true}),
        "touch /x 2>&1 | grep -o 'Read-only'; touch /scratch/x && echo scratch",
    );
    assert_eq!(log, "Read-only\nscratch\n");
}

fn seccomp_profiles(cluster: &Cluster) {
    let line =
        "grep -E '^Seccomp:' /proc/self/status | cut -f2; unshare -U true 2>/dev/null && echo unshares";
    let of = |kind: &str| json!({"seccompProfile": {"type": kind}});
    assert!(
        under(cluster, "seccomp", of("RuntimeDefault"), json!({}), &format!("{line}; true"))
            .starts_with("2\n")
    );
    assert!(
        under(cluster, "seccomp", of("Unconfined"), json!({}), &format!("{line}; true")).starts_with("0\n")
    );
    // A profile of the node's, below the kubelet's directory.
    let profiles = cluster.place.dir.join("lib/kubelet/seccomp");
    std::fs::create_dir_all(&profiles).unwrap();
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chmod", "fchmod", "fchmodat"], "action": "SCMP_ACT_ERRNO"}]});
    std::fs::write(profiles.join("nochmod.json"), profile.to_string()).unwrap();
    let local = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "nochmod.json"}});
    let log = under(
        cluster,
        "seccomp",
        json!({}),
        local,
        "touch /scratch/x; chmod 600 /scratch/x 2>&1 | grep -o 'not permitted'",
    );
    assert_eq!(log, "not permitted\n");
}

fn proc_mount_masks(cluster: &Cluster) {
    let line = "head -c 1 /proc/kcore 2>/dev/null | wc -c; touch /proc/sys/kernel/panic 2>/dev/null || echo read-only; \
        echo 1 > /proc/sys/kernel/panic 2>/dev/null || echo refused";
    let log = under(cluster, "masks", json!({}), json!({}), line);
    assert!(log.starts_with("0\n") && log.contains("refused"), "{log}");
}

fn proc_unmasked_in_a_user_namespace(cluster: &Cluster) {
    let room = cluster.room("unmasked");
    for (kind, masked) in [("Unmasked", false), ("Default", true)] {
        let name = kind.to_lowercase();
        room.pod(&name, json!({
            "hostUsers": false, "runtimeClassName": "runc", "terminationGracePeriodSeconds": 1,
            "containers": [container("main", "sleep 1000", json!({"securityContext": {"procMount": kind}}))],
        }));
        room.ready(&name);
        let over = room.exec(&name, "grep -c ' /proc/' /proc/mounts").stdout;
        assert_eq!(over.trim() != "0", masked, "{kind}: {over} mounts over /proc");
    }
}

/// This machine has neither SELinux nor AppArmor: a pod that counts on one must not run without it.
fn what_the_node_cannot_do_is_refused_in_words(cluster: &Cluster) {
    let room = cluster.room("lsm");
    let selinux = cluster.node.machine.sh("test -e /sys/fs/selinux/enforce && echo yes || echo no");
    if selinux == "no\n" {
        room.shell(
            "selinux",
            "sleep 1000",
            json!({"securityContext": {"seLinuxOptions": {"type": "container_t"}}}),
        );
        let message = room.wait_pod("selinux", "waits with CreateContainerError", |pod| {
            let waiting = &status_of(pod, "main")["state"]["waiting"];
            (waiting["reason"] == "CreateContainerError")
                .then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
        });
        assert!(message.contains("SELinux"), "{message}");
    }
    let apparmor =
        cluster.node.machine.sh("cat /sys/module/apparmor/parameters/enabled 2>/dev/null || echo N");
    if apparmor == "N\n" {
        room.shell(
            "apparmor",
            "sleep 1000",
            json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}),
        );
        let message = room.wait_pod("apparmor", "is refused", |pod| {
            let reason = pod["status"]["reason"] == "AppArmor" || pod["status"]["phase"] == "Failed";
            reason.then(|| pod["status"]["message"].as_str().unwrap_or_default().to_owned())
        });
        assert!(message.contains("AppArmor"), "{message}");
    }
}

fn run_as_non_root_is_refused_in_words(cluster: &Cluster) {
    let room = cluster.room("nonroot");
    room.shell("root", "sleep 1000", json!({"securityContext": {"runAsNonRoot": true}}));
    let event = room.event("root", "runAsNonRoot");
    assert!(event.contains("root"), "{event}");
}

fn runtime_classes(cluster: &Cluster) {
    let room = cluster.room("classes");
    for handler in ["crun", "runc"] {
        room.pod(handler, json!({"terminationGracePeriodSeconds": 1, "runtimeClassName": handler, "containers": [container("main", "sleep 1000", json!({}))]}));
    }
    // Each runtime keeps what it knows of a container in a file that the other one has not.
    let kept = ["status", "state.json"];
    for (handler, own) in ["crun", "runc"].into_iter().zip(kept) {
        let pod = room.ready(handler);
        assert_eq!(room.exec(handler, "echo in $HOSTNAME").ok(), format!("in {handler}\n"));
        let sandboxes = cluster.node.pods();
        let of_it = |one: &&api::v1::PodSandbox| {
            one.metadata.as_ref().is_some_and(|of| of.namespace == room.name && of.name == handler)
        };
        let sandbox = sandboxes.iter().find(of_it).unwrap();
        assert_eq!(sandbox.runtime_handler, handler);
        let id = status_of(&pod, "main")["containerID"].as_str().unwrap().rsplit('/').next().unwrap();
        let state = cluster.node.machine.path(&cluster.node.config.state);
        let state = state.join("runtimes").join(handler).join(id);
        let there: Vec<&str> = kept.into_iter().filter(|file| state.join(file).exists()).collect();
        assert_eq!(there, [own], "{handler} in {}", state.display());
    }
    // A class whose handler no node has.
    let class = format!("absent-{}", room.name);
    let object = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": class}, "handler": "absent"});
    cluster.api.apply(&object).unwrap();
    room.pod(
        "absent",
        json!({"runtimeClassName": class, "containers": [container("main", "sleep 1000", json!({}))]}),
    );
    let event = room.event("absent", "FailedCreatePodSandBox");
    cluster.api.delete("RuntimeClass", "", &class).unwrap();
    assert!(event.contains("absent"), "{event}");
}
