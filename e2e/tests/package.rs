//! The Debian package: what is in it, how it is installed, upgraded, removed and purged, and `gantline reset`, with which
//! a purge ends pods. That a real systemd runs it is tested in the emulated machine (`make vm-test`).
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use e2e::command::{command, run};
use e2e::package::{self, Root};
use e2e::{Machine, Node};

/// A shell line whose output is a sentence in an assertion.
#[track_caller]
fn sh(line: &str, package: &Path) -> String {
    run(command("sh").args(["-c", line, "sh"]).arg(package)).ok()
}

/// What a terminal shows of a text that is made bold by printing it twice.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for letter in text.chars() {
        if letter == '\u{8}' {
            plain.pop();
        } else {
            plain.push(letter);
        }
    }
    plain
}

#[test]
fn what_is_in_the_package_is_as_debian_wants_it() {
    let deb = package::built();
    let lintian =
        ["--allow-root", "--profile", "debian", "--fail-on", "error,warning", "--tag-display-limit", "0"];
    run(command("lintian").args(lintian).arg(deb)).ok();

    let listed = sh("dpkg-deb -c \"$1\"", deb);
    for (mode, path) in [
        ("-rwxr-xr-x root/root", "./usr/bin/gantline"),
        ("-rwxr-xr-x root/root", "./usr/libexec/gantline/gantline-shim"),
        ("-rw-r--r-- root/root", "./etc/gantline/config.toml"),
        ("-rw-r--r-- root/root", "./usr/share/gantline/crictl.yaml"),
        ("-rw-r--r-- root/root", "./usr/share/bash-completion/completions/gantline"),
        ("-rw-r--r-- root/root", "./usr/share/zsh/vendor-completions/_gantline"),
        ("-rw-r--r-- root/root", "./usr/share/fish/vendor_completions.d/gantline.fish"),
        ("-rw-r--r-- root/root", "./usr/share/doc/gantline/copyright"),
        ("-rw-r--r-- root/root", "./usr/share/doc/gantline/changelog.gz"),
        ("-rw-r--r-- root/root", "./usr/share/doc/gantline/configuration.md.gz"),
    ] {
        let line = listed.lines().find(|line| line.ends_with(&format!(" {path}")));
        assert!(line.is_some_and(|line| line.starts_with(mode)), "{path} is {line:?}, not {mode}");
    }
    assert!(listed.contains("/systemd/system/gantline.service"), "{listed}");

    let depends = sh("dpkg-deb -f \"$1\" Depends", deb);
    for wanted in [
        "libc6 (>= ",
        "libseccomp2 (>= ",
        "crun (>= 1.8) | runc (>= ",
        "iptables",
        "containernetworking-plugins",
    ] {
        assert!(depends.contains(wanted), "Depends lacks {wanted}: {depends}");
    }
    assert_eq!(sh("dpkg-deb -I \"$1\" conffiles", deb), "/etc/gantline/config.toml\n");
    assert_eq!(sh("dpkg-deb -f \"$1\" Version", deb).trim(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_same_programs_make_the_same_package() {
    let (one, other) = (package::built(), package::build("again"));
    assert!(fs::read(one).unwrap() == fs::read(&other).unwrap(), "{} is another", other.display());
}

/// Pages are made of the command line's own declaration; what could break is their form, or that one is missing.
#[test]
fn each_command_has_a_manual_page_that_renders() {
    let machine = Machine::boot();
    let tree = machine.dir().join("tree");
    run(command("dpkg-deb").arg("-x").arg(package::built()).arg(&tree)).ok();
    let man = tree.join("usr/share/man");
    let mut pages = BTreeSet::new();
    for section in ["man5", "man8"] {
        for entry in fs::read_dir(man.join(section)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // groff's warnings, as lintian has them; of mandoc's only errors: clap_mangen writes superfluous breaks.
            let said = run(command("man").args(["--warnings", "-l", "-E", "UTF-8", "-Tutf8"]).arg(&path));
            assert_eq!(said.stderr, "", "{name}");
            let text = plain(&said.ok());
            for part in ["NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO"] {
                assert!(text.lines().any(|line| line.contains(part)), "{name} has no {part}:\n{text}");
            }
            run(command("mandoc").args(["-T", "lint", "-W", "error"]).arg(&path)).ok();
            pages.insert(name);
        }
    }
    let gantline = tree.join("usr/bin/gantline");
    let help = run(command(&gantline).arg("--help")).ok();
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<&str> = commands
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.contains(&"serve"), "{help}");
    for command in commands {
        assert!(
            pages.contains(&format!("gantline-{command}.8.gz")),
            "gantline {command} has no page: {pages:?}"
        );
    }
    for page in ["gantline.8.gz", "gantline-shim.8.gz", "gantline.toml.5.gz"] {
        assert!(pages.contains(page), "{page} is missing: {pages:?}");
    }
    let settings = run(command("man").args(["-l", "-Tutf8"]).arg(man.join("man5/gantline.toml.5.gz"))).ok();
    let settings = plain(&settings);
    assert!(settings.contains("drain_grace"), "{settings}");
}

#[test]
fn an_installation_works_is_upgraded_and_leaves_nothing_when_purged() {
    let old = package::another("0.0.1", "sed -i 1s/^/#.0.0.1.\\\\n/ etc/gantline/config.toml");
    let new = package::another("99", "sed -i 1s/^/#.99.\\\\n/ etc/gantline/config.toml");
    for suite in package::suites() {
        println!("in a root of {}", suite.name);
        is_installed_upgraded_and_purged(&Root::of(suite), &old, &new);
    }
}

/// That its dependencies can be met there is dpkg's word, which would refuse it.
#[track_caller]
fn is_installed_upgraded_and_purged(root: &Root, old: &Path, new: &Path) {
    let before = root.files();

    root.install(old, "");
    assert!(root.sh("head -n 1 /etc/gantline/config.toml").ok().contains("#.0.0.1."));
    // One that nobody has edited follows the package.
    root.install(package::built(), "");
    assert!(!root.sh("cat /etc/gantline/config.toml").ok().contains("#.0.0.1."));
    assert_eq!(root.sh("dpkg --verify gantline").ok(), "");
    let installed = root.sh("dpkg-query -W -f '${Status} ${Version}' gantline").ok();
    assert_eq!(installed, concat!("install ok installed ", env!("CARGO_PKG_VERSION")));

    assert!(root.sh("gantline version").ok().contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(root.sh("gantline config check").ok(), "/etc/gantline/config.toml ok\n");
    assert!(root.sh("/usr/libexec/gantline/gantline-shim version 2>&1").ok().contains("gantline-shim"));
    // Enabled; whether it starts is systemd's and policy-rc.d's, and there is none here.
    root.sh("test -L /etc/systemd/system/multi-user.target.wants/gantline.service").ok();
    assert_eq!(root.sh("systemd-analyze verify --man=no gantline.service 2>&1").ok(), "");
    assert!(root.sh("cat /etc/crictl.yaml").ok().contains("unix:///run/gantline/gantline.sock"));
    root.sh("bash -n /usr/share/bash-completion/completions/gantline").ok();
    root.sh("zsh -n /usr/share/zsh/vendor-completions/_gantline").ok();
    let completed = root.sh(
        "bash -c '. /usr/share/bash-completion/completions/gantline; COMP_WORDS=(gantline ser) COMP_CWORD=1; \
         _gantline gantline ser gantline; echo ${COMPREPLY[@]}'",
    );
    assert_eq!(completed.ok(), "serve\n");

    // One that somebody has edited stays, across an upgrade and a removal.
    root.sh("echo '# mine' >>/etc/gantline/config.toml").ok();
    root.install(new, "--force-confold");
    assert!(root.sh("cat /etc/gantline/config.toml").ok().ends_with("# mine\n"));
    root.sh("mkdir -p /var/lib/gantline/image && echo layer >/var/lib/gantline/image/layer").ok();
    let said = root.sh("dpkg -r gantline 2>&1").ok();
    assert!(!said.contains("these stay"), "no pod is left, and it says: {said}");
    root.sh("test ! -e /usr/bin/gantline -a ! -e /usr/libexec/gantline -a ! -e /var/lib/gantline/reset").ok();
    root.sh("test -e /etc/gantline/config.toml -a -e /var/lib/gantline/image/layer").ok();

    root.sh("mkdir -p /run/gantline/pods /etc/gantline/config.d && touch /etc/gantline/config.d/mine.toml")
        .ok();
    root.sh("dpkg -P gantline").ok();
    let after = root.files();
    let left: Vec<_> = after.difference(&before).collect();
    let gone: Vec<_> = before.difference(&after).collect();
    assert!(left.is_empty() && gone.is_empty(), "left {left:#?}\ngone {gone:#?}");
}

#[test]
fn a_purge_keeps_its_hands_off_what_is_not_the_packages() {
    let root = Root::new();
    root.sh("echo 'runtime-endpoint: unix:///run/other.sock' >/etc/crictl.yaml").ok();
    root.install(package::built(), "");
    assert!(root.sh("cat /etc/crictl.yaml").ok().contains("other.sock"));
    // A volume of the host's, still mounted where a container had it.
    root.sh("mkdir -p /srv/data /run/gantline/x/data && echo precious >/srv/data/file").ok();
    root.sh("mount --bind /srv/data /run/gantline/x/data").ok();
    root.sh("dpkg -r gantline").ok();
    let busy = root.sh("cd /run/gantline/x/data && dpkg -P gantline 2>&1").fails();
    assert!(busy.contains("still mounted below /run/gantline"), "{busy}");
    root.sh("dpkg -P gantline").ok();
    assert_eq!(root.sh("cat /srv/data/file").ok(), "precious\n");
    root.sh("test ! -e /run/gantline -a ! -e /var/lib/gantline").ok();
    assert!(root.sh("cat /etc/crictl.yaml").ok().contains("other.sock"));
}

#[test]
fn what_a_dead_service_left_is_ended_by_a_reset() {
    let node = Node::start();
    let (one, other) = (node.pod("one").run(), node.pod("other").run());
    let running = one.container("c").idle().start();
    other.container("c").idle().start();
    let refused = node.gantline(&["reset"]);
    assert_eq!(refused.code, 75, "{refused:?}");
    assert!(running.is_running(), "a reset beside a service ended a container");

    node.kill9();
    let left = node.gantline(&["reset", "--dry-run"]).ok();
    assert_eq!(left.lines().count(), 2, "{left}");
    assert!(left.contains("/one (") && left.contains("/other ("), "{left}");
    let shims = |node: &Node| node.processes(|command| command.contains("gantline-shim run ")).len();
    assert_eq!(shims(&node), 2, "a dry run ended something");

    let said = node.gantline(&["reset"]).ok();
    assert_eq!(said.lines().filter(|line| line.ends_with(" removed")).count(), 2, "{said}");
    node.leaves_nothing();
    assert_eq!(node.gantline(&["reset", "--dry-run"]).ok(), "");
    assert_eq!(node.gantline(&["reset"]).ok(), "");
    // The image is there for the next service.
    node.start_service();
    assert!(node.image(&node.busybox()).is_some());
    node.pod("next").run().remove();
    node.leaves_nothing();
}

/// As after a reboot between the removal of the package and its purge: no process and no namespace is left, and the
/// addresses are.
#[test]
fn a_reset_after_a_reboot_releases_the_networks_of_pods() {
    let node = Node::start();
    let pod = node.pod("rebooted").run();
    pod.container("c").idle().start();
    node.kill9();
    for process in node.processes(|command| !command.contains("docker-registry")) {
        node.machine.sh(&format!("kill -KILL {} || true", process.pid));
    }
    let (state, netns) = (node.config.state.display(), node.config.netns.display());
    node.machine.sh(&format!(
        "awk '{{ print $2 }}' /proc/mounts | grep -E '^({state}|{netns})/' | sort -r | xargs -r umount -l
         rm -rf {state} {netns}/*
         nft flush ruleset"
    ));
    let left = node.leftovers();
    assert!(left.iter().any(|line| line.starts_with("address ")), "{left:?}");
    node.gantline(&["reset"]).ok();
    node.leaves_nothing();
}
