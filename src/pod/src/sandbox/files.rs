//! The directories, files and mounts of a sandbox.
//!
//! Each function gathers what it needs and returns the work, which runs on the blocking pool.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kernel::mount;
use kernel::{SysError, durable};
use model::limits::POD_SHM_BYTES;
use model::{DnsConfig, NamespaceMode, PodConfig, PodId, UserNamespace};

use super::Site;
use crate::error::Cause;

fn failed(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Cause + use<> {
    let path = path.to_owned();
    move |error| Cause::host(SysError::path(call, path, error))
}

pub(super) fn make_directories(site: &Site<'_>) -> impl FnOnce() -> Result<(), Cause> + use<> {
    let dir = site.paths().dir().to_owned();
    let logs = site.pod_config.log_directory.clone();
    move || {
        make_dir(&dir, 0o711)?;
        // The kubelet makes it; crictl does not. It is the client's: never removed by us.
        logs.map_or(Ok(()), |logs| make_dir(&logs, 0o755))
    }
}

/// Makes a directory with its parents.
fn make_dir(path: &Path, mode: u32) -> Result<(), Cause> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed("mkdir", path))
}

/// Removes a pod's directory with all that lies in it. An absent one is success.
pub(crate) fn remove_directory(dir: &Path) -> Result<(), Cause> {
    // Whatever a crash left mounted below must go first, or the removal would reach into it.
    mount::unmount_below(dir).map_err(Cause::host)?;
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", dir)(error)),
        _ => Ok(()),
    }
}

pub(super) fn write(site: &Site<'_>) -> impl FnOnce() -> Result<(), Cause> + use<> {
    let paths = site.paths();
    let config = site.pod_config;
    let hostname = hostname(site.pod, config);
    let dns = config.dns.clone();
    let owner = config.security.namespaces.own_user().and_then(UserNamespace::root);
    move || {
        let resolv = match dns {
            Some(dns) => resolv_conf(&dns).into_bytes(),
            None => host_file("/etc/resolv.conf")?,
        };
        let put = |path: PathBuf, bytes: &[u8]| {
            durable::replace(&path, bytes, 0o644).map_err(Cause::host)?;
            // The root of its containers may write to them, as without a user namespace.
            owner.map_or(Ok(()), |(uid, gid)| {
                std::os::unix::fs::chown(&path, Some(uid), Some(gid)).map_err(failed("chown", &path))
            })
        };
        put(paths.resolv_conf(), &resolv)?;
        put(paths.hostname(), format!("{hostname}\n").as_bytes())?;
        put(paths.hosts(), &host_file("/etc/hosts")?)
    }
}

/// A file of the host's; one that does not exist is empty.
fn host_file(path: &str) -> Result<Vec<u8>, Cause> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(failed("read", Path::new(path))),
    }
}

/// The name that the pod's processes see.
pub(crate) fn hostname(pod: &PodId, config: &PodConfig) -> String {
    if !config.hostname.is_empty() {
        config.hostname.clone()
    } else if config.security.namespaces.network == NamespaceMode::Node {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        pod.as_str()[..12].to_owned()
    }
}

/// resolv.conf(5), in the order that critest reads it.
fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

pub(super) fn mount_shm(site: &Site<'_>) -> impl FnOnce() -> Result<(), Cause> + use<> {
    let target = site.paths().shm();
    let owner = site.pod_config.security.namespaces.own_user().and_then(UserNamespace::root);
    move || {
        make_dir(&target, 0o700)?;
        let flags = mount::Flags { nosuid: true, nodev: true, noexec: true, ..mount::Flags::PLAIN };
        mount::tmpfs_of(owner.unwrap_or_default(), &target, POD_SHM_BYTES, 0o1777, flags).map_err(Cause::host)
    }
}

pub(super) fn unmount_shm(site: &Site<'_>) -> impl FnOnce() -> Result<(), Cause> + use<> {
    let target = site.paths().shm();
    move || mount::unmount(&target).map_err(Cause::host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_each_part_that_is_given() {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let dns = |servers: &[&str], searches: &[&str], options: &[&str]| DnsConfig {
            servers: words(servers),
            searches: words(searches),
            options: words(options),
        };
        for (dns, text) in [
            (dns(&[], &[], &[]), ""),
            (dns(&["10.0.0.1", "10.0.0.2"], &[], &[]), "nameserver 10.0.0.1\nnameserver 10.0.0.2\n"),
            (
                dns(&["::1"], &["a.b", "c"], &["ndots:5", "edns0"]),
                "search a.b c\nnameserver ::1\noptions ndots:5 edns0\n",
            ),
        ] {
            assert_eq!(resolv_conf(&dns), text);
        }
    }
}
