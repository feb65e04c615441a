//! The subcommands: one file each, from flags to an exit status.

pub(crate) mod check;
pub(crate) mod config;
pub(crate) mod events;
pub(crate) mod look;
pub(crate) mod migrate;
pub(crate) mod reset;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod top;
pub(crate) mod transfer;
pub(crate) mod version;
pub(crate) mod why;

use std::path::Path;

use crate::admin::client::AskError;
use crate::config::layers::{self, Loaded};
use crate::exit::Exit;
use crate::flags::Common;
use crate::ui;

/// The configuration that applies; everything that is wrong with it is printed otherwise.
pub(crate) fn load(common: &Common) -> Result<Loaded, Exit> {
    layers::load(common.config.as_deref(), &common.overrides()).map_err(|error| {
        for fault in &error.0 {
            ui::complain(fault);
        }
        Exit::Usage
    })
}

/// Asks the running service something on its admin socket; what goes wrong is printed.
pub(crate) fn ask_service<T>(
    common: &Common,
    ask: impl AsyncFnOnce(&Path) -> Result<T, AskError>,
) -> Result<T, Exit> {
    let config = load(common)?.config;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        ui::complain(format_args!("start the runtime: {error}"));
        Exit::Host
    })?;
    runtime.block_on(ask(&config.admin_socket())).map_err(|error| {
        ui::complain(model::chain(&error));
        if matches!(error, AskError::NotRunning(_)) { Exit::Unavailable } else { Exit::Failure }
    })
}
