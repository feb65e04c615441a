//! Statistics and metrics of pods: what our RPCs tell is what the kernel's own files say, under load and at rest; and
//! nothing that is wrong with one pod costs another its numbers.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, SystemTime};

use api::v1;
use e2e::{Container, Node, Pod, eventually, unified};

#[path = "stats/counted.rs"]
mod counted;

use counted::{counted, group};

const MIB: i64 = 1 << 20;
const SECOND: u64 = 1_000_000_000;

/// A pod in a cgroup of its own, as the kubelet asks for it.
fn pod<'n>(node: &'n Node, name: &str) -> Pod<'n> {
    let of = format!("pod {name}");
    node.pod(name).own_cgroup().with(|config| drop(config.annotations.insert("e2e/of".into(), of))).run()
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}

fn whole_pod_stats(node: &Node, pod: &Pod<'_>) -> v1::PodSandboxStats {
    let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
    node.cri().pod_sandbox_stats(request).expect("PodSandboxStats").stats.unwrap()
}

fn pod_stats(node: &Node, pod: &Pod<'_>) -> v1::LinuxPodSandboxStats {
    whole_pod_stats(node, pod).linux.unwrap()
}

/// The metrics of a pod, by pod or container id, name and own labels.
type Told = BTreeMap<(String, String, Vec<String>), u64>;

fn metrics(node: &Node) -> Told {
    let pods =
        node.cri().list_pod_sandbox_metrics(Default::default()).expect("ListPodSandboxMetrics").pod_metrics;
    let mut told = Told::new();
    for pod in pods {
        let own = (pod.pod_sandbox_id, pod.metrics);
        let containers = pod.container_metrics.into_iter().map(|c| (c.container_id, c.metrics));
        for (id, metrics) in std::iter::once(own).chain(containers) {
            for metric in metrics {
                assert!(metric.timestamp > 0, "{metric:?}");
                let labels = metric.label_values[6..].to_vec();
                let before = told.insert((id.clone(), metric.name, labels), metric.value.unwrap().value);
                assert!(before.is_none(), "told twice");
            }
        }
    }
    told
}

fn value(told: &Told, id: &str, name: &str, own: &[&str]) -> u64 {
    let key = (id.to_owned(), name.to_owned(), own.iter().map(|label| label.to_string()).collect());
    *told.get(&key).unwrap_or_else(|| panic!("no {name} {own:?}"))
}

/// Every number, told between two looks at the kernel's file: not below the first, not above the second. What goes up and down
/// may be asked again.
#[track_caller]
fn agree(node: &Node, container: &Container<'_>, pid: u32) {
    let rows = counted();
    let read = || rows.iter().map(|row| row.read(pid)).collect::<Vec<_>>();
    let between =
        |told: &dyn Fn(usize) -> Option<u64>, before: &[u64], after: &[u64], unit: &dyn Fn(usize) -> u64| {
            for (place, row) in rows.iter().enumerate() {
                let Some(told) = told(place) else { continue };
                // Rounded to the RPC's unit, half of one up.
                let round = |value: u64| (value + unit(place) / 2) / unit(place);
                let (low, high) =
                    (round(before[place].min(after[place])), round(before[place].max(after[place])));
                // The kernel writes memory.stat up when it likes, and its gauges go up and down between the looks.
                let memory = row.file.starts_with("memory");
                let slack = if memory { low / 20 + 512 * 1024 } else { 0 };
                let gauge = memory || row.file == "pids.current";
                if told + slack >= low && told <= high + slack {
                    continue;
                }
                let wrong = format!("{} {} {:?}: {low} ≤ {told} ≤ {high}", row.file, row.key, row.metric);
                assert!(gauge, "{wrong}");
                return Err(wrong);
            }
            Ok(())
        };
    eventually("statistics are the kernel's", Duration::from_secs(10), || {
        let before = read();
        let told = container.stats();
        let after = read();
        between(&|place| rows[place].stat.map(|stat| stat(&told).unwrap().value), &before, &after, &|_| 1)
    });
    eventually("metrics are the kernel's", Duration::from_secs(10), || {
        let before = read();
        let told = metrics(node);
        let after = read();
        let metric = |place: usize| {
            let (name, own, _) = rows[place].metric?;
            Some(value(&told, &container.id, name, own))
        };
        between(&metric, &before, &after, &|place| rows[place].metric.map_or(1, |(_, _, unit)| unit))
    });
}

/// What PodSandboxStats tells of a pod at rest is what was asked for, what its one container has, and what the kernel counts
/// in the pod's own group.
#[track_caller]
fn the_pod_is_what_its_group_says(
    node: &Node,
    pod: &Pod<'_>,
    container: &Container<'_>,
    asked: &v1::ContainerConfig,
    pid: u32,
) {
    let parent = pod.config.linux.as_ref().unwrap().cgroup_parent.trim_start_matches('/');
    let of_pod = |controller: &str, file: &str| {
        let of_container = group(pid, controller);
        let of_pod = of_container.ancestors().find(|dir| dir.ends_with(parent)).expect("the pod's group");
        fs::read_to_string(of_pod.join(file)).unwrap()
    };
    let number = |controller: &str, file: &str| of_pod(controller, file).trim().parse::<u64>().unwrap();
    let key = if unified() { "inactive_file " } else { "total_inactive_file " };
    let kernel = || {
        let usage = number("memory", if unified() { "memory.current" } else { "memory.usage_in_bytes" });
        let stat = of_pod("memory", "memory.stat");
        let inactive: u64 = stat.lines().find_map(|line| line.strip_prefix(key)?.parse().ok()).unwrap();
        [usage, usage - inactive, number("pids", "pids.current")]
    };
    let value = |value: Option<v1::UInt64Value>| value.expect("a number").value;
    let (before, whole) = eventually("the pod rests", Duration::from_secs(10), || {
        let before = now();
        let (expect, whole) = (kernel(), whole_pod_stats(node, pod));
        let linux = whole.linux.as_ref().unwrap();
        let (memory, process) = (linux.memory.as_ref().unwrap(), linux.process.as_ref().unwrap());
        let told = [memory.usage_bytes, memory.working_set_bytes, process.process_count].map(value);
        if told == expect { Ok((before, whole)) } else { Err(format!("{told:?}, not {expect:?}")) }
    });
    let after = now();
    let linux = whole.linux.unwrap();

    let attributes = whole.attributes.unwrap();
    let config = &pod.config;
    assert_eq!((&attributes.id, &attributes.metadata), (&pod.id, &config.metadata));
    assert_eq!((&attributes.labels, &attributes.annotations), (&config.labels, &config.annotations));
    assert!(attributes.labels.len() >= 3 && attributes.annotations.len() == 1, "{attributes:?}");

    let [of_container] = &linux.containers[..] else { panic!("one container: {:?}", linux.containers) };
    let attributes = of_container.attributes.as_ref().unwrap();
    assert_eq!((&attributes.id, &attributes.metadata), (&container.id, &asked.metadata));
    assert_eq!((&attributes.labels, &attributes.annotations), (&asked.labels, &asked.annotations));
    assert!(attributes.labels.len() == 1 && attributes.annotations.len() == 1, "{attributes:?}");
    assert_eq!(container.stats().attributes.as_ref(), Some(attributes), "by its own call");

    let (cpu, io) = (linux.cpu.unwrap(), linux.io.unwrap());
    let of_its_container = of_container.cpu.as_ref().unwrap();
    let used = value(of_its_container.usage_core_nano_seconds);
    let of_pod = value(cpu.usage_core_nano_seconds);
    assert!(of_pod + SECOND / 100 >= used && used > 0, "the pod's {of_pod} has the container's {used}");
    let memory = linux.memory.unwrap();
    assert_eq!(
        [cpu.psi.is_some(), memory.psi.is_some(), io.psi.is_some()],
        [unified(); 3],
        "as the kernel does"
    );
    for (what, at) in [
        ("cpu", cpu.timestamp),
        ("memory", memory.timestamp),
        ("process", linux.process.unwrap().timestamp),
        ("io", io.timestamp),
        ("network", linux.network.unwrap().timestamp),
        ("the container's cpu", of_its_container.timestamp),
        ("the container's memory", of_container.memory.as_ref().unwrap().timestamp),
    ] {
        assert!((before..=after).contains(&at), "{what} is of {at}, asked between {before} and {after}");
    }
}

#[test]
fn stats_and_metrics_are_what_the_kernels_files_say() {
    let node = Node::start();
    let pod = pod(&node, "loaded");
    // CPU, memory, disk and network; after `go` has been seen it rests.
    let load = r#"
        head -c 8000000 /dev/zero > /dev/shm/held
        dd if=/dev/zero of=/data bs=1M count=8 conv=fsync 2>/dev/null
        gateway=$(ip route | sed -n 's/^default via \([^ ]*\).*/\1/p')
        i=0; while [ $i -lt 20 ]; do i=$((i+1)); echo hello > /dev/null; echo hello | nc -u -w 1 "$gateway" 9 & done
        echo loaded
        while [ ! -e /stop ]; do head -c 3000000 /dev/zero | md5sum > /last; done
        wait; sync /data /last; echo rests
        exec sleep 100000"#;
    let container = pod.container("loaded").sh(load).resources(|limits| {
        limits.memory_limit_in_bytes = 64 * MIB;
        limits.cpu_period = 100_000;
        limits.cpu_quota = 50_000;
        limits.cpu_shares = 512;
    });
    let container =
        container.with(|config| drop(config.annotations.insert("e2e/of".into(), "container".into())));
    let asked = container.config.clone();
    let container = container.start();
    let pid = container.pid();
    container.logs("loaded");
    for _ in 0..5 {
        agree(&node, &container, pid);
    }
    // Rates are of a second when somebody asks less often than that; of less they follow the quota's periods.
    std::thread::sleep(Duration::from_secs(2));
    let rate = || container.stats().cpu.unwrap().usage_nano_cores.ok_or_else(|| "no rate".to_owned());
    let cores = eventually("a rate", Duration::from_secs(5), rate).value;
    // Half a core is allowed; what else the machine does may leave it less.
    assert!((10_000_000..750_000_000).contains(&cores), "{cores} nanocores");

    container.sh("touch /stop");
    container.logs("rests");
    // The kernel writes memory.stat up every two seconds.
    std::thread::sleep(Duration::from_secs(3));
    agree(&node, &container, pid);

    // At rest everything is exact.
    let read = |controller: &str, file: &str| fs::read_to_string(group(pid, controller).join(file)).unwrap();
    let number = |controller: &str, file: &str| read(controller, file).trim().parse::<u64>().unwrap();
    let usage_file = if unified() { "memory.current" } else { "memory.usage_in_bytes" };
    let inactive = if unified() { "inactive_file " } else { "total_inactive_file " };
    let same = || {
        let used = number("memory", usage_file);
        let inactive =
            read("memory", "memory.stat").lines().find_map(|l| l.strip_prefix(inactive)?.parse().ok());
        let expect: u64 = used - inactive.unwrap_or(0u64);
        let memory = container.stats().memory.unwrap();
        let told = (memory.usage_bytes.unwrap().value, memory.working_set_bytes.unwrap().value);
        if told == (used, expect) { Ok(memory) } else { Err(format!("{told:?}, not {:?}", (used, expect))) }
    };
    let memory = eventually("memory is told exactly", Duration::from_secs(10), same);
    let available = memory.available_bytes.unwrap().value;
    assert_eq!(available, 64 * MIB as u64 - memory.working_set_bytes.unwrap().value);
    assert!(memory.usage_bytes.unwrap().value >= 8_000_000, "/dev/shm is the container's memory");
    let whole = container.stats();
    assert!(whole.swap.is_some() && whole.io.is_some());
    assert_eq!(whole.cpu.unwrap().psi.is_some(), unified(), "pressure is told where the kernel does");

    // The writable layer: eight megabytes and what else is there.
    let layer = eventually("the layer is measured", Duration::from_secs(40), || {
        let layer = container.stats().writable_layer.unwrap_or_default();
        let bytes = layer.used_bytes.unwrap_or_default().value;
        if bytes >= 8 << 20 { Ok(layer) } else { Err(format!("{bytes} bytes")) }
    });
    assert!(layer.used_bytes.unwrap().value < 12 << 20 && layer.inodes_used.unwrap().value >= 4, "{layer:?}");
    let told = metrics(&node);
    let id = container.id.as_str();
    let disk: BTreeSet<&String> = told
        .keys()
        .filter(|(_, name, _)| name == "container_fs_usage_bytes")
        .map(|(_, _, own)| &own[0])
        .collect();
    let [device] = disk.into_iter().collect::<Vec<_>>()[..] else { panic!("one disk") };
    assert_eq!(value(&told, id, "container_fs_usage_bytes", &[device]), layer.used_bytes.unwrap().value);
    let about = rustix::fs::statvfs(&node.config.root).unwrap();
    assert_eq!(value(&told, id, "container_fs_limit_bytes", &[device]), about.f_blocks * about.f_frsize);
    assert_eq!(value(&told, id, "container_fs_inodes_total", &[device]), about.f_files);

    // Block I/O by device, wherever the kernel counts it.
    let file =
        if unified() { ("io", "io.stat") } else { ("blkio", "blkio.throttle.io_service_bytes_recursive") };
    for line in read(file.0, file.1).lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let written = match words[..] {
            [device, "Write", bytes] => Some((device, bytes)),
            [device, ..] if unified() => {
                words.iter().find_map(|word| word.strip_prefix("wbytes=")).map(|b| (device, b))
            }
            _ => None,
        };
        let Some((numbers, bytes)) = written else { continue };
        let (major, minor) = numbers.split_once(':').unwrap();
        let found = told.iter().find(|((of, name, own), _)| {
            of == id && name == "container_blkio_device_usage_total" && own[1..] == [major, minor, "Write"]
        });
        let ((_, _, own), moved) = found.unwrap_or_else(|| panic!("nothing of {line}"));
        assert_eq!(*moved, bytes.parse::<u64>().unwrap(), "{line}");
        assert_eq!(value(&told, id, "container_fs_writes_bytes_total", &[&own[0]]), *moved);
    }

    // Processes and their files: one shell's child that sleeps.
    assert_eq!(value(&told, id, "container_processes", &[]), 1);
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    assert_eq!(value(&told, id, "container_file_descriptors", &[]), descriptors);
    assert_eq!(value(&told, id, "container_sockets", &[]), 0);
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files =
        limits.lines().find_map(|l| l.strip_prefix("Max open files")?.split_whitespace().next()).unwrap();
    assert_eq!(
        value(&told, id, "container_ulimits_soft", &["max_open_files"]),
        files.parse::<u64>().unwrap()
    );
    for (name, expect) in [("period", 100_000), ("quota", 50_000), ("shares", 512)] {
        assert_eq!(value(&told, id, &format!("container_spec_cpu_{name}"), &[]), expect);
    }
    let started = container.status().started_at as u64 / SECOND;
    assert_eq!(value(&told, id, "container_start_time_seconds", &[]), started);

    // The network, by interface; the pod's default is the CNI's.
    let counters = || fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let of_eth0 = |text: &str| -> Vec<u64> {
        let line =
            text.lines().find_map(|line| line.trim().strip_prefix("eth0:").map(str::to_owned)).unwrap();
        line.split_whitespace().map(|word| word.parse().unwrap()).collect()
    };
    let (network, told, kernel) = eventually("the network rests", Duration::from_secs(10), || {
        let before = of_eth0(&counters());
        let (network, told) = (pod_stats(&node, &pod).network.unwrap(), metrics(&node));
        if before == of_eth0(&counters()) {
            Ok((network, told, before))
        } else {
            Err("it does not".to_owned())
        }
    });
    assert!(kernel[8] > 0, "something was sent");
    let default = network.default_interface.unwrap();
    assert_eq!((default.name.as_str(), network.interfaces.len()), ("eth0", 0));
    let numbers = [default.rx_bytes, default.rx_errors, default.tx_bytes, default.tx_errors];
    assert_eq!(numbers.map(|n| n.unwrap().value), [kernel[0], kernel[2], kernel[8], kernel[10]]);
    for (place, name) in [
        (0, "receive_bytes"),
        (1, "receive_packets"),
        (2, "receive_errors"),
        (3, "receive_packets_dropped"),
        (8, "transmit_bytes"),
        (9, "transmit_packets"),
        (10, "transmit_errors"),
        (11, "transmit_packets_dropped"),
    ] {
        let name = format!("container_network_{name}_total");
        assert_eq!(value(&told, &pod.id, &name, &["eth0"]), kernel[place], "{name}");
    }

    the_pod_is_what_its_group_says(&node, &pod, &container, &asked, pid);
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn metrics_are_described_labelled_and_told_once() {
    let node = Node::start();
    let pods = ["one", "two"].map(|name| pod(&node, name));
    let image = node.busybox();
    for pod in &pods {
        let limited = |limits: &mut v1::LinuxContainerResources| limits.memory_limit_in_bytes = 64 * MIB;
        pod.container("app").idle().resources(limited).start();
        pod.container("side").idle().start();
    }
    let described = || node.cri().list_metric_descriptors(Default::default()).unwrap().descriptors;
    let before = described();
    let keys: BTreeMap<&str, &Vec<String>> =
        before.iter().map(|d| (d.name.as_str(), &d.label_keys)).collect();
    assert_eq!(keys.len(), before.len());
    assert!(
        before.iter().all(|d| d.label_keys[..6] == ["id", "name", "image", "namespace", "pod", "container"])
    );

    let told = node.cri().list_pod_sandbox_metrics(Default::default()).unwrap().pod_metrics;
    assert_eq!(told.len(), 2);
    let mut series = BTreeSet::new();
    for (asked, pod) in pods.iter().zip(&told) {
        assert_eq!((pod.pod_sandbox_id.as_str(), pod.container_metrics.len()), (asked.id.as_str(), 2));
        let cgroup = &asked.config.linux.as_ref().unwrap().cgroup_parent;
        let name = &asked.config.metadata.as_ref().unwrap().name;
        for metric in pod.metrics.iter().chain(pod.container_metrics.iter().flat_map(|c| &c.metrics)) {
            let keys =
                keys.get(metric.name.as_str()).unwrap_or_else(|| panic!("{} is not described", metric.name));
            assert_eq!(keys.len(), metric.label_values.len(), "{metric:?}");
            assert!(series.insert((metric.name.clone(), metric.label_values.clone())), "{metric:?} twice");
            assert_eq!(metric.label_values[3..5], ["default".to_owned(), name.clone()]);
        }
        let own = &pod.metrics[0].label_values;
        assert_eq!([&own[1], &own[2], &own[5]], [&asked.id, "", ""]);
        for container in &pod.container_metrics {
            let own = &container.metrics[0].label_values;
            assert!(own[0].contains(&container.container_id), "{own:?}");
            // systemd's slices have their parents' names in their own.
            assert!(cgroup.ends_with(".slice") || own[0].starts_with(cgroup.as_str()), "{own:?} in {cgroup}");
            assert_eq!((own[1].as_str(), own[2].as_str()), (container.container_id.as_str(), image.as_str()));
            assert!(["app", "side"].contains(&own[5].as_str()));
        }
    }
    // The stream has the same items.
    let mut client = node.cri().raw();
    let streamed: Vec<String> = e2e::cri::runtime().block_on(async {
        let request = v1::StreamPodSandboxMetricsRequest::default();
        let mut stream = client.stream_pod_sandbox_metrics(request).await.unwrap().into_inner();
        let mut ids = Vec::new();
        while let Some(message) = stream.message().await.unwrap() {
            ids.extend(message.pod_sandbox_metrics.into_iter().map(|pod| pod.pod_sandbox_id));
        }
        ids
    });
    assert_eq!(streamed, pods.each_ref().map(|pod| pod.id.clone()));
    node.restart();
    assert_eq!(described(), before, "static");
    eventually("each layer is measured again", Duration::from_secs(20), || {
        let now = metrics(&node).len();
        if now == series.len() { Ok(()) } else { Err(format!("{now} series of {}", series.len())) }
    });
    pods.iter().for_each(Pod::remove);
    assert!(metrics(&node).is_empty());
    node.leaves_nothing();
}

#[test]
fn what_is_wrong_with_one_pod_costs_no_other_its_numbers() {
    let node = Node::start();
    let (good, bad) = (pod(&node, "good"), pod(&node, "bad"));
    let fine = good.container("fine").idle().start();
    let ended = good.container("ended").sh("head -c 100000 /dev/zero > /file").start();
    ended.exit();
    let running = bad.container("running").idle().start();
    // Somebody takes the namespace's pin away.
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: bad.id.clone(), verbose: true };
    let info: String = node.cri().pod_sandbox_status(request).unwrap().info.into_values().collect();
    let pin =
        info.split('"').find(|word| word.starts_with('/') && word.contains("netns")).expect("its netns");
    node.machine.sh(&format!("umount -l {pin}"));

    let listed = node.cri().list_pod_sandbox_stats(Default::default()).unwrap().stats;
    let of = |pod: &Pod<'_>| {
        let found = listed.iter().find(|stats| stats.attributes.as_ref().unwrap().id == pod.id).unwrap();
        found.linux.clone().unwrap()
    };
    assert!(of(&good).network.is_some() && of(&good).cpu.is_some());
    assert!(of(&bad).network.is_none() && of(&bad).cpu.is_some(), "what is left of the bad one is told");
    let told = metrics(&node);
    let has = |id: &str, name: &str| told.keys().any(|(of, metric, _)| of == id && metric.starts_with(name));
    assert!(has(&good.id, "container_network") && !has(&bad.id, "container_network"));
    assert!(has(&running.id, "container_memory") && has(&fine.id, "container_memory"));

    // One that has ended keeps its attributes and its layer; lists are of those that run.
    let kept = ended.stats();
    assert_eq!(kept.attributes.as_ref().unwrap().id, ended.id);
    assert!(kept.cpu.is_none() && kept.memory.is_none() && kept.writable_layer.is_some());
    assert!(!has(&ended.id, ""), "it has no metrics");
    let listed = node.cri().list_container_stats(Default::default()).unwrap().stats;
    let ids: BTreeSet<&str> = listed.iter().map(|one| one.attributes.as_ref().unwrap().id.as_str()).collect();
    assert_eq!(ids, BTreeSet::from([fine.id.as_str(), running.id.as_str()]));
    assert!(of(&good).containers.iter().any(|one| one.attributes.as_ref().unwrap().id == ended.id));
    // The plugins' DEL wants to see it again.
    node.machine.sh(&format!("mount --bind /proc/{}/ns/net {pin}", running.pid()));
    good.remove();
    bad.remove();
    node.leaves_nothing();
}
