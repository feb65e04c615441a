//! The namespaces of a sandbox: made together, pinned, and given the host name and kernel parameters asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kernel::namespace::{self, IdMaps, Kind};
use model::NamespaceMode;

use super::{Site, files};
use crate::error::Cause;
use crate::user_namespace::id_ranges;

/// Which namespaces the pod has of its own, and where they are pinned.
fn pins(site: &Site<'_>) -> Vec<(Kind, PathBuf)> {
    let namespaces = &site.pod_config.security.namespaces;
    let paths = site.paths();
    let mut pins = Vec::new();
    if namespaces.network == NamespaceMode::Pod {
        pins.push((Kind::Net, site.builder.config.netns(site.pod)));
        // With the host's network the host's name is shown too, as every runtime does.
        pins.push((Kind::Uts, paths.uts()));
    }
    if namespaces.ipc == NamespaceMode::Pod {
        pins.push((Kind::Ipc, paths.ipc()));
    }
    pins
}

/// Where the pod's own user namespace is pinned, which owns the others then.
fn user_pin(site: &Site<'_>) -> Option<PathBuf> {
    site.pod_config.security.namespaces.own_user().map(|_| site.paths().user())
}

pub(super) fn make(site: &Site<'_>) -> impl FnOnce() -> Result<(), Cause> + use<> {
    let pins = pins(site);
    let user = user_pin(site).zip(site.pod_config.security.namespaces.own_user().cloned());
    let settings = set(site);
    move || {
        let borrowed: Vec<(Kind, &Path)> = pins.iter().map(|(kind, path)| (*kind, path.as_path())).collect();
        match &user {
            Some((pin, own)) => {
                let (users, groups) = (id_ranges(&own.uids), id_ranges(&own.gids));
                let maps = IdMaps { users: &users, groups: &groups };
                namespace::create_pinned_with_user(pin, maps, &borrowed).map_err(Cause::host)?;
            }
            None if borrowed.is_empty() => return Ok(()),
            None => namespace::create_pinned(&borrowed).map_err(Cause::host)?,
        }
        settings()
    }
}

/// Gives the pod's namespaces its name and its kernel parameters: when they are made, and when CRIU has brought those of
/// another pod.
pub(super) fn set(site: &Site<'_>) -> impl FnOnce() -> Result<(), Cause> + use<> {
    let pins = pins(site);
    let owner = site.pod_config.security.namespaces.own_user().and_then(model::UserNamespace::root);
    let hostname = files::hostname(site.pod, site.pod_config);
    let sysctls = sysctls(site);
    move || {
        let borrowed: Vec<(Kind, &Path)> = pins.iter().map(|(kind, path)| (*kind, path.as_path())).collect();
        if let Some((_, uts)) = borrowed.iter().find(|(kind, _)| *kind == Kind::Uts) {
            namespace::set_hostname_in(uts, &hostname).map_err(Cause::host)?;
        }
        if let Some((_, net)) = borrowed.iter().find(|(kind, _)| *kind == Kind::Net) {
            network::lo_up(net).map_err(Cause::host)?;
        }
        if sysctls.is_empty() {
            return Ok(());
        }
        let paths: Vec<&Path> = borrowed.iter().map(|(_, path)| *path).collect();
        let values: Vec<(&str, &str)> = sysctls.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        namespace::write_sysctls_in(&paths, owner, &values).map_err(Cause::host)
    }
}

pub(super) fn undo(site: &Site<'_>) -> impl FnOnce() -> Result<(), Cause> + use<> {
    let pins = pins(site).into_iter().map(|(_, path)| path).chain(user_pin(site)).collect::<Vec<_>>();
    move || pins.iter().try_for_each(|path| namespace::unpin(path).map_err(Cause::host))
}

/// The node's defaults for a pod's network, under what the request asks for.
fn sysctls(site: &Site<'_>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    if site.pod_config.security.namespaces.network == NamespaceMode::Pod {
        let defaults = &site.builder.config.defaults;
        if defaults.unprivileged_ports {
            all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        }
        if defaults.unprivileged_icmp {
            all.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
        }
    }
    // One form of key, so that the request's value replaces the default.
    let asked = &site.pod_config.sysctls;
    all.extend(asked.iter().map(|(key, value)| (dotted(key), value.clone())));
    all
}

/// sysctl.d(5): the first separator of a key, `.` or `/`, says which of the two separates its parts.
fn dotted(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key[at..].starts_with('/') => key
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_one_form() {
        for (key, form) in [
            ("net.ipv4.ip_forward", "net.ipv4.ip_forward"),
            ("net/ipv4/ip_forward", "net.ipv4.ip_forward"),
            ("net/ipv4/conf/eth0.100/forwarding", "net.ipv4.conf.eth0/100.forwarding"),
            ("net.ipv4.conf.eth0/100.forwarding", "net.ipv4.conf.eth0/100.forwarding"),
            ("kernel", "kernel"),
        ] {
            assert_eq!(dotted(key), form);
        }
    }
}
