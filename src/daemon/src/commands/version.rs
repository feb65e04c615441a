//! `gantline version`.

use crate::exit::Exit;
use crate::flags::Format;
use crate::ui;

/// The version of this binary, which is that of every crate in it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints it.
pub(crate) fn run(format: Format) -> Exit {
    match format {
        Format::Text => ui::print(format!("gantline {VERSION}")),
        Format::Json => ui::print(serde_json::json!({ "name": "gantline", "version": VERSION, "cri": "v1" })),
    }
    Exit::Success
}
