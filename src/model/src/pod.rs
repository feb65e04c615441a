//! What a client asks a pod sandbox to be.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::StringMap;
use crate::resources::Resources;
use crate::security::PodSecurity;

/// Who a sandbox is: two with the same identity are the same sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodIdentity {
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid in the API server.
    pub uid: String,
    /// How many sandboxes this pod had before.
    pub attempt: u32,
}

impl std::fmt::Display for PodIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} (uid {}, attempt {})", self.namespace, self.name, self.uid, self.attempt)
    }
}

/// A sandbox as it was asked for. Written to the store and echoed in its status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodConfig {
    /// Who it is.
    pub identity: PodIdentity,
    /// Empty: the host's with the host's network, otherwise the first 12 digits of the pod's id.
    pub hostname: String,
    /// Absolute; containers' logs lie below it. `None`: logs are discarded.
    pub log_directory: Option<PathBuf>,
    /// `None`: the host's resolv.conf.
    pub dns: Option<DnsConfig>,
    /// Passed to CNI as the `portMappings` capability.
    pub port_mappings: Vec<PortMapping>,
    /// Returned as they came.
    pub labels: StringMap,
    /// Returned as they came.
    pub annotations: StringMap,
    /// A cgroupfs path or a systemd slice; empty: the service's default.
    pub cgroup_parent: String,
    /// Applied in the pod's namespaces; keys with `.` or `/`.
    pub sysctls: StringMap,
    /// What the sandbox itself costs; kept and reported.
    pub overhead: Option<Resources>,
    /// The sum of its containers; kept and reported.
    pub resources: Option<Resources>,
    /// Namespaces, user and confinement.
    pub security: PodSecurity,
    /// The OCI runtime's name in the configuration; empty: the default one.
    pub runtime_handler: String,
}

/// resolv.conf(5) in parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// A port of the host that leads to one of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The pod's port.
    pub container_port: u16,
    /// The host's port; never 0 (a mapping without one is none).
    pub host_port: u16,
    /// The host's address; `None`: every one.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}
