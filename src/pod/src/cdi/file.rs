//! A CDI specification file: what a vendor says that a container needs for each of its devices.
//!
//! Field for field as the CDI specification (`SPEC.md`, 1.1.0) has them. Unknown fields are refused: what they mean
//! would be missing in the container.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Versions of the format. Each only adds to the one before.
const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// One file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SpecFile {
    cdi_version: String,
    /// `vendor/class`.
    pub(super) kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) devices: Vec<Device>,
    /// For a container that gets any of the devices.
    #[serde(default)]
    pub(super) container_edits: ContainerEdits,
}

/// One device.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) container_edits: ContainerEdits,
}

/// What is changed in a container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ContainerEdits {
    /// `KEY=value`.
    pub(crate) env: Vec<String>,
    pub(crate) device_nodes: Vec<DeviceNode>,
    pub(crate) net_devices: Vec<serde_json::Value>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) additional_gids: Vec<u32>,
    pub(crate) intel_rdt: Option<serde_json::Value>,
}

/// A device node to make. What is absent is the host's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct DeviceNode {
    pub(crate) path: PathBuf,
    /// Where it is on the host; absent: the same.
    pub(crate) host_path: Option<PathBuf>,
    /// `c`, `b`, `u` (also a character device), `p`.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    pub(crate) file_mode: Option<u32>,
    /// Of `r`, `w`, `m`; absent: all.
    pub(crate) permissions: Option<String>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// A mount to make.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Mount {
    pub(crate) host_path: PathBuf,
    pub(crate) container_path: PathBuf,
    /// A file system; absent: a bind mount.
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) options: Vec<String>,
}

/// A program that the OCI runtime runs at some moment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Hook {
    pub(crate) hook_name: HookName,
    pub(crate) path: PathBuf,
    #[serde(default)]
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) env: Vec<String>,
    /// Seconds.
    #[serde(default)]
    pub(crate) timeout: Option<u32>,
}

/// The moments, as the OCI runtime specification names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum HookName {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl SpecFile {
    /// Reads a file's text: JSON or YAML by its name.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Self, String> {
        let file: Self = match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => serde_json::from_slice(text).map_err(|error| error.to_string())?,
            _ => yaml_serde::from_slice(text).map_err(|error| error.to_string())?,
        };
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), String> {
        let version = self.cdi_version.strip_prefix('v').unwrap_or(&self.cdi_version);
        if !VERSIONS.contains(&version) {
            return Err(format!("cdiVersion {version:?} is not known"));
        }
        if !self.kind.split_once('/').is_some_and(|(vendor, class)| is_kind(vendor) && is_kind(class)) {
            return Err(format!("kind {:?} is not vendor/class", self.kind));
        }
        self.container_edits.check()?;
        for device in &self.devices {
            if !is_device_name(&device.name) {
                return Err(format!("{:?} is not a device's name", device.name));
            }
            device.container_edits.check().map_err(|why| format!("device {}: {why}", device.name))?;
        }
        Ok(())
    }
}

impl ContainerEdits {
    fn check(&self) -> Result<(), String> {
        let absolute = |what: &str, path: &Path| match path.is_absolute() {
            true => Ok(()),
            false => Err(format!("{what} {path:?} is not absolute")),
        };
        if let Some(env) =
            self.env.iter().find(|env| env.split_once('=').is_none_or(|(key, _)| key.is_empty()))
        {
            return Err(format!("env {env:?} is not KEY=value"));
        }
        for node in &self.device_nodes {
            absolute("deviceNodes.path", &node.path)?;
            absolute("deviceNodes.hostPath", node.host_path.as_ref().unwrap_or(&node.path))?;
            let kind = node.kind.as_deref().unwrap_or("c");
            if !["b", "c", "u", "p"].contains(&kind) {
                return Err(format!("device node {:?} is of type {kind:?}: not b, c, u or p", node.path));
            }
            if node.permissions.iter().any(|wanted| wanted.chars().any(|c| !"rwm".contains(c))) {
                return Err(format!("permissions of device node {:?} are not of r, w and m", node.path));
            }
        }
        for mount in &self.mounts {
            absolute("mounts.containerPath", &mount.container_path)?;
            if mount.container_path == Path::new("/") {
                return Err("mounts.containerPath is the root directory".to_owned());
            }
            if mount.binds() {
                absolute("mounts.hostPath", &mount.host_path)?;
            }
        }
        self.hooks.iter().try_for_each(|hook| absolute("hooks.path", &hook.path))
    }
}

impl Mount {
    /// Whether its source is a path of the host's.
    pub(crate) fn binds(&self) -> bool {
        matches!(self.kind.as_str(), "" | "none" | "bind")
    }
}

/// A vendor's or a class's name: letters, digits and inner `-_.`, beginning with a letter.
fn is_kind(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn is_device_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
}
