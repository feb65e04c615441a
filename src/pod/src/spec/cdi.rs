//! What CDI devices change in a container's specification.

use std::path::Path;

use super::oci::{self, Hook, Hooks};
use super::prepare::PreparedDevice;
use super::{ResolvedUser, SpecError};
use crate::cdi::{ContainerEdits, DeviceNode, HookName, Mount};
use crate::host_paths::{Listed, Look, Node};

const FIELD: &str = "CDI_devices";
/// What says how mount events travel; `rprivate` where nothing does.
const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "slave", "rslave", "shared", "rshared"];

/// The changes, with everything that the host says of them.
#[derive(Clone, Debug, Default)]
pub struct Injection {
    env: Vec<String>,
    pub(super) devices: Vec<PreparedDevice>,
    mounts: Vec<oci::Mount>,
    hooks: Hooks,
    /// Groups that the container's process is in, too.
    pub additional_gids: Vec<u32>,
}

impl Injection {
    /// Looks up what edits leave to the host. Device nodes that name no owner belong to the container's user.
    ///
    /// # Errors
    /// A device or a source of a mount that is not there.
    pub(crate) fn prepare(
        look: &mut Look<'_>,
        edits: &[ContainerEdits],
        user: &ResolvedUser,
    ) -> Result<Self, SpecError> {
        let mut all = Self::default();
        for edits in edits {
            all.env.extend(edits.env.iter().cloned());
            for asked in &edits.device_nodes {
                all.devices.push(device(look, asked, user)?);
            }
            for asked in &edits.mounts {
                all.mounts.push(mount(look, asked)?);
            }
            for hook in &edits.hooks {
                let list = match hook.hook_name {
                    HookName::Prestart => &mut all.hooks.prestart,
                    HookName::CreateRuntime => &mut all.hooks.create_runtime,
                    HookName::CreateContainer => &mut all.hooks.create_container,
                    HookName::StartContainer => &mut all.hooks.start_container,
                    HookName::Poststart => &mut all.hooks.poststart,
                    HookName::Poststop => &mut all.hooks.poststop,
                };
                list.push(Hook {
                    path: hook.path.clone(),
                    args: hook.args.clone(),
                    env: hook.env.clone(),
                    timeout: hook.timeout,
                });
            }
            all.additional_gids.extend(&edits.additional_gids);
        }
        Ok(all)
    }

    /// Makes the changes; device nodes and groups are the caller's.
    pub(super) fn apply(&self, spec: &mut oci::Spec) {
        for variable in &self.env {
            let key = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
            match spec.process.env.iter_mut().find(|known| key(known) == key(variable)) {
                Some(known) => known.clone_from(variable),
                None => spec.process.env.push(variable.clone()),
            }
        }
        for mount in &self.mounts {
            spec.mounts.retain(|known| known.destination != mount.destination);
            spec.mounts.push(mount.clone());
        }
        spec.mounts.sort_by_key(|mount| mount.destination.components().count());
        spec.hooks = (self.hooks != Hooks::default()).then(|| self.hooks.clone());
    }
}

fn device(look: &mut Look<'_>, asked: &DeviceNode, user: &ResolvedUser) -> Result<PreparedDevice, SpecError> {
    let host = asked.host_path.as_ref().unwrap_or(&asked.path);
    let wanted = asked.kind.as_deref().map(|kind| if kind == "u" { "c" } else { kind });
    // A FIFO has no number, and a whole number wants no look at the host.
    let told = wanted.and_then(|kind| match (kind, asked.major, asked.minor) {
        ("p", ..) => Some(('p', 0, 0)),
        (_, Some(major), minor) => Some((kind.chars().next()?, major, minor.unwrap_or(0))),
        _ => None,
    });
    let found = match told {
        Some((kind, major, minor)) => Node { kind, major, minor, mode: 0o666, uid: 0, gid: 0 },
        None => of_host(look, host, wanted)?,
    };
    let own = |id: u32, of_host: u32| if id > 0 { id } else { of_host };
    let access = asked.permissions.clone().filter(|wanted| !wanted.is_empty());
    Ok(PreparedDevice {
        container_path: asked.path.clone(),
        kind: found.kind,
        major: asked.major.unwrap_or(found.major),
        minor: asked.minor.unwrap_or(found.minor),
        mode: asked.file_mode.map_or(found.mode, |mode| mode & 0o7777),
        uid: asked.uid.unwrap_or(own(user.uid, found.uid)),
        gid: asked.gid.unwrap_or(own(user.gid, found.gid)),
        access: access.unwrap_or_else(|| "rwm".to_owned()),
    })
}

fn of_host(look: &mut Look<'_>, host: &Path, wanted: Option<&str>) -> Result<Node, SpecError> {
    match look.devices(host, &[]) {
        Ok(Listed::Device(node)) if wanted.is_none_or(|kind| kind.starts_with(node.kind)) => Ok(node),
        Ok(Listed::Device(node)) => {
            let why = format!(
                "device node {host:?} is of type {:?}, and the specification says another",
                node.kind
            );
            Err(SpecError::invalid(FIELD, why))
        }
        Ok(Listed::Below(_) | Listed::NoDevice) => {
            Err(SpecError::invalid(FIELD, format!("{host:?} is not a device")))
        }
        Err(error) => Err(SpecError::host(FIELD, "look at device node", host, error)),
    }
}

fn mount(look: &mut Look<'_>, asked: &Mount) -> Result<oci::Mount, SpecError> {
    let mut mount = oci::Mount {
        destination: asked.container_path.clone(),
        kind: asked.kind.clone(),
        source: asked.host_path.clone(),
        options: asked.options.clone(),
        ..oci::Mount::default()
    };
    if !asked.binds() {
        return Ok(mount);
    }
    let host = &asked.host_path;
    let found =
        look.source(host).map_err(|e| SpecError::host(FIELD, "resolve the source of a mount,", host, e))?;
    if found.missing {
        return Err(SpecError::invalid(FIELD, format!("the source of a mount, {host:?}, does not exist")));
    }
    mount.kind = "bind".to_owned();
    mount.source = found.path;
    let has = |options: &[String], any: &[&str]| options.iter().any(|option| any.contains(&option.as_str()));
    if !has(&mount.options, &["bind", "rbind"]) {
        mount.options.push("rbind".to_owned());
    }
    if !has(&mount.options, &PROPAGATIONS) {
        mount.options.push("rprivate".to_owned());
    }
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_paths::HostPaths;
    use crate::spec::build;
    use crate::spec::fixture::Fixture;

    fn injection(json: &str, uid: u32) -> Result<Injection, String> {
        let edits: ContainerEdits = serde_json::from_str(json).unwrap();
        let user = ResolvedUser { uid, gid: uid, additional_gids: Vec::new() };
        let here = HostPaths::new(None);
        Injection::prepare(&mut here.look(), &[edits], &user).map_err(|e| model::chain(&e))
    }

    #[test]
    fn edits_are_in_the_specification() {
        let injection = injection(
            r#"{"env": ["A=cdi", "B=cdi"], "additionalGids": [44],
               "deviceNodes": [{"path": "/dev/gpu", "hostPath": "/dev/zero"},
                               {"path": "/dev/made", "type": "b", "major": 7, "minor": 1, "permissions": "r", "uid": 5},
                               {"path": "/dev/fifo", "type": "p"}],
               "mounts": [{"hostPath": "/usr", "containerPath": "/opt/driver", "options": ["ro"]},
                          {"hostPath": "tmpfs", "containerPath": "/cache", "type": "tmpfs", "options": ["nosuid"]},
                          {"hostPath": "/etc", "containerPath": "/etc/hosts"}],
               "hooks": [{"hookName": "createContainer", "path": "/bin/hook", "args": ["hook", "x"], "timeout": 3}]}"#,
            1000,
        )
        .unwrap();
        assert_eq!(injection.additional_gids, [44]);
        let mut fixture = Fixture::default();
        fixture.container.envs = vec![("A".into(), b"request".to_vec())];
        fixture.injection = injection;
        let spec = build(&fixture.input()).unwrap();
        let env: Vec<&str> = spec.process.env.iter().map(String::as_str).collect();
        assert!(env.contains(&"A=cdi") && env.contains(&"B=cdi") && !env.contains(&"A=request"), "{env:?}");
        let nodes: Vec<_> =
            spec.linux.devices.iter().map(|d| (d.kind.as_str(), d.major, d.minor, d.uid)).collect();
        assert_eq!(nodes, [("c", 1, 5, 1000), ("b", 7, 1, 5), ("p", 0, 0, 1000)]);
        let rules: Vec<_> =
            spec.linux.resources.devices.iter().skip(1).map(|r| (r.major, r.access.as_str())).collect();
        assert_eq!(rules, [(Some(1), "rwm"), (Some(7), "r")], "a FIFO needs no rule");
        let at = |path: &str| {
            let mounts: Vec<_> = spec.mounts.iter().filter(|m| m.destination == Path::new(path)).collect();
            assert_eq!(mounts.len(), 1, "{path}");
            (mounts[0].kind.clone(), mounts[0].options.join(","))
        };
        assert_eq!(at("/opt/driver"), ("bind".into(), "ro,rbind,rprivate".into()));
        assert_eq!(at("/cache"), ("tmpfs".into(), "nosuid".into()));
        assert_eq!(at("/etc/hosts"), ("bind".into(), "rbind,rprivate".into()));
        let hooks = spec.hooks.unwrap();
        assert_eq!((hooks.create_container.len(), hooks.create_container[0].timeout), (1, Some(3)));
        assert_eq!(build(&Fixture::default().input()).unwrap().hooks, None);
    }

    #[test]
    fn what_is_not_there_is_named() {
        for (json, expect) in [
            (r#"{"deviceNodes": [{"path": "/dev/nope"}]}"#, "CDI_devices: look at device node /dev/nope: "),
            (r#"{"deviceNodes": [{"path": "/etc"}]}"#, "CDI_devices: \"/etc\" is not a device"),
            (
                r#"{"deviceNodes": [{"path": "/dev/null", "type": "b"}]}"#,
                "CDI_devices: device node \"/dev/null\" is of type 'c'",
            ),
            (
                r#"{"mounts": [{"hostPath": "/nope/x", "containerPath": "/x"}]}"#,
                "CDI_devices: the source of a mount, \"/nope/x\", does not exist",
            ),
        ] {
            let error = injection(json, 0).unwrap_err();
            assert!(error.starts_with(expect), "{json}: {error}");
        }
    }
}
