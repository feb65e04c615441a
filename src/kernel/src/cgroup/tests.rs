//! v1 for real in groups of our own; v2 on a directory tree that looks like one.

use std::os::unix::process::CommandExt as _;
use std::process::Child;

use super::*;

/// A v1 group that takes itself away, with whatever is in it.
struct Scratch(Group);

impl Scratch {
    fn new(name: &str) -> Option<Self> {
        let hierarchy = Hierarchy::detect().ok()?;
        if hierarchy.is_v2() || !rustix::process::geteuid().is_root() {
            println!("skipped: needs root and cgroup v1");
            return None;
        }
        let path = format!("gantline-test-{}/{name}", std::process::id());
        let group = hierarchy.group(Path::new(&path));
        group.create().unwrap();
        Some(Self(group))
    }

    /// A shell in the group, in every hierarchy.
    fn shell(&self, script: &str) -> Child {
        let entries: Vec<PathBuf> =
            self.0.existing().map(|directory| directory.join("cgroup.procs")).collect();
        let joined = entries.iter().map(|file| format!("echo $$ > {}", file.display())).collect::<Vec<_>>();
        let script = format!("{}; {script}", joined.join("; "));
        let mut command = crate::process::command("/bin/sh");
        command.env("PATH", "/usr/bin:/bin").arg("-c").arg(script).process_group(0);
        command.spawn().unwrap()
    }

    fn wait_for_pids(&self, wanted: impl Fn(usize) -> bool) -> usize {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let count = self.0.pids().unwrap().len();
            if wanted(count) || Instant::now() > deadline {
                return count;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.remove().unwrap();
        // The directory of this test process, once its last group is gone.
        if let Some(parent) = self.0.path.parent() {
            for root in self.0.hierarchy.roots() {
                let _ = rustix::fs::rmdir(root.join(parent));
            }
        }
    }
}

#[test]
fn v1_groups_are_made_entered_read_and_removed() {
    let Some(scratch) = Scratch::new("life") else { return };
    scratch.0.create().unwrap();
    let mut child = scratch.shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exec sleep 60");
    assert_eq!(scratch.wait_for_pids(|count| count == 1), 1);
    let deadline = Instant::now() + Duration::from_secs(20);
    // It enters one hierarchy after the other.
    let stats = loop {
        let stats = scratch.0.read_stats();
        let is_there = stats.pids == Some(1) && stats.cpu.usage_ns.unwrap() >= 1_000_000;
        if is_there || Instant::now() >= deadline {
            break stats;
        }
        thread::sleep(Duration::from_millis(5));
    };
    assert!(stats.cpu.usage_ns.unwrap() >= 1_000_000, "{stats:?}");
    assert!(stats.memory.usage.unwrap() >= stats.memory.working_set.unwrap(), "{stats:?}");
    // The kernel writes memory.stat up only every two seconds: no count of it is certain here.
    assert!(stats.memory.page_faults.is_some(), "{stats:?}");
    assert_eq!((stats.pids, stats.memory.limit), (Some(1), None));
    scratch.0.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(scratch.wait_for_pids(|count| count == 0), 0);
    scratch.0.remove().unwrap();
    scratch.0.remove().unwrap();
    scratch.0.kill().unwrap();
    assert!(!scratch.0.exists());
}

#[test]
fn v1_groups_that_were_missing_go_again_unless_somebody_lives_there() {
    let Some(scratch) = Scratch::new("missing") else { return };
    let (outer, inner) = (scratch.0.path().join("a"), scratch.0.path().join("a/b"));
    let hierarchy = scratch.0.hierarchy.clone();
    let paths = [outer.to_string_lossy(), inner.to_string_lossy()];
    assert_eq!(hierarchy.group(&inner).missing(), paths);
    hierarchy.group(&inner).create().unwrap();
    assert_eq!(hierarchy.group(&inner).missing(), Vec::<String>::new());
    hierarchy.group(&outer).remove_if_empty().unwrap();
    assert!(hierarchy.group(&outer).exists(), "b lives in it");
    assert!(!hierarchy.group(&outer).is_empty().unwrap());
    assert!(hierarchy.group(&inner).is_empty().unwrap());
    for group in [&inner, &outer, &outer] {
        hierarchy.group(group).remove_if_empty().unwrap();
        assert!(!hierarchy.group(group).exists());
    }
}

#[test]
fn v1_kill_takes_the_whole_subtree_and_those_who_fork() {
    let Some(scratch) = Scratch::new("kill") else { return };
    let inner = scratch.0.hierarchy.group(scratch.0.path().join("inner"));
    inner.create().unwrap();
    let inner = Scratch(inner);
    let mut below = inner.shell("sleep 60");
    // Each dies at once and leaves a child: somebody always has a number that is not in the list yet.
    let mut forker = scratch.shell("f() { (sleep 0.01; f) & }; f; wait");
    assert!(scratch.wait_for_pids(|count| count >= 3) >= 3);
    scratch.0.kill().unwrap();
    below.wait().unwrap();
    forker.wait().unwrap();
    assert_eq!(scratch.wait_for_pids(|count| count == 0), 0);
}

#[test]
fn v1_limits_are_written_read_back_and_rolled_back() {
    let Some(scratch) = Scratch::new("limits") else { return };
    const MIB: i64 = 1 << 20;
    let first = Limits {
        cpu_shares: Some(512),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        memory: Some(64 * MIB),
        memory_and_swap: Some(64 * MIB),
        pids: Some(100),
        cpuset_cpus: Some("0".into()),
        ..Limits::default()
    };
    scratch.0.apply(&first).unwrap();
    let read = scratch.0.read_limits();
    assert_eq!(Limits { cpuset_mems: None, ..read.clone() }, first);
    let stats = scratch.0.read_stats();
    assert_eq!((stats.memory.limit, stats.memory.swap_limit), (Some(64 << 20), Some(0)));
    // Up past the old sum and down again: each way only in one order.
    for bytes in [256 * MIB, 32 * MIB] {
        let both = Limits { memory: Some(bytes), memory_and_swap: Some(bytes), ..Limits::default() };
        scratch.0.apply(&both).unwrap();
        assert_eq!(scratch.0.read_limits().memory, Some(bytes));
    }
    // The last write fails; what came before is as it was.
    let before = scratch.0.read_limits();
    let bad = Limits {
        cpu_shares: Some(100),
        cpu_period: Some(50_000),
        memory: Some(512 * MIB),
        memory_and_swap: Some(512 * MIB),
        pids: Some(i64::MAX),
        ..Limits::default()
    };
    let error = scratch.0.apply(&bad).unwrap_err();
    assert!(error.to_string().ends_with("pids.max"), "{error}");
    assert_eq!(scratch.0.read_limits(), before);
    let unlimited =
        Limits { memory: Some(-1), memory_and_swap: Some(-1), pids: Some(-1), ..Limits::default() };
    scratch.0.apply(&unlimited).unwrap();
    let read = scratch.0.read_limits();
    assert_eq!((read.memory, read.memory_and_swap, read.pids), (None, None, None));
    let unified = Limits { unified: [("memory.high".into(), "1".into())].into(), ..Limits::default() };
    assert!(scratch.0.apply(&unified).unwrap_err().to_string().contains("cgroup v1 does not have"));
}

/// A directory tree with the files of a v2 group.
struct Fake {
    dir: tempfile::TempDir,
    group: Group,
}

const GROUP: &str = "pods/pod1/app";

impl Fake {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy::V2 { root: dir.path().to_owned() };
        let group = hierarchy.group(Path::new("/").join(GROUP).as_path());
        fs::create_dir_all(dir.path().join(GROUP)).unwrap();
        let fake = Self { dir, group };
        for (name, text) in files {
            fake.write(name, text);
        }
        fake
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(GROUP).join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(GROUP).join(name)).unwrap()
    }

    /// The writes for some limits, `file=value`.
    fn plan(&self, limits: &Limits) -> Vec<String> {
        let name = |write: &limits::Write| write.file.file_name().unwrap().to_string_lossy().into_owned();
        let writes = limits::plan(&self.group, limits).unwrap();
        writes.iter().map(|write| format!("{}={}", name(write), write.value)).collect()
    }
}

#[test]
fn v2_limits_are_planned_from_what_is_there() {
    let none = Limits::default;
    type Files = &'static [(&'static str, &'static str)];
    let rows: [(Files, Limits, &[&str]); 11] = [
        (&[], none(), &[]),
        (&[], Limits { cpu_shares: Some(1024), ..none() }, &["cpu.weight=100"]),
        (&[], Limits { cpu_shares: Some(2), ..none() }, &["cpu.weight=1"]),
        (&[], Limits { cpu_shares: Some(262_144), ..none() }, &["cpu.weight=10000"]),
        (&[("cpu.max", "max 100000\n")], Limits { cpu_quota: Some(5), ..none() }, &["cpu.max=5 100000"]),
        (&[("cpu.max", "7 100000\n")], Limits { cpu_period: Some(50), ..none() }, &["cpu.max=7 50"]),
        (&[("cpu.max", "7 200\n")], Limits { cpu_quota: Some(-1), ..none() }, &["cpu.max=max 200"]),
        (
            &[],
            Limits { memory: Some(64), memory_and_swap: Some(96), ..none() },
            &["memory.max=64", "memory.swap.max=32"],
        ),
        (
            &[("memory.max", "64\n")],
            Limits { memory_and_swap: Some(64), pids: Some(-1), ..none() },
            &["memory.swap.max=0", "pids.max=max"],
        ),
        (
            &[("hugetlb.2MB.rsvd.max", "max\n")],
            Limits { hugepages: vec![("2MB".into(), 4), ("1GB".into(), 0)], ..none() },
            &["hugetlb.2MB.max=4", "hugetlb.2MB.rsvd.max=4", "hugetlb.1GB.max=0"],
        ),
        (
            &[],
            Limits {
                unified: [("memory.high".into(), "9".into())].into(),
                cpuset_cpus: Some("1".into()),
                cpuset_mems: Some("0".into()),
                ..none()
            },
            &["cpuset.mems=0", "cpuset.cpus=1", "memory.high=9"],
        ),
    ];
    for (files, limits, expect) in rows {
        assert_eq!(Fake::new(files).plan(&limits), expect, "{limits:?}");
    }
}

#[test]
fn weights_are_those_of_the_oci_runtimes() {
    // As runc 1.3.3 writes them.
    let rows =
        [(0, 1), (2, 1), (100, 17), (512, 59), (1024, 100), (1536, 138), (2048, 174), (262_144, 10_000)];
    for (shares, weight) in rows {
        assert_eq!(weight_of_shares(shares), weight, "{shares}");
    }
    assert_eq!(weight_of_shares(u64::MAX), 10_000);
}

#[test]
fn v2_limits_are_all_looked_at_before_one_is_written() {
    let fake = Fake::new(&[("memory.max", "max\n"), ("memory.swap.max", "max\n"), ("cpu.weight", "100\n")]);
    let limits = Limits {
        cpu_shares: Some(1024),
        memory: Some(64),
        memory_and_swap: Some(64),
        pids: Some(10),
        ..Limits::default()
    };
    let error = fake.group.apply(&limits).unwrap_err();
    assert!(error.to_string().ends_with("pids.max"), "the file is absent: {error}");
    let now = ["cpu.weight", "memory.max", "memory.swap.max"].map(|file| fake.read(file));
    assert_eq!(now, ["100\n", "max\n", "max\n"], "nothing is written when one cannot be");
    fake.write("pids.max", "max\n");
    fake.group.apply(&limits).unwrap();
    let read = fake.group.read_limits();
    assert_eq!((read.memory, read.memory_and_swap, read.pids), (Some(64), Some(64), Some(10)));
    assert_eq!(read.cpu_shares, Some(1024));
}

#[test]
fn v2_limits_are_put_back_line_by_line_where_a_file_has_one_for_each_device() {
    let fake = Fake::new(&[("io.max", "8:0 rbps=1 wbps=max riops=max wiops=max\n8:16 rbps=2 wbps=max\n")]);
    let back = |value: &str| {
        let limits =
            Limits { unified: [("io.max".to_owned(), value.to_owned())].into(), ..Limits::default() };
        let writes = fake.group.undo_of(&limits).unwrap();
        writes.into_iter().map(|write| write.value).collect::<Vec<_>>()
    };
    let before = ["8:16 rbps=2 wbps=max", "8:0 rbps=1 wbps=max riops=max wiops=max"];
    assert_eq!(back("8:0 rbps=5"), before);
    assert_eq!(back("8:32 rbps=5")[0], "8:32 rbps=max wbps=max riops=max wiops=max");
    assert_eq!(back("8:32 rbps=5")[1..], before);
}

#[test]
fn v2_memory_that_cannot_be_reclaimed_is_what_is_not_page_cache() {
    let stat = "anon 70\nfile 30\nactive_file 10\ninactive_file 15\nshmem 5\n";
    let fake = Fake::new(&[("memory.current", "100\n"), ("memory.stat", stat)]);
    assert_eq!(fake.group.unreclaimable(), Some(75));
    assert_eq!(Fake::new(&[("memory.current", "100\n")]).group.unreclaimable(), None);
}

#[test]
fn oom_score_adj_is_given_to_all_who_fork_meanwhile() {
    let Some(scratch) = Scratch::new("oom") else { return };
    let mut forker = scratch.shell("f() { (sleep 0.01; f) & }; f; sleep 60 & wait");
    assert!(scratch.wait_for_pids(|count| count >= 2) >= 2);
    scratch.0.set_oom_score_adj(777).unwrap();
    let adjs = scratch.0.oom_score_adjs().unwrap();
    assert!(!adjs.is_empty() && adjs.values().all(|adj| *adj == 777), "{adjs:?}");
    scratch.0.kill().unwrap();
    forker.wait().unwrap();
    set_oom_score_adj(forker.id(), 5).unwrap();
}

#[test]
fn v2_stats_are_read_and_missing_ones_are_none() {
    let fake = Fake::new(&[]);
    assert_eq!(fake.group.read_stats(), CgroupStats::default());
    let psi =
        "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=7\n";
    for (name, text) in [
        (
            "cpu.stat",
            "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 9\nnr_throttled 4\nthrottled_usec 6\n",
        ),
        ("memory.current", "1000\n"),
        ("memory.max", "max\n"),
        (
            "memory.stat",
            "anon 300\nfile 600\ninactive_file 400\npgfault 11\npgmajfault 2\nkernel_stack 5\nslab 6\n",
        ),
        ("memory.swap.current", "50\n"),
        ("memory.swap.max", "500\n"),
        ("memory.events", "low 0\nmax 3\noom_kill 1\n"),
        ("pids.current", "4\n"),
        ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n253:1 \nrubbish\n"),
        ("cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"),
        ("memory.pressure", psi),
        ("hugetlb.2MB.current", "2097152\n"),
        ("hugetlb.2MB.rsvd.current", "0\n"),
    ] {
        fake.write(name, text);
    }
    let stats = fake.group.read_stats();
    let cpu = &stats.cpu;
    assert_eq!((cpu.usage_ns, cpu.throttled_ns, cpu.periods), (Some(5000), Some(6000), Some(9)));
    let memory = &stats.memory;
    assert_eq!((memory.usage, memory.working_set, memory.limit), (Some(1000), Some(600), None));
    assert_eq!((memory.rss, memory.kernel, memory.oom_kills), (Some(300), Some(11), Some(1)));
    assert_eq!((memory.swap, memory.swap_limit), (Some(50), Some(500)));
    assert_eq!((stats.pids, stats.pids_max), (Some(4), None));
    assert_eq!(stats.io.len(), 2);
    assert_eq!((stats.io[0].read_bytes, stats.io[0].writes), (1, 4));
    let pressure = stats.memory_pressure.unwrap();
    assert_eq!((pressure.some.avg10, pressure.full.total_us), (1.5, 7));
    assert_eq!(stats.cpu_pressure.unwrap().full, PressureLine::default());
    assert_eq!(stats.io_pressure, None);
    let [huge] = stats.hugepages.try_into().unwrap();
    assert_eq!((huge.page_size.as_str(), huge.usage), ("2MB", 2 << 20));
}

#[test]
fn v2_controllers_are_handed_down_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::write(root.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
    fs::write(root.join("cgroup.subtree_control"), "cpu").unwrap();
    let hierarchy = Hierarchy::V2 { root: root.to_owned() };
    hierarchy.group(Path::new("/a/b")).create().unwrap();
    assert!(root.join("a/b").is_dir());
    assert_eq!(fs::read_to_string(root.join("cgroup.subtree_control")).unwrap(), "cpu+memory+pids");
    assert_eq!(hierarchy.controller("memory").as_deref(), Some(root));
    assert_eq!(hierarchy.controller("hugetlb"), None);
}

#[test]
fn v2_kill_writes_the_file_that_kills() {
    let fake = Fake::new(&[("cgroup.kill", ""), ("cgroup.procs", "")]);
    fake.group.kill().unwrap();
    assert_eq!(fake.read("cgroup.kill"), "1");
}

#[test]
fn layouts_are_told_from_the_mount_table() {
    let table = |lines: &[&str]| {
        let lines: Vec<String> = lines.iter().map(|line| format!("1 2 0:1 / {line}\n")).collect();
        Hierarchy::of_table(&mount::parse(lines.concat().as_bytes()).unwrap())
    };
    let v2 = "/sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
    let unified = "/sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
    let cpu = "/sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct";
    let again = "/elsewhere rw - cgroup cgroup rw,cpu,cpuacct";
    let systemd = "/sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd";
    assert_eq!(table(&[v2]).unwrap(), Hierarchy::V2 { root: "/sys/fs/cgroup".into() });
    assert_eq!(table(&[unified, systemd]).unwrap(), Hierarchy::V2 { root: "/sys/fs/cgroup/unified".into() });
    let Hierarchy::V1 { controllers, unified } = table(&[cpu, again, systemd, unified]).unwrap() else {
        panic!("a hybrid layout limits through v1");
    };
    let names: Vec<&str> = controllers.keys().map(String::as_str).collect();
    assert_eq!(names, ["cpu", "cpuacct", "name=systemd"]);
    assert_eq!(controllers["cpu"], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
    assert_eq!(unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
    assert!(table(&["/proc rw - proc proc rw"]).unwrap_err().is_not_found());
}

#[test]
fn huge_page_sizes_have_the_cgroup_files_names() {
    for (name, expect) in [
        ("hugepages-2048kB", Some("2MB")),
        ("hugepages-1048576kB", Some("1GB")),
        ("hugepages-64kB", Some("64KB")),
        ("hugepages-x", None),
    ] {
        assert_eq!(stats::hugepage_size(name).as_deref(), expect);
    }
}

#[test]
fn the_root_group_is_never_removed() {
    let fake = Fake::new(&[]);
    assert!(fake.group.hierarchy.group(Path::new("/")).remove().is_err());
    assert!(fake.dir.path().join(GROUP).is_dir());
}

#[test]
fn a_weight_and_its_shares_are_each_others() {
    for shares in (2..=262_144).step_by(7) {
        // Where the curve is steep it passes over weights; never over one that shares have.
        let weight = weight_of_shares(shares);
        assert_eq!(weight_of_shares(limits::shares_of_weight(weight)), weight, "{shares}");
        assert!(limits::shares_of_weight(weight) >= shares);
    }
    assert_eq!(limits::shares_of_weight(100), 1024);
    for (weight, shares, expect) in [(39, 1024, true), (100, 1024, true), (1, 2, true), (50, 1024, false)] {
        assert_eq!(is_weight_of_shares(weight, shares), expect, "{weight} {shares}");
    }
}

#[test]
fn a_reader_that_keeps_files_reads_what_they_say_now_and_one_that_does_not_keeps_none() {
    let open = || {
        fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|entry| fs::read_link(entry.path()).ok())
    };
    for keep in [true, false] {
        let fake = Fake::new(&[
            ("cpu.stat", "usage_usec 5\n"),
            ("memory.current", "1000\n"),
            ("pids.current", "1\n"),
        ]);
        let ours = |path: &PathBuf| path.starts_with(fake.dir.path());
        let mut reader = Reader::new(fake.group.clone(), keep);
        assert_eq!(reader.read(Extent::Usage).unwrap().stats.cpu.usage_ns, Some(5000));
        fake.write("cpu.stat", "usage_usec 7\n");
        assert_eq!(reader.cpu_ns(), Some(7000));
        let everything = reader.read(Extent::Everything).unwrap();
        assert_eq!((everything.stats.memory.usage, everything.failed), (Some(1000), None));
        assert_eq!(open().any(|path| ours(&path)), keep);
        drop(reader);
        assert!(!open().any(|path| ours(&path)));
    }
}

#[test]
fn a_file_that_cannot_be_read_is_told_and_spoils_no_other() {
    let fake = Fake::new(&[("cpu.stat", "usage_usec 5\n"), ("pids.current", "1\n")]);
    // read(2) of a directory fails, as a broken file's does.
    fs::create_dir(fake.dir.path().join(GROUP).join("memory.current")).unwrap();
    let reading = Reader::new(fake.group.clone(), true).read(Extent::Usage).unwrap();
    assert!(reading.failed.unwrap().contains("memory.current"));
    assert_eq!((reading.stats.cpu.usage_ns, reading.stats.pids), (Some(5000), Some(1)));
    let nothing = Fake::new(&[]);
    assert_eq!(Reader::new(nothing.group.clone(), true).read(Extent::Everything), None);
}
