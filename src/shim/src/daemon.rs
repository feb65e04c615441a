//! From a service's child to a process of its own.
//!
//! The process that the service started waits until the daemon's socket listens and everything it needs is
//! there, then exits 0: the service needs no polling, and a failure has its words on standard error.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::ExitCode;

use kernel::process::{self, Fork};
use kernel::{SysError, seqpacket};
use model::chain;

use crate::note::{complain, note};
use crate::options::Options;
use crate::server::Server;

const READY: &[u8] = b"ready";

/// Forks the daemon and waits for it to be ready.
pub(crate) fn run(options: &Options) -> ExitCode {
    let forked =
        io::pipe().map_err(|e| SysError::bare("pipe2", e)).and_then(|pipe| Ok((pipe, process::fork()?)));
    match forked {
        Ok(((mut read, write), Fork::Parent(_))) => {
            drop(write);
            let mut said = Vec::new();
            let _ = read.read_to_end(&mut said);
            if said == READY {
                return ExitCode::SUCCESS;
            }
            complain(format_args!("gantline-shim: {}", String::from_utf8_lossy(&said)));
            ExitCode::FAILURE
        }
        Ok(((read, mut write), Fork::Child)) => {
            drop(read);
            let mut server = match prepare(options) {
                Ok(server) => server,
                Err(error) => {
                    let _ = write.write_all(chain(&error).as_bytes());
                    return ExitCode::FAILURE;
                }
            };
            let _ = write.write_all(READY);
            drop(write);
            match server.run() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    note(format_args!("the event loop failed: {}", chain(&error)));
                    ExitCode::FAILURE
                }
            }
        }
        Err(error) => {
            complain(format_args!("gantline-shim: {}", chain(&error)));
            ExitCode::FAILURE
        }
    }
}

fn prepare(options: &Options) -> Result<Server, SysError> {
    process::usual_umask();
    // The pod's directory is the service's to make: where it is gone by now, the pod is, and nothing is left behind.
    fs::read_dir(&options.dir).map_err(|e| SysError::path("open", &options.dir, e))?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&options.exits)
        .map_err(|e| SysError::path("mkdir", &options.exits, e))?;
    // It is executed by a descriptor, whose number would be its name (proc_pid_comm(5)).
    rustix::thread::set_name(c"gantline-shim").map_err(|e| SysError::bare("prctl", e))?;
    rustix::process::setsid().map_err(|e| SysError::bare("setsid", e))?;
    process::become_subreaper()?;
    process::heed_signals();
    // Before anything else forks: a child of pid 1's must not hold the socket.
    let user = options.user_namespace.as_deref();
    let pod_init = options.shared_pid.then(|| process::spawn_pid_init(user, &options.dir)).transpose()?;
    let started = seqpacket::listen(&options.dir.join("shim.sock")).and_then(|listener| {
        redirect_stdio(&options.dir.join("shim.log"))?;
        Server::new(options, listener, pod_init)
    });
    if started.is_err() {
        if let Some(pid) = pod_init {
            let _ = kernel::pidfd::signal(pid, kernel::pidfd::SIGKILL);
        }
        // The pod may have been removed since; what has records stays.
        let _ = fs::remove_dir(&options.exits);
    }
    started
}

/// Standard input from /dev/null, the others into the shim's log: nothing of the service's stays open.
fn redirect_stdio(log: &Path) -> Result<(), SysError> {
    let null = fs::File::open("/dev/null").map_err(|e| SysError::path("open", "/dev/null", e))?;
    let log_file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(log)
        .map_err(|e| SysError::path("open", log, e))?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&log_file))
        .and_then(|()| rustix::stdio::dup2_stderr(&log_file))
        .map_err(|e| SysError::path("dup2", log, e))
}
