//! The rules for strings: ids, names, paths, labels.

use std::path::{Component, Path, PathBuf};

use model::StringMap;

use crate::convert::Invalid;

/// A label's key and value together, bytes (as containerd has it).
const LABEL_BYTES_MAX: usize = 4096;
/// A pod's or container's name, a namespace, a uid, bytes.
const NAME_BYTES_MAX: usize = 253;

/// The id, or a prefix of it, that a request must carry. What it names is the pod room's to find.
pub(crate) fn id(field: &'static str, text: String) -> Result<String, Invalid> {
    match text.is_empty() {
        true => Err(Invalid::new(field, "is empty")),
        false => Ok(text),
    }
}

/// A name that becomes part of paths and of CNI's arguments.
pub(super) fn name(field: &'static str, text: String) -> Result<String, Invalid> {
    let why = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > NAME_BYTES_MAX {
        format!("is longer than {NAME_BYTES_MAX} bytes")
    } else if text.chars().any(|c| c == '/' || c == ';' || c.is_control() || c.is_whitespace()) {
        format!("{text:?} holds a slash, a semicolon, white space or a control character")
    } else if text == "." || text == ".." {
        format!("{text:?} is not a name")
    } else {
        return Ok(text);
    };
    Err(Invalid::new(field, why))
}

/// Labels come back as they came; only their size is bounded.
pub(super) fn labels(field: &'static str, labels: StringMap) -> Result<StringMap, Invalid> {
    for (key, value) in &labels {
        if key.is_empty() {
            return Err(Invalid::new(field, "has an empty key"));
        }
        if key.len() + value.len() > LABEL_BYTES_MAX {
            let why = format!("{key:?} and its value are longer than {LABEL_BYTES_MAX} bytes together");
            return Err(Invalid::new(field, why));
        }
    }
    Ok(labels)
}

/// Annotations come back as they came.
pub(super) fn annotations(field: &'static str, annotations: StringMap) -> Result<StringMap, Invalid> {
    match annotations.contains_key("") {
        true => Err(Invalid::new(field, "has an empty key")),
        false => Ok(annotations),
    }
}

/// Text for the kernel: no NUL in it.
pub(super) fn no_nul(field: &str, text: String) -> Result<String, Invalid> {
    match text.contains('\0') {
        true => Err(Invalid::new(field, "holds a NUL")),
        false => Ok(text),
    }
}

/// An absolute path that does not climb.
pub(crate) fn absolute(field: &str, text: String) -> Result<PathBuf, Invalid> {
    let path = climbless(field, text)?;
    match path.is_absolute() {
        true => Ok(path),
        false => Err(Invalid::new(field, format!("{} is not an absolute path", path.display()))),
    }
}

/// A relative path that stays below where it starts; may be empty.
pub(super) fn relative(field: &str, text: String) -> Result<PathBuf, Invalid> {
    let path = climbless(field, text)?;
    match path.is_absolute() {
        true => Err(Invalid::new(field, format!("{} is not a relative path", path.display()))),
        false => Ok(path),
    }
}

fn climbless(field: &str, text: String) -> Result<PathBuf, Invalid> {
    let text = no_nul(field, text)?;
    match Path::new(&text).components().any(|part| part == Component::ParentDir) {
        true => Err(Invalid::new(field, format!("{text} holds \"..\""))),
        false => Ok(PathBuf::from(text)),
    }
}
