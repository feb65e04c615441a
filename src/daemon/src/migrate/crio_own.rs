//! What of CRI-O's configuration takes more than one key, or no conversion of one value, to tell.

use std::net::{IpAddr, SocketAddr};

use toml::Value;

use super::document::Leaf;
use super::rules::positive;
use super::{Work, left, needless};

pub(super) fn of(work: &mut Work<'_>, leaves: &[Leaf]) {
    for leaf in leaves {
        match leaf.path.last().map(String::as_str) {
            Some("default_sysctls") => sysctls(work, leaf),
            Some("pids_limit") => pids_limit(work, leaf),
            Some("enable_metrics" | "metrics_host" | "metrics_port") => metrics(work, leaf, leaves),
            _ => tracing(work, leaf, leaves),
        }
    }
}

/// Two of them Gantline has settings for; a pod may name any other for itself.
fn sysctls(work: &mut Work<'_>, leaf: &Leaf) {
    let list: Vec<&str> = leaf.value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let pairs: Vec<(&str, &str)> = list
        .iter()
        .map(|item| item.split_once('=').unwrap_or((item, "")))
        .map(|(name, value)| (name.trim(), value.trim()))
        .collect();
    let of = |wanted: &str| pairs.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
    let ports = of("net.ipv4.ip_unprivileged_port_start") == Some("0");
    let pings = of("net.ipv4.ping_group_range")
        .is_some_and(|range| !matches!(range.split_whitespace().nth(1), None | Some("0")));
    work.carry(leaf, &["security", "unprivileged_ports"], Value::Boolean(ports));
    work.carry(leaf, &["security", "unprivileged_icmp"], Value::Boolean(pings));
    let known = ["net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range"];
    let others: Vec<_> =
        pairs.iter().filter(|(name, _)| !known.contains(name)).map(|(name, _)| *name).collect();
    if !others.is_empty() {
        let remedy = "say it in the pods that need it (securityContext.sysctls; --allowed-unsafe-sysctls of the kubelet)";
        work.tell(leaf, left(format!("Gantline sets no {} by itself", others.join(", ")), remedy));
    }
}

fn pids_limit(work: &mut Work<'_>, leaf: &Leaf) {
    match leaf.value.as_integer() {
        // There is none then, as there is none here without the key.
        Some(limit) if limit <= 0 => work.tell(leaf, needless("a container may have as many as its pod")),
        _ => match positive(&leaf.value) {
            Ok(value) => work.carry(leaf, &["pods", "pids_limit"], value),
            Err(why) => work.tell(leaf, left(why, "set pods.pids_limit, or podPidsLimit of the kubelet")),
        },
    }
}

fn metrics(work: &mut Work<'_>, leaf: &Leaf, leaves: &[Leaf]) {
    let value = |key: &str| {
        leaves.iter().rfind(|leaf| leaf.path.last().is_some_and(|last| last == key)).map(|leaf| &leaf.value)
    };
    if value("enable_metrics").and_then(Value::as_bool) != Some(true) {
        return work.tell(leaf, needless("metrics are on the admin socket alone"));
    }
    let host = value("metrics_host").and_then(Value::as_str).unwrap_or("127.0.0.1");
    let port = value("metrics_port").map_or(Some(9090), |port| u16::try_from(port.as_integer()?).ok());
    match (host.parse::<IpAddr>(), port) {
        (Ok(ip), Some(port)) => {
            let address = SocketAddr::new(ip, port).to_string();
            work.carry(leaf, &["metrics", "address"], Value::String(address));
        }
        _ => work.tell(leaf, left("is no IP address and port", "set metrics.address")),
    }
}

fn tracing(work: &mut Work<'_>, leaf: &Leaf, leaves: &[Leaf]) {
    let value = |key: &str| {
        leaves.iter().rfind(|leaf| leaf.path.last().is_some_and(|last| last == key)).map(|leaf| &leaf.value)
    };
    if value("enable_tracing").and_then(Value::as_bool) != Some(true) {
        return work.tell(leaf, needless("traces are sent where an endpoint is set"));
    }
    match leaf.path.last().map(String::as_str) {
        Some("tracing_endpoint") => {
            let endpoint = format!("http://{}", leaf.value.as_str().unwrap_or_default());
            let from = leaf.at.to_string();
            work.draft.set(&["tracing", "protocol"], Value::String("grpc".into()), &from);
            work.carry(leaf, &["tracing", "endpoint"], Value::String(endpoint));
        }
        Some("tracing_sampling_rate_per_million") => match leaf.value.as_integer() {
            Some(rate @ 0..=1_000_000) => {
                let from = leaf.at.to_string();
                work.draft.set(
                    &["tracing", "sampler"],
                    Value::String("parentbased_traceidratio".into()),
                    &from,
                );
                // Rounded up: a rate that is not nothing stays one.
                work.carry(leaf, &["tracing", "per_mille"], Value::Integer((rate + 999) / 1000));
            }
            _ => work.tell(leaf, left("is no rate", "set tracing.per_mille")),
        },
        _ => work.tell(leaf, needless("traces are sent where an endpoint is set")),
    }
}
