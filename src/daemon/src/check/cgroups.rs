//! Which cgroup hierarchies are mounted, and whether containers can be bounded with them.

use std::path::Path;

use kernel::mount::MountInfo;

use super::{Host, Report};

const SUBJECT: &str = "cgroups";
/// Without these no limit of a pod holds.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];
/// These some pods ask for.
const WANTED: [&str; 3] = ["cpuset", "io", "hugetlb"];

/// The hierarchies of this host.
#[derive(Debug, Default, PartialEq, Eq)]
struct Layout {
    /// Controllers with a hierarchy of version 1.
    v1: Vec<String>,
    /// The mount point of version 2 and its controllers.
    v2: Option<(std::path::PathBuf, Vec<String>)>,
}

pub(super) fn check(host: &Host<'_>, report: &mut Report) {
    let table = host.files.word("/proc/self/mountinfo");
    let mounts = match kernel::mount::parse(format!("{table}\n").as_bytes()) {
        Ok(mounts) => mounts,
        Err(error) => return report.fail(SUBJECT, error.to_string(), "mount /proc"),
    };
    let word = |file: std::path::PathBuf| host.files.word(&file.display().to_string());
    judge(&layout(&mounts, |v2| word(v2.join("cgroup.controllers"))), report);
    for mount in mounts.iter().filter(|mount| mount.file_system.starts_with("cgroup")) {
        if mount.options.iter().any(|option| option == "ro") {
            report.fail(
                SUBJECT,
                format!("{} is mounted read-only", mount.mount_point.display()),
                "run the service on the host itself, or in a container that may write to cgroups",
            );
        }
    }
    delegated(host, &mounts, report);
}

/// In a cgroup namespace of its own, as in kind's and k3d's nodes, what the root hands down is all there is.
fn delegated(host: &Host<'_>, mounts: &[MountInfo], report: &mut Report) {
    let Some(v2) = mounts.iter().find(|mount| mount.file_system == "cgroup2") else { return };
    let file = |name: &str| host.files.word(&v2.mount_point.join(name).display().to_string());
    let (there, handed) = (file("cgroup.controllers"), file("cgroup.subtree_control"));
    let missing: Vec<_> = NEEDED
        .into_iter()
        .filter(|name| {
            there.split_whitespace().any(|c| c == *name) && !handed.split_whitespace().any(|c| c == *name)
        })
        .collect();
    // The true root hands down what is asked for; below it, processes in the group forbid that.
    let busy = host.files.exists(&v2.mount_point.join("cgroup.type")) && !file("cgroup.procs").is_empty();
    if !missing.is_empty() && busy {
        report.fail(
            SUBJECT,
            format!("{} cannot be handed down from {}: processes are in it", missing.join(", "), v2.mount_point.display()),
            "move its processes into a group below (as kind's and docker-in-docker's entrypoints do), then enable them in cgroup.subtree_control",
        );
    }
}

fn layout(mounts: &[MountInfo], controllers: impl Fn(&Path) -> String) -> Layout {
    let mut layout = Layout::default();
    for mount in mounts {
        match mount.file_system.as_str() {
            "cgroup2" if layout.v2.is_none() => {
                let point = mount.mount_point.clone();
                let names = controllers(&point).split_whitespace().map(str::to_owned).collect();
                layout.v2 = Some((point, names));
            }
            "cgroup" => {
                // The controllers are among the super block's options; the named hierarchy has none.
                let options = mount.super_options.split(',');
                let names =
                    options.filter(|option| !option.contains('=') && *option != "rw" && *option != "ro");
                layout.v1.extend(names.map(str::to_owned));
            }
            _ => {}
        }
    }
    layout
}

fn judge(layout: &Layout, report: &mut Report) {
    let (version, has): (&str, Vec<&str>) = match layout {
        Layout { v1, v2: Some((_, v2)) } if v1.is_empty() => ("v2", v2.iter().map(String::as_str).collect()),
        // io is called blkio there.
        Layout { v1, .. } if !v1.is_empty() => {
            ("v1", v1.iter().map(|name| if name == "blkio" { "io" } else { name.as_str() }).collect())
        }
        _ => {
            let remedy = "mount the cgroup file system: mount -t cgroup2 cgroup2 /sys/fs/cgroup";
            report.fail(SUBJECT, "no hierarchy is mounted", remedy);
            return;
        }
    };
    let missing = |wanted: &[&'static str]| -> Vec<&'static str> {
        wanted.iter().copied().filter(|name| !has.contains(name)).collect()
    };
    let lacking = missing(&NEEDED);
    if !lacking.is_empty() {
        report.fail(
            SUBJECT,
            format!("{version} without the controllers {}", lacking.join(", ")),
            "enable them on the kernel's command line (cgroup_enable=memory), or mount their hierarchies",
        );
        return;
    }
    let lacking = missing(&WANTED);
    if lacking.is_empty() {
        report.ok(SUBJECT, format!("{version} with {}", has.join(", ")));
    } else {
        report.warn(
            SUBJECT,
            format!("{version} without the controllers {}", lacking.join(", ")),
            "pods that ask for these limits will be refused; enable them where pods need them",
        );
    }
    if version == "v1" {
        report.warn(
            SUBJECT,
            "version 1 is in use",
            "kubelet 1.36 wants failCgroupV1: false for that; boot with systemd.unified_cgroup_hierarchy=1 to move to v2",
        );
    }
    // crun refuses a hybrid layout whose v2 part holds a controller.
    if let Layout { v1, v2: Some((point, stray)) } = layout
        && !v1.is_empty()
        && !stray.is_empty()
    {
        let one = &stray[0];
        report.fail(
            SUBJECT,
            format!("hybrid layout: {} is bound to v2 at {}, which crun refuses", stray.join(", "), point.display()),
            format!(
                "mount it as v1: mkdir -p /sys/fs/cgroup/{one} && mount -t cgroup -o {one} cgroup /sys/fs/cgroup/{one}"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn mounts(lines: &[&str]) -> Vec<MountInfo> {
        let text: String =
            lines.iter().enumerate().map(|(i, line)| format!("{} 1 0:{i} / {line}\n", i + 2)).collect();
        kernel::mount::parse(text.as_bytes()).unwrap()
    }

    fn levels(lines: &[&str], v2: &str) -> Vec<(Level, String)> {
        let mut report = Report::default();
        judge(&layout(&mounts(lines), |_| v2.to_owned()), &mut report);
        report.findings.into_iter().map(|finding| (finding.level, finding.found)).collect()
    }

    #[test]
    fn layouts_are_judged() {
        let v2 = "/sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
        let found = levels(&[v2], "cpuset cpu io memory hugetlb pids rdma");
        assert_eq!(found, [(Level::Ok, "v2 with cpuset, cpu, io, memory, hugetlb, pids, rdma".to_owned())]);

        let found = levels(&[v2], "cpuset cpu io pids");
        assert_eq!(found, [(Level::Fail, "v2 without the controllers memory".to_owned())]);

        assert_eq!(levels(&[], ""), [(Level::Fail, "no hierarchy is mounted".to_owned())]);

        let v1 = [
            "/sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct",
            "/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
            "/sys/fs/cgroup/pids rw - cgroup cgroup rw,pids",
            "/sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset",
            "/sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio",
            "/sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd",
            "/sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
        ];
        let found = levels(&v1, "hugetlb\n");
        assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [Level::Warn, Level::Warn, Level::Fail]);
        assert!(found[2].1.starts_with("hybrid layout: hugetlb is bound to v2"), "{found:?}");
        assert!(!levels(&v1, "").iter().any(|(level, _)| *level == Level::Fail));
    }
}
