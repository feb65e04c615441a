//! One 512-byte header block: v7, ustar and GNU (POSIX.1-1988 ustar; GNU tar manual, "Basic Tar Format").

use super::{Kind, Segment, TarError};

/// The block size of every tar.
pub(super) const BLOCK: usize = 512;

/// A header block as it lies in the archive.
pub(super) struct Header<'a>(pub(super) &'a [u8; BLOCK]);

/// What kind of thing a type flag announces.
pub(super) enum Flag {
    /// An entry of the archive.
    Entry(Kind),
    /// A regular file with GNU's sparse map in its header.
    GnuSparse,
    /// GNU: the next entry's name.
    LongName,
    /// GNU: the next entry's link target.
    LongLink,
    /// PAX records for the next entry.
    Pax,
    /// PAX records for every entry that follows.
    PaxGlobal,
}

impl<'a> Header<'a> {
    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// The sum of all bytes, the checksum's own counted as spaces; old tars summed signed bytes.
    pub(super) fn verify(&self) -> Result<(), TarError> {
        let expected = number(&self.0[148..156])?;
        let bytes = || {
            self.0.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte })
        };
        let unsigned: i64 = bytes().map(i64::from).sum();
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        if expected == unsigned || expected == signed { Ok(()) } else { Err(TarError::Checksum) }
    }

    pub(super) fn flag(&self) -> Result<Flag, TarError> {
        Ok(match self.0[156] {
            // Before ustar a directory was a file whose name ends so.
            0 | b'0' if self.name().ends_with(b"/") => Flag::Entry(Kind::Directory),
            0 | b'0' | b'7' => Flag::Entry(Kind::File),
            b'1' => Flag::Entry(Kind::HardLink),
            b'2' => Flag::Entry(Kind::Symlink),
            b'3' => Flag::Entry(Kind::Character(self.device(329)?, self.device(337)?)),
            b'4' => Flag::Entry(Kind::Block(self.device(329)?, self.device(337)?)),
            b'5' => Flag::Entry(Kind::Directory),
            b'6' => Flag::Entry(Kind::Fifo),
            b'S' => Flag::GnuSparse,
            b'L' => Flag::LongName,
            b'K' => Flag::LongLink,
            b'x' => Flag::Pax,
            b'g' => Flag::PaxGlobal,
            other => return Err(TarError::Type(char::from(other))),
        })
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let prefix = if &self.0[257..263] == b"ustar\0" { text(&self.0[345..500]) } else { &[] };
        let mut path = prefix.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(self.name());
        path
    }

    fn name(&self) -> &'a [u8] {
        text(&self.0[..100])
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u32, TarError> {
        // Some tars put the file type into the upper bits.
        Ok((number(&self.0[100..108])? & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Result<u32, TarError> {
        u32::try_from(number(&self.0[108..116])?).map_err(|_| TarError::Number)
    }

    pub(super) fn gid(&self) -> Result<u32, TarError> {
        u32::try_from(number(&self.0[116..124])?).map_err(|_| TarError::Number)
    }

    pub(super) fn size(&self) -> Result<u64, TarError> {
        u64::try_from(number(&self.0[124..136])?).map_err(|_| TarError::Number)
    }

    pub(super) fn mtime(&self) -> Result<i64, TarError> {
        number(&self.0[136..148])
    }

    fn device(&self, at: usize) -> Result<u32, TarError> {
        u32::try_from(number(&self.0[at..at + 8])?).map_err(|_| TarError::Number)
    }

    /// GNU's sparse map: four segments here, whether more blocks follow, and the file's real size.
    pub(super) fn gnu_sparse(&self) -> Result<(Vec<Segment>, bool, u64), TarError> {
        let segments = gnu_segments(&self.0[386..482])?;
        let real = u64::try_from(number(&self.0[483..495])?).map_err(|_| TarError::Number)?;
        Ok((segments, self.0[482] != 0, real))
    }
}

/// Pairs of 12-byte numbers, until an empty one.
pub(super) fn gnu_segments(bytes: &[u8]) -> Result<Vec<Segment>, TarError> {
    let mut segments = Vec::new();
    for pair in bytes.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let part = |bytes| u64::try_from(number(bytes)?).map_err(|_| TarError::Number);
        segments.push(Segment { offset: part(&pair[..12])?, length: part(&pair[12..])? });
    }
    Ok(segments)
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// Octal text between blanks, or GNU's base-256 where the first bit is set.
fn number(field: &[u8]) -> Result<i64, TarError> {
    if field[0] & 0x80 != 0 {
        // Two's complement over the whole field, its first bit being the mark and not a value.
        let negative = field[0] & 0x40 != 0;
        let first = if negative { i64::from(field[0]) - 256 } else { i64::from(field[0] & 0x7f) };
        return field[1..].iter().try_fold(first, |value, byte| {
            value
                .checked_mul(256)
                .and_then(|value| value.checked_add(i64::from(*byte)))
                .ok_or(TarError::Number)
        });
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value
            .checked_mul(8)
            .and_then(|value| value.checked_add(i64::from(digit - b'0')))
            .ok_or(TarError::Number),
        _ => Err(TarError::Number),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_all_their_forms() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644     ", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\0\0\0\x02\0\0\0\0\0\0\0", Some(2 << 56)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"77777777777777777777777", None),
            (b"0000008\0", None),
            (b"-000001\0", None),
        ] {
            assert_eq!(number(field).ok(), value, "{field:x?}");
        }
    }
}
