//! Lets in clients whose `:authority` is the socket's path.
//!
//! Older CRI clients send `%2Frun%2Fgantline%2Fgantline.sock` or the bare path as `:authority`. h2 resets
//! such a stream before any code of ours sees it: neither `%` nor `/` may stand in an authority (RFC 3986,
//! 3.2). This wraps a connection's incoming bytes and turns both characters into `-` inside that one header,
//! where they lie: in HPACK's Huffman code all three are six bits long, so no length changes, in the frame or
//! in the dynamic table that both ends keep in step. Nothing of ours reads the authority afterwards.
//! `docs/adr/040-authority-rewrite.md` has what else was thought of.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The client's connection preface (RFC 9113, 3.4), bytes.
const PREFACE: usize = 24;
/// A frame's header (RFC 9113, 4.1), bytes.
const FRAME_HEADER: usize = 9;
/// HEADERS (RFC 9113, 6.2).
const HEADERS: u8 = 0x1;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;
/// Larger frames are passed on as they are: h2 refuses them, its SETTINGS_MAX_FRAME_SIZE being the default.
const FRAME_MAX: usize = 16 * 1024;
/// How much is read at once, bytes.
const READ: usize = 16 * 1024;

/// A connection whose `:authority` headers h2 takes.
pub(crate) struct Tolerant<S> {
    inner: S,
    /// Bytes that were read and not yet passed on.
    held: BytesMut,
    /// How many of them may be.
    passable: usize,
    /// How many bytes from `passable` on are of no interest.
    skip: usize,
}

impl<S> Tolerant<S> {
    /// Wraps a connection on which nothing has been read.
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, held: BytesMut::new(), passable: 0, skip: PREFACE }
    }

    /// Moves `passable` over all that needs no change or has been changed.
    fn scan(&mut self) {
        loop {
            let step = self.skip.min(self.held.len() - self.passable);
            self.passable += step;
            self.skip -= step;
            let rest = &mut self.held[self.passable..];
            if self.skip > 0 || rest.len() < FRAME_HEADER {
                return;
            }
            let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
            let (kind, flags) = (rest[3], rest[4]);
            if kind == HEADERS && length <= FRAME_MAX {
                // The whole frame is needed: the header may be anywhere in it.
                let Some(payload) = rest.get_mut(FRAME_HEADER..FRAME_HEADER + length) else { return };
                mend_headers(payload, flags);
            }
            self.skip = FRAME_HEADER + length;
        }
    }
}

/// Mends the header block of a HEADERS frame. What is malformed is left for h2 to refuse.
fn mend_headers(payload: &mut [u8], flags: u8) {
    let padded = usize::from(flags & FLAG_PADDED != 0);
    let padding = if padded == 1 { payload.first().map_or(0, |length| usize::from(*length)) } else { 0 };
    let start = padded + if flags & FLAG_PRIORITY != 0 { 5 } else { 0 };
    if let Some(block) = payload.len().checked_sub(padding).and_then(|end| payload.get_mut(start..end)) {
        mend_block(block);
    }
}

/// Walks the fields of a block (RFC 7541, 6) and mends each `:authority`, until the block ends or is cut.
fn mend_block(block: &mut [u8]) {
    let mut at = 0;
    while let Some(field) = next_field(block, &mut at) {
        if let Some(value) = field {
            mend_value(&mut block[value.bytes], value.huffman);
        }
    }
}

struct Text {
    bytes: Range<usize>,
    huffman: bool,
}

/// One field: the value of an `:authority`, or nothing of interest. `None`: the block ends here.
fn next_field(block: &[u8], at: &mut usize) -> Option<Option<Text>> {
    let first = *block.get(*at)?;
    let (prefix, literal) = match first {
        0x80.. => (7, false),
        0x40.. => (6, true),
        0x20.. => (5, false), // the table's size
        _ => (4, true),
    };
    let index = integer(block, at, prefix)?;
    if !literal {
        return Some(None);
    }
    // :authority is entry 1 of the static table (RFC 7541, appendix A).
    let authority = match index {
        0 => {
            let name = text(block, at)?;
            !name.huffman && block[name.bytes] == *b":authority"
        }
        index => index == 1,
    };
    let value = text(block, at)?;
    Some(authority.then_some(value))
}

/// RFC 7541, 5.1.
fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let mask = (1_u8 << prefix) - 1;
    let first = *block.get(*at)? & mask;
    *at += 1;
    let mut value = usize::from(first);
    if first < mask {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = *block.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// RFC 7541, 5.2.
fn text(block: &[u8], at: &mut usize) -> Option<Text> {
    let huffman = block.get(*at)? & 0x80 != 0;
    let length = integer(block, at, 7)?;
    let bytes = *at..at.checked_add(length)?;
    *at = bytes.end;
    (bytes.end <= block.len()).then_some(Text { bytes, huffman })
}

fn mend_value(value: &mut [u8], huffman: bool) {
    if huffman {
        return mend_huffman(value);
    }
    for byte in value.iter_mut().filter(|byte| matches!(byte, b'%' | b'/')) {
        *byte = b'-';
    }
}

/// How many codes of each length from 5 bits on HPACK has; the code is canonical (RFC 7541, appendix B).
const CODES_OF_LENGTH: [u32; 26] =
    [10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4];
/// `%`, `-` and `/`, six bits each.
const PERCENT: u32 = 0x15;
const DASH: u32 = 0x16;
const SLASH: u32 = 0x18;

fn mend_huffman(value: &mut [u8]) {
    let mut at = 0;
    while let Some((code, length)) = next_code(value, at) {
        if length == 6 && (code == PERCENT || code == SLASH) {
            for i in 0..6 {
                let (byte, bit) = ((at + i) / 8, 7 - (at + i) % 8);
                let wanted = (DASH >> (5 - i)) & 1 == 1;
                value[byte] = value[byte] & !(1 << bit) | u8::from(wanted) << bit;
            }
        }
        at += length;
    }
}

/// The code that begins at a bit. `None`: only padding is left.
fn next_code(value: &[u8], at: usize) -> Option<(u32, usize)> {
    let (mut code, mut first) = (0, 0);
    for length in 1..=30 {
        let bit = at + length - 1;
        code = code << 1 | u32::from(value.get(bit / 8)? >> (7 - bit % 8) & 1);
        let count = length.checked_sub(5).map_or(0, |i| CODES_OF_LENGTH[i]);
        if code < first + count {
            return Some((code, length));
        }
        first = (first + count) << 1;
    }
    None
}

impl<S: AsyncRead + Unpin> AsyncRead for Tolerant<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.passable > 0 {
                let step = self.passable.min(out.remaining());
                out.put_slice(&self.held[..step]);
                self.held.advance(step);
                self.passable -= step;
                return Poll::Ready(Ok(()));
            }
            let this = &mut *self;
            let before = this.held.len();
            this.held.resize(before + READ, 0);
            let mut space = ReadBuf::new(&mut this.held[before..]);
            let result = Pin::new(&mut this.inner).poll_read(cx, &mut space);
            let read = space.filled().len();
            this.held.truncate(before + read);
            ready!(result)?;
            match read {
                // The end, perhaps inside a frame: what is held goes out as it is.
                0 if this.held.is_empty() => return Poll::Ready(Ok(())),
                0 => this.passable = this.held.len(),
                _ => this.scan(),
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tolerant<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S> tonic::transport::server::Connected for Tolerant<S> {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

#[cfg(test)]
mod tests;
