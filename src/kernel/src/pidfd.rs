//! Processes held by pidfd_open(2), so that a reused pid is never signalled.
