//! Pods and containers as handles: what a kubelet would ask for, with as few words as a test allows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use api::v1;
use tonic::Status;

use crate::cri::image_spec;
use crate::log::Log;
use crate::node::Node;
use crate::wait::eventually;

/// A state is reached within this time, or the test fails.
const SOON: Duration = Duration::from_secs(90);

/// Makes uids and names unique in a process.
static SERIAL: AtomicU32 = AtomicU32::new(1);

/// A pod to be run.
#[derive(Debug, Clone)]
pub struct PodBuilder<'n> {
    node: &'n Node,
    /// The message as it will be sent.
    pub config: v1::PodSandboxConfig,
    handler: String,
}

impl<'n> PodBuilder<'n> {
    pub(crate) fn new(node: &'n Node, name: &str) -> Self {
        let uid = format!("uid-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let logs = node.config.logs.join(format!("default_{name}_{uid}"));
        let labels = [("name", name), ("namespace", "default"), ("uid", uid.as_str())];
        let labels = labels.map(|(key, value)| (format!("io.kubernetes.pod.{key}"), value.to_string()));
        let config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.into(),
                uid,
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: logs.display().to_string(),
            dns_config: Some(v1::DnsConfig { servers: vec!["10.96.0.10".into()], ..Default::default() }),
            labels: BTreeMap::from(labels),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: node.machine.cgroup_parent(),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        pid: v1::NamespaceMode::Container.into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        Self { node, config, handler: String::new() }
    }

    /// Any change of the message.
    pub fn with(mut self, change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// A change of its namespaces.
    pub fn namespaces(self, change: impl FnOnce(&mut v1::NamespaceOption)) -> Self {
        self.with(|config| {
            let linux = config.linux.get_or_insert_default();
            change(linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default());
        })
    }

    /// In a cgroup of its own, two levels below the machine's, as the kubelet asks for it.
    pub fn own_cgroup(self) -> Self {
        let uid = self.config.metadata.as_ref().map_or("", |metadata| &metadata.uid);
        let parent = self.node.machine.cgroup_parent_of(uid);
        self.with(|config| config.linux.get_or_insert_default().cgroup_parent = parent)
    }

    /// Under another runtime handler.
    pub fn handler(mut self, name: &str) -> Self {
        self.handler = name.into();
        self
    }

    /// The request as it will be sent.
    pub fn request(&self) -> v1::RunPodSandboxRequest {
        v1::RunPodSandboxRequest { config: Some(self.config.clone()), runtime_handler: self.handler.clone() }
    }

    /// Runs it.
    pub fn try_run(self) -> Result<Pod<'n>, Status> {
        let id = self.node.cri().run_pod_sandbox(self.request())?.pod_sandbox_id;
        Ok(Pod { node: self.node, id, config: self.config })
    }

    /// The pod that it has become by other means than RunPodSandbox.
    pub fn known_as(self, id: &str) -> Pod<'n> {
        Pod { node: self.node, id: id.into(), config: self.config }
    }

    /// Runs it; a refusal is a panic.
    #[track_caller]
    pub fn run(self) -> Pod<'n> {
        self.try_run().expect("RunPodSandbox")
    }
}

/// A pod that ran once.
#[derive(Debug, Clone)]
pub struct Pod<'n> {
    node: &'n Node,
    /// Its id.
    pub id: String,
    /// What was asked for.
    pub config: v1::PodSandboxConfig,
}

impl<'n> Pod<'n> {
    /// A container of busybox to be created in it.
    pub fn container(&self, name: &str) -> ContainerBuilder<'n> {
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(image_spec(&self.node.busybox())),
            log_path: format!("{name}/0.log"),
            labels: BTreeMap::from([("io.kubernetes.container.name".into(), name.into())]),
            linux: Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: self.namespaces(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        ContainerBuilder { node: self.node, pod: self.clone(), config }
    }

    fn namespaces(&self) -> Option<v1::NamespaceOption> {
        self.config.linux.as_ref()?.security_context.as_ref()?.namespace_options.clone()
    }

    /// Its status.
    pub fn try_status(&self) -> Result<v1::PodSandboxStatus, Status> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: false };
        self.node.cri().pod_sandbox_status(request).map(|answer| answer.status.unwrap_or_default())
    }

    /// Its status; none is a panic.
    #[track_caller]
    pub fn status(&self) -> v1::PodSandboxStatus {
        self.try_status().expect("PodSandboxStatus")
    }

    /// Its verbose information, as JSON.
    #[track_caller]
    pub fn info(&self) -> serde_json::Value {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: true };
        let info = self.node.cri().pod_sandbox_status(request).expect("PodSandboxStatus").info;
        serde_json::from_str(info.get("info").expect("verbose info")).expect("verbose info in JSON")
    }

    /// Its first address.
    #[track_caller]
    pub fn ip(&self) -> String {
        self.status().network.expect("a network status").ip
    }

    /// Whether it is READY.
    #[track_caller]
    pub fn is_ready(&self) -> bool {
        self.status().state() == v1::PodSandboxState::SandboxReady
    }

    /// Stops it.
    pub fn try_stop(&self) -> Result<(), Status> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.node.cri().stop_pod_sandbox(request).map(drop)
    }

    /// Stops it; a failure is a panic.
    #[track_caller]
    pub fn stop(&self) {
        self.try_stop().expect("StopPodSandbox");
    }

    /// Stops and removes it.
    #[track_caller]
    pub fn remove(&self) {
        self.stop();
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.node.cri().remove_pod_sandbox(request).expect("RemovePodSandbox");
    }
}

/// A container to be created.
#[derive(Debug, Clone)]
pub struct ContainerBuilder<'n> {
    node: &'n Node,
    pod: Pod<'n>,
    /// The message as it will be sent.
    pub config: v1::ContainerConfig,
}

impl<'n> ContainerBuilder<'n> {
    /// Any change of the message.
    pub fn with(mut self, change: impl FnOnce(&mut v1::ContainerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// A change of its security context.
    pub fn security(self, change: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> Self {
        self.with(|config| {
            change(config.linux.get_or_insert_default().security_context.get_or_insert_default())
        })
    }

    /// A change of its resources.
    pub fn resources(self, change: impl FnOnce(&mut v1::LinuxContainerResources)) -> Self {
        self.with(|config| change(config.linux.get_or_insert_default().resources.get_or_insert_default()))
    }

    /// Another image.
    pub fn image(self, reference: &str) -> Self {
        self.with(|config| config.image = Some(image_spec(reference)))
    }

    /// The program and its arguments.
    pub fn command(self, argv: &[&str]) -> Self {
        self.with(|config| config.command = argv.iter().map(|word| word.to_string()).collect())
    }

    /// A shell line.
    pub fn sh(self, line: &str) -> Self {
        self.command(&["sh", "-c", line])
    }

    /// A program that runs until it is stopped, and obeys SIGTERM.
    pub fn idle(self) -> Self {
        self.sh("trap 'exit 0' TERM; while :; do sleep 1000 & wait; done")
    }

    /// The request as it will be sent.
    pub fn request(&self) -> v1::CreateContainerRequest {
        v1::CreateContainerRequest {
            pod_sandbox_id: self.pod.id.clone(),
            config: Some(self.config.clone()),
            sandbox_config: Some(self.pod.config.clone()),
        }
    }

    /// Creates it.
    pub fn try_create(self) -> Result<Container<'n>, Status> {
        let id = self.node.cri().create_container(self.request())?.container_id;
        Ok(self.known_as(&id))
    }

    /// The container that it has become by other means than CreateContainer.
    pub fn known_as(self, id: &str) -> Container<'n> {
        let log = PathBuf::from(&self.pod.config.log_directory).join(&self.config.log_path);
        Container { node: self.node, id: id.into(), log: Log::at(&log) }
    }

    /// Creates it; a refusal is a panic. The node pulls its image first when it does not have it.
    #[track_caller]
    pub fn create(self) -> Container<'n> {
        let reference = self.config.image.as_ref().map(|spec| spec.image.clone()).unwrap_or_default();
        if self.node.image(&reference).is_none() {
            self.node.pull(&reference);
        }
        self.try_create().expect("CreateContainer")
    }

    /// Creates and starts it; a refusal is a panic.
    #[track_caller]
    pub fn start(self) -> Container<'n> {
        let container = self.create();
        container.try_start().expect("StartContainer");
        container
    }
}

/// A container that was created once.
#[derive(Debug, Clone)]
pub struct Container<'n> {
    node: &'n Node,
    /// Its id.
    pub id: String,
    log: Log,
}

impl Container<'_> {
    /// Starts it.
    pub fn try_start(&self) -> Result<(), Status> {
        let request = v1::StartContainerRequest { container_id: self.id.clone() };
        self.node.cri().start_container(request).map(drop)
    }

    /// Its status.
    pub fn try_status(&self) -> Result<v1::ContainerStatus, Status> {
        let request = v1::ContainerStatusRequest { container_id: self.id.clone(), verbose: false };
        self.node.cri().container_status(request).map(|answer| answer.status.unwrap_or_default())
    }

    /// Its status; none is a panic.
    #[track_caller]
    pub fn status(&self) -> v1::ContainerStatus {
        self.try_status().expect("ContainerStatus")
    }

    /// Its verbose information, as JSON.
    #[track_caller]
    pub fn info(&self) -> serde_json::Value {
        let request = v1::ContainerStatusRequest { container_id: self.id.clone(), verbose: true };
        let info = self.node.cri().container_status(request).expect("ContainerStatus").info;
        serde_json::from_str(info.get("info").expect("verbose info")).expect("verbose info in JSON")
    }

    /// The pid of its first process on the machine.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let pid = self.info()["pid"].as_u64().expect("a pid in the verbose info");
        u32::try_from(pid).expect("a pid")
    }

    /// Whether it is running.
    #[track_caller]
    pub fn is_running(&self) -> bool {
        self.status().state() == v1::ContainerState::ContainerRunning
    }

    /// Waits until something in its pod listens on a TCP port: crictl gives up a whole forwarding at one refused connection.
    #[track_caller]
    pub fn listens(&self, port: u16) {
        eventually("it listens", SOON, || {
            // A machine may have no IPv6.
            let table = self.sh("cat /proc/net/tcp /proc/net/tcp6 2>/dev/null; true");
            // With nobody on the other side and in state LISTEN: a connection of before is neither.
            let listens = |line: &str| line.contains(&format!(":{port:04X} ")) && line.contains(":0000 0A ");
            if table.lines().any(listens) { Ok(()) } else { Err(table) }
        });
    }

    /// Waits until it has exited; its status then.
    #[track_caller]
    pub fn exit(&self) -> v1::ContainerStatus {
        eventually("the container exits", SOON, || {
            let status = self.status();
            let exited = status.state() == v1::ContainerState::ContainerExited;
            if exited { Ok(status) } else { Err(format!("it is {:?}", status.state())) }
        })
    }

    /// What it uses.
    #[track_caller]
    pub fn stats(&self) -> v1::ContainerStats {
        let request = v1::ContainerStatsRequest { container_id: self.id.clone() };
        self.node.cri().container_stats(request).expect("ContainerStats").stats.expect("stats")
    }

    /// Its log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Waits until its log has a text.
    #[track_caller]
    pub fn logs(&self, text: &str) {
        eventually("the container logs", SOON, || {
            let log = if self.log.path.exists() { self.log.text() } else { String::new() };
            if log.contains(text) { Ok(()) } else { Err(format!("{text:?} is not in {log:?}")) }
        });
    }

    /// Runs a program in it to its end.
    pub fn try_exec(&self, argv: &[&str], timeout: i64) -> Result<v1::ExecSyncResponse, Status> {
        let cmd = argv.iter().map(|word| word.to_string()).collect();
        self.node.cri().exec_sync(v1::ExecSyncRequest { container_id: self.id.clone(), cmd, timeout })
    }

    /// Runs a shell line in it; standard output. Any other exit code than 0 is a panic.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        let answer = self.try_exec(&["sh", "-c", line], 30).expect("ExecSync");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(answer.exit_code, 0, "{line}: {}{}", text(&answer.stdout), text(&answer.stderr));
        text(&answer.stdout)
    }

    /// Stops it, with this many seconds of grace.
    pub fn try_stop(&self, grace: i64) -> Result<(), Status> {
        let request = v1::StopContainerRequest { container_id: self.id.clone(), timeout: grace };
        self.node.cri().stop_container(request).map(drop)
    }

    /// Stops it; a failure is a panic.
    #[track_caller]
    pub fn stop(&self, grace: i64) {
        self.try_stop(grace).expect("StopContainer");
    }

    /// Removes it.
    #[track_caller]
    pub fn remove(&self) {
        let request = v1::RemoveContainerRequest { container_id: self.id.clone() };
        self.node.cri().remove_container(request).expect("RemoveContainer");
    }
}
