//! Ids. One type for each kind of thing, so that a pod's id cannot be passed where a container's is meant.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a string is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 64 lower-case hexadecimal digits.
    #[error("{0:?} is not an id of 64 lower-case hex digits")]
    NotHex(String),
    /// Not `algorithm:hex` with a known algorithm and length.
    #[error("{0:?} is not a digest: sha256:<64 hex digits> or sha512:<128 hex digits> is expected")]
    NotDigest(String),
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// An id from 32 random bytes.
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(to_hex(&bytes))
            }

            /// The 64 hex digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 13 digits: what crictl prints and what logs show to people.
            pub fn short(&self) -> &str {
                &self.0[..13]
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                if is_hex(&text, 64) { Ok(Self(text)) } else { Err(IdError::NotHex(text)) }
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        // Sound: the derived order, equality and hash of a newtype over String are those of its str.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<std::path::Path> for $name {
            fn as_ref(&self) -> &std::path::Path {
                self.0.as_ref()
            }
        }
    };
}

hex_id! {
    /// A pod sandbox: 64 hex digits, made by us.
    PodId
}
hex_id! {
    /// A container: 64 hex digits, made by us.
    ContainerId
}
hex_id! {
    /// One exec session in a container: 64 hex digits, made by us.
    ExecId
}

/// A content digest: `sha256:<64 hex>` or `sha512:<128 hex>` (OCI image-spec, descriptor.md).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// A SHA-256 digest from its 32 bytes.
    pub fn sha256(bytes: [u8; 32]) -> Self {
        Self(format!("sha256:{}", to_hex(&bytes)))
    }

    /// The whole text, algorithm and hex.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The algorithm's name, before the colon.
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// The hex digits, after the colon.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }
}

impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        let valid = match text.split_once(':') {
            Some(("sha256", hex)) => is_hex(hex, 64),
            Some(("sha512", hex)) => is_hex(hex, 128),
            _ => false,
        };
        if valid { Ok(Self(text)) } else { Err(IdError::NotDigest(text)) }
    }
}

impl std::str::FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        text.to_owned().try_into()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.0)
    }
}

/// An image: the digest of its configuration, `sha256:<hex>`. The same in every RPC.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub Digest);

impl ImageId {
    /// `sha256:<hex>`.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_64_lower_hex_digits() {
        let id = PodId::from_bytes([0xab; 32]);
        assert_eq!(id.as_str(), "ab".repeat(32));
        assert_eq!(id.as_str().parse::<PodId>().unwrap(), id);
        for bad in ["", "ab", &"AB".repeat(32), &"g".repeat(64), &"a".repeat(65), "../../etc"] {
            assert_eq!(bad.parse::<PodId>(), Err(IdError::NotHex(bad.to_owned())));
        }
    }

    #[test]
    fn digests_know_their_parts() {
        let digest = Digest::sha256([1; 32]);
        assert_eq!((digest.algorithm(), digest.hex()), ("sha256", "01".repeat(32).as_str()));
        for bad in ["sha256:", "sha256:ab", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:../../x", "abc"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
