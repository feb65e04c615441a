//! Shims without processes: a thread each that speaks the frames over a socket pair, with seeded faults.
