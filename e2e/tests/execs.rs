//! Execs by the shim itself: the same process as the OCI runtime would make, and nothing left after thousands.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use api::v1::{self, NamespaceMode};
use e2e::programs::{installed, tool};
use e2e::{Container, Node, Pod, eventually};

/// What of /proc/self/status is a property of the process, and not of the moment.
const STATUS: [&str; 24] = [
    "Name",
    "Umask",
    "TracerPid",
    "Uid",
    "Gid",
    "Groups",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Speculation_Store_Bypass",
    "SpeculationIndirectBranch",
    "Cpus_allowed",
    "Mems_allowed",
    "PPid",
];

/// What a process of an exec finds itself to be, by question.
type Portrait = BTreeMap<String, String>;

fn said(container: &Container<'_>, argv: &[&str]) -> String {
    let answer = container.try_exec(argv, 20).unwrap_or_else(|e| panic!("{argv:?}: {e}"));
    format!("{}{}", String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr))
}

fn portrait(container: &Container<'_>) -> Portrait {
    let mut portrait = Portrait::new();
    for line in said(container, &["cat", "/proc/self/status"]).lines() {
        if let Some((key, value)) = line.split_once(':').filter(|(key, _)| STATUS.contains(key)) {
            portrait.insert(key.into(), value.trim().into());
        }
    }
    // A parent that is seen is the shim, or a moment before that the runtime.
    portrait.insert("PPid".into(), if portrait["PPid"] == "0" { "outside" } else { "seen" }.into());
    // Signals 32 and 33 are the C library's own; who started this test may ignore them, and Go takes one of them away.
    let ignored = u64::from_str_radix(&portrait["SigIgn"], 16).unwrap() & !(0b11 << 31);
    portrait.insert("SigIgn".into(), format!("{ignored:x}"));
    assert_eq!(portrait.len(), STATUS.len(), "{portrait:?}");
    let mut environ: Vec<String> =
        said(container, &["cat", "/proc/self/environ"]).split('\0').map(str::to_owned).collect();
    environ.sort();
    portrait.insert("environ".into(), environ.join("\n"));
    for file in ["limits", "cgroup", "oom_score_adj", "attr/current", "timerslack_ns", "coredump_filter"] {
        let path = format!("/proc/self/{file}");
        portrait.insert(file.into(), said(container, &["cat", &path]));
    }
    for (key, line) in [
        ("user and directory", "id; pwd"),
        ("session", "set -- $(cat /proc/$$/stat); [ $1 = $5 ] && [ $1 = $6 ] && echo leads"),
        ("descriptors", "ls /proc/$$/fd"),
        ("output's owner", "stat -L -c %u:%a /proc/$$/fd/1; echo again > /dev/stdout || echo closed"),
        ("namespaces", "cd /proc/$$/ns; for n in user mnt pid net ipc uts cgroup; do readlink $n; done"),
        ("forbidden", "unshare -m true 2>&1; chroot / true 2>&1; dmesg >/dev/null 2>&1; echo $?"),
        ("mount", "cat /proc/$$/mountinfo | wc -l"),
    ] {
        portrait.insert(key.into(), said(container, &["sh", "-c", line]));
    }
    for missing in ["no-such-program", "/no/such/program", "/etc", "/etc/passwd"] {
        let refused = container.try_exec(&[missing], 20).unwrap_err();
        portrait.insert(format!("{missing} is refused"), format!("{:?}", refused.code()));
    }
    portrait
}

/// The same on a terminal, by a client that has one.
fn on_a_terminal(node: &Node, container: &Container<'_>) -> String {
    let line = "tty; stat -c %u:%a $(tty); set -- $(cat /proc/$$/stat); [ $7 != 0 ] && \
                echo controls; echo $TERM; echo typed > /dev/tty; grep -E 'Cap|Seccomp|NoNew' /proc/$$/status";
    let crictl = node.crictl_command(&["exec", "-it", &container.id, "sh", "-c", line]);
    let words = std::iter::once(crictl.get_program()).chain(crictl.get_args());
    let quoted: Vec<String> =
        words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''"))).collect();
    let mut script = e2e::command::command(installed("script"));
    script.args(["-qec", &quoted.join(" "), "/dev/null"]);
    let said = e2e::command::run(&mut script).ok().replace("^@", "").replace('\r', "");
    // What crictl says of its own standard input, which is none.
    said.lines().filter(|line| !line.contains("UnhandledError")).collect::<Vec<_>>().join("\n")
}

fn seccomp(kind: v1::security_profile::ProfileType, path: &str) -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: path.into() })
}

/// Containers that differ in everything that an exec takes over.
fn containers<'n>(node: &'n Node, handler: &str) -> (Vec<Pod<'n>>, Vec<(&'static str, Container<'n>)>) {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let strict = node.machine.dir().join("strict.json");
    fs::write(
        &strict,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [{"names": ["unshare", "chroot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}"#,
    )
    .unwrap();
    let strict = strict.display().to_string();
    let pod = node.pod(&format!("{handler}-own")).handler(handler).run();
    let trusted = node.pod(&format!("{handler}-trusted")).handler(handler).with(|config| {
        config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    });
    let trusted = trusted.run();
    let host_pid = node
        .pod(&format!("{handler}-host"))
        .handler(handler)
        .namespaces(|of| of.pid = NamespaceMode::Node.into())
        .run();
    let shared = node
        .pod(&format!("{handler}-shared"))
        .handler(handler)
        .namespaces(|of| of.pid = NamespaceMode::Pod.into())
        .run();
    let kinds = vec![
        ("plain", pod.container("plain").idle().start()),
        (
            "another user",
            pod.container("user")
                .idle()
                .with(|config| config.working_dir = "/tmp".into())
                .security(|of| {
                    of.run_as_user = Some(v1::Int64Value { value: 1000 });
                    of.supplemental_groups = vec![42, 43];
                    of.no_new_privs = true;
                    of.seccomp = seccomp(RuntimeDefault, "");
                })
                .resources(|of| of.oom_score_adj = 700)
                .start(),
        ),
        (
            "the default filter with privilege escalation",
            pod.container("escalates").idle().security(|of| of.seccomp = seccomp(RuntimeDefault, "")).start(),
        ),
        (
            "a filter of the node's",
            pod.container("strict").idle().security(|of| of.seccomp = seccomp(Localhost, &strict)).start(),
        ),
        (
            "few and ambient capabilities",
            pod.container("ambient")
                .idle()
                .security(|of| {
                    of.run_as_user = Some(v1::Int64Value { value: 4000 });
                    of.seccomp = seccomp(Unconfined, "");
                    of.readonly_rootfs = true;
                    of.capabilities = Some(v1::Capability {
                        drop_capabilities: vec!["ALL".into()],
                        add_ambient_capabilities: vec!["NET_BIND_SERVICE".into()],
                        ..Default::default()
                    });
                })
                .start(),
        ),
        ("privileged", trusted.container("privileged").idle().security(|of| of.privileged = true).start()),
        (
            "the host's processes",
            host_pid
                .container("host-pid")
                .idle()
                .security(|of| of.namespace_options.get_or_insert_default().pid = NamespaceMode::Node.into())
                .start(),
        ),
        (
            "shared processes",
            shared
                .container("shared-pid")
                .idle()
                .security(|of| of.namespace_options.get_or_insert_default().pid = NamespaceMode::Pod.into())
                .start(),
        ),
    ];
    (vec![pod, trusted, host_pid, shared], kinds)
}

/// Where crun does less than runc, and the shim does as runc: what it is to find, and what crun's exec lacks.
const UNLIKE_CRUN: [(&str, &str, &str); 2] = [
    // Its process stays in the group and session of who called it.
    ("session", "leads\n", ""),
    // Without a line in passwd(5) it sets none, and runc `/`.
    (
        "environ",
        "\nGREETING=from the image\nHOME=/\nHOSTNAME=crun-own\nPATH=/bin",
        "\nGREETING=from the image\nHOSTNAME=crun-own\nPATH=/bin",
    ),
];

/// Debian 13's AppArmor puts a profile of its own upon whatever `/usr/bin/crun` starts, which allows all; what the shim starts
/// has the container's alone. With it an exec of crun's cannot even look at itself when it is another user's.
const SEEN_THROUGH_CRUNS_PROFILE: [&str; 2] = ["namespaces", "output's owner"];

/// The label without crun's own profile, and whether that was there.
fn without_cruns_profile(label: &str) -> (String, bool) {
    match label.strip_prefix("crun//&") {
        Some(rest) => (rest.replace("(mixed)", "(enforce)"), true),
        None => (label.replace("crun (unconfined)", "unconfined"), false),
    }
}

/// From now on the runtimes start execs; what runs goes on.
fn leave_execs_to_the_runtimes(node: &Node) {
    let file = node.machine.dir().join("config.toml");
    let text = fs::read_to_string(&file).unwrap();
    let text = text.replace("\npath = ", "\nexec = \"runtime\"\npath = ");
    assert_eq!(text.matches("exec = \"runtime\"").count(), node.config.runtimes.len());
    fs::write(&file, text).unwrap();
    node.restart();
}

#[test]
fn an_exec_by_the_shim_is_the_one_that_the_runtime_would_make() {
    let node = Node::builder().with(|config, _| {
        config.runtimes = vec![("crun".into(), installed("crun")), ("runc".into(), tool("runc"))];
    });
    let node = node.start();
    let made: Vec<_> = ["crun", "runc"].map(|handler| (handler, containers(&node, handler))).into();
    let portraits = || {
        let all = made
            .iter()
            .flat_map(|(handler, (_, kinds))| kinds.iter().map(move |(kind, c)| (handler, kind, c)));
        all.map(|(handler, kind, container)| {
            let mut portrait = portrait(container);
            portrait.insert("on a terminal".into(), on_a_terminal(&node, container));
            (format!("{handler}, {kind}"), portrait)
        })
        .collect::<Vec<_>>()
    };
    let native = portraits();
    for shim_log in shim_logs(&node) {
        assert!(!shim_log.contains("left to the OCI runtime"), "{shim_log}");
    }
    leave_execs_to_the_runtimes(&node);
    let by_runtime = portraits();
    // 1.8 of crun leaves these as the shim has them, which has them from whoever runs this test.
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let scores = ["700\n", "0\n"].map(|asked| ("oom_score_adj", asked, score.as_str()));
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let processors = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:\t")).unwrap();
    let mut differences = Vec::new();
    for ((of, native), (_, theirs)) in native.iter().zip(&by_runtime) {
        let (label, stacked) = without_cruns_profile(&theirs["attr/current"]);
        for (key, ours) in native {
            if key == "attr/current" && label == without_cruns_profile(ours).0
                || stacked && SEEN_THROUGH_CRUNS_PROFILE.contains(&key.as_str())
            {
                continue;
            }
            let row = (key.as_str(), ours.as_str(), theirs[key].as_str());
            let known = UNLIKE_CRUN.contains(&row)
                || scores.contains(&row)
                || (row.0, row.2) == ("Cpus_allowed", processors);
            if theirs[key] != *ours && !(known && of.starts_with("crun, ")) {
                differences.push(format!("{of}: {key}\n  shim    {ours:?}\n  runtime {:?}", theirs[key]));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    made.iter().flat_map(|(_, (pods, _))| pods).for_each(Pod::remove);
    node.leaves_nothing();
}

#[test]
fn what_signals_whoever_started_the_service_had_it_ignore_is_nobodys_business() {
    let mut node = Node::builder().prepare();
    // A shell does so for what it starts in the background, and a careless supervisor for all.
    node.started_by(&["/usr/bin/env", "--ignore-signal=QUIT,CHLD,USR1"]);
    node.start_service();
    let pod = node.pod("careless").run();
    let container = pod.container("c").command(&["cat", "/proc/self/status"]).start();
    assert_eq!(container.exit().exit_code, 0);
    let idle = pod.container("idle").idle().start();
    for said in [container.log().text(), said(&idle, &["cat", "/proc/self/status"])] {
        let line = said.lines().find_map(|line| line.split_once("SigIgn:\t")).expect("a line of signals").1;
        // Signals 32 and 33 are the C library's own, which lets nobody change them.
        let ignored = u64::from_str_radix(line, 16).unwrap() & !(0b11 << 31);
        assert_eq!(ignored, 0, "{said}");
    }
    pod.remove();
    node.leaves_nothing();
}

fn shim_logs(node: &Node) -> Vec<String> {
    let pods = fs::read_dir(node.machine.path(node.config.state.join("pods"))).unwrap();
    pods.map(|pod| fs::read_to_string(pod.unwrap().path().join("shim.log")).unwrap_or_default()).collect()
}

const SOAK_PODS: usize = 4;
const SOAK_CONTAINERS: usize = 20;
const SOAK_EXECS: usize = 2000;
/// What the service may have grown by, KiB: an allocator's arenas for as many threads as ask at once.
const SERVICE_GROWTH_KIB: u64 = 6 * 1024;
/// What one shim may have grown by, KiB.
const SHIM_GROWTH_KIB: u64 = 64;

/// Open descriptors, threads, and anonymous memory in KiB of a process.
#[derive(Clone, Copy, Debug)]
struct Use {
    descriptors: usize,
    threads: usize,
    anonymous_kib: u64,
}

fn uses(pid: u32) -> Use {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
    // The service's sampler opens files of each container's cgroup when its turn comes, and keeps them (ADR 115).
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let files = files.filter_map(|file| fs::read_link(file.path()).ok());
    let descriptors = files.filter(|file| !file.starts_with("/sys/fs/cgroup")).count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    let anonymous_kib = line.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0);
    Use { descriptors, threads: count("task"), anonymous_kib }
}

#[test]
fn two_thousand_probes_leave_nothing_behind() {
    let node = Node::start();
    let pods: Vec<_> = (0..SOAK_PODS).map(|number| node.pod(&format!("soak-{number}")).run()).collect();
    let containers: Vec<_> = (0..SOAK_CONTAINERS)
        .map(|number| pods[number % SOAK_PODS].container(&format!("c{number}")).idle().start())
        .collect();
    let probe = |number: usize| {
        let container = &containers[number % SOAK_CONTAINERS];
        match number % 50 {
            // What probes meet: commands that are not there, fail, say much, or take too long.
            7 => drop(container.try_exec(&["no-such-program"], 10).unwrap_err()),
            17 => assert_eq!(container.try_exec(&["false"], 10).unwrap().exit_code, 1),
            27 => assert_eq!(
                container.try_exec(&["head", "-c", "100000", "/dev/zero"], 10).unwrap().stdout.len(),
                100_000
            ),
            37 if number % 500 == 37 => {
                drop(container.try_exec(&["sh", "-c", "sleep 977 & sleep 977"], 1).unwrap_err())
            }
            _ => assert_eq!(container.try_exec(&["true"], 10).unwrap().exit_code, 0),
        }
    };
    let shims = || node.processes(|command| command.contains("gantline-shim run "));
    let pids: Vec<u32> =
        node.service_pid().into_iter().chain(shims().iter().map(|process| process.pid)).collect();
    assert_eq!(pids.len(), 1 + SOAK_PODS);
    let all = || pids.iter().map(|pid| uses(*pid)).collect::<Vec<_>>();
    // Tables and pools get the size that they need.
    (0..SOAK_EXECS / 5).for_each(probe);
    std::thread::sleep(Duration::from_secs(1));
    let before = all();
    let began = Instant::now();
    (0..SOAK_EXECS).for_each(probe);
    println!("{SOAK_EXECS} execs in {:.1} s", began.elapsed().as_secs_f64());
    // Idle threads of a pool end after seconds.
    eventually("nothing has grown", Duration::from_secs(15), || {
        for (number, (before, after)) in before.iter().zip(all()).enumerate() {
            let growth = if number == 0 { SERVICE_GROWTH_KIB } else { SHIM_GROWTH_KIB };
            let grown = after.descriptors > before.descriptors
                || after.threads > before.threads
                || after.anonymous_kib > before.anonymous_kib + growth;
            if grown {
                return Err(format!("process {number} (0 is the service): {before:?}, then {after:?}"));
            }
        }
        Ok(())
    });
    println!("before {before:?}\nafter  {:?}", all());
    let alive = node.processes(|command| command.contains("sleep 977") || command.contains("sleep\0977"));
    assert!(alive.is_empty(), "{alive:?}");
    pods.iter().for_each(Pod::remove);
    node.leaves_nothing();
}
