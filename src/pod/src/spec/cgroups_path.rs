//! What a pod's and a container's cgroups are called, under either driver.

use std::path::{Path, PathBuf};

use model::ContainerId;

use super::SpecError;

const FIELD: &str = "linux.cgroup_parent";
/// The first word of a scope's name under systemd.
const PREFIX: &str = "gantline";

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The OCI runtime makes directories below the parent.
    Cgroupfs,
    /// The OCI runtime asks systemd for a scope in the parent, which is a slice.
    Systemd,
}

/// `linux.cgroupsPath` of a container: `<parent>/<id>`, or `<slice>:gantline:<id>`.
///
/// # Errors
/// The parent is not one of this driver's.
pub fn container(driver: CgroupDriver, parent: &str, id: &ContainerId) -> Result<String, SpecError> {
    match driver {
        CgroupDriver::Cgroupfs => Ok(format!("{}/{id}", directory(driver, parent)?.display())),
        CgroupDriver::Systemd => Ok(format!("{}:{PREFIX}:{id}", slice(parent)?)),
    }
}

/// The cgroup of a parent, below a hierarchy's root: absolute, as /proc/self/cgroup writes it.
///
/// # Errors
/// The parent is not one of this driver's.
pub fn directory(driver: CgroupDriver, parent: &str) -> Result<PathBuf, SpecError> {
    match driver {
        CgroupDriver::Cgroupfs => {
            let plain = parent.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>();
            if plain.is_empty()
                || plain.iter().any(|part| matches!(*part, "." | "..") || part.contains([':', '\0']))
            {
                return Err(SpecError::invalid(FIELD, format!("{parent:?} is not the path of a cgroup")));
            }
            Ok(Path::new("/").join(plain.join("/")))
        }
        CgroupDriver::Systemd => Ok(expand(slice(parent)?)),
    }
}

/// The cgroup of a container, below a hierarchy's root.
///
/// # Errors
/// As [`directory`].
pub fn container_directory(
    driver: CgroupDriver,
    parent: &str,
    id: &ContainerId,
) -> Result<PathBuf, SpecError> {
    let parent = directory(driver, parent)?;
    Ok(match driver {
        CgroupDriver::Cgroupfs => parent.join(id.as_str()),
        CgroupDriver::Systemd => parent.join(format!("{PREFIX}-{id}.scope")),
    })
}

/// The slice that a parent names, alone or as the last part of its path.
fn slice(parent: &str) -> Result<&str, SpecError> {
    let name = parent.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let stem = name.strip_suffix(".slice").unwrap_or_default();
    let plain = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'\\' | b'@'))
    };
    // systemd.slice(5): `-` separates the slices above; `-.slice` is the root.
    if stem == "-" || stem.split('-').all(plain) {
        return Ok(name);
    }
    let why = format!("{parent:?} does not end in a slice, which the systemd cgroup driver needs");
    Err(SpecError::invalid(FIELD, why))
}

/// `a-b.slice` lies in `/a.slice/a-b.slice`.
fn expand(slice: &str) -> PathBuf {
    let mut path = PathBuf::from("/");
    let stem = slice.trim_end_matches(".slice");
    if stem == "-" {
        return path;
    }
    for (end, _) in stem.match_indices('-').chain([(stem.len(), "")]) {
        path.push(format!("{}.slice", &stem[..end]));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::fixture::id;
    use CgroupDriver::{Cgroupfs, Systemd};

    #[test]
    fn parents_of_either_driver() {
        let a = "1".repeat(64);
        let uid = "kubepods-burstable-pod1_2.slice";
        let deep = format!("/kubepods.slice/kubepods-burstable.slice/{uid}");
        let rows = [
            (Cgroupfs, "/kubepods/pod1", Ok(("/kubepods/pod1", format!("/kubepods/pod1/{a}")))),
            (Cgroupfs, "kubepods//pod1/", Ok(("/kubepods/pod1", format!("/kubepods/pod1/{a}")))),
            (Cgroupfs, "/a.slice", Ok(("/a.slice", format!("/a.slice/{a}")))),
            (Cgroupfs, "/a/../b", Err("\"/a/../b\" is not the path of a cgroup")),
            (Cgroupfs, "", Err("\"\" is not the path of a cgroup")),
            (Cgroupfs, "a:b:c", Err("\"a:b:c\" is not the path of a cgroup")),
            (Systemd, uid, Ok((deep.as_str(), format!("{uid}:gantline:{a}")))),
            (Systemd, deep.as_str(), Ok((deep.as_str(), format!("{uid}:gantline:{a}")))),
            (Systemd, "system.slice", Ok(("/system.slice", format!("system.slice:gantline:{a}")))),
            (Systemd, "-.slice", Ok(("/", format!("-.slice:gantline:{a}")))),
            (
                Systemd,
                "/kubepods",
                Err("\"/kubepods\" does not end in a slice, which the systemd cgroup driver needs"),
            ),
            (
                Systemd,
                "a--b.slice",
                Err("\"a--b.slice\" does not end in a slice, which the systemd cgroup driver needs"),
            ),
        ];
        for (driver, parent, expect) in rows {
            let found = directory(driver, parent)
                .and_then(|dir| Ok((dir, container(driver, parent, &id(1))?)))
                .map_err(|e| e.to_string());
            let expect = expect
                .map(|(dir, path)| (PathBuf::from(dir), path))
                .map_err(|why| format!("linux.cgroup_parent: {why}"));
            assert_eq!(found, expect, "{driver:?} {parent}");
        }
    }

    #[test]
    fn a_containers_cgroup_is_where_the_runtime_makes_it() {
        let a = "1".repeat(64);
        let found = container_directory(Systemd, "a-b.slice", &id(1)).unwrap();
        assert_eq!(found, PathBuf::from(format!("/a.slice/a-b.slice/gantline-{a}.scope")));
        let found = container_directory(Cgroupfs, "a", &id(1)).unwrap();
        assert_eq!(found, PathBuf::from(format!("/a/{a}")));
    }
}
