//! Content digests, computed as bytes pass.

use model::Digest;
use sha2::{Digest as _, Sha256, Sha512};

/// A digest under way, of the algorithm of the digest that it will be compared with.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// For comparing with `expected`.
    pub(crate) fn like(expected: &Digest) -> Self {
        match expected.algorithm() {
            "sha512" => Self::Sha512(Sha512::new()),
            _ => Self::Sha256(Sha256::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// `algorithm:hex`.
    pub(crate) fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => Digest::sha256(hasher.finalize().into()).to_string(),
            Self::Sha512(hasher) => hasher
                .finalize()
                .iter()
                .fold("sha512:".to_owned(), |text, byte| text + &format!("{byte:02x}")),
        }
    }
}

/// The SHA-256 digest of bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::sha256(Sha256::digest(bytes).into())
}

/// Whether these bytes have that digest.
pub(crate) fn is_of(digest: &Digest, bytes: &[u8]) -> bool {
    let mut hasher = Hasher::like(digest);
    hasher.update(bytes);
    hasher.finish() == digest.as_str()
}
