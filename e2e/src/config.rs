//! The files a node reads: the service's configuration, the pod network, registry hosts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::machine::{Machine, systemd_driver};
use crate::programs::Programs;
use crate::registry;
use crate::wait::patient;

/// How long a CNI plugin may take, where the test does not say.
const PLUGIN_MAX: Duration = Duration::from_secs(20);

/// Where everything of one node is, inside its machine. The state directory is a default one: `/run` is the
/// machine's.
#[derive(Debug, Clone)]
pub struct Config {
    /// `--root`.
    pub root: PathBuf,
    /// `--state`.
    pub state: PathBuf,
    /// The CRI socket.
    pub socket: PathBuf,
    /// Directory of conflists.
    pub cni_conf: PathBuf,
    /// Directories of CNI plugins, in their order.
    pub cni_bins: Vec<PathBuf>,
    /// host-local's data directory.
    pub reservations: PathBuf,
    /// libcni's cache of results.
    pub cni_cache: PathBuf,
    /// Network namespace pins.
    pub netns: PathBuf,
    /// Registry hosts (`certs.d`).
    pub certs: PathBuf,
    /// Pod log directories are made here.
    pub logs: PathBuf,
    /// The OCI runtimes by handler name; the first is the default.
    pub runtimes: Vec<(String, PathBuf)>,
    /// Where pods go that name no cgroup parent: the machine's own.
    pub cgroup_parent: String,
    /// How long a CNI plugin may take.
    pub plugin_timeout: String,
    /// More lines for its `[network]` table.
    pub network: String,
    /// More lines for its `[pods]` table.
    pub pods: String,
    /// More lines for the end of the service's file: whole tables.
    pub more: String,
}

impl Config {
    /// The places of a node called `name` on a machine; two nodes of one machine need two names.
    pub fn new(machine: &Machine, name: &str) -> Self {
        let dir = machine.dir().join(name);
        Self {
            root: dir.join("root"),
            state: Path::new("/run").join(name),
            socket: Path::new("/run").join(name).join("gantline.sock"),
            cni_conf: dir.join("cni/conf"),
            cni_bins: vec!["/usr/lib/cni".into()],
            reservations: dir.join("cni/reservations"),
            cni_cache: dir.join("cni/cache"),
            netns: PathBuf::from("/run/netns"),
            certs: dir.join("certs.d"),
            logs: dir.join("logs"),
            runtimes: vec![crate::programs::runtime()],
            cgroup_parent: default_parent(machine),
            plugin_timeout: format!("{}s", patient(PLUGIN_MAX).as_secs()),
            network: String::new(),
            pods: String::new(),
            more: String::new(),
        }
    }

    /// Makes the directories and writes the network's and the registry's files.
    pub(crate) fn write(&self, machine: &Machine) {
        for dir in [&self.root, &self.cni_conf, &self.cni_cache, &self.certs, &self.logs] {
            fs::create_dir_all(dir).expect("make a node's directory");
        }
        self.write_network(&self.network(machine));
        self.plain_http(&format!("127.0.0.1:{}", registry::PORT));
    }

    /// The conflist of the tests: bridge with masquerading and addresses of the machine's subnet, and port
    /// mapping.
    pub fn network(&self, machine: &Machine) -> Value {
        let subnet = machine.subnet();
        json!({"cniVersion": "1.0.0", "name": "e2e", "plugins": [
            {"type": "bridge", "bridge": "e2e0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
             "ipam": {"type": "host-local", "dataDir": self.reservations, "routes": [{"dst": "0.0.0.0/0"}],
                      "ranges": [[{"subnet": format!("{subnet}.0/24"), "gateway": format!("{subnet}.1")}]]}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ]})
    }

    /// Replaces the conflist.
    pub fn write_network(&self, conflist: &Value) {
        let path = self.cni_conf.join("10-e2e.conflist");
        let new = self.cni_conf.join(".new");
        fs::write(&new, conflist.to_string()).expect("write the conflist");
        fs::rename(new, path).expect("place the conflist");
    }

    /// Says that a registry host speaks plain HTTP.
    pub fn plain_http(&self, host: &str) {
        self.mirror(host, &format!("http://{host}"));
    }

    /// Says that another host is asked in a registry's stead.
    pub fn mirror(&self, registry: &str, url: &str) {
        let dir = self.certs.join(registry);
        fs::create_dir_all(&dir).expect("make a registry host's directory");
        let text = format!("server = {url:?}\n[host.{url:?}]\ncapabilities = [\"pull\", \"resolve\"]\n");
        fs::write(dir.join("hosts.toml"), text).expect("write hosts.toml");
    }

    /// The service's configuration file.
    pub(crate) fn text(&self, programs: &Programs) -> String {
        let bins: Vec<String> = self.cni_bins.iter().map(|dir| dir.display().to_string()).collect();
        let runtimes: String = self
            .runtimes
            .iter()
            .map(|(name, path)| format!("[runtimes.{name}]\npath = {path:?}\n"))
            .collect();
        let default = self.runtimes.first().map_or("", |(name, _)| name.as_str());
        let Self { root, state, socket, certs, cni_conf, cni_cache, netns, .. } = self;
        let Self { cgroup_parent, plugin_timeout, network, pods, more, .. } = self;
        let shim = &programs.shim;
        let driver = if systemd_driver() { "systemd" } else { "cgroupfs" };
        format!(
            r#"root = {root:?}
state = {state:?}
default_runtime = {default:?}
[server]
socket = {socket:?}
[images]
certs_d = [{certs:?}]
[network]
conf_dir = {cni_conf:?}
bin_dirs = {bins:?}
cache_dir = {cni_cache:?}
netns_dir = {netns:?}
plugin_timeout = {plugin_timeout:?}
{network}[cgroup]
driver = {driver:?}
parent = {cgroup_parent:?}
[pods]
shim = {shim:?}
{pods}{runtimes}{more}"#
        )
    }
}

/// As the driver names it: a path, or a slice without one.
fn default_parent(machine: &Machine) -> String {
    let path = machine.cgroup_parent();
    if systemd_driver() { path.trim_start_matches('/').into() } else { path }
}
