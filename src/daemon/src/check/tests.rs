//! Made-up nodes: one that is as it should be, and each way of being otherwise as a change of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::probe::{Listener, Space};
use super::*;
use crate::config::value::CgroupDriver;
use crate::runtimes::Features;

/// What the made-up system answers.
struct Answers {
    calls: bool,
    many_layers: Result<bool, String>,
    space: Space,
    listeners: BTreeMap<PathBuf, u32>,
    version: Result<String, String>,
    features: Features,
    cni: Result<Vec<String>, String>,
}

impl Probe for Answers {
    fn openat2(&self) -> bool {
        self.calls
    }
    fn pidfd(&self) -> bool {
        true
    }
    fn overlay_takes_many_layers(&self) -> Result<bool, String> {
        self.many_layers.clone()
    }
    fn space(&self, _: &Path) -> Result<Space, String> {
        Ok(self.space)
    }
    fn listener(&self, socket: &Path) -> Option<Listener> {
        self.listeners.get(socket).map(|pid| Listener { pid: Some(*pid) })
    }
    fn version(&self, _: &Path) -> Result<String, String> {
        self.version.clone()
    }
    fn features(&self, _: &Path) -> Features {
        self.features
    }
    fn cni_versions(&self, _: &Path) -> Result<Vec<String>, String> {
        self.cni.clone()
    }
}

const V2: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw";
const LIST: &str =
    r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}"#;

/// A node that is as it should be.
struct Node {
    files: BTreeMap<&'static str, String>,
    answers: Answers,
    config: Config,
}

impl Node {
    fn good() -> Self {
        let files = [
            ("/proc/sys/kernel/osrelease", "6.12.1-made-up"),
            ("/proc/self/status", "Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff"),
            ("/proc/filesystems", "nodev\toverlay"),
            ("/proc/sys/user/max_user_namespaces", "1000"),
            ("/proc/sys/kernel/seccomp/actions_avail", "kill"),
            ("/sys/kernel/security/lsm", "capability,apparmor"),
            ("/sys/module/apparmor/parameters/enabled", "Y"),
            ("/usr/sbin/apparmor_parser", "#!"),
            ("/proc/sys/net/bridge/bridge-nf-call-iptables", "1"),
            ("/proc/sys/net/netfilter/nf_conntrack_max", "1"),
            ("/sys/module/nf_tables/refcnt", "1"),
            ("/proc/sys/net/ipv4/ip_forward", "1"),
            ("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids"),
            ("/sys/fs/cgroup/cgroup.subtree_control", "cpu memory pids"),
            ("/run/systemd/system/x", ""),
            ("/proc/swaps", "Filename Type Size Used Priority"),
            ("/etc/cni/net.d/10.conflist", LIST),
            ("/opt/cni/bin/bridge", "#!"),
            ("/opt/cni/bin/portmap", "#!"),
            ("/var/lib/gantline/x", ""),
            ("/proc/77/comm", "containerd"),
            ("/lib/modules/6.12.1-made-up/modules.dep", "kernel/fs/x.ko:"),
        ];
        let mut files: BTreeMap<_, _> =
            files.into_iter().map(|(path, text)| (path, text.to_owned())).collect();
        for kind in ["mnt", "net", "ipc", "uts", "pid", "cgroup", "user", "time"] {
            let path: &'static str = Box::leak(format!("/proc/self/ns/{kind}").into_boxed_str());
            files.insert(path, format!("-> {kind}:[1]"));
        }
        let root = "24 1 8:1 / / rw shared:1 - ext4 /dev/made-up rw";
        files.insert("/proc/self/mountinfo", format!("{root}\n{V2}"));
        let all = Features { recursive_read_only: true, id_mapped_mounts: true, user_namespaces: true };
        let answers = Answers {
            calls: true,
            many_layers: Ok(true),
            space: Space { free: 50 << 30, reserved: 0, inodes: Some(1 << 20), tells_types: Some(true) },
            listeners: BTreeMap::new(),
            version: Ok("crun version 9".into()),
            features: all,
            cni: Ok(vec!["0.4.0".into(), "1.0.0".into()]),
        };
        Self { files, answers, config: Config::default() }
    }

    fn file(mut self, path: &'static str, text: &str) -> Self {
        self.files.insert(path, text.to_owned());
        self
    }

    fn without(mut self, path: &str) -> Self {
        assert!(self.files.remove(path).is_some(), "{path}");
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn report(mut self) -> Report {
        let list: Vec<(&str, &str)> = self.files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        let (dir, files) = Files::made_up(&list);
        // These two are looked for as files of this machine.
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for name in ["crun", "gantline-shim"] {
            std::fs::copy(dir.path().join("opt/cni/bin/bridge"), bin.join(name))
                .or_else(|_| std::fs::copy(dir.path().join("usr/sbin/apparmor_parser"), bin.join(name)))
                .unwrap();
        }
        self.config.pods.shim = Some(bin.join("gantline-shim"));
        let path = bin.display().to_string();
        look(&Host { files: &files, probe: &self.answers, config: &self.config, path: &path })
    }

    /// `level subject: found` of what is not well.
    fn complaints(self) -> Vec<String> {
        let report = self.report();
        for finding in &report.findings {
            assert_eq!(finding.level == Level::Ok, finding.remedy.is_empty(), "{finding:?}");
        }
        let kept = report.findings.into_iter().filter(|finding| finding.level > Level::Ok);
        kept.map(|finding| format!("{:?} {}: {}", finding.level, finding.subject, finding.found)).collect()
    }
}

#[test]
fn a_good_node_is_looked_at_from_all_sides() {
    let report = Node::good().report();
    let subjects: std::collections::BTreeSet<_> =
        report.findings.iter().map(|finding| finding.subject).collect();
    for subject in [
        "kernel",
        "system calls",
        "privileges",
        "overlayfs",
        "namespaces",
        "seccomp",
        "lsm",
        "modules",
        "sysctls",
        "cgroups",
        "cgroup driver",
        "runtimes",
        "shim",
        "cni",
        "storage",
        "mounts",
        "swap",
        "kubelet",
    ] {
        assert!(subjects.contains(subject), "{subject} is not in {subjects:?}");
    }
    assert_eq!(Node::good().complaints(), Vec::<String>::new());
    assert_eq!(report.worst(), Level::Ok);
}

/// One change each, and the one complaint that it brings.
#[test]
fn each_fault_is_told_and_nothing_else() {
    let config = |change: fn(&mut Config)| Node::good().with(|node| change(&mut node.config));
    let answers = |change: fn(&mut Answers)| Node::good().with(|node| change(&mut node.answers));
    let cases: Vec<(Node, &str)> = vec![
        (
            Node::good().file("/proc/sys/kernel/osrelease", "?"),
            "Warn kernel: the release \"?\" is not understood",
        ),
        (answers(|a| a.calls = false), "Fail system calls: no openat2"),
        (
            Node::good().file("/proc/self/status", "Uid:\t7\t1000\t7\t7\nCapEff:\t0"),
            "Warn privileges: run by user 1000",
        ),
        (
            Node::good().file("/proc/self/status", "Uid:\t0\t0\t0\t0\nCapEff:\t0000000000000001"),
            "Fail privileges: root without CAP_SYS_ADMIN",
        ),
        (
            Node::good().file("/proc/self/status", "Uid:\t0\t0\t0\t0\nCapEff:\t000001fffeffffff"),
            "Warn privileges: root without CAP_SYS_RESOURCE",
        ),
        (answers(|a| a.many_layers = Ok(false)), "Warn overlayfs: without lowerdir+"),
        (answers(|a| a.many_layers = Err("EPERM".into())), "Warn overlayfs: is there, but what it offers"),
        (
            answers(|a| a.many_layers = Err("no".into())).file("/proc/filesystems", "ext4"),
            "Fail overlayfs: is not there: no",
        ),
        (Node::good().without("/proc/self/ns/net"), "Fail namespaces: the kernel has no net namespaces"),
        (Node::good().without("/proc/self/ns/user"), "Warn namespaces: no user namespaces"),
        (
            Node::good().file("/proc/sys/user/max_user_namespaces", "0"),
            "Warn namespaces: no user namespace may be made",
        ),
        (Node::good().without("/proc/self/ns/time"), "Warn namespaces: no time namespaces"),
        (Node::good().without("/proc/sys/kernel/seccomp/actions_avail"), "Warn seccomp"),
        (Node::good().without("/usr/sbin/apparmor_parser"), "Warn lsm: AppArmor is on, and apparmor_parser"),
        (
            Node::good().file("/sys/kernel/security/lsm", "selinux").file("/sys/fs/selinux/enforce", "1"),
            "Warn lsm: SELinux is enforcing",
        ),
        (
            Node::good()
                .without("/proc/sys/net/bridge/bridge-nf-call-iptables")
                .file("/lib/modules/6.12.1-made-up/modules.dep", "kernel/net/bridge/br_netfilter.ko.xz: x"),
            "Warn modules: br_netfilter is not loaded: it is for kube-proxy on bridge networks",
        ),
        (
            Node::good().without("/proc/sys/net/netfilter/nf_conntrack_max"),
            "Warn modules: nf_conntrack is neither loaded nor installed",
        ),
        (Node::good().file("/proc/sys/net/ipv4/ip_forward", "0"), "Warn sysctls: net.ipv4.ip_forward is off"),
        (
            Node::good().file("/proc/sys/net/bridge/bridge-nf-call-iptables", "0"),
            "Warn sysctls: net.bridge.bridge-nf-call-iptables is off",
        ),
        (
            Node::good().file("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb"),
            "Fail cgroups: v2 without the controllers pids",
        ),
        (
            Node::good()
                .file("/sys/fs/cgroup/cgroup.subtree_control", "cpu")
                .file("/sys/fs/cgroup/cgroup.type", "domain")
                .file("/sys/fs/cgroup/cgroup.procs", "1"),
            "Fail cgroups: memory, pids cannot be handed down",
        ),
        (
            Node::good().file(
                "/proc/self/mountinfo",
                &format!("24 1 8:1 / / rw shared:1 - ext4 /dev/x rw\n{}", V2.replace(" rw,nosuid ", " ro ")),
            ),
            "Fail cgroups: /sys/fs/cgroup is mounted read-only",
        ),
        (answers(|a| a.version = Err("exit status: 3".into())), "Fail runtimes: crun (default): "),
        (
            answers(|a| a.features = Features::default()),
            "Warn runtimes: crun makes no recursive read-only mounts, id-mapped mounts, user namespaces",
        ),
        (Node::good().without("/etc/cni/net.d/10.conflist"), "Warn cni: /etc/cni/net.d has no network list"),
        (Node::good().file("/etc/cni/net.d/05.conflist", "{"), "Fail cni: /etc/cni/net.d/05.conflist: EOF"),
        (
            Node::good().file("/etc/cni/net.d/05.conf", r#"{"name": "x", "plugins": [{}]}"#),
            "Fail cni: /etc/cni/net.d/05.conf: plugin 1 has no type",
        ),
        (
            Node::good().without("/opt/cni/bin/portmap"),
            "Fail cni: network net of /etc/cni/net.d/10.conflist, CNI 1.0.0; not installed: portmap",
        ),
        (
            answers(|a| a.cni = Ok(vec!["0.3.1".into()])),
            "Fail cni: network net of /etc/cni/net.d/10.conflist, CNI 1.0.0; bridge speaks 0.3.1",
        ),
        (answers(|a| a.space.free = 1 << 30), "Warn storage: 1.0 GiB free"),
        (
            answers(|a| a.space.inodes = Some(9)),
            "Warn storage: 50.0 GiB free for /var/lib/gantline, but 9 inodes",
        ),
        (
            answers(|a| a.space.tells_types = Some(false)),
            "Fail storage: directories of /var/lib/gantline do not tell",
        ),
        (
            Node::good().file(
                "/proc/self/mountinfo",
                &format!("24 1 8:1 / / rw shared:1 - ext4 x rw\n{V2}\n40 24 0:5 / /var/lib rw - tmpfs t rw"),
            ),
            "Warn storage: /var/lib/gantline is on tmpfs",
        ),
        (
            Node::good().file(
                "/proc/self/mountinfo",
                &format!(
                    "24 1 8:1 / / rw shared:1 - ext4 x rw\n{V2}\n40 24 8:2 / /var rw,nosuid,nodev - ext4 t rw"
                ),
            ),
            "Warn storage: /var/lib/gantline is mounted nodev,nosuid",
        ),
        (
            Node::good().file("/proc/self/mountinfo", &format!("24 1 8:1 / / rw - ext4 x rw\n{V2}")),
            "Warn mounts: / is not a shared mount",
        ),
        (Node::good().file("/proc/swaps", "Filename\n/swapfile file 1 0 -2"), "Warn swap: on: /swapfile"),
        (config(|c| c.cgroup.driver = CgroupDriver::Cgroupfs), "Warn cgroup driver: cgroupfs beside systemd"),
        (
            config(|c| c.cgroup.driver = CgroupDriver::Systemd).without("/run/systemd/system/x"),
            "Fail cgroup driver: systemd is asked for",
        ),
        (
            Node::good().file("/var/lib/kubelet/config.yaml", "cgroupDriver: cgroupfs"),
            "Warn cgroup driver: /var/lib/kubelet/config.yaml:1 says cgroupDriver cgroupfs, and Gantline would use systemd",
        ),
        (
            answers(|a| a.listeners = [("/run/containerd/containerd.sock".into(), 77)].into()),
            "Warn other runtimes: containerd answers at /run/containerd/containerd.sock, by containerd (pid 77)",
        ),
        (
            Node::good().file("/proc/88/comm", "conmon"),
            "Warn other runtimes: 1 processes of CRI-O's pods run",
        ),
        (
            Node::good().file(
                "/var/lib/kubelet/instance-config.yaml",
                "containerRuntimeEndpoint: unix:///var/run/crio/crio.sock",
            ),
            "Warn kubelet: /var/lib/kubelet/instance-config.yaml:1 says containerRuntimeEndpoint unix:///var/run/crio/crio.sock",
        ),
    ];
    for (node, expected) in cases {
        let complaints = node.complaints();
        assert!(complaints.len() == 1 && complaints[0].starts_with(expected), "{expected}\n{complaints:#?}");
    }
}

#[test]
fn what_is_right_is_not_complained_of() {
    let cases = [
        Node::good()
            .file("/proc/swaps", "Filename\n/swapfile file 1 0 -2")
            .file("/var/lib/kubelet/config.yaml", "failSwapOn: false"),
        Node::good().file(
            "/var/lib/kubelet/config.yaml",
            "containerRuntimeEndpoint: unix:///var/run/gantline/gantline.sock",
        ),
        Node::good()
            .without("/proc/sys/net/bridge/bridge-nf-call-iptables")
            .file("/lib/modules/6.12.1-made-up/modules.builtin", "kernel/net/br_netfilter.ko"),
        Node::good()
            .without("/sys/module/nf_tables/refcnt")
            .file("/lib/modules/6.12.1-made-up/modules.dep", "kernel/net/netfilter/nf_tables.ko: x"),
        Node::good().with(|node| node.answers.cni = Err("no answer".into())),
        Node::good()
            .without("/sys/module/nf_tables/refcnt")
            .without("/lib/modules/6.12.1-made-up/modules.dep"),
        Node::good().with(|node| node.answers.space.inodes = None),
        Node::good().file("/etc/cni/net.d/20.conflist", "{ not looked at"),
    ];
    for node in cases {
        assert_eq!(node.complaints(), Vec::<String>::new());
    }
}

/// What a kernel lacks is told once, and not again of each runtime.
#[test]
fn an_old_kernel_is_told_of_once() {
    let node = Node::good()
        .file("/proc/sys/kernel/osrelease", "5.10.0")
        .with(|node| node.answers.features = Features::default());
    let complaints = node.complaints();
    assert_eq!(complaints.len(), 2, "{complaints:?}");
    let older = Node::good().file("/proc/sys/kernel/osrelease", "5.4.0").complaints();
    assert_eq!(older, ["Fail kernel: Linux 5.4.0 is older than 5.10"]);
}
