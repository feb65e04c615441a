//! Image volumes: an image that a pod's containers mount, read-only, once for the pod however many mount it.
//!
//! The views lie in the pod's directory and stay until the pod is stopped. The lease that the image room records
//! before it mounts one is the journal: its key names the pod, so that whatever a crash left is found by it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use image::{Image, Images, Seen, Snapshots};
use kernel::rooted;
use model::{ContainerConfig, ImageId, MountSource, PodId};

use crate::config::{PodPaths, PodsConfig};
use crate::error::{Cause, PodError};

/// The images that a container mounts, by the mount's place in its list.
pub(crate) type Wanted = BTreeMap<usize, Arc<Image>>;

/// The images that a container mounts, which must be on this node.
///
/// # Errors
/// The first that is not, with the kubelet's word for it.
pub(crate) fn find(images: &Images, container: &ContainerConfig) -> Result<Wanted, PodError> {
    let mut wanted = Wanted::new();
    for (n, mount) in container.mounts.iter().enumerate() {
        let MountSource::Image { image, .. } = &mount.source else { continue };
        let refused = |why| PodError::ImageVolume { mount: n, part: "image", why };
        match images.find(&image.image) {
            Ok(Some(found)) => drop(wanted.insert(n, found)),
            Ok(None) => {
                return Err(refused(format!("{:?} is not on this node: pull it first", image.image)));
            }
            Err(error) => return Err(refused(model::chain(&error))),
        }
    }
    Ok(wanted)
}

/// The views of this node's pods.
pub(crate) struct ImageVolumes {
    snapshots: Arc<dyn Snapshots>,
    config: Arc<PodsConfig>,
    /// Two containers of a pod that are made at once make one view.
    making: Mutex<()>,
}

impl ImageVolumes {
    pub(crate) fn new(snapshots: Arc<dyn Snapshots>, config: Arc<PodsConfig>) -> Self {
        Self { snapshots, config, making: Mutex::new(()) }
    }

    /// Makes the views that a container wants and finds its sub paths in them: the sources of its image mounts. All
    /// containers of a pod see them as the first that wanted them. Views that were made stay with the pod, also where
    /// this fails.
    ///
    /// # Errors
    /// A view that cannot be mounted, or a sub path that is no directory of the image, with the kubelet's word.
    pub(crate) fn mount(
        &self,
        pod: &PodId,
        container: &ContainerConfig,
        wanted: &Wanted,
        seen: Seen<'_>,
    ) -> Result<BTreeMap<usize, PathBuf>, PodError> {
        let mut sources = BTreeMap::new();
        for (n, image) in wanted {
            let Some(MountSource::Image { image: spec, sub_path }) =
                container.mounts.get(*n).map(|m| &m.source)
            else {
                continue;
            };
            let view = self.target(pod, &image.id);
            let made = {
                let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
                self.snapshots.view(&key(pod, &image.id), image, &view, seen)
            };
            let refused = |part, why| PodError::ImageVolume { mount: *n, part, why };
            made.map_err(|error| refused("image", model::chain(&error)))?;
            let source = sub_directory(&view, sub_path, &spec.image);
            sources.insert(*n, source.map_err(|why| refused("image_sub_path", why))?);
        }
        Ok(sources)
    }

    /// Unmounts all views of a pod and lets go of their images. None is success.
    ///
    /// # Errors
    /// The first that stayed; the others are tried all the same.
    pub(crate) fn remove(&self, pod: &PodId) -> Result<(), Cause> {
        let of_pod = |key: &String| parse(key).is_some_and(|(of, _)| of == *pod);
        self.remove_those(of_pod)
    }

    /// The same for pods that are not `known`: what no record names any more.
    ///
    /// # Errors
    /// As [`ImageVolumes::remove`].
    pub(crate) fn sweep(&self, known: impl Fn(&PodId) -> bool) -> Result<(), Cause> {
        self.remove_those(|key| parse(key).is_some_and(|(pod, _)| !known(&pod)))
    }

    fn remove_those(&self, which: impl Fn(&String) -> bool) -> Result<(), Cause> {
        let mut outcome = Ok(());
        for key in self.snapshots.views().iter().filter(|key| which(key)) {
            let Some((pod, image)) = parse(key) else { continue };
            let removed = self.snapshots.remove_view(key, &self.target(&pod, &image)).map_err(Cause::new);
            outcome = outcome.and(removed);
        }
        outcome
    }

    fn target(&self, pod: &PodId, image: &ImageId) -> PathBuf {
        PodPaths::new(&self.config, pod).image_volume(image)
    }
}

/// The name of a view, which says whose it is.
fn key(pod: &PodId, image: &ImageId) -> String {
    format!("{pod}.{}", image.0.hex())
}

fn parse(key: &str) -> Option<(PodId, ImageId)> {
    let (pod, hex) = key.split_once('.')?;
    Some((pod.parse().ok()?, ImageId(format!("sha256:{hex}").parse().ok()?)))
}

/// A directory of a view, which nobody can write to: what it is now it stays.
fn sub_directory(view: &Path, sub_path: &Path, image: &str) -> Result<PathBuf, String> {
    rooted::directory(view, sub_path).map_err(|error| match error.source.kind() {
        io::ErrorKind::NotFound => format!("sub path {sub_path:?} does not exist in image volume {image:?}"),
        io::ErrorKind::NotADirectory => {
            format!("sub path {sub_path:?} of image volume {image:?} is not a directory")
        }
        _ => format!("sub path {sub_path:?} of image volume {image:?}: {}", model::chain(&error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_named_by_its_pod_and_image() {
        let pod: PodId = "1".repeat(64).parse().unwrap();
        let image = ImageId(format!("sha256:{}", "2".repeat(64)).parse().unwrap());
        let name = key(&pod, &image);
        assert!(!name.contains('/'), "{name}");
        assert_eq!(parse(&name), Some((pod, image)));
        for other in ["", "x", "x.y", &format!("{}.", "1".repeat(64))] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_sub_path_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let view = dir.path().canonicalize().unwrap();
        std::fs::create_dir(view.join("models")).unwrap();
        std::fs::write(view.join("file"), "").unwrap();
        let ask = |sub: &str| sub_directory(&view, Path::new(sub), "web:1");
        assert_eq!(ask(""), Ok(view.clone()));
        assert_eq!(ask("models"), Ok(view.join("models")));
        assert_eq!(ask("x"), Err("sub path \"x\" does not exist in image volume \"web:1\"".into()));
        assert_eq!(ask("file"), Err("sub path \"file\" of image volume \"web:1\" is not a directory".into()));
    }
}
