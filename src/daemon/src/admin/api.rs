//! What the admin socket speaks: JSON in, JSON or lines of JSON out. Both ends are this binary, but not
//! always of the same version: unknown fields are ignored, new ones need a default.

use serde::{Deserialize, Serialize};

/// `POST /pull`. Never printed: it holds a password.
#[derive(Serialize, Deserialize)]
pub(crate) struct PullBody {
    /// The image, as it was typed.
    pub(crate) reference: String,
    /// `user:password`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) credentials: Option<String>,
}

/// `POST /import`
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ImportBody {
    /// An absolute path on the node.
    pub(crate) path: std::path::PathBuf,
    /// A name for the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
}

/// One line of the answer to `/pull` and `/import`. The last one is `done` or `failed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// Where it is.
    Progress(Progress),
    /// It is here.
    Done {
        /// The images.
        images: Vec<Arrived>,
    },
    /// It is not, and nothing of it is left.
    Failed {
        /// Why, with all its causes.
        message: String,
    },
}

/// An image that a pull or an import brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrived {
    /// `sha256:<hex>`
    pub(crate) id: String,
    /// The names that it was given.
    pub(crate) names: Vec<String>,
}

/// How far a pull is, as a whole: a reader that was away has missed nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// What it does.
    pub(crate) phase: Phase,
    /// In the image's order, base first. Empty until the manifest is here.
    pub(crate) layers: Vec<Layer>,
}

/// What a pull does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Asks the registry what the name means.
    #[default]
    Resolving,
    /// Fetches, verifies and unpacks layers.
    Unpacking,
    /// Waits for the disk.
    Committing,
}

/// One layer of a pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    /// The compressed blob's digest.
    pub(crate) digest: String,
    /// Where it is.
    pub(crate) stage: Stage,
    /// Compressed bytes received.
    pub(crate) done: u64,
    /// Compressed bytes in all.
    pub(crate) total: u64,
}

/// Where a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Before its turn.
    Waiting,
    /// On its way to the disk.
    Unpacking,
    /// Was here already.
    Reused,
    /// Here now.
    Done,
}
