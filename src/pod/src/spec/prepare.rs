//! The part of a specification that touches the host: mount sources made and resolved, devices looked up.
//!
//! What a request names is looked at through [`Look`]: its file system may not answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kernel::mount;
use model::{ContainerConfig, ContainerSecurity, Device, MountSource, Propagation};

use super::SpecError;
use super::devices::access;
use crate::host_paths::{Listed, Look, Node, Source};

/// What of the host's /dev a privileged container does not get: what is the container's own, and the console.
const DEV_EXCEPT: [&str; 8] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"];
/// What a mount does not allow, and what is mounted from it must not allow either.
const KEPT: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];

/// The source of a mount, as the host has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedMount {
    /// Absolute, no symbolic link in it.
    pub source: PathBuf,
    /// Whether it is still to be made: see [`make_missing`].
    pub missing: bool,
    /// What the mount that holds it refuses, as mount(8) names it: `ro`, `nosuid`, `nodev`, `noexec`. Runtimes take
    /// away what is not named again.
    pub kept: Vec<&'static str>,
}

/// A device of the host's for a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedDevice {
    /// Where the container sees it.
    pub container_path: PathBuf,
    /// `c` or `b`; from CDI also `p`, a FIFO.
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
/// image of each image mount is mounted, by the mount's place in the list; `must_exist` paths that are refused where
/// they do not exist.
///
/// # Errors
/// The first source that cannot be resolved, or whose mount does not propagate as asked.
pub(crate) fn mounts(
    look: &mut Look<'_>,
    container: &ContainerConfig,
    image_volumes: &BTreeMap<usize, PathBuf>,
    must_exist: &[PathBuf],
) -> Result<Vec<PreparedMount>, SpecError> {
    let mut prepared = Vec::with_capacity(container.mounts.len());
    for (n, asked) in container.mounts.iter().enumerate() {
        prepared.push(match &asked.source {
            MountSource::HostPath(path) => host_path(look, path, asked, must_exist, &format!("mounts[{n}]"))?,
            MountSource::Image { .. } => {
                let source = image_volumes.get(&n).cloned();
                let source = source.ok_or(SpecError::Incomplete("where an image volume is mounted"))?;
                PreparedMount { source, missing: false, kept: Vec::new() }
            }
        });
    }
    Ok(prepared)
}

/// Makes the host paths that do not exist: directories of mode 0755, as both peers do and workloads rely on. They stay
/// when the container goes, so this comes last, when nothing of the request can be refused any more.
///
/// # Errors
/// The first that cannot be made.
pub(crate) fn make_missing(look: &mut Look<'_>, mounts: &[PreparedMount]) -> Result<(), SpecError> {
    for (n, mount) in mounts.iter().enumerate().filter(|(_, mount)| mount.missing) {
        look.make_directory(&mount.source).map_err(|e| {
            SpecError::host(format!("mounts[{n}].host_path"), "make the missing directory", &mount.source, e)
        })?;
    }
    Ok(())
}

fn host_path(
    look: &mut Look<'_>,
    path: &Path,
    asked: &model::Mount,
    must_exist: &[PathBuf],
    field: &str,
) -> Result<PreparedMount, SpecError> {
    let name = format!("{field}.host_path");
    if !path.is_absolute() {
        return Err(SpecError::invalid(name, format!("{path:?} is not absolute")));
    }
    let found = look.source(path).map_err(|e| SpecError::host(&name, "resolve", path, e))?;
    if found.missing && must_exist.iter().any(|must| path == must || found.path == *must) {
        return Err(SpecError::invalid(
            name,
            format!("{path:?} does not exist, and this node makes no directory of it"),
        ));
    }
    check_propagation(look, &found, asked.propagation, field)?;
    let holding = look.mount_of(&found).map_err(|e| SpecError::host(&name, "find the mount of", path, e))?;
    let kept = KEPT.into_iter().filter(|flag| holding.options.iter().any(|option| option == flag)).collect();
    Ok(PreparedMount { source: found.path, missing: found.missing, kept })
}

fn check_propagation(
    look: &mut Look<'_>,
    found: &Source,
    asked: Propagation,
    field: &str,
) -> Result<(), SpecError> {
    let (wanted, refusal): (&[mount::Propagation], _) = match asked {
        Propagation::Private => return Ok(()),
        Propagation::HostToContainer => {
            (&[mount::Propagation::Shared, mount::Propagation::Slave], "shared or slave")
        }
        Propagation::Bidirectional => (&[mount::Propagation::Shared], "shared"),
    };
    let field = format!("{field}.propagation");
    let path = &found.path;
    let holding = look.mount_of(found).map_err(|e| SpecError::host(&field, "find the mount of", path, e))?;
    if !wanted.contains(&holding.propagation()) {
        let point = &holding.mount_point;
        let why = format!("path {path:?} is mounted on {point:?} but it is not a {refusal} mount");
        return Err(SpecError::invalid(field, why));
    }
    Ok(())
}

/// Which devices a container gets, and whose they are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DeviceChoice {
    /// All of the host's, beside those that it asks for.
    pub(crate) all_of_hosts: bool,
    /// Those that it asks for belong to its user, as far as its security context names one.
    pub(crate) owned_by_user: bool,
}

/// The devices of a container: those of the host's where it gets all of them, and those asked for, directories expanded.
///
/// # Errors
/// The first device that is not there or not a device, or whose permissions are not of `rwm`.
pub(crate) fn devices(
    look: &mut Look<'_>,
    container: &ContainerConfig,
    choice: DeviceChoice,
) -> Result<Vec<PreparedDevice>, SpecError> {
    let mut found = Vec::new();
    if choice.all_of_hosts {
        let dev = Path::new("/dev");
        let all = look.devices(dev, &DEV_EXCEPT);
        let all = all.map_err(|e| SpecError::host("linux.security_context.privileged", "list", dev, e))?;
        found.extend(prepared(all, dev, "rwm"));
    }
    for (n, device) in container.devices.iter().enumerate() {
        let mut devices = asked(look, device, &format!("devices[{n}]"))?;
        if choice.owned_by_user {
            devices.iter_mut().for_each(|device| device.belong_to(&container.security));
        }
        found.extend(devices);
    }
    Ok(found)
}

impl PreparedDevice {
    /// Gives it to the user and the group that a security context names.
    pub(super) fn belong_to(&mut self, security: &ContainerSecurity) {
        let id = |id: Option<i64>| id.and_then(|id| u32::try_from(id).ok());
        self.uid = id(security.run_as_user).unwrap_or(self.uid);
        self.gid = id(security.run_as_group).unwrap_or(self.gid);
    }
}

fn asked(look: &mut Look<'_>, device: &Device, field: &str) -> Result<Vec<PreparedDevice>, SpecError> {
    let name = format!("{field}.host_path");
    let allowed = access(device, field)?;
    for (part, path) in [("host_path", &device.host_path), ("container_path", &device.container_path)] {
        if !path.is_absolute() {
            return Err(SpecError::invalid(format!("{field}.{part}"), format!("{path:?} is not absolute")));
        }
    }
    let path = &device.host_path;
    let listed = look.devices(path, &[]).map_err(|e| SpecError::host(&name, "look at", path, e))?;
    match &listed {
        Listed::NoDevice => return Err(SpecError::invalid(name, format!("{path:?} is not a device"))),
        Listed::Below(below) if below.is_empty() => {
            return Err(SpecError::invalid(name, format!("directory {path:?} holds no device")));
        }
        Listed::Below(_) | Listed::Device(_) => {}
    }
    Ok(prepared(listed, &device.container_path, &allowed))
}

/// What was found, as the container sees it.
pub(super) fn prepared(listed: Listed, container_path: &Path, access: &str) -> Vec<PreparedDevice> {
    let one = |node: Node, container_path| PreparedDevice {
        container_path,
        kind: node.kind,
        major: node.major,
        minor: node.minor,
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        access: access.to_owned(),
    };
    match listed {
        Listed::Device(node) => vec![one(node, container_path.to_owned())],
        Listed::Below(below) => {
            below.into_iter().map(|(path, node)| one(node, container_path.join(path))).collect()
        }
        Listed::NoDevice => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_paths::HostPaths;
    use crate::spec::fixture::{Fixture, bind};
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn resolved(mount: model::Mount) -> Result<PathBuf, String> {
        let mut fixture = Fixture::default();
        fixture.container.mounts = vec![mount];
        let here = HostPaths::new(None);
        let found = mounts(&mut here.look(), &fixture.container, &BTreeMap::new(), &["/must/exist".into()])
            .map_err(|e| model::chain(&e))?;
        Ok(found[0].source.clone())
    }

    #[test]
    fn sources_are_made_resolved_and_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let missing = dir.join("a/b");
        assert_eq!(resolved(bind("/x", missing.to_str().unwrap())).unwrap(), missing);
        assert!(!dir.join("a").exists(), "nothing is made while the request may still be refused");
        let here = HostPaths::new(None);
        let source = PreparedMount { source: missing.clone(), missing: true, kept: Vec::new() };
        make_missing(&mut here.look(), &[source]).unwrap();
        assert_eq!(fs::metadata(&missing).unwrap().permissions().mode() & 0o777, 0o755);
        symlink(&missing, dir.join("link")).unwrap();
        assert_eq!(resolved(bind("/x", dir.join("link").to_str().unwrap())).unwrap(), missing);
        fs::write(dir.join("file"), "").unwrap();
        let below_file = dir.join("file/x");
        let error = resolved(bind("/x", below_file.to_str().unwrap())).unwrap_err();
        assert!(error.starts_with("mounts[0].host_path: resolve "), "{error}");
        assert_eq!(resolved(bind("/x", "rel")).unwrap_err(), "mounts[0].host_path: \"rel\" is not absolute");
        let behind_a_link = dir.join("link/c");
        assert_eq!(resolved(bind("/x", behind_a_link.to_str().unwrap())).unwrap(), missing.join("c"));
        let out = dir.join("nowhere/../../x");
        assert!(resolved(bind("/x", out.to_str().unwrap())).is_err());
        symlink(dir.join("nowhere"), dir.join("dangling")).unwrap();
        assert!(resolved(bind("/x", dir.join("dangling").to_str().unwrap())).is_err());
        let expect =
            "mounts[0].host_path: \"/must/exist/\" does not exist, and this node makes no directory of it";
        assert_eq!(resolved(bind("/x", "/must/exist/")).unwrap_err(), expect);
    }

    #[test]
    fn image_mounts_take_the_path_that_was_source() {
        let mut fixture = Fixture::default();
        let source = MountSource::Image { image: model::ImageSpec::default(), sub_path: PathBuf::new() };
        fixture.container.mounts = vec![model::Mount { source, ..bind("/x", "/") }];
        let volumes = BTreeMap::from([(0, PathBuf::from("/views/one"))]);
        let here = HostPaths::new(None);
        let mut look = here.look();
        let found = mounts(&mut look, &fixture.container, &volumes, &[]).unwrap();
        assert_eq!(found[0].source, Path::new("/views/one"));
        let error = mounts(&mut look, &fixture.container, &BTreeMap::new(), &[]).unwrap_err();
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
        let ask = |propagation| resolved(model::Mount { propagation, ..bind("/x", at) });
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
            devices(&mut HostPaths::new(None).look(), &fixture.container, DeviceChoice::default())
                .map_err(|e| model::chain(&e))
        };
        let [zero] = ask(&path.join("link"), "/dev/z", "r").unwrap().try_into().unwrap();
        assert_eq!((zero.kind, zero.major, zero.minor, zero.access.as_str()), ('c', 1, 5, "r"));
        assert_eq!(zero.container_path, Path::new("/dev/z"));
        let file = path.join("file");
        fs::write(&file, "").unwrap();
        for (host, container, expect) in [
            (file.clone(), "/dev/z", format!("devices[0].host_path: {file:?} is not a device")),
            (path.join("absent"), "/dev/z", "devices[0].host_path: look at ".to_owned()),
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
        let mut fixture = Fixture::default();
        fixture.container.devices = vec![Device {
            host_path: "/dev/zero".into(),
            container_path: "/dev/mine".into(),
            permissions: "r".into(),
        }];
        let choice = DeviceChoice { all_of_hosts: true, ..DeviceChoice::default() };
        let found = devices(&mut HostPaths::new(None).look(), &fixture.container, choice).unwrap();
        let has = |path: &str| found.iter().any(|device| device.container_path == Path::new(path));
        assert!(has("/dev/null") && has("/dev/zero") && has("/dev/mine"));
        assert!(!has("/dev/console"));
        assert!(!found.iter().any(|device| device.container_path.starts_with("/dev/pts")));
    }

    #[test]
    fn devices_can_belong_to_the_containers_user() {
        let mut fixture = Fixture::default();
        fixture.container.devices = vec![Device {
            host_path: "/dev/zero".into(),
            container_path: "/dev/mine".into(),
            permissions: "rw".into(),
        }];
        fixture.container.security.run_as_user = Some(1000);
        for (owned_by_user, run_as_group, expect) in
            [(false, Some(5), (0, 0)), (true, None, (1000, 0)), (true, Some(5), (1000, 5))]
        {
            fixture.container.security.run_as_group = run_as_group;
            let choice = DeviceChoice { owned_by_user, ..DeviceChoice::default() };
            let found = devices(&mut HostPaths::new(None).look(), &fixture.container, choice).unwrap();
            assert_eq!((found[0].uid, found[0].gid), expect);
        }
    }
}
