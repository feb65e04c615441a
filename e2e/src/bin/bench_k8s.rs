//! `make bench-k8s`: what a kubelet and its pods have of Gantline and of containerd: a Deployment made and deleted, in turns,
//! with the same kubelet, images, OCI runtime and CNI plugins; prints a table, and keeps it with `--write FILE`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use e2e::bench::{Asked, Histogram, asked, machine, write_part};
use e2e::cluster::images::KUBERNETES;
use e2e::cluster::manifests::deployment;
use e2e::cluster::plain::Plain;
use e2e::programs::{Programs, tool};
use e2e::wait::eventually;
use e2e::{Node, Registry, peer};
use serde_json::{Value, json};

/// Pods of the Deployment.
const PODS: u64 = 30;
/// How often it is made and deleted on each service.
const ROUNDS: usize = 7;
/// How long the pods then do nothing, while CPU time is counted.
const REST: Duration = Duration::from_secs(10);
/// What is owed after the last pod is gone is done within this time.
const SETTLED: Duration = Duration::from_secs(3);
/// A Deployment is whole, or gone, within this time.
const WHOLE: Duration = Duration::from_secs(120);
/// How the kubelet reports what a pod's start takes, without pulls.
const START: &str = "kubelet_pod_start_sli_duration_seconds";

/// What was measured of one service, a value a round.
#[derive(Default)]
struct Measured {
    ready: Vec<f64>,
    gone: Vec<f64>,
    /// CPU seconds from the Deployment's making to its last pod's end and what was owed after it, without the rest: of
    /// the service with all that it started, and of what is in pods' cgroups.
    service_cpu: Vec<f64>,
    pods_cpu: Vec<f64>,
    rest_cpu: Vec<f64>,
    service_mib: Vec<f64>,
    beside_mib: Vec<f64>,
    starts: Histogram,
}

fn main() {
    // Once: that it works at all, for who changes it.
    let Asked { file, part: once } = asked("bench-k8s", Some("--once"));
    let rounds = if once { 1 } else { ROUNDS };
    let runc = tool("runc");
    let ours = Node::builder_with(Programs::release)
        .with(|config, _| config.runtimes = vec![("runc".into(), runc.clone())])
        .start();
    let clusters = [Plain::start(ours), Plain::start(peer::containerd(&runc))];
    let mut measured = [Measured::default(), Measured::default()];
    for cluster in &clusters {
        eprint!("\r\x1b[Kwarming up");
        // Once without counting: the image is pulled, caches are filled.
        round(cluster, &mut Measured::default());
    }
    for number in 1..=rounds {
        for (cluster, measured) in clusters.iter().zip(&mut measured) {
            eprint!("\r\x1b[Kround {number} of {rounds}");
            round(cluster, measured);
        }
    }
    eprintln!("\r\x1b[K");
    let text = report(&measured, rounds);
    println!("{text}");
    if let Some(file) = file {
        write_part(&file, "kubernetes", &text);
    }
}

/// The Deployment: busybox that ends when it is told to, and no probes, so that a pod is Ready when its container runs.
fn bench() -> Value {
    let line = "trap 'exit 0' TERM; sleep 100000 & wait";
    let main =
        json!({"name": "main", "image": Registry::reference("busybox:1"), "command": ["sh", "-c", line]});
    deployment("bench", PODS, json!({"containers": [main]}))
}

fn round(cluster: &Plain, measured: &mut Measured) {
    let starts = Histogram::read(&cluster.kubelet_metrics(), START);
    let (service, pods) = cluster.cpu();
    let began = Instant::now();
    cluster.api.apply(&bench()).expect("make the Deployment");
    eventually("all pods are Ready", WHOLE, || {
        let found = cluster.api.get("Deployment", "default", "bench").map_err(|error| error.to_string())?;
        let ready = found.unwrap_or_default()["status"]["readyReplicas"].as_u64().unwrap_or(0);
        if ready == PODS { Ok(()) } else { Err(format!("{ready} are")) }
    });
    measured.ready.push(began.elapsed().as_secs_f64());
    std::thread::sleep(SETTLED);
    let (service_whole, pods_whole) = cluster.cpu();
    std::thread::sleep(REST);
    let (service_rested, pods_rested) = cluster.cpu();
    measured.rest_cpu.push(service_rested + pods_rested - service_whole - pods_whole);
    let (service_mib, beside_mib) = cluster.memory();
    measured.service_mib.push(service_mib);
    measured.beside_mib.push(beside_mib / PODS as f64);
    let (service_rested, pods_rested) = cluster.cpu();
    let began = Instant::now();
    cluster.api.delete("Deployment", "default", "bench").expect("delete the Deployment");
    eventually("all pods are gone", WHOLE, || {
        let left = cluster.api.list("Pod", "default", "app=bench").map_err(|error| error.to_string())?.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
    });
    measured.gone.push(began.elapsed().as_secs_f64());
    std::thread::sleep(SETTLED);
    let (service_after, pods_after) = cluster.cpu();
    measured.service_cpu.push(service_whole - service + service_after - service_rested);
    measured.pods_cpu.push(pods_whole - pods + pods_after - pods_rested);
    measured.starts.add_since(&Histogram::read(&cluster.kubelet_metrics(), START), &starts);
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn report([ours, theirs]: &[Measured; 2], rounds: usize) -> String {
    let mut text = format!(
        "## Under a kubelet\n\nWritten by `make bench-k8s WRITE=docs/performance.md`: a Deployment of {PODS} pods of one container \
         each, made and deleted,\nin turns on Gantline and on containerd, {rounds} times each; medians. The same kubelet \
         ({KUBERNETES}), image, runc and CNI plugins\n(Debian's ptp with ipMasq, host-local, portmap). Each has a control plane \
         of its own, of plain processes, on the same cores; the\nother's idles meanwhile. The image is there, and there are no \
         probes: a pod is Ready when its container runs.\n\n{} {}\n\n",
        machine(),
        today(),
    );
    text.push_str("| | Gantline | containerd | ratio |\n|---|---:|---:|---:|\n");
    let mut line = |what: &str, of: &dyn Fn(&Measured) -> f64| {
        let (our, their) = (of(ours), of(theirs));
        let _ = writeln!(text, "| {what} | {our:.2} | {their:.2} | {:.2} |", our / their);
    };
    line(&format!("from its creation until all {PODS} pods are Ready (s)"), &|m| median(&m.ready));
    line("from its deletion until the last pod is gone (s)", &|m| median(&m.gone));
    for percent in [50, 90, 99] {
        line(&format!("a pod's start as the kubelet reports it, p{percent} (s)"), &|m| {
            m.starts.percentile(percent)
        });
    }
    line("CPU of service, shims, plugins and runtime for both (s)", &|m| median(&m.service_cpu));
    line("CPU in the pods' cgroups for both (s)", &|m| median(&m.pods_cpu));
    line(&format!("CPU of all of these over {} s of rest (s)", REST.as_secs()), &|m| median(&m.rest_cpu));
    line("memory of the service (PSS, MiB)", &|m| median(&m.service_mib));
    line("memory beside each pod's container (PSS, MiB)", &|m| median(&m.beside_mib));
    let range = |values: &[f64]| {
        let of = |pick: fn(f64, f64) -> f64| values.iter().copied().reduce(pick).unwrap_or(0.0);
        format!("{:.2}–{:.2}", of(f64::min), of(f64::max))
    };
    let _ = write!(
        text,
        "\nFrom round to round the creation took {} s on Gantline and {} s on containerd, the deletion {} s and {} s. A pod's start is\n\
         `{START}`, interpolated within its buckets (0.5, 1, 2, 3, … s), over {} and {} pods.",
        range(&ours.ready),
        range(&theirs.ready),
        range(&ours.gone),
        range(&theirs.gone),
        ours.starts.count(),
        theirs.starts.count(),
    );
    text
}

/// The date, by the kernel's clock.
fn today() -> String {
    let date = e2e::command::run(e2e::command::command("date").args(["-u", "+%Y-%m-%d"])).ok();
    format!("Measured on {}.", date.trim())
}
