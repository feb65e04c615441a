//! The compressions that layers come in, told by their first bytes: media types lie, magic does not.

use std::io::{self, BufRead, Read};

/// A stream of a layer's tar, whatever it was compressed with.
pub(crate) enum Decoder<R: BufRead> {
    Plain(R),
    // Several members one after another are one stream: eStargz and pigz write so.
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Zstd(Box<zstd::Decoder<'static, R>>),
}

impl<R: BufRead> Decoder<R> {
    /// Looks at the first bytes.
    pub(crate) fn new(mut stream: R) -> io::Result<Self> {
        let head = loop {
            match stream.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                head => break head?,
            }
        };
        Ok(match head {
            [0x1f, 0x8b, ..] => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(stream))),
            // A frame, or a skippable one as zstd:chunked may begin with.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Self::Zstd(Box::new(zstd::Decoder::with_buffer(stream)?))
            }
            [b'B', b'Z', b'h', ..] => return Err(unsupported("bzip2")),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => return Err(unsupported("xz")),
            _ => Self::Plain(stream),
        })
    }

    /// What lies under it, at whatever follows the compressed stream.
    pub(crate) fn into_inner(self) -> R {
        match self {
            Self::Plain(stream) => stream,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        }
    }
}

fn unsupported(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{name} compression is not supported"))
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write as _;

    use super::*;

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_compression_gives_the_same_bytes() {
        let text = b"layer ".repeat(10_000);
        let (front, back) = text.split_at(700);
        let skippable =
            [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd::encode_all(&text[..], 1).unwrap()]
                .concat();
        for (name, bytes) in [
            ("plain", text.clone()),
            ("gzip", gzip(&text)),
            ("gzip members", [gzip(front), gzip(back)].concat()),
            ("zstd", zstd::encode_all(&text[..], 1).unwrap()),
            (
                "zstd frames",
                [zstd::encode_all(front, 1).unwrap(), zstd::encode_all(back, 1).unwrap()].concat(),
            ),
            ("zstd with a skippable frame", skippable),
        ] {
            let mut out = Vec::new();
            Decoder::new(&bytes[..]).unwrap().read_to_end(&mut out).unwrap();
            assert!(out == text, "{name}");
        }
        assert!(Decoder::new(&b"BZh9"[..]).is_err());
        let cut = gzip(&text);
        assert!(Decoder::new(&cut[..cut.len() / 2]).unwrap().read_to_end(&mut Vec::new()).is_err());
    }
}
