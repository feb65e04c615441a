//! The CRI v1 wire contract: messages, client and server generated from `proto/cri.proto`.
//!
//! Nothing by hand but that file. This crate must never know what any message means: `rpc` alone does, and
//! it alone depends on this crate (beside the clients in `e2e`).

/// Package `runtime.v1`.
#[allow(missing_docs, deprecated, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// The services of `v1` as a server has them: an answer that is one list is a [`List`].
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod served {
    include!(concat!(env!("OUT_DIR"), "/served/runtime.v1.rs"));
}

/// An answer that holds a list and nothing else, its items encoded before. To its client it is the message that the
/// contract names, whose one field has the number 1.
#[derive(Clone, PartialEq, prost::Message)]
pub struct List {
    /// Each the bytes of a whole message.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub items: Vec<prost::bytes::Bytes>,
}

/// A value of bytes as text in JSON: it is text wherever people wrote it.
fn as_text<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

/// The compiled contract as a serialised `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cri.descriptor"));
