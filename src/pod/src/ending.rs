//! How a running container is ended: its signal, its grace, then everything it has left.

use std::sync::Arc;
use std::time::Duration;

use kernel::cgroup::Group;
use model::{ContainerId, ErrorKind, Signal};
use shim_client::Shim;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::error::{Cause, PodError};
use crate::state::{ContainerPhase, PodView};

/// How long a killed container may take to die before it is said that it does not. A process in an
/// uninterruptible sleep can outlive any signal.
const DEATH_MAX: Duration = Duration::from_secs(20);
/// How long a kill is given before it is sent again.
const KILL_AGAIN: Duration = Duration::from_millis(500);

/// What it takes to end one container.
pub(crate) struct Ending {
    pub(crate) container: ContainerId,
    pub(crate) cgroup: Group,
    pub(crate) signal: Signal,
    pub(crate) shim: Option<Shim>,
    /// Where the driver publishes the exit once it is durable.
    pub(crate) view: watch::Receiver<Arc<PodView>>,
}

impl Ending {
    /// Sends the stop signal, waits until the grace ends, which may be moved nearer meanwhile, then kills.
    /// Returns once the exit is durable.
    ///
    /// # Errors
    /// When the container does not die.
    pub(crate) async fn stop(mut self, mut grace: watch::Receiver<Instant>) -> Result<(), PodError> {
        if *grace.borrow() > Instant::now() {
            if let Some(shim) = &self.shim
                && let Err(error) = shim.kill(&self.container, self.signal, false).await
            {
                // Already dead, or the shim is gone: the kill below finds out.
                warn!(
                    container.id = self.container.as_str(),
                    error = model::chain(&error),
                    "stop signal not sent"
                );
            }
            loop {
                let ends = *grace.borrow_and_update();
                tokio::select! {
                    dead = timeout_at(ends, self.dead()) => match dead {
                        Ok(()) => return Ok(()),
                        Err(_) => break,
                    },
                    Ok(()) = grace.changed() => {}
                }
            }
        }
        self.kill().await
    }

    /// Kills everything that the container has, and returns once its exit is durable.
    ///
    /// # Errors
    /// When it does not die.
    pub(crate) async fn kill(mut self) -> Result<(), PodError> {
        let gives_up = Instant::now() + DEATH_MAX;
        loop {
            let sent = self.kill_all().await;
            if timeout_at(Instant::now() + KILL_AGAIN, self.dead()).await.is_ok() {
                return Ok(());
            }
            if Instant::now() >= gives_up {
                return Err(match sent {
                    Err(error) => error,
                    Ok(()) => PodError::ContainerStep {
                        step: "kill",
                        container: self.container.clone(),
                        source: Cause::host(kernel::SysError::named(
                            "kill",
                            "its processes, which outlive SIGKILL",
                            std::io::Error::from(std::io::ErrorKind::TimedOut),
                        )),
                    },
                });
            }
        }
    }

    async fn kill_all(&self) -> Result<(), PodError> {
        if let Some(shim) = &self.shim {
            match shim.kill(&self.container, Signal::KILL, true).await {
                Ok(()) => return Ok(()),
                Err(error) if model::Classify::kind(&error) == ErrorKind::NotFound => return Ok(()),
                Err(error) => {
                    warn!(
                        container.id = self.container.as_str(),
                        error = model::chain(&error),
                        "kill through the shim"
                    );
                }
            }
        }
        kill_cgroup(&self.container, self.cgroup.clone()).await
    }

    /// Resolves when the driver has published that the container no longer runs.
    async fn dead(&mut self) {
        let container = &self.container;
        let runs = |view: &Arc<PodView>| {
            view.container(container).is_some_and(|container| {
                matches!(container.phase, ContainerPhase::Running { .. } | ContainerPhase::Starting)
            })
        };
        // The channel closes with the driver, which ends only when the pod is gone.
        let _ = self.view.wait_for(|view| !runs(view)).await;
    }
}

/// Kills whatever is in a container's cgroup, without its shim. An absent cgroup is success.
pub(crate) async fn kill_cgroup(container: &ContainerId, cgroup: Group) -> Result<(), PodError> {
    let killed = tokio::task::spawn_blocking(move || cgroup.kill()).await;
    match killed {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(PodError::ContainerStep {
            step: "kill the cgroup",
            container: container.clone(),
            source: Cause::host(error),
        }),
        Err(_) => Err(PodError::Stopping),
    }
}
