//! What a client gives us to be let in with: CRI's AuthConfig. Never printed, never stored.

use std::fmt;

/// The six fields of CRI's AuthConfig; empty is not given.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// For basic authentication, or to buy a token with.
    pub username: String,
    /// Beside it.
    pub password: String,
    /// Both in one: base64 of `username:password`.
    pub auth: String,
    /// The registry that all this is for, as host or URL. Any other one gets nothing. Empty: any.
    pub server_address: String,
    /// An OAuth2 refresh token.
    pub identity_token: String,
    /// A bearer token that the registry takes as it is.
    pub registry_token: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(redacted)")
    }
}
