//! Stand-ins for the images that critest pulls: the same names, users, programs and answers, built of Debian's
//! busybox, procps, util-linux, nginx and apache2 and of two small programs in C.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::packages::{libraries, unpacked};
use crate::command::{command, run};
use crate::image::{Builder, Image, Tree, busybox_builder};
use crate::programs::{installed, target_dir};

/// The accounts of Debian's base system that critest names.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/sh\n\
    nobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n";

/// Sleeps until a signal ends it: as little as the real pause image does.
const PAUSE: &str = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n";

/// Says as whom it runs: setuid root, it is root unless no_new_privs holds.
const NONEWPRIVS: &str = "#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf(\"Effective uid: %d\\n\", geteuid()); return 0; }\n";

/// Every image by `repository:tag`, built once a process.
pub fn all() -> impl Iterator<Item = (&'static str, &'static Image)> {
    static IMAGES: OnceLock<Vec<(&str, Image)>> = OnceLock::new();
    IMAGES.get_or_init(build).iter().map(|(name, image)| (*name, image))
}

fn build() -> Vec<(&'static str, Image)> {
    let mut images = vec![
        ("e2e-test-images/busybox:1.29-2", base().build()),
        ("e2e-test-images/nginx:1.14-2", nginx(80)),
        ("e2e-test-images/httpd:2.4.39-4", httpd()),
        ("e2e-test-images/nonewprivs:1.3", nonewprivs()),
        (hostnet_nginx_name(), nginx(12003)),
        ("k8s-staging-cri-tools/test-image-predefined-group:latest", predefined_group()),
    ];
    for (name, version) in [("pause:3.9", "3.9"), ("pause:3.10", "3.10"), ("pause:3.10.1", "3.10.1")] {
        images.push((name, pause(version)));
    }
    let small = [
        ("k8s-staging-cri-tools/test-image-latest:latest", "latest"),
        ("k8s-staging-cri-tools/test-image-tag:test", "tag-test"),
        ("k8s-staging-cri-tools/test-image-tag:all", "tag-all"),
        ("k8s-staging-cri-tools/test-image-digest:latest", "digest"),
        ("k8s-staging-cri-tools/test-image-1:latest", "1"),
        ("k8s-staging-cri-tools/test-image-2:latest", "2"),
        ("k8s-staging-cri-tools/test-image-3:latest", "3"),
        // One image by three names.
        ("k8s-staging-cri-tools/test-image-tags:1", "tags"),
        ("k8s-staging-cri-tools/test-image-tags:2", "tags"),
        ("k8s-staging-cri-tools/test-image-tags:3", "tags"),
    ];
    images.extend(small.map(|(name, mark)| (name, marked(mark, json!({"Cmd": ["/bin/sh"]})))));
    let users = [
        ("k8s-staging-cri-tools/test-image-user-uid:latest", "1002"),
        ("k8s-staging-cri-tools/test-image-user-username:latest", "www-data"),
        ("k8s-staging-cri-tools/test-image-user-uid-group:latest", "1003:22"),
        ("k8s-staging-cri-tools/test-image-user-username-group:latest", "www-data:100"),
    ];
    images.extend(users.map(|(name, user)| (name, marked(user, json!({"Cmd": ["/bin/sh"], "User": user})))));
    images
}

/// critest asks for `hostnet-nginx-` and its own GOARCH.
fn hostnet_nginx_name() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "k8s-staging-cri-tools/hostnet-nginx-arm64:latest",
        _ => "k8s-staging-cri-tools/hostnet-nginx-amd64:latest",
    }
}

/// busybox with Debian's accounts and the two programs that Debian's busybox has no applet for.
fn base() -> Builder {
    let mut tree = Tree::default();
    for program in ["pgrep", "ipcs"] {
        tree = with_program(tree, &format!("bin/{program}"), &installed(program), None);
    }
    busybox_builder().layer(tree).layer(accounts(PASSWD, GROUP))
}

fn accounts(passwd: &str, group: &str) -> Tree {
    Tree::default().file("etc/passwd", 0o644, passwd.as_bytes()).file("etc/group", 0o644, group.as_bytes())
}

/// A program at a path and its libraries where they are on the machine or, unpacked, in its package.
fn with_program(tree: Tree, at: &str, program: &Path, root: Option<&Path>) -> Tree {
    let tree = with_file(tree, at, program);
    libraries(root, program).into_iter().fold(tree, |tree, (inside, host)| with_file(tree, &inside, &host))
}

fn with_file(tree: Tree, at: &str, host: &Path) -> Tree {
    let content = fs::read(host).unwrap_or_else(|error| panic!("read {}: {error}", host.display()));
    tree.file(at, 0o755, &content)
}

/// A web server whose pid is in /var/run/nginx.pid and whose access log is its standard output.
fn nginx(port: u16) -> Image {
    let root = unpacked();
    let configuration = format!(
        "user www-data;\nworker_processes 1;\npid /var/run/nginx.pid;\nerror_log /dev/stderr notice;\n\
         events {{ worker_connections 64; }}\nhttp {{\n access_log /dev/stdout;\n server {{ listen {port}; root /www; }}\n}}\n"
    );
    let tree = Tree::default()
        .dir("etc/nginx", 0o755)
        .file("etc/nginx/nginx.conf", 0o644, configuration.as_bytes())
        .dir("var/run", 0o755)
        .dir("var/lib", 0o755)
        .dir("var/lib/nginx", 0o755)
        .dir("var/log", 0o755)
        .dir("var/log/nginx", 0o755);
    let tree = with_program(tree, "bin/nginx", &root.join("usr/sbin/nginx"), Some(&root));
    base().layer(tree).config(json!({"Env": ["PATH=/bin"], "Cmd": ["nginx", "-g", "daemon off;"]})).build()
}

/// A web server by the name of `httpd`, which its error log repeats on standard error.
fn httpd() -> Image {
    const CONFIGURATION: &str = "ServerName localhost\nListen 80\nPidFile /var/run/httpd.pid\nDefaultRuntimeDir /var/run\n\
        ErrorLog /dev/stderr\nUser www-data\nGroup www-data\nDocumentRoot /www\nDirectoryIndex index.html\n\
        <Directory /www>\nRequire all granted\n</Directory>\n";
    let root = unpacked();
    let modules = ["mpm_event", "authz_core", "dir"];
    let mut configuration = String::new();
    let mut tree = Tree::default().dir("var/run", 0o755).dir("etc/httpd", 0o755);
    for module in modules {
        let path = format!("usr/lib/apache2/modules/mod_{module}.so");
        tree = with_file(tree, &path, &root.join(&path));
        configuration.push_str(&format!("LoadModule {module}_module /{path}\n"));
    }
    configuration.push_str(CONFIGURATION);
    tree = tree.file("etc/httpd/httpd.conf", 0o644, configuration.as_bytes());
    tree = with_program(tree, "bin/httpd", &root.join("usr/sbin/apache2"), Some(&root));
    let command = ["httpd", "-f", "/etc/httpd/httpd.conf", "-D", "FOREGROUND"];
    base().layer(tree).config(json!({"Env": ["PATH=/bin"], "Cmd": command})).build()
}

fn nonewprivs() -> Image {
    let tree = Tree::default().file("nnp", 0o4755, &compiled("nnp", NONEWPRIVS));
    base().layer(tree).config(json!({"Env": ["PATH=/bin"], "Cmd": ["/nnp"]})).build()
}

fn pause(version: &str) -> Image {
    let tree = Tree::default().file("pause", 0o755, &compiled("pause", PAUSE));
    let config = json!({"Entrypoint": ["/pause"], "Env": [format!("VERSION={version}")]});
    Builder::default().config(config).layer(tree).build()
}

/// User 1000 is the image's, and a group that only the image knows has it as a member.
fn predefined_group() -> Image {
    let passwd = format!("{PASSWD}default-user:x:1000:1000::/home/default-user:/bin/sh\n");
    let group = format!("{GROUP}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n");
    let config = json!({"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "User": "1000"});
    base().layer(accounts(&passwd, &group)).config(config).build()
}

/// busybox and a small file that makes it another image.
fn marked(mark: &str, config: Value) -> Image {
    base().config(config).layer(Tree::default().file("mark", 0o644, mark.as_bytes())).build()
}

/// A static program of some lines of C.
fn compiled(name: &str, source: &str) -> Vec<u8> {
    let dir = target_dir().join("conformance").join(format!("{name}.{}", std::process::id()));
    fs::create_dir_all(&dir).expect("make a directory to compile in");
    let (c, program) = (dir.join("source.c"), dir.join(name));
    fs::write(&c, source).expect("write a source file");
    run(command(installed("gcc")).args(["-static", "-Os", "-s", "-o"]).arg(&program).arg(&c)).ok();
    let content = fs::read(&program).expect("read a compiled program");
    fs::remove_dir_all(&dir).expect("remove the directory compiled in");
    content
}
