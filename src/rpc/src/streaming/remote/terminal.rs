//! Terminal sizes, as clients send them: JSON objects, one after the other.

use super::Incoming;

/// A terminal size that is not whole by then is nonsense, bytes.
const SIZE_BYTES_MAX: usize = 1024;

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// The sizes that a client sends.
pub(super) struct Sizes {
    from: Option<Incoming>,
    /// Of an object that is not whole yet.
    pending: Vec<u8>,
}

impl Sizes {
    pub(super) fn new(from: Option<Incoming>) -> Self {
        Self { from, pending: Vec::new() }
    }

    /// The next width and height, in characters; a size of zero is none. `None`: no more come.
    pub(super) async fn next(&mut self) -> Option<(u16, u16)> {
        loop {
            let bytes = self.from.as_mut()?.recv().await?;
            self.pending.extend_from_slice(&bytes);
            let mut parser = serde_json::Deserializer::from_slice(&self.pending).into_iter::<Size>();
            let mut last = None;
            while let Some(Ok(size)) = parser.next() {
                last = Some(size);
            }
            let done = parser.byte_offset();
            self.pending.drain(..done);
            if self.pending.len() > SIZE_BYTES_MAX {
                return None;
            }
            if let Some(Size { width, height }) = last.filter(|size| size.width > 0 && size.height > 0) {
                return Some((width, height));
            }
        }
    }
}
