//! Security contexts and namespace options to the model.

use api::v1;
use model::{
    Capabilities, ContainerSecurity, IdMapping, MandatoryProfile, NamespaceMode, Namespaces, PodSecurity,
    SeLinuxLabel, SupplementalGroupsPolicy, UserMode, UserNamespace,
};

use super::text;
use crate::convert::invalid::each;
use crate::convert::{Invalid, Under as _};

/// Which of the two kinds of profile is meant; they differ in what a Localhost reference is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Confinement {
    Seccomp,
    AppArmor,
}

/// A sandbox's security context.
pub(super) fn pod_security(from: v1::LinuxSandboxSecurityContext) -> Result<PodSecurity, Invalid> {
    #[allow(deprecated)] // older clients fill the string alone
    let seccomp_path = from.seccomp_profile_path;
    let run_as_user = user_id("run_as_user", from.run_as_user)?;
    let run_as_group = user_id("run_as_group", from.run_as_group)?;
    if run_as_group.is_some() && run_as_user.is_none() {
        return Err(Invalid::new("run_as_group", "is set without run_as_user"));
    }
    let namespaces = namespaces(from.namespace_options.unwrap_or_default()).under("namespace_options")?;
    if let NamespaceMode::Target(_) = namespaces.pid {
        return Err(Invalid::new(
            "namespace_options.pid",
            "TARGET is for containers: a sandbox has none yet",
        ));
    }
    Ok(PodSecurity {
        namespaces,
        selinux: from.selinux_options.map(selinux),
        run_as_user,
        run_as_group,
        readonly_rootfs: from.readonly_rootfs,
        supplemental_groups: groups(from.supplemental_groups)?,
        supplemental_groups_policy: groups_policy(from.supplemental_groups_policy)?,
        privileged: from.privileged,
        seccomp: profile("seccomp", from.seccomp, seccomp_path, Confinement::Seccomp)?,
        apparmor: profile("apparmor", from.apparmor, String::new(), Confinement::AppArmor)?,
    })
}

/// A container's security context.
pub(super) fn container_security(
    from: v1::LinuxContainerSecurityContext,
) -> Result<ContainerSecurity, Invalid> {
    #[allow(deprecated)] // older clients fill the strings alone
    let (apparmor_profile, seccomp_path) = (from.apparmor_profile, from.seccomp_profile_path);
    let run_as_user = user_id("run_as_user", from.run_as_user)?;
    let run_as_group = user_id("run_as_group", from.run_as_group)?;
    let run_as_username = text::no_nul("run_as_username", from.run_as_username)?;
    if run_as_user.is_some() && !run_as_username.is_empty() {
        return Err(Invalid::new("run_as_username", "is set beside run_as_user: one of the two"));
    }
    if run_as_group.is_some() && run_as_user.is_none() && run_as_username.is_empty() {
        return Err(Invalid::new("run_as_group", "is set without run_as_user or run_as_username"));
    }
    let paths = |field: &'static str, paths: Vec<String>| {
        each(paths, |path| text::absolute("", path.clone()).map(|_| path))
            .map_err(|_| Invalid::new(field, "holds a path that is not absolute or has \"..\" in it"))
    };
    Ok(ContainerSecurity {
        capabilities: capabilities(from.capabilities.unwrap_or_default()).under("capabilities")?,
        privileged: from.privileged,
        namespaces: namespaces(from.namespace_options.unwrap_or_default()).under("namespace_options")?,
        selinux: from.selinux_options.map(selinux),
        run_as_user,
        run_as_group,
        run_as_username,
        readonly_rootfs: from.readonly_rootfs,
        supplemental_groups: groups(from.supplemental_groups)?,
        supplemental_groups_policy: groups_policy(from.supplemental_groups_policy)?,
        no_new_privs: from.no_new_privs,
        masked_paths: paths("masked_paths", from.masked_paths)?,
        readonly_paths: paths("readonly_paths", from.readonly_paths)?,
        seccomp: profile("seccomp", from.seccomp, seccomp_path, Confinement::Seccomp)?,
        apparmor: profile("apparmor", from.apparmor, apparmor_profile, Confinement::AppArmor)?,
    })
}

/// Namespace modes; `network` and `ipc` are the pod's or the node's, `pid` any of the four.
fn namespaces(from: v1::NamespaceOption) -> Result<Namespaces, Invalid> {
    let target = from.target_id;
    let pid = match (mode("pid", from.pid)?, target.is_empty()) {
        (v1::NamespaceMode::Target, true) => {
            return Err(Invalid::new("target_id", "is empty, and pid is TARGET"));
        }
        (v1::NamespaceMode::Target, false) => {
            let id = target
                .parse()
                .map_err(|_| Invalid::new("target_id", format!("{target:?} is not a container's id")))?;
            NamespaceMode::Target(id)
        }
        (_, false) => return Err(Invalid::new("target_id", "is set, and pid is not TARGET")),
        (v1::NamespaceMode::Pod, true) => NamespaceMode::Pod,
        (v1::NamespaceMode::Container, true) => NamespaceMode::Container,
        (v1::NamespaceMode::Node, true) => NamespaceMode::Node,
    };
    Ok(Namespaces {
        network: pod_or_node("network", from.network)?,
        pid,
        ipc: pod_or_node("ipc", from.ipc)?,
        user: from.userns_options.map(user_namespace).transpose().under("userns_options")?,
    })
}

fn mode(field: &str, number: i32) -> Result<v1::NamespaceMode, Invalid> {
    v1::NamespaceMode::try_from(number)
        .map_err(|_| Invalid::new(field, format!("{number} is not a namespace mode of CRI")))
}

fn pod_or_node(field: &str, number: i32) -> Result<NamespaceMode, Invalid> {
    match mode(field, number)? {
        v1::NamespaceMode::Pod => Ok(NamespaceMode::Pod),
        v1::NamespaceMode::Node => Ok(NamespaceMode::Node),
        other => Err(Invalid::new(field, format!("{} is neither POD nor NODE", other.as_str_name()))),
    }
}

/// Mode POD has one mapping of each kind with container id 0 in it; mode NODE has none.
fn user_namespace(from: v1::UserNamespace) -> Result<UserMode, Invalid> {
    match mode("mode", from.mode)? {
        v1::NamespaceMode::Pod => Ok(UserMode::Pod(UserNamespace {
            uids: one_mapping("uids", from.uids)?,
            gids: one_mapping("gids", from.gids)?,
        })),
        v1::NamespaceMode::Node if from.uids.is_empty() && from.gids.is_empty() => Ok(UserMode::Node),
        v1::NamespaceMode::Node => Err(Invalid::new("mode", "is NODE, and there are mappings")),
        other => Err(Invalid::new("mode", format!("{} is neither POD nor NODE", other.as_str_name()))),
    }
}

fn one_mapping(field: &str, mappings: Vec<v1::IdMapping>) -> Result<Vec<IdMapping>, Invalid> {
    let mappings = each(mappings, id_mapping).under(field)?;
    match mappings.as_slice() {
        [one] if one.container_id == 0 => Ok(mappings),
        [one] => Err(Invalid::new(
            field,
            format!("begins at container id {}: id 0 must be in it", one.container_id),
        )),
        _ => Err(Invalid::new(field, format!("has {} mappings: exactly one is supported", mappings.len()))),
    }
}

/// A mapping of at least one id that ends below 2^32.
pub(super) fn id_mapping(from: v1::IdMapping) -> Result<IdMapping, Invalid> {
    let v1::IdMapping { host_id, container_id, length } = from;
    if length == 0 {
        return Err(Invalid::new("length", "is 0"));
    }
    if host_id.checked_add(length).is_none() || container_id.checked_add(length).is_none() {
        return Err(Invalid::new("length", format!("{length} goes beyond the last id")));
    }
    Ok(IdMapping { host_id, container_id, length })
}

fn user_id(field: &str, value: Option<v1::Int64Value>) -> Result<Option<i64>, Invalid> {
    value.map(|v| one_id(v.value)).transpose().map_err(|why| Invalid::new(field, why))
}

fn groups(groups: Vec<i64>) -> Result<Vec<i64>, Invalid> {
    groups
        .into_iter()
        .map(one_id)
        .collect::<Result<_, _>>()
        .map_err(|why| Invalid::new("supplemental_groups", why))
}

/// The kernel's ids are 32 bits wide, and the last one means "none" (credentials(7)).
fn one_id(id: i64) -> Result<i64, String> {
    match u32::try_from(id) {
        Ok(narrow) if narrow != u32::MAX => Ok(id),
        _ => Err(format!("{id} is not an id of the kernel's")),
    }
}

fn groups_policy(number: i32) -> Result<SupplementalGroupsPolicy, Invalid> {
    match v1::SupplementalGroupsPolicy::try_from(number) {
        Ok(v1::SupplementalGroupsPolicy::Merge) => Ok(SupplementalGroupsPolicy::Merge),
        Ok(v1::SupplementalGroupsPolicy::Strict) => Ok(SupplementalGroupsPolicy::Strict),
        Err(_) => Err(Invalid::new("supplemental_groups_policy", format!("{number} is not a policy of CRI"))),
    }
}

fn selinux(from: v1::SeLinuxOption) -> SeLinuxLabel {
    SeLinuxLabel { user: from.user, role: from.role, kind: from.r#type, level: from.level }
}

/// `cap_net_admin`, `NET_ADMIN` and `CAP_NET_ADMIN` are one name. Whether it exists is the spec's to say.
fn capabilities(from: v1::Capability) -> Result<Capabilities, Invalid> {
    let names = |field: &'static str, names: Vec<String>| {
        each(names, |name| {
            let upper = name.to_ascii_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            match !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                true => Ok(bare.to_owned()),
                false => Err(Invalid::new("", format!("{name:?} is not a capability"))),
            }
        })
        .map_err(|error| Invalid::new(field, error.why()))
    };
    Ok(Capabilities {
        add: names("add_capabilities", from.add_capabilities)?,
        drop: names("drop_capabilities", from.drop_capabilities)?,
        add_ambient: names("add_ambient_capabilities", from.add_ambient_capabilities)?,
    })
}

/// The profile of the new field, or that of the string which it replaced.
fn profile(
    field: &'static str,
    new: Option<v1::SecurityProfile>,
    deprecated: String,
    confinement: Confinement,
) -> Result<Option<MandatoryProfile>, Invalid> {
    let Some(new) = new else { return deprecated_profile(field, deprecated, confinement) };
    use v1::security_profile::ProfileType;
    let kind = ProfileType::try_from(new.profile_type)
        .map_err(|_| Invalid::new(field, format!("profile_type {} is not one of CRI", new.profile_type)))?;
    match (kind, new.localhost_ref.is_empty()) {
        (ProfileType::RuntimeDefault, true) => Ok(Some(MandatoryProfile::RuntimeDefault)),
        (ProfileType::Unconfined, true) => Ok(Some(MandatoryProfile::Unconfined)),
        (ProfileType::Localhost, false) => localhost(field, &new.localhost_ref, confinement).map(Some),
        (ProfileType::Localhost, true) => Err(Invalid::new(field, "is Localhost without a localhost_ref")),
        (other, false) => {
            Err(Invalid::new(field, format!("is {} with a localhost_ref", other.as_str_name())))
        }
    }
}

/// The strings of before: `runtime/default`, `unconfined`, `localhost/<reference>`.
fn deprecated_profile(
    field: &'static str,
    text: String,
    confinement: Confinement,
) -> Result<Option<MandatoryProfile>, Invalid> {
    match text.as_str() {
        "" => Ok(None),
        "runtime/default" | "docker/default" => Ok(Some(MandatoryProfile::RuntimeDefault)),
        "unconfined" => Ok(Some(MandatoryProfile::Unconfined)),
        other if other.starts_with("localhost/") => localhost(field, other, confinement).map(Some),
        other => {
            Err(Invalid::new(field, format!("{other:?} is not runtime/default, unconfined or localhost/…")))
        }
    }
}

fn localhost(field: &'static str, text: &str, confinement: Confinement) -> Result<MandatoryProfile, Invalid> {
    let reference = text.strip_prefix("localhost/").unwrap_or(text).to_owned();
    match confinement {
        Confinement::Seccomp => {
            text::absolute("localhost_ref", reference.clone()).under(field)?;
        }
        Confinement::AppArmor if reference.is_empty() => {
            return Err(Invalid::new(field, "names no profile after localhost/"));
        }
        Confinement::AppArmor => {}
    }
    Ok(MandatoryProfile::Localhost(reference))
}
