//! Manifests and indexes, OCI's and Docker's (OCI image-spec, manifest.md and image-index.md; distribution,
//! docs/spec/manifest-v2-2.md), and the choice among platforms.

use model::{Classify, Digest, ErrorKind, limits};
use serde::Deserialize;

/// What we can read, in the order we like it.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

/// An index within an index within an index is somebody's mistake.
pub(crate) const DEPTH_MAX: usize = 4;

/// A pointer to content.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
}

/// What a manifest's image runs on, in Go's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) variant: String,
}

/// A document that a reference may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Manifest {
    /// One image.
    Image { config: Descriptor, layers: Vec<Descriptor> },
    /// One of several images.
    Index(Vec<Descriptor>),
}

/// Why a document is not the manifest of an image that can run here.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of the expected shape.
    #[error("read the manifest")]
    Json(#[source] serde_json::Error),
    /// Neither a manifest nor an index, or one of Docker's first schema.
    #[error("{0} is no manifest that can be read here")]
    Type(String),
    /// A chart, a policy, a WASM module: anything that is no image.
    #[error("it is not a container image: its configuration is of type {0}")]
    Artifact(String),
    /// No image for this machine.
    #[error("there is no image for {wanted}; there is {}", if .found.is_empty() { "none" } else { .found })]
    Platform {
        /// This machine's platform.
        wanted: String,
        /// Those that there are.
        found: String,
    },
    /// More layers than can be stacked.
    #[error("the image has {0} layers, {max} can be stacked", max = limits::IMAGE_LAYERS_MAX)]
    TooManyLayers(usize),
    /// Indexes in indexes.
    #[error("indexes are nested too deep")]
    Depth,
}

impl Classify for ManifestError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Json(_) | Self::Type(_) | Self::Artifact(_) | Self::TooManyLayers(_) | Self::Depth => {
                ErrorKind::Invalid
            }
            Self::Platform { .. } => ErrorKind::NotFound,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    schema_version: u32,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Manifest {
    /// Reads a document; its shape decides, because what registries call it is not always so.
    pub(crate) fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Self, ManifestError> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        match (raw.manifests, raw.config) {
            (Some(manifests), None) => Ok(Self::Index(manifests)),
            (None, Some(config)) => {
                let layers = raw.layers.unwrap_or_default();
                if !is_image_config(&config.media_type) {
                    return Err(ManifestError::Artifact(config.media_type));
                }
                if layers.len() > limits::IMAGE_LAYERS_MAX {
                    return Err(ManifestError::TooManyLayers(layers.len()));
                }
                Ok(Self::Image { config, layers })
            }
            _ if raw.schema_version == 1 => {
                Err(ManifestError::Type("a manifest of Docker's schema 1".into()))
            }
            _ => {
                let said =
                    if raw.media_type.is_empty() { media_type.unwrap_or("this") } else { &raw.media_type };
                Err(ManifestError::Type(said.to_owned()))
            }
        }
    }
}

fn is_image_config(media_type: &str) -> bool {
    const TYPES: [&str; 4] = [
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
        // What old builders wrote.
        "application/octet-stream",
        "",
    ];
    TYPES.contains(&media_type)
}

impl Platform {
    /// This machine's.
    pub(crate) fn here() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }

    /// How well an image for `other` runs here: 0 not at all, more is better.
    fn score(&self, other: &Self) -> u32 {
        if self.os != other.os || self.architecture != other.architecture {
            return 0;
        }
        let level = |variant: &str| variant.strip_prefix('v').and_then(|level| level.parse::<u32>().ok());
        match (self.architecture.as_str(), level(&self.variant), level(&other.variant)) {
            _ if self.variant == other.variant => 100,
            // Without a variant an image is for the whole architecture.
            (_, _, None) if other.variant.is_empty() => 90,
            // An older ARM runs on a newer one.
            ("arm", Some(ours), Some(theirs)) if theirs <= ours => 50 + theirs,
            // x86-64's first level is what every such machine has.
            ("amd64", _, Some(1)) => 95,
            _ => 0,
        }
    }

    fn told(&self) -> String {
        let parts = [&self.os, &self.architecture, &self.variant];
        parts.into_iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("/")
    }

    /// The entry of an index that fits best; the first of equals. One that does not say is taken last.
    pub(crate) fn choose<'m>(&self, manifests: &'m [Descriptor]) -> Result<&'m Descriptor, ManifestError> {
        let score =
            |descriptor: &Descriptor| descriptor.platform.as_ref().map_or(1, |other| self.score(other));
        let mut best: Option<(&Descriptor, u32)> = None;
        for descriptor in manifests {
            let score = score(descriptor);
            if score > best.map_or(0, |(_, best)| best) {
                best = Some((descriptor, score));
            }
        }
        best.map(|(descriptor, _)| descriptor).ok_or_else(|| {
            let found: Vec<_> =
                manifests.iter().filter_map(|m| m.platform.as_ref()).map(Self::told).collect();
            ManifestError::Platform { wanted: self.told(), found: found.join(", ") }
        })
    }

    /// Whether an image whose configuration says `other` runs here; what it leaves out fits.
    pub(crate) fn check(&self, other: &Self) -> Result<(), ManifestError> {
        let os = if other.os.is_empty() { &self.os } else { &other.os };
        let architecture =
            if other.architecture.is_empty() { &self.architecture } else { &other.architecture };
        let fits = *os == self.os && *architecture == self.architecture;
        let refusal = || ManifestError::Platform { wanted: self.told(), found: other.told() };
        if fits { Ok(()) } else { Err(refusal()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(n: u8, platform: Option<(&str, &str, &str)>) -> Descriptor {
        Descriptor {
            media_type: String::new(),
            digest: Digest::sha256([n; 32]),
            size: 1,
            platform: platform.map(|(os, architecture, variant)| Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: variant.into(),
            }),
            annotations: Default::default(),
        }
    }

    fn platform(architecture: &str, variant: &str) -> Platform {
        Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }

    #[test]
    fn the_platform_that_fits_best_is_chosen() {
        let index = [
            descriptor(0, Some(("unknown", "unknown", ""))),
            descriptor(1, Some(("linux", "arm", "v6"))),
            descriptor(2, Some(("linux", "arm", "v7"))),
            descriptor(3, Some(("linux", "amd64", "v3"))),
            descriptor(4, Some(("windows", "amd64", ""))),
            descriptor(5, Some(("linux", "amd64", ""))),
            descriptor(6, Some(("linux", "arm64", ""))),
        ];
        for (machine, chosen) in [
            (platform("amd64", ""), Some(5)),
            (platform("arm64", "v8"), Some(6)),
            (platform("arm", "v7"), Some(2)),
            (platform("arm", "v6"), Some(1)),
            (platform("arm", "v5"), None),
            (platform("s390x", ""), None),
        ] {
            let found = machine.choose(&index).ok().map(|d| d.digest.clone());
            assert_eq!(found, chosen.map(|n| Digest::sha256([n; 32])), "{machine:?}");
        }
        let error = platform("s390x", "").choose(&index[1..3]).unwrap_err().to_string();
        assert_eq!(error, "there is no image for linux/s390x; there is linux/arm/v6, linux/arm/v7");
        let single = [descriptor(9, None)];
        assert!(platform("amd64", "").choose(&single).is_ok(), "one that does not say");
    }

    #[test]
    fn documents_are_told_by_their_shape() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let d = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":3}}"#);
        let image = d("application/vnd.oci.image.config.v1+json");
        let read = |text: String| Manifest::parse(text.as_bytes(), None);
        assert!(matches!(
            read(format!(r#"{{"schemaVersion":2,"config":{image},"layers":[{}]}}"#, d("x"))),
            Ok(Manifest::Image { layers, .. }) if layers.len() == 1
        ));
        assert!(matches!(read(format!(r#"{{"manifests":[{image}]}}"#)), Ok(Manifest::Index(_))));
        for (text, why) in [
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), "schema 1"),
            (
                format!(r#"{{"config":{},"layers":[]}}"#, d("application/vnd.cncf.helm.config.v1+json")),
                "helm",
            ),
            ("{}".to_owned(), "no manifest"),
            ("[".to_owned(), "read the manifest"),
            (r#"{"config":{"digest":"sha256:../../x","size":1}}"#.to_owned(), "read the manifest"),
            (
                format!(r#"{{"config":{image},"layers":[{}]}}"#, vec![image.clone(); 501].join(",")),
                "501 layers",
            ),
        ] {
            let error = read(text.clone()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
