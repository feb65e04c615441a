//! Server streams over a list: the same items as the unary call has, in messages of a bounded size.

use std::pin::Pin;

use futures_util::stream::{self, Stream};
use model::limits::GRPC_MESSAGE_BYTES_MAX;
use prost::Message;
use tonic::Status;

/// What one message of a stream holds at most, bytes, unless a single item is larger.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// The first message is small, so that the client sees early that there is a stream.
const FIRST_CHUNK_BYTES_MAX: usize = 16 * 1024;

/// A stream that tonic can send.
pub(crate) type Chunks<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// Each item once, in order, at least one a message. No items are no messages. Items are made as the client takes them.
pub(crate) fn chunks<T, M>(
    items: impl Iterator<Item = T> + Send + 'static,
    message: fn(Vec<T>) -> M,
) -> Chunks<M>
where
    T: Message + 'static,
    M: Send + 'static,
{
    let mut items = items.peekable();
    let mut bound = FIRST_CHUNK_BYTES_MAX;
    Box::pin(stream::iter(std::iter::from_fn(move || {
        let mut chunk = vec![items.next()?];
        let mut bytes = in_message(&chunk[0]);
        while let Some(next) = items.next_if(|next| bytes + in_message(next) <= bound) {
            bytes += in_message(&next);
            chunk.push(next);
        }
        bound = CHUNK_BYTES_MAX;
        Some(Ok(message(chunk)))
    })))
}

/// What an item takes in a message, bytes: itself, its length, and its field's tag, which is one byte everywhere.
fn in_message(item: &impl Message) -> usize {
    let bytes = item.encoded_len();
    1 + prost::length_delimiter_len(bytes) + bytes
}

/// An answer in one message, if clients take one so large.
///
/// # Errors
/// ResourceExhausted, which names the stream that has no such bound.
pub(crate) fn whole<M: Message>(answer: M, stream: &'static str) -> Result<M, Status> {
    match answer.encoded_len() {
        bytes if bytes > GRPC_MESSAGE_BYTES_MAX => Err(Status::resource_exhausted(format!(
            "the reply has {bytes} bytes, more than the {GRPC_MESSAGE_BYTES_MAX} that a client takes in one message: \
             call {stream}, or ask with a filter"
        ))),
        _ => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use api::v1::{PodIp, PodSandboxNetworkStatus};
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn each_item_comes_once_in_messages_of_bounded_size() {
        let ips: Vec<_> = (0..10_000).map(|n| PodIp { ip: format!("{n:0500}") }).collect();
        let message = |additional_ips| PodSandboxNetworkStatus { ip: String::new(), additional_ips };
        let messages: Vec<_> = chunks(ips.clone().into_iter(), message).map(Result::unwrap).collect().await;
        assert!(messages[0].encoded_len() <= FIRST_CHUNK_BYTES_MAX);
        assert!(messages.iter().all(|m| !m.additional_ips.is_empty() && m.encoded_len() <= CHUNK_BYTES_MAX));
        assert_eq!(messages.into_iter().flat_map(|m| m.additional_ips).collect::<Vec<_>>(), ips);
        assert_eq!(chunks(std::iter::empty::<PodIp>(), message).count().await, 0);
        let large = PodIp { ip: "x".repeat(3 * CHUNK_BYTES_MAX) };
        assert_eq!(chunks([large.clone(), large].into_iter(), message).count().await, 2);
    }

    #[test]
    fn an_answer_that_is_too_large_names_its_size_and_the_stream() {
        let answer = |bytes| PodIp { ip: "x".repeat(bytes) };
        // One byte for the tag, four for the length.
        whole(answer(GRPC_MESSAGE_BYTES_MAX - 5), "StreamX").unwrap();
        let refused = whole(answer(GRPC_MESSAGE_BYTES_MAX - 4), "StreamX").unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        for word in ["16777217 bytes", "16777216", "StreamX"] {
            assert!(refused.message().contains(word), "{refused}");
        }
    }
}
