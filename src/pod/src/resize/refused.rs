//! Why a limit cannot be had, by the field of the request that asks for it.

use kernel::SysError;
use kernel::cgroup::{Group, Limits};
use model::{Classify, ErrorKind};
use rustix::io::Errno;

const MEMORY: &str = "linux.memory_limit_in_bytes";

/// A limit that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// Below what is in use.
    #[error("{field}: {limit} bytes are fewer than the {used} that are in use and cannot be reclaimed")]
    InUse { field: &'static str, limit: i64, used: u64 },
    /// Any other refusal, in the kernel's word.
    #[error("{field}: the kernel refuses it")]
    Kernel {
        field: String,
        #[source]
        source: SysError,
    },
    /// Its cgroup is gone.
    #[error("it is ending")]
    Ending,
}

impl Classify for Refused {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::InUse { .. } | Self::Ending => ErrorKind::WrongState,
            Self::Kernel { source, .. } => match Errno::from_io_error(&source.source) {
                Some(Errno::INVAL | Errno::RANGE | Errno::NOSPC | Errno::NODEV) => ErrorKind::Invalid,
                Some(Errno::BUSY) => ErrorKind::WrongState,
                Some(Errno::ACCESS | Errno::PERM) => ErrorKind::Denied,
                _ => model::error::io_kind(&source.source),
            },
        }
    }
}

impl Refused {
    /// What the kernel said of a write, by the field that the file is for.
    pub(super) fn by_kernel(source: SysError, limits: &Limits, groups: &[Group]) -> Self {
        if groups.iter().any(|group| !group.exists()) {
            return Self::Ending;
        }
        let file = source.object.to_string();
        let file = file.rsplit('/').next().unwrap_or_default();
        let busy = Errno::from_io_error(&source.source) == Some(Errno::BUSY);
        match (file, limits.memory, groups.first().and_then(Group::unreclaimable)) {
            ("memory.limit_in_bytes" | "memory.memsw.limit_in_bytes", Some(limit), Some(used)) if busy => {
                Self::InUse { field: MEMORY, limit, used }
            }
            _ => Self::Kernel { field: field_of(file, limits), source },
        }
    }
}

/// v2 kills what does not fit below a new limit, and a client that asks for a smaller one does not ask for that. v1
/// refuses it itself.
pub(super) fn check_in_use(group: &Group, limits: &Limits) -> Result<(), Refused> {
    let by_file = limits.unified.get("memory.max").and_then(|max| max.parse().ok());
    let wanted = by_file.or(limits.memory).filter(|limit| *limit >= 0);
    let grows = |limit: i64| group.read_limits().memory.is_some_and(|now| now <= limit);
    match (wanted, group.unreclaimable()) {
        (Some(limit), Some(used)) if used > limit.unsigned_abs() && !grows(limit) => {
            Err(Refused::InUse { field: MEMORY, limit, used })
        }
        _ => Ok(()),
    }
}

/// The request's field that a cgroup file is written for.
fn field_of(file: &str, limits: &Limits) -> String {
    if limits.unified.contains_key(file) {
        return format!("linux.unified[{file}]");
    }
    let field = match file {
        "cpu.shares" | "cpu.weight" => "cpu_shares",
        "cpu.cfs_period_us" => "cpu_period",
        "cpu.cfs_quota_us" | "cpu.max" => "cpu_quota",
        "cpuset.cpus" => "cpuset_cpus",
        "cpuset.mems" => "cpuset_mems",
        "memory.limit_in_bytes" | "memory.max" => "memory_limit_in_bytes",
        "memory.memsw.limit_in_bytes" | "memory.swap.max" => "memory_swap_limit_in_bytes",
        "oom_score_adj" => "oom_score_adj",
        hugetlb if hugetlb.starts_with("hugetlb.") => "hugepage_limits",
        other => other,
    };
    format!("linux.{field}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::cgroup::Hierarchy;
    use std::fs;
    use std::path::Path;

    fn group(root: &Path) -> Group {
        Hierarchy::V2 { root: root.to_owned() }.group("/a")
    }

    #[test]
    fn a_limit_below_what_is_in_use_is_refused_and_one_that_grows_is_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        let set = |file: &str, value: &str| fs::write(dir.path().join("a").join(file), value).unwrap();
        set("memory.current", "1000");
        set("memory.stat", "active_file 100\ninactive_file 200\n");
        let check = |now: &str, limit: i64, unified: Option<&str>| {
            set("memory.max", now);
            let mut limits = Limits { memory: Some(limit), ..Limits::default() };
            limits.unified.extend(unified.map(|max| ("memory.max".to_owned(), max.to_owned())));
            check_in_use(&group(dir.path()), &limits).map_err(|e| e.to_string())
        };
        let why = "linux.memory_limit_in_bytes: 699 bytes are fewer than the 700 that are in use and cannot be \
                   reclaimed";
        assert_eq!(check("max", 699, None), Err(why.to_owned()));
        assert_eq!(check("2000", 700, None), Ok(()));
        assert_eq!(check("2000", 5000, Some("699")), Err(why.to_owned()), "a file by name wins");
        assert_eq!(check("2000", 5000, Some("max")), Ok(()));
        assert_eq!(check("600", 650, None), Ok(()), "nothing shrinks");
        assert_eq!(check("max", -1, None), Ok(()));
    }

    #[test]
    fn the_kernels_refusal_names_the_field() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        let groups = [group(dir.path())];
        let refused = |file: &str, errno: Errno| {
            let limits =
                Limits { unified: [("memory.high".to_owned(), "1".to_owned())].into(), ..Limits::default() };
            let error = SysError::path("write", dir.path().join("a").join(file), errno);
            let refused = Refused::by_kernel(error, &limits, &groups);
            (refused.to_string(), refused.kind())
        };
        let says = |field: &str| format!("linux.{field}: the kernel refuses it");
        assert_eq!(refused("cpuset.cpus", Errno::INVAL), (says("cpuset_cpus"), ErrorKind::Invalid));
        assert_eq!(refused("cpu.max", Errno::BUSY), (says("cpu_quota"), ErrorKind::WrongState));
        assert_eq!(refused("memory.high", Errno::INVAL), (says("unified[memory.high]"), ErrorKind::Invalid));
        assert_eq!(refused("oom_score_adj", Errno::ACCESS), (says("oom_score_adj"), ErrorKind::Denied));
        fs::remove_dir(dir.path().join("a")).unwrap();
        assert_eq!(refused("cpu.max", Errno::NODEV), ("it is ending".to_owned(), ErrorKind::WrongState));
    }
}
