//! Reading CRI log files: `time stream P|F text`.

use std::path::{Path, PathBuf};

/// One line of a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// RFC 3339 with nanoseconds.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Whether the text ended with a newline (tag `F`).
    pub full: bool,
    /// The text without its newline.
    pub text: String,
}

/// A container's log: parsed each time it is asked.
#[derive(Debug, Clone)]
pub struct Log {
    /// The file.
    pub path: PathBuf,
}

impl Log {
    /// The log at a path.
    pub fn at(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// All lines but one that is just being written; one that is not in CRI's form is a panic.
    #[track_caller]
    pub fn lines(&self) -> Vec<Line> {
        let bytes = std::fs::read(&self.path).unwrap_or_else(|e| panic!("read {}: {e}", self.path.display()));
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let text = String::from_utf8_lossy(&bytes[..end]);
        text.lines()
            .map(|line| parse(line).unwrap_or_else(|| panic!("not a CRI log line: {line:?}")))
            .collect()
    }

    /// What the container wrote on both streams, put together again.
    #[track_caller]
    pub fn text(&self) -> String {
        self.lines().iter().map(joined).collect()
    }

    /// Lines a second between the first and the last, by their own timestamps; less than a day, and two lines, are
    /// presumed.
    #[track_caller]
    pub fn rate(&self) -> f64 {
        let lines = self.lines();
        let at = |line: Option<&Line>| {
            line.and_then(|line| time_of_day(&line.time)).expect("a line with its time")
        };
        let seconds = (at(lines.last()) - at(lines.first())).rem_euclid(86_400.0);
        (lines.len() - 1) as f64 / seconds
    }

    /// What it wrote on one stream.
    #[track_caller]
    pub fn stream(&self, name: &str) -> String {
        self.lines().iter().filter(|line| line.stream == name).map(joined).collect()
    }
}

fn joined(line: &Line) -> String {
    format!("{}{}", line.text, if line.full { "\n" } else { "" })
}

/// Seconds since midnight of an RFC 3339 time in UTC.
fn time_of_day(time: &str) -> Option<f64> {
    let mut parts = time.split_once('T')?.1.strip_suffix('Z')?.splitn(3, ':');
    let mut next = || parts.next()?.parse::<f64>().ok();
    Some(next()? * 3600.0 + next()? * 60.0 + next()?)
}

fn parse(line: &str) -> Option<Line> {
    let mut parts = line.splitn(4, ' ');
    let (time, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    let full = match tag.split(':').next()? {
        "F" => true,
        "P" => false,
        _ => return None,
    };
    let text = parts.next().unwrap_or_default().to_string();
    let known = matches!(stream, "stdout" | "stderr") && time.contains('T');
    known.then(|| Line { time: time.into(), stream: stream.into(), full, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_joined() {
        let parsed = |line: &str| parse(line).map(|line| (line.stream.clone(), joined(&line)));
        let at = "2026-01-02T03:04:05.123456789Z";
        assert_eq!(parsed(&format!("{at} stdout F a b")), Some(("stdout".into(), "a b\n".into())));
        assert_eq!(parsed(&format!("{at} stderr P a")), Some(("stderr".into(), "a".into())));
        assert_eq!(parsed(&format!("{at} stdout F ")), Some(("stdout".into(), "\n".into())));
        assert_eq!(time_of_day("2026-01-02T03:04:05.500000000Z"), Some(11_045.5));
        assert_eq!(parsed("garbage"), None);
        assert_eq!(parsed(&format!("{at} stdfoo F x")), None);
    }
}
