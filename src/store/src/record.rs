//! A record's envelope: one byte of version, four of CRC-32C, then JSON.

use serde::{Serialize, de::DeserializeOwned};

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Shorter than its envelope.
    #[error("truncated")]
    Truncated,
    /// Written by a version that this one does not read.
    #[error("version {found} where {known} is known")]
    Version {
        /// The record's.
        found: u8,
        /// Ours.
        known: u8,
    },
    /// The bytes are not those that were written.
    #[error("checksum does not match")]
    Checksum,
    /// Not the JSON that was expected.
    #[error("body")]
    Body(#[source] serde_json::Error),
}

const ENVELOPE: usize = 5;

pub(crate) fn encode<T: Serialize>(version: u8, value: &T) -> Result<Vec<u8>, RecordError> {
    let mut bytes = vec![version, 0, 0, 0, 0];
    serde_json::to_writer(&mut bytes, value).map_err(RecordError::Body)?;
    let sum = crc32c::crc32c(&bytes[ENVELOPE..]).to_le_bytes();
    bytes[1..ENVELOPE].copy_from_slice(&sum);
    Ok(bytes)
}

pub(crate) fn decode<T: DeserializeOwned>(known: u8, bytes: &[u8]) -> Result<T, RecordError> {
    let (envelope, body) = bytes.split_at_checked(ENVELOPE).ok_or(RecordError::Truncated)?;
    if envelope[0] != known {
        return Err(RecordError::Version { found: envelope[0], known });
    }
    if crc32c::crc32c(body).to_le_bytes() != envelope[1..] {
        return Err(RecordError::Checksum);
    }
    serde_json::from_slice(body).map_err(RecordError::Body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_byte_is_found() {
        let bytes = encode(3, &vec!["one", "two"]).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            assert!(decode::<Vec<String>>(3, &bad).is_err(), "byte {at}");
            assert!(decode::<Vec<String>>(3, &bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
