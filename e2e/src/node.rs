//! A node under test: a machine, a registry on it, and the service, which tests may kill and start again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::v1;
use rustix::process::{Pid, Signal, kill_process};

use crate::command::{Said, run};
use crate::config::Config;
use crate::cri::{Cri, image_spec};
use crate::image::{self, Image};
use crate::leftovers;
use crate::machine::Machine;
use crate::peer;
use crate::pod::{Container, Pod, PodBuilder};
use crate::programs::{Programs, tool};
use crate::registry::Registry;
use crate::wait::{eventually, patient};

/// The service is ready within this time of its start.
const READY: Duration = Duration::from_secs(90);

/// One call of crictl ends within this time.
const CRICTL_MAX: Duration = Duration::from_secs(60);

/// What is owed after a removal is done within this time.
const SETTLED: Duration = Duration::from_secs(60);

/// How a node's service is started, each time anew.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Program and arguments, run inside the machine.
    pub argv: Vec<String>,
    /// Environment beside the harness's own.
    pub env: Vec<(String, String)>,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    // In this order they go: the service, the registry, the machine with all that is left.
    service: Mutex<Option<Child>>,
    /// Its registry; the busybox image is there as `busybox:1`.
    pub registry: Registry,
    launch: Launch,
    /// Its places and files.
    pub config: Config,
    cri: Cri,
    mounts_before: Vec<String>,
    /// The machine it is on.
    pub machine: Machine,
}

/// A node to be started: change what the test is about, then [`start`](Self::start).
pub struct NodeBuilder {
    /// None: containerd in Gantline's place.
    programs: Option<Programs>,
    /// The machine it will be on.
    pub machine: Machine,
    /// Its places and files.
    pub config: Config,
}

impl NodeBuilder {
    /// A change of the configuration.
    pub fn with(mut self, change: impl FnOnce(&mut Config, &Machine)) -> Self {
        change(&mut self.config, &self.machine);
        self
    }

    /// Starts registry and service and waits until both answer.
    #[track_caller]
    pub fn start(self) -> Node {
        let node = self.prepare();
        if !node.service_runs() {
            node.start_service();
        }
        node
    }

    /// Starts the registry only; the service is for the caller to start.
    #[track_caller]
    pub fn prepare(self) -> Node {
        let Self { programs, machine, config } = self;
        let Some(programs) = programs else {
            return peer::containerd_on(machine, config, &tool("runc"));
        };
        config.write(&machine);
        let file = machine.dir().join("config.toml");
        fs::write(&file, config.text(&programs)).expect("write the service's configuration");
        let argv = [programs.gantline.as_os_str(), "serve".as_ref(), "--config".as_ref(), file.as_os_str()];
        let argv = argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        Node::prepare(machine, config, Launch { argv, env: Vec::new() })
    }
}

impl Node {
    /// A node like any other.
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A node that the test wants different.
    #[track_caller]
    pub fn builder() -> NodeBuilder {
        Self::builder_with(Programs::dev)
    }

    /// As [`builder`](Self::builder), with the programs of another build. With `GANTLINE_E2E_PEER=containerd` in
    /// the environment it is a node of containerd: what fails there too is likely the test's fault.
    #[track_caller]
    pub fn builder_with(programs: impl FnOnce() -> Programs) -> NodeBuilder {
        let machine = Machine::boot();
        let config = Config::new(&machine, "gantline");
        let programs = std::env::var_os("GANTLINE_E2E_PEER").is_none().then(programs);
        NodeBuilder { programs, machine, config }
    }

    /// A node of any CRI service, which runs.
    #[track_caller]
    pub fn launch(machine: Machine, config: Config, launch: Launch) -> Self {
        let node = Self::prepare(machine, config, launch);
        node.start_service();
        node
    }

    /// A node of any CRI service, which is yet to be started.
    #[track_caller]
    pub fn prepare(machine: Machine, config: Config, launch: Launch) -> Self {
        let registry = Registry::start(&machine);
        registry.push(&machine, image::busybox(), "busybox:1");
        let cri = Cri::new(machine.path(&config.socket));
        let mounts_before = leftovers::mounts(&machine);
        Self { service: Mutex::new(None), registry, launch, config, cri, mounts_before, machine }
    }

    /// A variable of the environment that the service is started with from now on.
    pub fn env(&mut self, name: &str, value: &str) {
        self.launch.env.push((name.to_owned(), value.to_owned()));
    }

    /// A program that starts the service from now on, with its first arguments.
    pub fn started_by(&mut self, words: &[&str]) {
        self.launch.argv.splice(..0, words.iter().map(|word| (*word).to_owned()));
    }

    /// Another service in the place of the one that has ended, to be started: it serves `socket`. Returns how that one was.
    #[track_caller]
    pub fn becomes(&mut self, launch: Launch, socket: &Path) -> Launch {
        assert!(self.service().is_none(), "the service runs still");
        self.config.socket = socket.into();
        self.cri = Cri::new(self.machine.path(socket));
        std::mem::replace(&mut self.launch, launch)
    }

    fn service(&self) -> MutexGuard<'_, Option<Child>> {
        // A test that panicked is on its way out; what it held is whole all the same.
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the service without waiting for it.
    #[track_caller]
    pub fn spawn_service(&self) {
        let mut service = self.service();
        assert!(service.is_none(), "the service runs already");
        let log =
            File::options().create(true).append(true).open(self.log_path()).expect("open the service's log");
        let (program, args) = self.launch.argv.split_first().expect("a program");
        let mut command = self.machine.command(program);
        command.args(args).envs(self.launch.env.iter().cloned());
        command.stdout(log.try_clone().expect("share the log")).stderr(log);
        *service = Some(command.spawn().expect("start the service"));
    }

    /// Starts the service and waits until it says that its runtime is ready: recovery is done.
    #[track_caller]
    pub fn start_service(&self) {
        self.spawn_service();
        let start = Instant::now();
        while let Err(complaint) = self.runtime_ready() {
            let ended = self.service().as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || start.elapsed() > patient(READY) {
                panic!("the service did not come up ({ended:?}, {complaint}):\n{}", self.log_tail(40));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether Status says RuntimeReady; else what it says.
    pub fn runtime_ready(&self) -> Result<(), String> {
        let status = self.cri.status(v1::StatusRequest::default()).map_err(|status| status.to_string())?;
        let conditions = status.status.unwrap_or_default().conditions;
        let ready = conditions.iter().any(|condition| condition.r#type == "RuntimeReady" && condition.status);
        if ready { Ok(()) } else { Err(format!("{conditions:?}")) }
    }

    /// The service's pid, while it runs.
    pub fn service_pid(&self) -> Option<u32> {
        self.service().as_ref().map(Child::id)
    }

    /// How many files the service has open, but for those of cgroups: of these its sampler opens some for each container
    /// whenever its turn comes, and keeps them (ADR 115).
    pub fn descriptors(&self) -> usize {
        let pid = self.service_pid().expect("the service runs");
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a directory of /proc").flatten();
        let files = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        files.filter(|file| !file.starts_with("/sys/fs/cgroup")).count()
    }

    /// Waits until the service has no more files open than `before`.
    #[track_caller]
    pub fn leaks_no_descriptor(&self, before: usize) {
        eventually("the service's descriptors are closed", SETTLED, || {
            let now = self.descriptors();
            // A connection of the tests' own CRI client may come or go.
            if now <= before + 1 { Ok(()) } else { Err(format!("{before} before, {now} now")) }
        });
    }

    /// Whether the service's process has not ended.
    pub fn service_runs(&self) -> bool {
        self.service().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Kills the service without a warning.
    #[track_caller]
    pub fn kill9(&self) {
        self.end_service(Signal::KILL);
    }

    /// Asks the service to end and waits until it has; returns its exit code.
    #[track_caller]
    pub fn terminate(&self) -> Option<i32> {
        self.end_service(Signal::TERM)
    }

    #[track_caller]
    fn end_service(&self, signal: Signal) -> Option<i32> {
        let mut child = self.service().take().expect("the service runs");
        kill_process(Pid::from_child(&child), signal).expect("signal the service");
        child.wait().expect("wait for the service").code()
    }

    /// Kills the service and starts it again.
    #[track_caller]
    pub fn restart(&self) {
        self.kill9();
        self.start_service();
    }

    /// The CRI client.
    pub fn cri(&self) -> &Cri {
        &self.cri
    }

    /// A command inside the machine that runs `crictl` against the service.
    pub fn crictl_command(&self, args: &[&str]) -> Command {
        let mut command = self.machine.command(tool("crictl"));
        let endpoint = format!("unix://{}", self.config.socket.display());
        let timeout = format!("{}s", patient(CRICTL_MAX).as_secs());
        command.args(["--config", "/dev/null", "--timeout", &timeout]);
        command.args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint]).args(args);
        command
    }

    /// Runs `crictl` against the service.
    #[track_caller]
    pub fn crictl(&self, args: &[&str]) -> Said {
        run(&mut self.crictl_command(args))
    }

    /// The service's own program inside the machine, as `gantline pull …`.
    pub fn gantline_command(&self, args: &[&str]) -> Command {
        let mut command = self.machine.command(&self.launch.argv[0]);
        // `gantline serve --config FILE`, or `containerd --config FILE`.
        let file = self.launch.argv.iter().skip_while(|word| *word != "--config").nth(1);
        command.args(args).args(file.iter().flat_map(|file| ["--config", file.as_str()]));
        command
    }

    /// Runs the service's own program to its end.
    #[track_caller]
    pub fn gantline(&self, args: &[&str]) -> Said {
        run(&mut self.gantline_command(args))
    }

    /// The per-pod processes of this machine: shims, and what else `named` says.
    pub fn processes(&self, named: impl Fn(&str) -> bool) -> Vec<leftovers::Process> {
        let spared = leftovers::own_children();
        let all = leftovers::processes(self.machine.number, &spared);
        all.into_iter().filter(|process| named(&process.command)).collect()
    }

    /// The reference of the busybox image.
    pub fn busybox(&self) -> String {
        Registry::reference("busybox:1")
    }

    /// Pushes an image to the node's registry; the reference to pull it by.
    #[track_caller]
    pub fn push(&self, image: &Image, name: &str) -> String {
        self.registry.push(&self.machine, image, name);
        Registry::reference(name)
    }

    /// Pulls an image and returns its id.
    #[track_caller]
    pub fn pull(&self, reference: &str) -> String {
        self.try_pull(reference).expect("pull").image_ref
    }

    /// Pulls an image.
    pub fn try_pull(&self, reference: &str) -> Result<v1::PullImageResponse, tonic::Status> {
        self.cri.pull_image(v1::PullImageRequest { image: Some(image_spec(reference)), ..Default::default() })
    }

    /// The image of that name, if the node has it.
    #[track_caller]
    pub fn image(&self, reference: &str) -> Option<v1::Image> {
        let request = v1::ImageStatusRequest { image: Some(image_spec(reference)), ..Default::default() };
        self.cri.image_status(request).expect("ImageStatus").image
    }

    /// Removes an image.
    #[track_caller]
    pub fn remove_image(&self, reference: &str) {
        self.cri
            .remove_image(v1::RemoveImageRequest { image: Some(image_spec(reference)) })
            .expect("RemoveImage");
    }

    /// A pod to be run.
    pub fn pod(&self, name: &str) -> PodBuilder<'_> {
        PodBuilder::new(self, name)
    }

    /// A pod whose one container, `main`, waits to be told something to do.
    #[track_caller]
    pub fn busy(&self) -> (Pod<'_>, Container<'_>) {
        let pod = self.pod("busy").run();
        let container = pod.container("main").idle().start();
        (pod, container)
    }

    /// Ids of all pods.
    #[track_caller]
    pub fn pods(&self) -> Vec<v1::PodSandbox> {
        self.cri.list_pod_sandbox(Default::default()).expect("ListPodSandbox").items
    }

    /// All containers.
    #[track_caller]
    pub fn containers(&self) -> Vec<v1::Container> {
        self.cri.list_containers(Default::default()).expect("ListContainers").containers
    }

    /// Stops and removes every pod.
    #[track_caller]
    pub fn remove_all_pods(&self) {
        for pod in self.pods() {
            self.cri
                .stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() })
                .expect("stop a pod");
            self.cri
                .remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: pod.id })
                .expect("remove a pod");
        }
    }

    /// Everything on the machine that pods needed and nobody needs now, in words.
    pub fn leftovers(&self) -> Vec<String> {
        let machine = &self.machine;
        let mut spared = leftovers::own_children();
        spared.extend(self.service_pid());
        let mut left = Vec::new();
        let mut add = |kind: &str, things: Vec<String>| {
            left.extend(things.iter().map(|thing| format!("{kind} {thing}")))
        };
        let named = |processes: Vec<leftovers::Process>| {
            processes.iter().map(|process| format!("{} {}", process.pid, process.command)).collect()
        };
        add("process", named(leftovers::processes(machine.number, &spared)));
        add("zombie", self.service_pid().map(|pid| named(leftovers::zombies_of(pid))).unwrap_or_default());
        // One by one, so that a mount upon a mount counts.
        let mut mounts = leftovers::mounts(machine);
        for before in &self.mounts_before {
            if let Some(at) = mounts.iter().position(|mount| mount == before) {
                mounts.remove(at);
            }
        }
        add("mount", mounts);
        let groups = leftovers::cgroups(machine.number, machine.holder(), false);
        add("cgroup", groups.iter().map(|group| group.display().to_string()).collect());
        add("link", leftovers::links(machine));
        add("rule", leftovers::rules(machine));
        add("address", leftovers::reservations(&self.config.reservations));
        add("CNI result", leftovers::entries(&self.config.cni_cache.join("results"), &[]));
        add("netns", leftovers::entries(&machine.path(&self.config.netns), &[]));
        for dir in ["pods", "containers"] {
            add("state", leftovers::entries(&machine.path(&self.config.state).join(dir), &[]));
        }
        for dir in ["containers", "exits", "image/ingest"] {
            add("directory", leftovers::entries(&self.config.root.join(dir), &[]));
        }
        left
    }

    /// Asserts that nothing of any pod is left; what the kernel or the service still owes has a moment to go.
    #[track_caller]
    pub fn leaves_nothing(&self) {
        eventually("nothing is left", SETTLED, || {
            let left = self.leftovers();
            if left.is_empty() { Ok(()) } else { Err(format!("\n  {}", left.join("\n  "))) }
        });
    }

    /// Where the service's log is.
    pub fn log_path(&self) -> PathBuf {
        self.machine.dir().join("service.log")
    }

    /// The service's log so far.
    pub fn service_log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The service's last words.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.service_log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Node {
    #[allow(clippy::print_stderr)]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- the service's last words (node {}):\n{}\n---",
                self.machine.number,
                self.log_tail(60)
            );
        }
        if let Some(mut child) = self.service().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
