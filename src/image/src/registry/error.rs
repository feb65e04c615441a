//! What registries answer when they do not give what was asked for.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use model::{Classify, CriToken, Digest, ErrorKind};

/// A request to a registry that failed. URLs are written without their query: it may hold a signature.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No connection: the name, the address, the port or TLS.
    #[error("{action} {url}")]
    Unreachable {
        /// `connect to`, `read from`.
        action: &'static str,
        /// What was asked.
        url: String,
        /// What hyper, rustls or the kernel said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Nothing came for too long.
    #[error("{url}: not a byte for {} s", .after.as_secs())]
    Stalled {
        /// What was asked.
        url: String,
        /// The bound.
        after: Duration,
    },
    /// The registry is failing, or asks to be left alone for a while.
    #[error("{url}: {status}{}", .message.as_deref().map(|m| format!(": {m}")).unwrap_or_default())]
    Failing {
        /// What was asked.
        url: String,
        /// 5xx or 429.
        status: StatusCode,
        /// The registry's own words.
        message: Option<String>,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Credentials are missing, wrong or not enough.
    #[error("{url}: {}{}", denied(*.status), .message.as_deref().map(|m| format!(": {m}")).unwrap_or_default())]
    Denied {
        /// What was asked.
        url: String,
        /// 401 or 403.
        status: StatusCode,
        /// The registry's own words.
        message: Option<String>,
    },
    /// The registry does not have it.
    #[error("{url}: not found (404){}", .message.as_deref().map(|m| format!(": {m}")).unwrap_or_default())]
    NotFound {
        /// What was asked.
        url: String,
        /// The registry's own words.
        message: Option<String>,
    },
    /// Any other answer.
    #[error("{url}: unexpected answer {status}{}", .message.as_deref().map(|m| format!(": {m}")).unwrap_or_default())]
    Unexpected {
        /// What was asked.
        url: String,
        /// The answer.
        status: StatusCode,
        /// The registry's own words.
        message: Option<String>,
    },
    /// An answer that breaks the protocol.
    #[error("{url}: {why}")]
    Protocol {
        /// What was asked.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// A blob that is larger than what was asked for.
    #[error("{url}: is longer than the {size} bytes of its descriptor")]
    TooLong {
        /// What was asked.
        url: String,
        /// What the manifest says, bytes.
        size: u64,
    },
    /// A document that is not the one that was asked for.
    #[error("{url}: the content has digest {found}, {expected} was asked for")]
    Digest {
        /// What was asked.
        url: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: String,
    },
    /// The credentials could not be exchanged for a token.
    #[error("authenticate to {host}")]
    Token {
        /// The registry.
        host: String,
        /// What the token's server answered.
        #[source]
        source: Box<RegistryError>,
    },
    /// `hosts.toml` or a certificate that it names.
    #[error("read registry configuration {}: {why}", .path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

fn denied(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication required (401)",
        _ => "access denied (403)",
    }
}

impl RegistryError {
    /// Whether the same request may succeed in a moment.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Stalled { .. } | Self::Failing { .. } => true,
            Self::Token { source, .. } => source.is_passing(),
            _ => false,
        }
    }

    /// How long the registry wants to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Failing { retry_after, .. } => *retry_after,
            Self::Token { source, .. } => source.retry_after(),
            _ => None,
        }
    }
}

impl Classify for RegistryError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. } | Self::Stalled { .. } | Self::Failing { .. } => {
                ErrorKind::Token(CriToken::RegistryUnavailable)
            }
            Self::Denied { .. } => ErrorKind::Denied,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Digest { .. } => ErrorKind::Corrupt,
            Self::Unexpected { .. } | Self::Protocol { .. } | Self::TooLong { .. } => ErrorKind::Internal,
            Self::Token { source, .. } => source.kind(),
            Self::Configuration { .. } => ErrorKind::Invalid,
        }
    }
}

/// The registry's own words from an error's body: the errors of the distribution specification, the
/// `details` of token servers, or short plain text.
pub(super) fn message(body: &[u8]) -> Option<String> {
    const MESSAGE_CHARS_MAX: usize = 300;
    let value: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let text = match value {
        Some(value) => {
            let errors = value["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
            let told: Vec<_> = errors
                .iter()
                .map(|error| {
                    let word = |key: &str| error[key].as_str().unwrap_or_default().trim().to_owned();
                    [word("code"), word("message")]
                        .into_iter()
                        .filter(|w| !w.is_empty())
                        .collect::<Vec<_>>()
                        .join(": ")
                })
                .filter(|text| !text.is_empty())
                .collect();
            let plain = || {
                ["details", "message", "error"].iter().find_map(|key| value[key].as_str()).map(str::to_owned)
            };
            if told.is_empty() { plain()? } else { told.join("; ") }
        }
        None => std::str::from_utf8(body).ok()?.to_owned(),
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // A proxy's error page helps nobody in one line.
    (!text.is_empty() && !text.starts_with('<')).then(|| text.chars().take(MESSAGE_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_speaks_for_itself() {
        for (body, said) in [
            (
                r#"{"errors":[{"code":"DENIED","message":"no pull\naccess","detail":{}}]}"#,
                Some("DENIED: no pull access"),
            ),
            (r#"{"errors":[{"code":"A"},{"message":"b"}]}"#, Some("A; b")),
            (r#"{"details":"incorrect username or password"}"#, Some("incorrect username or password")),
            ("404 page not found\n", Some("404 page not found")),
            ("<html>nginx</html>", None),
            ("", None),
            ("{}", None),
        ] {
            assert_eq!(message(body.as_bytes()).as_deref(), said, "{body}");
        }
    }
}
