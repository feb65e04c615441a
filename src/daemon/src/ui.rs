//! What commands print: results on standard output, complaints on standard error. Nothing else in the
//! binary writes to either.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

/// Writes a result, ending in a newline. A reader that went away (`| head`) is no failure.
pub(crate) fn print(text: impl Display) {
    let text = text.to_string();
    let mut out = io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    // Whoever closed the pipe has seen what they wanted; for any other failure there is nobody to tell.
    let _ = write!(out, "{text}{newline}").and_then(|()| out.flush());
}

/// Writes one line of many; false when the reader has gone away.
pub(crate) fn print_line(text: impl Display) -> bool {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

/// Says what went wrong.
pub(crate) fn complain(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "gantline: {text}");
}

/// The columns of the terminal that standard error is, or `None` when it is none.
pub(crate) fn columns() -> Option<usize> {
    let error = io::stderr();
    if !error.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&error).ok()?;
    Some(if size.ws_col == 0 { 80 } else { usize::from(size.ws_col) })
}

/// Writes to standard error as it is, without a newline: progress.
pub(crate) fn draw(text: &str) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// Rows in columns as wide as their widest cell, the last one ragged.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Bytes in binary units, `12.3 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut whole = count;
    let mut tenths = 0;
    while whole >= 1024 && unit + 1 < UNITS.len() {
        tenths = (whole % 1024) * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    if unit == 0 { format!("{whole} B") } else { format!("{whole}.{tenths} {}", UNITS[unit]) }
}

/// `3d 4h`, `4h 5m`, `5m 6s`, `6s`
pub(crate) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

/// Milliseconds as seconds with one digit after the point, `12.3 s`.
pub(crate) fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        for (count, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (5 << 20, "5.0 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }

    #[test]
    fn durations_have_two_parts() {
        for (seconds, expected) in [(6, "6s"), (306, "5m 6s"), (14_700, "4h 5m"), (273_600, "3d 4h")] {
            assert_eq!(duration(seconds), expected);
        }
    }

    #[test]
    fn tables_line_up() {
        let rows = [vec!["pods".into(), "2".into()], vec!["containers".into(), "10".into()]];
        assert_eq!(table(&rows), "pods        2\ncontainers  10\n");
    }
}
