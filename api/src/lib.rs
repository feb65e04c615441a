//! The CRI v1 wire contract: messages, client and server generated from `proto/cri.proto`.
//!
//! Nothing by hand but that file. This crate must never know what any message means: `rpc` alone does, and
//! it alone depends on this crate (beside the clients in `e2e`).

/// Package `runtime.v1`.
#[allow(missing_docs, deprecated, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// A value of bytes as text in JSON: it is text wherever people wrote it.
fn as_text<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

/// The compiled contract as a serialised `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cri.descriptor"));
