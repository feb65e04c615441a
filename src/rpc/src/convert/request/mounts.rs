//! Mounts and devices to the model.

use std::path::{Component, Path};

use api::v1;
use model::{Device, Mount, MountSource, Propagation};

use super::pod::image_spec;
use super::security::id_mapping;
use super::text;
use crate::convert::invalid::each;
use crate::convert::{Invalid, Under as _};

/// What the kernel calls them, too.
const MOUNT_OPTIONS: [&str; 3] = ["noexec", "nodev", "nosuid"];

/// One mount of a container's.
pub(super) fn mount(from: v1::Mount) -> Result<Mount, Invalid> {
    let container_path = text::absolute("container_path", from.container_path)?;
    if !container_path.components().any(|part| matches!(part, Component::Normal(_))) {
        return Err(Invalid::new("container_path", "is the root directory"));
    }
    let source = source(from.host_path, from.image, from.image_sub_path)?;
    let propagation = propagation(from.propagation)?;
    if matches!(source, MountSource::Image { .. }) && propagation != Propagation::Private {
        return Err(Invalid::new("propagation", "is not PROPAGATION_PRIVATE, and this is an image"));
    }
    if from.recursive_read_only && !from.readonly {
        return Err(Invalid::new("recursive_read_only", "is set without readonly"));
    }
    if from.recursive_read_only && propagation != Propagation::Private {
        return Err(Invalid::new(
            "recursive_read_only",
            "is set, and propagation is not PROPAGATION_PRIVATE",
        ));
    }
    if let Some(option) = from.mount_options.iter().find(|option| !MOUNT_OPTIONS.contains(&option.as_str())) {
        let why = format!("{option:?} is not one of {}", MOUNT_OPTIONS.join(", "));
        return Err(Invalid::new("mount_options", why));
    }
    Ok(Mount {
        container_path,
        source,
        readonly: from.readonly,
        recursive_read_only: from.recursive_read_only,
        selinux_relabel: from.selinux_relabel,
        propagation,
        uid_mappings: each(from.uid_mappings, id_mapping).under("uidMappings")?,
        gid_mappings: each(from.gid_mappings, id_mapping).under("gidMappings")?,
        options: from.mount_options,
    })
}

/// A host path or an image: exactly one of the two.
fn source(host_path: String, image: Option<v1::ImageSpec>, sub_path: String) -> Result<MountSource, Invalid> {
    let Some(image) = image else {
        if !sub_path.is_empty() {
            return Err(Invalid::new("image_sub_path", "is set without image"));
        }
        if host_path.is_empty() {
            return Err(Invalid::new("host_path", "is empty, and there is no image"));
        }
        return text::absolute("host_path", host_path).map(MountSource::HostPath);
    };
    if !host_path.is_empty() {
        return Err(Invalid::new("host_path", "is set beside image: one of the two"));
    }
    Ok(MountSource::Image {
        image: image_spec(Some(image)).under("image")?,
        sub_path: text::relative("image_sub_path", sub_path)?,
    })
}

fn propagation(number: i32) -> Result<Propagation, Invalid> {
    match v1::MountPropagation::try_from(number) {
        Ok(v1::MountPropagation::PropagationPrivate) => Ok(Propagation::Private),
        Ok(v1::MountPropagation::PropagationHostToContainer) => Ok(Propagation::HostToContainer),
        Ok(v1::MountPropagation::PropagationBidirectional) => Ok(Propagation::Bidirectional),
        Err(_) => Err(Invalid::new("propagation", format!("{number} is not a propagation of CRI"))),
    }
}

/// One device, or a directory of devices.
pub(super) fn device(from: v1::Device) -> Result<Device, Invalid> {
    let host_path = text::absolute("host_path", from.host_path)?;
    let container_path = match from.container_path.as_str() {
        "" => host_path.clone(),
        _ => text::absolute("container_path", from.container_path)?,
    };
    let permissions = from.permissions;
    let once = |c| permissions.matches(c).count() <= 1;
    if permissions.is_empty() || !permissions.chars().all(|c| matches!(c, 'r' | 'w' | 'm') && once(c)) {
        return Err(Invalid::new("permissions", format!("{permissions:?} is not of r, w and m")));
    }
    Ok(Device { container_path, host_path, permissions })
}

/// A fully qualified CDI name, `vendor/class=device` (CDI specification, "Kind").
pub(super) fn cdi_device(from: v1::CdiDevice) -> Result<String, Invalid> {
    let parts = from.name.split_once('=').and_then(|(kind, device)| Some((kind.split_once('/')?, device)));
    match parts {
        Some(((vendor, class), device))
            if ![vendor, class, device].contains(&"") && !Path::new(class).is_absolute() =>
        {
            Ok(from.name)
        }
        _ => Err(Invalid::new("name", format!("{:?} is not vendor/class=device", from.name))),
    }
}
