//! What an image is to the other rooms, and how its configuration is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Digest, ImageId, StringMap, UnixNanos};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// An image that is on this node, as it was at the moment it was asked for.
#[derive(Clone, Debug)]
pub struct Image {
    /// `sha256:<digest of the configuration>`.
    pub id: ImageId,
    /// `domain/path:tag`, sorted. Empty where it was pulled by digest only, or its tags have moved on.
    pub repo_tags: Vec<String>,
    /// `domain/path@digest`, sorted.
    pub repo_digests: Vec<String>,
    /// Bytes on disk: its layers, shared or not, and its configuration. Never 0.
    pub size: u64,
    /// Whether the configuration of this node pins it.
    pub pinned: bool,
    /// When it first came to this node.
    pub pulled_at: UnixNanos,
    /// Its configuration.
    pub config: Arc<ImageConfigData>,
    /// Its layers' diff ids, base first.
    pub layers: Vec<Digest>,
    /// The chain id of all its layers (OCI image-spec, config.md); the zero-layer image has none.
    pub chain_id: Option<Digest>,
    /// The directories to stack, base first: `layers` without repetitions, and mended directories between.
    pub(crate) stack: Vec<Digest>,
}

/// The part of an image's configuration that containers are made from (OCI image-spec, config.md).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfigData {
    /// `user`, `uid`, `user:group` or `uid:gid`; empty is root.
    pub user: String,
    /// `KEY=value`, in order.
    pub env: Vec<String>,
    /// What runs.
    pub entrypoint: Vec<String>,
    /// Its arguments.
    pub cmd: Vec<String>,
    /// Empty is `/`.
    pub working_dir: String,
    /// A signal's name or number, as the image wrote it.
    pub stop_signal: Option<String>,
    /// Paths that want a volume of their own, sorted.
    pub volumes: Vec<String>,
    /// The image's labels.
    pub labels: StringMap,
    /// `80/tcp`, sorted.
    pub exposed_ports: Vec<String>,
    /// `amd64`, as Go names it.
    pub architecture: String,
    /// `v8`, where the architecture has variants.
    pub variant: String,
    /// `linux`.
    pub os: String,
    /// RFC 3339, as the image wrote it.
    pub created: Option<String>,
    /// Layers' diff ids, base first.
    pub diff_ids: Vec<Digest>,
    /// The whole configuration, byte for byte.
    pub raw: String,
}

/// Why bytes are not an image configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not UTF-8.
    #[error("not UTF-8")]
    Utf8(#[source] std::str::Utf8Error),
    /// Not the JSON that the image-spec describes.
    #[error("not an image configuration")]
    Json(#[source] serde_json::Error),
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    config: Option<Run>,
    rootfs: RootFs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Run {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    labels: Option<StringMap>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

impl ImageConfigData {
    /// Reads a configuration as OCI and Docker write it. Fields that are null count as absent.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let raw = std::str::from_utf8(bytes).map_err(ConfigError::Utf8)?;
        let document: Document = serde_json::from_str(raw).map_err(ConfigError::Json)?;
        let run = document.config.unwrap_or_default();
        Ok(Self {
            user: run.user.unwrap_or_default(),
            env: run.env.unwrap_or_default(),
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            stop_signal: run.stop_signal.filter(|signal| !signal.is_empty()),
            volumes: run.volumes.unwrap_or_default().into_keys().collect(),
            labels: run.labels.unwrap_or_default(),
            exposed_ports: run.exposed_ports.unwrap_or_default().into_keys().collect(),
            architecture: document.architecture.unwrap_or_default(),
            variant: document.variant.unwrap_or_default(),
            os: document.os.unwrap_or_default(),
            created: document.created,
            diff_ids: document.rootfs.diff_ids.unwrap_or_default(),
            raw: raw.to_owned(),
        })
    }
}

/// ChainID(L0) = L0; ChainID(L0|…|Ln) = SHA256(ChainID(L0|…|Ln-1) + " " + Ln) (OCI image-spec, config.md).
pub(crate) fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    let (first, rest) = diff_ids.split_first()?;
    Some(rest.iter().fold(first.clone(), |chain, diff_id| {
        Digest::sha256(Sha256::digest(format!("{chain} {diff_id}")).into())
    }))
}

/// The directories that stand for these layers, base first: of equal ones only the topmost stays.
///
/// Overlayfs refuses the same directory twice. Whatever the lower one of two equal layers says about a
/// path, the upper one says again, so that leaving out the lower changes nothing.
pub(crate) fn without_repetitions(layers: &[Digest]) -> Vec<Digest> {
    let last_of = |digest: &Digest| layers.iter().rposition(|other| other == digest);
    layers
        .iter()
        .enumerate()
        .filter(|(at, digest)| last_of(digest) == Some(*at))
        .map(|(_, digest)| digest.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_read_with_their_nulls() {
        let data = ImageConfigData::parse(
            br#"{"architecture":"amd64","os":"linux","created":"2024-01-01T00:00:00Z",
            "config":{"User":"1000:2000","Env":null,"Entrypoint":["/e"],"Cmd":null,"Volumes":{"/b":{},"/a":{}},
            "Labels":null,"ExposedPorts":{"80/tcp":{}},"StopSignal":"","Healthcheck":{"Test":[]}},
            "rootfs":{"type":"layers","diff_ids":null},"history":[{}]}"#,
        )
        .unwrap();
        assert_eq!((data.user.as_str(), data.os.as_str()), ("1000:2000", "linux"));
        assert_eq!((data.env.len(), data.stop_signal), (0, None));
        assert_eq!(data.volumes, ["/a", "/b"]);
        assert!(ImageConfigData::parse(b"{}").is_err(), "no rootfs");
        assert!(ImageConfigData::parse(b"\xff").is_err());
    }

    #[test]
    fn of_equal_layers_the_topmost_stays() {
        let [a, b, c] = [1, 2, 3].map(|n| Digest::sha256([n; 32]));
        let layers = [&a, &b, &a, &c, &b].map(Clone::clone);
        assert_eq!(without_repetitions(&layers), [a, c, b]);
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let [a, b] = [1, 2].map(|n| Digest::sha256([n; 32]));
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(std::slice::from_ref(&a)), Some(a.clone()));
        let expected = Digest::sha256(Sha256::digest(format!("{a} {b}")).into());
        assert_eq!(chain_id(&[a, b]), Some(expected));
    }
}
