//! What the service is and whether it is well: Version, Status, RuntimeConfig, UpdateRuntimeConfig.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use api::v1;
use model::ErrorKind;
use pod::CgroupDriver;
use tonic::Status;

use super::RuntimeRpc;
use crate::convert::Invalid;
use crate::status::status;

/// The version of the kubelet's CRI that Version speaks of; every runtime says this.
const KUBELET_API_VERSION: &str = "0.1.0";

/// What rpc cannot see for itself, given by the daemon, which knows every room.
pub struct Node {
    /// Of this build, semantic.
    pub version: String,
    /// What each OCI runtime can do.
    pub handlers: Vec<Handler>,
    /// Whether pods can be run, and whether they can be connected. Asked at each Status: it must not block.
    pub conditions: Box<dyn Fn() -> Conditions + Send + Sync>,
    /// For a verbose Status: JSON objects by name (`config`, `cniconfig`).
    pub describe: Box<dyn Fn() -> BTreeMap<String, serde_json::Value> + Send + Sync>,
    /// Takes the kubelet's pod CIDRs, comma-separated.
    pub set_pod_cidr: SetPodCidr,
}

/// A function that takes the kubelet's pod CIDRs.
pub type SetPodCidr = Box<dyn Fn(&str) -> Result<(), NodeError> + Send + Sync>;

/// Another room's error, with its kind, for a room that may not know its type.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct NodeError {
    /// The whole chain.
    pub message: String,
    /// What the caller can do.
    pub kind: ErrorKind,
}

impl NodeError {
    /// Any room's error.
    pub fn new<E: model::Classify>(error: E) -> Self {
        Self { message: model::chain(&error), kind: error.kind() }
    }
}

impl model::Classify for NodeError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("version", &self.version).finish_non_exhaustive()
    }
}

/// An OCI runtime as a RuntimeClass names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handler {
    /// Its name in the configuration.
    pub name: String,
    /// Whether it is the one that an empty name means.
    pub default: bool,
    /// Whether it mounts recursively read-only.
    pub recursive_read_only: bool,
    /// Whether it runs pods in user namespaces.
    pub user_namespaces: bool,
}

/// The two conditions that every client looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Whether pods can be run.
    pub runtime: Condition,
    /// Whether they can be connected.
    pub network: Condition,
}

/// Well, or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Well.
    Ready,
    /// Not well.
    NotReady {
        /// One word: `NetworkPluginNotReady`.
        reason: String,
        /// For a person.
        message: String,
    },
}

pub(super) async fn version(rpc: &RuntimeRpc, _: v1::VersionRequest) -> Result<v1::VersionResponse, Status> {
    Ok(v1::VersionResponse {
        version: KUBELET_API_VERSION.to_owned(),
        runtime_name: "gantline".to_owned(),
        runtime_version: rpc.node.version.clone(),
        runtime_api_version: "v1".to_owned(),
    })
}

pub(super) async fn status_of(
    rpc: &RuntimeRpc,
    request: v1::StatusRequest,
) -> Result<v1::StatusResponse, Status> {
    let conditions = (rpc.node.conditions)();
    let info = match request.verbose {
        true => (rpc.node.describe)().into_iter().map(|(key, value)| (key, object(value))).collect(),
        false => BTreeMap::new(),
    };
    Ok(v1::StatusResponse {
        status: Some(v1::RuntimeStatus {
            conditions: vec![
                condition("RuntimeReady", conditions.runtime),
                condition("NetworkReady", conditions.network),
            ],
        }),
        info,
        runtime_handlers: handlers(&rpc.node.handlers),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            // sysfs is the host's then, by a bind mount: no handler that runs user namespaces needs more.
            user_namespaces_host_network: rpc.node.handlers.iter().any(|handler| handler.user_namespaces),
            mount_options: true,
        }),
    })
}

/// crictl takes a value that begins with a brace for an object, and prints anything else as it is.
fn object(value: serde_json::Value) -> String {
    match value {
        serde_json::Value::Array(items) => serde_json::json!({ "items": items }).to_string(),
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    }
}

fn condition(kind: &str, condition: Condition) -> v1::RuntimeCondition {
    let (status, reason, message) = match condition {
        Condition::Ready => (true, String::new(), String::new()),
        Condition::NotReady { reason, message } => (false, reason, message),
    };
    v1::RuntimeCondition { r#type: kind.to_owned(), status, reason, message }
}

/// By name; the default one is first, under the empty name, and once more under its own.
fn handlers(handlers: &[Handler]) -> Vec<v1::RuntimeHandler> {
    let entry = |name: &str, handler: &Handler| v1::RuntimeHandler {
        name: name.to_owned(),
        features: Some(v1::RuntimeHandlerFeatures {
            recursive_read_only_mounts: handler.recursive_read_only,
            user_namespaces: handler.user_namespaces,
        }),
    };
    let mut sorted: Vec<&Handler> = handlers.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let default = handlers.iter().filter(|handler| handler.default).map(|handler| entry("", handler));
    default.chain(sorted.into_iter().map(|handler| entry(&handler.name, handler))).collect()
}

pub(super) async fn runtime_config(
    rpc: &RuntimeRpc,
    _: v1::RuntimeConfigRequest,
) -> Result<v1::RuntimeConfigResponse, Status> {
    let driver = match rpc.pods.config().cgroup_driver {
        CgroupDriver::Systemd => v1::CgroupDriver::Systemd,
        CgroupDriver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
    };
    let linux = v1::LinuxRuntimeConfiguration { cgroup_driver: driver.into() };
    Ok(v1::RuntimeConfigResponse { linux: Some(linux) })
}

/// The kubelet tells pod CIDRs here; nothing told is nothing changed.
pub(super) async fn update_runtime_config(
    rpc: &RuntimeRpc,
    request: v1::UpdateRuntimeConfigRequest,
) -> Result<v1::UpdateRuntimeConfigResponse, Status> {
    let cidr = request.runtime_config.and_then(|config| config.network_config).unwrap_or_default().pod_cidr;
    if let Some(bad) = cidr.split(',').filter(|part| !part.is_empty()).find(|part| !is_cidr(part)) {
        let why = format!("{bad:?} is not an address and a prefix length");
        return Err(Invalid::new("runtime_config.network_config.pod_cidr", why).into());
    }
    if cidr.is_empty() {
        return Ok(v1::UpdateRuntimeConfigResponse {});
    }
    let node = Arc::clone(&rpc.node);
    // It renames a file into place.
    let set = tokio::task::spawn_blocking(move || (node.set_pod_cidr)(&cidr)).await;
    set.map_err(|_| Status::internal("set the pod CIDR: interrupted"))?.map_err(status)?;
    Ok(v1::UpdateRuntimeConfigResponse {})
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let bits = match address.trim().parse() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.trim().parse::<u8>().is_ok_and(|length| length <= bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_handler_is_listed_under_both_names() {
        let handler = |name: &str, default| Handler {
            name: name.into(),
            default,
            recursive_read_only: default,
            user_namespaces: false,
        };
        let listed = handlers(&[handler("runc", false), handler("crun", true)]);
        let names: Vec<_> = listed.iter().map(|h| h.name.as_str()).collect();
        assert_eq!(names, ["", "crun", "runc"]);
        assert!(listed[0].features.as_ref().unwrap().recursive_read_only_mounts);
    }

    #[test]
    fn cidrs_are_told_from_other_text() {
        for good in ["10.0.0.0/8", "fd00::/64", "10.88.0.0/16"] {
            assert!(is_cidr(good), "{good}");
        }
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/-1", "fd00::/129"] {
            assert!(!is_cidr(bad), "{bad}");
        }
    }
}
