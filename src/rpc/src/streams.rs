//! Server streams over a list: the same items as the unary call has, in messages of a bounded size.

use std::pin::Pin;

use futures_util::stream::{self, Stream};
use prost::Message;
use tonic::Status;

/// What one message of a stream holds at most, bytes, unless a single item is larger.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// The first message is small, so that the client sees early that there is a stream.
const FIRST_CHUNK_BYTES_MAX: usize = 16 * 1024;

/// A stream that tonic can send.
pub(crate) type Chunks<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// Each item once, in order, at least one a message. No items are no messages.
pub(crate) fn chunks<T, M>(items: Vec<T>, message: fn(Vec<T>) -> M) -> Chunks<M>
where
    T: Message + 'static,
    M: Send + 'static,
{
    let mut items = items.into_iter().peekable();
    let mut bound = FIRST_CHUNK_BYTES_MAX;
    Box::pin(stream::iter(std::iter::from_fn(move || {
        let mut chunk = vec![items.next()?];
        let mut bytes = chunk[0].encoded_len();
        while let Some(next) = items.next_if(|next| bytes + next.encoded_len() <= bound) {
            bytes += next.encoded_len();
            chunk.push(next);
        }
        bound = CHUNK_BYTES_MAX;
        Some(Ok(message(chunk)))
    })))
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
        let messages: Vec<_> = chunks(ips.clone(), message).map(Result::unwrap).collect().await;
        assert!(messages[0].encoded_len() < 32 * 1024);
        assert!(
            messages.iter().all(|m| !m.additional_ips.is_empty() && m.encoded_len() < 2 * CHUNK_BYTES_MAX)
        );
        assert_eq!(messages.into_iter().flat_map(|m| m.additional_ips).collect::<Vec<_>>(), ips);
        assert_eq!(chunks(Vec::<PodIp>::new(), message).count().await, 0);
        let large = PodIp { ip: "x".repeat(3 * CHUNK_BYTES_MAX) };
        assert_eq!(chunks(vec![large.clone(), large], message).count().await, 2);
    }
}
