//! What people do with kubectl: exec, attach, cp, logs, port-forward, and looking at what things use.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;

use e2e::cluster::Cluster;
use e2e::cluster::room::{SOON, container};
use e2e::command::{Running, run_with_input};
use e2e::eventually;
use serde_json::json;

use crate::workloads::web;

tests![
    exec_with_input_and_exit_codes,
    exec_on_a_terminal,
    attach_to_a_running_container,
    copies_both_ways,
    logs_follow_and_tail,
    port_forward,
    what_pods_use,
];

fn exec_with_input_and_exit_codes(cluster: &Cluster) {
    let room = cluster.room("exec");
    room.shell("main", "sleep 1000", json!({}));
    room.ready("main");
    let said = run_with_input(
        &mut room.kubectl_command(&["exec", "-i", "main", "--", "sh", "-c", "cat; echo oops >&2; exit 7"]),
        b"typed",
    );
    assert_eq!((said.code, said.stdout.as_str()), (7, "typed"), "{said:?}");
    assert!(said.stderr.contains("oops"), "{said:?}");
    let many = vec![b'x'; 3_000_000];
    let said = run_with_input(&mut room.kubectl_command(&["exec", "-i", "main", "--", "wc", "-c"]), &many);
    assert_eq!(said.ok().trim(), "3000000");
}

fn exec_on_a_terminal(cluster: &Cluster) {
    let room = cluster.room("tty");
    room.shell("main", "sleep 1000", json!({}));
    room.ready("main");
    // script(1) gives kubectl a terminal of its own. Its size arrives when the command runs already; of a terminal without
    // one busybox's stty says nothing and is content.
    let mut line = e2e::command::command(e2e::programs::installed("script"));
    let exec = format!(
        "stty rows 33 cols 77; {} --kubeconfig {} -n {} exec -it main -- sh -c 'tty; i=0; until [ \"$(stty size 2>/dev/null)\" = \"33 77\" ] || [ $i = 600 ]; do usleep 50000; i=$((i+1)); done; stty size'",
        e2e::programs::tool("kubectl").display(),
        cluster.place.kubeconfig().display(),
        room.name
    );
    let said = e2e::command::run(line.args(["-qec", &exec, "/dev/null"])).ok();
    assert!(said.contains("/dev/pts/") && said.contains("33 77"), "{said:?}");
}

fn attach_to_a_running_container(cluster: &Cluster) {
    let room = cluster.room("attach");
    room.shell("main", "while read -r word; do echo heard $word; done", json!({"stdin": true}));
    room.ready("main");
    let mut attached = room.kubectl_command(&["attach", "-i", "main"]);
    let mut attached = Running::start(attached.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut input = attached.child().stdin.take().unwrap();
    let mut heard = BufReader::new(attached.child().stdout.take().unwrap());
    let mut line = String::new();
    for word in ["one", "two"] {
        writeln!(input, "{word}").unwrap();
        line.clear();
        heard.read_line(&mut line).unwrap();
        assert_eq!(line, format!("heard {word}\n"));
    }
    attached.kill();
    assert_eq!(room.kubectl(&["logs", "main"]).ok(), "heard one\nheard two\n");
}

fn copies_both_ways(cluster: &Cluster) {
    let room = cluster.room("copy");
    room.shell("main", "sleep 1000", json!({}));
    room.ready("main");
    let dir = cluster.place.dir.join(&room.name);
    std::fs::create_dir_all(dir.join("tree")).unwrap();
    let content: Vec<u8> = (0..2_000_000_u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(dir.join("tree/big"), &content).unwrap();
    std::fs::write(dir.join("tree/small"), "small\n").unwrap();
    let tree = dir.join("tree").display().to_string();
    room.kubectl(&["cp", &tree, "main:/tmp/tree"]).ok();
    assert_eq!(room.exec("main", "cat /tmp/tree/small; wc -c < /tmp/tree/big").ok(), "small\n2000000\n");
    let back = dir.join("back").display().to_string();
    room.kubectl(&["cp", "main:/tmp/tree", &back]).ok();
    assert!(std::fs::read(dir.join("back/big")).unwrap() == content, "the same bytes came back");
}

fn logs_follow_and_tail(cluster: &Cluster) {
    let room = cluster.room("logs");
    room.shell(
        "main",
        "i=0; while [ $i -lt 50 ]; do echo line $i; i=$((i+1)); usleep 50000; done; sleep 1000",
        json!({}),
    );
    room.ready("main");
    let mut following = Running::start(room.kubectl_command(&["logs", "-f", "main"]).stdout(Stdio::piped()));
    let lines = BufReader::new(following.child().stdout.take().unwrap()).lines();
    for (number, line) in lines.take(50).enumerate() {
        assert_eq!(line.unwrap(), format!("line {number}"));
    }
    following.kill();
    assert_eq!(room.kubectl(&["logs", "--tail=2", "main"]).ok(), "line 48\nline 49\n");
    let stamped = room.kubectl(&["logs", "--tail=1", "--timestamps", "main"]).ok();
    assert!(stamped.starts_with("20") && stamped.ends_with("Z line 49\n"), "{stamped}");
}

fn port_forward(cluster: &Cluster) {
    let room = cluster.room("forward");
    room.pod("web", json!({"terminationGracePeriodSeconds": 1, "containers": [web("through")]}));
    room.ready("web");
    let mut forwarding =
        Running::start(room.kubectl_command(&["port-forward", "pod/web", ":8080"]).stdout(Stdio::piped()));
    let mut said = BufReader::new(forwarding.child().stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    // Forwarding from 127.0.0.1:PORT -> 8080
    let address = line.split_whitespace().find(|word| word.starts_with("127.0.0.1:")).unwrap().to_string();
    for _ in 0..20 {
        assert_eq!(crate::network::ask(&address).unwrap(), "through\n");
    }
    forwarding.kill();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
}

pub(crate) fn what_pods_use(cluster: &Cluster) {
    let room = cluster.room("usage");
    let busy = container(
        "main",
        "while :; do :; done",
        json!({"resources": {"limits": {"cpu": "200m", "memory": "64Mi"}}}),
    );
    room.pod("busy", json!({"terminationGracePeriodSeconds": 1, "containers": [busy]}));
    room.ready("busy");
    let path = format!("/api/v1/nodes/{}/proxy/stats/summary", e2e::cluster::NODE);
    eventually("the kubelet's summary knows what it uses", SOON, || {
        let text = cluster.api.text(&path).map_err(|error| error.to_string())?;
        let summary: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let pods = summary["pods"].as_array().cloned().unwrap_or_default();
        let pod =
            pods.iter().find(|pod| pod["podRef"]["namespace"] == room.name.as_str()).ok_or("no such pod")?;
        let main = &pod["containers"][0];
        let rate = main["cpu"]["usageNanoCores"].as_f64().unwrap_or_default() / 1e9;
        let memory = main["memory"]["workingSetBytes"].as_u64().unwrap_or_default();
        let network = pod["network"]["rxBytes"].is_number();
        // Where the kubelet asks cAdvisor for it, a pod without a process of its own has none: docs/kubernetes.md.
        let counted = network || !cluster.gate("PodAndContainerStatsFromCRI");
        if (0.1..0.3).contains(&rate) && memory > 0 && counted && pod["cpu"]["usageNanoCores"].is_number() {
            Ok(())
        } else {
            Err(pod.to_string())
        }
    });
    // Of the kubelet's own endpoints for a monitoring system.
    let metrics =
        cluster.api.text(&format!("/api/v1/nodes/{}/proxy/metrics/resource", e2e::cluster::NODE)).unwrap();
    assert!(
        metrics
            .lines()
            .any(|line| line.starts_with("container_cpu_usage_seconds_total") && line.contains(&room.name)),
        "{metrics}"
    );
}
