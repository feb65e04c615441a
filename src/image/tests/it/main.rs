//! The image room from outside: pulls from faulty and real registries, imports, snapshots, crashes.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests, helpers included")]

mod build;
mod crash;
mod fake;
mod hosts;
mod import;
mod proxy;
mod pull;
mod real;
mod snapshots;
