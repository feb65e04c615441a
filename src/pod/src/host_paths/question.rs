//! What can be asked about a path of the host's, and the answers: plain data, and the looking itself.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use kernel::mount;
use serde::{Deserialize, Serialize};

/// Directories of devices are this deep at most.
const DEVICES_DEPTH_MAX: usize = 16;

/// One question.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// Where a path leads.
    Source(PathBuf),
    /// That a directory be there.
    MakeDirectory(PathBuf),
    /// The device of a path, or those below it but for some names.
    Devices { path: PathBuf, except: Vec<String> },
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Source(Source),
    Made,
    Devices(Listed),
    /// The kernel's error number, or none and words.
    Failed {
        errno: Option<i32>,
        text: String,
    },
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    /// Absolute, no symbolic link in what exists of it.
    pub(crate) path: PathBuf,
    /// Whether a part of it does not exist.
    pub(crate) missing: bool,
    /// The mount that holds what exists of it, by the kernel's number.
    pub(crate) mount: Option<u64>,
}

/// What a path has of devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Listed {
    /// It is one.
    Device(Node),
    /// It is a directory; devices by their paths below it, in order.
    Below(Vec<(PathBuf, Node)>),
    /// Neither.
    NoDevice,
}

/// One device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    /// `c` or `b`.
    pub(crate) kind: char,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Question {
    /// Looks, and perhaps never returns.
    pub(super) fn answer(&self) -> io::Result<Answer> {
        match self {
            Self::Source(path) => source(path).map(Answer::Source),
            Self::MakeDirectory(path) => {
                DirBuilder::new().recursive(true).mode(0o755).create(path).map(|()| Answer::Made)
            }
            Self::Devices { path, except } => devices(path, except).map(Answer::Devices),
        }
    }
}

impl Answer {
    /// A failure as it is written.
    pub(super) fn failed(error: &io::Error) -> Self {
        Self::Failed { errno: error.raw_os_error(), text: error.to_string() }
    }

    /// A failure as an error again.
    pub(super) fn into_result(self) -> io::Result<Self> {
        match self {
            Self::Failed { errno: Some(errno), .. } => Err(io::Error::from_raw_os_error(errno)),
            Self::Failed { errno: None, text } => Err(io::Error::new(io::ErrorKind::InvalidInput, text)),
            answer => Ok(answer),
        }
    }
}

/// A path with the symbolic links of what exists of it resolved, and whether the rest does not exist.
fn source(path: &Path) -> io::Result<Source> {
    let mut existing = path;
    loop {
        match existing.canonicalize() {
            Ok(resolved) => {
                let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
                if rest.components().any(|part| part == Component::ParentDir) {
                    let why = "`..` leads out of what does not exist";
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
                }
                let mount = mount::id_of(&resolved).map_err(|error| error.source)?;
                let missing = !rest.as_os_str().is_empty();
                let path = if missing { resolved.join(rest) } else { resolved };
                return Ok(Source { path, missing, mount });
            }
            // A dangling link exists, and nothing can be made in its place.
            Err(e) if e.kind() == io::ErrorKind::NotFound && existing.symlink_metadata().is_err() => {
                existing = existing.parent().ok_or(e)?;
            }
            Err(e) => return Err(e),
        }
    }
}

fn devices(path: &Path, except: &[String]) -> io::Result<Listed> {
    let real = path.canonicalize()?;
    let metadata = fs::metadata(&real)?;
    if metadata.is_dir() {
        let mut found = Vec::new();
        walk(&real, Path::new(""), except, 0, &mut found)?;
        return Ok(Listed::Below(found));
    }
    Ok(node(&metadata).map_or(Listed::NoDevice, Listed::Device))
}

/// Adds every device below `directory`, by name. Symbolic links are not followed; what vanishes while we look was never
/// there.
fn walk(
    directory: &Path,
    below: &Path,
    except: &[String],
    depth: usize,
    found: &mut Vec<(PathBuf, Node)>,
) -> io::Result<()> {
    if depth > DEVICES_DEPTH_MAX {
        return Ok(());
    }
    let mut names =
        fs::read_dir(directory)?.map(|e| e.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    for name in names.into_iter().filter(|name| !except.iter().any(|excepted| name == excepted.as_str())) {
        let (path, relative) = (directory.join(&name), below.join(&name));
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        if metadata.is_dir() {
            // The exceptions are names at the top.
            walk(&path, &relative, &[], depth + 1, found)?;
        } else if let Some(node) = node(&metadata) {
            found.push((relative, node));
        }
    }
    Ok(())
}

fn node(metadata: &Metadata) -> Option<Node> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return None,
    };
    let device = metadata.rdev();
    Some(Node {
        kind,
        major: rustix::fs::major(device),
        minor: rustix::fs::minor(device),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}
