//! A group's files, read again and again: each directory is opened once, and so is each file that a reading wanted,
//! because opening a cgroup file costs ten times what reading it does (ADR 115).

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::{CgroupStats, Group, stats};
use crate::SysError;

/// What a file gives at first; it grows for files of many devices.
const BUFFER_BYTES: usize = 8 * 1024;
/// No file of a cgroup is longer, save lists of processes.
const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How much of a group is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// CPU time, memory, swap, pressure and tasks.
    Usage,
    /// And throttling, peaks, failures, block I/O and huge pages.
    Everything,
}

/// What a look at a group gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// What could be read.
    pub stats: CgroupStats,
    /// The first file that is there and could not be read, in words; the rest of `stats` is whole.
    pub failed: Option<String>,
}

/// One group's files.
#[derive(Debug)]
pub struct Reader {
    group: Group,
    keep: bool,
    /// By controller; `None` where it has no hierarchy or the group is not in it.
    directories: HashMap<&'static str, Option<OwnedFd>>,
    files: HashMap<Box<str>, File>,
    /// The page sizes that the group's huge page files are named by.
    page_sizes: Option<Vec<String>>,
    buffer: Vec<u8>,
    failed: Option<SysError>,
}

/// What is known of one file.
#[derive(Debug)]
enum File {
    /// It was read, and will be again.
    Open(OwnedFd),
    /// It is not there, and will not be: files come and go with their group alone.
    Absent,
}

// === impl Reader ===

impl Reader {
    /// A reader of a group that exists. With `keep` the files stay open that readings wanted, about 4 KiB of kernel memory
    /// each: one for CPU time alone, some ten for [`Extent::Usage`], twenty for [`Extent::Everything`]; and their
    /// directories. Without it nothing stays open between two readings.
    pub fn new(group: Group, keep: bool) -> Self {
        Self {
            group,
            keep,
            directories: HashMap::new(),
            files: HashMap::new(),
            page_sizes: None,
            buffer: Vec::new(),
            failed: None,
        }
    }

    /// What the group has used; `None`: there is no such group any more, and the reader is of no use.
    pub fn read(&mut self, extent: Extent) -> Option<Reading> {
        let stats = stats::read(self, extent);
        self.let_go();
        let failed = self.failed.take().map(|error| format!("{error}: {}", error.source));
        // Every group has its CPU time, and a v1 group of one hierarchy only has no more than its tasks.
        if stats.cpu.usage_ns.is_none() && stats.pids.is_none() && failed.is_none() {
            return None;
        }
        Some(Reading { stats, failed })
    }

    /// The group's CPU time alone, nanoseconds: what a sampler wants.
    pub fn cpu_ns(&mut self) -> Option<u64> {
        let cpu = stats::cpu_ns(self);
        self.let_go();
        self.failed = None;
        cpu
    }

    fn let_go(&mut self) {
        if !self.keep {
            self.directories.clear();
        }
    }

    /// The processes of the group and of those below it, at most `most` of them, from one hierarchy.
    ///
    /// # Errors
    /// A list that is there and could not be read.
    pub fn processes(&mut self, most: usize) -> Result<Vec<u32>, SysError> {
        let Some(directory) = self.group.directory("pids").or_else(|| self.group.directory("memory")) else {
            return Ok(Vec::new());
        };
        let mut pids = Vec::new();
        collect(&directory, most, &mut pids)?;
        Ok(pids)
    }

    pub(super) fn group(&self) -> &Group {
        &self.group
    }

    /// The page sizes that huge page files are named by; `suffix` is that of the file that tells the usage.
    pub(super) fn page_sizes(&mut self, suffix: &str) -> Vec<String> {
        if self.page_sizes.is_none() {
            let entries = self.group.directory("hugetlb").map(std::fs::read_dir);
            let entries = entries.into_iter().flatten().flatten().flatten();
            let mut sizes: Vec<String> = entries
                // hugetlb.2MB.current, but not hugetlb.2MB.rsvd.current
                .filter_map(|entry| {
                    let name = entry.file_name();
                    let size =
                        name.to_str()?.strip_prefix("hugetlb.")?.strip_suffix(suffix)?.strip_suffix('.')?;
                    (!size.contains('.')).then(|| size.to_owned())
                })
                .collect();
            sizes.sort();
            self.page_sizes = Some(sizes);
        }
        self.page_sizes.clone().unwrap_or_default()
    }

    /// The text of a file, or `None` where it is not there.
    pub(super) fn text(&mut self, controller: &'static str, file: impl AsRef<str>) -> Option<&str> {
        let file = file.as_ref();
        let length = match self.fill(controller, file) {
            Ok(length) => length?,
            Err(error) => {
                let directory = self.group.directory(controller).unwrap_or_default();
                let error = SysError::path("read", directory.join(file), error);
                self.failed.get_or_insert(error);
                return None;
            }
        };
        // The kernel writes ASCII.
        std::str::from_utf8(&self.buffer[..length]).ok()
    }

    /// Reads a file into the buffer; `None`: it is not there.
    fn fill(&mut self, controller: &'static str, file: &str) -> Result<Option<usize>, Errno> {
        let kept = self.files.get(file);
        let read = match kept {
            Some(File::Absent) => return Ok(None),
            Some(File::Open(open)) => read_whole(open, &mut self.buffer),
            None => {
                let Some(directory) = self.directory(controller)? else { return Ok(None) };
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                match rustix::fs::openat(directory, file, flags, Mode::empty()) {
                    Ok(open) => {
                        let read = read_whole(&open, &mut self.buffer);
                        if self.keep && read.is_ok() {
                            self.files.insert(file.into(), File::Open(open));
                        }
                        read
                    }
                    Err(error) => Err(error),
                }
            }
        };
        match read {
            Ok(length) => Ok(Some(length)),
            // A controller that is switched off says OPNOTSUPP.
            Err(Errno::NOENT | Errno::OPNOTSUPP) => {
                self.files.insert(file.into(), File::Absent);
                Ok(None)
            }
            // The group went away.
            Err(Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn directory(&mut self, controller: &'static str) -> Result<Option<&OwnedFd>, Errno> {
        if !self.directories.contains_key(controller) {
            let opened = self.group.directory(controller).map(|path| open_directory(&path));
            let opened = match opened {
                Some(Ok(directory)) => Some(directory),
                Some(Err(Errno::NOENT)) | None => None,
                Some(Err(error)) => return Err(error),
            };
            self.directories.insert(controller, opened);
        }
        Ok(self.directories.get(controller).and_then(Option::as_ref))
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The whole of a file that gives its content in one read(2) when the buffer is large enough, as all of a cgroup's
/// do that are one record.
fn read_whole(file: &OwnedFd, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
    if buffer.is_empty() {
        buffer.resize(BUFFER_BYTES, 0);
    }
    loop {
        let length = rustix::io::pread(file, buffer.as_mut_slice(), 0)?;
        if length < buffer.len() || buffer.len() >= FILE_BYTES_MAX {
            return Ok(length);
        }
        let larger = buffer.len() * 2;
        buffer.resize(larger, 0);
    }
}

fn collect(directory: &Path, most: usize, pids: &mut Vec<u32>) -> Result<(), SysError> {
    pids.extend(super::pids_in(directory)?);
    // A directory's links are itself, its name and one for each directory in it.
    let childless = rustix::fs::stat(directory).is_ok_and(|stat| stat.st_nlink == 2);
    if !childless {
        for child in super::children(directory)? {
            if pids.len() >= most {
                break;
            }
            collect(&child, most, pids)?;
        }
    }
    pids.truncate(most);
    Ok(())
}
