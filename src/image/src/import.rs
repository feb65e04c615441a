//! Importing archives: an OCI layout as a directory or in a tar, or what `docker save` writes
//! (OCI image-spec, image-layout.md; moby, image/spec/v1.2.md).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Classify, Digest, ErrorKind, ImageId, ImageRef, limits};
use serde::Deserialize;

use crate::archive::{self, ArchiveError, Files};
use crate::assemble::{AssembleError, Plan};
use crate::hash;
use crate::images::{Images, Shared};
use crate::manifest::{DEPTH_MAX, Descriptor, Manifest, ManifestError, Platform};
use crate::pull::{PullFailure, read_config};
use crate::source::{From, Source};
use crate::unpack::Expected;

/// How to import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The name to give the image, instead of those that the archive has. For archives of one image.
    pub name: Option<ImageRef>,
}

/// An image that was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Its id.
    pub id: ImageId,
    /// The names it has from this import.
    pub names: Vec<String>,
}

/// An import that failed; of the image that failed nothing is left.
#[derive(Debug, thiserror::Error)]
#[error("import {}", .path.display())]
pub struct ImportError {
    path: PathBuf,
    #[source]
    failure: ImportFailure,
}

/// The stage that failed, and why.
#[derive(Debug, thiserror::Error)]
pub enum ImportFailure {
    /// The archive.
    #[error("read the archive")]
    Archive(#[source] ArchiveError),
    /// Neither kind of archive.
    #[error("it is neither an OCI layout nor a docker archive: it has no index.json and no manifest.json")]
    Unknown,
    /// One of its documents.
    #[error("read {name}")]
    Document {
        /// The file.
        name: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A document is not the one that is named.
    #[error("{name} does not have the digest of its name")]
    Digest {
        /// The file.
        name: String,
    },
    /// A manifest.
    #[error("choose the image")]
    Manifest(#[source] ManifestError),
    /// A configuration.
    #[error("read the image's configuration")]
    Config(#[source] Box<PullFailure>),
    /// A name was given for several images.
    #[error("it has {0} images, and one name was given")]
    OneName(usize),
    /// No image in it.
    #[error("it has no image")]
    Empty,
    /// Layers or the commit.
    #[error(transparent)]
    Assemble(AssembleError),
    /// The thread that read it ended before it was done.
    #[error("interrupted")]
    Interrupted,
}

impl Classify for ImportError {
    fn kind(&self) -> ErrorKind {
        match &self.failure {
            ImportFailure::Archive(error) => match error.io() {
                Some(io) if io.kind() == std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                Some(io) => model::error::io_kind(io),
                None => ErrorKind::Invalid,
            },
            ImportFailure::Manifest(error) => error.kind(),
            ImportFailure::Config(error) => error.kind(),
            ImportFailure::Assemble(error) => error.kind(),
            ImportFailure::Digest { .. } => ErrorKind::Corrupt,
            ImportFailure::Interrupted => ErrorKind::Internal,
            ImportFailure::Unknown
            | ImportFailure::Document { .. }
            | ImportFailure::OneName(_)
            | ImportFailure::Empty => ErrorKind::Invalid,
        }
    }
}

/// The lists at an archive's root, bytes.
const LIST_BYTES_MAX: usize = limits::MANIFEST_BYTES_MAX;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Layout {
    manifests: Vec<Descriptor>,
}

impl Images {
    /// Imports every image of an archive, plain or compressed, or of an OCI layout directory.
    ///
    /// # Errors
    /// The stage that failed.
    pub async fn import(&self, path: &Path, options: ImportOptions) -> Result<Vec<Imported>, ImportError> {
        let failed = |failure| ImportError { path: path.to_owned(), failure };
        let (shared, from) = (self.shared.clone(), path.to_owned());
        let read =
            tokio::task::spawn_blocking(move || shared.read_archive(&from, options.name.as_ref())).await;
        let (files, plans) = read.unwrap_or(Err(ImportFailure::Interrupted)).map_err(failed)?;
        let mut imported = Vec::new();
        for plan in plans {
            let names = plan.repo_tags.iter().chain(&plan.repo_digests).cloned().collect();
            let id =
                self.shared.assemble(plan).await.map_err(|error| failed(ImportFailure::Assemble(error)))?;
            tracing::info!(image.id = %id, ?names, "image imported");
            imported.push(Imported { id, names });
        }
        drop(files);
        Ok(imported)
    }
}

impl Shared {
    fn read_archive(
        &self,
        path: &Path,
        name: Option<&ImageRef>,
    ) -> Result<(Files, Vec<Plan>), ImportFailure> {
        archive::check(path).map_err(ImportFailure::Archive)?;
        let files = Files::open(path, &self.layers).map_err(ImportFailure::Archive)?;
        let mut plans = if archive::has(&files, "index.json") {
            let layout: Layout = document(&files, "index.json")?;
            let mut plans = Vec::new();
            for descriptor in layout.manifests {
                plans.extend(oci_image(&files, &descriptor, name)?);
            }
            plans
        } else if archive::has(&files, "manifest.json") {
            let images: Vec<DockerImage> = document(&files, "manifest.json")?;
            images.iter().map(|image| docker_image(&files, image)).collect::<Result<_, _>>()?
        } else {
            return Err(ImportFailure::Unknown);
        };
        match (plans.len(), name) {
            (0, _) => return Err(ImportFailure::Empty),
            (1, Some(name)) => plans[0].repo_tags = Vec::from_iter(name.tagged()),
            (several, Some(_)) => return Err(ImportFailure::OneName(several)),
            (_, None) => {}
        }
        Ok((files, plans))
    }
}

fn document<T: serde::de::DeserializeOwned>(files: &Files, name: &str) -> Result<T, ImportFailure> {
    let bytes = files.read(name, LIST_BYTES_MAX).map_err(ImportFailure::Archive)?;
    serde_json::from_slice(&bytes).map_err(|source| ImportFailure::Document { name: name.to_owned(), source })
}

/// A blob of an OCI layout, verified.
fn blob(files: &Files, digest: &Digest, max: usize) -> Result<Vec<u8>, ImportFailure> {
    let name = blob_name(digest);
    let bytes = files.read(&name, max).map_err(ImportFailure::Archive)?;
    if hash::is_of(digest, &bytes) { Ok(bytes) } else { Err(ImportFailure::Digest { name }) }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// The image that an entry of an OCI layout's index names. Attestations are none.
fn oci_image(
    files: &Files,
    entry: &Descriptor,
    name: Option<&ImageRef>,
) -> Result<Option<Plan>, ImportFailure> {
    if entry.platform.as_ref().is_some_and(|platform| platform.os == "unknown") {
        return Ok(None);
    }
    let mut digest = entry.digest.clone();
    for _ in 0..DEPTH_MAX {
        let bytes = blob(files, &digest, limits::MANIFEST_BYTES_MAX)?;
        match Manifest::parse(&bytes, None).map_err(ImportFailure::Manifest)? {
            Manifest::Index(manifests) => {
                let chosen = Platform::here().choose(&manifests).map_err(ImportFailure::Manifest)?;
                digest = chosen.digest.clone();
            }
            Manifest::Image { config, layers } => {
                let bytes = blob(files, &config.digest, limits::IMAGE_CONFIG_BYTES_MAX)?;
                let sources =
                    layers.iter().map(|layer| (blob_name(&layer.digest), Some(layer.digest.clone())));
                let mut plan = plan(files, &bytes, sources)?;
                let named = name.cloned().or_else(|| written_name(entry));
                if let Some(named) = named {
                    plan.repo_digests = vec![named.with_digest(&entry.digest)];
                    plan.repo_tags = Vec::from_iter(named.tagged());
                }
                return Ok(Some(plan));
            }
        }
    }
    Err(ImportFailure::Manifest(ManifestError::Depth))
}

/// containerd and Docker write the whole name; the specification's annotation may be a tag only, which
/// names nothing by itself.
fn written_name(entry: &Descriptor) -> Option<ImageRef> {
    let whole = entry.annotations.get("io.containerd.image.name");
    let specified = || {
        entry.annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains([':', '/']))
    };
    whole.or_else(specified)?.parse().ok()
}

fn docker_image(files: &Files, image: &DockerImage) -> Result<Plan, ImportFailure> {
    let bytes = files.read(&image.config, limits::IMAGE_CONFIG_BYTES_MAX).map_err(ImportFailure::Archive)?;
    let mut plan = plan(files, &bytes, image.layers.iter().map(|name| (name.clone(), None)))?;
    let tags = image.repo_tags.iter().flatten().filter_map(|tag| tag.parse::<ImageRef>().ok()?.tagged());
    plan.repo_tags = tags.collect();
    Ok(plan)
}

/// An image from its configuration and its layers' files, each with its digest where that is known.
fn plan(
    files: &Files,
    config: &[u8],
    layers: impl ExactSizeIterator<Item = (String, Option<Digest>)>,
) -> Result<Plan, ImportFailure> {
    let id = ImageId(hash::sha256(config));
    let config = read_config(config, layers.len()).map_err(|error| ImportFailure::Config(Box::new(error)))?;
    let layers = layers.zip(&config.diff_ids).map(|((name, digest), diff_id)| {
        let part = files.part(&name).map_err(ImportFailure::Archive)?;
        let shown = digest.clone().unwrap_or_else(|| diff_id.clone());
        let from = From::File { file: part.file, offset: part.offset };
        let source = Source { from, digest: shown, size: part.size, progress: None };
        Ok((Expected { digest, size: part.size, diff_id: diff_id.clone() }, source))
    });
    let layers = layers.collect::<Result<_, _>>()?;
    Ok(Plan { id, layers, config: Arc::new(config), repo_tags: vec![], repo_digests: vec![], progress: None })
}
