//! `gantline status`: what the running service says of itself and of its node, for a terminal of 80 columns.

use crate::admin::client;
use crate::admin::status::{NodeStatus, Owed, StageCost, Status};
use crate::exit::Exit;
use crate::flags::{Common, Format};
use crate::ui;

/// Lines of each list that is shown; JSON has more.
const SHOWN_MAX: usize = 5;
/// A stage under way is worth a line from here on, milliseconds.
const SLOW_MS: u64 = 1000;
/// Lines of one message that are shown on a terminal; `gantline why` has all.
const MESSAGE_LINES_MAX: usize = 4;
/// Where its messages begin.
const INDENT: usize = 9;
/// Where values begin.
const LABEL: usize = 14;

/// Asks the service and prints its answer.
pub(crate) fn run(format: Format, common: &Common) -> Exit {
    let asked = super::ask_service(common, async |socket| client::get::<Status>(socket, "/status").await);
    match asked {
        Ok(status) => {
            match format {
                Format::Text => ui::print(text(&status, ui::screen_size().map(|(columns, _)| columns))),
                Format::Json => ui::print(serde_json::json!(status)),
            }
            Exit::Success
        }
        Err(exit) => exit,
    }
}

/// No line is wider than the terminal; what goes elsewhere is whole.
fn text(status: &Status, columns: Option<usize>) -> String {
    let mut page = Page { columns: columns.unwrap_or(usize::MAX), text: String::new() };
    let up = ui::duration(status.uptime_s);
    page.row("service", &format!("{} {}, pid {}, up {up}", status.version, status.phase, status.pid));
    page.row("socket", &status.socket);
    if let Some(node) = &status.node {
        holds(&mut page, status, node);
        lists(&mut page, node);
    }
    page.text
}

fn holds(page: &mut Page, status: &Status, node: &NodeStatus) {
    for condition in &node.conditions {
        let why = format!("no: {}: {}", condition.reason, condition.message);
        page.row(&condition.name, if condition.met { "yes" } else { &why });
    }
    page.row("pods", &format!("{} ready, {} not ready", node.pods_ready, node.pods_not_ready));
    let (running, other) = (node.containers_running, node.containers_other);
    page.row("containers", &format!("{running} running, {other} not"));
    let lost = match node.shims.lost {
        0 => String::new(),
        lost => format!("; {lost} ready pods have none"),
    };
    let memory = ui::bytes(node.shims.resident_bytes);
    page.row("shims", &format!("{}, {memory} of memory{lost}", node.shims.connected));
    let pulls = match node.pulls_in_progress {
        0 => String::new(),
        1 => "; 1 pull under way".to_owned(),
        pulls => format!("; {pulls} pulls under way"),
    };
    page.row("images", &format!("{}, {} on disk{pulls}", node.images, ui::bytes(node.image_bytes)));
    page.row("writable", &format!("{} in containers' layers", ui::bytes(node.writable_bytes)));
    if let Some(disk) = &node.disk {
        let (free, size) = (ui::bytes(disk.available_bytes), ui::bytes(disk.size_bytes));
        let inodes = match disk.inodes {
            0 => String::new(),
            all => format!(", {}% of inodes", u128::from(disk.inodes_free) * 100 / u128::from(all)),
        };
        page.row("disk", &format!("{free} of {size} free{inodes}: {}", disk.path.display()));
    }
    page.row("requests", &format!("{} in flight", status.requests_in_flight));
    let overflows = match node.events.overflows {
        0 => String::new(),
        overflows => format!("; {overflows} fell behind and were closed"),
    };
    page.row("event streams", &format!("{} open{overflows}", node.events.subscribers));
    let recovery = match (node.recovered_pods, status.recovery_ms) {
        (Some(pods), Some(ms @ 0..SLOW_MS)) => format!("{pods} pods taken over; served after {ms} ms"),
        (Some(pods), Some(ms)) => format!("{pods} pods taken over; served after {}", ui::seconds(ms)),
        _ => "under way".to_owned(),
    };
    page.row("recovery", &recovery);
    page.row("owed", &owed(&node.owed));
}

fn owed(owed: &Owed) -> String {
    let mut parts = Vec::new();
    if !owed.cni_dels.is_empty() {
        parts.push(format!("CNI DELs: {} ({})", owed.cni_dels.len(), owed.cni_dels.join(", ")));
    }
    if owed.pods_ending > 0 {
        parts.push(format!("pods being ended: {}", owed.pods_ending));
    }
    if !owed.records_unreadable.is_empty() {
        parts.push(format!("unreadable records: {}", owed.records_unreadable.len()));
    }
    if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") }
}

fn lists(page: &mut Page, node: &NodeStatus) {
    let slow: Vec<_> = node.under_way.iter().filter(|stage| stage.for_ms >= SLOW_MS).collect();
    if !slow.is_empty() {
        page.head("UNDER WAY            FOR  OF");
        for stage in slow.iter().take(SHOWN_MAX) {
            let age = ui::seconds(stage.for_ms);
            page.line(&format!("{:<14} {age:>9}  {}", stage.stage, stage.subject));
        }
    }
    if !node.slowest_stages.is_empty() {
        page.head("SLOWEST STAGES     TIMES       MEAN    SLOWEST");
        for StageCost { stage, count, mean_ms, slowest_ms } in node.slowest_stages.iter().take(SHOWN_MAX) {
            page.line(&format!("{stage:<15} {count:>8} {:>10} {:>10}", ms(*mean_ms), ms(*slowest_ms)));
        }
    }
    if !node.failures.is_empty() {
        page.head("LAST FAILURES");
        for failure in node.failures.iter().take(SHOWN_MAX) {
            let time = failure.at.get(11..19).unwrap_or(&failure.at);
            page.failure(time, &failure.pod, failure.what.as_str(), &ui::one_line(&failure.message));
        }
    }
}

/// `0.4 ms`, `12.3 ms`, `1.2 s`
fn ms(ms: f64) -> String {
    if ms < 1000.0 { format!("{ms:.1} ms") } else { format!("{:.1} s", ms / 1000.0) }
}

struct Page {
    columns: usize,
    text: String,
}

impl Page {
    /// A label and its value; a long value goes on below itself.
    fn row(&mut self, label: &str, value: &str) {
        let room = self.columns.saturating_sub(LABEL).max(20);
        for (index, part) in ui::wrap(&ui::one_line(value), room).iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            self.text.push_str(&format!("{label:<LABEL$}{part}\n"));
        }
    }

    /// One line for a program, a few for a person: what went wrong stands at the message's end as often as not.
    fn failure(&mut self, time: &str, pod: &str, what: &str, message: &str) {
        if self.columns == usize::MAX {
            return self.line(&format!("{time} {pod} {what}: {message}"));
        }
        let room = self.columns.saturating_sub(time.len() + what.len() + 3).max(1);
        self.line(&format!("{time} {} {what}:", ui::fit_name(pod, room)));
        for part in
            ui::wrap(message, self.columns.saturating_sub(INDENT).max(20)).iter().take(MESSAGE_LINES_MAX)
        {
            self.line(&format!("{:INDENT$}{part}", ""));
        }
    }

    fn head(&mut self, text: &str) {
        self.text.push('\n');
        self.line(text);
    }

    fn line(&mut self, text: &str) {
        // The column heads are ours and have spaces that count.
        let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.text.push_str(&ui::fit(plain.trim_end(), self.columns));
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests;
