//! What can go wrong between a pod and its network, and what each failure means to the caller.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use model::{Classify, ErrorKind, PodId};

/// A CNI command (CNI 1.1.0, "CNI operations").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Connect a container, or add to its connection.
    Add,
    /// Undo an ADD.
    Del,
    /// Is a container's network as it was made?
    Check,
    /// Drop what belongs to no valid attachment.
    Gc,
    /// Could an ADD be served?
    Status,
    /// Which versions of the specification are known?
    Version,
}

impl Command {
    /// The value of CNI_COMMAND.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An operation on a pod's network that failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is no network to attach to.
    #[error("cni plugin not initialized: {why}")]
    NotReady {
        /// Which configuration was looked for, and what was wrong with it.
        why: String,
    },
    /// The request cannot be turned into what CNI takes.
    #[error("{what} of pod {pod:?}")]
    Request {
        /// The pod.
        pod: PodId,
        /// Which part of the request.
        what: &'static str,
        /// Why it cannot.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A plugin of the chain failed.
    #[error("CNI {command} in network {network:?}, plugin {plugin:?}")]
    Plugin {
        /// What it was asked.
        command: Command,
        /// The network's name.
        network: String,
        /// The plugin's type.
        plugin: String,
        /// How it failed.
        #[source]
        source: Box<PluginError>,
    },
    /// Every plugin succeeded and the pod has no address on its interface.
    #[error("CNI ADD in network {network:?} gave no address to interface {interface}")]
    NoAddress {
        /// The network's name.
        network: String,
        /// The interface that should have one.
        interface: &'static str,
    },
    /// An attachment failed, and so did its undoing, which stays owed.
    #[error("undoing a failed attachment of pod {pod:?} failed too ({undo}) and stays owed; the attachment")]
    AndUndo {
        /// The pod.
        pod: PodId,
        /// Why the undoing failed.
        undo: String,
        /// Why the attachment failed.
        #[source]
        first: Box<NetworkError>,
    },
    /// There is no attachment to check.
    #[error("pod {pod:?} is attached to no network")]
    NotAttached {
        /// The pod.
        pod: PodId,
    },
    /// The journal of owed DELs could not be read or written; nothing was done that it does not hold.
    #[error("{attempt} in the network journal")]
    Journal {
        /// What was attempted.
        attempt: &'static str,
        /// What the store said.
        #[source]
        source: store::StoreError,
    },
    /// The recorded configuration of an attachment is not one.
    #[error("network recorded for pod {pod:?}")]
    Record {
        /// The pod.
        pod: PodId,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A call to the host failed.
    #[error("{attempt}")]
    Host {
        /// What it was for.
        attempt: &'static str,
        /// The call.
        #[source]
        source: kernel::SysError,
    },
    /// The configuration template, or what came of it, is not valid.
    #[error("render CNI template {path}")]
    Template {
        /// The template.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A pod CIDR is not one.
    #[error("pod CIDR {0:?} is not an address and a prefix length")]
    PodCidr(String),
    /// The operation was given up because the service is ending.
    #[error("the service is ending")]
    Ending,
}

impl Classify for NetworkError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotReady { .. } | Self::Ending => ErrorKind::NotReady,
            Self::Request { .. } | Self::PodCidr(_) => ErrorKind::Invalid,
            Self::Plugin { source, .. } => source.kind(),
            Self::NoAddress { .. } | Self::Template { .. } => ErrorKind::Internal,
            Self::AndUndo { first, .. } => first.kind(),
            Self::Record { .. } => ErrorKind::Corrupt,
            Self::NotAttached { .. } => ErrorKind::WrongState,
            Self::Journal { source, .. } => source.kind(),
            Self::Host { source, .. } => model::error::io_kind(&source.source),
        }
    }
}

/// How one invocation of a CNI plugin failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// No plugin directory has it.
    #[error("no such plugin in {}", display_paths(.searched))]
    Missing {
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// It could not be started.
    #[error("start {path}")]
    Start {
        /// The plugin.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Talking to it failed.
    #[error("talk to {path}")]
    Talk {
        /// The plugin.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It did not end in time; its process group was killed.
    #[error("killed with its process group after {} s without an end{}", after.as_secs_f32(), said(.stderr))]
    Deadline {
        /// The time it had.
        after: Duration,
        /// What it said on standard error so far.
        stderr: String,
    },
    /// It said why it failed, in the words of CNI's error result.
    #[error("{msg}{} (CNI code {code}){}", detail(.details), said(.stderr))]
    Refused {
        /// Below 100: the specification's; above: the plugin's own.
        code: u64,
        /// What went wrong.
        msg: String,
        /// More of it; may be empty.
        details: String,
        /// What it said on standard error.
        stderr: String,
    },
    /// It failed without an error result.
    #[error("ended with {status} and no CNI error{}{}", printed(.stdout), said(.stderr))]
    Died {
        /// Its exit status or signal.
        status: std::process::ExitStatus,
        /// What it printed instead of an error result.
        stdout: String,
        /// What it said on standard error.
        stderr: String,
    },
    /// It succeeded and printed something that is no result.
    #[error("succeeded but printed no CNI result{}", printed(.stdout))]
    Rubbish {
        /// The beginning of what it printed.
        stdout: String,
        /// What is wrong with it.
        #[source]
        source: crate::result::ResultError,
    },
    /// It printed more than any result needs.
    #[error("printed more than {max} bytes")]
    Flood {
        /// The bound, bytes.
        max: usize,
    },
    /// It knows other versions of the specification than the configuration is written in.
    #[error("{path} knows CNI {known} but the configuration is {wanted}")]
    Version {
        /// The plugin.
        path: PathBuf,
        /// What the configuration allows.
        wanted: String,
        /// What the plugin knows.
        known: String,
    },
}

impl Classify for PluginError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Deadline { .. } => ErrorKind::Deadline,
            // 11: try again later; 50 and 51: the plugin cannot serve ADD now (CNI 1.1.0, "Error").
            Self::Refused { code: 11 | 50 | 51, .. } => ErrorKind::NotReady,
            Self::Start { source, .. } | Self::Talk { source, .. } => model::error::io_kind(source),
            Self::Missing { .. }
            | Self::Refused { .. }
            | Self::Died { .. }
            | Self::Rubbish { .. }
            | Self::Flood { .. }
            | Self::Version { .. } => ErrorKind::Internal,
        }
    }
}

fn display_paths(paths: &[PathBuf]) -> String {
    match paths {
        [] => "an empty list of plugin directories".to_owned(),
        paths => paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "),
    }
}

fn detail(details: &str) -> String {
    if details.is_empty() { String::new() } else { format!(": {details}") }
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; standard error: {stderr}") }
}

fn printed(stdout: &str) -> String {
    if stdout.is_empty() { ", nothing was printed".to_owned() } else { format!(", printed: {stdout}") }
}
