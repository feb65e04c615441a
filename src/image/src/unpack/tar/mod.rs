//! Reading a tar as a stream, with bounds: every form that image builders write, in constant memory.
//!
//! The bounds are why this is not the `tar` crate (docs/adr/012-own-tar-reader.md); tests write with that
//! crate and with GNU tar, and read with this.

mod header;
mod pax;
#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::io::{self, Read};

use header::{BLOCK, Flag, Header};
use pax::Pax;

/// One extended header or long name, bytes: what Go's archive/tar takes too.
const EXTENSION_BYTES_MAX: u64 = 1024 * 1024;
/// Segments of one sparse file.
const SEGMENTS_MAX: usize = 64 * 1024;

/// What a tar entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Directory,
    Fifo,
    /// Major, minor.
    Character(u32, u32),
    /// Major, minor.
    Block(u32, u32),
}

/// A run of a file's bytes that the archive holds; what lies between two is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// One entry, without its data.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// As the archive writes it: nothing about it is trusted.
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    /// The file's size, holes included.
    pub(crate) size: u64,
    /// In order of offset, not overlapping, within `size`.
    pub(crate) segments: Vec<Segment>,
    pub(crate) xattrs: Vec<(CString, Vec<u8>)>,
}

/// What is wrong with an archive, or with reading it.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream under the archive failed; the error says why.
    #[error("read")]
    Read(#[source] io::Error),
    /// The archive ends within an entry.
    #[error("truncated")]
    Truncated,
    /// A header's bytes do not add up.
    #[error("header checksum does not match")]
    Checksum,
    /// A numeric field holds no number, or one out of range.
    #[error("invalid number in a header")]
    Number,
    /// An extended header is malformed.
    #[error("malformed extended header")]
    Pax,
    /// An extended header or long name is over 1 MiB.
    #[error("an extended header of {0} bytes is over the bound of 1 MiB")]
    ExtensionSize(u64),
    /// A sparse file's map is malformed.
    #[error("malformed sparse map")]
    Sparse,
    /// An entry of a type that has no meaning in an image.
    #[error("unknown entry type {0:?}")]
    Type(char),
}

/// A tar that is being read.
pub(crate) struct Archive<R> {
    reader: R,
    global: Pax,
    /// Bytes of the current entry's data that are still in the stream.
    unread: u64,
    /// Zeros up to the next block, after them.
    padding: u64,
}

impl<R: Read> Archive<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, global: Pax::default(), unread: 0, padding: 0 }
    }

    /// The next entry; the data of the one before is skipped where it was not read.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pax = self.global.clone();
        let mut long_name = None;
        let mut long_link = None;
        loop {
            self.skip(self.unread + self.padding)?;
            (self.unread, self.padding) = (0, 0);
            let mut block = [0; BLOCK];
            if !self.fill_or_end(&mut block)? {
                return Ok(None);
            }
            let header = Header(&block);
            // Two zero blocks end an archive; some writers leave it at one, or at none.
            if header.is_zero() {
                return Ok(None);
            }
            header.verify()?;
            let stored = header.size()?;
            match header.flag()? {
                Flag::LongName => long_name = Some(self.extension(stored, true)?),
                Flag::LongLink => long_link = Some(self.extension(stored, true)?),
                Flag::Pax => pax.read(&self.extension(stored, false)?)?,
                Flag::PaxGlobal => {
                    let records = self.extension(stored, false)?;
                    self.global.read(&records)?;
                    pax.read(&records)?;
                }
                Flag::Entry(kind) => {
                    return self.entry(&header, kind, stored, pax, long_name, long_link).map(Some);
                }
                Flag::GnuSparse => {
                    let mut entry = self.entry(&header, Kind::File, stored, pax, long_name, long_link)?;
                    self.gnu_map(&header, &mut entry)?;
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// Reads the current entry's data as it lies in the archive. 0 is its end.
    pub(crate) fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let wanted = buffer.len().min(usize::try_from(self.unread).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let read = retry(|| self.reader.read(&mut buffer[..wanted]))?;
        if read == 0 {
            return Err(TarError::Truncated);
        }
        self.unread -= read as u64;
        Ok(read)
    }

    /// The stream: after [`Archive::next`] at the entry's data.
    pub(crate) fn get_ref(&self) -> &R {
        &self.reader
    }

    /// The stream, at whatever follows the archive.
    pub(crate) fn into_inner(self) -> R {
        self.reader
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        kind: Kind,
        stored: u64,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        // Only files have data; others may state a size that means nothing.
        let stored = if kind == Kind::File { pax.size.unwrap_or(stored) } else { 0 };
        (self.unread, self.padding) = (stored, padding(stored));
        let mut entry = Entry {
            path: pax.path.or(long_name).unwrap_or_else(|| header.path()),
            link: pax.link.or(long_link).unwrap_or_else(|| header.link()),
            kind,
            mode: header.mode()?,
            uid: pax.uid.map_or_else(|| header.uid(), Ok)?,
            gid: pax.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: pax.mtime.map_or_else(|| header.mtime().map(|seconds| (seconds, 0)), Ok)?,
            size: stored,
            segments: vec![Segment { offset: 0, length: stored }],
            xattrs: pax.xattrs,
        };
        if kind == Kind::File && (pax.sparse.in_data || pax.sparse.map.is_some()) {
            entry.path = pax.sparse.name.unwrap_or(entry.path);
            entry.size = pax.sparse.real_size.ok_or(TarError::Sparse)?;
            entry.segments =
                if pax.sparse.in_data { self.map_in_data()? } else { pax.sparse.map.unwrap_or_default() };
            self.check_map(&entry)?;
        }
        Ok(entry)
    }

    /// GNU's old form: the map continues in blocks before the data, which the size does not count.
    fn gnu_map(&mut self, header: &Header<'_>, entry: &mut Entry) -> Result<(), TarError> {
        let (mut segments, mut more, real) = header.gnu_sparse()?;
        while more {
            let mut block = [0; BLOCK];
            if !self.fill_or_end(&mut block)? {
                return Err(TarError::Truncated);
            }
            segments.extend(header::gnu_segments(&block[..504])?);
            more = block[504] != 0;
            if segments.len() > SEGMENTS_MAX {
                return Err(TarError::Sparse);
            }
        }
        (entry.size, entry.segments) = (real, segments);
        self.check_map(entry)
    }

    /// GNU's 1.0 form: decimal lines at the head of the data, padded to a block.
    fn map_in_data(&mut self) -> Result<Vec<Segment>, TarError> {
        let mut numbers = Vec::new();
        let mut wanted = None;
        let mut line = Vec::new();
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            let mut block = [0; BLOCK];
            let mut filled = 0;
            while filled < BLOCK {
                match self.read_data(&mut block[filled..])? {
                    0 => return Err(TarError::Sparse),
                    read => filled += read,
                }
            }
            for byte in block {
                if wanted.is_some_and(|wanted| numbers.len() == wanted) {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(TarError::Sparse);
                    }
                    continue;
                }
                let number = pax::decimal(&std::mem::take(&mut line))?;
                match wanted {
                    None => match usize::try_from(number) {
                        Ok(count) if count <= SEGMENTS_MAX => wanted = Some(count * 2),
                        _ => return Err(TarError::Sparse),
                    },
                    Some(_) => numbers.push(number),
                }
            }
        }
        pax::pairs(&numbers)
    }

    /// Segments must lie in order within the file, and hold together what the archive stores.
    fn check_map(&self, entry: &Entry) -> Result<(), TarError> {
        let mut end = 0;
        let mut held = 0u64;
        for segment in &entry.segments {
            if segment.offset < end {
                return Err(TarError::Sparse);
            }
            end = segment.offset.checked_add(segment.length).ok_or(TarError::Sparse)?;
            held += segment.length;
        }
        let fits = end <= entry.size && held == self.unread && entry.segments.len() <= SEGMENTS_MAX;
        if fits { Ok(()) } else { Err(TarError::Sparse) }
    }

    /// The data of an entry that is about the next one.
    fn extension(&mut self, size: u64, name: bool) -> Result<Vec<u8>, TarError> {
        if size > EXTENSION_BYTES_MAX {
            return Err(TarError::ExtensionSize(size));
        }
        (self.unread, self.padding) = (size, padding(size));
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.read_data(&mut buffer)? {
                0 => break,
                read => bytes.extend_from_slice(&buffer[..read]),
            }
        }
        if name && let Some(end) = bytes.iter().position(|byte| *byte == 0) {
            bytes.truncate(end);
        }
        Ok(bytes)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), TarError> {
        let skipped =
            io::copy(&mut (&mut self.reader).take(bytes), &mut io::sink()).map_err(TarError::Read)?;
        if skipped == bytes { Ok(()) } else { Err(TarError::Truncated) }
    }

    /// Fills a block. False where the stream ended before its first byte.
    fn fill_or_end(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < BLOCK {
            match retry(|| self.reader.read(&mut block[filled..]))? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(TarError::Truncated),
                read => filled += read,
            }
        }
        Ok(true)
    }
}

fn retry(mut read: impl FnMut() -> io::Result<usize>) -> Result<usize, TarError> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(TarError::Read),
        }
    }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}
