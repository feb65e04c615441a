//! `gantline status`: what the running service says of itself.

use crate::admin::api::Status;
use crate::admin::client::{self, AskError};
use crate::exit::Exit;
use crate::flags::{Common, Format};
use crate::ui;

/// Asks the service and prints its answer.
pub(crate) fn run(format: Format, common: &Common) -> Exit {
    let config = match super::load(common) {
        Ok(loaded) => loaded.config,
        Err(exit) => return exit,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            ui::complain(format_args!("start the runtime: {error}"));
            return Exit::Host;
        }
    };
    match runtime.block_on(client::get::<Status>(&config.admin_socket(), "/status")) {
        Ok(status) => {
            match format {
                Format::Text => ui::print(text(&status)),
                Format::Json => ui::print(serde_json::json!(status)),
            }
            Exit::Success
        }
        Err(error) => {
            ui::complain(model::chain(&error));
            if matches!(error, AskError::NotRunning(_)) { Exit::Unavailable } else { Exit::Failure }
        }
    }
}

fn text(status: &Status) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("version", status.version.clone()),
        row("service", format!("{}, pid {}, up {}", status.phase, status.pid, duration(status.uptime_s))),
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

/// `3d 4h`, `4h 5m`, `5m 6s`, `6s`
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_parts() {
        for (seconds, expected) in [(6, "6s"), (306, "5m 6s"), (14_700, "4h 5m"), (273_600, "3d 4h")] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
