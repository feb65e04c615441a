//! `make bench`: the same operations, one at a time, on Gantline and on containerd, with the same OCI
//! runtime, CNI plugins, registry and image; prints a table, and keeps it with `--write FILE`. With `--streams` it
//! measures the throughput of sessions alone.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use e2e::bench::{Asked, Measured, asked, machine, pss_mib, table, throughput_table, write_part};
use e2e::image::{busybox_builder, noise};
use e2e::programs::{Programs, tool};
use e2e::{Node, peer, throughput};

/// Each operation is measured this often on each service, in turns, so that the machine's moods meet both.
const ROUNDS: usize = 30;
/// Pods that run while memory is measured.
const PODS: usize = 20;
/// A gibibyte goes through each kind of session this often on each service, in turns.
const STREAM_ROUNDS: usize = 3;

fn main() {
    let Asked { file, part: streams_alone } = asked("bench", Some("--streams"));
    let runc = tool("runc");
    let ours = Node::builder_with(Programs::release)
        .with(|config, _| config.runtimes = vec![("runc".into(), runc.clone())])
        .start();
    let theirs = peer::containerd(&runc);
    let nodes = [&ours, &theirs];
    let mut measured = [Measured::default(), Measured::default()];
    // Six megabytes: its own layer is pulled anew each time, busybox's are there.
    let image = busybox_builder().layer(noise("payload", 5 << 20, 1)).build();
    for node in nodes {
        node.pull(&node.busybox());
        if streams_alone {
            continue;
        }
        node.push(&image, "payload:1");
        // Once without counting: caches and bridges are made.
        round(node, &mut Measured::default());
    }
    for number in 1..=STREAM_ROUNDS {
        eprint!("\rstreams, round {number} of {STREAM_ROUNDS}");
        for (node, measured) in nodes.iter().zip(&mut measured) {
            measured.throughput.push(throughput::measure(node));
        }
    }
    if streams_alone {
        eprintln!("\r\x1b[K");
        return println!("{}", throughput_table(&measured[0], &measured[1], "containerd"));
    }
    for number in 1..=ROUNDS {
        eprint!("\rround {number} of {ROUNDS}");
        for (node, measured) in nodes.iter().zip(&mut measured) {
            round(node, measured);
        }
    }
    eprint!("\rmemory with {PODS} pods");
    for (node, measured) in nodes.iter().zip(&mut measured) {
        memory(node, measured);
    }
    eprintln!("\r\x1b[K");
    let text = report(&measured);
    println!("{text}");
    if let Some(file) = file {
        write_part(&file, "operations", &text);
    }
}

/// One of each operation.
fn round(node: &Node, measured: &mut Measured) {
    let times = &mut measured.times;
    let pod = node.pod("bench");
    let pod = times.time("RunPodSandbox", || pod.run());
    let container = pod.container("c").idle();
    let container = times.time("CreateContainer", || container.try_create().expect("CreateContainer"));
    times.time("StartContainer", || container.try_start().expect("StartContainer"));
    times.time("ExecSync", || container.try_exec(&["true"], 10).expect("ExecSync"));
    times.time("StopContainer", || container.stop(10));
    times.time("RemoveContainer", || container.remove());
    times.time("StopPodSandbox", || pod.stop());
    let request = api::v1::RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
    times.time("RemovePodSandbox", || node.cri().remove_pod_sandbox(request).expect("RemovePodSandbox"));
    let reference = e2e::Registry::reference("payload:1");
    times.time("PullImage", || node.pull(&reference));
    node.remove_image(&reference);
}

fn memory(node: &Node, measured: &mut Measured) {
    for number in 0..PODS {
        node.pod(&format!("pod-{number}")).run().container("c").idle().start();
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    measured.service_mib = node.service_pid().map_or(0.0, pss_mib);
    let beside = node.processes(|command| command.contains("shim") || command.starts_with("/pause"));
    measured.pod_mib = beside.iter().map(|process| pss_mib(process.pid)).sum::<f64>() / PODS as f64;
    node.remove_all_pods();
}

fn report([ours, theirs]: &[Measured; 2]) -> String {
    format!(
        "## Operations\n\nWritten by `make bench WRITE=docs/performance.md`. The same operations, one at a time with 40 ms of \
         idle before each\n(back to back they would look 10 ms better than any node sees them), in turns on Gantline and on \
         containerd,\nwith the same runc, the same CNI plugins (Debian's bridge with ipMasq, host-local, portmap), each with \
         its own registry\nof the same content. {ROUNDS} of each. PullImage: an image of four layers and 6 MB, three of \
         them on the node already. Throughput: a gibibyte through each kind of session, by a client that does nothing but\n\
         read; medians of {STREAM_ROUNDS}.\n\n{}\n\n{}",
        machine(),
        table(ours, theirs, "containerd", PODS),
    )
}
