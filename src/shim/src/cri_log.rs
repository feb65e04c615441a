//! A container's log file in CRI's format: `<RFC 3339 time> <stdout|stderr> <P|F> <bytes>\n`.
//!
//! P marks a part of a line that goes on, F its end. A line without an end is held back until it ends, grows
//! over the bound, or its stream closes. A record is written whole: where the disk fills inside one, the file
//! is cut back to the last whole record; what cannot be written is counted, and a line says how much it was
//! as soon as there is room.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use model::UnixNanos;
use wire::LogTarget;

use model::time::{RFC3339_BYTES, rfc3339};

/// Which of a container's two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }

    fn tag(self) -> &'static [u8] {
        match self {
            Self::Stdout => b" stdout ",
            Self::Stderr => b" stderr ",
        }
    }
}

/// What precedes a record's bytes: the time, the stream, the tag and a blank. The same length for all.
const HEADER_BYTES: usize = RFC3339_BYTES + 8 + 2;
/// Records are collected up to this before they are written, bytes.
const BATCH_BYTES: usize = 32 * 1024;

/// A container's log.
#[derive(Debug)]
pub(crate) struct CriLog {
    /// `None`: everything is discarded.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    target: LogTarget,
    file: File,
    /// The beginnings of lines that have no end yet, by stream.
    held: [Vec<u8>; 2],
    /// Whole records that are not written yet. Empty between calls.
    batch: Vec<u8>,
    /// Bytes of output lost since the last marker, and why.
    lost: u64,
    reason: String,
    /// Bytes of output lost in all.
    lost_in_all: u64,
}

impl CriLog {
    /// Opens the log, appending to what is there.
    pub(crate) fn open(target: Option<&LogTarget>) -> io::Result<Self> {
        let open = match target {
            None => None,
            Some(target) => Some(Open {
                file: open(target)?,
                target: target.clone(),
                held: [Vec::new(), Vec::new()],
                batch: Vec::new(),
                lost: 0,
                reason: String::new(),
                lost_in_all: 0,
            }),
        };
        Ok(Self { open })
    }

    /// Logs what came on a stream.
    pub(crate) fn take(&mut self, stream: Stream, bytes: &[u8], now: UnixNanos) {
        if let Some(open) = &mut self.open {
            open.take(stream, bytes, now);
            open.flush(now);
        }
    }

    /// A stream has ended: what is held of it becomes a line.
    pub(crate) fn end(&mut self, stream: Stream, now: UnixNanos) {
        if let Some(open) = &mut self.open
            && !open.held[stream.index()].is_empty()
        {
            let header = header(stream, b'F', now);
            open.record(stream, header, b"");
            open.flush(now);
        }
    }

    /// Goes on in a new file at the same path; the old one stays in use when that fails.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        if let Some(open) = &mut self.open {
            open.file = self::open(&open.target)?;
        }
        Ok(())
    }

    /// Tries to say what was lost, when something was.
    pub(crate) fn retry(&mut self, now: UnixNanos) {
        if let Some(open) = &mut self.open {
            open.flush(now);
        }
    }

    /// Whether output was lost that the log does not tell of yet.
    pub(crate) fn owes_marker(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.lost > 0)
    }

    /// Bytes of output that never reached the log.
    pub(crate) fn lost_in_all(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.lost_in_all)
    }
}

fn open(target: &LogTarget) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(&target.path)
}

fn header(stream: Stream, tag: u8, now: UnixNanos) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    rfc3339(now, &mut header);
    header.extend_from_slice(stream.tag());
    header.extend_from_slice(&[tag, b' ']);
    header
}

impl Open {
    fn take(&mut self, stream: Stream, mut bytes: &[u8], now: UnixNanos) {
        let line_bytes_max = self.target.line_bytes_max.max(1);
        let mut full = header(stream, b'F', now);
        while !bytes.is_empty() {
            let room = line_bytes_max.saturating_sub(self.held[stream.index()].len());
            // One byte more than fits: a line of exactly the bound is not split.
            let window = &bytes[..bytes.len().min(room.saturating_add(1))];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                full = self.record(stream, full, &bytes[..end]);
                bytes = &bytes[end + 1..];
            } else if window.len() > room {
                self.record(stream, header(stream, b'P', now), &bytes[..room]);
                bytes = &bytes[room..];
            } else {
                self.held[stream.index()].extend_from_slice(bytes);
                bytes = &[];
            }
            if self.batch.len() >= BATCH_BYTES {
                self.flush(now);
            }
        }
    }

    /// Adds a record of what is held and `bytes` to the batch, and gives the header back.
    fn record(&mut self, stream: Stream, header: Vec<u8>, bytes: &[u8]) -> Vec<u8> {
        let held = &mut self.held[stream.index()];
        self.batch.extend_from_slice(&header);
        self.batch.extend_from_slice(held);
        self.batch.extend_from_slice(bytes);
        self.batch.push(b'\n');
        held.clear();
        header
    }

    fn flush(&mut self, now: UnixNanos) {
        if self.lost > 0 {
            let mut marker = header(Stream::Stderr, b'F', now);
            let _ = writeln!(marker, "gantline: {} bytes of output were lost: {}", self.lost, self.reason);
            if write_records(&mut self.file, &marker).is_ok() {
                self.lost = 0;
            }
        }
        if !self.batch.is_empty() {
            if self.lost > 0 {
                self.lose(0);
            } else if let Err((written, error)) = write_records(&mut self.file, &self.batch) {
                self.reason = error.to_string();
                self.lose(written);
            }
            self.batch.clear();
        }
    }

    /// Counts the batch from `written` on as lost.
    fn lose(&mut self, written: usize) {
        let lost: usize = self.batch[written..]
            .split(|byte| *byte == b'\n')
            .map(|record| record.len().saturating_sub(HEADER_BYTES))
            .sum();
        self.lost += lost as u64;
        self.lost_in_all += lost as u64;
    }
}

/// Writes whole records. On failure says how many bytes of them are in the file, and cuts off what of the
/// next one is.
fn write_records(file: &mut File, records: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < records.len() {
        let error = match file.write(&records[written..]) {
            Ok(0) => io::Error::from(io::ErrorKind::WriteZero),
            Ok(n) => {
                written += n;
                continue;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => e,
        };
        let whole = records[..written].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let torn = (written - whole) as u64;
        if torn > 0 {
            let _ = file.metadata().and_then(|meta| file.set_len(meta.len().saturating_sub(torn)));
        }
        return Err((whole, error));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
