//! `gantline pull` and `gantline import`: asks the running service, or works on the store itself with
//! `--offline`. Progress on standard error; the ids, one a line, on standard output.

use std::io::Read as _;

use image::{ImageConfig, Images};
use tokio::sync::mpsc;

use crate::admin::api::{Event, ImportBody, PullBody};
use crate::admin::client::{self, AskError};
use crate::app;
use crate::config::Config;
use crate::exit::Exit;
use crate::flags::{Common, Import, Pull};
use crate::jobs;
use crate::lock::{LockError, RootLock};
use crate::progress::Display;
use crate::ui;

/// Credentials on standard input, bytes.
const CREDENTIALS_BYTES_MAX: u64 = 16 * 1024;

/// What is to be done.
enum Task {
    Pull(PullBody),
    Import(ImportBody),
}

/// `gantline pull`.
pub(crate) fn pull(flags: Pull, common: &Common) -> Exit {
    let credentials = match flags.creds {
        Some(text) if text == "-" => {
            let mut text = String::new();
            if let Err(error) = std::io::stdin().take(CREDENTIALS_BYTES_MAX).read_to_string(&mut text) {
                ui::complain(format_args!("read credentials from standard input: {error}"));
                return Exit::Failure;
            }
            Some(text.trim().to_owned())
        }
        given => given,
    };
    // Refused here, it is a mistake on the command line.
    if let Err(error) = flags.reference.parse::<model::ImageRef>() {
        ui::complain(model::chain(&error));
        return Exit::Usage;
    }
    let task = Task::Pull(PullBody { reference: flags.reference, credentials });
    run(task, flags.offline, common)
}

/// `gantline import`.
pub(crate) fn import(flags: Import, common: &Common) -> Exit {
    // The service has another working directory.
    let path = match flags.path.canonicalize() {
        Ok(path) => path,
        Err(error) => {
            ui::complain(format_args!("{}: {error}", flags.path.display()));
            return Exit::Failure;
        }
    };
    run(Task::Import(ImportBody { path, name: flags.name }), flags.offline, common)
}

fn run(task: Task, offline: bool, common: &Common) -> Exit {
    let config = match super::load(common) {
        Ok(loaded) => loaded.config,
        Err(exit) => return exit,
    };
    let (runtime, _lock, images) = match start(&config, offline, common) {
        Ok(started) => started,
        Err(exit) => return exit,
    };
    let display = Display::new(match &task {
        Task::Pull(body) => &body.reference,
        Task::Import(_) => "",
    });
    runtime.block_on(async {
        let (events, received) = mpsc::channel(4);
        let work = async {
            match (task, images) {
                (Task::Pull(body), Some(images)) => jobs::pull(images, body, events).await,
                (Task::Import(body), Some(images)) => jobs::import(images, body, events).await,
                (Task::Pull(body), None) => {
                    return client::post(&config.admin_socket(), "/pull", &body, events).await;
                }
                (Task::Import(body), None) => {
                    return client::post(&config.admin_socket(), "/import", &body, events).await;
                }
            }
            Ok(())
        };
        let (asked, exit) = tokio::join!(work, watch(received, display));
        match asked {
            Ok(()) => exit,
            Err(error) => {
                ui::complain(model::chain(&error));
                if matches!(error, AskError::NotRunning(_)) {
                    ui::complain("without a service, --offline works on the image store directly");
                    Exit::Unavailable
                } else {
                    Exit::Failure
                }
            }
        }
    })
}

type Started = (tokio::runtime::Runtime, Option<RootLock>, Option<Images>);

/// A runtime; with `--offline` also the root's lock and the images in it.
fn start(config: &Config, offline: bool, common: &Common) -> Result<Started, Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        ui::complain(format_args!("start the runtime: {error}"));
        Exit::Host
    })?;
    if !offline {
        return Ok((runtime, None, None));
    }
    // Standard error is for progress: only what matters is logged, unless a flag asks for more.
    let level = common.log_level.clone().unwrap_or_else(|| "warn".to_owned());
    telemetry::init(&telemetry::LogConfig { level, ..config.log_config() }, None).map_err(|error| {
        ui::complain(error);
        Exit::Usage
    })?;
    let lock = RootLock::take(&config.root).map_err(|error| {
        ui::complain(model::chain(&error));
        if matches!(error, LockError::Held { .. }) { Exit::Held } else { Exit::Host }
    })?;
    let images: ImageConfig = app::image_config(config);
    let images = Images::open(images).map_err(|error| {
        ui::complain(model::chain(&error));
        Exit::Host
    })?;
    Ok((runtime, Some(lock), Some(images)))
}

/// Shows what comes, to the end.
async fn watch(mut events: mpsc::Receiver<Event>, mut display: Display) -> Exit {
    while let Some(event) = events.recv().await {
        match event {
            Event::Progress(progress) => display.show(&progress),
            Event::Done { images } => {
                display.clear();
                for image in images {
                    ui::print(
                        format_args!("{}  {}", image.id, image.names.join(", ")).to_string().trim_end(),
                    );
                }
                return Exit::Success;
            }
            Event::Failed { message } => {
                display.clear();
                ui::complain(message);
                return Exit::Failure;
            }
        }
    }
    display.clear();
    // Whoever asked says why there was no end.
    Exit::Failure
}
