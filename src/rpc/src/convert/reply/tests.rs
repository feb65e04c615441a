//! The rules of the replies: what is set in which state, and what comes back as it came.

use std::path::PathBuf;
use std::sync::Arc;

use model::{ContainerConfig, ContainerId, Digest, ImageId, PodId, Signal};
use pod::{ExitReason, PodView, User};

use super::*;
use crate::convert::filter;
use crate::convert::request::{container_config, pod_config};

fn pod(id: u8, change: impl FnOnce(&mut v1::PodSandboxConfig)) -> PodStatus {
    let mut config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web".into(),
            uid: "u".into(),
            namespace: "default".into(),
            attempt: 1,
        }),
        ..Default::default()
    };
    change(&mut config);
    PodStatus {
        id: PodId::from_bytes([id; 32]),
        config: Arc::new(pod_config(Some(config), "crun".into()).unwrap()),
        phase: PodPhase::Ready,
        created_at: 7,
        ips: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        netns: None,
        handler: "crun".into(),
        shim_pid: None,
        cni_result: None,
        cgroup: "/x".into(),
    }
}

fn requested() -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "app".into(), attempt: 2 }),
        image: Some(v1::ImageSpec {
            image: "busybox".into(),
            user_specified_image: "bb".into(),
            ..Default::default()
        }),
        mounts: vec![
            v1::Mount {
                container_path: "/a".into(),
                host_path: "/b".into(),
                readonly: true,
                recursive_read_only: true,
                ..Default::default()
            },
            v1::Mount {
                container_path: "/c".into(),
                host_path: "/d".into(),
                propagation: 2,
                mount_options: vec!["noexec".into()],
                uid_mappings: vec![v1::IdMapping { host_id: 5, container_id: 0, length: 9 }],
                ..Default::default()
            },
        ],
        ..Default::default()
    }
}

fn config() -> ContainerConfig {
    container_config(Some(requested())).unwrap()
}

fn container(id: u8, pod: u8, phase: ContainerPhase) -> ContainerStatus {
    ContainerStatus {
        id: ContainerId::from_bytes([id; 32]),
        pod: PodId::from_bytes([pod; 32]),
        config: Arc::new(config()),
        phase,
        created_at: 7,
        image_id: ImageId(Digest::sha256([3; 32])),
        image_ref: "docker.io/library/busybox@sha256:00".into(),
        log_path: Some(PathBuf::from("/var/log/app/2.log")),
        resources: Resources { cpu_shares: 512, ..Resources::default() },
        user: User { uid: 1000, gid: 2000, supplemental_groups: vec![2000, 3000] },
        stop_signal: Signal::TERM,
        cgroup: "/x/y".into(),
        bundle: PathBuf::from("/run/x"),
        restored: false,
    }
}

fn exit(code: i32, reason: ExitReason, started_at: Option<i64>) -> Exit {
    Exit { started_at, finished_at: 9, code, reason, message: "why".into() }
}

#[test]
fn a_status_says_what_has_happened_and_no_more() {
    use v1::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
    for (phase, state, started_at, finished_at, code, reason) in [
        (ContainerPhase::Created, ContainerCreated, 0, 0, 0, ""),
        (ContainerPhase::Starting, ContainerCreated, 0, 0, 0, ""),
        (ContainerPhase::Running { pid: 1, started_at: 8 }, ContainerRunning, 8, 0, 0, ""),
        (
            ContainerPhase::Exited(exit(0, ExitReason::Completed, Some(8))),
            ContainerExited,
            8,
            9,
            0,
            "Completed",
        ),
        (
            ContainerPhase::Exited(exit(137, ExitReason::OomKilled, Some(8))),
            ContainerExited,
            8,
            9,
            137,
            "OOMKilled",
        ),
        (
            ContainerPhase::Exited(exit(128, ExitReason::StartError, None)),
            ContainerExited,
            0,
            9,
            128,
            "StartError",
        ),
        (
            ContainerPhase::Removing(Some(exit(1, ExitReason::Error, Some(8)))),
            ContainerExited,
            8,
            9,
            1,
            "Error",
        ),
    ] {
        let status = container_status(&container(1, 2, phase.clone()));
        assert_eq!(status.state(), state, "{phase:?}");
        assert_eq!((status.started_at, status.finished_at), (started_at, finished_at), "{phase:?}");
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{phase:?}");
    }
}

#[test]
fn a_container_comes_back_as_it_was_asked_for() {
    let status = container_status(&container(1, 2, ContainerPhase::Created));
    assert_eq!(status.mounts, requested().mounts);
    // As it was asked for, but by the name that the pod has for it, where there is one.
    assert_eq!(status.image, Some(v1::ImageSpec { image: "bb".into(), ..requested().image.unwrap() }));
    assert_eq!(status.metadata, requested().metadata);
    assert_eq!(status.log_path, "/var/log/app/2.log");
    assert_eq!(status.stop_signal(), v1::Signal::Sigterm);
    assert_eq!(status.resources.unwrap().linux.unwrap().cpu_shares, 512);
    let user = status.user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid, user.supplemental_groups), (1000, 2000, vec![2000, 3000]));
    let listed = super::container(&container(1, 2, ContainerPhase::Created));
    assert_eq!((listed.image_id, listed.image_ref), (status.image_id, status.image_ref));
}

#[test]
fn a_pod_comes_back_as_it_was_asked_for() {
    let options = v1::NamespaceOption { network: 2, pid: 1, ipc: 2, ..Default::default() };
    let status = pod_status(&pod(1, |config| {
        config.labels.insert("k".into(), "v ".into());
        config.linux = Some(v1::LinuxPodSandboxConfig {
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(options.clone()),
                ..Default::default()
            }),
            ..Default::default()
        });
    }));
    assert_eq!(status.linux.unwrap().namespaces.unwrap().options, Some(options));
    assert_eq!(status.labels["k"], "v ");
    let network = status.network.unwrap();
    assert_eq!((network.ip.as_str(), network.additional_ips[0].ip.as_str()), ("10.0.0.2", "fd00::2"));
    assert_eq!((status.runtime_handler.as_str(), status.state), ("crun", 0));
    let stopped =
        PodStatus { phase: PodPhase::NotReady { why: String::new() }, ips: vec![], ..pod(1, |_| ()) };
    let status = pod_status(&stopped);
    assert_eq!(
        (status.state(), status.network.unwrap().ip.as_str()),
        (v1::PodSandboxState::SandboxNotready, "")
    );
}

#[test]
fn filters_want_all_that_is_set() {
    let view = |id, app: &str| {
        let pod = pod(id, |config| drop(config.labels.insert("app".into(), app.into())));
        Arc::new(PodView { pod, containers: vec![], revision: 0, at: 1 })
    };
    let all = || vec![view(0xab, "web"), view(0xac, "web"), view(0x10, "db")];
    let count = |filter: v1::PodSandboxFilter| filter::pods(Some(filter), all()).map(|pods| pods.len());
    let label = |value: &str| [("app".to_owned(), value.to_owned())].into();
    let state = |state| Some(v1::PodSandboxStateValue { state });
    assert_eq!(count(v1::PodSandboxFilter::default()), Ok(3));
    assert_eq!(count(v1::PodSandboxFilter { id: "ab".into(), ..Default::default() }), Ok(1));
    assert_eq!(count(v1::PodSandboxFilter { id: "f".into(), ..Default::default() }), Ok(0));
    assert!(count(v1::PodSandboxFilter { id: "a".into(), ..Default::default() }).is_err());
    assert_eq!(count(v1::PodSandboxFilter { label_selector: label("web"), ..Default::default() }), Ok(2));
    assert_eq!(count(v1::PodSandboxFilter { state: state(1), ..Default::default() }), Ok(0));
    assert!(count(v1::PodSandboxFilter { state: state(7), ..Default::default() }).is_err());
    let both = v1::PodSandboxFilter { id: "ab".into(), label_selector: label("db"), state: None };
    assert_eq!(count(both), Ok(0));

    let containers =
        vec![container(1, 0xab, ContainerPhase::Created), container(2, 0xab, ContainerPhase::Created)];
    let view = Arc::new(PodView { pod: pod(0xab, |_| ()), containers, revision: 0, at: 1 });
    let all = || pod::ContainerInView::all(&view).collect();
    let count =
        |filter: v1::ContainerFilter| filter::containers(Some(filter), all()).map(|found| found.len());
    assert_eq!(count(v1::ContainerFilter { pod_sandbox_id: "ab".into(), ..Default::default() }), Ok(2));
    let running = Some(v1::ContainerStateValue { state: 1 });
    assert_eq!(count(v1::ContainerFilter { state: running, ..Default::default() }), Ok(0));
}

#[test]
fn an_images_user_is_a_number_or_a_name() {
    for (user, uid, username) in [
        ("", None, ""),
        ("0", Some(0), ""),
        ("1003:22", Some(1003), ""),
        ("www-data", None, "www-data"),
        ("www-data:100", None, "www-data"),
        // Beyond the kernel's ids: whoever made it did not mean a number.
        ("99999999999999999999", None, "99999999999999999999"),
    ] {
        let (told, name) = image_user(user);
        assert_eq!((told.map(|uid| uid.value), name.as_str()), (uid, username), "{user:?}");
    }
}

/// Every field that a sandbox or container can be asked for with, with a value of its own.
#[test]
fn what_was_asked_for_is_shown_again_field_by_field() {
    let profile = |kind, reference: &str| {
        Some(v1::SecurityProfile { profile_type: kind, localhost_ref: reference.into() })
    };
    let id = |value| Some(v1::Int64Value { value });
    let map = |key: &str| [(key.to_owned(), "1".to_owned())].into();
    let selinux =
        v1::SeLinuxOption { user: "u".into(), role: "r".into(), r#type: "t".into(), level: "s0:c1".into() };
    let mapping = v1::IdMapping { host_id: 100_000, container_id: 0, length: 65_536 };
    let options = v1::NamespaceOption {
        network: 0,
        pid: 1,
        ipc: 2,
        target_id: String::new(),
        userns_options: Some(v1::UserNamespace { mode: 0, uids: vec![mapping], gids: vec![mapping] }),
    };
    let limits = v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 100,
        cpuset_cpus: "0".into(),
        cpuset_mems: "0".into(),
        hugepage_limits: vec![v1::HugepageLimit { page_size: "2MB".into(), limit: 0 }],
        unified: map("memory.high"),
        memory_swap_limit_in_bytes: 64 << 20,
    };
    #[allow(deprecated)] // the strings stay empty: the new fields say the same
    let pod = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "n".into(),
            uid: "u".into(),
            namespace: "ns".into(),
            attempt: 3,
        }),
        hostname: "h".into(),
        log_directory: "/logs".into(),
        dns_config: Some(v1::DnsConfig {
            servers: vec!["1.1.1.1".into()],
            searches: vec!["a".into()],
            options: vec!["ndots:5".into()],
        }),
        port_mappings: vec![v1::PortMapping {
            protocol: 1,
            container_port: 53,
            host_port: 5353,
            host_ip: "127.0.0.1".into(),
        }],
        labels: map("l"),
        annotations: map("a"),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: "/parent".into(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(options.clone()),
                selinux_options: Some(selinux.clone()),
                run_as_user: id(1),
                run_as_group: id(2),
                readonly_rootfs: true,
                supplemental_groups: vec![3],
                supplemental_groups_policy: 1,
                privileged: true,
                seccomp: profile(0, ""),
                apparmor: profile(1, ""),
                seccomp_profile_path: String::new(),
            }),
            sysctls: map("net.core.somaxconn"),
            overhead: Some(limits.clone()),
            resources: Some(limits.clone()),
        }),
        windows: None,
    };
    assert_eq!(super::pod_config(&pod_config(Some(pod.clone()), String::new()).unwrap()), pod);

    #[allow(deprecated)] // the strings stay empty: the new fields say the same
    let container = v1::ContainerConfig {
        command: vec!["c".into()],
        args: vec!["a".into()],
        working_dir: "/w".into(),
        envs: vec![v1::KeyValue { key: "K".into(), value: b"v".to_vec() }],
        devices: vec![v1::Device {
            container_path: "/dev/x".into(),
            host_path: "/dev/null".into(),
            permissions: "r".into(),
        }],
        labels: map("l"),
        annotations: map("a"),
        log_path: "0.log".into(),
        stdin: true,
        stdin_once: true,
        tty: true,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(limits),
            security_context: Some(v1::LinuxContainerSecurityContext {
                capabilities: Some(v1::Capability {
                    add_capabilities: vec!["CHOWN".into()],
                    drop_capabilities: vec!["ALL".into()],
                    add_ambient_capabilities: vec!["KILL".into()],
                }),
                privileged: true,
                namespace_options: Some(options),
                selinux_options: Some(selinux),
                run_as_user: id(1),
                run_as_group: id(2),
                run_as_username: String::new(),
                readonly_rootfs: true,
                supplemental_groups: vec![3],
                supplemental_groups_policy: 1,
                no_new_privs: true,
                masked_paths: vec!["/m".into()],
                readonly_paths: vec!["/r".into()],
                seccomp: profile(2, "/profile.json"),
                apparmor: profile(2, "name"),
                apparmor_profile: String::new(),
                seccomp_profile_path: String::new(),
            }),
        }),
        cdi_devices: vec![v1::CdiDevice { name: "v/c=d".into() }],
        stop_signal: v1::Signal::Sigusr1.into(),
        ..requested()
    };
    assert_eq!(super::container_config(&container_config(Some(container.clone())).unwrap()), container);
}
