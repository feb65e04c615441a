//! A node for tests: directories of its own, plugins as shell scripts that keep leases and obey faults.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use model::{PodId, PodIdentity, StringMap};
use network::{Attach, Cni, CniConfig, IpPreference, NetworkStatus, PodNetwork as _};
use serde_json::Value;

/// A plugin that keeps one lease a container as a file, logs its calls, and misbehaves as told by the file
/// `fault.<COMMAND>.<name>`. The lease is taken before the fault, as a plugin does that fails half way.
const PLUGIN: &str = r#"#!/bin/sh
name=${0##*/}
dir=${0%/*}/..
if [ "$CNI_COMMAND" = VERSION ]; then
    if [ -f "$dir/versions.$name" ]; then cat "$dir/versions.$name"; else
        echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}'
    fi
    exit 0
fi
cat >"$dir/stdin.$CNI_COMMAND.$name"
echo "$name $CNI_COMMAND netns=$CNI_NETNS if=$CNI_IFNAME args=$CNI_ARGS path=$CNI_PATH" >>"$dir/calls"
fault=; [ -f "$dir/fault.$CNI_COMMAND.$name" ] && fault=$(cat "$dir/fault.$CNI_COMMAND.$name")
[ "$CNI_COMMAND" = ADD ] && : >"$dir/leases/$CNI_CONTAINERID.$name"
case $fault in
fail) echo '{"cniVersion":"1.0.0","code":107,"msg":"told to fail","details":"by the test"}'; exit 1;;
unavailable) echo '{"cniVersion":"1.1.0","code":50,"msg":"no tunnel yet"}'; exit 1;;
crash) kill -KILL $$;;
rubbish) [ "$CNI_COMMAND" = DEL ] && rm -f "$dir/leases/$CNI_CONTAINERID.$name"; echo "this is no JSON"; exit 0;;
hang) echo $$ >>"$dir/hung"; sleep 1000 & echo $! >>"$dir/hung"; wait;;
esac
[ "$CNI_COMMAND" = DEL ] && rm -f "$dir/leases/$CNI_CONTAINERID.$name"
[ "$CNI_COMMAND" = ADD ] && cat <<END
{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"$CNI_NETNS"}],
 "ips":[{"address":"10.88.0.7/16","gateway":"10.88.0.1","interface":0}],"dns":{},"by":"$name"}
END
exit 0
"#;

pub(crate) struct Node {
    dir: tempfile::TempDir,
    pub(crate) deadline: Duration,
}

impl Node {
    /// A node with the scripted plugins `alpha` and `omega` and no configuration yet.
    pub(crate) fn new() -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap(), deadline: Duration::from_secs(20) };
        for dir in ["conf", "bin", "leases", "netns"] {
            fs::create_dir(node.path(dir)).unwrap();
        }
        for plugin in ["alpha", "omega"] {
            node.install(plugin);
        }
        node
    }

    pub(crate) fn install(&self, plugin: &str) {
        let path = self.path("bin").join(plugin);
        fs::write(&path, PLUGIN).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn config(&self) -> CniConfig {
        CniConfig {
            conf_dir: self.path("conf"),
            bin_dirs: vec![self.path("nowhere"), self.path("bin")],
            cache_dir: self.path("cache"),
            netns_dir: self.path("netns"),
            conf_template: Some(self.path("template")),
            root: self.path("root"),
            plugin_deadline: self.deadline,
            ip_preference: IpPreference::Ipv4,
            commits: Default::default(),
            stages: telemetry::Stages::default(),
        }
    }

    /// Opens the network; waits for one that was dropped just now to let go of the journal.
    pub(crate) async fn open(&self) -> Cni {
        self.open_with(self.config()).await
    }

    pub(crate) async fn open_with(&self, config: CniConfig) -> Cni {
        let begun = Instant::now();
        loop {
            match Cni::open(config.clone()) {
                Ok(cni) => return cni,
                Err(_) if begun.elapsed() < Duration::from_secs(10) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(e) => panic!("{}", model::chain(&e)),
            }
        }
    }

    /// The usual network of both plugins.
    pub(crate) fn configure(&self, version: &str) {
        let list = format!(
            r#"{{"cniVersion":"{version}","name":"net","plugins":[
                {{"type":"alpha","capabilities":{{"portMappings":true}}}},
                {{"type":"omega","capabilities":{{"dns":true}}}}]}}"#
        );
        self.configure_with("10-net.conflist", &list);
    }

    /// Writes a configuration file as installers do: whole, by a rename.
    pub(crate) fn configure_with(&self, file: &str, contents: &str) {
        fs::write(self.path("aside"), contents).unwrap();
        fs::rename(self.path("aside"), self.path("conf").join(file)).unwrap();
    }

    pub(crate) fn fault(&self, command: &str, plugin: &str, fault: &str) {
        fs::write(self.path(&format!("fault.{command}.{plugin}")), fault).unwrap();
    }

    pub(crate) fn heal(&self) {
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with("fault.") {
                fs::remove_file(path).unwrap();
            }
        }
    }

    /// `<plugin> <COMMAND>` of every call so far, in order; forgets them.
    pub(crate) fn take_calls(&self) -> Vec<String> {
        let calls = self.take_call_lines();
        calls.iter().map(|line| line.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ")).collect()
    }

    pub(crate) fn take_call_lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        text.lines().map(str::to_owned).collect()
    }

    /// What a plugin last read on its standard input for a command.
    pub(crate) fn stdin(&self, command: &str, plugin: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(&format!("stdin.{command}.{plugin}"))).unwrap()).unwrap()
    }

    /// Leases as `<first digits of the container id>.<plugin>`.
    pub(crate) fn leases(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("leases")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names.iter().map(|n| format!("{}{}", &n[..2], &n[64..])).collect()
    }

    pub(crate) fn cached(&self) -> usize {
        fs::read_dir(self.path("cache/results")).map_or(0, Iterator::count)
    }

    /// A pod whose id is made of one byte, with a network namespace.
    pub(crate) fn pod(&self, byte: u8) -> Pod {
        let request = self.request(byte);
        network::netns::create(&request.netns).unwrap();
        Pod { request }
    }

    /// A pod's id: the byte, then what no other test on this machine has.
    pub(crate) fn id(&self, byte: u8) -> PodId {
        let mut bytes = [0; 32];
        let dir = self.dir.path().as_os_str().as_encoded_bytes();
        bytes[..31].copy_from_slice(&dir.repeat(31)[dir.len() * 31 - 31..]);
        bytes.rotate_right(1);
        bytes[0] = byte;
        PodId::from_bytes(bytes)
    }

    pub(crate) fn request(&self, byte: u8) -> Attach {
        let pod = self.id(byte);
        Attach {
            netns: network::netns::path(&self.path("netns"), &pod),
            pod,
            identity: PodIdentity {
                namespace: "default".to_owned(),
                name: format!("web-{byte}"),
                uid: "uid".to_owned(),
                attempt: 0,
            },
            port_mappings: Vec::new(),
            dns: None,
            annotations: StringMap::new(),
            cgroup_path: String::new(),
        }
    }
}

/// A pod's request; its network namespace goes when this does.
pub(crate) struct Pod {
    pub(crate) request: Attach,
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = network::netns::remove(&self.request.netns);
    }
}

/// Says why a test does not run; where all must, which `make test` demands, that is a failure.
pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("GANTLINE_TESTS_MUST_RUN").is_none(), "this test must run: {why}");
    println!("skipped: {why}");
}

pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("making network namespaces needs root");
    }
    root
}

/// Waits until the status is as wanted; the last one is in the panic otherwise.
pub(crate) async fn until(cni: &Cni, wanted: impl Fn(&NetworkStatus) -> bool) -> NetworkStatus {
    let begun = Instant::now();
    loop {
        let status = cni.status();
        if wanted(&status) {
            return status;
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "{status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn message(status: &NetworkStatus) -> &str {
    match status {
        NetworkStatus::Ready => "ready",
        NetworkStatus::NotReady { message, .. } => message,
    }
}

pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
