//! The CDI specifications of this node, read again whenever their files have changed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use model::limits::CDI_SPEC_BYTES_MAX;

use super::file::{ContainerEdits, SpecFile};

/// The specifications in some directories.
pub(crate) struct Registry {
    directories: Vec<PathBuf>,
    read: Mutex<Option<(Vec<Seen>, Arc<Devices>)>>,
}

/// A file as it was when it was read: another one of these is another content.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    /// Its directory's place: later ones are before earlier ones.
    rank: usize,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// What all files together say.
#[derive(Default)]
struct Devices {
    files: Vec<(Seen, SpecFile)>,
    /// By qualified name: file and place in it, of the latest directory that has it.
    by_name: BTreeMap<String, Vec<(usize, usize)>>,
    /// Files that could not be read, and why.
    unread: Vec<String>,
}

impl Registry {
    pub(crate) fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories, read: Mutex::new(None) }
    }

    /// The edits for these devices, in their order; those for all devices of a file once, before its first.
    ///
    /// # Errors
    /// Which device, by its place, and what is wrong with it.
    pub(crate) fn edits(&self, names: &[String]) -> Result<Vec<ContainerEdits>, (usize, String)> {
        let devices = self.devices();
        let mut edits = Vec::new();
        let mut seen = Vec::new();
        for (n, name) in names.iter().enumerate() {
            let (file, device) = devices.find(name).map_err(|why| (n, self.explain(&devices, name, why)))?;
            let (_, spec) = &devices.files[file];
            if !seen.contains(&file) {
                seen.push(file);
                edits.push(spec.container_edits.clone());
            }
            edits.push(spec.devices[device].container_edits.clone());
        }
        Ok(edits)
    }

    fn explain(&self, devices: &Devices, name: &str, conflict: Option<String>) -> String {
        if let Some(conflict) = conflict {
            return format!("{name:?} {conflict}");
        }
        let directories: Vec<String> = self.directories.iter().map(|dir| dir.display().to_string()).collect();
        let unread: String = devices.unread.iter().map(|file| format!("; unreadable is {file}")).collect();
        format!("{name:?} is in no CDI specification in {}{unread}", directories.join(", "))
    }

    fn devices(&self) -> Arc<Devices> {
        let mut unlisted = Vec::new();
        let mut files = Vec::new();
        for (rank, directory) in self.directories.iter().enumerate() {
            match list(directory, rank) {
                Ok(found) => files.extend(found),
                Err(error) => unlisted.push(format!("{}: {error}", directory.display())),
            }
        }
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, devices)) = &*read
            && *seen == files
            && unlisted.is_empty()
        {
            return Arc::clone(devices);
        }
        let mut devices = Devices { unread: unlisted, ..Devices::default() };
        for seen in &files {
            match load(&seen.path) {
                Ok(spec) => devices.files.push((seen.clone(), spec)),
                Err(why) => {
                    tracing::warn!(path = %seen.path.display(), error = why, "a CDI specification is not used");
                    devices.unread.push(format!("{}: {why}", seen.path.display()));
                }
            }
        }
        devices.index();
        let devices = Arc::new(devices);
        *read = Some((files, Arc::clone(&devices)));
        devices
    }
}

impl Devices {
    fn index(&mut self) {
        for (at, (seen, spec)) in self.files.iter().enumerate() {
            for (n, device) in spec.devices.iter().enumerate() {
                let all = self.by_name.entry(format!("{}={}", spec.kind, device.name)).or_default();
                let before = all.first().map_or(seen.rank, |(file, _)| self.files[*file].0.rank);
                if seen.rank > before {
                    all.clear();
                }
                all.push((at, n));
            }
        }
    }

    /// Where a device is described; else why it cannot be said, or nothing where it is unknown.
    fn find(&self, name: &str) -> Result<(usize, usize), Option<String>> {
        match self.by_name.get(name).map(Vec::as_slice) {
            Some([one]) => Ok(*one),
            Some([one, other, ..]) => {
                let path = |at: &(usize, usize)| self.files[at.0].0.path.display().to_string();
                Err(Some(format!("is described by both {} and {}", path(one), path(other))))
            }
            _ => Err(None),
        }
    }
}

/// The specification files of a directory, by name. One that does not exist has none.
fn list(directory: &Path, rank: usize) -> io::Result<Vec<Seen>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if !path.extension().is_some_and(|extension| extension == "json" || extension == "yaml") {
            continue;
        }
        // A link that leads nowhere, or a file that was removed meanwhile.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_file() {
            let (inode, size) = (metadata.ino(), metadata.size());
            files.push(Seen { path, rank, inode, size, changed: (metadata.ctime(), metadata.ctime_nsec()) });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn load(path: &Path) -> Result<SpecFile, String> {
    let read = kernel::rooted::read(Path::new("/"), path, CDI_SPEC_BYTES_MAX);
    let text = read.map_err(|error| model::chain(&error))?.ok_or("it is gone again")?;
    SpecFile::parse(path, &text)
}

#[cfg(test)]
mod tests;
