//! How containers begin, end and begin again: init, sidecar and ephemeral containers, hooks, signals, messages.

use std::time::{Duration, Instant};

use e2e::cluster::Cluster;
use e2e::cluster::room::{SOON, busybox, container, status_of};
use e2e::{eventually, patient};
use serde_json::{Value, json};

tests![
    init_containers_in_their_order_then_a_sidecar,
    a_sidecar_outlives_what_it_serves,
    an_ephemeral_container_looks_into_its_target,
    hooks_run_before_and_after,
    a_failing_post_start_hook_kills,
    grace_period_then_kill,
    a_custom_stop_signal,
    crash_loop_and_the_log_of_before,
    termination_messages,
    create_container_errors_are_readable,
];

fn spec(containers: Value) -> Value {
    json!({"terminationGracePeriodSeconds": 1, "containers": containers})
}

pub(crate) fn init_containers_in_their_order_then_a_sidecar(cluster: &Cluster) {
    let room = cluster.room("init");
    let mount = json!({"volumeMounts": [{"name": "work", "mountPath": "/work"}]});
    let step = |name: &str| container(name, &format!("echo {name} >> /work/steps"), mount.clone());
    let mut sidecar = container("sidecar", "echo sidecar >> /work/steps; sleep 1000", mount.clone());
    sidecar["restartPolicy"] = json!("Always");
    sidecar["startupProbe"] = json!({"exec": {"command": ["grep", "sidecar", "/work/steps"]}, "periodSeconds": 1, "timeoutSeconds": 15, "failureThreshold": 60});
    let mut pod = spec(json!([container("main", "echo main >> /work/steps; sleep 1000", mount.clone())]));
    pod["initContainers"] = json!([step("first"), step("second"), sidecar]);
    pod["volumes"] = json!([{"name": "work", "emptyDir": {}}]);
    room.pod("steps", pod);
    let ready = room.ready("steps");
    eventually("all steps are there in their order", SOON, || {
        let steps = room.kubectl(&["exec", "steps", "-c", "main", "--", "cat", "/work/steps"]).ok();
        if steps == "first\nsecond\nsidecar\nmain\n" { Ok(()) } else { Err(steps) }
    });
    assert_eq!(status_of(&ready, "first")["state"]["terminated"]["exitCode"], 0);
    assert!(status_of(&ready, "sidecar")["state"]["running"].is_object());
}

fn a_sidecar_outlives_what_it_serves(cluster: &Cluster) {
    let room = cluster.room("sidecar");
    let mut sidecar = container("sidecar", "trap 'echo last; exit 0' TERM; sleep 1000 & wait", json!({}));
    sidecar["restartPolicy"] = json!("Always");
    let pod = json!({
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 5,
        "initContainers": [sidecar], "containers": [container("main", "sleep 1; echo done", json!({}))],
    });
    room.pod("served", pod);
    assert_eq!(room.ended("served"), "Succeeded");
    let pod = room.get("Pod", "served").unwrap();
    let end = |name: &str| {
        status_of(&pod, name)["state"]["terminated"]["finishedAt"].as_str().unwrap_or_default().to_string()
    };
    assert!(end("sidecar") >= end("main") && !end("main").is_empty(), "{}", pod["status"]);
    assert_eq!(room.kubectl(&["logs", "served", "-c", "sidecar"]).ok(), "last\n");
}

fn an_ephemeral_container_looks_into_its_target(cluster: &Cluster) {
    let room = cluster.room("debug");
    room.shell("target", "sleep 1234", json!({}));
    room.ready("target");
    let image = format!("--image={}", busybox());
    room.kubectl(&["debug", "target", &image, "--target=main", "-c", "looker", "--", "sleep", "1000"]).ok();
    room.wait_pod("target", "has a looker", |pod| {
        status_of(pod, "looker")["state"]["running"].is_object().then_some(())
    });
    let seen = room.kubectl(&["exec", "target", "-c", "looker", "--", "ps", "-o", "pid,args"]).ok();
    assert!(seen.contains("sleep 1234"), "it sees its target's processes: {seen}");
    let root =
        room.kubectl(&["exec", "target", "-c", "looker", "--", "cat", "/proc/1/root/www/index.html"]).ok();
    assert_eq!(root, "hello from busybox\n");
    assert_eq!(status_of(&room.get("Pod", "target").unwrap(), "main")["restartCount"], 0);
}

fn hooks_run_before_and_after(cluster: &Cluster) {
    let room = cluster.room("hooks");
    let dir = cluster.place.dir.join(&room.name);
    let hooks = json!({
        "volumeMounts": [{"name": "out", "mountPath": "/out"}],
        "lifecycle": {
            "postStart": {"exec": {"command": ["sh", "-c", "echo started > /out/hooks"]}},
            "preStop": {"exec": {"command": ["sh", "-c", "sleep 1; echo stopping >> /out/hooks"]}},
        },
    });
    let main = container("main", "trap 'echo ended >> /out/hooks; exit 0' TERM; sleep 1000 & wait", hooks);
    room.pod(
        "hooked",
        json!({
            "terminationGracePeriodSeconds": 10, "containers": [main],
            "volumes": [{"name": "out", "hostPath": {"path": dir, "type": "DirectoryOrCreate"}}],
        }),
    );
    room.ready("hooked");
    room.delete("Pod", "hooked");
    room.gone("app=hooked");
    assert_eq!(std::fs::read_to_string(dir.join("hooks")).unwrap(), "started\nstopping\nended\n");
}

fn a_failing_post_start_hook_kills(cluster: &Cluster) {
    let room = cluster.room("badhook");
    room.shell("bad", "sleep 1000", json!({"lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "echo no such luck >&2; exit 3"]}}}}));
    // The kubelet keeps to itself what a hook said; the container is killed and tried again.
    room.event("bad", "FailedPostStartHook");
    room.wait_pod("bad", "was killed", |pod| {
        let last = &status_of(pod, "main")["lastState"]["terminated"];
        (last["exitCode"].as_i64() > Some(128)).then_some(())
    });
}

fn grace_period_then_kill(cluster: &Cluster) {
    let room = cluster.room("grace");
    let stubborn = container("main", "trap '' TERM; while :; do sleep 1; done", json!({}));
    room.pod("stubborn", json!({"terminationGracePeriodSeconds": 3, "containers": [stubborn]}));
    room.ready("stubborn");
    let start = Instant::now();
    room.delete("Pod", "stubborn");
    room.gone("app=stubborn");
    let took = start.elapsed();
    assert!((Duration::from_secs(3)..patient(Duration::from_secs(28))).contains(&took), "{took:?}");
}

fn a_custom_stop_signal(cluster: &Cluster) {
    let room = cluster.room("signal");
    let dir = cluster.place.dir.join(&room.name);
    let main = container(
        "main",
        "trap 'echo usr1 > /out/word; exit 0' USR1; trap 'echo term > /out/word; exit 0' TERM; \
         touch /tmp/ready; sleep 1000 & wait",
        json!({"readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "timeoutSeconds": 15}, "volumeMounts": [{"name": "out", "mountPath": "/out"}], "lifecycle": {"stopSignal": "SIGUSR1"}}),
    );
    room.pod(
        "signalled",
        json!({
            "terminationGracePeriodSeconds": 10, "os": {"name": "linux"}, "containers": [main],
            "volumes": [{"name": "out", "hostPath": {"path": dir, "type": "DirectoryOrCreate"}}],
        }),
    );
    room.ready("signalled");
    room.delete("Pod", "signalled");
    room.gone("app=signalled");
    assert_eq!(std::fs::read_to_string(dir.join("word")).unwrap(), "usr1\n");
}

pub(crate) fn crash_loop_and_the_log_of_before(cluster: &Cluster) {
    let room = cluster.room("crash");
    room.shell("crash", "echo attempt $(date +%s%N); sleep 4; exit 5", json!({}));
    room.wait_pod("crash", "runs again", |pod| {
        let status = status_of(pod, "main");
        (status["restartCount"].as_i64() >= Some(1) && status["state"].get("running").is_some()).then_some(())
    });
    // While it runs. When it ends, the kubelet removes the one before at once and goes on calling that one its last until
    // its next look at the pod, after the back-off: then it is the next run's turn.
    eventually("the log of before", SOON, || {
        let said = room.kubectl(&["logs", "--previous", "crash"]);
        if said.code == 0 && said.stdout.starts_with("attempt ") { Ok(()) } else { Err(format!("{said:?}")) }
    });
    room.wait_pod("crash", "loops", |pod| {
        (status_of(pod, "main")["state"]["waiting"]["reason"] == "CrashLoopBackOff").then_some(())
    });
    let pod = room.get("Pod", "crash").unwrap();
    let last = &status_of(&pod, "main")["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(5), &json!("Error")), "{last}");
}

fn termination_messages(cluster: &Cluster) {
    let room = cluster.room("messages");
    let file = container(
        "file",
        "echo from the file > /tmp/why; exit 1",
        json!({"terminationMessagePath": "/tmp/why"}),
    );
    let log = container(
        "log",
        "echo from the log; exit 1",
        json!({"terminationMessagePolicy": "FallbackToLogsOnError"}),
    );
    let good = container("good", "echo hello > /dev/termination-log", json!({}));
    room.pod("why", json!({"restartPolicy": "Never", "containers": [file, log, good]}));
    assert_eq!(room.ended("why"), "Failed");
    let pod = room.get("Pod", "why").unwrap();
    for (name, message) in [("file", "from the file\n"), ("log", "from the log\n"), ("good", "hello\n")] {
        assert_eq!(status_of(&pod, name)["state"]["terminated"]["message"], message, "{name}");
    }
    assert_eq!(status_of(&pod, "good")["state"]["terminated"]["reason"], "Completed");
}

fn create_container_errors_are_readable(cluster: &Cluster) {
    let room = cluster.room("errors");
    let missing =
        json!({"env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "absent", "key": "x"}}}]});
    room.shell("config", "sleep 1", missing);
    let mut absent = spec(json!([container("main", "", json!({}))]));
    absent["containers"][0]["command"] = json!(["/bin/absent"]);
    room.pod("absent", absent);
    let reason = |name: &str, wanted: &[&str]| {
        room.wait_pod(name, &format!("is {wanted:?}"), |pod| {
            let status = status_of(pod, "main");
            let states = [
                &status["state"]["waiting"],
                &status["state"]["terminated"],
                &status["lastState"]["terminated"],
            ];
            states
                .iter()
                .find(|state| wanted.iter().any(|word| state["reason"] == *word))
                .map(|state| state["message"].as_str().unwrap_or_default().to_string())
        })
    };
    assert!(reason("config", &["CreateContainerConfigError"]).contains("absent"));
    let message = reason("absent", &["RunContainerError", "StartError", "CreateContainerError"]);
    assert!(message.contains("/bin/absent"), "{message}");
}
