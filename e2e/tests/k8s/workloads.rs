//! Deployments, Jobs, StatefulSets, DaemonSets and static pods.

use e2e::cluster::manifests::{daemon_set, deployment};
use e2e::cluster::room::{SOON, agnhost, container, status_of};
use e2e::cluster::{Cluster, NODE};
use e2e::eventually;
use serde_json::{Value, json};

tests![
    deployment_with_every_kind_of_probe,
    a_failing_liveness_probe_restarts_alone,
    a_probe_that_hangs_has_failed,
    rolling_update_is_never_without_an_answer,
    job_counts_exit_codes,
    job_pod_failure_policy_by_exit_code,
    job_active_deadline,
    cron_job,
    stateful_set_keeps_its_host_path,
    daemon_set_has_a_pod_on_the_node,
    static_pod_and_its_mirror,
];

/// A web server that says `word`, and ends soon when it is asked to.
pub(crate) fn web(word: &str) -> Value {
    let line = format!("echo {word} > /www/index.html; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait");
    container(
        "web",
        &line,
        json!({
            "ports": [{"containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1, "timeoutSeconds": 15},
            // As people do who lose no request: the endpoints learn of the end before the server does.
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "3"]}}},
        }),
    )
}

/// A service before pods with that label.
pub(crate) fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

pub(crate) fn deployment_with_every_kind_of_probe(cluster: &Cluster) {
    let room = cluster.room("probes");
    // A busy machine may take more than a second for an answer.
    let grpc = json!({
        "name": "grpc", "image": agnhost(), "args": ["grpc-health-checking", "--port", "5000", "--http-port", "8081"],
        "startupProbe": {"grpc": {"port": 5000}, "periodSeconds": 1, "timeoutSeconds": 15, "failureThreshold": 60},
        "livenessProbe": {"grpc": {"port": 5000}, "periodSeconds": 1, "timeoutSeconds": 15},
        "readinessProbe": {"grpc": {"port": 5000}, "periodSeconds": 1, "timeoutSeconds": 15},
    });
    let mut web = web("hello");
    web["startupProbe"] = json!({"exec": {"command": ["test", "-e", "/www/index.html"]}, "periodSeconds": 1, "timeoutSeconds": 15});
    // The page is of the image: the server may not listen yet when the startup probe is over.
    web["livenessProbe"] = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 15, "failureThreshold": 30});
    let execd = container(
        "execd",
        "touch /tmp/ready; sleep 1000",
        json!({
            "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1, "timeoutSeconds": 15},
            "readinessProbe": {"exec": {"command": ["cat", "/tmp/ready"]}, "periodSeconds": 1, "timeoutSeconds": 15},
        }),
    );
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [web, grpc, execd]});
    room.apply(deployment("probed", 2, spec));
    room.rolled_out("Deployment", "probed");
    // Some rounds of each probe later nobody was restarted.
    std::thread::sleep(std::time::Duration::from_secs(5));
    for pod in room.pods("app=probed") {
        for name in ["web", "grpc", "execd"] {
            assert_eq!(
                status_of(&pod, name)["restartCount"],
                0,
                "{name}: {}; {:?}",
                pod["status"],
                room.events("")
            );
        }
    }
}

fn a_failing_liveness_probe_restarts_alone(cluster: &Cluster) {
    let room = cluster.room("liveness");
    let probe = json!({"livenessProbe": {"exec": {"command": ["test", "!", "-e", "/tmp/ill"]}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 1}});
    let well = container("well", "sleep 1000", json!({}));
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [container("main", "sleep 1000", probe), well]});
    room.pod("ill", spec);
    room.ready("ill");
    room.exec("ill", "touch /tmp/ill").ok();
    room.wait_pod("ill", "was restarted", |pod| {
        (status_of(pod, "main")["restartCount"].as_i64() >= Some(1)).then_some(())
    });
    let pod = room.ready("ill");
    assert_eq!(status_of(&pod, "well")["restartCount"], 0);
    assert!(room.event("ill", "Unhealthy").contains("Liveness"));
}

fn a_probe_that_hangs_has_failed(cluster: &Cluster) {
    let room = cluster.room("hanging");
    let probe = json!({"exec": {"command": ["sh", "-c", "sleep 1234 & sleep 1234"]}, "periodSeconds": 1, "timeoutSeconds": 1});
    room.shell("main", "sleep 1000", json!({"readinessProbe": probe}));
    let event = room.event("main", "Unhealthy");
    assert!(event.contains("Readiness") && event.contains("timed out"), "{event}");
    // Some of them later there is one at most, with its child.
    eventually("it failed thrice", SOON, || {
        let events = cluster.api.list("Event", &room.name, "").unwrap_or_default();
        let count = events
            .iter()
            .filter(|event| event["reason"] == "Unhealthy")
            .filter_map(|event| event["count"].as_i64())
            .sum::<i64>();
        if count >= 3 { Ok(()) } else { Err(count.to_string()) }
    });
    // The one before it may just be being killed.
    eventually("one of them is there at most", SOON, || {
        let said = room.exec("main", "ps -o args | grep -c '^sleep 1234'");
        match said.stdout.trim().parse::<u32>() {
            Ok(..=2) => Ok(()),
            _ => Err(format!("{said:?}")),
        }
    });
    assert_eq!(status_of(&room.get("Pod", "main").unwrap(), "main")["restartCount"], 0);
}

fn rolling_update_is_never_without_an_answer(cluster: &Cluster) {
    let room = cluster.room("rolling");
    let spec = |word: &str| {
        // Every proxy has heard by then, on a busy machine too.
        let mut web = web(word);
        web["lifecycle"]["preStop"]["exec"]["command"] = json!(["sleep", "10"]);
        json!({"terminationGracePeriodSeconds": 20, "containers": [web]})
    };
    let mut object = deployment("rolling", 2, spec("old"));
    object["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    room.apply(service("rolling"));
    room.apply(object.clone());
    room.rolled_out("Deployment", "rolling");
    let load = crate::network::Load::start(cluster, &room, "rolling");
    object["spec"]["template"]["spec"] = spec("new");
    room.apply(object);
    room.rolled_out("Deployment", "rolling");
    eventually("only new pods answer", SOON, || match load.last() {
        Some(answer) if answer == "new\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    load.stop().none_failed();
    room.kubectl(&["rollout", "undo", "deployment/rolling"]).ok();
    room.rolled_out("Deployment", "rolling");
}

/// A Job of one busybox pod that runs `line`; `more` are fields of its specification.
fn job(name: &str, line: &str, more: Value) -> Value {
    let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container("main", line, json!({}))]});
    let mut job =
        json!({"backoffLimit": 0, "template": {"metadata": {"labels": {"app": name}}, "spec": spec}});
    if let (Value::Object(job), Value::Object(more)) = (&mut job, more) {
        job.extend(more);
    }
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": job})
}

/// Waits for the reason with which a Job ended in a condition.
fn job_ends(room: &e2e::cluster::Room<'_>, name: &str, condition: &str) -> String {
    eventually(&format!("job {name} is {condition}"), SOON * 2, || {
        let job = room.get("Job", name).unwrap_or_default();
        let conditions = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|found| found["type"] == condition && found["status"] == "True");
        found
            .map(|found| found["reason"].as_str().unwrap_or_default().to_string())
            .ok_or_else(|| job["status"].to_string())
    })
}

pub(crate) fn job_counts_exit_codes(cluster: &Cluster) {
    let room = cluster.room("jobs");
    room.apply(job("good", "echo done", json!({"completions": 3, "parallelism": 2})));
    room.apply(job("bad", "exit 42", json!({"backoffLimit": 1})));
    job_ends(&room, "good", "Complete");
    assert_eq!(room.get("Job", "good").unwrap()["status"]["succeeded"], 3);
    assert_eq!(job_ends(&room, "bad", "Failed"), "BackoffLimitExceeded");
    let pods = room.pods("app=bad");
    assert_eq!(pods.len(), 2, "one try and one again");
    for pod in pods {
        assert_eq!(status_of(&pod, "main")["state"]["terminated"]["exitCode"], 42);
        assert_eq!(status_of(&pod, "main")["state"]["terminated"]["reason"], "Error");
    }
}

fn job_pod_failure_policy_by_exit_code(cluster: &Cluster) {
    let room = cluster.room("policy");
    let policy = json!({"backoffLimit": 5, "podFailurePolicy": {"rules": [
        {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [7]}},
    ]}});
    room.apply(job("seven", "exit 7", policy));
    assert_eq!(job_ends(&room, "seven", "Failed"), "PodFailurePolicy");
    assert_eq!(room.pods("app=seven").len(), 1, "nobody tried again");
}

fn job_active_deadline(cluster: &Cluster) {
    let room = cluster.room("deadline");
    room.apply(job("late", "sleep 1000", json!({"activeDeadlineSeconds": 3})));
    assert_eq!(job_ends(&room, "late", "Failed"), "DeadlineExceeded");
    eventually("its pod is gone", SOON, || {
        if room.pods("app=late").is_empty() { Ok(()) } else { Err(cluster.pods_in_words(&room.name)) }
    });
}

fn cron_job(cluster: &Cluster) {
    let room = cluster.room("cron");
    let template = job("tick", "date", json!({}))["spec"].clone();
    room.apply(json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": template}},
    }));
    room.kubectl(&["create", "job", "--from=cronjob/tick", "by-hand"]).ok();
    job_ends(&room, "by-hand", "Complete");
    // The one by hand is the CronJob's too; its own are called by the minute.
    let job = eventually("its time has come", SOON * 2, || {
        let jobs = cluster.api.list("Job", &room.name, "").unwrap_or_default();
        let names = jobs.iter().filter_map(|job| job["metadata"]["name"].as_str());
        names.map(str::to_owned).find(|name| name.starts_with("tick-")).ok_or_else(|| "no Job yet".into())
    });
    job_ends(&room, &job, "Complete");
}

fn stateful_set_keeps_its_host_path(cluster: &Cluster) {
    let room = cluster.room("stateful");
    let data = cluster.place.dir.join("stateful-data");
    let main = container(
        "main",
        "date +%N >> /data/$HOSTNAME; sleep 1000",
        json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}),
    );
    room.apply(json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {
            "replicas": 2, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1, "containers": [main],
                    "volumes": [{"name": "data", "hostPath": {"path": data, "type": "DirectoryOrCreate"}}],
                },
            },
        },
    }));
    room.rolled_out("StatefulSet", "db");
    let before = room.get("Pod", "db-0").unwrap()["metadata"]["uid"].clone();
    room.delete("Pod", "db-0");
    room.wait_pod("db-0", "is another", |pod| (pod["metadata"]["uid"] != before).then_some(()));
    room.ready("db-0");
    // Running is not yet to have written.
    eventually("the other wrote beside the one of before", SOON, || {
        let said = room.exec("db-0", "wc -l < /data/db-0; wc -l < /data/db-1");
        if said.stdout == "2\n1\n" { Ok(()) } else { Err(format!("{said:?}")) }
    });
}

fn daemon_set_has_a_pod_on_the_node(cluster: &Cluster) {
    let room = cluster.room("daemon");
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [container("main", "sleep 1000", json!({}))]});
    room.apply(daemon_set("agent", spec));
    room.rolled_out("DaemonSet", "agent");
    let pods = room.pods("app=agent");
    assert_eq!((pods.len(), &pods[0]["spec"]["nodeName"]), (1, &json!(NODE)));
    room.delete("DaemonSet", "agent");
    room.gone("app=agent");
}

fn static_pod_and_its_mirror(cluster: &Cluster) {
    let room = cluster.room("static");
    let file = cluster.place.manifests.join(format!("{}.json", room.name));
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "fixed", "namespace": room.name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container("main", "sleep 1000", json!({}))]},
    });
    // Placed whole, as the kubelet watches the directory.
    let new = cluster.place.dir.join(&room.name);
    std::fs::write(&new, pod.to_string()).unwrap();
    std::fs::rename(&new, &file).unwrap();
    let name = format!("fixed-{NODE}");
    let mirror = room.ready(&name);
    assert!(mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string(), "{mirror}");
    assert_eq!(room.exec(&name, "hostname").ok(), format!("{name}\n"));
    std::fs::remove_file(&file).unwrap();
    eventually("it ends with its file", SOON, || match room.get("Pod", &name) {
        None => Ok(()),
        Some(pod) => Err(pod["status"].to_string()),
    });
}
