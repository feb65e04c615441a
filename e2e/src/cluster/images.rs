//! The images of the cluster: the programs that `e2e/tools/build.sh cluster` builds, each in an image of the name that
//! it has in the world.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::command::{command, run};
use crate::image::{Builder, Image, Tree, busybox_builder};
use crate::machine::Machine;
use crate::node::Node;
use crate::programs::{installed, tool};
use crate::registry::Registry;

/// Kubernetes's version, as its images' tag.
pub const KUBERNETES: &str = "v1.37.1";
/// The tag of etcd's image.
const ETCD: &str = "3.6.5-0";
/// The tag of CoreDNS's image.
const COREDNS: &str = "v1.15.0";

/// Where the images are said to come from; the node asks its own registry instead.
pub const HOME: &str = "registry.k8s.io";

/// The programs that run as pods: those of the control plane, of the addons, and Kubernetes's own test program.
pub const PROGRAMS: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "coredns",
    "kube-proxy",
    "agnhost",
];

/// The image of a program, by the name that manifests use.
pub fn name_of(program: &str) -> String {
    format!("{HOME}/{}", short_name(program))
}

fn short_name(program: &str) -> String {
    match program {
        "etcd" => format!("etcd:{ETCD}"),
        "coredns" => format!("coredns/coredns:{COREDNS}"),
        "agnhost" => "e2e-test-images/agnhost:2.59".into(),
        other => format!("{other}:{KUBERNETES}"),
    }
}

/// Builds and pushes them all, some at a time.
#[track_caller]
pub fn push_all(node: &Node) {
    std::thread::scope(|scope| {
        for half in PROGRAMS.chunks(PROGRAMS.len().div_ceil(2)) {
            scope.spawn(move || {
                for program in half {
                    node.registry.push(&node.machine, &image(program), &short_name(program));
                }
            });
        }
    });
}

/// Builds and pushes the images that `kubeadm` names, under the tags that it names them by; other tags than ours say
/// nothing of what is in them. Returns the names.
///
/// # Errors
/// `kubeadm` failed, or names an image that is not known here.
pub fn push_kubeadms(machine: &Machine, registry: &Registry) -> crate::Result<Vec<String>> {
    let mut asked = command(tool("kubeadm"));
    asked.args(["config", "images", "list", "--kubernetes-version", KUBERNETES]);
    let names: Vec<String> = run(&mut asked).ok().lines().map(str::to_owned).collect();
    for name in &names {
        let short = name.strip_prefix(HOME).map(|rest| rest.trim_start_matches('/'));
        let short = short.ok_or_else(|| format!("{name} is not of {HOME}"))?;
        let program = short.split(':').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        let image = match program {
            // Pulled, as kubeadm wants, and never run here.
            "pause" => Builder::default().plain_layer(Tree::default().dir("pause", 0o755)).build(),
            // kubeadm's DaemonSet runs it from where the official image has it.
            "kube-proxy" => {
                let place = Tree::default()
                    .dir("usr", 0o755)
                    .dir("usr/local", 0o755)
                    .dir("usr/local/bin", 0o755)
                    .symlink("usr/local/bin/kube-proxy", "/usr/bin/kube-proxy");
                Builder::default()
                    .layer(packet_filter())
                    .plain_layer(program_tree(program))
                    .layer(place)
                    .build()
            }
            _ => image(program),
        };
        registry.push(machine, &image, short);
    }
    Ok(names)
}

fn program_tree(program: &str) -> Tree {
    // Uncompressed: these never leave the machine.
    Tree::default().dir("usr", 0o755).dir("usr/bin", 0o755).file(
        &format!("usr/bin/{program}"),
        0o755,
        &read(&tool(program)),
    )
}

fn image(program: &str) -> Image {
    let tree = program_tree(program);
    let entrypoint =
        json!({"Entrypoint": [format!("/usr/bin/{program}")], "Env": ["PATH=/usr/bin:/usr/sbin:/bin"]});
    match program {
        "kube-proxy" => {
            Builder::default().config(entrypoint).layer(packet_filter()).plain_layer(tree).build()
        }
        "agnhost" => busybox_builder().config(entrypoint).plain_layer(tree).build(),
        _ => Builder::default().config(entrypoint).plain_layer(tree).build(),
    }
}

/// `nft` with its libraries, all that kube-proxy runs.
fn packet_filter() -> Tree {
    let program = installed("nft");
    let tree = Tree::default().dir("usr", 0o755).dir("usr/sbin", 0o755).dir("tmp", 0o1777);
    let tree = tree.file("usr/sbin/nft", 0o755, &read(&program));
    let libraries = crate::image::libraries_of(&program, None);
    libraries.into_iter().fold(tree, |tree, (inside, host)| tree.file(&inside, 0o755, &read(&host)))
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}
