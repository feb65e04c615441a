//! `gantline top`: what each pod uses. Live on a terminal; elsewhere plain tables, or JSON, one after the other.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::admin::client::{self, AskError};
use crate::admin::top::Top;
use crate::exit::Exit;
use crate::flags::{Common, Format, SortKey, TopFlags};
use crate::screen::Screen;
use crate::ui;

mod table;

use table::{head, table};

/// From the first answer to the second: rates are told soon.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
const NS_PER_SECOND: f64 = 1e9;

/// What is shown: rates over the time from one answer to the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Snapshot {
    /// When, RFC 3339.
    at: String,
    /// CPUs that the service may use.
    cpus: usize,
    memory_bytes: u64,
    memory_available_bytes: u64,
    pods: Vec<Row>,
}

/// One pod of it. What is not known is null: rates until there are two answers, the network of a pod with the host's.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Row {
    namespace: String,
    name: String,
    id: String,
    state: String,
    age_s: u64,
    containers_running: usize,
    containers: usize,
    restarts: u64,
    cpu_cores: Option<f64>,
    memory_bytes: Option<u64>,
    receive_bytes_per_second: Option<f64>,
    transmit_bytes_per_second: Option<f64>,
}

/// Asks the service again and again until there is enough, the reader goes away, or a signal or q ends it.
pub(crate) fn run(flags: &TopFlags, common: &Common) -> Exit {
    let count = if flags.once { Some(1) } else { flags.count };
    let live = count.is_none() && flags.output.output == Format::Text && ui::screen_size().is_some();
    let interval = Duration::from_secs(flags.interval);
    let shown = super::ask_service(common, async |socket| {
        if live { on_terminal(socket, flags.sort, interval).await } else { plain(socket, flags, count).await }
    });
    match shown {
        Ok(()) => Exit::Success,
        Err(exit) => exit,
    }
}

/// One table after the other, whole, each after a line that says when.
async fn plain(socket: &Path, flags: &TopFlags, count: Option<u64>) -> Result<(), AskError> {
    let mut before: Top = ask(socket).await?;
    let mut next = Instant::now() + FIRST_INTERVAL;
    let mut shown = 0;
    while count.is_none_or(|count| shown < count) {
        sleep_until(next).await;
        next = Instant::now() + Duration::from_secs(flags.interval);
        let now = ask(socket).await?;
        let mut snapshot = rates(Some(&before), &now);
        sort(&mut snapshot.pods, flags.sort);
        let goes_on = match flags.output.output {
            Format::Json => ui::print_line(serde_json::json!(snapshot)),
            Format::Text => {
                let columns = ui::screen_size().map(|(columns, _)| columns);
                let mut lines = vec![head(&snapshot)];
                lines.extend(table(&snapshot, columns));
                // A page that follows is set apart.
                let apart = if shown == 0 { "" } else { "\n" };
                ui::print_line(format!("{apart}{}", lines.join("\n")))
            }
        };
        if !goes_on {
            return Ok(());
        }
        before = now;
        shown += 1;
    }
    Ok(())
}

async fn on_terminal(socket: &Path, mut key: SortKey, interval: Duration) -> Result<(), AskError> {
    // Asked before the screen is taken: a service that is not there is a line, not a display.
    let mut now: Top = ask(socket).await?;
    let mut snapshot = rates(None, &now);
    // Without them the display cannot end well; it is not worth a message of its own that they always can be had.
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup), Ok(mut resized)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
        signal(SignalKind::window_change()),
    ) else {
        return Ok(());
    };
    let screen = Screen::take();
    let mut keys = screen.keys();
    let mut next = Instant::now() + FIRST_INTERVAL;
    loop {
        sort(&mut snapshot.pods, key);
        if !screen.show(&display(&snapshot, key, ui::screen_size().unwrap_or((80, 24)))) {
            return Ok(());
        }
        tokio::select! {
            () = sleep_until(next) => {
                next = Instant::now() + interval;
                let before = std::mem::replace(&mut now, ask(socket).await?);
                snapshot = rates(Some(&before), &now);
            }
            Some(pressed) = keys.recv() => match sort_key(pressed) {
                Some(chosen) => key = chosen,
                None if matches!(pressed, b'q' | b'Q') => return Ok(()),
                None => {}
            },
            _ = resized.recv() => {}
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        }
    }
}

async fn ask(socket: &Path) -> Result<Top, AskError> {
    client::get(socket, "/top").await
}

fn sort_key(pressed: u8) -> Option<SortKey> {
    match pressed.to_ascii_lowercase() {
        b'c' => Some(SortKey::Cpu),
        b'm' => Some(SortKey::Memory),
        b'i' => Some(SortKey::In),
        b'o' => Some(SortKey::Out),
        b'r' => Some(SortKey::Restarts),
        b'a' => Some(SortKey::Age),
        b'n' => Some(SortKey::Name),
        _ => None,
    }
}

/// A screen of this many columns and rows: no line is wider, and there are not more.
fn display(snapshot: &Snapshot, key: SortKey, (columns, rows): (usize, usize)) -> Vec<String> {
    let mut lines = vec![ui::fit(&head(snapshot), columns)];
    lines.extend(table(snapshot, Some(columns)));
    let foot = format!("by {}: c m i o r a n   q ends", format!("{key:?}").to_lowercase());
    // The heads, what does not fit, and the last line.
    let room = rows.saturating_sub(1).max(3);
    if lines.len() > room {
        let more = lines.len() - (room - 1);
        lines.truncate(room - 1);
        lines.push(format!("and {more} more"));
    }
    lines.resize(rows.saturating_sub(1).max(lines.len()), String::new());
    lines.push(ui::fit(&foot, columns));
    lines
}

/// What was used from one answer to the next, a second.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn rates(before: Option<&Top>, now: &Top) -> Snapshot {
    let per_second = |then: Option<u64>, then_at: i64, is: Option<u64>, at: i64| {
        let passed = (at - then_at) as f64 / NS_PER_SECOND;
        // Less than before is another cgroup or namespace of the same pod.
        let more = is?.checked_sub(then?)?;
        (passed > 0.0).then(|| more as f64 / passed)
    };
    let row = |pod: &crate::admin::top::PodUse| {
        let then = before.and_then(|before| before.pods.iter().find(|then| then.id == pod.id));
        let cpu = then.and_then(|then| per_second(then.cpu_ns, then.at_ns, pod.cpu_ns, pod.at_ns));
        let rate = |of: fn(&crate::admin::top::PodUse) -> Option<u64>| {
            then.and_then(|then| per_second(of(then), then.network_at_ns, of(pod), pod.network_at_ns))
        };
        Row {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            id: pod.id.clone(),
            state: pod.state.clone(),
            age_s: pod.age_s,
            containers_running: pod.containers_running,
            containers: pod.containers,
            restarts: pod.restarts,
            cpu_cores: cpu.or(pod.cpu_nano_cores.map(|rate| rate as f64)).map(|ns| ns / NS_PER_SECOND),
            memory_bytes: pod.memory_bytes,
            receive_bytes_per_second: rate(|pod| pod.received_bytes),
            transmit_bytes_per_second: rate(|pod| pod.transmitted_bytes),
        }
    };
    Snapshot {
        at: now.at.clone(),
        cpus: now.cpus,
        memory_bytes: now.memory_bytes,
        memory_available_bytes: now.memory_available_bytes,
        pods: now.pods.iter().map(row).collect(),
    }
}

/// Pods of one rank stand by name, so that a live display does not dance.
fn sort(rows: &mut [Row], key: SortKey) {
    let down = |a: Option<f64>, b: Option<f64>| b.unwrap_or(-1.0).total_cmp(&a.unwrap_or(-1.0));
    rows.sort_by(|a, b| {
        let ranked = match key {
            SortKey::Cpu => down(a.cpu_cores, b.cpu_cores),
            SortKey::Memory => b.memory_bytes.cmp(&a.memory_bytes),
            SortKey::In => down(a.receive_bytes_per_second, b.receive_bytes_per_second),
            SortKey::Out => down(a.transmit_bytes_per_second, b.transmit_bytes_per_second),
            SortKey::Restarts => b.restarts.cmp(&a.restarts),
            SortKey::Age => a.age_s.cmp(&b.age_s),
            SortKey::Name => std::cmp::Ordering::Equal,
        };
        ranked.then_with(|| (&a.namespace, &a.name, &a.id).cmp(&(&b.namespace, &b.name, &b.id)))
    });
}

#[cfg(test)]
mod tests;
