//! A pull as a person sees it: a few lines that are redrawn on a terminal, one line an event elsewhere.

use crate::admin::api::{Layer, Phase, Progress, Stage};
use crate::ui;

/// Layers that are shown at once; the others are only counted.
const LAYERS_SHOWN_MAX: usize = 8;
/// A digest's digits that are shown.
const DIGEST_DIGITS: usize = 12;
/// The narrowest terminal that still has a bar.
const COLUMNS_MIN: usize = 40;

/// Shows the progress of one pull on standard error.
pub(crate) struct Display {
    /// The terminal's columns; `None` when it is none.
    columns: Option<usize>,
    name: String,
    drawn: usize,
    last: Progress,
}

impl Display {
    /// For the pull of `name`.
    pub(crate) fn new(name: &str) -> Self {
        Self { columns: ui::columns(), name: name.to_owned(), drawn: 0, last: Progress::default() }
    }

    /// Shows where it is now.
    pub(crate) fn show(&mut self, progress: &Progress) {
        match self.columns {
            Some(columns) => {
                let lines = lines(&self.name, progress, columns.max(COLUMNS_MIN));
                self.redraw(&lines);
            }
            None => {
                for line in events(&self.last, progress) {
                    ui::draw(&format!("{line}\n"));
                }
                self.last.clone_from(progress);
            }
        }
    }

    /// Takes the lines away again: what follows is the result.
    pub(crate) fn clear(&mut self) {
        if self.columns.is_some() {
            self.redraw(&[]);
        }
    }

    fn redraw(&mut self, lines: &[String]) {
        // To the first drawn line, and clear to the end of the screen (ECMA-48: CUU, ED).
        let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        ui::draw(&format!("{up}\r\x1b[J{text}"));
        self.drawn = lines.len();
    }
}

fn is_here(layer: &Layer) -> bool {
    matches!(layer.stage, Stage::Done | Stage::Reused)
}

/// Bytes that are here and bytes in all. What was here before counts as received.
fn sums(layers: &[Layer]) -> (u64, u64) {
    layers.iter().fold((0, 0), |(done, total), layer| {
        let received = if is_here(layer) { layer.total } else { layer.done.min(layer.total) };
        (done + received, total + layer.total)
    })
}

/// The lines of a terminal, none wider than it.
fn lines(name: &str, progress: &Progress, columns: usize) -> Vec<String> {
    let here = progress.layers.iter().filter(|layer| is_here(layer)).count();
    let (done, total) = sums(&progress.layers);
    let what = match progress.phase {
        Phase::Resolving => "resolving".to_owned(),
        Phase::Unpacking => format!("{here}/{} layers", progress.layers.len()),
        Phase::Committing => "waiting for the disk".to_owned(),
    };
    let mut lines = vec![ui::fit(&format!("{name}  {what}"), columns)];
    if progress.phase == Phase::Resolving {
        return lines;
    }
    lines.push(bar("total", done, total, columns));
    let active: Vec<_> = progress.layers.iter().filter(|layer| layer.stage == Stage::Unpacking).collect();
    for layer in active.iter().take(LAYERS_SHOWN_MAX) {
        lines.push(bar(short(&layer.digest), layer.done.min(layer.total), layer.total, columns));
    }
    if active.len() > LAYERS_SHOWN_MAX {
        lines.push(format!("  and {} more", active.len() - LAYERS_SHOWN_MAX));
    }
    lines
}

/// `  0123456789ab [=======>        ]  12.3 MiB / 45.6 MiB`
fn bar(label: &str, done: u64, total: u64, columns: usize) -> String {
    let counts = format!("{:>10} / {:<10}", ui::bytes(done), ui::bytes(total));
    let head = format!("  {label:<DIGEST_DIGITS$} ");
    let width = columns.saturating_sub(head.len() + counts.len() + 3);
    let filled =
        usize::try_from(u128::from(done) * width as u128 / u128::from(total.max(1))).unwrap_or(width);
    let filled = if total == 0 { width } else { filled.min(width) };
    let tip = if filled < width { ">" } else { "" };
    let bar = format!("{}{tip}", "=".repeat(filled));
    ui::fit(format!("{head}[{bar:<width$}] {counts}").trim_end(), columns)
}

fn short(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..DIGEST_DIGITS).unwrap_or(hex)
}

/// What has happened between two looks, a line each: for logs and pipes.
fn events(before: &Progress, now: &Progress) -> Vec<String> {
    let mut events = Vec::new();
    if before.layers.is_empty() && !now.layers.is_empty() {
        let (_, total) = sums(&now.layers);
        events.push(format!("resolved: {} layers, {}", now.layers.len(), ui::bytes(total)));
    }
    for (index, layer) in now.layers.iter().enumerate() {
        let was = before.layers.get(index).map(|layer| layer.stage);
        if was == Some(layer.stage) {
            continue;
        }
        let size = ui::bytes(layer.total);
        match layer.stage {
            Stage::Done => events.push(format!("layer {}: done, {size}", short(&layer.digest))),
            Stage::Reused => events.push(format!("layer {}: here already, {size}", short(&layer.digest))),
            Stage::Waiting | Stage::Unpacking => {}
        }
    }
    if now.phase == Phase::Committing && before.phase != Phase::Committing {
        events.push("waiting for the disk".to_owned());
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(digit: &str, stage: Stage, done: u64, total: u64) -> Layer {
        Layer { digest: format!("sha256:{}", digit.repeat(64)), stage, done, total }
    }

    fn some() -> Progress {
        Progress {
            phase: Phase::Unpacking,
            layers: vec![
                layer("a", Stage::Reused, 0, 1 << 20),
                layer("b", Stage::Unpacking, 3 << 20, 6 << 20),
                layer("c", Stage::Waiting, 0, 1 << 20),
            ],
        }
    }

    #[test]
    fn a_terminal_of_80_columns_shows_totals_and_what_moves() {
        let lines = lines("docker.io/library/x:1", &some(), 80);
        assert_eq!(
            lines,
            [
                "docker.io/library/x:1  1/3 layers",
                "  total        [===================>                   ]    4.0 MiB / 8.0 MiB",
                "  bbbbbbbbbbbb [===================>                   ]    3.0 MiB / 6.0 MiB",
            ]
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut progress = some();
        progress
            .layers
            .extend((0..40).map(|_| layer("d", Stage::Unpacking, u64::MAX / 4096, u64::MAX / 2048)));
        let name = "registry.example.com/a/very/long/name/that/goes/on/and/on/for/more/than/a/line:latest";
        for columns in [40, 60, 80, 200] {
            let lines = lines(name, &progress, columns);
            assert_eq!(lines.len(), 2 + LAYERS_SHOWN_MAX + 1);
            for line in lines {
                assert!(line.chars().count() <= columns, "{columns}: {line}");
            }
        }
    }

    #[test]
    fn an_empty_layer_has_a_full_bar() {
        assert!(bar("x", 0, 0, 60).contains("==]"));
    }

    #[test]
    fn a_pipe_gets_each_event_once() {
        let nothing = Progress::default();
        let mut later = some();
        assert_eq!(
            events(&nothing, &later),
            ["resolved: 3 layers, 8.0 MiB", "layer aaaaaaaaaaaa: here already, 1.0 MiB"]
        );
        assert!(events(&later, &later.clone()).is_empty());
        let before = later.clone();
        later.layers[1].stage = Stage::Done;
        later.phase = Phase::Committing;
        assert_eq!(events(&before, &later), ["layer bbbbbbbbbbbb: done, 6.0 MiB", "waiting for the disk"]);
    }
}
