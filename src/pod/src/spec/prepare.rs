//! The part of a specification that touches the host: mount sources made and resolved, devices looked up.
//!
//! A path of the request's may lie on a file system that does not answer: call this where a deadline can abandon it.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use kernel::mount;
use kernel::namespace::{self, IdMaps};
use model::{ContainerConfig, Device, MountSource, Propagation};

use super::devices::access;
use super::{PodFiles, SpecError};
use crate::user_namespace::id_ranges;

/// What of the host's /dev a privileged container does not get: what is the container's own, and the console.
const DEV_EXCEPT: [&str; 8] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"];
/// Directories of devices are this deep at most.
const DEV_DEPTH_MAX: usize = 16;

/// The source of a mount, as the host has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedMount {
    /// Absolute, no symbolic link in it.
    pub source: PathBuf,
    /// Whether it is still to be made: see [`make_missing`].
    pub missing: bool,
}

/// A device of the host's for a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedDevice {
    /// Where the container sees it.
    pub container_path: PathBuf,
    /// `c` or `b`.
    pub kind: char,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What the device controller allows: of `r`, `w`, `m`.
    pub access: String,
}

/// The source of each of the container's mounts, in their order. Nothing is made yet. `image_volumes` holds where the
/// image of each image mount is mounted, by the mount's place in the list.
///
/// # Errors
/// The first source that cannot be resolved, or whose mount does not propagate as asked.
pub fn mounts(
    container: &ContainerConfig,
    image_volumes: &BTreeMap<usize, PathBuf>,
) -> Result<Vec<PreparedMount>, SpecError> {
    let one = |(n, asked): (usize, &model::Mount)| match &asked.source {
        MountSource::HostPath(path) => host_path(path, asked.propagation, &format!("mounts[{n}]")),
        MountSource::Image { .. } => {
            let source = image_volumes.get(&n).cloned();
            let source = source.ok_or(SpecError::Incomplete("where an image volume is mounted"))?;
            Ok(PreparedMount { source, missing: false })
        }
    };
    container.mounts.iter().enumerate().map(one).collect()
}

/// Makes the host paths that do not exist: directories of mode 0755, as both peers do and workloads rely on. They stay
/// when the container goes, so this comes last, when nothing of the request can be refused any more.
///
/// # Errors
/// The first that cannot be made.
pub fn make_missing(mounts: &[PreparedMount]) -> Result<(), SpecError> {
    for (n, mount) in mounts.iter().enumerate().filter(|(_, mount)| mount.missing) {
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(&mount.source);
        made.map_err(|e| {
            SpecError::host(format!("mounts[{n}].host_path"), "make the missing directory", &mount.source, e)
        })?;
    }
    Ok(())
}

/// A path with the symbolic links of what exists of it resolved, and whether the rest does not exist.
fn resolve(path: &Path) -> io::Result<(PathBuf, bool)> {
    let mut existing = path;
    loop {
        match existing.canonicalize() {
            Ok(resolved) => {
                let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
                if rest.components().any(|part| part == Component::ParentDir) {
                    return Err(io::Error::new(
                        io::ErrorKind::NotFound,
                        "`..` leads out of what does not exist",
                    ));
                }
                let missing = !rest.as_os_str().is_empty();
                return Ok((if missing { resolved.join(rest) } else { resolved }, missing));
            }
            // A dangling link exists, and nothing can be made in its place.
            Err(e) if e.kind() == io::ErrorKind::NotFound && existing.symlink_metadata().is_err() => {
                existing = existing.parent().ok_or(e)?;
            }
            Err(e) => return Err(e),
        }
    }
}

fn host_path(path: &Path, propagation: Propagation, field: &str) -> Result<PreparedMount, SpecError> {
    let name = format!("{field}.host_path");
    if !path.is_absolute() {
        return Err(SpecError::invalid(name, format!("{path:?} is not absolute")));
    }
    let (source, missing) = resolve(path).map_err(|e| SpecError::host(&name, "resolve", path, e))?;
    let (wanted, refusal): (&[mount::Propagation], _) = match propagation {
        Propagation::Private => return Ok(PreparedMount { source, missing }),
        Propagation::HostToContainer => {
            (&[mount::Propagation::Shared, mount::Propagation::Slave], "shared or slave")
        }
        Propagation::Bidirectional => (&[mount::Propagation::Shared], "shared"),
    };
    let field = format!("{field}.propagation");
    let holding =
        mount::holding(&source).map_err(|source| SpecError::System { field: field.clone(), source })?;
    if !wanted.contains(&holding.propagation()) {
        let point = &holding.mount_point;
        let why = format!("path {source:?} is mounted on {point:?} but it is not a {refusal} mount");
        return Err(SpecError::invalid(field, why));
    }
    Ok(PreparedMount { source, missing })
}

/// Gives the sources of mounts that ask for it the container's label, and the pod's own files. Only for a node with
/// SELinux, which `label` comes from.
///
/// # Errors
/// The first that cannot be relabelled.
pub fn relabel(
    container: &ContainerConfig,
    prepared: &[PreparedMount],
    files: &PodFiles,
    label: &str,
) -> Result<(), SpecError> {
    let set = |field: String, path: &Path| {
        kernel::label::set_on_tree(path, kernel::label::SELINUX, label.as_bytes())
            .map(drop)
            .map_err(|source| SpecError::System { field, source })
    };
    for path in [&files.resolv_conf, &files.hostname, &files.hosts, &files.shm].into_iter().flatten() {
        set("linux.security_context.selinux_options".to_owned(), path)?;
    }
    for (n, (asked, mount)) in container.mounts.iter().zip(prepared).enumerate() {
        // An image volume is read-only, and its layers are many pods'.
        if asked.selinux_relabel && matches!(asked.source, MountSource::HostPath(_)) {
            set(format!("mounts[{n}].selinux_relabel"), &mount.source)?;
        }
    }
    Ok(())
}

/// That the file systems of id-mapped mounts have such mounts, with all that is mounted below them.
///
/// # Errors
/// The first that does not, or the kernel takes the mappings for none.
pub fn check_id_maps(container: &ContainerConfig, prepared: &[PreparedMount]) -> Result<(), SpecError> {
    let mut known: Option<(&model::Mount, OwnedFd)> = None;
    for (n, (asked, mount)) in container.mounts.iter().zip(prepared).enumerate() {
        let host_path = matches!(asked.source, MountSource::HostPath(_));
        if !host_path || asked.uid_mappings.is_empty() {
            continue;
        }
        let failed = |source| SpecError::System { field: format!("mounts[{n}].uidMappings"), source };
        let same = |(of, _): &(&model::Mount, OwnedFd)| {
            of.uid_mappings == asked.uid_mappings && of.gid_mappings == asked.gid_mappings
        };
        // A kubelet asks for the same ids each time.
        let (_, user) = match known.take().filter(same) {
            Some(known) => known,
            None => {
                let (users, groups) = (id_ranges(&asked.uid_mappings), id_ranges(&asked.gid_mappings));
                let maps = IdMaps { users: &users, groups: &groups };
                (asked, namespace::open_user(maps).map_err(failed)?)
            }
        };
        // What is missing will be made on the file system of what is there.
        let there = mount.source.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        kernel::mount::check_id_mapped(there, user.as_fd()).map_err(failed)?;
        known = Some((asked, user));
    }
    Ok(())
}

/// The devices of a container: those asked for, directories expanded; or, for a privileged one, all of the host's.
///
/// # Errors
/// The first device that is not there or not a device, or whose permissions are not of `rwm`.
pub fn devices(container: &ContainerConfig, all_of_hosts: bool) -> Result<Vec<PreparedDevice>, SpecError> {
    let mut found = Vec::new();
    if all_of_hosts {
        let dev = Path::new("/dev");
        walk(dev, dev, &DEV_EXCEPT, "rwm", 0, &mut found)
            .map_err(|(path, e)| SpecError::host("linux.security_context.privileged", "list", path, e))?;
        return Ok(found);
    }
    for (n, device) in container.devices.iter().enumerate() {
        asked(device, &format!("devices[{n}]"), &mut found)?;
    }
    Ok(found)
}

fn asked(device: &Device, field: &str, found: &mut Vec<PreparedDevice>) -> Result<(), SpecError> {
    let name = format!("{field}.host_path");
    let allowed = access(device, field)?;
    for (part, path) in [("host_path", &device.host_path), ("container_path", &device.container_path)] {
        if !path.is_absolute() {
            return Err(SpecError::invalid(format!("{field}.{part}"), format!("{path:?} is not absolute")));
        }
    }
    let path = &device.host_path;
    let real = path.canonicalize().map_err(|e| SpecError::host(&name, "resolve", path, e))?;
    let metadata = fs::metadata(&real).map_err(|e| SpecError::host(&name, "stat", &real, e))?;
    if metadata.is_dir() {
        let before = found.len();
        walk(&real, &device.container_path, &[], &allowed, 0, found)
            .map_err(|(path, e)| SpecError::host(&name, "list", path, e))?;
        if found.len() == before {
            return Err(SpecError::invalid(name, format!("directory {path:?} holds no device")));
        }
        return Ok(());
    }
    match node(&metadata, device.container_path.clone(), &allowed) {
        Some(node) => found.push(node),
        None => return Err(SpecError::invalid(name, format!("{path:?} is not a device"))),
    }
    Ok(())
}

/// Adds every device below `directory`, each at its relative path below `container`, by name. Symbolic links are not
/// followed; what vanishes while we look was never there.
fn walk(
    directory: &Path,
    container: &Path,
    except: &[&str],
    allowed: &str,
    depth: usize,
    found: &mut Vec<PreparedDevice>,
) -> Result<(), (PathBuf, io::Error)> {
    if depth > DEV_DEPTH_MAX {
        return Ok(());
    }
    let failed = |e| (directory.to_owned(), e);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name());
    }
    names.sort();
    for name in names {
        if except.iter().any(|excepted| name == *excepted) {
            continue;
        }
        let (path, seen) = (directory.join(&name), container.join(&name));
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err((path, e)),
        };
        if metadata.is_dir() {
            // The exceptions are names at the top of /dev.
            walk(&path, &seen, &[], allowed, depth + 1, found)?;
        } else if let Some(node) = node(&metadata, seen, allowed) {
            found.push(node);
        }
    }
    Ok(())
}

fn node(metadata: &Metadata, container_path: PathBuf, allowed: &str) -> Option<PreparedDevice> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return None,
    };
    let (major, minor) = device_numbers(metadata.rdev());
    Some(PreparedDevice {
        container_path,
        kind,
        major,
        minor,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: allowed.to_owned(),
    })
}

/// Major and minor number of a device, as makedev(3) lays them out on Linux.
fn device_numbers(device: u64) -> (u32, u32) {
    let word = |bits: u64| u32::try_from(bits & 0xffff_ffff).unwrap_or_default();
    let major = (device >> 32) & 0xffff_f000 | (device >> 8) & 0x0fff;
    let minor = (device >> 12) & 0xffff_ff00 | device & 0x00ff;
    (word(major), word(minor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::fixture::{Fixture, bind};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn prepared(mount: model::Mount) -> Result<PathBuf, String> {
        let mut fixture = Fixture::default();
        fixture.container.mounts = vec![mount];
        let found = mounts(&fixture.container, &BTreeMap::new()).map_err(|e| model::chain(&e))?;
        Ok(found[0].source.clone())
    }

    #[test]
    fn sources_are_made_resolved_and_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let missing = dir.join("a/b");
        assert_eq!(prepared(bind("/x", missing.to_str().unwrap())).unwrap(), missing);
        assert!(!dir.join("a").exists(), "nothing is made while the request may still be refused");
        make_missing(&[PreparedMount { source: missing.clone(), missing: true }]).unwrap();
        assert_eq!(fs::metadata(&missing).unwrap().permissions().mode() & 0o777, 0o755);
        symlink(&missing, dir.join("link")).unwrap();
        assert_eq!(prepared(bind("/x", dir.join("link").to_str().unwrap())).unwrap(), missing);
        fs::write(dir.join("file"), "").unwrap();
        let below_file = dir.join("file/x");
        let error = prepared(bind("/x", below_file.to_str().unwrap())).unwrap_err();
        assert!(error.starts_with("mounts[0].host_path: resolve "), "{error}");
        assert_eq!(prepared(bind("/x", "rel")).unwrap_err(), "mounts[0].host_path: \"rel\" is not absolute");
        let behind_a_link = dir.join("link/c");
        assert_eq!(prepared(bind("/x", behind_a_link.to_str().unwrap())).unwrap(), missing.join("c"));
        let out = dir.join("nowhere/../../x");
        assert!(prepared(bind("/x", out.to_str().unwrap())).is_err());
        symlink(dir.join("nowhere"), dir.join("dangling")).unwrap();
        assert!(prepared(bind("/x", dir.join("dangling").to_str().unwrap())).is_err());
    }

    #[test]
    fn image_mounts_take_the_path_that_was_prepared() {
        let mut fixture = Fixture::default();
        let source = MountSource::Image { image: model::ImageSpec::default(), sub_path: PathBuf::new() };
        fixture.container.mounts = vec![model::Mount { source, ..bind("/x", "/") }];
        let volumes = BTreeMap::from([(0, PathBuf::from("/views/one"))]);
        let found = mounts(&fixture.container, &volumes).unwrap();
        assert_eq!(found[0].source, Path::new("/views/one"));
        let error = mounts(&fixture.container, &BTreeMap::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "where an image volume is mounted is missing from the input of the specification"
        );
    }

    #[test]
    fn propagation_must_be_there_to_be_asked_for() {
        // /proc is never shared by a plain container of tests; a mount of our own is what we make it.
        if !kernel::caps::permitted().unwrap().contains(&"SYS_ADMIN") {
            println!("skipped: mounting needs CAP_SYS_ADMIN");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        mount::tmpfs(&path, 1 << 20, 0o755, mount::Flags::default()).unwrap();
        let at = path.to_str().unwrap();
        let ask = |propagation| prepared(model::Mount { propagation, ..bind("/x", at) });
        let refusal = |kind: &str| {
            Err(format!(
                "mounts[0].propagation: path {at:?} is mounted on {at:?} but it is not a {kind} mount"
            ))
        };
        mount::set_propagation(&path, mount::Propagation::Private, false).unwrap();
        let private = [ask(Propagation::HostToContainer), ask(Propagation::Bidirectional)];
        mount::set_propagation(&path, mount::Propagation::Shared, false).unwrap();
        let shared = [ask(Propagation::HostToContainer), ask(Propagation::Bidirectional)];
        mount::unmount(&path).unwrap();
        assert_eq!(private, [refusal("shared or slave"), refusal("shared")]);
        assert_eq!(shared, [Ok(path.clone()), Ok(path)]);
    }

    #[test]
    fn devices_are_looked_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        fs::create_dir(path.join("empty")).unwrap();
        symlink("/dev/zero", path.join("link")).unwrap();
        let ask = |host: &Path, container: &str, permissions: &str| {
            let mut fixture = Fixture::default();
            let device = Device {
                host_path: host.to_owned(),
                container_path: container.into(),
                permissions: permissions.into(),
            };
            fixture.container.devices = vec![device];
            devices(&fixture.container, false).map_err(|e| model::chain(&e))
        };
        let [zero] = ask(&path.join("link"), "/dev/z", "r").unwrap().try_into().unwrap();
        assert_eq!((zero.kind, zero.major, zero.minor, zero.access.as_str()), ('c', 1, 5, "r"));
        assert_eq!(zero.container_path, Path::new("/dev/z"));
        let file = path.join("file");
        fs::write(&file, "").unwrap();
        for (host, container, expect) in [
            (file.clone(), "/dev/z", format!("devices[0].host_path: {file:?} is not a device")),
            (path.join("absent"), "/dev/z", "devices[0].host_path: resolve ".to_owned()),
            (PathBuf::from("dev"), "/dev/z", "devices[0].host_path: \"dev\" is not absolute".to_owned()),
            (PathBuf::from("/dev/null"), "z", "devices[0].container_path: \"z\" is not absolute".to_owned()),
            (path.join("empty"), "/dev/z", "devices[0].host_path: directory ".to_owned()),
        ] {
            let error = ask(&host, container, "rwm").unwrap_err();
            assert!(error.starts_with(&expect), "{error}");
        }
        let tree = ask(Path::new("/dev"), "/dev/of/host", "rw").unwrap();
        assert!(tree.iter().any(|device| device.container_path == Path::new("/dev/of/host/null")));
    }

    #[test]
    fn a_privileged_container_gets_the_hosts_devices_but_not_its_terminals() {
        let fixture = Fixture::default();
        let found = devices(&fixture.container, true).unwrap();
        let has = |path: &str| found.iter().any(|device| device.container_path == Path::new(path));
        assert!(has("/dev/null") && has("/dev/zero"));
        assert!(!has("/dev/console"));
        assert!(!found.iter().any(|device| device.container_path.starts_with("/dev/pts")));
    }
}
