//! `make bench-polling`: what a kubelet's polling of statistics, metrics and lists costs on Gantline and on containerd,
//! with the same pods on the same machine; prints tables, and keeps them with `--write FILE`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use api::v1;
use e2e::bench::{Asked, Times, asked, cpu_seconds, machine, pss_mib, write_part};
use e2e::programs::{Programs, tool};
use e2e::{Node, peer};

const PODS: usize = 100;
const CONTAINERS_PER_POD: usize = 2;
/// How many containers there are, most of them created only, when lists are measured.
const CONTAINERS_LISTED: usize = 1000;
/// How often each call is measured; containerd tells the metrics of ten pods a second, so those are few.
const CALLS: usize = 200;
const SLOW_CALLS: usize = 3;
/// A call that takes this long is not repeated [`CALLS`] times.
const SLOW: Duration = Duration::from_secs(2);
const POLLED: Duration = Duration::from_secs(60);

struct Measured {
    times: Times,
    /// CPU seconds of the service and of what stands beside each pod, over a minute without and with polling.
    idle: (f64, f64),
    polled: (f64, f64),
    service_mib: f64,
    beside_mib: f64,
    metrics: usize,
    metrics_bytes: usize,
}

fn main() {
    let Asked { file, .. } = asked("polling", None);
    let runc = tool("runc");
    let ours = Node::builder_with(Programs::release)
        .with(|config, _| config.runtimes = vec![("runc".into(), runc.clone())])
        .start();
    let ours_measured = measure(&ours, "Gantline");
    drop(ours);
    let theirs = peer::containerd(&runc);
    let theirs_measured = measure(&theirs, "containerd");
    let text = report(&[ours_measured, theirs_measured]);
    println!("{text}");
    if let Some(file) = file {
        write_part(&file, "polling", &text);
    }
}

fn measure(node: &Node, name: &str) -> Measured {
    node.pull(&node.busybox());
    let mut pods = Vec::new();
    for number in 0..PODS {
        eprint!("\r{name}: pod {} of {PODS} ", number + 1);
        let pod = node.pod(&format!("polled-{number}")).own_cgroup().run();
        for container in 0..CONTAINERS_PER_POD {
            pod.container(&format!("c{container}")).idle().start();
        }
        pods.push(pod);
    }
    std::thread::sleep(Duration::from_secs(12));
    let mut times = Times::default();
    let cri = node.cri();
    eprint!("\r{name}: statistics       ");
    calls(&mut times, "ListContainerStats", || {
        let request = v1::ListContainerStatsRequest::default();
        assert_eq!(cri.list_items("ListContainerStats", request).expect("stats"), PODS * CONTAINERS_PER_POD);
    });
    calls(&mut times, "ListPodSandboxStats", || {
        let request = v1::ListPodSandboxStatsRequest::default();
        assert_eq!(cri.list_items("ListPodSandboxStats", request).expect("stats"), PODS);
    });
    calls(&mut times, "ListPodSandboxMetrics", || {
        let request = v1::ListPodSandboxMetricsRequest::default();
        assert_eq!(cri.list_items("ListPodSandboxMetrics", request).expect("metrics"), PODS);
    });
    let told = cri.list_pod_sandbox_metrics(Default::default()).expect("metrics").pod_metrics;
    let count = |pod: &v1::PodSandboxMetrics| {
        pod.metrics.len() + pod.container_metrics.iter().map(|c| c.metrics.len()).sum::<usize>()
    };
    let metrics = told.iter().map(count).sum();
    let metrics_bytes = prost::Message::encoded_len(&v1::ListPodSandboxMetricsResponse { pod_metrics: told });
    eprint!("\r{name}: a minute of nothing  ");
    let idle = spent(node, || std::thread::sleep(POLLED));
    eprint!("\r{name}: a minute of polling  ");
    let polled = spent(node, || poll(node));
    let service_mib = node.service_pid().map_or(0.0, pss_mib);
    let beside_mib = beside(node).iter().map(|pid| pss_mib(*pid)).sum::<f64>() / PODS as f64;
    for number in PODS * CONTAINERS_PER_POD..CONTAINERS_LISTED {
        eprint!("\r{name}: container {} of {CONTAINERS_LISTED} ", number + 1);
        let pod = &pods[number % PODS];
        pod.container(&format!("more-{number}")).idle().create();
    }
    eprint!("\r{name}: lists                      ");
    calls(&mut times, "ListContainers, 1,000 containers", || {
        let request = v1::ListContainersRequest::default();
        assert_eq!(cri.list_items("ListContainers", request).expect("ListContainers"), CONTAINERS_LISTED);
    });
    calls(&mut times, "ListPodSandbox", || {
        let request = v1::ListPodSandboxRequest::default();
        assert_eq!(cri.list_items("ListPodSandbox", request).expect("ListPodSandbox"), PODS);
    });
    let container_id =
        cri.list_containers(Default::default()).expect("ListContainers").containers[0].id.clone();
    calls(&mut times, "ContainerStatus", || {
        let request = v1::ContainerStatusRequest { container_id: container_id.clone(), verbose: false };
        cri.container_status(request).expect("ContainerStatus");
    });
    calls(&mut times, "Status", || drop(cri.status(Default::default()).expect("Status")));
    eprint!("\r{name}: removal                    ");
    node.remove_all_pods();
    eprint!("\r\x1b[K");
    // What is known already should a later part break off.
    for operation in times.operations() {
        let of = |percent| times.percentile(operation, percent);
        eprintln!("{name}: {operation}: p50 {:.2} ms, p99 {:.2} ms", of(50), of(99));
    }
    eprintln!(
        "{name}: CPU s (service, beside pods): idle {idle:?}, polled {polled:?}; {service_mib:.1} MiB, {metrics} metrics"
    );
    Measured { times, idle, polled, service_mib, beside_mib, metrics, metrics_bytes }
}

/// Measures a call often, a slow one a few times.
fn calls(times: &mut Times, name: &'static str, mut call: impl FnMut()) {
    // Once without counting.
    let began = Instant::now();
    call();
    let often = if began.elapsed() > SLOW { SLOW_CALLS } else { CALLS };
    for _ in 0..often {
        times.time(name, &mut call);
    }
}

/// What a kubelet asks for in a minute: lists each second, statistics each ten, metrics each fifteen.
fn poll(node: &Node) {
    let cri = node.cri();
    let began = Instant::now();
    let mut metrics = None;
    for second in 0..POLLED.as_secs() {
        cri.list_pod_sandbox(Default::default()).expect("ListPodSandbox");
        cri.list_containers(Default::default()).expect("ListContainers");
        if second % 10 == 0 {
            cri.list_pod_sandbox_stats(Default::default()).expect("ListPodSandboxStats");
            cri.image_fs_info(Default::default()).expect("ImageFsInfo");
        }
        if second % 15 == 0 {
            // A scrape does not keep the kubelet's other calls waiting.
            let cri = cri.clone();
            metrics = Some(std::thread::spawn(move || cri.list_pod_sandbox_metrics(Default::default())));
        }
        std::thread::sleep(
            (began + Duration::from_secs(second + 1)).saturating_duration_since(Instant::now()),
        );
    }
    metrics.map(|last| last.join().expect("scrape").expect("ListPodSandboxMetrics"));
}

/// CPU seconds of the service and of what stands beside each pod.
fn spent(node: &Node, work: impl FnOnce()) -> (f64, f64) {
    let now = || {
        let service = node.service_pid().map_or(0.0, cpu_seconds);
        (service, beside(node).into_iter().map(cpu_seconds).sum::<f64>())
    };
    let before = now();
    work();
    let after = now();
    (after.0 - before.0, after.1 - before.1)
}

fn beside(node: &Node) -> Vec<u32> {
    let found = node.processes(|command| command.contains("shim") || command.starts_with("/pause"));
    found.iter().map(|process| process.pid).collect()
}

fn report(both: &[Measured; 2]) -> String {
    let [ours, theirs] = both;
    let mut text = format!(
        "## A kubelet's polling\n\nWritten by `make bench-polling WRITE=docs/performance.md`: {PODS} pods of \
         {CONTAINERS_PER_POD} idle containers, each pod in a cgroup of its own, first on\nGantline, then on containerd, \
         with the same runc and CNI plugins. Each call {CALLS} times with 40 ms of idle before it, {SLOW_CALLS} times\n\
         where one takes more than {} s. A list counts as there when it is split into its items: what their strings cost is \
         the client's.\nThe last four rows: {CONTAINERS_LISTED} containers, most of them created and not started.\n\n{}\n\n",
        SLOW.as_secs(),
        machine(),
    );
    text.push_str("| call (ms) | Gantline p50 | p99 | containerd p50 | p99 | ratio of p50 |\n|---|---:|---:|---:|---:|---:|\n");
    for operation in ours.times.operations() {
        let of = |measured: &Measured, percent| measured.times.percentile(operation, percent);
        let _ = writeln!(
            text,
            "| {operation} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
            of(ours, 50),
            of(ours, 99),
            of(theirs, 50),
            of(theirs, 99),
            of(ours, 50) / of(theirs, 50),
        );
    }
    text.push_str(
        "\nCPU seconds over a minute: idle; and polled as a kubelet does, ListPodSandbox and ListContainers each second,\n\
         ListPodSandboxStats and ImageFsInfo each ten, ListPodSandboxMetrics each fifteen.\n\n\
         | | Gantline | containerd |\n|---|---:|---:|\n",
    );
    let mut line = |what: &str, value: &dyn Fn(&Measured) -> String| {
        let _ = writeln!(text, "| {what} | {} | {} |", value(ours), value(theirs));
    };
    line("the service, idle (CPU s)", &|m| format!("{:.2}", m.idle.0));
    line("the service, polled (CPU s)", &|m| format!("{:.2}", m.polled.0));
    line("shims and pause processes, idle (CPU s)", &|m| format!("{:.2}", m.idle.1));
    line("shims and pause processes, polled (CPU s)", &|m| format!("{:.2}", m.polled.1));
    line("all of it, polled (% of one core)", &|m| {
        format!("{:.2}", (m.polled.0 + m.polled.1) / POLLED.as_secs_f64() * 100.0)
    });
    line("the service (PSS, MiB)", &|m| format!("{:.1}", m.service_mib));
    line("beside each pod (PSS, MiB)", &|m| format!("{:.2}", m.beside_mib));
    line("metrics told", &|m| m.metrics.to_string());
    line("size of that answer (MiB)", &|m| format!("{:.2}", m.metrics_bytes as f64 / 1048576.0));
    text
}
