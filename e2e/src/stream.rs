//! Streaming clients of our own, frame by frame: for what crictl never does, and for measuring a server without its
//! client. They are told a URL and speak plain HTTP, in the caller's network namespace.

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// No read takes longer unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);
/// Read from a socket at once, bytes.
const BUFFER: usize = 256 * 1024;

const SYN_STREAM: u16 = 1;
/// SPDY Draft 3.1, 2.6: control frames that tests look at.
pub const RST_STREAM: u16 = 3;
/// See [`RST_STREAM`].
pub const PING: u16 = 6;
/// See [`RST_STREAM`].
pub const GOAWAY: u16 = 7;
/// See [`RST_STREAM`].
pub const WINDOW_UPDATE: u16 = 9;

/// The address and the path of a URL that a service gave out.
#[track_caller]
pub fn split(url: &str) -> (SocketAddr, String) {
    let rest = url.split_once("://").expect("a URL").1;
    let (address, path) = rest.split_once('/').expect("a URL with a path");
    (address.parse().expect("a URL with an address"), format!("/{path}"))
}

/// Asks for an upgrade; the connection, or the status and the words that refuse it.
pub fn upgrade(to: SocketAddr, path: &str, headers: &str) -> Result<TcpStream, (u16, String)> {
    let fault = |error: io::Error| (0, error.to_string());
    let mut stream = TcpStream::connect(to).map_err(fault)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(fault)?;
    stream.set_nodelay(true).map_err(fault)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n{headers}\r\n\r\n")
        .map_err(fault)?;
    let head = head(&mut stream).map_err(fault)?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    if status == 101 {
        return Ok(stream);
    }
    let length = head.to_ascii_lowercase().lines().find_map(|line| {
        line.strip_prefix("content-length:").and_then(|length| length.trim().parse::<usize>().ok())
    });
    let mut words = vec![0; length.unwrap_or(0)];
    let _ = stream.read_exact(&mut words);
    Err((status, String::from_utf8_lossy(&words).into_owned()))
}

/// The head of an HTTP answer, and nothing of what follows.
pub fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// What a SPDY server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of a stream, which are in the caller's buffer; whether they are the last.
    Data(u32, bool),
    /// A control frame of this type, whose payload is in the caller's buffer.
    Control(u16),
}

/// A SPDY/3.1 client.
#[derive(Debug)]
pub struct Spdy {
    connection: BufReader<TcpStream>,
    compressing: bool,
    last: u32,
}

impl Spdy {
    /// Connects with this protocol, `v4.channel.k8s.io` say.
    pub fn connect(url: &str, protocol: &str) -> Result<Self, (u16, String)> {
        let (to, path) = split(url);
        let stream =
            upgrade(to, &path, &format!("Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}"))?;
        Ok(Self { connection: BufReader::with_capacity(BUFFER, stream), compressing: false, last: 0 })
    }

    /// The connection below.
    pub fn socket(&self) -> &TcpStream {
        self.connection.get_ref()
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.connection.get_mut().write_all(bytes)
    }

    /// Sends a control frame.
    pub fn control(&mut self, kind: u16, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?.to_be_bytes();
        let head = [&[0x80, 3][..], &kind.to_be_bytes(), &[0], &length[1..]].concat();
        self.raw(&[&head, payload].concat())
    }

    /// Opens a stream with these headers.
    pub fn open(&mut self, headers: &[(&str, &str)]) -> io::Result<u32> {
        let id = if self.last == 0 { 1 } else { self.last + 2 };
        self.last = id;
        let be32 = |number: usize| u32::try_from(number).unwrap_or(0).to_be_bytes();
        let mut block = be32(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend(be32(text.len()));
            block.extend(text.as_bytes());
        }
        let mut payload = [&id.to_be_bytes()[..], &[0; 6]].concat();
        if !std::mem::replace(&mut self.compressing, true) {
            // zlib's head (RFC 1950) with the dictionary's id of the specification.
            payload.extend([0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2]);
        }
        // Stored, not compressed; then nothing, which makes a reader give away what it has (RFC 1951, 3.2.4).
        let length = u16::try_from(block.len()).unwrap_or(0);
        payload.push(0);
        payload.extend(length.to_le_bytes());
        payload.extend((!length).to_le_bytes());
        payload.extend(block);
        payload.extend([0, 0, 0, 0xff, 0xff]);
        self.control(SYN_STREAM, &payload)?;
        Ok(id)
    }

    /// Sends bytes of a stream, less than 16 MiB; `last` ends it.
    pub fn data(&mut self, id: u32, bytes: &[u8], last: bool) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?.to_be_bytes();
        let head = [&id.to_be_bytes()[..], &[u8::from(last)], &length[1..]].concat();
        self.raw(&head)?;
        self.raw(bytes)
    }

    /// The next frame; `None` is the connection's end.
    pub fn next(&mut self, payload: &mut Vec<u8>) -> io::Result<Option<Frame>> {
        let mut head = [0; 8];
        match self.connection.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]);
        payload.resize(length as usize, 0);
        self.connection.read_exact(payload)?;
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let control = first >> 31 == 1;
        Ok(Some(match control {
            true => Frame::Control(u16::from_be_bytes([head[2], head[3]])),
            false => Frame::Data(first, head[4] & 1 == 1),
        }))
    }
}

/// A WebSocket client whose channels are numbered.
#[derive(Debug)]
pub struct WebSocket {
    connection: BufReader<TcpStream>,
}

impl WebSocket {
    /// Connects with these protocols.
    pub fn connect(url: &str, protocols: &str) -> Result<Self, (u16, String)> {
        let (to, path) = split(url);
        let headers = format!(
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocols}"
        );
        let stream = upgrade(to, &path, &headers)?;
        Ok(Self { connection: BufReader::with_capacity(BUFFER, stream) })
    }

    /// The connection below.
    pub fn socket(&self) -> &TcpStream {
        self.connection.get_ref()
    }

    /// Sends a binary message of less than 64 KiB, masked with zeros (RFC 6455, 5.3).
    pub fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let length = u16::try_from(message.len()).map_err(io::Error::other)?;
        let mut frame = vec![0x82, 0x80 | 126];
        frame.extend(length.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(message);
        self.connection.get_mut().write_all(&frame)
    }

    /// The next message, its channel's number first; `None` is a close or the connection's end.
    pub fn next(&mut self, message: &mut Vec<u8>) -> io::Result<Option<()>> {
        loop {
            let mut head = [0; 2];
            match self.connection.read_exact(&mut head) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                other => other?,
            }
            let mut length = u64::from(head[1] & 0x7f);
            let more = match length {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            if more > 0 {
                let mut bytes = [0; 8];
                self.connection.read_exact(&mut bytes[8 - more..])?;
                length = u64::from_be_bytes(bytes);
            }
            message.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
            self.connection.read_exact(message)?;
            match head[0] & 0xf {
                8 => return Ok(None),
                1 | 2 => return Ok(Some(())),
                // Pings and pongs.
                _ => {}
            }
        }
    }
}
