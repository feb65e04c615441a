//! ContainerConfig to the model.

use api::v1;
use model::ContainerConfig;

use super::mounts::{cdi_device, device, mount};
use super::pod::image_spec;
use super::resources::resources;
use super::security::container_security;
use super::text;
use crate::convert::enums::stop_signal;
use crate::convert::invalid::each;
use crate::convert::{Invalid, Under as _};

/// A whole container. What its image and its sandbox say about it is the pod room's to join.
pub(crate) fn container_config(config: Option<v1::ContainerConfig>) -> Result<ContainerConfig, Invalid> {
    let config = config.ok_or_else(|| Invalid::missing("config"))?;
    container(config).under("config")
}

/// As [`container_config`], for a message that is there; what is wrong with it is told by the fields in it.
pub(crate) fn container(from: v1::ContainerConfig) -> Result<ContainerConfig, Invalid> {
    if from.windows.is_some() {
        return Err(Invalid::new("windows", "is set, and this is Linux"));
    }
    let metadata = from.metadata.ok_or_else(|| Invalid::missing("metadata"))?;
    let linux = from.linux.unwrap_or_default();
    let words = |field: &'static str, words| each(words, |word| text::no_nul("", word)).under(field);
    Ok(ContainerConfig {
        name: text::name("name", metadata.name).under("metadata")?,
        attempt: metadata.attempt,
        image: image_spec(from.image).under("image")?,
        command: words("command", from.command)?,
        args: words("args", from.args)?,
        working_dir: text::no_nul("working_dir", from.working_dir)?,
        envs: each(from.envs, env).under("envs")?,
        mounts: each(from.mounts, mount).under("mounts")?,
        devices: each(from.devices, device).under("devices")?,
        cdi_devices: each(from.cdi_devices, cdi_device).under("CDI_devices")?,
        labels: text::labels("labels", from.labels)?,
        annotations: text::annotations("annotations", from.annotations)?,
        log_path: text::relative("log_path", from.log_path)?,
        log_directory: None,
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        tty: from.tty,
        resources: resources(linux.resources.unwrap_or_default()).under("linux.resources")?,
        security: container_security(linux.security_context.unwrap_or_default())
            .under("linux.security_context")?,
        stop_signal: stop_signal(from.stop_signal)?,
    })
}

fn env(from: v1::KeyValue) -> Result<(String, Vec<u8>), Invalid> {
    if from.key.is_empty() || from.key.contains(['=', '\0']) {
        return Err(Invalid::new(
            "key",
            format!("{:?} is not the name of an environment variable", from.key),
        ));
    }
    match from.value.contains(&0) {
        true => Err(Invalid::new("value", format!("of {} holds a NUL", from.key))),
        false => Ok((from.key, from.value)),
    }
}
