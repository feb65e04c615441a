//! A node for the tests of this room: real kernel, stores and images; made-up network and shims.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use image::{ImageConfig, Images, ImportOptions, Overlay};
use model::{ContainerConfig, ContainerSecurity, ImageSpec, PodConfig, PodIdentity, PodSecurity, Resources};
use network::fake::{FakeHost, FakeNetwork, Faults};
use pod::{CgroupDriver, ContainerDefaults, OciHandler, Pods, PodsConfig, Rooms};
use shim_client::fake::FakeShims;
use tempfile::TempDir;

pub(crate) struct Node {
    dir: TempDir,
    /// What survives the service, and what this one has.
    network: Mutex<(FakeHost, Faults, Arc<FakeNetwork>)>,
    seed: u64,
    pub(crate) shims: FakeShims,
}

impl Node {
    /// `None`, and a line that says so, where the test cannot run.
    pub(crate) fn new(seed: u64) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            let must = std::env::var_os("GANTLINE_TESTS_MUST_RUN").is_some();
            assert!(!must, "this test must run: namespaces and mounts need root");
            println!("skipped: namespaces and mounts need root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (host, faults) = (FakeHost::default(), Faults::default());
        let network = Arc::new(FakeNetwork::new(host.clone(), seed, faults));
        let shims = FakeShims::new(seed);
        for name in ["root", "state", "netns"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        shims.set_root(dir.path().join("root"));
        let node = Self { dir, network: Mutex::new((host, faults, network)), seed, shims };
        node.import_image();
        Some(node)
    }

    pub(crate) fn runtime(&self) -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    /// The network of the service that was opened last.
    pub(crate) fn network(&self) -> Arc<FakeNetwork> {
        Arc::clone(&self.network.lock().unwrap().2)
    }

    /// From now on networks misbehave so, this one and those after it.
    pub(crate) fn set_network_faults(&self, faults: Faults) {
        let mut network = self.network.lock().unwrap();
        network.1 = faults;
        network.2.set_faults(faults);
    }

    /// Opens the pods and waits until those that were there are recovered.
    pub(crate) async fn open(&self) -> Pods {
        {
            let mut network = self.network.lock().unwrap();
            network.2 = Arc::new(FakeNetwork::new(network.0.clone(), self.seed, network.1));
        }
        let images = Images::open(ImageConfig::new(self.root())).unwrap();
        let rooms = Rooms {
            snapshots: Arc::new(Overlay::new(&images).unwrap()),
            images,
            network: self.network(),
            shims: Arc::new(self.shims.clone()),
            metrics: telemetry::Metrics::new(),
        };
        let pods = Pods::open(self.config(), rooms).unwrap();
        pods.recovered().await;
        pods
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn config(&self) -> PodsConfig {
        PodsConfig {
            root: self.root(),
            state: self.dir.path().join("state"),
            netns_dir: self.dir.path().join("netns"),
            handlers: [(
                "crun".to_owned(),
                OciHandler { binary: "/usr/bin/crun".into(), ..OciHandler::default() },
            )]
            .into(),
            default_handler: "crun".to_owned(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            cgroup_parent: self.cgroup_parent(),
            log_line_bytes_max: 16 * 1024,
            path_helper: None,
            defaults: ContainerDefaults {
                capabilities: Vec::new(),
                seccomp_when_unset: false,
                seccomp_profile: None,
                unprivileged_ports: true,
                unprivileged_icmp: true,
                rlimits: Vec::new(),
                absent_mount_sources_to_reject: Vec::new(),
                image_defined_volumes: true,
                pids_limit: None,
                device_ownership_from_security_context: false,
                cdi_spec_dirs: Vec::new(),
            },
        }
    }

    /// A parent of this node's own: tests run beside each other, and each removes its own at the end.
    fn cgroup_parent(&self) -> String {
        let dir = self.dir.path().file_name().unwrap();
        format!("/gantline-unit-{}", dir.to_str().unwrap().trim_start_matches('.'))
    }

    fn import_image(&self) {
        let archive = self.dir.path().join("image.tar");
        fs::write(&archive, docker_archive()).unwrap();
        let runtime = self.runtime();
        runtime.block_on(async {
            let images = Images::open(ImageConfig::new(self.root())).unwrap();
            images.import(&archive, ImportOptions::default()).await.unwrap();
        });
    }

    /// After a runtime was dropped: its blocking threads end what they were at, as a dying process's kernel
    /// calls do.
    pub(crate) fn wait_for_the_dead(&self) {
        let since = Instant::now();
        let wait = |what: &str, gone: &dyn Fn() -> bool| {
            while !gone() {
                assert!(since.elapsed() < Duration::from_secs(10), "the last service still holds its {what}");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        for (what, file) in [("store", "pod.redb"), ("images", "image/store.redb")] {
            wait(what, &|| store::Store::open(&self.root().join(file)).is_ok());
        }
        // A real shim has one thread: what the dead one sent is done before its successor is heard.
        wait("connections", &|| self.shims.connections() == 0);
    }

    /// The store of pods is gone, as after a disk was replaced.
    pub(crate) fn lose_records(&self) {
        fs::remove_file(self.root().join("pod.redb")).unwrap();
    }

    /// Whether a root file system of some container is mounted.
    pub(crate) fn rootfs_mounted(&self) -> bool {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = self.dir.path().join("state/containers");
        table.lines().any(|line| line.contains(ours.to_str().unwrap()))
    }

    /// Nothing of any pod is on the host.
    pub(crate) fn assert_empty(&self) {
        self.wait_for_the_dead();
        assert_eq!(self.network().taken(), [], "addresses");
        assert_eq!(self.network().owed(), [], "owed");
        let alive = self.shims.alive();
        let asked: Vec<_> = self.shims.asked().into_iter().filter(|(pod, _)| alive.contains(pod)).collect();
        assert_eq!(alive, [], "shims; what was asked of them: {asked:#?}");
        for below in ["state/pods", "state/containers", "netns", "root/containers", "root/exits"] {
            assert_eq!(entries(&self.dir.path().join(below)), Vec::<PathBuf>::new(), "{below}");
        }
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = self.dir.path().to_str().unwrap();
        let left: Vec<_> = table.lines().filter(|line| line.contains(ours)).collect();
        assert_eq!(left, Vec::<&str>::new(), "mounts");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A test that failed leaves what it found; the machine must not keep it.
        let _ = kernel::mount::unmount_below(self.dir.path());
        if let Ok(hierarchy) = kernel::cgroup::Hierarchy::detect() {
            let _ = hierarchy.group(self.cgroup_parent()).remove();
        }
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Waits until something is there.
pub(crate) async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "it never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn pod_config(name: &str, attempt: u32) -> PodConfig {
    PodConfig {
        identity: PodIdentity {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            attempt,
        },
        hostname: name.to_owned(),
        log_directory: None,
        dns: None,
        port_mappings: Vec::new(),
        labels: [("app".to_owned(), name.to_owned())].into(),
        annotations: Default::default(),
        cgroup_parent: String::new(),
        sysctls: Default::default(),
        overhead: None,
        resources: None,
        security: PodSecurity::default(),
        runtime_handler: String::new(),
    }
}

pub(crate) fn container_config(name: &str, attempt: u32) -> ContainerConfig {
    ContainerConfig {
        name: name.to_owned(),
        attempt,
        image: ImageSpec { image: "localhost/test:1".to_owned(), ..ImageSpec::default() },
        command: vec!["/bin/true".to_owned()],
        args: Vec::new(),
        working_dir: String::new(),
        envs: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        cdi_devices: Vec::new(),
        labels: Default::default(),
        annotations: Default::default(),
        log_path: PathBuf::new(),
        log_directory: None,
        stdin: false,
        stdin_once: false,
        tty: false,
        resources: Resources::default(),
        security: ContainerSecurity::default(),
        stop_signal: None,
    }
}

/// What `docker save` writes, of an image with one file.
fn docker_archive() -> Vec<u8> {
    let layer = tar(&[("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")]);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
    });
    let manifest = serde_json::json!([
        { "Config": "config.json", "RepoTags": ["localhost/test:1"], "Layers": ["layer.tar"] },
    ]);
    tar(&[
        ("manifest.json", manifest.to_string().as_bytes()),
        ("config.json", config.to_string().as_bytes()),
        ("layer.tar", &layer),
    ])
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, contents) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(contents.len() as u64);
        archive.append_data(&mut header, name, *contents).unwrap();
    }
    archive.into_inner().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
