//! Where the kubelet of a node is told which runtime to speak to and who makes cgroups: its configuration files, the
//! flags that kubeadm and the distributions write, and drop-ins of its unit.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::files::Files;

/// Files in YAML. kubeadm keeps what is of this node alone in the second one since 1.35.
const FILES: [&str; 7] = [
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/instance-config.yaml",
    "/etc/kubernetes/kubelet.conf.yaml",
    "/etc/kubernetes/kubelet/config.yaml",
    "/etc/kubernetes/kubelet-config.yaml",
    // k3s and rke2 hold the kubelet within themselves.
    "/etc/rancher/k3s/config.yaml",
    "/etc/rancher/rke2/config.yaml",
];
/// Files of flags, and of assignments of environment variables that hold them.
const FLAGS: [&str; 4] = [
    "/var/lib/kubelet/kubeadm-flags.env",
    "/etc/default/kubelet",
    "/etc/sysconfig/kubelet",
    "/etc/conf.d/kubelet",
];
/// Directories of the unit and its drop-ins, and of drop-ins of the configuration.
const UNITS: [&str; 4] = [
    "/etc/systemd/system/kubelet.service.d",
    "/usr/lib/systemd/system/kubelet.service.d",
    "/lib/systemd/system/kubelet.service.d",
    "/etc/kubernetes/kubelet.conf.d",
];

/// A place that says something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Said {
    /// The file.
    pub(crate) file: PathBuf,
    /// The line, from 1.
    pub(crate) line: usize,
    /// The field or flag, `containerRuntimeEndpoint`.
    pub(crate) name: String,
    /// What it says.
    pub(crate) value: String,
}

/// What a node's kubelet is told. Of what is said more than once the last place is first told by flags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Kubelet {
    /// Where the runtime's socket is said.
    pub(crate) endpoints: Vec<Said>,
    /// Where the cgroup driver is said. A kubelet since 1.28 asks the runtime first.
    pub(crate) drivers: Vec<Said>,
    /// Where failing on cgroup v1 is said.
    pub(crate) fail_cgroup_v1: Vec<Said>,
    /// Where failing on swap is said.
    pub(crate) fail_swap_on: Vec<Said>,
}

/// Looks through the files that there are.
pub(crate) fn look(files: &Files) -> Kubelet {
    let mut kubelet = Kubelet::default();
    let mut paths: Vec<PathBuf> = FILES.iter().chain(&FLAGS).map(PathBuf::from).collect();
    paths.extend(UNITS.iter().flat_map(|directory| files.list(Path::new(directory))));
    let mut seen = Vec::new();
    for path in paths {
        let place = files.find(&path);
        if place.is_none() || seen.contains(&place) {
            continue;
        }
        let Ok(Some(text)) = files.read(&path) else { continue };
        seen.push(place);
        for (index, line) in text.lines().enumerate() {
            kubelet.line(&path, index + 1, line);
        }
    }
    kubelet
}

impl Kubelet {
    fn line(&mut self, path: &Path, number: usize, line: &str) {
        if line.trim_start().starts_with(['#', ';']) {
            return;
        }
        let said = |name: &str, value: &str| Said {
            file: path.to_owned(),
            line: number,
            name: name.to_owned(),
            value: value.trim().trim_matches(['"', '\'']).to_owned(),
        };
        for (flag, field) in [
            // Theirs, which is a flag of k3s's without its dashes.
            ("", "container-runtime-endpoint"),
            ("--container-runtime-endpoint", "containerRuntimeEndpoint"),
            ("--cgroup-driver", "cgroupDriver"),
            ("--fail-cgroupv1", "failCgroupV1"),
            ("--fail-swap-on", "failSwapOn"),
        ] {
            let found = match line.split_once(flag) {
                Some((_, rest)) if !flag.is_empty() && rest.starts_with(['=', ' ']) => {
                    rest[1..].split([' ', '"', '\'', '\\']).next().map(|value| said(flag, value))
                }
                // A field of the document itself is not indented.
                _ => line
                    .strip_prefix(field)
                    .and_then(|rest| rest.strip_prefix(':'))
                    .map(|value| said(field, value.split(" #").next().unwrap_or_default())),
            };
            let list = match field {
                "containerRuntimeEndpoint" | "container-runtime-endpoint" => &mut self.endpoints,
                "cgroupDriver" => &mut self.drivers,
                "failCgroupV1" => &mut self.fail_cgroup_v1,
                _ => &mut self.fail_swap_on,
            };
            list.extend(found.filter(|said| !said.value.is_empty()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_found_with_its_line() {
        let (_dir, files) = Files::made_up(&[
            (
                "/var/lib/kubelet/config.yaml",
                "kind: KubeletConfiguration\ncgroupDriver: systemd # yes\ncontainerRuntimeEndpoint: \"\"\nx:\n  cgroupDriver: no\n",
            ),
            (
                "/var/lib/kubelet/instance-config.yaml",
                "containerRuntimeEndpoint: unix:///var/run/containerd/containerd.sock\n",
            ),
            (
                "/var/lib/kubelet/kubeadm-flags.env",
                "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/crio/crio.sock --x=y\"\n",
            ),
            (
                "/etc/systemd/system/kubelet.service.d/10.conf",
                "# --cgroup-driver=no\nExecStart=kubelet --cgroup-driver cgroupfs \\\n",
            ),
            ("/lib", "-> usr/lib"),
            ("/etc/rancher/k3s/config.yaml", "container-runtime-endpoint: unix:///run/k3s.sock"),
        ]);
        let kubelet = look(&files);
        let shown = |list: &[Said]| {
            list.iter()
                .map(|said| format!("{}:{} {} {}", said.file.display(), said.line, said.name, said.value))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            shown(&kubelet.endpoints),
            [
                "/var/lib/kubelet/instance-config.yaml:1 containerRuntimeEndpoint unix:///var/run/containerd/containerd.sock",
                "/etc/rancher/k3s/config.yaml:1 container-runtime-endpoint unix:///run/k3s.sock",
                "/var/lib/kubelet/kubeadm-flags.env:1 --container-runtime-endpoint unix:///run/crio/crio.sock",
            ]
        );
        assert_eq!(
            shown(&kubelet.drivers),
            [
                "/var/lib/kubelet/config.yaml:2 cgroupDriver systemd",
                "/etc/systemd/system/kubelet.service.d/10.conf:2 --cgroup-driver cgroupfs",
            ]
        );
        assert_eq!(look(&Files::below("/nonexistent")), Kubelet::default());
    }
}
