//! What the shim says of itself: lines in `<dir>/shim.log`, few and never in a loop's usual path.

use std::fmt;
use std::io::Write as _;

/// One line with its time.
pub(crate) fn note(text: fmt::Arguments<'_>) {
    let mut stamp = Vec::with_capacity(32);
    model::time::rfc3339(kernel::clock::now(), &mut stamp);
    complain(format_args!("{} {text}", String::from_utf8_lossy(&stamp)));
}

/// One line to standard error. Nobody is left to be told when that fails.
pub(crate) fn complain(text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
