//! The CRI service: validate, convert, call, convert back. The only room that knows CRI messages.
//!
//! Start reading at [`serve`] and at `runtime`, where each RPC is one line. `convert` is pure; `layer` is
//! what every request passes; `authority` lets old clients in; `deadline` keeps their time; `streaming` is
//! exec, attach and port-forward over HTTP. This crate must never know how a pod, an image or a network is made: handlers make one call
//! each and keep no state but tokens, and the bytes of what did not change since they last told it.

mod authority;
mod convert;
mod deadline;
mod image;
mod layer;
mod methods;
mod runtime;
mod server;
mod status;
mod streaming;
mod streams;

pub use crate::image::ImageRpc;
pub use layer::Readiness;
pub use runtime::{Condition, Conditions, Handler, Node, NodeError, RuntimeRpc, SetPodCidr};
pub use server::{ServeError, serve};
pub use streaming::{
    AdmitError, ListenError, Streaming, StreamingConfig, StreamingServer, TlsError, TlsFiles, TokensFull,
};
