//! Answers that are lists: in one message, or as a stream of the same items in messages of a bounded size.

use std::pin::Pin;

use api::List;
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use model::limits::GRPC_MESSAGE_BYTES_MAX;
use prost::Message;
use tonic::Status;

/// What one message of a stream holds at most, bytes, unless a single item is larger.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// The first message is small, so that the client sees early that there is a stream.
const FIRST_CHUNK_BYTES_MAX: usize = 16 * 1024;

/// A stream that tonic can send.
pub(crate) type Chunks<M = List> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// An item of a list, as it is sent.
pub(crate) fn encoded(item: &impl Message) -> Bytes {
    item.encode_to_vec().into()
}

/// Each item once, in order, at least one a message. No items are no messages. Items are made as the client takes them.
pub(crate) fn chunks(items: impl Iterator<Item = Bytes> + Send + 'static) -> Chunks {
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
        Some(Ok(List { items: chunk }))
    })))
}

/// What an item takes in a message, bytes: itself, its length, and its field's tag, which is one byte.
fn in_message(item: &Bytes) -> usize {
    1 + prost::length_delimiter_len(item.len()) + item.len()
}

/// All items in one message, if clients take one so large.
///
/// # Errors
/// `RESOURCE_EXHAUSTED`, with the name of the call that streams the same items.
pub(crate) fn whole(items: impl Iterator<Item = Bytes>, stream: &'static str) -> Result<List, Status> {
    let list = List { items: items.collect() };
    match list.encoded_len() {
        bytes if bytes > GRPC_MESSAGE_BYTES_MAX => Err(Status::resource_exhausted(format!(
            "the reply has {bytes} bytes, more than the {GRPC_MESSAGE_BYTES_MAX} that a client takes in one message: \
             call {stream}, or ask with a filter"
        ))),
        _ => Ok(list),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn each_item_comes_once_in_messages_of_bounded_size() {
        let items: Vec<Bytes> = (0..10_000).map(|n| format!("{n:0500}").into()).collect();
        let messages: Vec<_> = chunks(items.clone().into_iter()).map(Result::unwrap).collect().await;
        assert!(messages[0].encoded_len() <= FIRST_CHUNK_BYTES_MAX);
        assert!(messages.iter().all(|m| !m.items.is_empty() && m.encoded_len() <= CHUNK_BYTES_MAX));
        assert_eq!(messages.into_iter().flat_map(|m| m.items).collect::<Vec<_>>(), items);
        assert_eq!(chunks(std::iter::empty()).count().await, 0);
        let large = Bytes::from(vec![0; 3 * CHUNK_BYTES_MAX]);
        assert_eq!(chunks([large.clone(), large].into_iter()).count().await, 2);
    }

    #[test]
    fn an_answer_that_is_too_large_names_its_size_and_the_stream() {
        let items = |bytes| std::iter::once(Bytes::from(vec![0; bytes]));
        // One byte for the tag, four for the length.
        let largest = whole(items(GRPC_MESSAGE_BYTES_MAX - 5), "StreamX").unwrap();
        assert_eq!(largest.encoded_len(), GRPC_MESSAGE_BYTES_MAX);
        let refused = whole(items(GRPC_MESSAGE_BYTES_MAX - 4), "StreamX").unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        for word in ["16777217 bytes", "16777216", "StreamX"] {
            assert!(refused.message().contains(word), "{refused}");
        }
    }
}
