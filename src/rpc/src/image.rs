//! ImageService: validate, ask the image room, reply.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ::image::{Credentials, FsUsage, Image, Images, PullRequest};
use api::List;
use api::served::image_service_server::ImageService;
use api::v1::{
    AuthConfig, FilesystemIdentifier, FilesystemUsage, ImageFilter, ImageFsInfoRequest, ImageFsInfoResponse,
    ImageStatusRequest, ImageStatusResponse, ListImagesRequest, PullImageRequest, PullImageResponse,
    RemoveImageRequest, RemoveImageResponse, StreamImagesRequest, UInt64Value,
};
use bytes::Bytes;
use model::{ImageRef, ImageSpec};
use tonic::{Request, Response, Status};
use tracing::Span;

use crate::convert::request::image_spec;
use crate::convert::{Invalid, Under as _, reply};
use crate::status::status;
use crate::streams::{Chunks, chunks, encoded, whole};

/// The image service.
#[derive(Clone)]
pub struct ImageRpc {
    images: Images,
    handlers: Arc<BTreeSet<String>>,
}

impl ImageRpc {
    /// Serves these images, to pods of the handlers with these names.
    pub fn new(images: Images, handlers: impl IntoIterator<Item = String>) -> Self {
        Self { images, handlers: Arc::new(handlers.into_iter().collect()) }
    }

    /// All images, or the one that the filter names. An unknown name is an empty list.
    fn listed(
        &self,
        filter: Option<ImageFilter>,
    ) -> Result<impl Iterator<Item = Bytes> + Send + use<>, Status> {
        let spec = filter.and_then(|filter| filter.image).unwrap_or_default();
        self.check_handler(&spec.runtime_handler).under("filter.image")?;
        let images = match spec.image.is_empty() {
            true => self.images.list(),
            false => self.images.find(&spec.image).map_err(status)?.into_iter().collect(),
        };
        Ok(images.into_iter().map(|image| encoded(&reply::image(&image))))
    }

    /// The image that a request is about, for a handler that there is.
    fn asked(&self, spec: Option<api::v1::ImageSpec>) -> Result<ImageSpec, Invalid> {
        let spec = named(spec)?;
        self.check_handler(&spec.runtime_handler).under("image")?;
        Ok(spec)
    }

    /// A known handler makes no difference: all share one snapshotter, so an image is unpacked for all of
    /// them or for none. The empty name means the default one.
    fn check_handler(&self, name: &str) -> Result<(), Invalid> {
        if name.is_empty() || self.handlers.contains(name) {
            return Ok(());
        }
        let known = self.handlers.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        Err(Invalid::new("runtime_handler", format!("{name:?} is not configured; known are {known}")))
    }
}

/// A spec that must name an image; the span gets the name.
fn named(spec: Option<api::v1::ImageSpec>) -> Result<ImageSpec, Invalid> {
    let spec = image_spec(spec).under("image")?;
    Span::current().record("image.ref", spec.image.as_str());
    Ok(spec)
}

fn credentials(auth: AuthConfig) -> Credentials {
    let AuthConfig { username, password, auth, server_address, identity_token, registry_token } = auth;
    Credentials { username, password, auth, server_address, identity_token, registry_token }
}

#[tonic::async_trait]
impl ImageService for ImageRpc {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Result<Response<List>, Status> {
        whole(self.listed(request.into_inner().filter)?, "StreamImages").map(Response::new)
    }

    type StreamImagesStream = Chunks;

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        Ok(Response::new(chunks(self.listed(request.into_inner().filter)?)))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let spec = self.asked(request.image)?;
        // An absent image is an empty reply (CRI: "Status of the image").
        let Some(image) = self.images.find(&spec.image).map_err(status)? else {
            return Ok(Response::new(ImageStatusResponse::default()));
        };
        let info = if request.verbose { verbose(&image) } else { BTreeMap::new() };
        Ok(Response::new(ImageStatusResponse { image: Some(reply::image(&image)), info }))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        let request = request.into_inner();
        let spec = self.asked(request.image)?;
        // Whose pull it is; nothing else depends on it.
        if let Some(metadata) = request.sandbox_config.and_then(|config| config.metadata) {
            Span::current().record("pod.name", metadata.name).record("pod.namespace", metadata.namespace);
        }
        let reference: ImageRef =
            spec.image.parse().map_err(|error| Invalid::new("image.image", model::chain(&error)))?;
        let auth = request.auth.map(credentials);
        let pull = PullRequest { reference, auth, progress: None };
        let id = self.images.pull(pull).await.map_err(status)?;
        Ok(Response::new(PullImageResponse { image_ref: id.to_string() }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        // Any handler's: what a handler left behind that is gone from the configuration must be removable.
        let spec = named(request.into_inner().image)?;
        self.images.remove(&spec.image).await.map_err(status)?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        Ok(Response::new(ImageFsInfoResponse {
            image_filesystems: vec![fs_usage(&self.images.usage())],
            // Under the same name where it is the same file system: the kubelet then looks at one only.
            container_filesystems: vec![fs_usage(&self.images.writable_usage())],
        }))
    }
}

fn fs_usage(usage: &FsUsage) -> FilesystemUsage {
    FilesystemUsage {
        timestamp: usage.at,
        fs_id: Some(FilesystemIdentifier { mountpoint: usage.mountpoint.display().to_string() }),
        used_bytes: Some(UInt64Value { value: usage.bytes }),
        inodes_used: Some(UInt64Value { value: usage.inodes }),
    }
}

/// One JSON object: crictl refuses a value that begins with a brace and is not an object.
fn verbose(image: &Image) -> BTreeMap<String, String> {
    // The image's own bytes; pulling refused what is not JSON.
    let spec: serde_json::Value = serde_json::from_str(&image.config.raw).unwrap_or_default();
    let info = serde_json::json!({
        "chainID": image.chain_id.as_ref().map(ToString::to_string),
        "diffIDs": image.layers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "pulledAt": image.pulled_at,
        "imageSpec": spec,
        "labels": image.config.labels,
    });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}
