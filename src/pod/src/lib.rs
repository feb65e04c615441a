//! What a pod and a container are.

pub mod spec;
