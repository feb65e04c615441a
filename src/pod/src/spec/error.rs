//! Why a container's specification cannot be written.

use std::path::PathBuf;

use kernel::SysError;
use model::{Classify, CriToken, ErrorKind};

/// Why a container's specification cannot be written. Each names the field of the request that is at fault.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The field's value can never be served.
    #[error("{field}: {why}")]
    Invalid {
        /// As CRI names it: `mounts[2].container_path`.
        field: String,
        /// What is wrong with the value, and the value.
        why: String,
    },
    /// The field's value is part of the contract, and not served here.
    #[error("{field}: {what}")]
    Unsupported {
        /// As CRI names it.
        field: String,
        /// What is missing.
        what: String,
    },
    /// The OCI runtime or the kernel cannot mount recursively read-only.
    #[error("{field}: the kernel or the runtime handler cannot mount recursively read-only")]
    RroUnsupported {
        /// As CRI names it.
        field: String,
    },
    /// Something that the field names could not be read or made on the host.
    #[error("{field}: {attempt} {}", path.display())]
    Host {
        /// As CRI names it.
        field: String,
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// As [`SpecError::Host`], from the kernel room.
    #[error("{field}")]
    System {
        /// As CRI names it.
        field: String,
        /// The call that failed.
        #[source]
        source: SysError,
    },
    /// The service did not hand over what it should have: a fault of ours.
    #[error("{0} is missing from the input of the specification")]
    Incomplete(&'static str),
}

impl SpecError {
    pub(crate) fn invalid(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), why: why.into() }
    }

    pub(crate) fn unsupported(field: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into(), what: what.into() }
    }

    pub(super) fn host(
        field: impl Into<String>,
        attempt: &'static str,
        path: impl Into<PathBuf>,
        source: std::io::Error,
    ) -> Self {
        Self::Host { field: field.into(), attempt, path: path.into(), source }
    }
}

impl Classify for SpecError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::RroUnsupported { .. } => ErrorKind::Token(CriToken::RroUnsupported),
            // The path comes from the request: that it is absent is the request's fault, not the host's.
            Self::Host { source, .. } if source.kind() == std::io::ErrorKind::NotFound => ErrorKind::Invalid,
            Self::Host { source, .. } => model::error::io_kind(source),
            Self::System { source, .. } if source.is_not_found() => ErrorKind::Invalid,
            Self::System { source, .. } => model::error::io_kind(&source.source),
            Self::Incomplete(_) => ErrorKind::Internal,
        }
    }
}
