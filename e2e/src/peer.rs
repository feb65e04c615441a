//! containerd as a node of the same harness: what Gantline is measured against, on the same machine with the
//! same registry, CNI plugins and OCI runtime.

use std::fs;
use std::path::Path;

use crate::command::{command, run};
use crate::config::Config;
use crate::image::{Builder, Tree};
use crate::machine::Machine;
use crate::node::{Launch, Node};
use crate::programs::{installed, target_dir, tool};
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
