//! Where exec, attach and port-forward sessions are served: an address, a port, and perhaps TLS, in either peer's words.

use std::net::{IpAddr, SocketAddr};

use toml::Value;

use super::document::Leaf;
use super::{Outcome, Work, left, needless};

/// What a key of either peer is of.
fn meaning(leaf: &Leaf) -> &str {
    match leaf.path.last().map(String::as_str).unwrap_or_default() {
        "stream_server_address" | "stream_address" => "address",
        "stream_server_port" | "stream_port" => "port",
        "enable_tls_streaming" | "stream_enable_tls" => "tls",
        "tls_cert_file" | "stream_tls_cert" => "tls_certificate",
        "tls_key_file" | "stream_tls_key" => "tls_key",
        "stream_tls_ca" => "tls_client_ca",
        other => other,
    }
}

pub(super) fn of(work: &mut Work<'_>, leaves: &[Leaf]) {
    let text = |wanted: &str| {
        let leaf = leaves.iter().rfind(|leaf| meaning(leaf) == wanted);
        leaf.and_then(|leaf| leaf.value.as_str()).unwrap_or_default()
    };
    let tls = leaves.iter().any(|leaf| meaning(leaf) == "tls" && leaf.value.as_bool() == Some(true));
    let pair = ["tls_certificate", "tls_key"].iter().all(|key| text(key).starts_with('/'));
    let ip: Option<IpAddr> = text("address").parse().ok();
    let port = if text("port").is_empty() { Ok(0) } else { text("port").parse::<u16>() };
    for leaf in leaves {
        let outcome = match meaning(leaf) {
            "address" | "port" => match (ip, &port) {
                (Some(ip), Ok(port)) if ip.is_loopback() || (tls && pair) => {
                    let address = SocketAddr::new(ip, *port).to_string();
                    work.carry(leaf, &["streaming", "address"], Value::String(address));
                    continue;
                }
                (None, Ok(0)) if text("address").is_empty() => needless(
                    "sessions are served on loopback: the kubelet stands between them and their clients",
                ),
                _ => left(
                    "sessions beyond loopback need TLS with a certificate, and an IP address to be served at",
                    "leave them on loopback: the kubelet stands between them and their clients",
                ),
            },
            "tls" if tls && !pair => left(
                "Gantline makes no certificate by itself",
                "set streaming.tls_certificate and streaming.tls_key, or leave sessions on loopback",
            ),
            "tls" if tls => Outcome::Carried { to: "streaming.tls_certificate, streaming.tls_key".into() },
            key @ ("tls_certificate" | "tls_key" | "tls_client_ca") if tls && pair => {
                if leaf.value.as_str() == Some("") {
                    needless("is not set")
                } else {
                    work.carry(leaf, &["streaming", key], leaf.value.clone());
                    continue;
                }
            }
            _ => needless("sessions are without TLS"),
        };
        work.tell(leaf, outcome);
    }
}
