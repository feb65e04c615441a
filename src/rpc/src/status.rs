//! Error kinds to gRPC statuses: the one place where it is decided.
//!
//! | kind | code | what a client does |
//! |---|---|---|
//! | NotFound | NOT_FOUND | takes it as gone |
//! | Invalid | INVALID_ARGUMENT | does not retry: the request is wrong |
//! | WrongState | FAILED_PRECONDITION | lists again, then decides |
//! | Exists | ALREADY_EXISTS | gives up that name |
//! | Busy | RESOURCE_EXHAUSTED | backs off |
//! | NotReady | UNAVAILABLE | retries later |
//! | Deadline | DEADLINE_EXCEEDED | retries, and joins what goes on |
//! | Cancelled | CANCELLED | is not there to see it |
//! | Unsupported | UNIMPLEMENTED | falls back |
//! | Denied | PERMISSION_DENIED | does not retry |
//! | Corrupt, Internal | DATA_LOSS, INTERNAL | retries; an operator reads the log |
//! | Token | UNKNOWN | matches the first word of the message |

use model::{Classify, ErrorKind, chain};
use tonic::{Code, Status};

/// The code of a kind.
fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::WrongState => Code::FailedPrecondition,
        ErrorKind::Exists => Code::AlreadyExists,
        ErrorKind::Busy => Code::ResourceExhausted,
        ErrorKind::NotReady => Code::Unavailable,
        ErrorKind::Deadline => Code::DeadlineExceeded,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Denied => Code::PermissionDenied,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
        ErrorKind::Token(_) => Code::Unknown,
    }
}

/// A domain error as the client gets it: its code, and the whole chain in one line.
pub(crate) fn status<E: Classify>(error: E) -> Status {
    let kind = error.kind();
    let text = chain(&error);
    let message = match kind {
        // The kubelet compares with the beginning of the message (cri-api, pkg/errors).
        ErrorKind::Token(token) if !text.starts_with(token.as_str()) => format!("{}: {text}", token.as_str()),
        _ => text,
    };
    Status::new(code(kind), message)
}

/// The code's name as the gRPC specification writes it, for logs and metrics.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use model::CriToken;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("pull docker.io/library/busybox:latest")]
    struct Pull(ErrorKind, #[source] std::io::Error);

    impl Classify for Pull {
        fn kind(&self) -> ErrorKind {
            self.0
        }
    }

    fn refused() -> std::io::Error {
        std::io::Error::other("connection refused")
    }

    #[test]
    fn the_message_is_the_whole_chain() {
        let status = status(Pull(ErrorKind::NotFound, refused()));
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "pull docker.io/library/busybox:latest: connection refused");
    }

    #[test]
    fn a_token_is_the_first_word_of_an_unknown_error() {
        let status = status(Pull(ErrorKind::Token(CriToken::RegistryUnavailable), refused()));
        assert_eq!(status.code(), Code::Unknown);
        assert_eq!(
            status.message(),
            "RegistryUnavailable: pull docker.io/library/busybox:latest: connection refused"
        );
    }
}
