//! `make bench-lists`: how long the calls that a kubelet repeats take with 1,000 and with 10,000 containers, none of which
//! runs; prints a table, and keeps it with `--write FILE`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fmt::Write as _;

use api::v1;
use e2e::Node;
use e2e::bench::{Asked, Times, asked, machine, pss_mib, write_part};
use e2e::cri::runtime;
use e2e::many::fill;
use e2e::programs::Programs;

/// Containers in all, and how many of them a pod has.
const SIZES: [usize; 2] = [1_000, 10_000];
const CONTAINERS_PER_POD: usize = 5;
const CALLS: usize = 200;

fn main() {
    let Asked { file, .. } = asked("lists", None);
    let measured = SIZES.map(measure);
    let mut text = format!(
        "## Lists\n\nWritten by `make bench-lists WRITE=docs/performance.md`: records of {CONTAINERS_PER_POD} created \
         containers a pod, with labels and\nannotations like a kubelet's. Each call {CALLS} times with 40 ms of idle before \
         it, until the\nanswer is there and split into its items; what their strings cost is the client's, and is in the \
         lines that say decoded.\n\n{}\n\n| call (ms) |",
        machine(),
    );
    for size in SIZES {
        let _ = write!(text, " {size} containers p50 | p99 |");
    }
    text.push_str("\n|---|---:|---:|---:|---:|\n");
    for operation in measured[0].0.operations() {
        let _ = write!(text, "| {operation} |");
        for (times, _) in &measured {
            let of = |percent| times.percentile(operation, percent);
            let _ = write!(text, " {:.2} | {:.2} |", of(50), of(99));
        }
        text.push('\n');
    }
    let _ = write!(text, "| the service (PSS, MiB) |");
    for (_, mib) in &measured {
        let _ = write!(text, " {mib:.1} | |");
    }
    text.push('\n');
    println!("{text}");
    if let Some(file) = file {
        write_part(&file, "lists", &text);
    }
}

fn measure(containers: usize) -> (Times, f64) {
    let node = Node::builder_with(Programs::release).start();
    let many = fill(&node, containers / CONTAINERS_PER_POD, CONTAINERS_PER_POD, 0);
    let cri = node.cri();
    let mut times = Times::default();
    for _ in 0..CALLS {
        let request = v1::ListContainersRequest::default();
        let listed = times.time("ListContainers", || cri.list_items("ListContainers", request.clone()));
        assert_eq!(listed.expect("ListContainers"), containers);
        let decoded = times.time("the same, decoded", || cri.list_containers(request));
        assert_eq!(decoded.expect("ListContainers").containers.len(), containers);
        let request = v1::ListPodSandboxRequest::default();
        times.time("ListPodSandbox", || cri.list_items("ListPodSandbox", request)).expect("ListPodSandbox");
        times.time("ListContainerStats", || cri.list_container_stats(Default::default())).expect("stats");
        times.time("Status", || cri.status(Default::default())).expect("Status");
        times.time("StreamContainers, decoded", || {
            let mut client = cri.raw();
            let counted = runtime().block_on(async {
                let request = v1::StreamContainersRequest::default();
                let mut stream = client.stream_containers(request).await.expect("stream").into_inner();
                let mut count = 0;
                while let Some(message) = stream.message().await.expect("message") {
                    count += message.containers.len();
                }
                count
            });
            assert_eq!(counted, containers);
        });
    }
    let mib = node.service_pid().map_or(0.0, pss_mib);
    many.empty();
    (times, mib)
}
