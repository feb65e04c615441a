//! PodSandboxConfig and ImageSpec to the model.

use std::net::IpAddr;

use api::v1;
use model::{DnsConfig, ImageSpec, PodConfig, PodIdentity, PortMapping, Protocol};

use super::resources::resources;
use super::security::pod_security;
use super::sysctls::sysctls;
use super::text;
use crate::convert::{Invalid, Under as _};

/// sethostname(2): HOST_NAME_MAX.
const HOSTNAME_BYTES_MAX: usize = 64;

/// A whole sandbox. Whether the handler exists is the pod room's to say.
pub(crate) fn pod_config(
    config: Option<v1::PodSandboxConfig>,
    runtime_handler: String,
) -> Result<PodConfig, Invalid> {
    let config = config.ok_or_else(|| Invalid::missing("config"))?;
    inner(config, runtime_handler).under("config")
}

fn inner(from: v1::PodSandboxConfig, runtime_handler: String) -> Result<PodConfig, Invalid> {
    if from.windows.is_some() {
        return Err(Invalid::new("windows", "is set, and this is Linux"));
    }
    let metadata = from.metadata.ok_or_else(|| Invalid::missing("metadata"))?;
    let linux = from.linux.unwrap_or_default();
    let security =
        pod_security(linux.security_context.unwrap_or_default()).under("linux.security_context")?;
    let mut port_mappings = Vec::new();
    for (i, mapping) in from.port_mappings.into_iter().enumerate() {
        port_mappings.extend(port_mapping(mapping).under(format_args!("port_mappings[{i}]"))?);
    }
    Ok(PodConfig {
        identity: identity(metadata).under("metadata")?,
        hostname: hostname(from.hostname)?,
        log_directory: match from.log_directory.is_empty() {
            true => None,
            false => Some(text::absolute("log_directory", from.log_directory)?),
        },
        dns: from.dns_config.map(dns).transpose().under("dns_config")?,
        port_mappings,
        labels: text::labels("labels", from.labels)?,
        annotations: text::annotations("annotations", from.annotations)?,
        cgroup_parent: cgroup_parent(linux.cgroup_parent).under("linux")?,
        sysctls: sysctls(linux.sysctls, &security.namespaces).under("linux")?,
        overhead: linux.overhead.map(resources).transpose().under("linux.overhead")?,
        resources: linux.resources.map(resources).transpose().under("linux.resources")?,
        security,
        runtime_handler,
    })
}

fn identity(from: v1::PodSandboxMetadata) -> Result<PodIdentity, Invalid> {
    Ok(PodIdentity {
        namespace: text::name("namespace", from.namespace)?,
        name: text::name("name", from.name)?,
        uid: text::name("uid", from.uid)?,
        attempt: from.attempt,
    })
}

fn hostname(hostname: String) -> Result<String, Invalid> {
    let why = if hostname.len() > HOSTNAME_BYTES_MAX {
        format!("is longer than {HOSTNAME_BYTES_MAX} bytes")
    } else if hostname.chars().any(|c| c == '/' || c.is_control() || c.is_whitespace()) {
        format!("{hostname:?} is not a host name")
    } else {
        return Ok(hostname);
    };
    Err(Invalid::new("hostname", why))
}

fn cgroup_parent(parent: String) -> Result<String, Invalid> {
    // Relative forms are a slice's name or a path below the root; neither may climb.
    text::relative("cgroup_parent", parent.trim_start_matches('/').to_owned())?;
    Ok(parent)
}

fn dns(from: v1::DnsConfig) -> Result<DnsConfig, Invalid> {
    let words = |field: &'static str, words: Vec<String>| match words.iter().find(|word| {
        // An option is one word as well; anything else would be another line of the file.
        word.is_empty() || word.chars().any(|c| c.is_whitespace() || c.is_control())
    }) {
        Some(word) => Err(Invalid::new(field, format!("{word:?} is not one word"))),
        None => Ok(words),
    };
    Ok(DnsConfig {
        servers: words("servers", from.servers)?,
        searches: words("searches", from.searches)?,
        options: words("options", from.options)?,
    })
}

/// A host port of 0 is none: the mapping says only what the container listens on.
fn port_mapping(from: v1::PortMapping) -> Result<Option<PortMapping>, Invalid> {
    let port = |field: &str, number: i32| {
        u16::try_from(number).map_err(|_| Invalid::new(field, format!("{number} is not a port")))
    };
    let protocol = match v1::Protocol::try_from(from.protocol) {
        Ok(v1::Protocol::Tcp) => Protocol::Tcp,
        Ok(v1::Protocol::Udp) => Protocol::Udp,
        Ok(v1::Protocol::Sctp) => Protocol::Sctp,
        Err(_) => {
            return Err(Invalid::new("protocol", format!("{} is not a protocol of CRI", from.protocol)));
        }
    };
    let host_ip = match from.host_ip.as_str() {
        "" => None,
        text => {
            let ip: IpAddr = text
                .parse()
                .map_err(|_| Invalid::new("host_ip", format!("{text:?} is not an IP address")))?;
            // 0.0.0.0 and :: are every address, which is also what nothing means.
            Some(ip).filter(|ip| !ip.is_unspecified())
        }
    };
    let (container_port, host_port) =
        (port("container_port", from.container_port)?, port("host_port", from.host_port)?);
    if host_port == 0 {
        return Ok(None);
    }
    if container_port == 0 {
        return Err(Invalid::new("container_port", "is 0 beside a host_port"));
    }
    Ok(Some(PortMapping { protocol, container_port, host_port, host_ip }))
}

/// An image by any of its names; there must be one.
pub(crate) fn image_spec(from: Option<v1::ImageSpec>) -> Result<ImageSpec, Invalid> {
    let from = from.unwrap_or_default();
    if from.image.is_empty() {
        return Err(Invalid::new("image", "is empty"));
    }
    Ok(ImageSpec {
        image: text::no_nul("image", from.image)?,
        annotations: from.annotations,
        user_specified_image: from.user_specified_image,
        runtime_handler: from.runtime_handler,
        image_ref: from.image_ref,
    })
}
