//! Containers: how they end, what they log, as whom and with what they run.
#![allow(clippy::unwrap_used)]

use api::v1::{self, ContainerState, KeyValue, MountPropagation};
use e2e::{Node, eventually, image};
use std::time::Duration;

#[test]
fn an_exit_code_and_its_reason_are_told() {
    let node = Node::start();
    let pod = node.pod("exits").run();
    let ends = |name: &str, line: &str| pod.container(name).sh(line).start().exit();
    let good = ends("good", "exit 0");
    assert_eq!((good.exit_code, good.reason.as_str()), (0, "Completed"));
    let bad = ends("bad", "exit 7");
    assert_eq!((bad.exit_code, bad.reason.as_str()), (7, "Error"));
    let killed = pod.container("killed").command(&["sleep", "1000"]).start();
    node.machine.sh(&format!("kill -KILL {}", killed.pid()));
    let killed = killed.exit();
    assert_eq!((killed.exit_code, killed.reason.as_str()), (137, "Error"));
    for status in [&good, &bad, &killed] {
        assert!(status.created_at > 0 && status.started_at >= status.created_at, "{status:?}");
        assert!(status.finished_at >= status.started_at, "{status:?}");
    }
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_command_that_does_not_exist_is_a_start_error_in_the_runtimes_own_words() {
    let node = Node::start();
    let pod = node.pod("nothing").run();
    let container = pod.container("c").command(&["/no/such/program"]).create();
    assert_eq!(container.status().state(), ContainerState::ContainerCreated);
    let refused = container.try_start().expect_err("it cannot start");
    assert!(refused.message().contains("/no/such/program"), "{refused}");
    let status = container.status();
    assert_eq!(status.state(), ContainerState::ContainerExited);
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(status.message.contains("/no/such/program"), "{}", status.message);
    assert!(status.message.to_lowercase().contains("no such file"), "{}", status.message);
    assert!(status.finished_at > 0);
    container.remove();
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn both_streams_are_logged_in_cri_form_with_the_last_unfinished_line() {
    let node = Node::start();
    let pod = node.pod("logs").run();
    let container = pod.container("c").sh("echo one; echo two >&2; echo; printf 'no newline'").start();
    container.exit();
    assert_eq!(container.log().stream("stdout").trim_end(), "one\n\nno newline");
    assert_eq!(container.log().stream("stderr"), "two\n");

    let long = pod.container("long").sh("head -c 40000 /dev/zero | tr '\\0' x; echo").start();
    long.exit();
    let lines = long.log().lines();
    assert!(lines.len() > 1, "a line of 40,000 bytes is split");
    assert!(lines.iter().rev().skip(1).all(|line| !line.full));
    assert_eq!(long.log().text().trim_end().len(), 40_000);

    let rotated =
        pod.container("rotated").sh("i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done").start();
    rotated.logs("\n20\n");
    let old = rotated.log().path.with_extension("old");
    std::fs::rename(&rotated.log().path, &old).unwrap();
    node.cri()
        .reopen_container_log(v1::ReopenContainerLogRequest { container_id: rotated.id.clone() })
        .unwrap();
    assert!(rotated.log().path.exists(), "the file is there when the call returns");
    eventually("it goes on", Duration::from_secs(5), || {
        (rotated.log().lines().len() > 5).then_some(()).ok_or("".into())
    });
    rotated.stop(0);
    let numbers: Vec<String> =
        e2e::Log::at(&old).lines().into_iter().chain(rotated.log().lines()).map(|line| line.text).collect();
    let expected: Vec<String> = (0..numbers.len()).map(|number| number.to_string()).collect();
    assert_eq!(numbers, expected, "no line is lost or split by the rotation");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn the_image_and_the_request_make_the_process() {
    let node = Node::start();
    let built = image::busybox_builder().config(serde_json::json!({
        "Env": ["PATH=/bin", "FROM=image", "KEPT=yes"], "Entrypoint": ["/bin/echo", "entry"], "Cmd": ["image-arg"],
        "User": "app", "WorkingDir": "/home/app",
    }));
    let reference = node.push(&built.build(), "process:1");
    let pod = node.pod("process").run();
    let said = |name: &str, change: &dyn Fn(&mut v1::ContainerConfig)| {
        let container = pod.container(name).image(&reference).with(change).start();
        container.exit();
        container.log().text()
    };
    let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
    assert_eq!(said("plain", &|_| {}), "entry image-arg\n");
    assert_eq!(said("args", &|config| config.args = words(&["mine"])), "entry mine\n");
    assert_eq!(said("command", &|config| config.command = words(&["echo", "other"])), "other\n");
    let env = said("env", &|config| {
        config.command = words(&["sh", "-c", "echo $FROM $KEPT $ADDED; pwd; id -u; id -g"]);
        config.envs = vec![
            KeyValue { key: "FROM".into(), value: "request".into() },
            KeyValue { key: "ADDED".into(), value: "a b".into() },
        ];
    });
    assert_eq!(env, "request yes a b\n/home/app\n1000\n1000\n");
    assert_eq!(
        said("dir", &|config| {
            config.command = words(&["pwd"]);
            config.working_dir = "/made/for/it".into();
        }),
        "/made/for/it\n"
    );

    let user = pod.container("user").security(|context| {
        context.run_as_user = Some(v1::Int64Value { value: 1234 });
        context.run_as_group = Some(v1::Int64Value { value: 5678 });
        context.supplemental_groups = vec![42, 43];
    });
    let user = user.idle().start();
    assert_eq!(
        user.sh("id -u; id -g; id -G").split_whitespace().collect::<Vec<_>>(),
        ["1234", "5678", "5678", "42", "43"]
    );
    let told = user.status().user.unwrap().linux.unwrap();
    assert_eq!((told.uid, told.gid), (1234, 5678));
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn mounts_are_as_asked_and_echoed() {
    let node = Node::start();
    let shared = node.machine.dir().join("volume");
    std::fs::create_dir_all(&shared).unwrap();
    std::fs::write(shared.join("from-host"), "hello\n").unwrap();
    let path = shared.display().to_string();
    let mount = |to: &str, readonly: bool| v1::Mount {
        container_path: to.into(),
        host_path: path.clone(),
        readonly,
        ..Default::default()
    };
    let pod = node.pod("mounts").run();
    let container = pod
        .container("c")
        .idle()
        .with(|config| config.mounts = vec![mount("/rw", false), mount("/ro", true)]);
    let container = container.start();
    assert_eq!(
        container.sh("cat /ro/from-host; echo x > /rw/from-container; cat /ro/from-container"),
        "hello\nx\n"
    );
    assert_eq!(std::fs::read_to_string(shared.join("from-container")).unwrap(), "x\n");
    let refused = container.try_exec(&["sh", "-c", "echo y > /ro/no"], 10).unwrap();
    assert_ne!(refused.exit_code, 0);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Read-only"), "{refused:?}");
    let echoed = container.status().mounts;
    assert!(
        echoed.iter().any(|m| m.container_path == "/ro" && m.readonly && m.host_path == path),
        "{echoed:?}"
    );

    let receiver = pod.container("receiver").idle().with(|config| {
        let propagation = MountPropagation::PropagationHostToContainer.into();
        config.mounts = vec![v1::Mount { propagation, ..mount("/volume", false) }];
    });
    let receiver = receiver.start();
    node.machine.sh(&format!(
        "mkdir {path}/late && mount -t tmpfs tmpfs {path}/late && echo there > {path}/late/file"
    ));
    assert_eq!(receiver.sh("cat /volume/late/file"), "there\n");
    let private = container.try_exec(&["cat", "/rw/late/file"], 10).unwrap();
    assert_ne!(private.exit_code, 0, "a private mount receives nothing");
    node.machine.sh(&format!("umount {path}/late"));

    let made = shared.join("made/for/it");
    let source = made.display().to_string();
    let absent = pod.container("absent").idle().with(|config| {
        config.mounts = vec![v1::Mount { host_path: source, ..mount("/made", false) }];
    });
    absent.start();
    assert!(made.is_dir(), "a source that is absent is made, as kubelets expect");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn confinement_is_as_asked() {
    let node = Node::start();
    let pod = node.pod("confined").run();
    let plain = pod.container("plain").idle().start();
    let status = |container: &e2e::Container<'_>, key: &str| {
        container
            .sh(&format!("grep ^{key}: /proc/self/status"))
            .split_whitespace()
            .nth(1)
            .unwrap()
            .to_string()
    };
    let has = |mask: &str, bit: u32| u64::from_str_radix(mask, 16).unwrap() >> bit & 1 == 1;
    const NET_RAW: u32 = 13;
    const SYS_ADMIN: u32 = 21;
    const CHOWN: u32 = 0;
    assert!(has(&status(&plain, "CapEff"), NET_RAW) && !has(&status(&plain, "CapEff"), SYS_ADMIN));
    assert_eq!(status(&plain, "NoNewPrivs"), "0");

    let tight = pod.container("tight").idle().security(|context| {
        context.capabilities = Some(v1::Capability {
            drop_capabilities: vec!["ALL".into()],
            add_capabilities: vec!["CHOWN".into()],
            ..Default::default()
        });
        context.no_new_privs = true;
        context.readonly_rootfs = true;
        context.masked_paths = vec!["/proc/meminfo".into(), "/www".into()];
        context.readonly_paths = vec!["/proc/sys".into()];
        context.seccomp = Some(v1::SecurityProfile::default());
    });
    let tight = tight.start();
    let mask = status(&tight, "CapEff");
    assert_eq!(u64::from_str_radix(&mask, 16).unwrap(), 1 << CHOWN, "{mask}");
    assert_eq!((status(&tight, "NoNewPrivs"), status(&tight, "Seccomp")), ("1".into(), "2".into()));
    assert_eq!(tight.sh("cat /proc/meminfo | wc -c; ls /www | wc -l"), "0\n0\n");
    assert_ne!(tight.try_exec(&["touch", "/new"], 10).unwrap().exit_code, 0);
    assert_ne!(
        tight.try_exec(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"], 10).unwrap().exit_code,
        0
    );

    let refused = pod.container("privileged").idle().security(|context| context.privileged = true);
    refused.try_create().expect_err("a privileged container in a pod that is not");
    let trusted = node.pod("trusted").with(|config| {
        config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    });
    let trusted = trusted.run();
    let privileged = trusted.container("c").idle().security(|context| context.privileged = true).start();
    assert!(has(&status(&privileged, "CapEff"), SYS_ADMIN));
    assert_eq!(status(&privileged, "Seccomp"), "0");
    assert!(
        privileged.sh("ls /dev").contains("kmsg") || privileged.sh("ls /dev").contains("loop"),
        "the host's devices"
    );
    pod.remove();
    trusted.remove();
    node.leaves_nothing();
}

#[test]
fn a_device_is_there_and_one_that_is_not_is_named() {
    let node = Node::start();
    let pod = node.pod("devices").run();
    let device = |host: &str| v1::Device {
        host_path: host.into(),
        container_path: "/dev/mine".into(),
        permissions: "rwm".into(),
    };
    let container =
        pod.container("c").idle().with(|config| config.devices = vec![device("/dev/null")]).start();
    container.sh("test -c /dev/mine && echo x > /dev/mine");
    let missing =
        pod.container("missing").idle().with(|config| config.devices = vec![device("/dev/no-such")]);
    let refused = missing.try_create().and_then(|c| c.try_start()).expect_err("no such device");
    assert!(refused.message().contains("/dev/no-such"), "{refused}");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn limits_hold_are_updated_and_told() {
    let node = Node::start();
    let pod = node.pod("limits").run();
    let container = pod.container("c").idle().resources(|limits| {
        limits.memory_limit_in_bytes = 64 << 20;
        limits.cpu_shares = 512;
        limits.cpu_quota = 50_000;
        limits.cpu_period = 100_000;
    });
    let container = container.start();
    let told = || container.status().resources.unwrap().linux.unwrap();
    assert_eq!((told().memory_limit_in_bytes, told().cpu_quota, told().cpu_shares), (64 << 20, 50_000, 512));
    let update = v1::LinuxContainerResources {
        memory_limit_in_bytes: 96 << 20,
        cpu_quota: 80_000,
        cpu_period: 100_000,
        ..Default::default()
    };
    let request = v1::UpdateContainerResourcesRequest {
        container_id: container.id.clone(),
        linux: Some(update),
        ..Default::default()
    };
    node.cri().update_container_resources(request).expect("update");
    assert_eq!((told().memory_limit_in_bytes, told().cpu_quota), (96 << 20, 80_000));

    // tail keeps what it reads; more than its limit does not fit.
    let hungry = pod.container("hungry").command(&["tail", "-c", "200000000", "/dev/zero"]);
    let hungry = hungry.resources(|limits| limits.memory_limit_in_bytes = 32 << 20).start();
    let ended = hungry.exit();
    assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "OOMKilled"));
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn exec_tells_both_streams_the_code_and_minds_its_deadline() {
    let node = Node::start();
    let pod = node.pod("exec").run();
    let container = pod.container("c").idle().start();
    let said = container.try_exec(&["sh", "-c", "echo out; echo err >&2; exit 3"], 10).unwrap();
    assert_eq!((said.stdout, said.stderr, said.exit_code), (b"out\n".to_vec(), b"err\n".to_vec(), 3));
    let much = container.try_exec(&["sh", "-c", "head -c 1000000 /dev/zero"], 30).unwrap();
    assert_eq!(much.stdout.len(), 1_000_000);
    let late = container.try_exec(&["sh", "-c", "sleep 4321 & sleep 4321"], 1).expect_err("too slow");
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late}");
    eventually("the whole subtree is killed", Duration::from_secs(5), || {
        let left = container.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
        if left.contains("4321") { Err(left) } else { Ok(()) }
    });
    let missing = container.try_exec(&["/no/such"], 10);
    assert!(missing.is_err() || missing.unwrap().exit_code != 0);
    container.stop(0);
    let refused = container.try_exec(&["true"], 10).expect_err("it has exited");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_container_is_asked_to_stop_before_it_is_killed() {
    let node = Node::start();
    let pod = node.pod("stopping").run();
    let polite = pod
        .container("polite")
        .sh("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done")
        .start();
    polite.logs("ready");
    polite.stop(20);
    assert_eq!(polite.status().exit_code, 5);
    assert_eq!(polite.log().text(), "ready\nbye\n");

    let deaf = pod.container("deaf").sh("trap '' TERM; echo ready; while :; do sleep 0.05; done").start();
    deaf.logs("ready");
    let start = std::time::Instant::now();
    deaf.stop(1);
    assert!(start.elapsed() >= Duration::from_millis(900), "it has its grace");
    assert_eq!(deaf.status().exit_code, 137);
    deaf.stop(1);
    polite.remove();
    deaf.remove();
    deaf.remove();
    let never = pod.container("never").idle().create();
    never.stop(1);
    never.remove();
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn stats_grow_and_belong_to_the_right_container() {
    let node = Node::start();
    let pod = node.pod("stats").run();
    let busy = pod.container("busy").sh("while :; do :; done").start();
    let writer = pod.container("writer").sh("head -c 3000000 /dev/zero > /file; sleep 1000").start();
    let cpu = || busy.stats().cpu.unwrap().usage_core_nano_seconds.unwrap().value;
    let first = cpu();
    std::thread::sleep(Duration::from_millis(500));
    assert!(cpu() > first, "a busy loop uses time");
    assert!(busy.stats().memory.unwrap().working_set_bytes.unwrap().value > 0);
    eventually("what was written is counted", Duration::from_secs(60), || {
        let used =
            writer.stats().writable_layer.and_then(|layer| layer.used_bytes).map_or(0, |bytes| bytes.value);
        if used >= 3_000_000 { Ok(()) } else { Err(format!("{used} bytes")) }
    });
    assert_eq!(node.cri().list_container_stats(Default::default()).unwrap().stats.len(), 2);
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn lists_are_ordered_and_an_ambiguous_prefix_is_refused_by_name() {
    let node = Node::start();
    let pod = node.pod("many").run();
    // One more than there are first letters of an id: two of them begin alike.
    for number in 0..17 {
        pod.container(&format!("c{number}")).idle().create();
    }
    let listed = node.containers();
    assert_eq!(listed.len(), 17);
    assert!(listed.is_sorted_by_key(|one| (one.created_at, one.id.clone())), "{listed:?}");
    let named: Vec<_> = listed.iter().map(|one| one.metadata.as_ref().unwrap().name.clone()).collect();
    assert_eq!(named, (0..17).map(|number| format!("c{number}")).collect::<Vec<_>>());

    let alike = |letter: &char| listed.iter().filter(|one| one.id.starts_with(*letter)).count() > 1;
    let letter = ('0'..='9').chain('a'..='f').find(alike).unwrap().to_string();
    let request = v1::ContainerStatusRequest { container_id: letter.clone(), verbose: false };
    let refused = node.cri().container_status(request).expect_err("which of them?");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    let by_name = |said: &str| said.contains("ambiguous") && said.contains(&format!("\"{letter}\""));
    assert!(by_name(refused.message()), "{refused}");
    let filter = v1::ContainerFilter { id: letter.clone(), ..Default::default() };
    let refused = node.cri().list_containers(v1::ListContainersRequest { filter: Some(filter) });
    assert!(by_name(refused.expect_err("which of them?").message()));
    let said = node.crictl(&["inspect", &letter]).fails();
    assert!(said.contains("ambiguous"), "{said}");
    let stop = v1::StopContainerRequest { container_id: letter.clone(), timeout: 0 };
    node.cri().stop_container(stop).expect_err("none is stopped by mistake");
    pod.remove();

    for number in 0..4 {
        node.pod(&format!("p{number}")).namespaces(|of| of.network = v1::NamespaceMode::Node.into()).run();
    }
    let pods = node.pods();
    let named: Vec<_> = pods.iter().map(|one| one.metadata.as_ref().unwrap().name.as_str()).collect();
    assert_eq!(named, ["p0", "p1", "p2", "p3"]);
    assert!(pods.is_sorted_by_key(|one| (one.created_at, one.id.clone())), "{pods:?}");
    node.remove_all_pods();
    node.leaves_nothing();
}
