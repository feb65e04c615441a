//! The mounts of a container: those that every container has, the pod's files, and the client's.

use std::path::{Component, Path, PathBuf};

use model::{NamespaceMode, Propagation};

use super::host::CgroupVersion;
use super::oci::Mount;
use super::{PreparedMount, SpecError, SpecInput};

const SHM: &str = "/dev/shm";

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
    }
}

/// The kernel's file systems; sizes and modes as every runtime has them.
fn file_systems(input: &SpecInput<'_>) -> Vec<Mount> {
    let privileged = input.container.security.privileged;
    let sys = if privileged { "rw" } else { "ro" };
    let cgroup = if privileged || input.cgroup_writable { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        mount("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        mount("/sys", "sysfs", "sysfs", &format!("nosuid,noexec,nodev,{sys}")),
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
    if !asked.uid_mappings.is_empty() || !asked.gid_mappings.is_empty() {
        return Err(SpecError::unsupported(
            format!("{field}.uidMappings"),
            "id-mapped mounts are not built yet",
        ));
    }
    if asked.selinux_relabel && input.host.selinux {
        return Err(SpecError::unsupported(
            format!("{field}.selinux_relabel"),
            "relabelling is not built yet",
        ));
    }
    let image = matches!(asked.source, model::MountSource::Image { .. });
    if asked.recursive_read_only {
        if !asked.readonly {
            return invalid("recursive_read_only", "needs readonly".into());
        }
        if asked.propagation != Propagation::Private {
            return invalid("recursive_read_only", "needs private propagation".into());
        }
        if !(input.host.recursive_read_only && input.handler_recursive_read_only) {
            return Err(SpecError::RroUnsupported { field: format!("{field}.recursive_read_only") });
        }
    }
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
    Ok(Mount { destination, kind: "bind".into(), source: prepared.source.clone(), options })
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
