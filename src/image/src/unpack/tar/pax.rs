//! PAX extended headers: what they override, extended attributes, and GNU's sparse maps in them
//! (POSIX.1-2001 pax; GNU tar manual, "Storing Sparse Files").

use std::ffi::CString;

use super::{Segment, TarError};

/// What the records of one extended header say.
#[derive(Clone, Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(CString, Vec<u8>)>,
    pub(super) sparse: Sparse,
}

/// GNU's sparse records, of whichever version.
#[derive(Clone, Debug, Default)]
pub(super) struct Sparse {
    /// 1.0: the map lies at the head of the data.
    pub(super) in_data: bool,
    /// 0.0 and 0.1: the map.
    pub(super) map: Option<Vec<Segment>>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// 0.0: an offset whose length is still to come.
    offset: Option<u64>,
}

impl Pax {
    /// Reads records `<length> <key>=<value>\n` over what is known already.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), TarError> {
        while !bytes.is_empty() {
            // Some tars pad the last block with NULs inside the stated size.
            if bytes.iter().all(|byte| *byte == 0) {
                break;
            }
            let space = bytes.iter().position(|byte| *byte == b' ').ok_or(TarError::Pax)?;
            let length: usize = std::str::from_utf8(&bytes[..space])
                .ok()
                .and_then(|n| n.parse().ok())
                .ok_or(TarError::Pax)?;
            if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
                return Err(TarError::Pax);
            }
            let record = &bytes[space + 1..length - 1];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(TarError::Pax)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            let name = CString::new(name).map_err(|_| TarError::Pax)?;
            self.xattrs.retain(|(known, _)| *known != name);
            self.xattrs.push((name, value.to_vec()));
            return Ok(());
        }
        // An empty value takes back what a global header said.
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.link = given.then(|| value.to_vec()),
            b"size" => self.size = given.then(|| decimal(value)).transpose()?,
            b"uid" => self.uid = given.then(|| id(value)).transpose()?,
            b"gid" => self.gid = given.then(|| id(value)).transpose()?,
            b"mtime" => self.mtime = given.then(|| time(value)).transpose()?,
            b"GNU.sparse.major" => self.sparse.in_data = value == b"1",
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = Some(decimal(value)?),
            b"GNU.sparse.map" => {
                let numbers =
                    value.split(|byte| *byte == b',').map(decimal).collect::<Result<Vec<_>, _>>()?;
                self.sparse.map = Some(pairs(&numbers)?);
            }
            b"GNU.sparse.offset" => self.sparse.offset = Some(decimal(value)?),
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.offset.take().ok_or(TarError::Sparse)?;
                let segment = Segment { offset, length: decimal(value)? };
                self.sparse.map.get_or_insert_default().push(segment);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Segments from a flat list of offsets and lengths.
pub(super) fn pairs(numbers: &[u64]) -> Result<Vec<Segment>, TarError> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(TarError::Sparse);
    }
    Ok(pairs.iter().map(|[offset, length]| Segment { offset: *offset, length: *length }).collect())
}

/// A number in decimal digits and nothing else.
pub(super) fn decimal(text: &[u8]) -> Result<u64, TarError> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(TarError::Number)
}

fn id(text: &[u8]) -> Result<u32, TarError> {
    u32::try_from(decimal(text)?).map_err(|_| TarError::Number)
}

/// `[-]seconds[.fraction]`, rounded down to nanoseconds.
fn time(text: &[u8]) -> Result<(i64, u32), TarError> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next().unwrap_or_default())?).map_err(|_| TarError::Number)?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(TarError::Number);
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    match (negative, nanoseconds) {
        (false, _) => Ok((seconds, nanoseconds)),
        (true, 0) => Ok((-seconds, 0)),
        (true, _) => Ok((-seconds - 1, 1_000_000_000 - nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_taken_back() {
        let mut pax = Pax::default();
        pax.read(b"13 path=a\nb/c\n").unwrap_err();
        pax.read(b"14 path=a\nb/c\n19 mtime=1700000.5\n30 SCHILY.xattr.user.k=\0\xff\n=ab\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a\nb/c"[..]));
        assert_eq!(pax.mtime, Some((1_700_000, 500_000_000)));
        assert_eq!(pax.xattrs[0].1, b"\0\xff\n=ab");
        pax.read(b"8 path=\n").unwrap();
        assert_eq!(pax.path, None);
    }

    #[test]
    fn times_are_rounded_down() {
        for (text, value) in [
            ("-1.25", Some((-2, 750_000_000))),
            ("-1", Some((-1, 0))),
            ("0.1234567899", Some((0, 123_456_789))),
            ("1.x", None),
            ("", None),
            ("+1", None),
        ] {
            assert_eq!(time(text.as_bytes()).ok(), value, "{text}");
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in
            [&b"x path=a\n"[..], b"5 a=b", b"999 a=b\n", b"1 \n", b"4 ab\n", b"0 a=b\n", b"10 uid=-1\n\n\n"]
        {
            assert!(Pax::default().read(bad).is_err(), "{bad:?}");
        }
    }
}
