//! cgroups, looked at from outside: what a pod makes is where the OCI runtime puts its containers, bounds them,
//! counts them, and goes with them. `make vm-test` runs it where the kernel has cgroup v2 alone.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::v1;
use e2e::{Container, Node, eventually, machine};

const MIB: i64 = 1 << 20;

/// Whether this machine has cgroup v2 alone; says so where a test is skipped for it.
fn unified() -> bool {
    let unified = e2e::unified();
    if !unified {
        println!("skipped: this machine has cgroup v1; make vm-test boots one that has v2");
    }
    unified
}

/// A process's cgroup, by the kernel's word.
fn cgroup_of(pid: u32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).expect("a v2 cgroup");
    Path::new("/sys/fs/cgroup").join(path)
}

/// The group that a container has to itself: under systemd its scope, in which crun makes one more.
fn own(bounding: &Path) -> &Path {
    if bounding.ends_with("container") { bounding.parent().unwrap() } else { bounding }
}

fn read(group: &Path, file: &str) -> String {
    let path = group.join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim().to_owned()
}

fn update(node: &Node, container: &Container<'_>, linux: v1::LinuxContainerResources) {
    let request = v1::UpdateContainerResourcesRequest {
        container_id: container.id.clone(),
        linux: Some(linux),
        ..Default::default()
    };
    node.cri().update_container_resources(request).expect("UpdateContainerResources");
}

fn memory(container: &Container<'_>) -> v1::MemoryUsage {
    container.stats().memory.unwrap_or_default()
}

/// The units of systemd that belong to this machine's pods, running or not.
fn units(node: &Node) -> String {
    if !machine::systemd_driver() {
        return String::new();
    }
    let stem = node.machine.cgroup_parent();
    let stem = stem.trim_start_matches('/').trim_end_matches(".slice").to_owned();
    let scopes = "systemctl list-units --all --plain --no-legend 'gantline-*.scope'";
    node.machine
        .sh(&format!("{scopes}; systemctl list-units --all --plain --no-legend '{stem}-*-pod*.slice'"))
}

#[test]
fn limits_are_in_the_files_of_the_containers_group_and_go_with_the_pod() {
    if !unified() {
        return;
    }
    let node = Node::start();
    let pod = node.pod("limited").own_cgroup().run();
    let bound = pod.container("bound").idle().resources(|limits| {
        limits.memory_limit_in_bytes = 64 * MIB;
        limits.cpu_shares = 512;
        limits.cpu_quota = 50_000;
        limits.cpu_period = 100_000;
        limits.cpuset_cpus = "0".into();
        limits.unified.insert("pids.max".into(), "77".into());
        limits.unified.insert("memory.high".into(), (48 * MIB).to_string());
    });
    let bound = bound.start();
    let free = pod.container("free").idle().start();
    let (group, other) = (cgroup_of(bound.pid()), cgroup_of(free.pid()));

    // Both are in the pod's group, which is where the request says.
    let parent = pod.config.linux.as_ref().unwrap().cgroup_parent.clone();
    let pods_group = Path::new("/sys/fs/cgroup").join(parent.trim_start_matches('/'));
    for group in [&group, &other] {
        assert_eq!(own(group).parent(), Some(pods_group.as_path()));
    }
    for above in own(&group).ancestors().skip(1).take_while(|dir| dir.starts_with("/sys/fs/cgroup")) {
        let handed_down = read(above, "cgroup.subtree_control");
        for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
            let has = handed_down.split_whitespace().any(|name| name == controller);
            assert!(has, "{controller} in {}: {handed_down}", above.display());
        }
    }

    let limits = |group: &Path| {
        ["memory.max", "cpu.max", "cpu.weight", "cpuset.cpus", "pids.max", "memory.high"]
            .map(|f| read(group, f))
    };
    assert_eq!(limits(&group), ["67108864", "50000 100000", "59", "0", "77", "50331648"]);
    let free_limits = limits(&other);
    assert_eq!((free_limits[0].as_str(), free_limits[1].as_str()), ("max", "max 100000"));
    assert_eq!(bound.sh("cat /sys/fs/cgroup/memory.max; cat /proc/self/cgroup"), "67108864\n0::/\n");

    let change = v1::LinuxContainerResources {
        memory_limit_in_bytes: 96 * MIB,
        cpu_quota: 80_000,
        cpu_shares: 2048,
        unified: [("pids.max".to_owned(), "88".to_owned())].into(),
        ..Default::default()
    };
    update(&node, &bound, change);
    let changed = ["100663296", "80000 100000", "174", "0", "88", "50331648"];
    assert_eq!(limits(&group), changed);
    let told = bound.status().resources.unwrap().linux.unwrap();
    assert_eq!((told.memory_limit_in_bytes, told.cpu_quota, told.cpu_shares), (96 * MIB, 80_000, 2048));

    if machine::systemd_driver() {
        // systemd writes its own idea of a unit's limits again when it reloads, or when a unit beside it starts.
        node.machine.sh("systemctl daemon-reload");
        pod.container("late").idle().resources(|limits| limits.cpu_shares = 100).start();
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(limits(&group), changed, "after a reload");
        let scope =
            ["memory.max", "cpu.max", "cpu.weight", "cpuset.cpus"].map(|file| read(own(&group), file));
        assert_eq!(scope, ["100663296", "80000 100000", "174", "0"], "after a reload");
    }

    node.restart();
    assert_eq!(limits(&group), changed, "after a restart of the service");
    update(
        &node,
        &bound,
        v1::LinuxContainerResources { memory_limit_in_bytes: 80 * MIB, ..Default::default() },
    );
    assert_eq!(read(&group, "memory.max"), "83886080");

    bound.stop(0);
    bound.remove();
    assert!(!own(&group).exists(), "a container's group goes with it");
    assert!(other.exists());
    pod.remove();
    node.leaves_nothing();
    eventually("systemd forgets the pod", Duration::from_secs(10), || {
        let units = units(&node);
        if units.is_empty() { Ok(()) } else { Err(units) }
    });
}

/// A block device of the machine's, `254:0`, and its `io.max` with a bound on reading.
fn slow_disk(bytes_a_second: i64) -> Option<(String, String)> {
    let disks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let device = disks.map(|disk| disk.path()).find(|disk| disk.join("device").exists())?;
    let number = fs::read_to_string(device.join("dev")).ok()?;
    let told = format!("{} rbps={bytes_a_second} wbps=max riops=max wiops=max", number.trim());
    Some((format!("{} rbps={bytes_a_second}", number.trim()), told))
}

#[test]
fn every_kind_of_limit_lands_in_its_file_and_is_changed_there() {
    if !unified() {
        return;
    }
    let node = Node::start();
    let pod = node.pod("every").own_cgroup().run();
    let (slow, slower) = (slow_disk(2 * MIB).expect("a disk"), slow_disk(MIB).expect("a disk"));
    let mib = |n: i64| (n * MIB).to_string();
    let hugepages = |bytes| v1::HugepageLimit { page_size: "2MB".into(), limit: bytes };
    // File, what it holds at first, what it holds after the change.
    let rows = [
        ("memory.max", mib(64), mib(96)),
        // Swap alone: the request bounds both together.
        ("memory.swap.max", mib(32), mib(48)),
        ("memory.min", mib(4), mib(5)),
        ("memory.low", mib(8), mib(10)),
        ("memory.high", mib(48), mib(80)),
        ("cpu.weight", "138".into(), "174".into()),
        ("cpu.max", "20000 50000".into(), "30000 60000".into()),
        ("cpuset.cpus", "0-1".into(), "1".into()),
        ("cpuset.mems", "0".into(), "0".into()),
        ("pids.max", "77".into(), "88".into()),
        ("hugetlb.2MB.max", mib(4), mib(8)),
        ("io.max", slow.1, slower.1),
    ];
    let bound = pod.container("bound").idle().resources(|limits| {
        limits.memory_limit_in_bytes = 64 * MIB;
        limits.memory_swap_limit_in_bytes = 96 * MIB;
        limits.cpu_shares = 1536;
        limits.cpu_quota = 20_000;
        limits.cpu_period = 50_000;
        limits.cpuset_cpus = "0-1".into();
        limits.cpuset_mems = "0".into();
        limits.hugepage_limits = vec![hugepages(4 << 20)];
        let unified =
            [("memory.min", mib(4)), ("memory.low", mib(8)), ("memory.high", mib(48)), ("io.max", slow.0)];
        limits.unified = unified.map(|(file, value)| (file.to_owned(), value)).into();
        limits.unified.insert("pids.max".into(), "77".into());
    });
    let bound = bound.start();
    let group = cgroup_of(bound.pid());
    let wrong = |of: fn(&(&str, String, String)) -> String| -> Vec<String> {
        let found = |file: &str| read(&group, file);
        let differs = rows.iter().filter(|row| found(row.0) != of(row));
        differs.map(|row| format!("{}: {} and not {}", row.0, found(row.0), of(row))).collect()
    };
    assert_eq!(wrong(|row| row.1.clone()), Vec::<String>::new(), "as created");

    let unified =
        [("memory.min", mib(5)), ("memory.low", mib(10)), ("memory.high", mib(80)), ("io.max", slower.0)];
    let mut change = v1::LinuxContainerResources {
        memory_limit_in_bytes: 96 * MIB,
        memory_swap_limit_in_bytes: 144 * MIB,
        cpu_shares: 2048,
        cpu_quota: 30_000,
        cpu_period: 60_000,
        cpuset_cpus: "1".into(),
        hugepage_limits: vec![hugepages(8 << 20)],
        unified: unified.map(|(file, value)| (file.to_owned(), value)).into(),
        ..Default::default()
    };
    change.unified.insert("pids.max".into(), "88".into());
    update(&node, &bound, change);
    assert_eq!(wrong(|row| row.2.clone()), Vec::<String>::new(), "as changed");

    if machine::systemd_driver() {
        node.machine.sh("systemctl daemon-reload");
        pod.container("late").idle().resources(|limits| limits.cpu_shares = 100).start();
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(wrong(|row| row.2.clone()), Vec::<String>::new(), "after a reload");
    }

    // One value that the kernel does not take: every other stays.
    let mut bad = v1::LinuxContainerResources { memory_limit_in_bytes: 112 * MIB, ..Default::default() };
    bad.memory_swap_limit_in_bytes = 144 * MIB;
    bad.unified.insert("memory.high".into(), "plenty".into());
    let request = v1::UpdateContainerResourcesRequest {
        container_id: bound.id.clone(),
        linux: Some(bad),
        ..Default::default()
    };
    let refused = node.cri().update_container_resources(request).expect_err("no such number");
    assert!(refused.message().contains("memory.high"), "{refused}");
    assert_eq!(wrong(|row| row.2.clone()), Vec::<String>::new(), "after a refusal");
    let told = bound.status().resources.unwrap().linux.unwrap();
    assert_eq!((told.memory_limit_in_bytes, told.memory_swap_limit_in_bytes), (96 * MIB, 144 * MIB));
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn the_last_pod_below_a_group_takes_it_along() {
    let node = Node::start();
    let first = node.pod("first").own_cgroup().run();
    first.container("first").idle().start();
    let second = node.pod("second").own_cgroup().run();
    let running = second.container("second").idle().start();
    first.remove();
    assert!(running.is_running(), "nothing of another pod's ends with the first");
    second.remove();
    node.leaves_nothing();
}

#[test]
fn usage_is_counted_for_containers_and_their_pod() {
    if !unified() {
        return;
    }
    let node = Node::start();
    let pod = node.pod("counted").own_cgroup().run();
    let busy = pod.container("busy").sh("while :; do :; done").start();
    let idle =
        pod.container("idle").idle().resources(|limits| limits.memory_limit_in_bytes = 64 * MIB).start();
    let time =
        |stats: &v1::ContainerStats| stats.cpu.as_ref().unwrap().usage_core_nano_seconds.unwrap().value;
    let first = time(&busy.stats());
    std::thread::sleep(Duration::from_secs(2));
    let grown = time(&busy.stats()) - first;
    assert!(grown > 200_000_000, "a busy loop had {grown} ns in two seconds");
    let used = memory(&idle);
    let number = |value: &Option<v1::UInt64Value>| value.map(|value| value.value);
    assert!(number(&used.working_set_bytes).unwrap() > 0, "{used:?}");
    let available = number(&used.available_bytes).unwrap();
    assert!(available > 0 && available < 64 * MIB as u64, "{used:?}");
    assert!(used.psi.is_some() && busy.stats().cpu.unwrap().psi.is_some(), "pressure is told");

    let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
    let whole = node.cri().pod_sandbox_stats(request).unwrap().stats.unwrap().linux.unwrap();
    let of_pod = whole.cpu.unwrap().usage_core_nano_seconds.unwrap().value;
    assert!(of_pod >= first + grown, "the pod's {of_pod} includes the container's {}", first + grown);
    assert!(whole.process.unwrap().process_count.unwrap().value >= 2);
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn what_the_kernel_kills_for_want_of_memory_is_told_every_time() {
    if !unified() {
        return;
    }
    let node = Node::start();
    let pod = node.pod("hungry").own_cgroup().run();
    let hungry = |name: &str, line: &str| {
        let container = pod.container(name).command(&["sh", "-c", line]);
        container.resources(|limits| limits.memory_limit_in_bytes = 16 * MIB).start()
    };
    // Its group is gone with its last process, under systemd without our doing.
    for round in 0..5 {
        let ended = hungry(&format!("itself-{round}"), "exec tail -c 200000000 /dev/zero").exit();
        assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "OOMKilled"), "round {round}");
    }
    let child = hungry("child", "tail -c 200000000 /dev/zero; echo it ended with $?; exec sleep 1000");
    child.logs("it ended with 137");
    assert!(child.is_running());
    child.stop(0);
    let ended = child.status();
    assert_eq!(
        (ended.exit_code, ended.reason.as_str()),
        (137, "Error"),
        "our own SIGKILL is no want of memory"
    );
    pod.remove();
    node.leaves_nothing();
}
