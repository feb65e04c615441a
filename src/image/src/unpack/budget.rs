//! How many threads may work at the same time, over all layers of all pulls.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Shares of the machine that unpacking threads take turns with.
#[derive(Debug)]
pub(crate) struct Budget {
    free: Mutex<usize>,
    returned: Condvar,
}

/// One share. Given back when dropped, and lent back while its holder waits for something else.
pub(crate) struct Share(Arc<Budget>);

impl Budget {
    pub(crate) fn new(shares: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::new(shares.max(1)), returned: Condvar::new() })
    }

    /// Waits for a share.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        self.take();
        Share(self.clone())
    }

    fn take(&self) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
    }

    fn give_back(&self) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.returned.notify_one();
    }
}

impl Share {
    /// Runs what waits for somebody else, without the share.
    pub(crate) fn idle<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.0.give_back();
        let result = wait();
        self.0.take();
        result
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.give_back();
    }
}
