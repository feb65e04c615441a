//! Who else runs containers here, and whom the kubelet speaks to: what must be moved.

use std::path::Path;

use super::{Host, Report};
use crate::kubelet;

/// Other runtimes' CRI sockets, and what the processes beside their pods are called.
const OTHERS: [(&str, &[&str], &[&str]); 4] = [
    (
        "containerd",
        &["/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock"],
        &["containerd-shim"],
    ),
    ("CRI-O", &["/run/crio/crio.sock"], &["conmon"]),
    ("cri-dockerd", &["/run/cri-dockerd.sock"], &[]),
    ("dockershim", &["/run/dockershim.sock", "/var/run/dockershim.sock"], &[]),
];

pub(super) fn check(host: &Host<'_>, report: &mut Report) {
    let processes = processes(host);
    for (name, sockets, shims) in OTHERS {
        let pods =
            processes.iter().filter(|(_, comm)| shims.iter().any(|shim| comm.starts_with(shim))).count();
        for socket in sockets {
            let Some(listener) = host.probe.listener(Path::new(socket)) else { continue };
            let by = listener.pid.map_or_else(String::new, |pid| {
                let known = processes.iter().find(|(known, _)| *known == pid);
                known
                    .map_or_else(|| format!(", by pid {pid}"), |(_, comm)| format!(", by {comm} (pid {pid})"))
            });
            report.warn(
                "other runtimes",
                format!("{name} answers at {socket}{by}"),
                "both can run side by side, but a kubelet speaks to one: drain the node, then point the kubelet here \
                 (`gantline migrate` reads its configuration)",
            );
        }
        if pods > 0 {
            report.warn(
                "other runtimes",
                format!("{pods} processes of {name}'s pods run"),
                "they are not taken over: drain the node first (kubectl drain)",
            );
        }
    }
    let socket = host.config.socket();
    if host.probe.listener(&socket).is_some() {
        report.ok("service", format!("a service answers at {}", socket.display()));
    }
    endpoints(host, &socket, report);
}

/// Processes by pid and the first 15 characters of their names.
fn processes(host: &Host<'_>) -> Vec<(u32, String)> {
    let pids = host
        .files
        .list(Path::new("/proc"))
        .into_iter()
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok());
    pids.map(|pid: u32| (pid, host.files.word(&format!("/proc/{pid}/comm")))).collect()
}

fn endpoints(host: &Host<'_>, socket: &Path, report: &mut Report) {
    let ours = format!("unix://{}", socket.display());
    // /var/run is a link to /run on every system of today.
    let plain = |endpoint: &str| endpoint.trim_start_matches("unix://").replacen("/var/run/", "/run/", 1);
    let told = kubelet::look(host.files).endpoints;
    if told.is_empty() {
        return report.ok("kubelet", format!("no file of a kubelet names a runtime: give it {ours}"));
    }
    for said in told {
        let at = format!("{}:{} says {} {}", said.file.display(), said.line, said.name, said.value);
        if plain(&said.value) == plain(&ours) {
            report.ok("kubelet", at);
        } else {
            report.warn(
                "kubelet",
                at,
                format!("when you move: drain the node, change it to {ours}, restart the kubelet"),
            );
        }
    }
}
