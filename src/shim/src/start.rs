//! From a request to a running container: create, take over, start.

use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use kernel::SysError;
use kernel::clock::now;
use model::ContainerId;
use model::limits::OCI_RUNTIME_MAX;
use wire::{Event, Failure, FailureKind, ReplyBody, RunContainer, Started};

use crate::container::{Container, Phase};
use crate::cri_log::CriLog;
use crate::requests::{Asked, failure};
use crate::runtime::{Call, Purpose, failed, read_pid};
use crate::server::Server;
use crate::stdio::{self, Console};

impl Server {
    pub(crate) fn run_container(&mut self, asked: Asked, spec: RunContainer) -> Result<(), Failure> {
        const STAGE: &str = "run";
        if self.containers.contains_key(&spec.container) {
            let message = format!("container {} is here already", spec.container);
            return Err(failure(STAGE, message, FailureKind::Exists));
        }
        let log = CriLog::open(spec.log.as_ref()).map_err(|e| {
            let path = spec.log.as_ref().map(|log| log.path.display().to_string()).unwrap_or_default();
            failed("open log", &SysError::path("open", path, e))
        })?;
        let mut container = Container::new(spec, asked, log);
        let spec = &container.spec;
        let mut args: Vec<OsString> = match &spec.restore {
            None => vec!["create".into()],
            Some(dump) => {
                let (images, work) = (dump.images.clone().into(), dump.work.clone().into());
                // Into the cgroup that the bundle names, whatever the one was that it was written in.
                let ignore = ["--manage-cgroups-mode".into(), "ignore".into()];
                let mut args = vec!["restore".into(), "--detach".into(), "--image-path".into(), images];
                args.extend(["--work-path".into(), work, "--tcp-established".into(), "--file-locks".into()]);
                args.extend(ignore);
                args
            }
        };
        args.extend(["--bundle".into(), spec.bundle.clone().into()]);
        args.extend(["--pid-file".into(), container.pid_file().into()]);
        let (theirs, stderr) = if spec.stdio.tty {
            let console = Console::listen(&spec.bundle, "console.sock").map_err(|e| failed(STAGE, &e))?;
            args.extend(["--console-socket".into(), console.given().into()]);
            container.console = Some(console);
            let (ours, theirs) = stdio::words().map_err(|e| failed(STAGE, &e))?;
            (theirs, Some(ours))
        } else {
            let (outputs, stdin, theirs) = stdio::pipes(spec.stdio).map_err(|e| failed(STAGE, &e))?;
            container.outputs = outputs;
            if let Some(stdin) = stdin {
                container.set_stdin(stdin);
            }
            (theirs, None)
        };
        args.push(container.id.to_string().into());
        let spec = &container.spec;
        let log = spec.bundle.join("runtime.log");
        // What an earlier attempt said is not this one's.
        let _ = fs::remove_file(&log);
        let allowed = Duration::from_millis(spec.deadline_ms).min(OCI_RUNTIME_MAX);
        let call = Call { runtime: &spec.runtime, log, args, theirs, stderr, allowed };
        let purpose = match spec.restore {
            None => Purpose::Create(container.id.clone()),
            Some(_) => Purpose::Restore(container.id.clone()),
        };
        let (pid, job) = call.start(purpose)?;
        self.jobs.insert(pid, job);
        self.containers.insert(container.id.clone(), container);
        Ok(())
    }

    /// The runtime has created the container: it is taken over, watched, and then let go.
    pub(crate) fn created(&mut self, id: &ContainerId, left: Duration) -> Result<(), Failure> {
        let Some(container) = self.containers.get_mut(id) else { return Ok(()) };
        let pid = read_pid(&container.pid_file())
            .map_err(|message| failure("runtime create", message, FailureKind::Internal))?;
        container.created(&mut self.watch, pid, now())?;
        let (ours, theirs) = stdio::words().map_err(|e| failed("runtime start", &e))?;
        let spec = &container.spec;
        let args = vec!["start".into(), container.id.to_string().into()];
        let log = spec.bundle.join("runtime.log");
        let call = Call { runtime: &spec.runtime, log, args, theirs, stderr: Some(ours), allowed: left };
        let (pid, job) = call.start(Purpose::Start(id.clone()))?;
        self.jobs.insert(pid, job);
        Ok(())
    }

    /// The runtime has restored the container, which runs already.
    pub(crate) fn restored(&mut self, id: &ContainerId) -> Result<(), Failure> {
        let Some(container) = self.containers.get_mut(id) else { return Ok(()) };
        let pid = read_pid(&container.pid_file())
            .map_err(|message| failure("runtime restore", message, FailureKind::Internal))?;
        container.created(&mut self.watch, pid, now())?;
        self.started(id);
        Ok(())
    }

    /// The runtime has let it go: it runs, or has already ended.
    pub(crate) fn started(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let asked = container.asked.take();
        let (started, record) = match std::mem::replace(&mut container.phase, Phase::Creating) {
            Phase::Starting { process, .. } => {
                let started = Started { pid: process.pid(), started_at_ns: now() };
                container.phase = Phase::Running { process, started: started.clone() };
                (started, None)
            }
            Phase::Exited(record) => {
                let started = Started { pid: record.pid, started_at_ns: record.started_at_ns };
                container.phase = Phase::Exited(record.clone());
                (started, Some(record))
            }
            other @ (Phase::Creating | Phase::Running { .. }) => {
                container.phase = other;
                return;
            }
        };
        if let Some(asked) = asked {
            self.answer(asked, Ok(ReplyBody::Started(started)), None);
        }
        if let Some(record) = record {
            self.tell(&Event::Exited { container: id.clone(), record });
        }
    }
}
