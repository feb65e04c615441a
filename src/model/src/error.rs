//! The kinds of error, and how a chain of them is told once.
//!
//! Each room has its own error enums that say what was attempted, on what, and at which stage; every one
//! implements [`Classify`]. `rpc::status` maps a kind to a gRPC code in one exhaustive match.

use std::error::Error;
use std::fmt::Write as _;

/// What a caller can do about an error. The gRPC code follows from it and from nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// The request can never succeed as it is.
    Invalid,
    /// The object is in a state that forbids this now.
    WrongState,
    /// Another object already has this identity.
    Exists,
    /// A named bound is reached, or the disk is full.
    Busy,
    /// Something that is needed is not there yet: retry later.
    NotReady,
    /// A deadline passed; the message names the stage that it passed in.
    Deadline,
    /// The caller went away.
    Cancelled,
    /// Gantline does not serve this part of the contract.
    Unsupported,
    /// The caller is not allowed to have what it asked for.
    Denied,
    /// Data on disk is not what was written.
    Corrupt,
    /// A fault of ours, or of the host.
    Internal,
    /// A fault that the CRI client recognises by the first word of the message; sent with code Unknown.
    Token(CriToken),
}

/// The error words that the kubelet matches by prefix (cri-api, `pkg/errors`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CriToken {
    /// The registry could not be reached or is failing.
    RegistryUnavailable,
    /// A signature policy refused the image.
    SignatureValidationFailed,
    /// The handler cannot mount recursively read-only.
    RroUnsupported,
    /// An image volume could not be mounted.
    ImageVolumeMountFailed,
}

impl CriToken {
    /// The word as the kubelet knows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RegistryUnavailable => "RegistryUnavailable",
            Self::SignatureValidationFailed => "SignatureValidationFailed",
            Self::RroUnsupported => "RROUnsupported",
            Self::ImageVolumeMountFailed => "ImageVolumeMountFailed",
        }
    }
}

/// An error that knows its kind.
pub trait Classify: Error {
    /// What the caller can do about it.
    fn kind(&self) -> ErrorKind;
}

/// An error and all its sources in one line, `outer: inner: innermost`.
///
/// Our `Display` texts never repeat their source, so each part appears once.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // A foreign error may repeat its source's text; saying it twice helps nobody.
        let part = error.to_string();
        if !text.ends_with(&part) {
            let _ = write!(text, ": {part}");
        }
        source = error.source();
    }
    text
}

/// The kind of an I/O error that happened while doing something on the host.
pub fn io_kind(error: &std::io::Error) -> ErrorKind {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::Busy,
        std::io::ErrorKind::TimedOut => ErrorKind::Deadline,
        _ => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("mount overlay at /x")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn chain_tells_each_part_once() {
        let inner = std::io::Error::from_raw_os_error(28);
        let text = chain(&Outer(inner));
        assert_eq!(text, "mount overlay at /x: No space left on device (os error 28)");
    }
}
