//! The mounts of a container: those that every container has, the pod's files, and the client's.

use std::path::{Component, Path, PathBuf};

use model::{IdMapping, NamespaceMode, PodConfig, Propagation, host_id};

use super::host::CgroupVersion;
use super::oci::{self, Mount};
use super::{HandlerCan, HostFacts, PreparedMount, SpecError, SpecInput};

const SHM: &str = "/dev/shm";
/// Directories whose files other programs of the node must go on reading.
const SYSTEM: [&str; 16] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/root", "/run",
    "/sbin", "/sys", "/usr", "/var",
];
/// Whose terminals are, as every distribution numbers it.
const TTY_GROUP: u32 = 5;

/// All mounts in the order they are made, parents first, and how mount events travel at the root.
///
/// A mount of the client's takes the place of one of ours at the same path, and of those below /dev, /proc and /sys
/// when it covers them.
pub(super) fn mounts(input: &SpecInput<'_>) -> Result<(Vec<Mount>, Option<String>), SpecError> {
    let asked = asked(input)?;
    let mut mounts: Vec<Mount> = file_systems(input).into_iter().chain(files(input)?).collect();
    for volume in input.volumes {
        // What every container has at a path is not for an image to take away.
        if !mounts.iter().any(|ours| ours.destination == volume.container_path) {
            let destination = volume.container_path.to_string_lossy();
            mounts.push(mount(&destination, "bind", &volume.source, "rbind,rprivate"));
        }
    }
    mounts.retain(|ours| {
        !asked.iter().any(|mount| {
            ours.destination == mount.destination
                || (is_kernels(&mount.destination) && ours.destination.starts_with(&mount.destination))
        })
    });
    mounts.extend(asked);
    // Stable: two at the same depth stay in their order, so that the client's later ones cover earlier ones.
    mounts.sort_by_key(|mount| mount.destination.components().count());
    Ok((mounts, root_propagation(input)))
}

fn is_kernels(path: &Path) -> bool {
    [Path::new("/dev"), Path::new("/proc"), Path::new("/sys")].contains(&path)
}

fn mount(destination: &str, kind: &str, source: impl Into<PathBuf>, options: &str) -> Mount {
    Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: source.into(),
        options: options.split(',').map(str::to_owned).collect(),
        ..Mount::default()
    }
}

/// The kernel's file systems; sizes and modes as every runtime has them.
fn file_systems(input: &SpecInput<'_>) -> Vec<Mount> {
    let privileged = input.container.security.privileged;
    let rro = input.host.recursive_read_only && input.handler.recursive_read_only;
    let sys = if privileged { "rw" } else { "ro" };
    let cgroup = if privileged || input.cgroup_writable { "rw" } else { "ro" };
    let own_user = input.pod.security.namespaces.own_user();
    // A group that the pod's user namespace does not know cannot own terminals.
    let terminals = match own_user.is_none_or(|own| host_id(&own.gids, TTY_GROUP).is_some()) {
        true => format!(",gid={TTY_GROUP}"),
        false => String::new(),
    };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &format!("nosuid,noexec,newinstance,ptmxmode=0666,mode=0620{terminals}"),
        ),
        match own_user.is_some() && input.pod.security.namespaces.network == NamespaceMode::Node {
            // sysfs shows a network, and only the root of its user namespace mounts it: the host's is shown.
            true => {
                let access = if rro { "rro" } else { "ro" };
                mount("/sys", "bind", "/sys", &format!("rbind,rprivate,nosuid,noexec,nodev,{access}"))
            }
            false => mount("/sys", "sysfs", "sysfs", &format!("nosuid,noexec,nodev,{sys}")),
        },
    ];
    if input.host.mqueue {
        mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"));
    }
    let relatime = if input.host.cgroup == CgroupVersion::V2 { "" } else { "relatime," };
    mounts.push(mount(
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        &format!("nosuid,noexec,nodev,{relatime}{cgroup}"),
    ));
    mounts
}

/// What the pod shares by file: shared memory and names.
fn files(input: &SpecInput<'_>) -> Result<Vec<Mount>, SpecError> {
    let files = input.files;
    let shm = match (&input.pod.security.namespaces.ipc, &files.shm) {
        (NamespaceMode::Node, _) => Path::new(SHM),
        (_, Some(path)) => path,
        (_, None) => return Err(SpecError::Incomplete("the pod's shared memory")),
    };
    let mut mounts = vec![mount(SHM, "bind", shm, "rbind,rprivate,nosuid,noexec,nodev,rw")];
    let access = if input.container.security.readonly_rootfs { "ro" } else { "rw" };
    for (destination, source) in [
        ("/etc/hostname", &files.hostname),
        ("/etc/hosts", &files.hosts),
        ("/etc/resolv.conf", &files.resolv_conf),
    ] {
        if let Some(source) = source {
            mounts.push(mount(destination, "bind", source, &format!("rbind,rprivate,{access}")));
        }
    }
    Ok(mounts)
}

fn asked(input: &SpecInput<'_>) -> Result<Vec<Mount>, SpecError> {
    if input.container.mounts.len() != input.mounts.len() {
        return Err(SpecError::Incomplete("the source of a mount"));
    }
    let pairs = input.container.mounts.iter().zip(input.mounts).enumerate();
    pairs.map(|(n, (asked, prepared))| one(input, &format!("mounts[{n}]"), asked, prepared)).collect()
}

fn one(
    input: &SpecInput<'_>,
    field: &str,
    asked: &model::Mount,
    prepared: &PreparedMount,
) -> Result<Mount, SpecError> {
    let invalid = |name: &str, why: String| Err(SpecError::invalid(format!("{field}.{name}"), why));
    let path = &asked.container_path;
    let Some(destination) = absolute(path) else {
        return invalid("container_path", format!("{path:?} is not absolute"));
    };
    if destination == Path::new("/") {
        return invalid("container_path", format!("{path:?} is the root file system"));
    }
    check(input.pod, field, asked, input.host, input.handler)?;
    // What the node itself needs is never given to a container's label.
    if asked.selinux_relabel
        && input.host.selinux
        && SYSTEM.iter().any(|path| prepared.source == Path::new(path))
    {
        return invalid("selinux_relabel", format!("{:?} is the node's own", prepared.source));
    }
    let image = matches!(asked.source, model::MountSource::Image { .. });
    let propagation = match asked.propagation {
        // Private, but for what would keep other containers' mounts busy: unmounts reach it.
        Propagation::Private if holds_own(input, &prepared.source) => "rslave",
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let kept = |flag: &str| prepared.kept.contains(&flag);
    let mut options = vec!["rbind".to_owned(), propagation.to_owned()];
    let access = match (asked.recursive_read_only, asked.readonly || image || kept("ro")) {
        (true, _) => "rro",
        (false, true) => "ro",
        (false, false) => "rw",
    };
    options.push(access.to_owned());
    options.extend(prepared.kept.iter().filter(|flag| **flag != "ro").map(|flag| (*flag).to_owned()));
    if image {
        // As its view is: the runtime's remount would take away what it does not name.
        options.extend(["nosuid", "nodev", "noexec"].map(str::to_owned));
    }
    for (m, option) in asked.options.iter().enumerate() {
        if !["noexec", "nodev", "nosuid"].contains(&option.as_str()) {
            return invalid(
                &format!("mount_options[{m}]"),
                format!("{option:?} is not noexec, nodev or nosuid"),
            );
        }
        if !options.contains(option) {
            options.push(option.clone());
        }
    }
    let ids =
        |mappings: &[IdMapping]| if image { Vec::new() } else { mappings.iter().map(oci_ids).collect() };
    let (uid_mappings, gid_mappings) = (ids(&asked.uid_mappings), ids(&asked.gid_mappings));
    if !uid_mappings.is_empty() {
        // As recursive as the bind is: what is mounted below would show ids that nobody in the container has.
        options.push("ridmap".to_owned());
    }
    let source = prepared.source.clone();
    Ok(Mount { destination, kind: "bind".into(), source, options, uid_mappings, gid_mappings })
}

fn oci_ids(mapping: &IdMapping) -> oci::IdMapping {
    let IdMapping { host_id, container_id, length } = *mapping;
    oci::IdMapping { container_id, host_id, size: length }
}

/// What the node or the OCI runtime cannot mount, and what no runtime could.
pub(super) fn check(
    pod: &PodConfig,
    field: &str,
    asked: &model::Mount,
    host: &HostFacts,
    handler: HandlerCan,
) -> Result<(), SpecError> {
    let invalid = |name: &str, why: &str| Err(SpecError::invalid(format!("{field}.{name}"), why));
    if asked.recursive_read_only {
        if !asked.readonly {
            return invalid("recursive_read_only", "needs readonly");
        }
        if asked.propagation != Propagation::Private {
            return invalid("recursive_read_only", "needs private propagation");
        }
        if !(host.recursive_read_only && handler.recursive_read_only) {
            return Err(SpecError::RroUnsupported { field: format!("{field}.recursive_read_only") });
        }
    }
    let (uids, gids) = (&asked.uid_mappings, &asked.gid_mappings);
    match (uids.is_empty(), gids.is_empty()) {
        (true, true) => return Ok(()),
        (true, false) => return invalid("uidMappings", "is empty, and gidMappings is not"),
        (false, true) => return invalid("gidMappings", "is empty, and uidMappings is not"),
        (false, false) => {}
    }
    if matches!(asked.source, model::MountSource::Image { .. }) {
        // It is mapped once for the pod, whose containers share it.
        let pods = pod.security.namespaces.own_user();
        return match pods.is_some_and(|own| own.uids == *uids && own.gids == *gids) {
            true => Ok(()),
            false => {
                invalid("uidMappings", "an image volume has the ids of the pod's own user namespace alone")
            }
        };
    }
    for (name, mappings) in [("uidMappings", uids), ("gidMappings", gids)] {
        if overlap(mappings, |mapping| mapping.container_id) || overlap(mappings, |mapping| mapping.host_id) {
            return invalid(name, "maps an id twice");
        }
    }
    if !handler.id_mapped_mounts {
        return invalid("uidMappings", "the runtime handler or this kernel makes no id-mapped mounts");
    }
    Ok(())
}

fn overlap(mappings: &[IdMapping], first: impl Fn(&IdMapping) -> u32) -> bool {
    let mut ranges: Vec<(u64, u64)> =
        mappings.iter().map(|m| (first(m).into(), u64::from(first(m)) + u64::from(m.length))).collect();
    ranges.sort_unstable();
    ranges.windows(2).any(|pair| matches!(pair, [(_, end), (start, _)] if start < end))
}

fn holds_own(input: &SpecInput<'_>, source: &Path) -> bool {
    input.defaults.own_directories.iter().any(|own| own.starts_with(source))
}

/// The path without `.`, `..` and repeated slashes, as if it were in a root of its own; `None` if not absolute.
/// What is a symbolic link in the image is the runtime's to resolve, inside that root.
fn absolute(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::from("/");
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) || path.as_os_str().as_encoded_bytes().contains(&0) {
        return None;
    }
    for component in components {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(clean)
}

/// The root must let through what any mount below it is to send or receive.
fn root_propagation(input: &SpecInput<'_>) -> Option<String> {
    let asks = |wanted| input.container.mounts.iter().any(|mount| mount.propagation == wanted);
    if asks(Propagation::Bidirectional) {
        return Some("rshared".into());
    }
    let slave = asks(Propagation::HostToContainer)
        || input.mounts.iter().any(|mount| holds_own(input, &mount.source));
    slave.then(|| "rslave".into())
}

#[cfg(test)]
mod tests;
