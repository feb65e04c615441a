//! The CRI v1 wire contract: messages, client and server generated from `proto/cri.proto`.
//!
//! Nothing by hand but that file. This crate must never know what any message means: `rpc` alone does, and
//! it alone depends on this crate (beside the clients in `e2e`).

/// Package `runtime.v1`.
#[allow(missing_docs, deprecated, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// The compiled contract as a serialised `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cri.descriptor"));
