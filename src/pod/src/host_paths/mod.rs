//! Paths of the host's that a request names, looked at where a deadline can give them up.
//!
//! A path may lie on a network file system whose server is gone, or on one of a program that hangs: whoever looks at it
//! waits in the kernel, perhaps for ever, and a thread that waits so keeps its whole process from ending. So a process
//! apart looks, this program under another subcommand, and is killed when it does not answer in time (ADR 096). Paths
//! that no such file system can hold, by the mount table, are looked at here.

mod helper;
mod question;

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kernel::mount::{self, MountInfo};
use kernel::rooted;
use model::limits::{HOST_PATH_MAX, HOST_PATHS_HANGING_MAX};

use helper::Helper;
pub use helper::serve;
use question::{Answer, Question};
pub(crate) use question::{Listed, Node, Source};

/// How this node looks at paths. Clones share the bound on what hangs.
#[derive(Clone)]
pub(crate) struct HostPaths {
    /// The program that looks, and its arguments; `None`: this process, which may hang.
    helper: Option<(PathBuf, Vec<String>)>,
    patience: Duration,
    hanging: Arc<AtomicUsize>,
}

impl HostPaths {
    /// Through a program that runs [`serve`]. Without one this process looks, and nothing gives it up.
    pub(crate) fn new(helper: Option<(PathBuf, Vec<String>)>) -> Self {
        Self { helper, patience: HOST_PATH_MAX, hanging: Arc::default() }
    }

    /// The looks of one request. Blocks as long as its paths may.
    pub(crate) fn look(&self) -> Look<'_> {
        Look { paths: self, table: None, helper: None }
    }
}

/// The looks of one request: one mount table, and at most one helper.
pub(crate) struct Look<'a> {
    paths: &'a HostPaths,
    table: Option<Vec<MountInfo>>,
    helper: Option<Helper>,
}

impl Look<'_> {
    /// Where a path leads, as far as it exists.
    ///
    /// # Errors
    /// What the kernel said; `TimedOut` when it said nothing.
    pub(crate) fn source(&mut self, path: &Path) -> io::Result<Source> {
        if let Some(source) = self.plain(path) {
            return Ok(source);
        }
        match self.ask(Question::Source(path.to_owned()))? {
            Answer::Source(source) => Ok(source),
            _ => Err(other_answer()),
        }
    }

    /// Makes a directory of mode 0755 with its parents. One that is there is success.
    ///
    /// # Errors
    /// As [`Look::source`].
    pub(crate) fn make_directory(&mut self, path: &Path) -> io::Result<()> {
        match self.ask(Question::MakeDirectory(path.to_owned()))? {
            Answer::Made => Ok(()),
            _ => Err(other_answer()),
        }
    }

    /// The device of that path, or the devices below it, without those below that are named in `except`.
    ///
    /// # Errors
    /// As [`Look::source`].
    pub(crate) fn devices(&mut self, path: &Path, except: &[&str]) -> io::Result<Listed> {
        let except = except.iter().map(|name| (*name).to_owned()).collect();
        match self.ask(Question::Devices { path: path.to_owned(), except })? {
            Answer::Devices(listed) => Ok(listed),
            _ => Err(other_answer()),
        }
    }

    /// The mount that holds what [`Look::source`] found.
    ///
    /// # Errors
    /// The mount table could not be read, or the mount is gone again.
    pub(crate) fn mount_of(&mut self, source: &Source) -> io::Result<&MountInfo> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "its mount is gone again");
        let table = self.table()?;
        mount::holding_in(table, &source.path, source.mount).ok_or_else(gone)
    }

    fn table(&mut self) -> io::Result<&[MountInfo]> {
        if self.table.is_none() {
            self.table = Some(mount::table().map_err(|error| error.source)?);
        }
        Ok(self.table.as_deref().unwrap_or_default())
    }

    /// A path that is as it reads: nothing on the way is a link, or of a file system that asks others.
    fn plain(&mut self, path: &Path) -> Option<Source> {
        if path.components().any(|part| !matches!(part, Component::RootDir | Component::Normal(_))) {
            return None;
        }
        let path: PathBuf = path.components().collect();
        if !mount::leading_to(self.table().ok()?, &path).all(MountInfo::is_local) {
            return None;
        }
        let mount = rooted::mount_of_plain(&path).ok()??;
        Some(Source { path, missing: false, mount: Some(mount) })
    }

    fn ask(&mut self, question: Question) -> io::Result<Answer> {
        let paths = self.paths;
        let Some((program, arguments)) = &paths.helper else { return question.answer() };
        let helper = match &mut self.helper {
            Some(helper) => helper,
            none => {
                if paths.hanging.load(Ordering::Relaxed) >= HOST_PATHS_HANGING_MAX {
                    let why = format!(
                        "{HOST_PATHS_HANGING_MAX} others still hang on file systems that do not respond"
                    );
                    return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
                }
                none.insert(Helper::start(program, arguments)?)
            }
        };
        let answer = helper.ask(&question, paths.patience);
        if answer.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut)
            && let Some(helper) = self.helper.take()
        {
            helper.give_up(&paths.hanging);
        }
        answer?.into_result()
    }
}

fn other_answer() -> io::Error {
    io::Error::other("the answer is to another question")
}

#[cfg(test)]
mod tests;
