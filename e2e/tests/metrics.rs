//! The service's own metrics: that each moves, that none grows without bound, and that the dashboard and the alerts of the
//! chart mean something to a real Prometheus.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use api::v1;
use e2e::command::Running;
use e2e::faulty::{Fault, Proxy};
use e2e::installer::chart;
use e2e::programs::tool;
use e2e::scrape::METRICS;
use e2e::{Node, eventually, plugin};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use store::{Store, Table};

/// The service's own table of pods, as `src/many.rs` of this harness knows it.
const PODS: Table<Value> = Table::new("pods", 1);

const PROMETHEUS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9090);

/// Metrics that do not move in [`every_metric_moves_in_the_life_of_pods_or_says_why_not`], and why.
const STILL: [(&str, &str); 3] = [
    ("gantline_log_dropped_bytes_total", "needs a full disk: tests/bad_days.rs fills one"),
    ("gantline_event_overflows_total", "needs a thousand events: tests/events.rs has them"),
    ("gantline_cni_dels_owed", "tests/people.rs owes one"),
];

/// Numbers that depend on the machine more than on the service.
const OF_THE_MACHINE: [&str; 1] = ["gantline_processes_defunct"];

/// A node with metrics, whose network refuses pods called `unlucky` and is slow with those called `slow`.
fn node() -> Node {
    let node = Node::builder().with(|config, machine| {
        let dir = machine.dir().join("plugins");
        let refusal = r#"{"cniVersion":"1.0.0","code":117,"msg":"the moon is wrong"}"#;
        let add = format!(
            "case $CNI_ARGS in *unlucky*) echo '{refusal}'; exit 1 ;; *slow*) sleep 2 ;; esac\n\
             echo '{{\"cniVersion\":\"1.0.0\"}}'"
        );
        plugin::cni(&dir, "moody", &add);
        config.cni_bins.insert(0, dir);
    });
    let node = node.with_metrics().prepare();
    let mut network = node.config.network(&node.machine);
    network["plugins"] = json!([{"type": "moody"}, network["plugins"][0]]);
    node.config.write_network(&network);
    node.start_service();
    node
}

fn get(node: &Node, from: SocketAddr, path: &str) -> String {
    let answer = node.machine.on_its_network(|| e2e::http::request(from, "GET", path, "", b""));
    String::from_utf8(answer.unwrap_or_else(|e| panic!("GET {path}: {e}")).body).unwrap()
}

/// Each series with its value: `gantline_pods{state="ready"}` → 1.
fn scrape(node: &Node) -> BTreeMap<String, f64> {
    samples(&node.metrics())
}

fn samples(text: &str) -> BTreeMap<String, f64> {
    let sample = |line: &str| {
        // What may follow a value is an exemplar.
        let line = line.split(" # ").next()?;
        let (series, value) = line.rsplit_once(' ')?;
        Some((series.to_owned(), value.parse().ok()?))
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

/// The metric that a series is of; a histogram's has one name.
fn metric(series: &str) -> &str {
    let name = series.split('{').next().unwrap_or_default();
    let part = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
    part.unwrap_or(name)
}

fn metrics(scraped: &BTreeMap<String, f64>) -> BTreeSet<String> {
    scraped.keys().map(|series| metric(series).to_owned()).collect()
}

/// A pod whose containers end in each usual way; one that has no luck; then nothing of them.
fn life(node: &Node, suffix: &str) {
    let pod = node.pod(&format!("pod{suffix}")).run();
    for (name, line) in [("well", "exit 0"), ("ill", "exit 3")] {
        pod.container(&format!("{name}{suffix}")).sh(line).start().exit();
    }
    let broken = pod.container(&format!("broken{suffix}")).command(&["/no/such/program"]).create();
    broken.try_start().expect_err("there is no such program");
    let runs = pod.container(&format!("runs{suffix}")).idle().start();
    runs.sh("echo probe");
    node.pod(&format!("unlucky{suffix}")).try_run().expect_err("the moon is wrong");
    pod.remove();
}

#[test]
fn every_metric_moves_in_the_life_of_pods_or_says_why_not() {
    let node = node();
    let mut moved: BTreeSet<String> = BTreeSet::new();
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut look = || {
        let now = scrape(&node);
        known.extend(metrics(&now));
        moved.extend(
            now.iter().filter(|(_, value)| **value != 0.0).map(|(series, _)| metric(series).to_owned()),
        );
        moved.clone()
    };
    look();
    node.pull(&node.busybox());
    // A name more for the same layers, and one that is not there.
    node.pull(&node.push(e2e::image::busybox(), "again:1"));
    node.try_pull(&e2e::Registry::reference("no/such:1")).expect_err("no such image");
    // A connection that breaks, slowly enough to be looked at.
    node.push(
        &e2e::image::busybox_builder().layer(e2e::image::noise("noise", 4 << 20, 7)).build(),
        "noise:1",
    );
    for (fault, tag) in [
        (Fault::CutAfter { bytes: 1 << 20, times: 1 }, "noise:1"),
        (Fault::Slow(Duration::from_millis(100)), "slow:1"),
    ] {
        if tag == "slow:1" {
            node.push(
                &e2e::image::busybox_builder().layer(e2e::image::noise("noise", 4 << 20, 8)).build(),
                tag,
            );
        }
        let proxy = Proxy::start(&node.machine, fault);
        let reference = proxy.reference(tag);
        node.config.plain_http(reference.split('/').next().unwrap());
        std::thread::scope(|scope| {
            let pull = scope.spawn(|| node.pull(&reference));
            while !pull.is_finished() {
                look();
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        proxy.stop(&node.machine);
    }
    life(&node, "");
    let pod = node.pod("stays").run();
    let container = pod.container("writes").sh("dd if=/dev/zero of=/file bs=1M count=1; sleep 1000").start();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| node.pod("slow").run());
        while !slow.is_finished() {
            look();
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    // A stream of events, a URL that nobody begins, and a session.
    let mut events = node.cri().raw();
    let stream = e2e::cri::runtime().block_on(events.get_container_events(v1::GetEventsRequest::default()));
    let exec = v1::ExecRequest {
        container_id: container.id.clone(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    node.cri().exec(exec).expect("Exec");
    let session = Running::start(&mut node.crictl_command(&["exec", &container.id, "sleep", "1000"]));
    eventually("a session and a measured layer are seen", Duration::from_secs(40), || {
        node.cri().list_container_stats(Default::default()).unwrap();
        let moved = look();
        let wanted = ["gantline_streaming_sessions", "gantline_writable_bytes", "gantline_event_subscribers"];
        match wanted.iter().find(|name| !moved.contains(**name)) {
            None => Ok(()),
            Some(name) => Err((*name).to_owned()),
        }
    });
    session.kill();
    drop(stream);
    // What is running is taken over; but not a pod whose shim does not answer, nor a record that is none.
    let shim = pod.info()["shimPid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let shim = shim.expect("the pid of its shim");
    let store = || Store::open(&node.config.root.join("pod.redb")).expect("the service's store");
    let no_record = "f".repeat(64);
    node.terminate();
    store().write(|write| write.put(&PODS, &no_record, &json!("not a pod"))).expect("spoil the store");
    kill_process(shim, Signal::STOP).expect("stop a shim");
    node.spawn_service();
    let value = |name: &str| {
        // It does not listen from its first moment on.
        let answer = node.machine.on_its_network(|| e2e::http::request(METRICS, "GET", "/metrics", "", b""));
        samples(&String::from_utf8(answer.ok()?.body).unwrap()).get(name).copied()
    };
    eventually("what is lost is told", Duration::from_secs(30), || {
        let told = ["gantline_shims_lost", "gantline_records_unreadable"].map(value);
        if told == [Some(1.0), Some(1.0)] { Ok(()) } else { Err(format!("{told:?}")) }
    });
    look();
    kill_process(shim, Signal::CONT).expect("let the shim go on");
    eventually("the shim is found again", Duration::from_secs(30), || match value("gantline_shims_lost") {
        Some(0.0) => node.runtime_ready(),
        other => Err(format!("{other:?}")),
    });
    assert!(container.is_running(), "nothing came of it to the container");
    node.terminate();
    assert!(
        store().write(|write| write.remove(&PODS, &no_record)).expect("mend the store"),
        "it is left alone"
    );
    node.start_service();
    assert_eq!(value("gantline_records_unreadable"), Some(0.0));
    let moved = look();
    let known = known;
    node.remove_all_pods();
    let still: BTreeSet<String> = known
        .iter()
        .filter(|name| !moved.contains(*name) && !OF_THE_MACHINE.contains(&name.as_str()))
        .cloned()
        .collect();
    let expected: BTreeSet<String> = STILL.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(still, expected, "what did not move, and what was to be still");
    assert_eq!(known, documented(), "what is scraped, and the table in docs/observability.md");
    node.leaves_nothing();
}

/// The metrics that the table of the docs explains.
fn documented() -> BTreeSet<String> {
    let text =
        fs::read_to_string(chart().join("../../docs/observability.md")).expect("docs/observability.md");
    let name = |line: &str| Some(line.strip_prefix("| `gantline_")?.split(['`', '{']).next()?.to_owned());
    text.lines().filter_map(name).map(|name| format!("gantline_{name}")).collect()
}

#[test]
fn series_do_not_grow_with_what_comes_and_goes() {
    let node = node();
    node.pull(&node.busybox());
    let churn = |round: usize| {
        life(&node, &format!("-{round}"));
        let name = format!("image-{round}:1");
        node.push(e2e::image::busybox(), &name);
        let reference = e2e::Registry::reference(&name);
        node.pull(&reference);
        node.try_pull(&e2e::Registry::reference(&format!("no/such:{round}"))).expect_err("no such image");
        node.remove_image(&reference);
        let gone = v1::ContainerStatusRequest { container_id: format!("{round:064}"), verbose: false };
        node.cri().container_status(gone).expect_err("nobody has this id");
    };
    churn(0);
    let before: BTreeSet<String> = scrape(&node).into_keys().collect();
    for round in 1..6 {
        churn(round);
    }
    let after: BTreeSet<String> = scrape(&node).into_keys().collect();
    let grown: Vec<_> = after.difference(&before).collect();
    assert!(grown.is_empty(), "{grown:#?}");
    for series in &after {
        for word in ["pod-", "broken-", "image-", "no/such", "sha256", "unlucky"] {
            assert!(!series.contains(word), "a name became a label: {series}");
        }
    }
    assert!(after.len() < 2500, "{} series of one node", after.len());
    node.remove_all_pods();
    node.leaves_nothing();
}

/// Debian's Prometheus, on the machine's network; it ends with the test.
struct Prometheus<'n> {
    node: &'n Node,
    _process: Running,
}

impl<'n> Prometheus<'n> {
    fn start(node: &'n Node) -> Self {
        let dir = node.machine.dir().join("prometheus");
        fs::create_dir_all(&dir).unwrap();
        let config = dir.join("prometheus.yaml");
        let text = format!(
            "global: {{scrape_interval: 2s, evaluation_interval: 1s}}\nrule_files: [{:?}]\nscrape_configs:\n\
             - job_name: gantline\n  static_configs: [{{targets: [\"{METRICS}\"]}}]\n",
            chart().join("rules/gantline.yaml")
        );
        fs::write(&config, text).unwrap();
        let mut command = node.machine.command(tool("prometheus"));
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address={PROMETHEUS}"));
        let process = Running::logged(&mut command, &dir.join("log"));
        let prometheus = Self { node, _process: process };
        eventually("Prometheus is ready", Duration::from_secs(30), || {
            let ready = node.machine.on_its_network(|| {
                e2e::http::request(PROMETHEUS, "GET", "/-/ready", "", b"").map(|a| a.status)
            });
            match ready {
                Ok(200) => Ok(()),
                other => {
                    Err(format!("{other:?}: {}", fs::read_to_string(dir.join("log")).unwrap_or_default()))
                }
            }
        });
        prometheus
    }

    fn get(&self, path: &str) -> Value {
        let answer: Value = serde_json::from_str(&get(self.node, PROMETHEUS, path)).expect("JSON");
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    /// How many series an expression gives now, other than NaN.
    fn series(&self, expression: &str) -> usize {
        let found = self.get(&format!("/api/v1/query?query={}", escaped(expression)));
        let found = found["result"].as_array().cloned().unwrap_or_default();
        found.iter().filter(|one| one["value"][1] != "NaN").count()
    }
}

/// As a query of a URL has it (RFC 3986, 2.1).
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Every string under a key of this name, wherever it is.
fn all_under(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                match value {
                    Value::String(text) if name == key => found.push(text.clone()),
                    _ => all_under(value, key, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| all_under(value, key, found)),
        _ => {}
    }
}

fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("gantline_"))
}

#[test]
fn dashboard_and_alerts_find_their_data_in_a_prometheus_that_scrapes_a_busy_node() {
    let node = node();
    node.pull(&node.busybox());
    let prometheus = Prometheus::start(&node);
    // One life is a few seconds, more on a busy machine; rates are told of two minutes.
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < Duration::from_secs(25) || round < 6 {
        life(&node, &format!("-{round}"));
        let name = format!("image-{round}:1");
        let noise = e2e::image::noise("noise", 1 << 20, round);
        node.push(&e2e::image::busybox_builder().layer(noise).build(), &name);
        node.pull(&e2e::Registry::reference(&name));
        node.try_pull(&e2e::Registry::reference("no/such:1")).expect_err("no such image");
        round += 1;
    }

    let dashboard = fs::read_to_string(chart().join("dashboards/gantline.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).expect("the dashboard is JSON");
    let mut expressions = Vec::new();
    all_under(&dashboard["panels"], "expr", &mut expressions);
    assert!(expressions.len() > 40, "{}", expressions.len());
    let here = |expression: &str| expression.replace("$__rate_interval", "2m").replace("$instance", ".*");
    let mut empty: Vec<_> = expressions.iter().filter(|expr| prometheus.series(&here(expr)) == 0).collect();
    // A file system without a bound on inodes has no share of them.
    let unbounded = prometheus.series("gantline_disk_inodes > 0") == 0;
    empty.retain(|expr| !(unbounded && expr.contains("gantline_disk_inodes")));
    assert!(empty.is_empty(), "no data for {empty:#?}");
    let mut others = Vec::new();
    all_under(&dashboard["annotations"], "expr", &mut others);
    for expression in &others {
        prometheus.series(&here(expression));
    }
    expressions.extend(others);

    let rules = prometheus.get("/api/v1/rules");
    let rules: Vec<&Value> = rules["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    assert!(rules.len() > 15, "{}", rules.len());
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule:#}");
        for annotation in ["summary", "description"] {
            let text = rule["annotations"][annotation].as_str().unwrap_or_default();
            assert!(text.len() > 30, "{annotation} of {rule:#}");
        }
        let query = rule["query"].as_str().unwrap();
        // Silent because the number is good, not because there is none.
        let operand = query.rsplit_once([' ']).and_then(|(rest, _)| rest.rsplit_once(' ')).unwrap().0;
        let inodes = unbounded && query.contains("gantline_disk_inodes");
        assert!(inodes || prometheus.series(operand) > 0, "nothing to judge by for {query}: {operand}");
        expressions.push(query.to_owned());
    }
    assert!(
        prometheus.series("ALERTS{alertname=\"GantlineCniFails\", alertstate=\"firing\", plugin=\"moody\"}")
            > 0
    );
    for well in [
        "GantlineDown",
        "GantlineRuntimeNotReady",
        "GantlineNetworkNotReady",
        "GantlineCniDelsOwed",
        "GantlineLogsDropped",
    ] {
        assert_eq!(
            prometheus.series(&format!("ALERTS{{alertname={well:?}, alertstate=\"firing\"}}")),
            0,
            "{well}"
        );
    }

    let values = prometheus.get("/api/v1/label/__name__/values");
    let exist: BTreeSet<&str> = values.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for expression in &expressions {
        for name in names(expression) {
            assert!(exist.contains(name), "{name} of {expression} does not exist");
        }
    }
    // Prometheus gives each scrape two seconds; a starved machine may miss one or another.
    let well = prometheus.series("avg_over_time(up{job=\"gantline\"}[2m]) > 0.8");
    assert_eq!(well, 1, "a busy service is scraped");
    drop(prometheus);
    node.remove_all_pods();
    node.leaves_nothing();
}
