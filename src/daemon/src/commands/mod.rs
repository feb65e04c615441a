//! The subcommands: one file each, from flags to an exit status.

pub(crate) mod check;
pub(crate) mod config;
pub(crate) mod look;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod transfer;
pub(crate) mod version;

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
