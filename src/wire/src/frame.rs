//! The fixed part of every frame, and how bodies are written and read.
//!
//! ```text
//! 0      2        3      4               8
//! | "GT" | version | kind | body length LE | body, JSON |
//! ```
//! These eight bytes never change, whatever the version.

use model::limits::SHIM_FRAME_BYTES_MAX;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Event, Reply, Request, VERSION};

const MAGIC: [u8; 2] = *b"GT";
/// The size of the header, bytes.
pub const HEADER_BYTES: usize = 8;

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Service to shim.
    Request(Request),
    /// Shim to service.
    Reply(Reply),
    /// Shim to service, unasked.
    Event(Event),
}

/// Why a message cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Larger than [`SHIM_FRAME_BYTES_MAX`].
    #[error("a frame of {0} bytes is over the bound of {SHIM_FRAME_BYTES_MAX}")]
    TooLarge(usize),
    /// A body that is not representable.
    #[error("encode a frame's body")]
    Json(#[source] serde_json::Error),
}

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its header says, or longer.
    #[error("a frame of {actual} bytes that should have {expected}")]
    Length {
        /// What the header says, the header included.
        expected: usize,
        /// What there is.
        actual: usize,
    },
    /// Not ours.
    #[error("a message that does not begin as a frame")]
    Magic,
    /// From another time.
    #[error("a frame of version {0}, this side speaks {VERSION}")]
    Version(u8),
    /// Neither request, reply nor event.
    #[error("a frame of unknown type {0}")]
    Type(u8),
    /// A request, reply or event of a kind that this side does not know.
    #[error("a message of unknown kind {kind:?}")]
    UnknownKind {
        /// The request's number, for the reply; 0 where there is none.
        seq: u64,
        /// Its kind, as it names it.
        kind: String,
    },
    /// A body that is not what its kind needs.
    #[error("the body of message {seq}")]
    Body {
        /// The request's number, for the reply; 0 where it could not be read.
        seq: u64,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl DecodeError {
    /// The number of the request that could not be read; 0 when not even that is known.
    pub fn seq(&self) -> u64 {
        match self {
            Self::UnknownKind { seq, .. } | Self::Body { seq, .. } => *seq,
            Self::Length { .. } | Self::Magic | Self::Version(_) | Self::Type(_) => 0,
        }
    }
}

impl Frame {
    fn type_byte(&self) -> u8 {
        match self {
            Self::Request(_) => 1,
            Self::Reply(_) => 2,
            Self::Event(_) => 3,
        }
    }

    /// The frame as one message.
    ///
    /// # Errors
    /// When it is too large.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, self.type_byte(), 0, 0, 0, 0]);
        match self {
            Self::Request(request) => serde_json::to_writer(&mut bytes, request),
            Self::Reply(reply) => serde_json::to_writer(&mut bytes, reply),
            Self::Event(event) => serde_json::to_writer(&mut bytes, event),
        }
        .map_err(EncodeError::Json)?;
        if bytes.len() > SHIM_FRAME_BYTES_MAX {
            return Err(EncodeError::TooLarge(bytes.len()));
        }
        let length =
            u32::try_from(bytes.len() - HEADER_BYTES).map_err(|_| EncodeError::TooLarge(bytes.len()))?;
        bytes[4..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
        Ok(bytes)
    }

    /// Reads one message.
    ///
    /// # Errors
    /// When it is not a whole frame of this version with a known kind.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(DecodeError::Length { expected: HEADER_BYTES, actual: bytes.len() });
        };
        let [m0, m1, version, kind, l0, l1, l2, l3] = *header;
        if [m0, m1] != MAGIC {
            return Err(DecodeError::Magic);
        }
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let expected = HEADER_BYTES.saturating_add(u32::from_le_bytes([l0, l1, l2, l3]) as usize);
        if bytes.len() != expected || expected > SHIM_FRAME_BYTES_MAX {
            return Err(DecodeError::Length { expected, actual: bytes.len() });
        }
        match kind {
            1 => read(body).map(Self::Request),
            2 => read(body).map(Self::Reply),
            3 => read(body).map(Self::Event),
            other => Err(DecodeError::Type(other)),
        }
    }
}

/// What every body may have, whatever its kind.
#[derive(Deserialize, Serialize)]
struct Envelope {
    #[serde(default)]
    seq: u64,
    kind: Option<String>,
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(body).map_err(|source| {
        let envelope = serde_json::from_slice(body).unwrap_or(Envelope { seq: 0, kind: None });
        match envelope.kind {
            // serde says "unknown variant" for the tag and for enums deeper down: only the tag is a kind.
            Some(kind) if source.to_string().starts_with(&format!("unknown variant `{kind}`")) => {
                DecodeError::UnknownKind { seq: envelope.seq, kind }
            }
            _ => DecodeError::Body { seq: envelope.seq, source },
        }
    })
}

#[cfg(test)]
mod tests;
