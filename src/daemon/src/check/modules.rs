//! Kernel modules that pods' networks need, and the sysctls that come with them.

use std::path::Path;

use super::{Host, Report};

/// A module, a path that is there once it is loaded or built in, and who needs it.
const MODULES: [(&str, &str, &str); 3] = [
    ("br_netfilter", "/proc/sys/net/bridge/bridge-nf-call-iptables", "kube-proxy on bridge networks"),
    (
        "nf_conntrack",
        "/proc/sys/net/netfilter/nf_conntrack_max",
        "kube-proxy, and networks with masquerading",
    ),
    ("nf_tables", "/sys/module/nf_tables", "kube-proxy and CNI plugins that speak nftables or iptables-nft"),
];

pub(super) fn check(host: &Host<'_>, report: &mut Report) {
    let subject = "modules";
    let release = host.files.word("/proc/sys/kernel/osrelease");
    let mut loaded = Vec::new();
    for (name, sign, who) in MODULES {
        let dashed = Path::new("/sys/module").join(name);
        if host.files.exists(Path::new(sign))
            || host.files.exists(&dashed)
            || listed(host, &release, "modules.builtin", name)
        {
            loaded.push(name);
        } else if listed(host, &release, "modules.dep", name) && name.starts_with("nf_") {
            // iptables and nftables have the kernel load what they ask for.
            loaded.push(name);
        } else if listed(host, &release, "modules.dep", name) {
            report.warn(
                subject,
                format!("{name} is not loaded: it is for {who}"),
                format!(
                    "modprobe {name}, and name it in /etc/modules-load.d/gantline.conf for the next boot"
                ),
            );
        } else if !host.files.exists(Path::new(&format!("/lib/modules/{release}/modules.dep"))) {
            // A part of the kernel itself leaves no sign, where nothing lists them.
            report.ok(
                subject,
                format!("whether {name} is built in cannot be told: /lib/modules/{release} is not there"),
            );
        } else {
            report.warn(
                subject,
                format!("{name} is neither loaded nor installed: it is for {who}"),
                "choose a network and a proxy that do without, or boot a kernel that has it",
            );
        }
    }
    if !loaded.is_empty() {
        report.ok(subject, loaded.join(", "));
    }
    sysctls(host, report);
}

/// Whether one of depmod's lists has a module (depmod(8)).
fn listed(host: &Host<'_>, release: &str, list: &str, name: &str) -> bool {
    let text = host.files.word(&format!("/lib/modules/{release}/{list}"));
    let file = format!("/{name}.ko");
    text.lines().any(|line| line.split(':').next().unwrap_or_default().contains(&file))
}

fn sysctls(host: &Host<'_>, report: &mut Report) {
    let subject = "sysctls";
    let value = |name: &str| host.files.word(&format!("/proc/sys/{}", name.replace('.', "/")));
    let mut right = Vec::new();
    for (name, then) in [
        ("net.ipv4.ip_forward", "IPv4 packets are not forwarded between pods and beyond"),
        ("net.bridge.bridge-nf-call-iptables", "kube-proxy does not see packets between pods of one bridge"),
    ] {
        match value(name).as_str() {
            "1" => right.push(name),
            // Its module was told of already.
            "" => {}
            _ => report.warn(
                subject,
                format!("{name} is off: {then}"),
                format!("sysctl -w {name}=1, and the same in /etc/sysctl.d for the next boot"),
            ),
        }
    }
    if !right.is_empty() {
        report.ok(subject, right.iter().map(|name| format!("{name}=1")).collect::<Vec<_>>().join(", "));
    }
}
