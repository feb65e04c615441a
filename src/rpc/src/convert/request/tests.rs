//! What is taken and what is refused, and by which field's name.

use api::v1;
use model::{MandatoryProfile, MountSource, NamespaceMode, UserMode};

use super::*;
use crate::convert::Invalid;

fn pod() -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web".into(),
            uid: "u-1".into(),
            namespace: "default".into(),
            attempt: 2,
        }),
        linux: Some(v1::LinuxPodSandboxConfig {
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(v1::NamespaceOption::default()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container() -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "app".into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: "busybox".into(), ..Default::default() }),
        mounts: vec![v1::Mount {
            container_path: "/data".into(),
            host_path: "/srv".into(),
            readonly: true,
            ..Default::default()
        }],
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(v1::LinuxContainerResources::default()),
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(v1::NamespaceOption::default()),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// The error's text must begin with `field: `.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Invalid>, field: &str) {
    let text = result.unwrap_err().to_string();
    assert!(text.starts_with(&format!("{field}: ")), "{text:?} does not name {field}");
}

fn with_pod(change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Result<model::PodConfig, Invalid> {
    let mut config = pod();
    change(&mut config);
    pod_config(Some(config), String::new())
}

fn with_pod_security(
    change: impl FnOnce(&mut v1::LinuxSandboxSecurityContext),
) -> Result<model::PodConfig, Invalid> {
    with_pod(|p| change(p.linux.as_mut().unwrap().security_context.as_mut().unwrap()))
}

fn with_container(change: impl FnOnce(&mut v1::ContainerConfig)) -> Result<model::ContainerConfig, Invalid> {
    let mut config = container();
    change(&mut config);
    container_config(Some(config))
}

fn with_mount(change: impl FnOnce(&mut v1::Mount)) -> Result<model::ContainerConfig, Invalid> {
    with_container(|c| change(&mut c.mounts[0]))
}

fn with_security(
    change: impl FnOnce(&mut v1::LinuxContainerSecurityContext),
) -> Result<model::ContainerConfig, Invalid> {
    with_container(|c| change(c.linux.as_mut().unwrap().security_context.as_mut().unwrap()))
}

fn with_resources(
    change: impl FnOnce(&mut v1::LinuxContainerResources),
) -> Result<model::ContainerConfig, Invalid> {
    with_container(|c| change(c.linux.as_mut().unwrap().resources.as_mut().unwrap()))
}

#[test]
fn a_plain_pod_is_taken_as_it_is() {
    let config = with_pod(|p| {
        p.labels.insert("io.kubernetes.pod.name".into(), "ünï\tcode ".into());
        p.log_directory = "/var/log/pods/x".into();
    })
    .unwrap();
    assert_eq!(config.identity.to_string(), "default/web (uid u-1, attempt 2)");
    assert_eq!(config.labels["io.kubernetes.pod.name"], "ünï\tcode ");
    assert_eq!(config.log_directory.unwrap().to_str(), Some("/var/log/pods/x"));
    assert_eq!(config.security.namespaces, model::Namespaces::default());
}

#[test]
fn a_pod_that_cannot_be_is_refused_by_field() {
    refused(pod_config(None, String::new()), "config");
    refused(with_pod(|p| p.metadata = None), "config.metadata");
    let meta = |change: fn(&mut v1::PodSandboxMetadata)| with_pod(|p| change(p.metadata.as_mut().unwrap()));
    refused(meta(|m| m.name.clear()), "config.metadata.name");
    refused(meta(|m| m.namespace.clear()), "config.metadata.namespace");
    refused(meta(|m| m.uid.clear()), "config.metadata.uid");
    refused(meta(|m| m.name = "../x".into()), "config.metadata.name");
    refused(meta(|m| m.uid = "a;b".into()), "config.metadata.uid");
    refused(meta(|m| m.name = "n".repeat(254)), "config.metadata.name");
    refused(with_pod(|p| p.windows = Some(Default::default())), "config.windows");
    refused(with_pod(|p| p.log_directory = "logs".into()), "config.log_directory");
    refused(with_pod(|p| p.log_directory = "/var/../etc".into()), "config.log_directory");
    refused(with_pod(|p| p.hostname = "a b".into()), "config.hostname");
    refused(with_pod(|p| p.hostname = "h".repeat(65)), "config.hostname");
    refused(with_pod(|p| drop(p.labels.insert("k".into(), "v".repeat(4096)))), "config.labels");
    refused(with_pod(|p| drop(p.labels.insert(String::new(), "v".into()))), "config.labels");
    refused(
        with_pod(|p| {
            p.dns_config = Some(v1::DnsConfig { servers: vec!["1.1.1.1\nx".into()], ..Default::default() })
        }),
        "config.dns_config.servers",
    );
    refused(
        with_pod(|p| p.linux.as_mut().unwrap().cgroup_parent = "/a/../b".into()),
        "config.linux.cgroup_parent",
    );
    refused(
        with_pod(|p| drop(p.linux.as_mut().unwrap().sysctls.insert("kernel.panic".into(), "1".into()))),
        "config.linux.sysctls",
    );
}

#[test]
fn a_port_mapping_without_a_host_port_is_none() {
    let mapping = |change: fn(&mut v1::PortMapping)| {
        let mut m = v1::PortMapping { container_port: 80, host_port: 8080, ..Default::default() };
        change(&mut m);
        with_pod(|p| p.port_mappings = vec![m]).map(|p| p.port_mappings)
    };
    assert_eq!(mapping(|_| ()).unwrap()[0].host_port, 8080);
    assert_eq!(mapping(|m| m.host_port = 0).unwrap(), []);
    assert_eq!(mapping(|m| m.host_ip = "0.0.0.0".into()).unwrap()[0].host_ip, None);
    refused(mapping(|m| m.host_port = -1), "config.port_mappings[0].host_port");
    refused(mapping(|m| m.host_port = 65_536), "config.port_mappings[0].host_port");
    refused(mapping(|m| m.container_port = -80), "config.port_mappings[0].container_port");
    refused(mapping(|m| m.container_port = 0), "config.port_mappings[0].container_port");
    refused(mapping(|m| m.protocol = 7), "config.port_mappings[0].protocol");
    refused(mapping(|m| m.host_ip = "localhost".into()), "config.port_mappings[0].host_ip");
}

#[test]
fn namespace_options_follow_the_contract() {
    const AT: &str = "config.linux.security_context.namespace_options";
    let at = |field: &str| format!("{AT}.{field}");
    let options = |change: &dyn Fn(&mut v1::NamespaceOption)| {
        with_security(|s| change(s.namespace_options.as_mut().unwrap())).map(|c| c.security.namespaces)
    };
    let target = "ab".repeat(32);
    assert_eq!(
        options(&|o| (o.pid, o.target_id) = (3, target.clone())).unwrap().pid,
        NamespaceMode::Target(target.parse().unwrap())
    );
    assert_eq!(options(&|o| o.pid = 1).unwrap().pid, NamespaceMode::Container);
    refused(options(&|o| o.pid = 4), &at("pid"));
    refused(options(&|o| o.pid = 3), &at("target_id"));
    refused(options(&|o| (o.pid, o.target_id) = (3, "abc".into())), &at("target_id"));
    refused(options(&|o| o.target_id = target.clone()), &at("target_id"));
    refused(options(&|o| o.network = 1), &at("network"));
    refused(options(&|o| o.ipc = 3), &at("ipc"));
    refused(
        with_pod_security(|s| {
            let options = s.namespace_options.as_mut().unwrap();
            (options.pid, options.target_id) = (3, target.clone());
        }),
        &at("pid"),
    );

    let map = |container_id, length| v1::IdMapping { host_id: 100_000, container_id, length };
    let userns = |mode, uids: Vec<v1::IdMapping>, gids: Vec<v1::IdMapping>| {
        options(&|o| {
            o.userns_options = Some(v1::UserNamespace { mode, uids: uids.clone(), gids: gids.clone() })
        })
        .map(|n| n.user)
    };
    let own = userns(0, vec![map(0, 65_536)], vec![map(0, 65_536)]).unwrap();
    assert!(matches!(own, Some(UserMode::Pod(own)) if own.uids.len() == 1 && own.gids.len() == 1));
    assert_eq!(userns(2, vec![], vec![]), Ok(Some(UserMode::Node)));
    refused(userns(0, vec![], vec![map(0, 1)]), &at("userns_options.uids"));
    refused(userns(0, vec![map(0, 1)], vec![map(0, 1), map(1, 1)]), &at("userns_options.gids"));
    refused(userns(0, vec![map(1, 1)], vec![map(0, 1)]), &at("userns_options.uids"));
    refused(userns(0, vec![map(0, 0)], vec![map(0, 1)]), &at("userns_options.uids[0].length"));
    refused(userns(0, vec![map(0, u32::MAX)], vec![map(0, 1)]), &at("userns_options.uids[0].length"));
    refused(userns(2, vec![map(0, 1)], vec![]), &at("userns_options.mode"));
    refused(userns(1, vec![], vec![]), &at("userns_options.mode"));
}

#[test]
fn users_and_groups_follow_the_contract() {
    const AT: &str = "config.linux.security_context";
    let id = |value| Some(v1::Int64Value { value });
    assert!(with_security(|s| (s.run_as_user, s.run_as_group) = (id(0), id(0))).is_ok());
    assert!(with_security(|s| (s.run_as_username, s.run_as_group) = ("www".into(), id(33))).is_ok());
    refused(with_security(|s| s.run_as_group = id(1)), &format!("{AT}.run_as_group"));
    refused(with_pod_security(|s| s.run_as_group = id(1)), &format!("{AT}.run_as_group"));
    refused(with_security(|s| s.run_as_user = id(-1)), &format!("{AT}.run_as_user"));
    refused(with_security(|s| s.run_as_user = id(1 << 32)), &format!("{AT}.run_as_user"));
    refused(
        with_security(|s| (s.run_as_username, s.run_as_user) = ("www".into(), id(33))),
        &format!("{AT}.run_as_username"),
    );
    refused(with_security(|s| s.supplemental_groups = vec![-5]), &format!("{AT}.supplemental_groups"));
    refused(with_security(|s| s.supplemental_groups_policy = 2), &format!("{AT}.supplemental_groups_policy"));
}

#[test]
#[allow(deprecated)] // older clients fill the strings
fn profiles_come_from_the_new_field_or_the_old_string() {
    const SECCOMP: &str = "config.linux.security_context.seccomp";
    let seccomp = |kind, reference: &str, old: &str| {
        with_security(|s| {
            s.seccomp = Some(v1::SecurityProfile { profile_type: kind, localhost_ref: reference.into() });
            s.seccomp_profile_path = old.into();
        })
        .map(|c| c.security.seccomp.unwrap())
    };
    let local = || MandatoryProfile::Localhost("/p.json".into());
    assert_eq!(seccomp(0, "", "unconfined"), Ok(MandatoryProfile::RuntimeDefault));
    assert_eq!(seccomp(1, "", ""), Ok(MandatoryProfile::Unconfined));
    assert_eq!(seccomp(2, "/p.json", ""), Ok(local()));
    assert_eq!(seccomp(2, "localhost//p.json", ""), Ok(local()));
    refused(seccomp(2, "", ""), SECCOMP);
    refused(seccomp(0, "/p.json", ""), SECCOMP);
    refused(seccomp(2, "p.json", ""), &format!("{SECCOMP}.localhost_ref"));
    refused(seccomp(3, "", ""), SECCOMP);

    let old =
        |text: &str| with_security(|s| s.seccomp_profile_path = text.into()).map(|c| c.security.seccomp);
    assert_eq!(old(""), Ok(None));
    assert_eq!(old("runtime/default"), Ok(Some(MandatoryProfile::RuntimeDefault)));
    assert_eq!(old("localhost//p.json"), Ok(Some(local())));
    refused(old("nonsense"), SECCOMP);
    let apparmor =
        |text: &str| with_security(|s| s.apparmor_profile = text.into()).map(|c| c.security.apparmor);
    assert_eq!(apparmor("localhost/k8s-x"), Ok(Some(MandatoryProfile::Localhost("k8s-x".into()))));
    refused(apparmor("localhost/"), "config.linux.security_context.apparmor");
}

#[test]
fn a_container_that_cannot_be_is_refused_by_field() {
    assert!(container_config(Some(container())).is_ok());
    refused(container_config(None), "config");
    refused(with_container(|c| c.metadata = None), "config.metadata");
    refused(with_container(|c| c.metadata = Some(Default::default())), "config.metadata.name");
    refused(with_container(|c| c.image = None), "config.image.image");
    refused(with_container(|c| c.windows = Some(Default::default())), "config.windows");
    refused(with_container(|c| c.args = vec!["a".into(), "b\0".into()]), "config.args[1]");
    refused(with_container(|c| c.log_path = "/abs".into()), "config.log_path");
    refused(with_container(|c| c.log_path = "a/../../b".into()), "config.log_path");
    refused(with_container(|c| c.stop_signal = 99), "config.stop_signal");
    let env = |key: &str| v1::KeyValue { key: key.into(), value: vec![0xff] };
    assert!(with_container(|c| c.envs = vec![env("A")]).is_ok());
    refused(with_container(|c| c.envs = vec![env("A"), env("B=C")]), "config.envs[1].key");
    let device = |permissions: &str| v1::Device {
        host_path: "/dev/null".into(),
        container_path: "/dev/x".into(),
        permissions: permissions.into(),
    };
    assert!(with_container(|c| c.devices = vec![device("rwm")]).is_ok());
    refused(with_container(|c| c.devices = vec![device("rx")]), "config.devices[0].permissions");
    refused(with_container(|c| c.devices = vec![device("")]), "config.devices[0].permissions");
    let cdi = |name: &str| v1::CdiDevice { name: name.into() };
    assert!(with_container(|c| c.cdi_devices = vec![cdi("vendor.com/gpu=0")]).is_ok());
    refused(with_container(|c| c.cdi_devices = vec![cdi("gpu")]), "config.CDI_devices[0].name");
    let add = |name: &str| {
        with_security(|s| {
            s.capabilities =
                Some(v1::Capability { add_capabilities: vec![name.into()], ..Default::default() });
        })
        .map(|c| c.security.capabilities.add)
    };
    assert_eq!(add("cap_net_admin"), Ok(vec!["NET_ADMIN".to_owned()]));
    refused(add("NET ADMIN"), "config.linux.security_context.capabilities.add_capabilities");
    refused(
        with_security(|s| s.masked_paths = vec!["proc".into()]),
        "config.linux.security_context.masked_paths",
    );
}

#[test]
fn mounts_follow_the_contract() {
    let at = |field: &str| format!("config.mounts[0].{field}");
    let image = || Some(v1::ImageSpec { image: "data:1".into(), ..Default::default() });
    for root in ["/", "//", "/./"] {
        refused(with_mount(|m| m.container_path = root.into()), &at("container_path"));
    }
    refused(with_mount(|m| m.container_path.clear()), &at("container_path"));
    refused(with_mount(|m| m.container_path = "data".into()), &at("container_path"));
    refused(with_mount(|m| m.host_path.clear()), &at("host_path"));
    refused(with_mount(|m| m.image = image()), &at("host_path"));
    refused(with_mount(|m| m.image_sub_path = "a".into()), &at("image_sub_path"));
    refused(with_mount(|m| m.propagation = 3), &at("propagation"));
    let volume =
        with_mount(|m| (m.host_path, m.image, m.image_sub_path) = (String::new(), image(), "a/b".into()));
    assert!(matches!(&volume.unwrap().mounts[0].source, MountSource::Image { .. }));
    refused(
        with_mount(|m| (m.host_path, m.image, m.image_sub_path) = (String::new(), image(), "/a".into())),
        &at("image_sub_path"),
    );
    let received = v1::MountPropagation::PropagationHostToContainer.into();
    refused(
        with_mount(|m| (m.host_path, m.image, m.propagation) = (String::new(), image(), received)),
        &at("propagation"),
    );
    refused(
        with_mount(|m| (m.host_path, m.image) = (String::new(), Some(Default::default()))),
        &at("image.image"),
    );
    assert!(with_mount(|m| m.recursive_read_only = true).is_ok());
    refused(with_mount(|m| (m.recursive_read_only, m.readonly) = (true, false)), &at("recursive_read_only"));
    refused(with_mount(|m| (m.recursive_read_only, m.propagation) = (true, 1)), &at("recursive_read_only"));
    assert!(with_mount(|m| m.mount_options = vec!["noexec".into(), "nosuid".into()]).is_ok());
    refused(with_mount(|m| m.mount_options = vec!["suid".into()]), &at("mount_options"));
    refused(with_mount(|m| m.uid_mappings = vec![Default::default()]), &at("uidMappings[0].length"));
}

#[test]
fn resources_follow_the_contract() {
    let at = |field: &str| format!("config.linux.resources.{field}");
    assert!(with_resources(|r| (r.cpu_quota, r.memory_swap_limit_in_bytes) = (-1, -1)).is_ok());
    assert!(with_resources(|r| r.cpuset_cpus = "0-2,7".into()).is_ok());
    refused(with_resources(|r| r.cpu_quota = -2), &at("cpu_quota"));
    refused(with_resources(|r| r.cpu_shares = -1), &at("cpu_shares"));
    refused(with_resources(|r| r.memory_limit_in_bytes = -1), &at("memory_limit_in_bytes"));
    refused(
        with_resources(|r| (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes) = (2, 1)),
        &at("memory_swap_limit_in_bytes"),
    );
    refused(with_resources(|r| r.oom_score_adj = 1001), &at("oom_score_adj"));
    for bad in ["2-1", "a", "1,,2", "-1"] {
        refused(with_resources(|r| r.cpuset_mems = bad.into()), &at("cpuset_mems"));
    }
    let page = |size: &str| v1::HugepageLimit { page_size: size.into(), limit: 1 };
    assert!(with_resources(|r| r.hugepage_limits = vec![page("2MB"), page("1GB"), page("64KB")]).is_ok());
    refused(with_resources(|r| r.hugepage_limits = vec![page("2M")]), &at("hugepage_limits[0].page_size"));
    for bad in ["memory", "../x.y", "a/b.c", ".x"] {
        refused(with_resources(|r| drop(r.unified.insert(bad.into(), "1".into()))), &at("unified"));
    }
}

#[test]
fn streams_follow_the_contract() {
    let request = |stdin, stdout, stderr, tty| {
        exec(v1::ExecRequest { container_id: "c".into(), cmd: vec!["sh".into()], tty, stdin, stdout, stderr })
    };
    assert!(request(true, true, false, true).is_ok());
    refused(request(true, true, true, true), "stderr");
    refused(request(false, false, false, false), "stdin, stdout, stderr");
    refused(
        exec(v1::ExecRequest { cmd: vec!["sh".into()], stdout: true, ..Default::default() }),
        "container_id",
    );
    refused(exec(v1::ExecRequest { container_id: "c".into(), stdout: true, ..Default::default() }), "cmd");
    refused(
        attach(v1::AttachRequest { container_id: "c".into(), ..Default::default() }),
        "stdin, stdout, stderr",
    );
    refused(port_forward(v1::PortForwardRequest { pod_sandbox_id: "p".into(), port: vec![80, 0] }), "port");
    let sync = |timeout| {
        exec_sync(v1::ExecSyncRequest { container_id: "c".into(), cmd: vec!["ls".into()], timeout })
    };
    assert_eq!(sync(0).unwrap().2, None);
    assert_eq!(sync(3).unwrap().2.unwrap().as_secs(), 3);
    refused(sync(-1), "timeout");
    let longest = sync(i64::MAX).unwrap().2.unwrap();
    assert_eq!(longest.as_secs(), u64::from(u32::MAX));
    assert!(std::time::Instant::now().checked_add(longest).is_some(), "a clock can have it added");
    assert_eq!(seconds("timeout", i64::MAX).unwrap(), longest);
}
