//! containerd as a node of the same harness: what Gantline is measured against, on the same machine with the
//! same registry, CNI plugins and OCI runtime.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command::{command, run};
use crate::config::Config;
use crate::image::{Builder, Tree};
use crate::machine::Machine;
use crate::node::{Launch, Node};
use crate::programs::{Programs, installed, target_dir, tool};
use crate::registry::Registry;

/// Starts a node of containerd with `runc`; its pause image is a static program of a few lines, as the real
/// one is.
#[track_caller]
pub fn containerd(runc: &Path) -> Node {
    let machine = Machine::boot();
    let config = Config::new(&machine, "containerd");
    containerd_on(machine, config, runc)
}

/// As [`containerd`], on a machine with a configuration that the caller made.
#[track_caller]
pub fn containerd_on(machine: Machine, mut config: Config, runc: &Path) -> Node {
    config.socket = config.state.join("containerd.sock");
    config.runtimes = vec![("runc".into(), runc.into())];
    config.write(&machine);
    let file = machine.dir().join("containerd.toml");
    fs::write(&file, text(&config, runc)).expect("write containerd's configuration");
    let program = tool("containerd");
    let argv = [program.as_os_str(), "--config".as_ref(), file.as_os_str()];
    let argv = argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let path =
        format!("{}:{}", target_dir().join("tools").display(), std::env::var("PATH").unwrap_or_default());
    let node = Node::launch(machine, config, Launch { argv, env: vec![("PATH".into(), path)] });
    node.push(&pause(&node.machine.dir()), "pause:1");
    node
}

/// A node of containerd's, told in Gantline's words.
pub struct Migrated {
    /// What `gantline migrate` said.
    pub report: Value,
    /// The socket that Gantline then serves.
    pub socket: PathBuf,
    flags: Vec<String>,
}

impl Migrated {
    /// Runs `gantline migrate` on this node's own file.
    #[track_caller]
    pub fn of(node: &Node) -> Self {
        let dir = node.machine.dir();
        let (etc, state) = (dir.join("etc"), Path::new("/run/gantline-moved"));
        let mut migrate = node.machine.command(Programs::dev().gantline);
        migrate.args(["migrate", "containerd", "-o", "json", "--file"]).arg(dir.join("containerd.toml"));
        let report = run(migrate.arg("--write").arg(&etc)).ok();
        // What is the machine's and not the host's, as for every node here.
        let shim = Programs::dev().shim.canonicalize().expect("the shim");
        let cache = &node.config.cni_cache;
        fs::create_dir(etc.join("config.d")).expect("make a directory of drop-ins");
        fs::write(
            etc.join("config.d/harness.toml"),
            format!("[network]\ncache_dir = {cache:?}\n[pods]\nshim = {shim:?}\n"),
        )
        .expect("write a drop-in");
        let flags = [
            ("--config", etc.join("config.toml")),
            ("--root", dir.join("gantline/root")),
            ("--state", state.into()),
        ];
        Self {
            report: serde_json::from_str(&report).expect("the report of gantline migrate"),
            socket: state.join("gantline.sock"),
            flags: flags
                .into_iter()
                .flat_map(|(flag, path)| [flag.into(), path.display().to_string()])
                .collect(),
        }
    }

    /// How Gantline is started, or another of its commands, with what was written.
    pub fn command(&self, word: &str) -> Launch {
        let program = Programs::dev().gantline.display().to_string();
        let argv = [program, word.into()].into_iter().chain(self.flags.iter().cloned()).collect();
        Launch { argv, env: Vec::new() }
    }
}

fn text(config: &Config, runc: &Path) -> String {
    let bins: Vec<String> = config.cni_bins.iter().map(|dir| dir.display().to_string()).collect();
    format!(
        r#"version = 3
root = {:?}
state = {:?}
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = {:?}
[ttrpc]
address = {:?}
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = {:?}
[plugins."io.containerd.cri.v1.images".registry]
config_path = {:?}
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = {bins:?}
conf_dir = {:?}
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = {:?}
"#,
        config.root,
        config.state,
        config.socket,
        config.state.join("ttrpc.sock"),
        Registry::reference("pause:1"),
        config.certs,
        config.cni_conf,
        runc,
    )
}

fn pause(dir: &Path) -> crate::image::Image {
    let source = dir.join("pause.c");
    fs::write(&source, "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n").expect("write pause.c");
    let program = dir.join("pause");
    run(command(installed("gcc")).args(["-static", "-Os", "-s", "-o"]).arg(&program).arg(&source)).ok();
    let content = fs::read(program).expect("read pause");
    let config = serde_json::json!({"Entrypoint": ["/pause"]});
    Builder::default().config(config).layer(Tree::default().file("pause", 0o755, &content)).build()
}
