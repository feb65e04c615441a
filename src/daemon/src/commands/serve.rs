//! `gantline serve`: configuration → log → application → run, and the signals meanwhile.

use crate::app::{App, BuildError};
use telemetry::{SettingsError, TraceSettings, Traces};

use crate::config::Config;
use crate::config::layers::{self, Override};
use crate::drain::{Asked, Drain, Signals};
use crate::exit::Exit;
use crate::flags::Common;
use crate::lock::{LockError, RootLock};
use crate::ui;

/// Threads for work that blocks: mounts, stores, extraction. More would only wait for the same disk.
const BLOCKING_THREADS_MAX: usize = 256;
/// How long work that ignores the drain may hold up the process's end; a crash would be no worse for it.
const SHUTDOWN_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// How long a receiver may take for the last traces.
const LAST_TRACES_MAX: std::time::Duration = std::time::Duration::from_secs(2);

/// Serves until a signal.
pub(crate) fn run(common: &Common) -> Exit {
    let config = match super::load(common) {
        Ok(loaded) => loaded.config,
        Err(exit) => return exit,
    };
    let traces = match trace_settings(&config) {
        Ok(traces) => traces,
        Err(error) => {
            ui::complain(error);
            return Exit::Usage;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("gantline")
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            ui::complain(format_args!("start the runtime: {error}"));
            return Exit::Host;
        }
    };
    let traces = match traces.map(|settings| Traces::start(settings, runtime.handle())).transpose() {
        Ok(traces) => traces,
        Err(error) => {
            ui::complain(model::chain(&error));
            return Exit::Host;
        }
    };
    let log = match telemetry::init(&config.log_config(), traces.as_ref()) {
        Ok(log) => log,
        Err(error) => {
            ui::complain(error);
            return Exit::Usage;
        }
    };
    telemetry::log_panics();
    if let Some(traces) = &traces {
        let (endpoint, protocol) = traces.describe();
        tracing::info!(endpoint, protocol, "traces go out");
    }
    let reload = Reload { file: common.config.clone(), overrides: common.overrides(), log };
    let (exit, root) = runtime.block_on(serve(config, reload));
    if let Some(traces) = traces {
        traces.shutdown(LAST_TRACES_MAX);
    }
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    // Only now: what the runtime still did, it may have done there.
    drop(root);
    exit
}

/// What of traces goes where, by the configuration and the environment.
pub(super) fn trace_settings(config: &Config) -> Result<Option<TraceSettings>, SettingsError> {
    TraceSettings::resolve(&config.trace_config(), |name| std::env::var(name).ok())
}

/// The root, where it was had, is given back by the caller.
async fn serve(config: Config, reload: Reload) -> (Exit, Option<RootLock>) {
    // First of all, so that a signal during start-up drains too.
    let mut signals = match Signals::take() {
        Ok(signals) => signals,
        Err(error) => {
            ui::complain(format_args!("take over signals: {error}"));
            return (Exit::Host, None);
        }
    };
    let app = match App::build(config).await {
        Ok(app) => app,
        Err(error) => {
            ui::complain(model::chain(&error));
            let exit = match error {
                BuildError::Lock(LockError::Held { .. }) => Exit::Held,
                _ => Exit::Host,
            };
            return (exit, None);
        }
    };
    let drain = Drain::default();
    let served = app.run(drain.clone());
    tokio::pin!(served);
    loop {
        tokio::select! {
            (ended, root) = &mut served => {
                let exit = match ended {
                    Ok(()) => Exit::Success,
                    Err(error) => {
                        ui::complain(model::chain(&error));
                        Exit::Failure
                    }
                };
                return (exit, Some(root));
            }
            asked = signals.next() => match asked {
                Asked::Stop => drain.begin(),
                Asked::Reload => reload.run(),
            },
        }
    }
}

/// What SIGHUP reads again.
struct Reload {
    file: Option<std::path::PathBuf>,
    overrides: Vec<Override>,
    log: telemetry::LogHandle,
}

impl Reload {
    /// Reads the configuration; of what it says, the log level applies at once. One with faults changes
    /// nothing.
    fn run(&self) {
        let config = match layers::load(self.file.as_deref(), &self.overrides) {
            Ok(loaded) => loaded.config,
            Err(error) => {
                for fault in &error.0 {
                    tracing::error!(error = %fault, "the configuration is not read again");
                }
                return;
            }
        };
        match self.log.set_level(&config.log.level) {
            Ok(()) => {
                tracing::info!(level = config.log.level, "log level read again; all else needs a restart");
            }
            Err(error) => tracing::error!(error = %model::chain(&error), "the log level is not changed"),
        }
    }
}
