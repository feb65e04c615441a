//! Child processes: how they are spawned, bounded by a deadline, and killed with all they started.
