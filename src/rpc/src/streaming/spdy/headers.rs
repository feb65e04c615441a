//! SPDY's header blocks: name and value pairs through one zlib stream per direction, with a dictionary
//! (SPDY Protocol, Draft 3.1, 2.6.10).

use std::io;

use bytes::Bytes;
use flate2::{Decompress, FlushDecompress};

use super::{be32, invalid};
use crate::streaming::mux::Headers;

/// One block once inflated, bytes.
const BLOCK_BYTES_MAX: usize = 8 * 1024;

/// The dictionary's words, each with its length before it.
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
/// The dictionary's end, without lengths.
const TAIL: &str = concat!(
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized",
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable",
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT",
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,",
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
);
/// The dictionary's Adler-32, by which zlib asks for it.
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

pub(super) fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS {
        // The longest has 19 letters.
        bytes.extend([0, 0, 0, u8::try_from(word.len()).unwrap_or_default()]);
        bytes.extend(word.as_bytes());
    }
    bytes.extend(TAIL.as_bytes());
    bytes
}

/// Reads the client's blocks, in their order.
pub(super) struct HeaderReader(Decompress);

impl HeaderReader {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// One block. Names are in lower case; of several values the first counts.
    pub(super) fn read(&mut self, compressed: &[u8]) -> io::Result<Headers> {
        let block = self.inflate(compressed)?;
        let mut at = 4;
        let mut text = || -> io::Result<String> {
            let length = usize::try_from(be32(&block, at)?).unwrap_or(usize::MAX);
            let end = at.saturating_add(4).saturating_add(length);
            let bytes = block.get(at + 4..end).ok_or_else(|| invalid("a cut header"))?;
            at = end;
            String::from_utf8(bytes.to_vec()).map_err(|_| invalid("a header that is not text"))
        };
        let mut headers = Headers::new();
        for _ in 0..be32(&block, 0)? {
            let (name, value) = (text()?, text()?);
            headers
                .insert(name.to_ascii_lowercase(), value.split('\0').next().unwrap_or_default().to_owned());
        }
        Ok(headers)
    }

    fn inflate(&mut self, mut compressed: &[u8]) -> io::Result<Vec<u8>> {
        let mut block = Vec::with_capacity(1024);
        loop {
            let (read_before, written_before) = (self.0.total_in(), block.len());
            let result = self.0.decompress_vec(compressed, &mut block, FlushDecompress::Sync);
            let read = usize::try_from(self.0.total_in() - read_before).unwrap_or(compressed.len());
            compressed = &compressed[read.min(compressed.len())..];
            match result {
                Err(error) if error.needs_dictionary() == Some(DICTIONARY_ID) => {
                    self.0
                        .set_dictionary(&dictionary())
                        .map_err(|_| invalid("headers with another dictionary"))?;
                    continue;
                }
                Err(_) => return Err(invalid("headers that zlib cannot read")),
                Ok(_) => {}
            }
            if block.len() > BLOCK_BYTES_MAX {
                return Err(invalid("a header block is too large"));
            }
            if block.len() < block.capacity() {
                return Ok(block);
            }
            if block.len() == written_before && compressed.is_empty() {
                return Ok(block);
            }
            block.reserve(4096);
        }
    }
}

/// Writes our blocks, which are all empty: stored, not compressed.
#[derive(Default)]
pub(super) struct HeaderWriter {
    begun: bool,
}

impl HeaderWriter {
    /// A block of no headers. The first one begins the zlib stream (RFC 1950: 0x78, FDICT, the dictionary's id).
    pub(super) fn empty(&mut self) -> Bytes {
        // A stored block (RFC 1951, 3.2.4) of the four bytes that say "0 headers", and one of none: zlib's
        // sync flush, without which Go's inflater waits for more before it gives the first one away.
        const BLOCK: [u8; 14] = [0x00, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0x00, 0, 0, 0xff, 0xff];
        match std::mem::replace(&mut self.begun, true) {
            true => Bytes::from_static(&BLOCK),
            false => [&[0x78, 0xbb][..], &DICTIONARY_ID.to_be_bytes(), &BLOCK].concat().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_specification_s() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        let (a, b) = dictionary.iter().fold((1_u32, 0_u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65_521;
            (a, (b + a) % 65_521)
        });
        assert_eq!(b << 16 | a, DICTIONARY_ID);
    }

    #[test]
    fn what_one_end_writes_the_other_reads() {
        let (mut writer, mut reader) = (HeaderWriter::default(), HeaderReader::new());
        assert_eq!(u16::from_be_bytes([0x78, 0xbb]) % 31, 0, "zlib's header check");
        for _ in 0..3 {
            assert_eq!(reader.read(&writer.empty()).unwrap(), Headers::new());
        }
        assert!(HeaderReader::new().read(b"nonsense").is_err());
    }
}
