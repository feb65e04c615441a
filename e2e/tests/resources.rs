//! What containers and pods may use: told by the files that the kernel keeps, changed whole or not at all.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Duration;

use api::v1;
use e2e::{Container, Node, unified};
use tonic::{Code, Status};

const MIB: i64 = 1 << 20;

fn update(node: &Node, container: &Container<'_>, linux: v1::LinuxContainerResources) -> Result<(), Status> {
    let container_id = container.id.clone();
    let request =
        v1::UpdateContainerResourcesRequest { container_id, linux: Some(linux), ..Default::default() };
    node.cri().update_container_resources(request).map(drop)
}

fn told(container: &Container<'_>) -> v1::LinuxContainerResources {
    container.status().resources.unwrap().linux.unwrap()
}

/// What the kernel keeps of a container, as it can see itself: memory, quota, CPUs.
fn kept(container: &Container<'_>) -> [String; 3] {
    let files = match unified() {
        true => ["memory.max", "cpu.max", "cpuset.cpus"],
        false => ["memory/memory.limit_in_bytes", "cpu/cpu.cfs_quota_us", "cpuset/cpuset.cpus"],
    };
    files.map(|file| {
        let text = container.sh(&format!("cat /sys/fs/cgroup/{file}"));
        text.split_whitespace().next().unwrap_or_default().to_owned()
    })
}

fn oom_score_adj(pid: u32) -> i32 {
    std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
}

#[test]
fn limits_are_told_as_the_kernel_keeps_them_from_the_start_on_and_over_a_restart() {
    let node = Node::start();
    let pod = node.pod("actual").run();
    let container = pod.container("c").idle().resources(|limits| {
        // The kernel counts in pages, and v1 has two shares at least; v2's least weight is that of one share as well.
        limits.memory_limit_in_bytes = 64 * MIB + 1;
        limits.cpu_shares = 1;
        limits.cpu_quota = 50_000;
        limits.cpu_period = 100_000;
        limits.cpuset_cpus = "0".into();
        limits.oom_score_adj = 500;
    });
    let container = container.start();
    let first = told(&container);
    let shares = if unified() { 1 } else { 2 };
    assert_eq!((first.memory_limit_in_bytes, first.cpu_shares), (64 * MIB, shares));
    assert_eq!((first.cpu_quota, first.cpu_period, first.oom_score_adj), (50_000, 100_000, 500));
    assert_eq!(first.cpuset_mems, "", "what was not asked for is not told");

    let change = v1::LinuxContainerResources {
        memory_limit_in_bytes: 96 * MIB + 1,
        cpu_quota: -1,
        oom_score_adj: 700,
        ..Default::default()
    };
    update(&node, &container, change).unwrap();
    let check = |when: &str| {
        let now = told(&container);
        let limits = (now.memory_limit_in_bytes, now.cpu_quota, now.cpu_shares);
        assert_eq!(limits, (96 * MIB, -1, shares), "{when}");
        assert_eq!((now.cpuset_cpus.as_str(), now.oom_score_adj), ("0", 700), "{when}");
        assert_eq!(oom_score_adj(container.pid()), 700, "{when}");
        assert_eq!(container.sh("cat /proc/self/oom_score_adj"), "700\n", "a command that is run now");
        let [memory, quota, cpus] = kept(&container);
        assert_eq!((memory.as_str(), cpus.as_str()), ("100663296", "0"), "{when}");
        assert!(["-1", "max"].contains(&quota.as_str()), "{when}: {quota}");
    };
    check("after the update");
    node.restart();
    check("after a restart");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn huge_pages_are_limited_by_size() {
    let node = Node::start();
    let pod = node.pod("huge").run();
    let page = |size: &str, limit| v1::HugepageLimit { page_size: size.into(), limit };
    let refused = pod.container("odd").idle().resources(|limits| {
        limits.hugepage_limits = vec![page("2MB", 0), page("3MB", 1 << 20)];
    });
    node.pull(&node.busybox());
    let refused = refused.try_create().expect_err("no machine has pages of 3 MB");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("linux.resources.hugepage_limits[1].page_size: "), "{refused}");

    let sizes = node.machine.sh("ls /sys/kernel/mm/hugepages");
    let can = node.machine.sh("cat /proc/cgroups | grep -c ^hugetlb || true");
    if !sizes.contains("hugepages-2048kB") || !can.starts_with('1') {
        println!("skipped: this kernel limits no huge pages of 2 MB");
        return pod.remove();
    }
    let container = pod.container("c").idle().resources(|limits| {
        limits.hugepage_limits = vec![page("2MB", 4 << 20)];
        limits.cpuset_mems = "0".into();
    });
    let container = container.start();
    assert_eq!(told(&container).hugepage_limits, [page("2MB", 4 << 20)]);
    assert_eq!(told(&container).cpuset_mems, "0");
    let change = v1::LinuxContainerResources {
        // The kernel counts whole pages.
        hugepage_limits: vec![page("2MB", (8 << 20) + 5)],
        ..Default::default()
    };
    update(&node, &container, change).unwrap();
    assert_eq!(told(&container).hugepage_limits, [page("2MB", 8 << 20)]);
    assert_eq!(told(&container).cpuset_mems, "0");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_memory_limit_below_the_least_is_refused_before_anything_happens() {
    let node = Node::start();
    let pod = node.pod("least").run();
    node.pull(&node.busybox());
    let less = pod.container("less").idle().resources(|limits| limits.memory_limit_in_bytes = 512 * 1024 - 1);
    let refused = less.try_create().expect_err("too little");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("linux.resources.memory_limit_in_bytes: "), "{refused}");
    assert!(node.containers().is_empty());
    // No more than a shell needs, and much less than other runtimes ask for.
    let small = pod.container("small").idle().resources(|limits| limits.memory_limit_in_bytes = 4 * MIB);
    assert_eq!(told(&small.start()).memory_limit_in_bytes, 4 * MIB);
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn an_update_that_the_kernel_refuses_is_named_by_its_field_and_changes_nothing() {
    let node = Node::start();
    let pod = node.pod("refused").run();
    let container = pod.container("c").resources(|limits| {
        limits.memory_limit_in_bytes = 96 * MIB;
        limits.cpu_quota = 50_000;
        limits.cpu_period = 100_000;
        limits.oom_score_adj = 500;
    });
    // Shared memory is no page cache that could be taken back.
    let line = "head -c 40000000 /dev/zero > /dev/shm/held; echo held; exec sleep 1000";
    let container = container.sh(line).start();
    container.logs("held");
    let before = (kept(&container), told(&container));
    let refused = |linux: v1::LinuxContainerResources, code: Code, field: &str| {
        let both = v1::LinuxContainerResources { cpu_quota: 20_000, oom_score_adj: 600, ..linux };
        let refused = update(&node, &container, both).expect_err(field);
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(&format!("linux.{field}: ")), "{refused}");
        assert_eq!((kept(&container), told(&container)), before, "{field}");
        assert_eq!(oom_score_adj(container.pid()), 500, "{field}");
        assert!(container.is_running(), "{field}");
    };
    let none = v1::LinuxContainerResources::default;
    let shrunk = || v1::LinuxContainerResources { memory_limit_in_bytes: 16 * MIB, ..none() };
    refused(shrunk(), Code::FailedPrecondition, "memory_limit_in_bytes");
    let absent = v1::LinuxContainerResources { cpuset_cpus: "0-4000".into(), ..none() };
    refused(absent, Code::InvalidArgument, "cpuset_cpus");
    let period = v1::LinuxContainerResources { cpu_period: 5, ..none() };
    refused(period, Code::InvalidArgument, "cpu_period");
    if !unified() {
        let unified = [("memory.high".to_owned(), "1".to_owned())].into();
        refused(
            v1::LinuxContainerResources { unified, ..none() },
            Code::InvalidArgument,
            "unified[memory.high]",
        );
    }
    container.sh("rm /dev/shm/held");
    update(&node, &container, shrunk()).expect("what is not in use can be taken away");
    assert_eq!(kept(&container)[0], "16777216");
    container.stop(0);
    let late = update(&node, &container, shrunk()).expect_err("it has exited");
    assert_eq!(late.code(), Code::FailedPrecondition, "{late}");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_created_container_starts_with_what_it_was_told_last() {
    let node = Node::start();
    let pod = node.pod("created").run();
    let container =
        pod.container("c").idle().resources(|limits| limits.memory_limit_in_bytes = 64 * MIB).create();
    let change = v1::LinuxContainerResources {
        memory_limit_in_bytes: 32 * MIB,
        cpu_quota: 30_000,
        cpu_period: 100_000,
        oom_score_adj: 300,
        ..Default::default()
    };
    update(&node, &container, change).unwrap();
    assert_eq!(told(&container).memory_limit_in_bytes, 32 * MIB);
    node.restart();
    container.try_start().unwrap();
    let [memory, quota, _] = kept(&container);
    assert_eq!((memory.as_str(), quota.as_str()), ("33554432", "30000"));
    assert_eq!((told(&container).cpu_quota, oom_score_adj(container.pid())), (30_000, 300));
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn an_update_that_a_kill_cuts_short_has_happened_or_has_not() {
    let node = Node::start();
    let pod = node.pod("cut").run();
    let container = pod.container("c").idle().start();
    let mut random = e2e::random::Random::seeded();
    // Memory and quota of one update belong together.
    let pairs = [(64 * MIB, 40_000), (96 * MIB, 60_000)];
    let change = |(memory_limit_in_bytes, cpu_quota): (i64, i64)| v1::LinuxContainerResources {
        memory_limit_in_bytes,
        cpu_quota,
        cpu_period: 100_000,
        ..Default::default()
    };
    update(&node, &container, change(pairs[0])).unwrap();
    for round in 0..5 {
        let delay = Duration::from_micros(random.below(80_000));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut turn = 1;
                while update(&node, &container, change(pairs[turn % 2])).is_ok() {
                    turn += 1;
                }
            });
            std::thread::sleep(delay);
            node.kill9();
        });
        node.start_service();
        let now = told(&container);
        let pair = (now.memory_limit_in_bytes, now.cpu_quota);
        assert!(pairs.contains(&pair), "round {round}: {pair:?}");
        let [memory, quota, _] = kept(&container);
        assert_eq!((memory, quota), (pair.0.to_string(), pair.1.to_string()), "round {round}");
        let bundle = container.info()["bundle"].as_str().unwrap().to_owned();
        let journal = node.machine.sh(&format!("ls {bundle}/update.json 2>&1 || true"));
        assert!(journal.contains("No such file"), "round {round}: {journal}");
    }
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn what_a_pod_is_told_of_its_resources_is_kept_and_shown() {
    let node = Node::start();
    let pod = node.pod("told").with(|config| {
        let linux = config.linux.get_or_insert_default();
        linux.overhead = Some(v1::LinuxContainerResources { cpu_shares: 10, ..Default::default() });
    });
    let pod = pod.run();
    assert_eq!(pod.info()["overhead"]["cpu_shares"], 10);
    let update = |id: &str, resources: v1::LinuxContainerResources| {
        let request = v1::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: id.into(),
            resources: Some(resources),
            ..Default::default()
        };
        node.cri().update_pod_sandbox_resources(request)
    };
    update(&pod.id, v1::LinuxContainerResources { memory_limit_in_bytes: 64 * MIB, ..Default::default() })
        .unwrap();
    let refused = update(&pod.id, v1::LinuxContainerResources { cpu_quota: -2, ..Default::default() })
        .expect_err("a quota that cannot be");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    assert!(refused.message().starts_with("resources.cpu_quota: "), "{refused}");
    let missing = update(&"0".repeat(64), Default::default()).expect_err("no such pod");
    assert_eq!(missing.code(), tonic::Code::NotFound, "{missing}");
    node.restart();
    let info = pod.info();
    assert_eq!(info["overhead"]["cpu_shares"], 10, "what was not updated stays");
    assert_eq!(info["resources"]["memory_limit_in_bytes"], 64 * MIB, "{}", info["resources"]);
    assert!(pod.is_ready(), "a refusal changes nothing");
    pod.remove();
    node.leaves_nothing();
}
