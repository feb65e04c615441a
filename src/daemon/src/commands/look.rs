//! `gantline look-at-paths`: the service's helper, which a path may hang in its stead.

use std::io;

use crate::exit::Exit;

/// Answers until the service closes the pipe.
pub(crate) fn run() -> Exit {
    match pod::serve_host_paths(io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => Exit::Success,
        // Whoever asked is gone, or is not the service: there is nobody to tell.
        Err(_) => Exit::Failure,
    }
}
