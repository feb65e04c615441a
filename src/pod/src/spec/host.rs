//! What the node has and may, as far as a container's specification depends on it. Gathered once at start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use kernel::caps;

use super::oci::Rlimit;

/// Which cgroup interface holds the controllers that limit containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy a controller. A hybrid layout is this one: its v2 hierarchy holds no controller of ours.
    V1,
    /// The unified hierarchy.
    V2,
}

/// What the node knows about AppArmor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppArmor {
    /// Whether the kernel enforces it.
    pub enabled: bool,
    /// The profile that RuntimeDefault means; only if it is loaded.
    pub default_profile: Option<String>,
    /// Every loaded profile.
    pub loaded: BTreeSet<String>,
}

/// What the node has and may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Where limits go.
    pub cgroup: CgroupVersion,
    /// Whether swap can be limited.
    pub swap_controller: bool,
    /// The huge page sizes whose use can be limited, `2MB`.
    pub hugepage_sizes: BTreeSet<String>,
    /// AppArmor.
    pub apparmor: AppArmor,
    /// Whether containers get SELinux labels: the kernel enforces it and the configuration asks for it.
    pub selinux: bool,
    /// As `std::env::consts::ARCH` names it.
    pub architecture: &'static str,
    /// What the service itself may do and can therefore hand on; without `CAP_`, in the kernel's order.
    pub capabilities: Vec<&'static str>,
    /// The lowest oom_score_adj that a container can get.
    pub oom_score_adj_min: i32,
    /// The hard limits that a container cannot exceed, by name.
    pub rlimits_max: BTreeMap<String, u64>,
    /// Whether the kernel has POSIX message queues.
    pub mqueue: bool,
    /// Whether the kernel mounts recursively read-only (mount_setattr(2), Linux 5.12), and the handler too.
    pub recursive_read_only: bool,
}

/// The AppArmor profile that RuntimeDefault means, where an administrator has loaded it.
pub const APPARMOR_DEFAULT: &str = "gantline-default";

impl HostFacts {
    /// Looks at the node. What cannot be read is taken as absent; `/proc` and `/sys` are where they always are.
    ///
    /// `swap_controller` and `hugepage_sizes` belong to the cgroup layout: see [`crate::cgroups`].
    ///
    /// # Errors
    /// The kernel does not tell what this process may do.
    pub fn gather(
        cgroup: CgroupVersion,
        swap_controller: bool,
        hugepage_sizes: BTreeSet<String>,
        selinux: bool,
    ) -> Result<Self, kernel::SysError> {
        let rlimits_max = ["RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_MEMLOCK", "RLIMIT_CORE", "RLIMIT_STACK"]
            .into_iter()
            .filter_map(|name| caps::rlimit_max(name).map(|most| (name.to_owned(), most)))
            .collect();
        let file_systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        Ok(Self {
            cgroup,
            swap_controller,
            hugepage_sizes,
            apparmor: AppArmor::gather(),
            selinux: selinux && Path::new("/sys/fs/selinux/enforce").exists(),
            architecture: std::env::consts::ARCH,
            capabilities: caps::permitted()?,
            oom_score_adj_min: caps::oom_score_adj_min()?,
            rlimits_max,
            mqueue: file_systems.lines().any(|line| line.split_whitespace().last() == Some("mqueue")),
            recursive_read_only: kernel::release::running() >= (5, 12),
        })
    }

    /// The same with the profiles that are loaded by now, where there can be any: administrators load them at any time.
    pub fn renewed(&self) -> Self {
        let apparmor = if self.apparmor.enabled { AppArmor::gather() } else { AppArmor::default() };
        Self { apparmor, ..self.clone() }
    }

    /// A limit lowered to what a container can get.
    pub fn clamp_rlimit(&self, limit: &Rlimit) -> Rlimit {
        let most = self.rlimits_max.get(&limit.kind).copied().unwrap_or(u64::MAX);
        Rlimit { kind: limit.kind.clone(), soft: limit.soft.min(most), hard: limit.hard.min(most) }
    }
}

impl AppArmor {
    /// Looks at the node: whether AppArmor is enabled, and what is loaded now.
    pub fn gather() -> Self {
        let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.trim() == "Y")
            && Path::new("/sys/kernel/security/apparmor").is_dir();
        if !enabled {
            return Self::default();
        }
        // Lines of `name (mode)`.
        let loaded: BTreeSet<String> = fs::read_to_string("/sys/kernel/security/apparmor/profiles")
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.rsplit_once(" (").map(|(name, _)| name.to_owned()))
            .collect();
        let default_profile = loaded.get(APPARMOR_DEFAULT).cloned();
        Self { enabled, default_profile, loaded }
    }
}
