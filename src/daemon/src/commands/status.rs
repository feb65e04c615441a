//! `gantline status`: what the running service says of itself.

use crate::admin::api::Status;
use crate::admin::client;
use crate::exit::Exit;
use crate::flags::{Common, Format};
use crate::ui;

/// Asks the service and prints its answer.
pub(crate) fn run(format: Format, common: &Common) -> Exit {
    let asked = super::ask_service(common, async |socket| client::get::<Status>(socket, "/status").await);
    match asked {
        Ok(status) => {
            match format {
                Format::Text => ui::print(text(&status)),
                Format::Json => ui::print(serde_json::json!(status)),
            }
            Exit::Success
        }
        Err(exit) => exit,
    }
}

fn text(status: &Status) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("version", status.version.clone()),
        row("service", format!("{}, pid {}, up {}", status.phase, status.pid, ui::duration(status.uptime_s))),
        row("socket", status.socket.clone()),
    ];
    if let Some(ms) = status.recovery_ms {
        rows.push(row("recovered in", format!("{ms} ms")));
    }
    rows.push(row("requests", format!("{} in flight", status.requests_in_flight)));
    if let Some(node) = &status.node {
        rows.push(row("pods", format!("{} ready, {} not ready", node.pods_ready, node.pods_not_ready)));
        let (running, other) = (node.containers_running, node.containers_other);
        rows.push(row("containers", format!("{running} running, {other} not")));
        rows.push(row("images", format!("{}, {} on disk", node.images, ui::bytes(node.image_bytes))));
        let network = if node.network_fault.is_empty() { "ready" } else { &node.network_fault };
        rows.push(row("network", network.to_owned()));
    }
    ui::table(&rows)
}
