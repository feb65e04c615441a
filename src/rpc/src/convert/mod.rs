//! Protobuf to model and back: pure functions, the only ones that read or build CRI messages.
//!
//! `request` refuses what can never be right and names the field; `reply` cannot fail.

pub(crate) mod enums;
pub(crate) mod filter;
#[cfg(test)]
pub(crate) mod fixture;
mod invalid;
pub(crate) mod metrics;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod stats;

pub(crate) use invalid::{Invalid, Under};
