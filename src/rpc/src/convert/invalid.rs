//! A refused field, by its path in the request.

use std::fmt::Display;

use tonic::Status;

/// `config.mounts[2].container_path: must not be "/"`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub(crate) struct Invalid {
    path: String,
    why: String,
}

impl Invalid {
    /// A field and what is wrong with it.
    pub(crate) fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self { path: field.into(), why: why.into() }
    }

    /// What is wrong, without the path.
    pub(crate) fn why(&self) -> &str {
        &self.why
    }

    /// A field that has to be there.
    pub(crate) fn missing(field: impl Into<String>) -> Self {
        Self::new(field, "is missing")
    }
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        Self::invalid_argument(invalid.to_string())
    }
}

/// Puts the parent's name before the path of a refused field.
pub(crate) trait Under {
    /// `Invalid` at `a` under `b` is at `b.a`.
    fn under(self, parent: impl Display) -> Self;
}

impl<T> Under for Result<T, Invalid> {
    fn under(self, parent: impl Display) -> Self {
        self.map_err(|error| {
            // `mounts` and `[2]` make `mounts[2]`; what has no name of its own is its parent.
            let dot = if error.path.is_empty() || error.path.starts_with('[') { "" } else { "." };
            Invalid { path: format!("{parent}{dot}{}", error.path), why: error.why }
        })
    }
}

/// Converts each element and names the one that is refused: `[2].container_path`.
pub(crate) fn each<T, U>(
    list: Vec<T>,
    mut convert: impl FnMut(T) -> Result<U, Invalid>,
) -> Result<Vec<U>, Invalid> {
    list.into_iter().enumerate().map(|(i, item)| convert(item).under(format_args!("[{i}]"))).collect()
}
