//! `gantline config default|dump|check|reference`.

use crate::config::reference;
use crate::exit::Exit;
use crate::flags::{Common, ConfigCommand};
use crate::ui;

/// Prints the configuration in the form that was asked for.
pub(crate) fn run(command: &ConfigCommand, common: &Common) -> Exit {
    match command {
        ConfigCommand::Default => ui::print(reference::default_file()),
        ConfigCommand::Reference => ui::print(reference::markdown()),
        ConfigCommand::Dump => match super::load(common) {
            Ok(loaded) => ui::print(reference::dump(&loaded)),
            Err(exit) => return exit,
        },
        ConfigCommand::Check => match super::load(common) {
            Ok(loaded) if loaded.files.is_empty() => ui::print("no file: the defaults apply"),
            Ok(loaded) => {
                let files: Vec<_> = loaded.files.iter().map(|path| path.display().to_string()).collect();
                ui::print(format!("{} ok", files.join(", ")));
            }
            Err(exit) => return exit,
        },
    }
    Exit::Success
}
