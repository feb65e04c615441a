//! Versions of the CNI specification: ours, a configuration's, a plugin's, and what they have in common.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

/// A version of the specification. Ordered as released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SpecVersion {
    major: u16,
    minor: u16,
    patch: u16,
}

impl SpecVersion {
    const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// The oldest that is spoken here: lists of plugins, and results with `interfaces` and `ips`.
    pub(crate) const OLDEST: Self = Self::new(0, 3, 0);
    /// CHECK, and the previous result on DEL.
    pub(crate) const V0_4_0: Self = Self::new(0, 4, 0);
    /// No `version` in addresses any more.
    pub(crate) const V1_0_0: Self = Self::new(1, 0, 0);
    /// GC and STATUS.
    pub(crate) const V1_1_0: Self = Self::new(1, 1, 0);
    /// The newest that is spoken here.
    pub(crate) const NEWEST: Self = Self::V1_1_0;

    /// Whether it is spoken here.
    pub(crate) fn is_spoken(self) -> bool {
        (Self::OLDEST..=Self::NEWEST).contains(&self)
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Not `major.minor.patch`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version of three numbers")]
pub struct NotAVersion(String);

impl FromStr for SpecVersion {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let mut numbers = text.split('.').map(str::parse::<u16>);
        match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => Ok(Self { major, minor, patch }),
            _ => Err(NotAVersion(text.to_owned())),
        }
    }
}

/// What a plugin answers to VERSION. `None`: it does not say, so nothing is held against it.
pub(crate) type Known = Option<Vec<SpecVersion>>;

/// Reads the answer to VERSION (CNI 1.1.0, "VERSION Success").
pub(crate) fn parse_answer(stdout: &[u8]) -> Known {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        supported_versions: Vec<String>,
    }
    let answer: Answer = serde_json::from_slice(stdout).ok()?;
    let known: Vec<_> = answer.supported_versions.iter().filter_map(|text| text.parse().ok()).collect();
    (!known.is_empty()).then_some(known)
}

/// What is known about each plugin binary, for as long as the binary stays the same.
#[derive(Default)]
pub(crate) struct KnownVersions(Mutex<HashMap<PathBuf, (Identity, Known)>>);

/// Changes whenever a binary is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Identity {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

impl KnownVersions {
    pub(crate) fn get(&self, path: &Path, identity: Identity) -> Option<Known> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(path).filter(|(of, _)| *of == identity).map(|(_, versions)| versions.clone())
    }

    pub(crate) fn set(&self, path: &Path, identity: Identity, versions: Known) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(path.to_owned(), (identity, versions));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_released() {
        let order = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"].map(|v| v.parse::<SpecVersion>().unwrap());
        assert!(order.is_sorted());
        assert!(order.iter().all(|v| v.is_spoken()));
        assert!(["0.2.0", "1.2.0"].iter().all(|v| !v.parse::<SpecVersion>().unwrap().is_spoken()));
        for bad in ["", "1", "1.0", "1.0.0.0", "v1.0.0", "1.0.x", "-1.0.0"] {
            assert!(bad.parse::<SpecVersion>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_plugin_that_does_not_say_is_not_held_to_it() {
        let known = parse_answer(br#"{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0","odd"]}"#);
        assert_eq!(known, Some(vec![SpecVersion::V0_4_0, SpecVersion::V1_0_0]));
        for silent in ["", "hello", "{}", r#"{"supportedVersions":[]}"#] {
            assert_eq!(parse_answer(silent.as_bytes()), None);
        }
    }

    #[test]
    fn what_a_binary_knows_is_forgotten_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin");
        std::fs::write(&path, "one").unwrap();
        let known = KnownVersions::default();
        let identity = Identity::of(&path).unwrap();
        assert_eq!(known.get(&path, identity), None);
        known.set(&path, identity, Some(vec![SpecVersion::V1_0_0]));
        assert_eq!(known.get(&path, identity), Some(Some(vec![SpecVersion::V1_0_0])));
        std::fs::write(&path, "longer").unwrap();
        assert_eq!(known.get(&path, Identity::of(&path).unwrap()), None);
    }
}
