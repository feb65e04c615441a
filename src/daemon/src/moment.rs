//! The moment after a service was killed, in which what it held may seem to be held still.
//!
//! Between clone(2) and execve(2) a child has copies of its parent's descriptors, the lock and the listening sockets
//! among them. A SIGKILL of the service does not end the child, which closes them only when its turn to run comes. Who
//! starts the service anew at once must not be refused for that.

use std::time::{Duration, Instant};

/// For how long. A child of that age that has not run yet is on a machine where nothing else would either.
const MOMENT: Duration = Duration::from_secs(1);

const PAUSE: Duration = Duration::from_millis(5);

/// Attempts it again, for a moment, while it fails because something is held. Blocks the thread.
pub(crate) fn outlast<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_held: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let began = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_held(&error) && began.elapsed() < MOMENT => std::thread::sleep(PAUSE),
            ended => return ended,
        }
    }
}
