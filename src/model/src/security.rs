//! Who a process is, what it may do, and which namespaces it shares.

use serde::{Deserialize, Serialize};

use crate::id::ContainerId;

/// Whose namespace a process lives in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// Shared by the pod's containers.
    #[default]
    Pod,
    /// The container's own.
    Container,
    /// The host's.
    Node,
    /// Another container's, of the same pod (PID only).
    Target(ContainerId),
}

/// The namespaces of a pod or container (CRI NamespaceOption).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// `Pod` or `Node`.
    pub network: NamespaceMode,
    /// Any mode.
    pub pid: NamespaceMode,
    /// `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// `None`: nothing is said. A sandbox has the host's user namespace then, a container its sandbox's.
    pub user: Option<UserMode>,
}

impl Namespaces {
    /// The user namespace of the pod's own, where it has one.
    pub fn own_user(&self) -> Option<&UserNamespace> {
        match &self.user {
            Some(UserMode::Pod(own)) => Some(own),
            Some(UserMode::Node) | None => None,
        }
    }
}

/// Whose user namespace a process lives in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserMode {
    /// The host's.
    Node,
    /// The pod's own.
    Pod(UserNamespace),
}

/// A user namespace of the pod's own, with its mappings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// User ids.
    pub uids: Vec<IdMapping>,
    /// Group ids.
    pub gids: Vec<IdMapping>,
}

impl UserNamespace {
    /// User and group 0 of the namespace, as the host counts.
    pub fn root(&self) -> Option<(u32, u32)> {
        Some((host_id(&self.uids, 0)?, host_id(&self.gids, 0)?))
    }
}

/// What an id inside is on the host; `None` where it is not mapped.
pub fn host_id(mappings: &[IdMapping], inside: u32) -> Option<u32> {
    mappings.iter().find_map(|mapping| {
        let offset = inside.checked_sub(mapping.container_id).filter(|offset| *offset < mapping.length)?;
        mapping.host_id.checked_add(offset)
    })
}

/// `length` ids from `container_id` on are `host_id` and on outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// The first id on the host.
    pub host_id: u32,
    /// The first id inside.
    pub container_id: u32,
    /// How many.
    pub length: u32,
}

/// A seccomp or AppArmor profile (CRI SecurityProfile).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MandatoryProfile {
    /// The one that Gantline keeps.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A file (seccomp) or a loaded profile (AppArmor) of the node.
    Localhost(String),
}

/// An SELinux label in parts; empty parts come from the host's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SeLinuxLabel {
    /// `system_u`
    pub user: String,
    /// `system_r`
    pub role: String,
    /// `container_t`
    pub kind: String,
    /// `s0:c1,c2`
    pub level: String,
}

/// Which groups a user's processes have beside the primary one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SupplementalGroupsPolicy {
    /// Those asked for, and those that the image's /etc/group gives to the user.
    #[default]
    Merge,
    /// Those asked for, no others.
    Strict,
}

/// Changes to the default capability set. Names have no `CAP_` and are upper-case; `ALL` is every one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Added to the bounding, effective and permitted sets.
    pub add: Vec<String>,
    /// Taken from them.
    pub drop: Vec<String>,
    /// Added to the ambient and inheritable sets as well.
    pub add_ambient: Vec<String>,
}

/// The security context of a pod sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSecurity {
    /// What its containers may share.
    pub namespaces: Namespaces,
    /// The label that its containers start from.
    pub selinux: Option<SeLinuxLabel>,
    /// Stored and reported: a sandbox of ours has no process that it would apply to.
    pub run_as_user: Option<i64>,
    /// As `run_as_user`.
    pub run_as_group: Option<i64>,
    /// As `run_as_user`.
    pub readonly_rootfs: bool,
    /// As `run_as_user`.
    pub supplemental_groups: Vec<i64>,
    /// As `run_as_user`.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// Whether its containers may be privileged.
    pub privileged: bool,
    /// Stored and reported.
    pub seccomp: Option<MandatoryProfile>,
    /// Stored and reported.
    pub apparmor: Option<MandatoryProfile>,
}

/// The security context of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSecurity {
    /// Changes to the default set.
    pub capabilities: Capabilities,
    /// All capabilities, all host devices, no confinement.
    pub privileged: bool,
    /// Must agree with the sandbox's, but for PID.
    pub namespaces: Namespaces,
    /// Over the sandbox's.
    pub selinux: Option<SeLinuxLabel>,
    /// Over the image's user.
    pub run_as_user: Option<i64>,
    /// Only beside a user.
    pub run_as_group: Option<i64>,
    /// Looked up in the image's /etc/passwd; empty means not set.
    pub run_as_username: String,
    /// The root file system is read-only.
    pub readonly_rootfs: bool,
    /// Added to the primary group.
    pub supplemental_groups: Vec<i64>,
    /// How they meet the image's.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// execve gains no privileges (prctl(2), PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: bool,
    /// Paths hidden from the container: exactly these.
    pub masked_paths: Vec<String>,
    /// Paths read-only for the container: exactly these.
    pub readonly_paths: Vec<String>,
    /// `None`: the node's configured default for an unset profile.
    pub seccomp: Option<MandatoryProfile>,
    /// `None`: the default profile where the host has AppArmor.
    pub apparmor: Option<MandatoryProfile>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_or_not_known() {
        let mappings = [
            IdMapping { host_id: 65_536, container_id: 0, length: 10 },
            IdMapping { host_id: 7, container_id: 100, length: 1 },
        ];
        for (inside, outside) in
            [(0, Some(65_536)), (9, Some(65_545)), (10, None), (99, None), (100, Some(7)), (101, None)]
        {
            assert_eq!(host_id(&mappings, inside), outside, "{inside}");
        }
    }
}
