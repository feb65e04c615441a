//! fetch → verify → decompress → hash → extract, all at once: whoever has the compressed bytes feeds them
//! in, one thread verifies and decompresses them, another hashes and extracts what comes out.
//!
//! The channels between are short, so that a slow disk slows the fetch and nothing piles up in memory.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc as chunks;

use bytes::{Buf as _, Bytes};
use kernel::SysError;
use model::{Classify, Digest, ErrorKind};
use tokio::sync::mpsc;

use super::budget::{Budget, Share};
use super::codec::Decoder;
use super::extract::{ExtractError, extract};
use crate::hash::Hasher;
use crate::layers::{Ingest, Layers};
use crate::records::LayerRecord;

/// Pieces of compressed bytes that may wait for the decompressor.
const PIECES_MAX: usize = 32;
/// Decompressed chunks that may wait for the extractor, and their size in bytes.
const CHUNKS_MAX: usize = 8;
const CHUNK_BYTES: usize = 128 * 1024;

/// So many bytes are still fetched only to tell damaged ones by their digest.
const DIAGNOSIS_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a layer must turn out to be.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// Of the compressed bytes; a docker-archive does not say.
    pub(crate) digest: Option<Digest>,
    /// Of the compressed bytes.
    pub(crate) size: u64,
    /// Of the tar.
    pub(crate) diff_id: Digest,
}

/// What stopped bytes from becoming a layer directory.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The compressed bytes are not those that the manifest names.
    #[error("verify: the bytes have digest {found}, the manifest says {expected}")]
    Digest {
        /// What the manifest says.
        expected: Digest,
        /// What came.
        found: String,
    },
    /// There are more or fewer of them than the manifest says.
    #[error("verify: {found} bytes came, the manifest says {expected}")]
    Size {
        /// What the manifest says.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// They are not what they are compressed as.
    #[error("decompress")]
    Decompress(#[source] io::Error),
    /// The tar is not the one that the image's configuration names.
    #[error("verify: the unpacked layer has diff id {found}, the image's configuration says {expected}")]
    DiffId {
        /// What the configuration says.
        expected: Digest,
        /// What came.
        found: String,
    },
    /// The tar cannot be unpacked.
    #[error("extract")]
    Extract(#[source] ExtractError),
    /// The directory to unpack into.
    #[error("make the layer's directory")]
    Disk(#[source] SysError),
    /// Whoever fed the bytes stopped before their end.
    #[error("the layer's bytes ended early")]
    Abandoned,
}

impl Classify for UnpackError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Digest { .. } | Self::Size { .. } | Self::DiffId { .. } => ErrorKind::Corrupt,
            Self::Decompress(error) if error.kind() == io::ErrorKind::Unsupported => ErrorKind::Unsupported,
            Self::Decompress(_) => ErrorKind::Corrupt,
            Self::Extract(error) => error.io().map_or(ErrorKind::Invalid, model::error::io_kind),
            Self::Disk(error) => model::error::io_kind(&error.source),
            Self::Abandoned => ErrorKind::Cancelled,
        }
    }
}

/// Where compressed bytes go in. Dropped without [`Feed::end`], the layer is abandoned.
pub(crate) struct Feed(mpsc::Sender<Option<Bytes>>);

impl Feed {
    /// Hands on a piece. False: nobody wants more, and the pipeline's result says why.
    pub(crate) async fn piece(&self, bytes: Bytes) -> bool {
        self.0.send(Some(bytes)).await.is_ok()
    }

    /// As [`Feed::piece`], from a thread that may block.
    pub(crate) fn blocking_piece(&self, bytes: Bytes) -> bool {
        self.0.blocking_send(Some(bytes)).is_ok()
    }

    /// Says that this was all.
    pub(crate) async fn end(self) {
        let _ = self.0.send(None).await;
    }

    /// As [`Feed::end`], from a thread that may block.
    pub(crate) fn blocking_end(self) {
        let _ = self.0.blocking_send(None);
    }
}

/// Starts the threads of one layer. The future ends when both have, and nothing is left on an error.
pub(crate) fn start(
    layers: &Layers,
    budget: &Arc<Budget>,
    expected: Expected,
) -> (Feed, impl Future<Output = Result<(Ingest, LayerRecord), UnpackError>> + Send + use<>) {
    let (feed, pieces) = mpsc::channel(PIECES_MAX);
    let (send_chunk, receive_chunk) = chunks::sync_channel(CHUNKS_MAX);
    let (layers, decoding, extracting) = (layers.clone(), budget.clone(), budget.clone());
    let diff_id = expected.diff_id.clone();
    let decode = tokio::task::spawn_blocking(move || decompress(pieces, &send_chunk, &expected, &decoding));
    let extract = tokio::task::spawn_blocking(move || {
        let ingest = layers.ingest().map_err(UnpackError::Disk)?;
        let record = unpack(&ingest, receive_chunk, &diff_id, &extracting)?;
        Ok((ingest, record))
    });
    let result = async move {
        // Both have ended when this returns, so that an abandoned directory is gone.
        let (decoded, extracted) = (decode.await, extract.await);
        let decoded = decoded.unwrap_or(Err(UnpackError::Abandoned));
        let extracted = extracted.unwrap_or(Err(UnpackError::Abandoned));
        match (decoded, extracted) {
            (Ok(()), extracted) => extracted,
            // The decompressor stopped because the extractor did.
            (Err(UnpackError::Abandoned), Err(why)) => Err(why),
            (Err(why), _) => Err(why),
        }
    };
    (Feed(feed), result)
}

/// The first thread.
fn decompress(
    pieces: mpsc::Receiver<Option<Bytes>>,
    chunks: &chunks::SyncSender<Option<Vec<u8>>>,
    expected: &Expected,
    budget: &Arc<Budget>,
) -> Result<(), UnpackError> {
    let hasher = expected.digest.as_ref().map(Hasher::like);
    let pieces =
        Pieces { pieces, share: budget.share(), piece: Bytes::new(), hasher, count: 0, state: State::Open };
    let mut decoder = Decoder::new(pieces).map_err(|error| match is_lost(&error) {
        true => UnpackError::Abandoned,
        false => UnpackError::Decompress(error),
    })?;
    let mut nobody_listens = false;
    let failed = loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        match fill(&mut decoder, &mut chunk) {
            Ok(0) => break None,
            Ok(length) => chunk.truncate(length),
            Err(error) => break Some(error),
        }
        if share_of(&decoder).idle(|| chunks.send(Some(chunk))).is_err() {
            nobody_listens = true;
            break None;
        }
    };
    let mut pieces = decoder.into_inner();
    // The extractor or the decompressor may have stumbled over damaged bytes: that they are not those of
    // the manifest says more. Unless there is much to come only to find that out.
    let left = expected.size.saturating_sub(pieces.count);
    if nobody_listens && left > DIAGNOSIS_BYTES_MAX {
        return Err(UnpackError::Abandoned);
    }
    if io::copy(&mut pieces, &mut io::sink()).is_err() {
        return Err(UnpackError::Abandoned);
    }
    if pieces.count != expected.size {
        return Err(UnpackError::Size { expected: expected.size, found: pieces.count });
    }
    if let Some((hasher, expected)) = pieces.hasher.take().zip(expected.digest.clone()) {
        let found = hasher.finish();
        if found != expected.as_str() {
            return Err(UnpackError::Digest { expected, found });
        }
    }
    if let Some(error) = failed {
        return Err(UnpackError::Decompress(error));
    }
    if nobody_listens || pieces.share.idle(|| chunks.send(None)).is_err() {
        return Err(UnpackError::Abandoned);
    }
    Ok(())
}

fn share_of(decoder: &Decoder<Pieces>) -> &Share {
    match decoder {
        Decoder::Plain(pieces) => &pieces.share,
        Decoder::Gzip(decoder) => &decoder.get_ref().share,
        Decoder::Zstd(decoder) => &decoder.get_ref().share,
    }
}

/// The second thread.
fn unpack(
    ingest: &Ingest,
    chunks: chunks::Receiver<Option<Vec<u8>>>,
    diff_id: &Digest,
    budget: &Arc<Budget>,
) -> Result<LayerRecord, UnpackError> {
    let stream = Chunks {
        chunks,
        share: budget.share(),
        chunk: Vec::new(),
        at: 0,
        hasher: Hasher::like(diff_id),
        state: State::Open,
    };
    let (record, mut stream) = extract(ingest.path(), stream).map_err(|error| match error.io() {
        Some(io) if is_lost(io) => UnpackError::Abandoned,
        _ => UnpackError::Extract(error),
    })?;
    // What follows the archive's end belongs to the layer's digest.
    io::copy(&mut stream, &mut io::sink()).map_err(|_| UnpackError::Abandoned)?;
    let found = stream.hasher.finish();
    if found != diff_id.as_str() {
        return Err(UnpackError::DiffId { expected: diff_id.clone(), found });
    }
    Ok(record)
}

/// How a stream between threads stands.
#[derive(Clone, Copy)]
enum State {
    Open,
    Ended,
    /// The other side went away without saying that this was all.
    Lost,
}

#[derive(Debug, thiserror::Error)]
#[error("the other end went away")]
struct Lost;

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, Lost)
}

fn is_lost(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Lost>())
}

/// Compressed pieces as a stream that hashes what it hands out.
struct Pieces {
    pieces: mpsc::Receiver<Option<Bytes>>,
    share: Share,
    piece: Bytes,
    hasher: Option<Hasher>,
    count: u64,
    state: State,
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.is_empty() {
            match self.state {
                State::Ended => break,
                State::Lost => return Err(lost()),
                State::Open => {}
            }
            match self.share.idle(|| self.pieces.blocking_recv()) {
                Some(Some(piece)) => {
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&piece);
                    }
                    self.count += piece.len() as u64;
                    self.piece = piece;
                }
                Some(None) => self.state = State::Ended,
                None => self.state = State::Lost,
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, amount: usize) {
        self.piece.advance(amount);
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

/// Decompressed chunks as a stream that hashes what comes in.
struct Chunks {
    chunks: chunks::Receiver<Option<Vec<u8>>>,
    share: Share,
    chunk: Vec<u8>,
    at: usize,
    hasher: Hasher,
    state: State,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            match self.state {
                State::Ended => return Ok(0),
                State::Lost => return Err(lost()),
                State::Open => {}
            }
            match self.share.idle(|| self.chunks.recv()) {
                Ok(Some(chunk)) => {
                    self.hasher.update(&chunk);
                    (self.chunk, self.at) = (chunk, 0);
                }
                Ok(None) => self.state = State::Ended,
                Err(_) => self.state = State::Lost,
            }
        }
        let length = (self.chunk.len() - self.at).min(buffer.len());
        buffer[..length].copy_from_slice(&self.chunk[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// Reads until the buffer is full or the stream ends.
fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
