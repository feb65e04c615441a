//! A container's standard streams: the ends that it gets and the ends that stay here.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use kernel::SysError;
use kernel::pty::ConsoleSocket;
use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use wire::StdioSpec;

use crate::cri_log::Stream;

/// What a child process gets as descriptors 0, 1 and 2.
#[derive(Debug)]
pub(crate) struct Theirs {
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
}

/// One end of an output that stays here.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) stream: Stream,
    pub(crate) fd: OwnedFd,
    /// Its token in the event loop, once it is watched.
    pub(crate) token: u64,
}

/// What stays here of a container without a terminal, and what it gets.
pub(crate) fn pipes(spec: StdioSpec) -> Result<(Vec<Output>, Option<OwnedFd>, Theirs), SysError> {
    let (out, out_theirs) = output_pipe()?;
    let (err, err_theirs) = output_pipe()?;
    let (stdin, stdin_ours) = if spec.stdin {
        let (theirs, ours) = pipe()?;
        not_blocking(&ours)?;
        (theirs.into(), Some(ours))
    } else {
        (Stdio::null(), None)
    };
    let outputs = vec![
        Output { stream: Stream::Stdout, fd: out, token: 0 },
        Output { stream: Stream::Stderr, fd: err, token: 0 },
    ];
    let theirs = Theirs { stdin, stdout: out_theirs.into(), stderr: err_theirs.into() };
    Ok((outputs, stdin_ours, theirs))
}

/// For a child whose own words matter: its standard error, read here with [`drain`].
pub(crate) fn words() -> Result<(OwnedFd, Theirs), SysError> {
    let (ours, stderr) = output_pipe()?;
    Ok((ours, Theirs { stdin: Stdio::null(), stdout: Stdio::null(), stderr: stderr.into() }))
}

fn pipe() -> Result<(OwnedFd, OwnedFd), SysError> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| SysError::bare("pipe2", e))
}

fn output_pipe() -> Result<(OwnedFd, OwnedFd), SysError> {
    let (read, write) = pipe()?;
    not_blocking(&read)?;
    Ok((read, write))
}

pub(crate) fn not_blocking(fd: impl AsFd) -> Result<(), SysError> {
    rustix::io::ioctl_fionbio(fd, true).map_err(|e| SysError::bare("ioctl FIONBIO", e))
}

/// Read at once from an output or an input, bytes.
const READ_BYTES: usize = 32 * 1024;

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// Nothing any more.
    End,
}

/// Replaces what is in the buffer by what one read brings. Its memory is not touched beyond that: most
/// containers print little, and this process is there once for each pod.
pub(crate) fn read(fd: impl AsFd, buffer: &mut Vec<u8>) -> Got {
    buffer.clear();
    buffer.reserve(READ_BYTES);
    match rustix::io::retry_on_intr(|| rustix::io::read(&fd, spare_capacity(buffer))) {
        Ok(0) => Got::End,
        Ok(n) => Got::Bytes(n),
        Err(rustix::io::Errno::AGAIN) => Got::Nothing,
        // EIO: a terminal whose other side is closed.
        Err(_) => Got::End,
    }
}

/// Everything that waits in a pipe, `limit` bytes at most.
pub(crate) fn drain(fd: OwnedFd, limit: u64) -> String {
    let mut bytes = Vec::new();
    // An error here is the end of what waits.
    let _ = File::from(fd).take(limit).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// A console socket in a bundle, removed when dropped.
#[derive(Debug)]
pub(crate) struct Console {
    socket: ConsoleSocket,
    path: PathBuf,
    /// Keeps the short path alive.
    _dir: OwnedFd,
    short: PathBuf,
}

impl Console {
    pub(crate) fn listen(bundle: &Path, name: &str) -> Result<Self, SysError> {
        let path = bundle.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(SysError::path("unlink", path, e)),
            _ => {}
        }
        let dir = rustix::fs::open(bundle, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| SysError::path("open", bundle, e))?;
        // A bundle's path may be longer than a socket's address can be, and not all runtimes know a way round.
        let short = kernel::seqpacket::through(dir.as_fd()).join(name);
        Ok(Self { socket: ConsoleSocket::listen(&path)?, path, _dir: dir, short })
    }

    /// What the runtime is told.
    pub(crate) fn given(&self) -> &Path {
        &self.short
    }

    /// The terminal's master, once the runtime has succeeded.
    pub(crate) fn receive(&self) -> io::Result<OwnedFd> {
        self.socket.receive()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
