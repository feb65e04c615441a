//! Devices by path and by CDI name, and seccomp profiles of the node's, on each runtime.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use api::v1;
use e2e::programs::tool;
use e2e::{ContainerBuilder, Node, NodeBuilder};
use serde_json::json;
use tonic::Code;

const RUNTIMES: [&str; 2] = ["crun", "runc"];

fn builder() -> NodeBuilder {
    Node::builder().with(|config, _| config.runtimes.push(("runc".into(), tool("runc"))))
}

#[track_caller]
fn refused(container: ContainerBuilder<'_>, code: Code, words: &str) {
    let refused = container.try_create().expect_err(words);
    assert_eq!(refused.code(), code, "{refused}");
    assert!(refused.message().contains(words), "{words:?} is not in {:?}", refused.message());
}

fn device(host: &str, at: &str, permissions: &str) -> v1::Device {
    v1::Device { host_path: host.into(), container_path: at.into(), permissions: permissions.into() }
}

fn user(id: i64) -> impl FnOnce(&mut v1::LinuxContainerSecurityContext) {
    move |context| {
        context.run_as_user = Some(v1::Int64Value { value: id });
        context.run_as_group = Some(v1::Int64Value { value: id });
    }
}

#[test]
fn devices_are_there_by_file_by_link_and_by_directory_with_what_they_allow() {
    let node = builder().start();
    node.pull(&node.busybox());
    let dir = node.machine.dir().join("dev");
    let at = dir.display().to_string();
    node.machine.sh(&format!(
        "mkdir -p {at}/tree/sub {at}/none && mknod {at}/tree/zero c 1 5 && mknod {at}/tree/sub/full c 1 7 && \
         ln -s {at}/tree/zero {at}/link"
    ));
    for handler in RUNTIMES {
        let pod = node.pod("devices").handler(handler).run();
        let with = |name: &str, devices: Vec<v1::Device>| {
            pod.container(name).idle().with(|config| config.devices = devices)
        };
        let container = with(
            "c",
            vec![
                device(&format!("{at}/link"), "/dev/linked", "r"),
                device(&format!("{at}/tree"), "/dev/all", "rwm"),
            ],
        );
        let container = container.start();
        assert_eq!(
            container.sh("head -c 3 /dev/linked | wc -c; head -c 2 /dev/all/zero | wc -c; head -c 2 /dev/all/sub/full | wc -c"),
            "3\n2\n2\n",
            "{handler}"
        );
        let rules = node.machine.sh(&format!(
            "cat /sys/fs/cgroup/devices$(grep -E '^[0-9]+:devices:' /proc/{}/cgroup | cut -d: -f3)/devices.list \
             2>/dev/null || echo v2",
            container.pid()
        ));
        if !rules.starts_with("v2") {
            assert!(rules.lines().any(|rule| rule == "c 1:7 rwm"), "{handler}: {rules}");
            assert!(!rules.lines().any(|rule| rule.starts_with("a ")), "{handler}: {rules}");
        }
        let at_dev = |host: &str| vec![device(&format!("{at}/{host}"), "/dev/x", "rw")];
        refused(with("none", at_dev("none")), Code::InvalidArgument, "devices[0].host_path: directory ");
        refused(with("absent", at_dev("absent")), Code::InvalidArgument, "devices[0].host_path: look at ");
        let bad = vec![device("/dev/zero", "/dev/x", "rx")];
        refused(with("bad", bad), Code::InvalidArgument, "config.devices[0].permissions");
        pod.remove();
    }
    node.leaves_nothing();
}

#[test]
fn settings_say_what_privilege_brings_and_whose_devices_are() {
    let node = Node::builder()
        .with(|config, _| {
            config.pods += "pids_limit = 77\n";
            config.more += "privileged_without_host_devices = true\ncgroup_writable = true\n\
                            [security]\ndevice_ownership_from_security_context = true\n";
        })
        .start();
    let pod = node.pod("settings").with(|config| {
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().privileged = true;
    });
    let pod = pod.run();
    let zero = || vec![device("/dev/zero", "/dev/mine", "r")];
    let plain =
        pod.container("plain").idle().with(|config| config.devices = zero()).security(user(1000)).start();
    assert_eq!(plain.sh("stat -c '%u %g' /dev/mine"), "1000 1000\n");
    assert_eq!(plain.sh("grep ' /sys/fs/cgroup ' /proc/self/mountinfo | grep -c -v ' ro,'"), "1\n");
    let pids = node.machine.sh(&format!(
        "cd /sys/fs/cgroup/pids$(grep -E '^[0-9]+:pids:' /proc/{}/cgroup | cut -d: -f3) 2>/dev/null && cat pids.max || echo 77",
        plain.pid()
    ));
    assert_eq!(pids.trim(), "77");
    let strong = pod.container("strong").idle().with(|config| config.devices = zero());
    let strong = strong.security(|context| context.privileged = true).start();
    assert_eq!(strong.sh("ls /dev/mine; ls /dev/kmsg 2>/dev/null || echo none"), "/dev/mine\nnone\n");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn cdi_devices_bring_what_their_files_say() {
    let node = builder()
        .with(|config, machine| {
            let dir = machine.dir().join("cdi");
            fs::create_dir_all(&dir).unwrap();
            config.pods += &format!("cdi_spec_dirs = [{dir:?}]\n");
        })
        .start();
    node.pull(&node.busybox());
    let dir = node.machine.dir().join("cdi");
    let driver = node.machine.dir().join("driver");
    fs::create_dir_all(&driver).unwrap();
    fs::write(driver.join("lib.so"), "driver\n").unwrap();
    let hook = node.machine.dir().join("hook");
    let told = node.machine.dir().join("hook-told");
    fs::write(&hook, format!("#!/bin/sh\necho \"$1 $HOOK\" >> {}\ncat >/dev/null\n", told.display()))
        .unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let edits = json!({"env": ["GPU=zero"], "additionalGids": [4321],
        "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/zero", "permissions": "r"}],
        "mounts": [{"hostPath": driver, "containerPath": "/opt/driver", "options": ["ro", "nosuid"]}],
        "hooks": [{"hookName": "createRuntime", "path": hook, "args": ["hook", "ran"], "env": ["HOOK=yes"]}]});
    let spec = json!({"cdiVersion": "0.6.0", "kind": "vendor.com/gpu", "containerEdits": {"env": ["ALL=1"]},
        "devices": [{"name": "0", "containerEdits": edits},
                    {"name": "net", "containerEdits": {"netDevices": [{"hostInterfaceName": "eth9", "name": "x"}]}},
                    {"name": "rdt", "containerEdits": {"intelRdt": {"closID": "x"}}}]});
    fs::write(dir.join("vendor.json"), spec.to_string()).unwrap();
    for handler in RUNTIMES {
        let pod = node.pod("cdi").handler(handler).run();
        let with = |name: &str, devices: &[&str], annotation: Option<&str>| {
            pod.container(name).idle().with(|config| {
                config.cdi_devices =
                    devices.iter().map(|name| v1::CdiDevice { name: (*name).into() }).collect();
                let annotation = annotation.map(|value| ("cdi.k8s.io/plugin".to_owned(), value.to_owned()));
                config.annotations.extend(annotation);
            })
        };
        let container =
            with("c", &["vendor.com/gpu=0"], Some("vendor.com/gpu=0")).security(user(1234)).start();
        assert_eq!(
            container.sh("echo $GPU $ALL; head -c 4 /dev/gpu0 | wc -c; cat /opt/driver/lib.so; id -G"),
            "zero 1\n4\ndriver\n1234 4321\n",
            "{handler}"
        );
        assert_eq!(
            container.sh("stat -c %u /dev/gpu0; touch /opt/driver/x 2>&1 | grep -c Read-only"),
            "1234\n1\n"
        );
        assert_eq!(fs::read_to_string(&told).unwrap(), "ran yes\n", "{handler}: the hook ran once");
        fs::remove_file(&told).unwrap();
        let told = container.status();
        let groups = told.user.unwrap().linux.unwrap().supplemental_groups;
        assert!(groups.contains(&4321), "{groups:?}");

        refused(
            with("no", &["vendor.com/gpu=7"], None),
            Code::InvalidArgument,
            "CDI_devices[0].name: \"vendor.com/gpu=7\" is in no CDI",
        );
        let late = json!({"cdiVersion": "0.6.0", "kind": "late.com/nic", "devices": [{"name": "a",
            "containerEdits": {"env": ["LATE=1"]}}]});
        fs::write(dir.join("late.yaml"), late.to_string()).unwrap();
        let late = with("late", &[], Some("late.com/nic=a")).start();
        assert_eq!(late.sh("echo $LATE"), "1\n", "{handler}: a file that came later");
        fs::remove_file(dir.join("late.yaml")).unwrap();
        refused(
            with("gone", &[], Some("late.com/nic=a")),
            Code::InvalidArgument,
            "annotations[\"cdi.k8s.io/plugin\"]",
        );
        refused(with("net", &["vendor.com/gpu=net"], None), Code::Unimplemented, "netDevices");
        refused(with("rdt", &["vendor.com/gpu=rdt"], None), Code::Unimplemented, "intelRdt");
        pod.remove();
    }
    node.leaves_nothing();
}

#[test]
fn seccomp_profiles_of_the_node_are_in_force_with_every_action() {
    let node = builder().start();
    node.pull(&node.busybox());
    let dir = node.machine.dir().join("seccomp");
    fs::create_dir_all(&dir).unwrap();
    let put = |name: &str, profile: &str| {
        let path = dir.join(name);
        fs::write(&path, profile).unwrap();
        path.display().to_string()
    };
    let local = |path: &str| {
        let localhost_ref = path.to_owned();
        let profile_type = v1::security_profile::ProfileType::Localhost.into();
        move |context: &mut v1::LinuxContainerSecurityContext| {
            context.seccomp = Some(v1::SecurityProfile { profile_type, localhost_ref });
        }
    };
    // libseccomp takes those of one byte order together.
    let architectures: Vec<String> =
        ["AARCH64", "ARM", "MIPSEL", "MIPSEL64", "MIPSEL64N32", "PPC64LE", "RISCV64", "X32", "X86", "X86_64"]
            .map(|name| format!("SCMP_ARCH_{name}"))
            .to_vec();
    for handler in RUNTIMES {
        let pod = node.pod("seccomp").handler(handler).run();
        // What becomes of mkdir under each action.
        for (action, expect) in [
            ("ALLOW", "0"),
            ("LOG", "0"),
            ("ERRNO", "1"),
            ("TRACE", "1"),
            ("TRAP", "159"),
            ("KILL", "159"),
            ("KILL_THREAD", "159"),
            ("KILL_PROCESS", "159"),
        ] {
            let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": format!("SCMP_ACT_{action}")}]});
            let path = put(action, &profile.to_string());
            let name = action.to_lowercase().replace('_', "-");
            let container =
                pod.container(&name).sh("mkdir /tmp/x 2>/dev/null; echo $?").security(local(&path));
            let container = container.start();
            container.exit();
            assert_eq!(container.log().text().trim(), expect, "{handler}: {action}");
        }
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1,
            "flags": ["SECCOMP_FILTER_FLAG_LOG"], "architectures": architectures});
        let path = put("architectures", &profile.to_string());
        let all = pod.container("all").sh("echo runs").security(local(&path)).create();
        match all.try_start() {
            Ok(()) => {
                all.exit();
                assert_eq!(all.log().text(), "runs\n", "{handler}");
            }
            // A runtime's library may be older than an architecture, or its version than a field.
            Err(said) => assert_eq!(handler, "crun", "{said}"),
        }
        let bad = put("bad.json", r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#);
        let words = format!("localhost_ref: {bad:?}: \"SCMP_ACT_MAYBE\" is not an action");
        refused(pod.container("bad").idle().security(local(&bad)), Code::InvalidArgument, &words);
        let absent = dir.join("absent").display().to_string();
        let words = format!("localhost_ref: {absent:?} does not exist");
        refused(pod.container("absent").idle().security(local(&absent)), Code::InvalidArgument, &words);
        pod.remove();
    }
    node.leaves_nothing();
}
