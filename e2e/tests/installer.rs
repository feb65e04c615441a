//! What the chart's installer does to a node, on a directory that passes for one: atomic, never over another's file, to its
//! end after a kill at any moment, and off again. `tests/k8s/helm.rs` has the chart's pods run it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use e2e::command::{command, run};
use e2e::programs::{Programs, installed};
use e2e::random::Random;
use e2e::{Machine, eventually, installer};

const BINARY: &str = "usr/local/bin/gantline";
const SHIM: &str = "usr/local/bin/gantline-shim";
const DROP_IN: &str = "etc/gantline/config.d/50-chart.toml";
const UNIT: &str = "etc/systemd/system/gantline.service";
const OURS: [&str; 4] = [BINARY, SHIM, DROP_IN, UNIT];

/// Answers as `gantline version` and `gantline config check --config FILE` would, of a release of one number.
fn stub(release: u32) -> String {
    format!(
        "#!/bin/sh\ncase $1 in\nversion) echo {release} ;;\nconfig) read -r first <${{4%/*}}/config.d/50-chart.toml\n\
         case $first in *nonsense*) echo \"$4: no key nonsense\" >&2; exit 64 ;; esac ;;\nesac\n"
    )
}

/// A directory as a node's root, what the image has, and where the installer works.
struct Place {
    machine: Machine,
    environment: BTreeMap<&'static str, String>,
}

impl Place {
    fn new() -> Self {
        let machine = Machine::boot();
        let dir = machine.dir();
        for name in ["image", "work"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        installer::node_root(&dir.join("node"), &Programs::dev());
        let at = |name: &str| dir.join(name).display().to_string();
        let environment = BTreeMap::from([
            ("ROOT", at("node")),
            ("FROM", at("image")),
            ("CONFIG", at("50-chart.toml")),
            ("WORK", at("work")),
            ("PASSED", at("work/passed")),
            ("NODE_IP", "fd00::7".into()),
            // One pass is what each test waits for.
            ("INTERVAL", "1000".into()),
            // Not this machine's own.
            ("UNIX_SOCKETS", at("unix")),
        ]);
        fs::write(dir.join("unix"), "").unwrap();
        let place = Self { machine, environment };
        place.release(1, "[log]");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.machine.dir().join(name)
    }

    fn node(&self, path: &str) -> PathBuf {
        self.path("node").join(path)
    }

    /// What the image and the chart would now bring.
    fn release(&self, number: u32, config: &str) {
        let image = self.path("image");
        fs::write(image.join("gantline"), stub(number)).unwrap();
        fs::write(image.join("gantline-shim"), format!("shim {number}")).unwrap();
        let unit = fs::read_to_string(installer::chart().join("../../docs/gantline.service")).unwrap();
        fs::write(image.join("gantline.service"), format!("# {number}\n{unit}")).unwrap();
        fs::write(self.path("50-chart.toml"), format!("{config} # {number} @NODE_IP@\n")).unwrap();
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.environment.insert(name, value.into());
    }

    fn start(&self, verb: &str) -> Child {
        let mut line = command(installed("sh"));
        line.arg(installer::script()).arg(verb).envs(&self.environment);
        // A group of its own, so that a kill meets the programs that it runs too.
        line.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Runs passes until one has come to an end; what the readiness probe then says, nothing when all is well.
    fn pass(&self, verb: &str) -> String {
        let _ = fs::remove_file(self.path("work/passed"));
        let child = self.start(verb);
        // It syncs all disks of this machine.
        eventually("a pass ends", Duration::from_secs(180), || match self.path("work/passed").exists() {
            true => Ok(()),
            false => Err("not yet".into()),
        });
        let said =
            run(command(installed("sh")).arg(installer::script()).arg("ready").envs(&self.environment));
        assert_eq!(said.code == 0, said.stdout.is_empty(), "{said:?}");
        kill(child);
        said.stdout
    }

    /// What the node's systemctl was told since the last look.
    fn systemctl(&self) -> Vec<String> {
        let said = fs::read_to_string(self.node("systemctl.log")).unwrap_or_default();
        let _ = fs::remove_file(self.node("systemctl.log"));
        said.lines().map(str::to_owned).collect()
    }

    /// Every file below the parts of the node that an installer touches.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        for dir in ["usr/local", "etc", "var/lib"] {
            below(&self.node(dir), &mut found);
        }
        let root = self.path("node");
        found.iter().map(|path| path.strip_prefix(&root).unwrap().display().to_string()).collect()
    }

    /// That all is there, of one release, and nothing else.
    #[track_caller]
    fn has(&self, release: u32) {
        assert_eq!(fs::read_to_string(self.node(BINARY)).unwrap(), stub(release));
        assert_eq!(fs::metadata(self.node(BINARY)).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(fs::read_to_string(self.node(SHIM)).unwrap(), format!("shim {release}"));
        let config = fs::read_to_string(self.node(DROP_IN)).unwrap();
        assert!(config.ends_with(&format!("# {release} [fd00::7]\n")), "{config}");
        let unit = fs::read_to_string(self.node(UNIT)).unwrap();
        assert!(unit.starts_with(&format!("# {release}\n")), "{unit}");
        let mut files = self.files();
        files.retain(|file| !file.starts_with("var/lib/gantline-node"));
        assert_eq!(files.len(), OURS.len(), "{files:?}");
    }
}

fn below(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        if entry.file_type().unwrap().is_dir() {
            below(&entry.path(), found)
        } else {
            found.push(entry.path())
        }
    }
}

fn kill(mut child: Child) {
    let group = rustix::process::Pid::from_child(&child);
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    child.wait().unwrap();
}

#[test]
fn files_are_put_there_and_the_service_is_started_once() {
    let place = Place::new();
    assert_eq!(place.pass("install"), "");
    place.has(1);
    let restarted = ["daemon-reload", "enable gantline.service", "restart gantline.service"];
    assert_eq!(place.systemctl(), restarted);
    assert_eq!(place.pass("install"), "");
    assert_eq!(place.systemctl(), ["is-active --quiet gantline.service"], "nothing has changed");
    place.release(2, "[log]");
    assert_eq!(place.pass("install"), "");
    place.has(2);
    assert_eq!(place.systemctl(), restarted);
    // What a person or a disk did is mended.
    fs::remove_file(place.node(SHIM)).unwrap();
    assert_eq!(place.pass("install"), "");
    place.has(2);
}

#[test]
fn the_unit_names_the_binary_where_it_is() {
    let mut place = Place::new();
    place.set("BIN_DIR", "/opt/bin");
    assert_eq!(place.pass("install"), "");
    let unit = fs::read_to_string(place.node(UNIT)).unwrap();
    assert!(unit.contains("\nExecStart=/opt/bin/gantline serve\n"), "{unit}");
    assert!(place.node("opt/bin/gantline-shim").exists());
}

#[test]
fn what_is_refused_leaves_the_node_as_it_was() {
    let mut place = Place::new();
    // Another's file.
    fs::create_dir_all(place.node("usr/local/bin")).unwrap();
    fs::write(place.node(BINARY), "another's").unwrap();
    let said = place.pass("install");
    assert!(
        said.starts_with("/usr/local/bin/gantline is there and this chart did not put it there"),
        "{said}"
    );
    assert_eq!(place.files(), [BINARY, "var/lib/gantline-node/lock"]);
    place.set("ADOPT", "true");
    assert_eq!(place.pass("install"), "");
    place.has(1);
    place.set("ADOPT", "false");
    place.systemctl();
    // A configuration that the new binary does not take, said as of where it would be.
    place.release(2, "nonsense = 1");
    let said = place.pass("install");
    assert!(
        said.starts_with("the configuration would be refused: /etc/gantline/config.toml: no key"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(place.node(BINARY)).unwrap(), stub(1), "the binary waits with it");
    assert_eq!(place.systemctl(), [""; 0]);
    // A binary that cannot run here.
    fs::write(place.path("image/gantline"), "#!/no/such/interpreter\n").unwrap();
    let said = place.pass("install");
    assert!(said.starts_with("this node cannot run /usr/local/bin/gantline: "), "{said}");
    assert_eq!(fs::read_to_string(place.node(BINARY)).unwrap(), stub(1));
    // A service that does not start: told each time, until it does.
    place.release(3, "[log]");
    fs::write(place.node("systemctl.fails"), "").unwrap();
    for _ in 0..2 {
        let said = place.pass("install");
        assert!(said.starts_with("on the node, `systemctl daemon-reload` failed"), "{said}");
    }
    fs::remove_file(place.node("systemctl.fails")).unwrap();
    place.systemctl();
    assert_eq!(place.pass("install"), "");
    assert_eq!(place.systemctl().last().unwrap(), "restart gantline.service", "it was owed");
    place.has(3);
}

#[test]
fn a_configuration_that_was_edited_is_not_overwritten_silently() {
    let mut place = Place::new();
    assert_eq!(place.pass("install"), "");
    fs::write(place.node(DROP_IN), "[log]\nlevel = \"debug\"\n").unwrap();
    let said = place.pass("install");
    assert!(said.starts_with("/etc/gantline/config.d/50-chart.toml was edited on this node"), "{said}");
    place.set("EDITED_CONFIG", "replace");
    assert_eq!(place.pass("install"), "");
    let kept = place.node(DROP_IN).with_extension("toml.edited");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "[log]\nlevel = \"debug\"\n");
    fs::remove_file(kept).unwrap();
    place.has(1);
}

#[test]
fn nothing_is_removed_that_is_in_use_or_not_ours() {
    let mut place = Place::new();
    assert_eq!(place.pass("remove"), "", "where nothing was put, nothing is done");
    assert_eq!(place.files(), [""; 0]);
    assert_eq!(place.pass("install"), "");
    place.systemctl();
    // The kernel's table: one that listens, one that is connected.
    let socket = |state: u32| {
        format!(
            "0000000000000000: 00000003 00000000 00000000 0001 {state:02} 4711 /run/gantline/gantline.sock.new\n"
        )
    };
    fs::write(place.path("unix"), socket(3)).unwrap();
    let said = place.pass("remove");
    assert!(
        said.starts_with("not removed: a client (the kubelet?) is connected to /run/gantline/gantline.sock."),
        "{said}"
    );
    fs::write(place.path("unix"), socket(1)).unwrap();
    let config = place.node("var/lib/kubelet/config.yaml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, "containerRuntimeEndpoint: unix:///run/gantline/gantline.sock\n").unwrap();
    fs::create_dir_all(place.node("run/gantline/pods/abc")).unwrap();
    let said = place.pass("remove");
    let words = "not removed: /var/lib/kubelet/config.yaml points the kubelet to /run/gantline/gantline.sock; pods of this runtime are in /run/gantline/pods.";
    assert!(said.starts_with(words), "{said}");
    fs::remove_file(&config).unwrap();
    place.has(1);
    fs::remove_dir(place.node("run/gantline/pods/abc")).unwrap();
    // Another's since: the runtime of a package, say.
    fs::write(place.node(SHIM), "another's").unwrap();
    assert_eq!(place.pass("remove"), "");
    assert_eq!(place.files(), [SHIM]);
    assert_eq!(place.systemctl(), ["disable --now gantline.service", "daemon-reload"]);
    place.release(1, "[log]");
    place.set("ADOPT", "true");
    assert_eq!(place.pass("install"), "");
    fs::write(place.path("unix"), socket(3)).unwrap();
    place.set("FORCE", "true");
    assert_eq!(place.pass("remove"), "");
    assert_eq!(place.files(), [""; 0]);
}

/// Each time killed at a random moment, then let go on.
#[test]
fn a_kill_at_any_moment_is_mended_by_the_next_pass() {
    let place = Place::new();
    let mut random = Random::seeded();
    assert_eq!(place.pass("install"), "");
    for number in 2..30 {
        place.release(number, "[log]");
        let child = place.start("install");
        std::thread::sleep(Duration::from_millis(random.below(150)));
        kill(child);
        // A binary is whole, of the old release or of the new.
        let binary = fs::read_to_string(place.node(BINARY)).unwrap();
        assert!([stub(number), stub(number - 1)].contains(&binary), "{binary}");
        place.systemctl();
        let owed = fs::read_to_string(place.node(BINARY)).unwrap() != stub(number);
        assert_eq!(place.pass("install"), "");
        place.has(number);
        if owed {
            assert!(place.systemctl().contains(&"restart gantline.service".into()), "round {number}");
        }
    }
    for _ in 0..10 {
        let child = place.start("remove");
        std::thread::sleep(Duration::from_millis(random.below(100)));
        kill(child);
        assert_eq!(place.pass("remove"), "");
        assert_eq!(place.files(), [""; 0]);
        assert_eq!(place.pass("install"), "");
    }
}
