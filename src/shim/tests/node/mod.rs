//! A machine for the tests: a directory of its own, the real shim, a real OCI runtime, busybox.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a part of the tests")]

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use model::{ContainerId, ExecId, PodId};
use serde_json::{Value, json};
use shim_client::{ExecFds, ExecProcess, LocalShims, NativeExec, Shim, ShimSpec, Shims};
use tempfile::TempDir;
use wire::{ContainerState, ExitRecord, LogTarget, OciRuntime, Phase, RunContainer, StdioSpec};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Kernel-touching tests need root and crun; says why it skips, which is a failure where all tests must run.
pub fn able() -> bool {
    let root = rustix::process::geteuid().is_root();
    let crun = Path::new("/usr/bin/crun").exists() && Path::new("/usr/bin/busybox").exists();
    if !(root && crun) {
        let why = format!("root (is {root}) and Debian's crun and busybox (are {crun}) are needed");
        assert!(std::env::var_os("GANTLINE_TESTS_MUST_RUN").is_none(), "this test must run: {why}");
        eprintln!("skipped: {why}");
    }
    root && crun
}

/// Writes a program, by another process: what this one has open for writing a child of another test may hold until it
/// executes, and it could not be executed (ETXTBSY).
pub fn program(path: &Path, script: &str) {
    let mut shell = kernel::process::command("/bin/sh");
    shell.args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", script]).arg(path);
    assert!(shell.status().unwrap().success());
}

/// Copies a program, by another process too.
pub fn copy(program: &str, to: &Path) {
    let copied = kernel::process::command("/bin/cp").args(["-L", program]).arg(to).status();
    assert!(copied.unwrap().success(), "copy {program}");
}

const CAPABILITIES: [&str; 3] = ["CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE"];

pub struct Node {
    pub dir: TempDir,
    pub shims: LocalShims,
    pub pod: PodId,
    pub runtime: OciRuntime,
    /// Execs by the shim itself, not by the runtime.
    pub native: bool,
    group: String,
    made: Mutex<Vec<(ContainerId, u32)>>,
}

/// What a container is to be; `Default` with a command is enough.
#[derive(Clone, Default)]
pub struct Want {
    pub command: Vec<String>,
    pub stdio: StdioSpec,
    pub memory_limit: Option<u64>,
    pub no_log: bool,
    pub log: Option<PathBuf>,
    pub share_pid_of: Option<u32>,
    /// In a user namespace of its own, root being 100000 on the host.
    pub user_namespace: bool,
    pub deadline: Option<Duration>,
}

pub fn sh(script: &str) -> Want {
    Want { command: vec!["sh".into(), "-c".into(), script.into()], ..Want::default() }
}

fn fresh() -> [u8; 32] {
    kernel::random::id_bytes().unwrap()
}

pub fn pod_id() -> PodId {
    PodId::from_bytes(fresh())
}

impl Node {
    pub fn new() -> Self {
        // crun refuses a hybrid layout in which a v1 hierarchy is missing (docs: traps).
        let hugetlb = Path::new("/sys/fs/cgroup/hugetlb");
        if Path::new("/sys/fs/cgroup/memory").exists() && !hugetlb.exists() {
            fs::create_dir_all(hugetlb).unwrap();
            let mount = kernel::process::command("/bin/mount")
                .args(["-t", "cgroup", "-o", "hugetlb", "hugetlb", "/sys/fs/cgroup/hugetlb"])
                .status();
            assert!(mount.unwrap().success());
        }
        let dir = TempDir::with_prefix("gantline-shim-").unwrap();
        let group = format!("gantline-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let binary =
            std::env::var_os("GANTLINE_SHIM").unwrap_or_else(|| env!("CARGO_BIN_EXE_gantline-shim").into());
        let shims = LocalShims::new(binary.into(), dir.path().join("run"), dir.path().join("lib"));
        let runtime = OciRuntime {
            binary: "/usr/bin/crun".into(),
            root: dir.path().join("runtimes"),
            ..OciRuntime::default()
        };
        let node = Self {
            dir,
            shims,
            pod: PodId::from_bytes(fresh()),
            runtime,
            native: true,
            group,
            made: Mutex::default(),
        };
        node.unpack_busybox();
        node
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Whether the OCI runtime knows a container.
    pub fn is_known(&self, id: &ContainerId) -> bool {
        self.runtime.root.join(id.as_str()).exists()
    }

    fn unpack_busybox(&self) {
        let root = self.path().join("rootfs");
        for dir in ["bin", "lib64", "lib/x86_64-linux-gnu", "proc", "dev", "sys", "tmp"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for file in [
            "/lib/x86_64-linux-gnu/libresolv.so.2",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ] {
            copy(file, &root.join(&file[1..]));
        }
        copy("/usr/bin/busybox", &root.join("bin/busybox"));
        for applet in [
            "sh", "sleep", "echo", "cat", "true", "setsid", "dd", "seq", "kill", "tty", "stty", "usleep",
            "yes", "head", "ls", "readlink", "grep", "ps", "cut",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
    }

    pub async fn shim(&self) -> Shim {
        self.shims
            .start(&ShimSpec { pod: self.pod.clone(), shared_pid: false, user_namespace: None })
            .await
            .unwrap()
    }

    /// A shim whose parent's parent ignored signals, as a shell does for what it starts in the background.
    pub async fn shim_of_a_careless_shell(&self) -> Shim {
        let dir = self.path().join("run/pods").join(&self.pod);
        fs::create_dir_all(&dir).unwrap();
        let mut command = kernel::process::command("/usr/bin/env");
        command.args(["--ignore-signal=QUIT,CHLD,USR1", env!("CARGO_BIN_EXE_gantline-shim"), "run"]);
        command.args(["--pod", self.pod.as_str()]).arg("--dir").arg(dir);
        command.arg("--exits").arg(self.path().join("lib/exits").join(&self.pod));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        self.shims.connect(&self.pod).await.unwrap()
    }

    pub fn log(&self, container: &ContainerId) -> PathBuf {
        self.path().join(format!("{}.log", container.short()))
    }

    pub fn memory_cgroup(&self, container: &ContainerId) -> PathBuf {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let base = if v1.exists() { v1 } else { Path::new("/sys/fs/cgroup") };
        base.join(&self.group).join(container.short())
    }

    /// Makes a bundle; the request that runs it.
    pub fn bundle(&self, want: &Want) -> RunContainer {
        let container = ContainerId::from_bytes(fresh());
        let bundle = self.path().join("bundles").join(&container);
        fs::create_dir_all(&bundle).unwrap();
        let pid = want.share_pid_of.map_or(
            json!({"type": "pid"}),
            |pid| json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}),
        );
        let config = json!({
            "ociVersion": "1.0.0",
            "process": self.process(&want.command, want.stdio.tty),
            "root": {"path": self.path().join("rootfs"), "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            ],
            "linux": {
                "cgroupsPath": format!("/{}/{}", self.group, container.short()),
                "resources": {"memory": want.memory_limit.map_or(json!({}), |limit| json!({"limit": limit}))},
                "namespaces": [pid, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            },
        });
        let mut config = config;
        if want.user_namespace {
            // Its root must come through to the root file system.
            fs::set_permissions(self.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            config["linux"]["uidMappings"] = mapping.clone();
            config["linux"]["gidMappings"] = mapping;
        }
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let path = want.log.clone().unwrap_or_else(|| self.log(&container));
        RunContainer {
            runtime: self.runtime.clone(),
            stdio: want.stdio,
            log: (!want.no_log).then_some(LogTarget { path, line_bytes_max: 16384 }),
            memory_cgroup: Some(self.memory_cgroup(&container)),
            deadline_ms: want.deadline.unwrap_or(Duration::from_secs(30)).as_millis().try_into().unwrap(),
            restore: None,
            container,
            bundle,
        }
    }

    pub fn process(&self, command: &[String], tty: bool) -> Value {
        json!({
            "terminal": tty, "user": {"uid": 0, "gid": 0}, "args": command, "cwd": "/",
            "env": ["PATH=/bin", "TERM=xterm"],
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
        })
    }

    pub async fn run(&self, shim: &Shim, want: &Want) -> ContainerId {
        let bundle = self.bundle(want);
        let id = bundle.container.clone();
        self.made.lock().unwrap().push((id.clone(), shim.pid()));
        shim.run(bundle).await.map_err(|e| model::chain(&e)).unwrap();
        id
    }

    pub fn shims_log(&self) -> PathBuf {
        self.path().join("run/pods").join(&self.pod).join("shim.log")
    }

    pub fn native(&self) -> Option<NativeExec> {
        self.native.then(NativeExec::default)
    }

    /// Starts an exec whose output is read here.
    pub async fn exec(
        &self,
        shim: &Shim,
        container: &ContainerId,
        script: &str,
        timeout: Option<Duration>,
    ) -> Execed {
        let (stdout, theirs) = std::io::pipe().unwrap();
        let exec = ExecId::from_bytes(fresh());
        let command = ["sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let process = ExecProcess {
            exec: exec.clone(),
            container: container.clone(),
            process: self.process(&command, false),
            tty: false,
            timeout,
            native: self.native(),
        };
        let fds = ExecFds { stdout: Some(theirs.into()), ..ExecFds::default() };
        let started = shim.exec(process, fds).await.map_err(|e| model::chain(&e)).unwrap();
        Execed { exec, pid: started.pid, stdout: stdout.into() }
    }
}

pub struct Execed {
    pub exec: ExecId,
    pub pid: u32,
    pub stdout: OwnedFd,
}

/// Waits until the container has exited; fails after ten seconds.
pub async fn exit(shim: &Shim, container: &ContainerId) -> ExitRecord {
    within(Duration::from_secs(10), "an exit", || async {
        let states = shim.state().await.unwrap();
        match states.into_iter().find(|state| state.container == *container) {
            Some(ContainerState { phase: Phase::Exited(record), .. }) => Some(record),
            _ => None,
        }
    })
    .await
}

/// Asks until there is an answer.
pub async fn within<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < until, "no {what} after {limit:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The records of a log: stream, tag, text.
pub fn records(path: &Path) -> Vec<(String, String, String)> {
    let text = String::from_utf8(fs::read(path).unwrap()).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "a torn record in {path:?}");
    // Not `lines`: a terminal's carriage returns stay.
    text.split_terminator('\n')
        .map(|line| {
            let mut fields = line.splitn(4, ' ');
            let time = fields.next().unwrap();
            assert!(time.len() == 30 && time.ends_with('Z'), "{line}");
            let mut next = || fields.next().unwrap().to_owned();
            (next(), next(), next())
        })
        .collect()
}

pub fn texts(path: &Path) -> Vec<String> {
    records(path).into_iter().map(|(_, _, text)| text).collect()
}

impl Drop for Node {
    fn drop(&mut self) {
        for (id, _) in std::mem::take(self.made.get_mut().unwrap()) {
            let _ = kernel::process::command(&self.runtime.binary)
                .arg("--root")
                .arg(self.path().join("runtimes"))
                .args(["delete", "--force", id.as_str()])
                .output();
        }
        // Whatever process was started with this node's directory on its command line is its shim.
        let own = format!("{}/", self.path().display());
        for process in kernel::process::table().unwrap_or_default() {
            let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains("gantline-shim") && line.contains(&own) {
                let _ = kernel::pidfd::signal(process.pid, kernel::pidfd::SIGKILL);
            }
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let group = hierarchy.path().join(&self.group);
            for child in fs::read_dir(&group).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(child.path());
            }
            let _ = fs::remove_dir(group);
        }
        let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(&self.group));
    }
}

/// Reads to the end on a thread of its own, as the service's streaming server would.
pub async fn read_all(fd: OwnedFd) -> String {
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        // A terminal ends with an error.
        let _ = File::from(fd).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("the stream ends").unwrap()
}
