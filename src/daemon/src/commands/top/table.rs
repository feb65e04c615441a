//! Pods as a table. All columns but the first have one width, whatever is in them.

use super::{Row, Snapshot};
use crate::ui;

/// The narrowest that names become.
const NAME_MIN: usize = 12;

/// `12:34:56  3 pods, 5 containers   CPU 1.23 of 8   memory 1.2 GiB of 16.0 GiB used`
pub(super) fn head(snapshot: &Snapshot) -> String {
    let time = snapshot.at.get(11..19).unwrap_or(&snapshot.at);
    let containers: usize = snapshot.pods.iter().map(|pod| pod.containers_running).sum();
    // The sum of nothing would be shown as -0.
    let cores = snapshot.pods.iter().filter_map(|pod| pod.cpu_cores).fold(0.0, |sum, cores| sum + cores);
    let used = snapshot.memory_bytes.saturating_sub(snapshot.memory_available_bytes);
    format!(
        "{time}  {} pods, {containers} containers   CPU {cores:.2} of {}   memory {} of {}",
        snapshot.pods.len(),
        snapshot.cpus,
        ui::bytes_short(used),
        ui::bytes_short(snapshot.memory_bytes),
    )
}

/// The lines, the heads first. No line is wider than `columns`; without a bound names are whole.
pub(super) fn table(snapshot: &Snapshot, columns: Option<usize>) -> Vec<String> {
    const HEADS: &str = "    CPU     MEM    IN/s   OUT/s  UP  RESTARTS   AGE";
    let widest = snapshot.pods.iter().map(|pod| name(pod).chars().count()).max().unwrap_or(0);
    let room = columns.map_or(usize::MAX, |columns| columns.saturating_sub(HEADS.len()).max(NAME_MIN));
    let width = widest.clamp(NAME_MIN, room.max(NAME_MIN));
    let mut lines = vec![format!("{:<width$}{HEADS}", "POD")];
    for pod in &snapshot.pods {
        let cells = format!(
            "{:>7}{:>8}{:>8}{:>8}{:>4}{:>10}{:>6}",
            pod.cpu_cores.map_or("-".to_owned(), cpu),
            pod.memory_bytes.map_or("-".to_owned(), ui::bytes_short),
            rate(pod.receive_bytes_per_second),
            rate(pod.transmit_bytes_per_second),
            format!("{}/{}", pod.containers_running, pod.containers),
            pod.restarts,
            ui::age(pod.age_s),
        );
        lines.push(format!("{:<width$}{cells}", ui::fit_name(&name(pod), width)));
    }
    match columns {
        Some(columns) => lines.iter().map(|line| ui::fit(line, columns)).collect(),
        None => lines,
    }
}

/// A pod that is not ready says so where its name is.
fn name(pod: &Row) -> String {
    let name = ui::one_line(&format!("{}/{}", pod.namespace, pod.name));
    if pod.state == "ready" { name } else { format!("{name} ({})", pod.state) }
}

/// As Kubernetes writes CPU: `250m`, `1.25`
fn cpu(cores: f64) -> String {
    if cores < 0.9995 { format!("{:.0}m", cores * 1000.0) } else { format!("{cores:.2}") }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate of bytes is no less than zero"
)]
fn rate(rate: Option<f64>) -> String {
    rate.map_or("-".to_owned(), |rate| ui::bytes_short(rate as u64))
}
