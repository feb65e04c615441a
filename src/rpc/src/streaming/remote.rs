//! Exec and attach over channels: standard streams, terminal sizes, and the status at the end
//! (Kubernetes' remote command protocol, versions 1 to 5).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::limits::EXEC_SYNC_DRAIN_MAX;
use pod::{PodError, Pods, Wanted};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::fd::Fd;
use super::mux::{Channel, Incoming, Outgoing};

/// How long a client may take to open its channels.
const CHANNELS_MAX: Duration = Duration::from_secs(30);
/// A terminal size that is not whole by then is nonsense, bytes.
const SIZE_BYTES_MAX: usize = 1024;

/// Which version of the protocol a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Before `v4`: an error is its plain text, success is nothing.
    Text,
    /// `v4` and later: the status is a JSON object.
    Json,
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
async fn collect(wanted: Wanted, mut channels: mpsc::Receiver<Channel>) -> Option<Remote> {
    let (mut stdin, mut stdout, mut stderr, mut resize, mut error) = (None, None, None, None, None);
    let complete = async {
        // Clients of the first version have no channel for sizes; they are not waited for.
        while error.is_none()
            || stdin.is_some() != wanted.stdin
            || stdout.is_some() != wanted.stdout
            || stderr.is_some() != wanted.stderr
            || resize.is_some() != wanted.tty
        {
            let channel = channels.recv().await?;
            match channel.header("streamtype") {
                "stdin" if wanted.stdin => stdin = Some(channel.incoming),
                "stdout" if wanted.stdout => stdout = Some(channel.outgoing),
                "stderr" if wanted.stderr => stderr = Some(channel.outgoing),
                "resize" if wanted.tty => resize = Some(channel.incoming),
                "error" => error = Some(channel.outgoing),
                other => tracing::debug!(channel = other, "a channel that nobody asked for"),
            }
        }
        Some(())
    };
    tokio::time::timeout(CHANNELS_MAX, complete).await.ok().flatten()?;
    Some(Remote { stdin, stdout, stderr, resize, error: error? })
}

/// Runs a command for the client. The process outlives a client that leaves.
pub(super) async fn exec(
    pods: &Pods,
    container: &str,
    command: Vec<String>,
    wanted: Wanted,
    version: Version,
    channels: mpsc::Receiver<Channel>,
) {
    let Some(remote) = collect(wanted, channels).await else { return };
    let mut session = match pods.exec(container, command, wanted).await {
        Ok(session) => session,
        Err(error) => return finish(remote.error, version, &failure(&error)).await,
    };
    let streams = std::mem::take(&mut session.streams);
    let ends = (|| {
        let terminal = streams.terminal.map(Fd::new).transpose()?.map(Arc::new);
        let own = |fd: Option<_>| fd.map(Fd::new).transpose();
        let (stdin, stdout) = (own(streams.stdin)?.map(Arc::new), own(streams.stdout)?.map(Arc::new));
        Ok::<_, std::io::Error>((
            stdin.or_else(|| terminal.clone()),
            stdout.or_else(|| terminal.clone()),
            own(streams.stderr)?.map(Arc::new),
            terminal,
        ))
    })();
    let (stdin, stdout, stderr, terminal) = match ends {
        Ok(ends) => ends,
        Err(error) => return finish(remote.error, version, &internal(&error.to_string())).await,
    };
    let resize = |width, height| {
        let resized = terminal.as_ref().map(|terminal| terminal.resize(width, height));
        async move {
            if let Some(Err(error)) = resized {
                tracing::debug!(%error, "resize a terminal");
            }
        }
    };
    let feed = async {
        tokio::join!(input(remote.stdin, stdin), sizes(remote.resize, resize));
    };
    let outputs = async {
        tokio::join!(output(stdout, remote.stdout), output(stderr, remote.stderr));
    };
    let ended = tokio::select! {
        ended = until_exit(session.wait(), outputs, feed) => ended,
        () = remote.error.gone() => return,
    };
    let status = match ended {
        Ok(0) => success(),
        Ok(code) => exited(code),
        Err(error) => failure(&error),
    };
    finish(remote.error, version, &status).await;
}

/// Attaches the client until the container's output ends or it leaves.
pub(super) async fn attach(
    pods: &Pods,
    container: &str,
    wanted: Wanted,
    version: Version,
    channels: mpsc::Receiver<Channel>,
) {
    let Some(remote) = collect(wanted, channels).await else { return };
    let mut attachment = match pods.attach(container, wanted).await {
        Ok(attachment) => attachment,
        Err(error) => return finish(remote.error, version, &failure(&error)).await,
    };
    let streams = std::mem::take(&mut attachment.streams);
    let own = |fd: Option<_>| fd.map(Fd::new).transpose().map(|fd| fd.map(Arc::new));
    let (stdin, stdout, stderr) = match (own(streams.stdin), own(streams.stdout), own(streams.stderr)) {
        (Ok(stdin), Ok(stdout), Ok(stderr)) => (stdin, stdout, stderr),
        (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
            return finish(remote.error, version, &internal(&error.to_string())).await;
        }
    };
    let resize = async |width, height| {
        if let Err(error) = attachment.resize(width, height).await {
            tracing::debug!(error = model::chain(&error), "resize a terminal");
        }
    };
    let has_output = stdout.is_some() || stderr.is_some();
    let sizes = sizes(remote.resize, resize);
    let input = input(remote.stdin, stdin);
    let outputs = async {
        tokio::join!(output(stdout, remote.stdout), output(stderr, remote.stderr));
    };
    let whole = async {
        let (mut input, mut sizes) = (std::pin::pin!(input), std::pin::pin!(sizes));
        let (mut fed, mut sized) = (false, false);
        let mut outputs = std::pin::pin!(outputs);
        loop {
            tokio::select! {
                () = &mut outputs, if has_output => return,
                () = &mut input, if !fed => {
                    fed = true;
                    if !has_output {
                        return;
                    }
                }
                () = &mut sizes, if !sized => sized = true,
            }
        }
    };
    tokio::select! {
        () = whole => {}
        () = remote.error.gone() => return,
    }
    finish(remote.error, version, &success()).await;
}

/// The exit status, once the output has ended too, or what the command left behind has held it too long.
async fn until_exit(
    exit: impl Future<Output = Result<i32, PodError>>,
    outputs: impl Future<Output = ()>,
    feed: impl Future<Output = ()>,
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
    if !drained && tokio::time::timeout(EXEC_SYNC_DRAIN_MAX, outputs).await.is_err() {
        tracing::info!("the output of an exec is held open by what it left behind");
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

/// From the process to the client, to the end of either.
async fn output(from: Option<Arc<Fd>>, to: Option<Outgoing>) {
    let (Some(from), Some(to)) = (from, to) else { return };
    loop {
        match from.read().await {
            Ok(bytes) if bytes.is_empty() => return to.end().await,
            Ok(bytes) => {
                if to.send(bytes).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "read a process's output");
                return to.end().await;
            }
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Applies each size that the client sends; one of zero is none.
async fn sizes<F: Future<Output = ()>>(from: Option<Incoming>, mut apply: impl FnMut(u16, u16) -> F) {
    let Some(mut from) = from else { return };
    let mut pending = Vec::new();
    while let Some(bytes) = from.recv().await {
        pending.extend_from_slice(&bytes);
        let mut last = None;
        let mut parser = serde_json::Deserializer::from_slice(&pending).into_iter::<Size>();
        while let Some(Ok(size)) = parser.next() {
            last = Some(size);
        }
        let done = parser.byte_offset();
        pending.drain(..done);
        if pending.len() > SIZE_BYTES_MAX {
            return;
        }
        if let Some(Size { width, height }) = last.filter(|size| size.width > 0 && size.height > 0) {
            apply(width, height).await;
        }
    }
}

/// The last word on the error channel.
async fn finish(error: Outgoing, version: Version, status: &Value) {
    let text = match version {
        Version::Json => status.to_string(),
        Version::Text if status["status"] == "Success" => String::new(),
        Version::Text => status["message"].as_str().unwrap_or_default().to_owned(),
    };
    if !text.is_empty() && error.send(Bytes::from(text)).await.is_err() {
        return;
    }
    error.end().await;
}

/// Kubernetes' `metav1.Status`, the fields that clients read.
fn success() -> Value {
    json!({ "metadata": {}, "status": "Success" })
}

fn exited(code: i32) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

fn failure(error: &PodError) -> Value {
    internal(&model::chain(error))
}

fn internal(message: &str) -> Value {
    json!({ "metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500 })
}

#[cfg(test)]
mod tests;
