//! A pod's network: the life of its network namespace, the CNI plugins that fill it, and the journal of what
//! is owed to them.
//!
//! Start reading at [`PodNetwork`], then [`Cni`]. The one promise: from the moment an ADD is intended, the DEL
//! is owed durably, with all it needs, until every plugin of the chain has acknowledged it. So no address is
//! lost whatever fails or is killed in between.
//!
//! This crate must never know what a container, an image or a shim is, nor speak CRI. It calls plugins as the
//! CNI specification says and trusts nothing they print.

mod bandwidth;
mod cache;
mod capability;
mod chain;
mod cni;
mod conf;
mod dial;
mod error;
#[cfg(any(test, feature = "test-util"))]
pub mod fake;
mod invoke;
mod journal;
mod lo;
pub mod netns;
mod orphan;
mod readiness;
mod result;
mod stats;
mod template;
mod version;
mod watch;

use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use model::{DnsConfig, PodId, PodIdentity, PortMapping, StringMap};

pub use cni::{Cni, CniConfig};
pub use dial::{DialError, dial};
pub use error::{Command, NetworkError, PluginError};
pub use journal::owed;
pub use lo::lo_up;
pub use stats::{InterfaceStats, interface_stats};
pub use store::CommitSink;

/// The interface that every pod has (the kubelet and critest expect this name).
pub const POD_INTERFACE: &str = "eth0";

/// What gives pods their network. Two implementations: [`Cni`], and the faulty `fake` for tests of those
/// who use it.
#[async_trait]
pub trait PodNetwork: Send + Sync {
    /// Connects a pod's network namespace. The DEL is owed, durably, before the first plugin runs. When a
    /// plugin fails, what the others did is undone at once; when that fails too, it stays owed.
    async fn attach(&self, request: &Attach) -> Result<Attached, NetworkError>;

    /// Performs the DEL that is owed for a pod. Nothing owed is success; on failure it stays owed, for the
    /// next call or for [`collect`](Self::collect). The network namespace may be gone already.
    async fn detach(&self, pod: &PodId) -> Result<(), NetworkError>;

    /// Asks the plugins whether a pod's network still is as they made it (CNI CHECK).
    async fn check(&self, pod: &PodId) -> Result<(), NetworkError>;

    /// Performs what is owed to every pod that is not `live`, then has the plugins drop what belongs to none
    /// (CNI GC). `live` must hold every pod that exists in any state. Pods that this process attached and
    /// nobody asked to detach are left alone, so a pod that was made since `live` was listed is safe.
    async fn collect(&self, live: &[PodId]);

    /// Whether pods can be connected. Answers from memory.
    fn status(&self) -> NetworkStatus;

    /// The ids of all pods that a DEL is owed to, the living ones among them. Answers from memory.
    fn owed(&self) -> Vec<String>;

    /// Takes the node's pod CIDRs, comma-separated (UpdateRuntimeConfig): writes a configuration from the
    /// template, where there is a template and no valid configuration.
    fn reconfigure(&self, pod_cidr: &str) -> Result<(), NetworkError>;

    /// What a person wants to see (verbose Status): `cniconfig` and `lastCNILoadStatus`.
    fn describe(&self) -> serde_json::Value;
}

/// What is to be connected.
#[derive(Clone, Debug)]
pub struct Attach {
    /// The sandbox: the CNI container id.
    pub pod: PodId,
    /// Passed as CNI_ARGS.
    pub identity: PodIdentity,
    /// Where its network namespace is pinned.
    pub netns: PathBuf,
    /// Capability `portMappings`.
    pub port_mappings: Vec<PortMapping>,
    /// Capability `dns`.
    pub dns: Option<DnsConfig>,
    /// Capability `io.kubernetes.cri.pod-annotations`; also hold the bandwidth.
    pub annotations: StringMap,
    /// Capability `cgroupPath`; empty: none.
    pub cgroup_path: String,
}

/// What an attached pod has.
#[derive(Clone, Debug, PartialEq)]
pub struct Attached {
    /// Never empty. The preferred family's first address first, the others in the plugins' order.
    pub ips: Vec<IpAddr>,
    /// [`POD_INTERFACE`].
    pub interface: String,
    /// The CNI result as the last plugin gave it.
    pub result: serde_json::Value,
}

/// Which of a pod's addresses comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpPreference {
    /// The first IPv4 address.
    #[default]
    Ipv4,
    /// The first IPv6 address.
    Ipv6,
    /// Whichever the plugins named first.
    Cni,
}

/// Whether pods can be connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkStatus {
    /// They can.
    Ready,
    /// They cannot.
    NotReady {
        /// One word for CRI's condition: `NetworkPluginNotReady`.
        reason: &'static str,
        /// What is missing, in words.
        message: String,
    },
}

impl NetworkStatus {
    /// As containerd words it, which people and alerts match.
    pub(crate) fn not_ready(why: impl std::fmt::Display) -> Self {
        Self::NotReady {
            reason: "NetworkPluginNotReady",
            message: format!("Network plugin returns error: {why}"),
        }
    }
}
