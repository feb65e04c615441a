//! The image room from outside: pulls from faulty and real registries, imports, snapshots, crashes.

mod build;
mod crash;
mod fake;
mod import;
mod pull;
mod real;
mod snapshots;
