//! The process that looks at paths: one line of JSON a question, one line an answer.

use std::io::{self, BufRead, Read as _, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::question::{Answer, Question};

/// Answers questions until there are no more: what the helper's program does.
///
/// # Errors
/// A question that cannot be read, or an answer that cannot be written.
pub fn serve(questions: impl BufRead, mut answers: impl Write) -> io::Result<()> {
    for line in questions.lines() {
        let question: Question = serde_json::from_str(&line?)?;
        let answer = question.answer().unwrap_or_else(|error| Answer::failed(&error));
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        answers.write_all(&line)?;
        answers.flush()?;
    }
    Ok(())
}

/// A running helper. Dropped, it ends: it has answered everything, and so nothing holds it.
pub(super) struct Helper {
    /// None: it was given up.
    child: Option<Child>,
    questions: ChildStdin,
    answers: ChildStdout,
}

impl Helper {
    pub(super) fn start(program: &Path, arguments: &[String]) -> io::Result<Self> {
        let mut command = kernel::process::command(program);
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(questions), Some(answers)) => Ok(Self { child: Some(child), questions, answers }),
            _ => Err(io::Error::other("a helper without pipes")),
        }
    }

    /// Asks, and waits for the answer as long as `patience`. After an error it is of no more use.
    pub(super) fn ask(&mut self, question: &Question, patience: Duration) -> io::Result<Answer> {
        let mut line = serde_json::to_vec(question)?;
        line.push(b'\n');
        // A path is far shorter than a pipe is deep: this does not wait.
        self.questions.write_all(&line)?;
        let deadline = Instant::now() + patience;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while !answer.ends_with(b"\n") {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut wait = [PollFd::new(&self.answers, PollFlags::IN)];
            let timeout = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(0),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut wait, Some(&timeout)) {
                Ok(0) => {
                    let why = format!(
                        "no answer within {} s: its file system does not respond",
                        patience.as_secs()
                    );
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
                Ok(_) => match self.answers.read(&mut buffer)? {
                    0 => {
                        return Err(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            "the process that looks at paths broke off",
                        ));
                    }
                    count => answer.extend_from_slice(&buffer[..count]),
                },
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(serde_json::from_slice(&answer)?)
    }

    /// Kills one that does not answer, and leaves the wait for its end, which may never come, to a thread that a
    /// signal can end. Until then it counts as `hanging`.
    pub(super) fn give_up(mut self, hanging: &Arc<AtomicUsize>) {
        let Some(mut child) = self.child.take() else { return };
        hanging.fetch_add(1, Ordering::Relaxed);
        let counted = Arc::clone(hanging);
        let _ = child.kill();
        let reap = move || {
            let _ = child.wait();
            counted.fetch_sub(1, Ordering::Relaxed);
        };
        if let Err(error) = std::thread::Builder::new().name("reap-look".to_owned()).spawn(reap) {
            hanging.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(%error, "a process that looks at paths hangs, and nobody waits for it");
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
