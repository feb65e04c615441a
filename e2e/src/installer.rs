//! The installer of charts/gantline as its pods have it: an image of Debian's programs and ours, and a directory that can
//! pass for the root of a node.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::command::{command, run};
use crate::image::{Builder, Image, Tree, busybox_builder, libraries_of};
use crate::programs::{Programs, installed};

/// `charts/gantline` of this tree.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/gantline")
}

/// The script that the installer's pods run.
pub fn script() -> PathBuf {
    chart().join("installer/gantline-node")
}

/// The node's `systemctl` in [`node_root`]: what it is told is written down in `/systemctl.log`, and it fails while there is
/// a file `/systemctl.fails`.
const SYSTEMCTL: &str = "#!/bin/sh\necho \"$@\" >>/systemctl.log\ntest ! -e /systemctl.fails\n";

/// `gantline` as people get it, without what a debugger reads.
#[track_caller]
pub fn stripped(programs: &Programs, into: &Path) -> Vec<u8> {
    let program = into.join("gantline.stripped");
    run(command(installed("strip")).arg("-o").arg(&program).arg(&programs.gantline)).ok();
    let content = fs::read(&program).expect("read the stripped gantline");
    fs::remove_file(&program).expect("remove the stripped gantline");
    content
}

/// What the image has in /opt/gantline: the programs and their unit. `mark` is appended to the binary, so that two builds
/// of it differ.
#[track_caller]
pub fn programs(programs: &Programs, into: &Path, mark: &str) -> [(&'static str, Vec<u8>); 3] {
    let mut gantline = stripped(programs, into);
    gantline.extend_from_slice(mark.as_bytes());
    let unit = chart().join("../../docs/gantline.service");
    [
        ("gantline", gantline),
        ("gantline-shim", fs::read(&programs.shim).expect("read the shim")),
        ("gantline.service", fs::read(unit).expect("read the unit")),
    ]
}

/// The image, as charts/gantline/installer/Dockerfile makes it, on busybox.
#[track_caller]
pub fn image(files: &[(&str, Vec<u8>)]) -> Image {
    let mut tools = Tree::default().dir("usr", 0o755).dir("usr/bin", 0o755);
    for name in ["curl", "flock"] {
        let program = installed(name);
        tools = tools.file(&format!("usr/bin/{name}"), 0o755, &read(&program));
        for (inside, host) in libraries_of(&program, None) {
            tools = tools.file(&inside, 0o755, &read(&host));
        }
    }
    let script = Tree::default().file("usr/bin/gantline-node", 0o755, &read(&script())).dir("host", 0o755);
    let mut ours = Tree::default().dir("opt", 0o755).dir("opt/gantline", 0o755);
    for (name, content) in files {
        ours = ours.file(&format!("opt/gantline/{name}"), 0o755, content);
    }
    let config =
        json!({"Entrypoint": ["/usr/bin/gantline-node"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]});
    let base: Builder = busybox_builder().plain_layer(tools).plain_layer(ours).plain_layer(script);
    base.config(config).build()
}

/// Makes a directory pass for a node's root: a shell, `systemctl`, and the libraries that `gantline` wants of a node.
#[track_caller]
pub fn node_root(root: &Path, programs: &Programs) {
    for dir in ["bin", "usr/bin", "etc", "var/lib", "run", "tmp"] {
        fs::create_dir_all(root.join(dir)).expect("make a directory of a node's root");
    }
    let busybox = installed("busybox");
    let libraries = libraries_of(&busybox, None).into_iter().chain(libraries_of(&programs.gantline, None));
    for (inside, host) in libraries.chain([("bin/sh".into(), busybox.clone())]) {
        let place = root.join(inside);
        fs::create_dir_all(place.parent().unwrap_or(root)).expect("make a directory of libraries");
        fs::copy(&host, &place).unwrap_or_else(|error| panic!("copy {}: {error}", host.display()));
    }
    let systemctl = root.join("usr/bin/systemctl");
    fs::write(&systemctl, SYSTEMCTL).expect("write systemctl");
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).expect("make systemctl executable");
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}
