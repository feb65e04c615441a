//! Exec and attach over channels: standard streams, terminal sizes, and the status at the end
//! (Kubernetes' remote command protocol, versions 1 to 5).
//!
//! A client that leaves takes its channels along and nothing else: a command without a terminal goes on, its
//! output read and dropped; one with a terminal is hung up on, as by any terminal that goes away (ADR 042).

mod status;
mod terminal;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::ContainerId;
use model::limits::EXEC_SYNC_DRAIN_MAX;
use pod::{ContainerPhase, PodError, Pods, Streams, Wanted};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fd::Fd;
use super::mux::{Channel, Incoming, Outgoing};
use status::Status;
use terminal::Sizes;

/// How long an attached client waits for the exit status once the container's output has ended.
const EXIT_MAX: Duration = Duration::from_secs(5);

/// What a version of the protocol has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Version {
    /// The status is a JSON object; before `v4`, an error is its plain text and success is nothing.
    pub(super) json: bool,
    /// A terminal has a channel for its sizes.
    pub(super) sizes: bool,
}

/// A client's channels, each where it asked for one.
struct Remote {
    stdin: Option<Incoming>,
    stdout: Option<Outgoing>,
    stderr: Option<Outgoing>,
    resize: Option<Incoming>,
    error: Outgoing,
}

/// Waits for the channels that the request promised. `None`: they did not come.
async fn collect(
    wanted: Wanted,
    version: Version,
    creation: Duration,
    mut channels: mpsc::Receiver<Channel>,
) -> Option<Remote> {
    let (mut stdin, mut stdout, mut stderr, mut resize, mut error) = (None, None, None, None, None);
    let resizes = wanted.tty && version.sizes;
    let complete = async {
        while error.is_none()
            || stdin.is_some() != wanted.stdin
            || stdout.is_some() != wanted.stdout
            || stderr.is_some() != wanted.stderr
            || resize.is_some() != resizes
        {
            let channel = channels.recv().await?;
            match channel.header("streamtype") {
                "stdin" if wanted.stdin => stdin = Some(channel.incoming),
                "stdout" if wanted.stdout => stdout = Some(channel.outgoing),
                "stderr" if wanted.stderr => stderr = Some(channel.outgoing),
                "resize" if resizes => resize = Some(channel.incoming),
                "error" => error = Some(channel.outgoing),
                other => tracing::debug!(channel = other, "a channel that nobody asked for"),
            }
        }
        Some(())
    };
    let in_time = tokio::time::timeout(creation, complete).await;
    let error = error?;
    match in_time {
        Ok(complete) => complete.map(|()| Remote { stdin, stdout, stderr, resize, error }),
        Err(_) => {
            let why = format!("the channels that were asked for did not come within {creation:?}");
            Status::Failed(why).say(error, version).await;
            None
        }
    }
}

/// This side's ends, each where there is one. A terminal is input and output.
#[derive(Default)]
struct Ends {
    stdin: Option<Arc<Fd>>,
    stdout: Option<Arc<Fd>>,
    stderr: Option<Arc<Fd>>,
    terminal: Option<Arc<Fd>>,
}

impl Ends {
    fn new(streams: Streams) -> io::Result<Self> {
        let own = |fd: Option<_>| fd.map(Fd::new).transpose().map(|fd| fd.map(Arc::new));
        let terminal = own(streams.terminal)?;
        Ok(Self {
            stdin: own(streams.stdin)?.or_else(|| terminal.clone()),
            stdout: own(streams.stdout)?.or_else(|| terminal.clone()),
            stderr: own(streams.stderr)?,
            terminal,
        })
    }
}

/// Runs a command for the client.
pub(super) async fn exec(
    pods: &Pods,
    container: &str,
    command: Vec<String>,
    wanted: Wanted,
    version: Version,
    creation: Duration,
    channels: mpsc::Receiver<Channel>,
) {
    let Some(remote) = collect(wanted, version, creation, channels).await else { return };
    let mut session = match pods.exec(container, command, wanted).await {
        Ok(session) => session,
        Err(error) => return Status::from(&error).say(remote.error, version).await,
    };
    let ends = match Ends::new(std::mem::take(&mut session.streams)) {
        Ok(ends) => ends,
        Err(error) => return Status::Failed(error.to_string()).say(remote.error, version).await,
    };
    let terminal = ends.terminal;
    let resizing = async {
        let mut sizes = Sizes::new(remote.resize);
        while let (Some(terminal), Some((width, height))) = (&terminal, sizes.next().await) {
            if let Err(error) = terminal.resize(width, height) {
                tracing::debug!(%error, "resize a terminal");
            }
        }
    };
    let exited = CancellationToken::new();
    let feed = async {
        tokio::join!(input(remote.stdin, ends.stdin), resizing);
    };
    let outputs = async {
        tokio::join!(
            output(ends.stdout, remote.stdout, Gone::Drain, &exited),
            output(ends.stderr, remote.stderr, Gone::Drain, &exited)
        );
    };
    let ended = tokio::select! {
        ended = until_exit(session.wait(), outputs, feed, &exited) => ended,
        () = remote.error.gone(), if wanted.tty => return,
    };
    let status = match ended {
        Ok(code) => Status::Exited(code),
        Err(error) => Status::from(&error),
    };
    status.say(remote.error, version).await;
}

/// Attaches the client until the container's output ends or it leaves. The status is the container's.
pub(super) async fn attach(
    pods: &Pods,
    container: &str,
    wanted: Wanted,
    version: Version,
    creation: Duration,
    channels: mpsc::Receiver<Channel>,
) {
    let Some(remote) = collect(wanted, version, creation, channels).await else { return };
    let mut attachment = match pods.attach(container, wanted).await {
        Ok(attachment) => attachment,
        Err(error) => return Status::from(&error).say(remote.error, version).await,
    };
    let ends = match Ends::new(std::mem::take(&mut attachment.streams)) {
        Ok(ends) => ends,
        Err(error) => return Status::Failed(error.to_string()).say(remote.error, version).await,
    };
    let resizing = async {
        let mut sizes = Sizes::new(remote.resize);
        while let Some((width, height)) = sizes.next().await {
            if let Err(error) = attachment.resize(width, height).await {
                tracing::debug!(error = model::chain(&error), "resize a terminal");
            }
        }
        // Neither this nor the end of what is typed is the end of an attachment with output.
        std::future::pending::<()>().await;
    };
    let has_output = wanted.stdout || wanted.stderr;
    let typing = async {
        input(remote.stdin, ends.stdin).await;
        if has_output {
            std::future::pending::<()>().await;
        }
    };
    let never = CancellationToken::new();
    let outputs = async {
        tokio::join!(
            output(ends.stdout, remote.stdout, Gone::Leave, &never),
            output(ends.stderr, remote.stderr, Gone::Leave, &never)
        );
    };
    tokio::select! {
        () = outputs, if has_output => {
            let status = exit_of(pods, container, attachment.container()).await;
            status.say(remote.error, version).await;
        }
        () = typing => Status::Exited(0).say(remote.error, version).await,
        () = resizing => {}
        () = remote.error.gone() => {}
    }
}

/// How a container ended whose output has.
async fn exit_of(pods: &Pods, container: &str, id: &ContainerId) -> Status {
    let mut events = pods.news();
    let exit = async {
        loop {
            match pods.container(container).map(|status| status.phase.clone()) {
                Ok(ContainerPhase::Exited(exit) | ContainerPhase::Removing(Some(exit))) => {
                    return Status::Exited(exit.code);
                }
                Ok(_) => {}
                Err(error) => return Status::from(&error),
            }
            // One that fell behind looks again from now on.
            if events.next().await.is_err() {
                events = pods.news();
                tokio::task::yield_now().await;
            }
        }
    };
    let running = || {
        let why = format!(
            "the output of container {} ended before it did: this client read too slowly and was let go, or \
             the container closed it",
            id.short()
        );
        Status::Failed(why)
    };
    tokio::time::timeout(EXIT_MAX, exit).await.unwrap_or_else(|_| running())
}

/// The exit status, once the output has ended too, or what the command left behind has held it too long.
async fn until_exit(
    exit: impl Future<Output = Result<i32, PodError>>,
    outputs: impl Future<Output = ()>,
    feed: impl Future<Output = ()>,
    exited: &CancellationToken,
) -> Result<i32, PodError> {
    let (mut exit, mut outputs, mut feed) =
        (std::pin::pin!(exit), std::pin::pin!(outputs), std::pin::pin!(feed));
    let (mut drained, mut fed) = (false, false);
    let code = loop {
        tokio::select! {
            code = &mut exit => break code?,
            () = &mut outputs, if !drained => drained = true,
            () = &mut feed, if !fed => fed = true,
        }
    };
    exited.cancel();
    if !drained {
        outputs.await;
    }
    Ok(code)
}

/// From the client to the process. The descriptor is closed at the client's end.
async fn input(from: Option<Incoming>, to: Option<Arc<Fd>>) {
    let (Some(mut from), Some(to)) = (from, to) else { return };
    while let Some(bytes) = from.recv().await {
        if let Err(error) = to.write(&bytes).await {
            // The process reads no more (EPIPE), which is its right.
            tracing::debug!(%error, "standard input");
            return;
        }
    }
}

/// What becomes of output whose client has left.
#[derive(Clone, Copy)]
enum Gone {
    /// It is read and dropped: the process must not wait for ever, nor die of it.
    Drain,
    /// It is left alone: others read it.
    Leave,
}

/// From the process to the client, to the end. Once the process has `exited`, what is held open by what it
/// left behind is waited for no longer than [`EXEC_SYNC_DRAIN_MAX`]; a slow client's time does not count.
async fn output(from: Option<Arc<Fd>>, to: Option<Outgoing>, gone: Gone, exited: &CancellationToken) {
    let (Some(from), Some(to)) = (from, to) else { return };
    let mut to = Some(to);
    from.widen();
    let mut patience = EXEC_SYNC_DRAIN_MAX;
    let mut buffer = Vec::new();
    loop {
        let late = async {
            exited.cancelled().await;
            tokio::time::sleep(patience).await;
        };
        let began = Instant::now();
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = late => {
                tracing::info!("the output of an exec is held open by what it left behind");
                Ok(Bytes::new())
            }
        };
        if exited.is_cancelled() {
            patience = patience.saturating_sub(began.elapsed());
        }
        match read {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => {
                let Some(client) = &to else { continue };
                if client.send(bytes).await.is_err() {
                    match gone {
                        Gone::Drain => to = None,
                        Gone::Leave => return,
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, "read a process's output");
                break;
            }
        }
    }
    if let Some(client) = to {
        client.end().await;
    }
}

#[cfg(test)]
mod tests;
