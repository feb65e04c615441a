//! One invocation of a CNI plugin: a process in a group of its own, fed and drained at once, bounded in time and
//! in what it may print, and killed with all it started when it exceeds either or nobody waits for it any more.
//!
//! But an ADD that nobody waits for goes on: a host-local that is killed between making the file of an address and writing
//! into it whose it is loses the address for good. [`crate::orphan`] waits for it.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::PluginError;

/// What a plugin may print on standard output, bytes.
const STDOUT_BYTES_MAX: usize = 1024 * 1024;
/// What is kept of a plugin's standard error, bytes.
const STDERR_BYTES_MAX: usize = 16 * 1024;
/// What an error quotes of either, bytes.
const QUOTE_BYTES_MAX: usize = 1024;
/// How long output is awaited after the plugin itself ended: a process it left behind may hold the pipe.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// How long a killed plugin is awaited; one that hangs in the kernel is left to be reaped later.
const REAP_MAX: Duration = Duration::from_secs(2);
/// How often, and how far apart, a start is tried again while the plugin's file is still open for writing.
const BUSY_RETRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// What is ours in the environment and no business of a plugin's.
const WITHHELD: [&str; 5] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS"];
/// Where plugins look for iptables, nft and the like when the service has no PATH.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Looks for a plugin in the directories, in order.
pub(crate) fn find(plugin: &str, bin_dirs: &[PathBuf]) -> Result<PathBuf, PluginError> {
    let found = bin_dirs.iter().map(|dir| dir.join(plugin)).find(|path| path.is_file());
    found.ok_or_else(|| PluginError::Missing { searched: bin_dirs.to_vec() })
}

/// Runs the plugin with these CNI variables and this standard input; returns what it printed.
pub(crate) async fn run(
    path: &Path,
    variables: &[(&str, OsString)],
    input: &[u8],
    deadline: Duration,
) -> Result<Vec<u8>, PluginError> {
    let talk = |source| PluginError::Talk { path: path.to_owned(), source };
    let mut child = spawn(path, variables).await?;
    let group = Group { leader: leader(&child), goes_on: is_add(variables) };
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let mut printed = Vec::new();
    let mut said = Vec::new();
    let ended = {
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A plugin need not read what it does not want: a closed pipe is no failure.
                let _ = stdin.write_all(input).await;
            }
        };
        let exchange = async {
            let (_, out, _) = tokio::join!(
                feed,
                drain(stdout, &mut printed, STDOUT_BYTES_MAX),
                drain(stderr, &mut said, STDERR_BYTES_MAX)
            );
            out
        };
        tokio::pin!(exchange);
        timeout(deadline, async {
            tokio::select! {
                status = child.wait() => {
                    let output = timeout(DRAIN_MAX, &mut exchange).await;
                    status.map(|status| (status, output.unwrap_or(Output::Whole)))
                }
                output = &mut exchange => child.wait().await.map(|status| (status, output)),
            }
        })
        .await
    };
    let Ok(ended) = ended else {
        group.kill();
        let _ = timeout(REAP_MAX, child.wait()).await;
        return Err(PluginError::Deadline { after: deadline, stderr: quote(&said) });
    };
    group.ended();
    let (status, output) = ended.map_err(talk)?;
    if let Output::Cut = output {
        return Err(PluginError::Flood { max: STDOUT_BYTES_MAX });
    }
    if !said.is_empty() {
        tracing::debug!(plugin = %path.display(), stderr = %quote(&said), "a CNI plugin wrote to standard error");
    }
    if status.success() { Ok(printed) } else { Err(failure(status, &printed, &said)) }
}

async fn spawn(path: &Path, variables: &[(&str, OsString)]) -> Result<Child, PluginError> {
    let mut retries = BUSY_RETRIES;
    loop {
        match command(path, variables).spawn() {
            // It is being installed right now.
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy && retries > 0 => {
                retries -= 1;
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            spawned => {
                return spawned.map_err(|source| PluginError::Start { path: path.to_owned(), source });
            }
        }
    }
}

fn command(path: &Path, variables: &[(&str, OsString)]) -> Command {
    let mut command = kernel::process::command(path);
    let inherited = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        !name.starts_with("CNI_") && !WITHHELD.contains(&name.as_ref())
    });
    command
        .env("PATH", PATH_DEFAULT)
        .envs(inherited)
        .envs(variables.iter().map(|(name, value)| (*name, value)))
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Command::from(command)
}

fn is_add(variables: &[(&str, OsString)]) -> bool {
    variables.iter().any(|(name, value)| *name == "CNI_COMMAND" && value == "ADD")
}

fn leader(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
}

/// A plugin's process group, killed when this is dropped before the plugin ended, unless it goes on.
struct Group {
    leader: Option<Pid>,
    goes_on: bool,
}

impl Group {
    /// The plugin was reaped: its number may be another's by now.
    fn ended(mut self) {
        self.leader = None;
    }

    /// Whatever it is at.
    fn kill(mut self) {
        self.goes_on = false;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.leader.filter(|_| !self.goes_on) {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Whether all of a stream was kept.
enum Output {
    Whole,
    Cut,
}

/// Reads a stream to its end and keeps up to `max` bytes of it.
async fn drain(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>, max: usize) -> Output {
    let Some(mut stream) = stream else { return Output::Whole };
    let mut output = Output::Whole;
    let mut chunk = vec![0; 8 * 1024];
    // A failed read is an end: what came before it is judged as it is.
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        let room = max - kept.len();
        if read > room {
            output = Output::Cut;
        }
        kept.extend_from_slice(&chunk[..read.min(room)]);
    }
    output
}

/// CNI's error result (CNI 1.1.0, "Error").
#[derive(Deserialize)]
struct ErrorResult {
    #[serde(default)]
    code: u64,
    msg: String,
    #[serde(default)]
    details: String,
}

fn failure(status: ExitStatus, printed: &[u8], said: &[u8]) -> PluginError {
    match serde_json::from_slice::<ErrorResult>(printed) {
        Ok(ErrorResult { code, msg, details }) if !msg.is_empty() || code != 0 => {
            PluginError::Refused { code, msg, details, stderr: quote(said) }
        }
        _ => PluginError::Died { status, stdout: quote(printed), stderr: quote(said) },
    }
}

/// The end of what a plugin printed, in one line: failures are told last.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = lines.join("; ");
    let cut = line.len().saturating_sub(QUOTE_BYTES_MAX);
    match (cut..line.len()).find(|at| line.is_char_boundary(*at)) {
        Some(at) if at > 0 => format!("…{}", &line[at..]),
        _ => line,
    }
}

#[cfg(test)]
mod tests;
