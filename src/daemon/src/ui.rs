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

/// The columns and rows of the terminal that standard output is, or `None` when it is none.
pub(crate) fn screen_size() -> Option<(usize, usize)> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&out).ok()?;
    // A terminal that does not know its size is taken for the smallest that is usual.
    let or = |size: u16, usual: usize| if size == 0 { usual } else { usize::from(size) };
    Some((or(size.ws_col, 80), or(size.ws_row, 24)))
}

/// Writes to standard output as it is; false when the reader has gone away.
pub(crate) fn paint(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// The beginning of a text, as much as fits.
pub(crate) fn fit(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let kept: String = text.chars().take(columns.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// The beginning and the end of a name, as much as fits: what tells the replicas of a pod apart stands at its end.
pub(crate) fn fit_name(name: &str, columns: usize) -> String {
    let chars: Vec<char> = name.chars().collect();
    if chars.len() <= columns {
        return name.to_owned();
    }
    let kept = columns.saturating_sub(1);
    let end = kept / 2;
    chars[..kept - end].iter().chain(&['…']).chain(&chars[chars.len() - end..]).collect()
}

/// A text that came from elsewhere, on one line and without what a terminal would obey.
pub(crate) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split(|c: char| c.is_control() || c.is_whitespace()).collect();
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Words in lines that are no wider; a word that is, is cut.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { continue };
        let used = line.chars().count();
        if used == 0 {
            *line = fit(word, columns);
        } else if used + 1 + word.chars().count() <= columns {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(fit(word, columns));
        }
    }
    lines
}

/// Words in lines that are no wider, but for a word that is: paths and commands are there to be copied.
pub(crate) fn fold(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Text for standard output: on a terminal, lines that are too wide go on below themselves, further in.
pub(crate) fn for_screen(text: &str) -> String {
    match screen_size() {
        Some((columns, _)) => wrapped(text, columns),
        None => text.to_owned(),
    }
}

fn wrapped(text: &str, columns: usize) -> String {
    const FURTHER: usize = 4;
    let mut lines = Vec::new();
    for line in text.lines() {
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if line.chars().count() <= columns {
            lines.push(line);
            continue;
        }
        let indent = line.len() - line.trim_start().len() + FURTHER;
        let parts = wrap(line.trim_start(), columns.saturating_sub(indent).max(20));
        for (index, part) in parts.iter().enumerate() {
            let indent = if index == 0 { indent - FURTHER } else { indent };
            lines.push(format!("{:indent$}{part}", ""));
        }
    }
    lines.join("\n")
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

/// Bytes in as few characters as a column has, `999`, `1.2K`, `345M`: at most five.
pub(crate) fn bytes_short(count: u64) -> String {
    const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];
    if count < 1000 {
        return count.to_string();
    }
    // In tenths of the unit, so that 1000 of one is already a part of the next.
    let mut tenths = u128::from(count) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if tenths < 100 {
        format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{}{}", tenths / 10, UNITS[unit])
    }
}

/// Seconds by the largest unit alone, `3d`, `4h`, `5m`, `6s`.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
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
    fn short_sizes_are_five_characters_at_most() {
        for (count, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "0.9K"),
            (1536, "1.5K"),
            (10 << 10, "10K"),
            (1000 << 10, "0.9M"),
            (345 << 20, "345M"),
            (u64::MAX, "15E"),
        ] {
            assert_eq!(bytes_short(count), expected);
        }
    }

    #[test]
    fn names_keep_their_ends_and_texts_their_beginnings() {
        assert_eq!(fit_name("default/web-7d9f8b-x2k4q", 24), "default/web-7d9f8b-x2k4q");
        assert_eq!(fit_name("default/web-7d9f8b-x2k4q", 15), "default…b-x2k4q");
        assert_eq!(fit_name("abcdef", 1), "…");
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(one_line("no\u{1b}[31m such\n\tfile"), "no [31m such file");
        assert_eq!(
            (age(59), age(3599), age(86_399), age(86_400 * 400)),
            ("59s".into(), "59m".into(), "23h".into(), "400d".into())
        );
    }

    #[test]
    fn lines_that_are_too_wide_go_on_below_themselves() {
        let text = "web: ready\n  failed: no such file or directory\u{1b}[0m here";
        let expected = "web: ready\n  failed: no such file\n      or directory [0m\n      here";
        assert_eq!(wrapped(text, 26), expected);
        assert_eq!(wrapped("short", 26), "short");
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
