//! A registry on a bad day: a proxy before the real one that cuts, slows or falsifies what it passes on.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::machine::Machine;
use crate::registry::Registry;

/// What the proxy does to answers of more than [`LARGE`] bytes (layers); smaller ones (manifests, configs)
/// pass.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// None: bytes pass, and are counted.
    None,
    /// The connection ends after so many bytes of an answer, for so many answers; later ones pass.
    CutAfter {
        /// Bytes passed before the cut.
        bytes: usize,
        /// How many answers are cut.
        times: usize,
    },
    /// The connection ends after so many bytes of the first such answer, and from then on nothing is answered
    /// at all.
    GoneAfter {
        /// Bytes passed before the end.
        bytes: usize,
    },
    /// One byte of an answer is another.
    FlipByte {
        /// Which byte of the stream, from its beginning.
        at: usize,
    },
    /// Each piece of 64 KiB waits this long.
    Slow(Duration),
}

/// Answers up to this size are never touched.
pub const LARGE: usize = 200_000;

/// A running proxy; it accepts no more when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    large_answers: Arc<AtomicUsize>,
}

impl Proxy {
    /// Starts a proxy on a free port of the machine's loopback, before its registry.
    #[track_caller]
    pub fn start(machine: &Machine, fault: Fault) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let large_answers = Arc::new(AtomicUsize::new(0));
        let (stopping, counting) = (Arc::clone(&stop), Arc::clone(&large_answers));
        let address = machine.on_its_network(move || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind the proxy");
            let address = listener.local_addr().expect("the proxy's address");
            // Started here, the thread is in the machine's network too, and so are those that it starts.
            std::thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    if stopping.load(Ordering::Relaxed) {
                        return;
                    }
                    let gone =
                        matches!(fault, Fault::GoneAfter { .. }) && counting.load(Ordering::Relaxed) > 0;
                    if gone {
                        continue;
                    }
                    let counting = Arc::clone(&counting);
                    std::thread::spawn(move || serve(client, fault, &counting));
                }
            });
            address
        });
        Self { address, stop, large_answers }
    }

    /// The reference by which a node pulls through the proxy.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// How many answers were larger than [`LARGE`] so far.
    pub fn large_answers(&self) -> usize {
        self.large_answers.load(Ordering::Relaxed)
    }

    /// Stops accepting.
    pub fn stop(&self, machine: &Machine) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the accept.
        let address = self.address;
        let _ = machine.on_its_network(move || TcpStream::connect(address));
    }
}

/// Passes one connection's bytes both ways. The request goes up with `Connection: close`, so that one
/// connection carries one answer and the count of bytes is the answer's.
fn serve(client: TcpStream, fault: Fault, large_answers: &AtomicUsize) -> Option<()> {
    let upstream = TcpStream::connect(Registry::address()).ok()?;
    let head = read_head(&client)?;
    let (mut up, mut down) = (&upstream, &client);
    up.write_all(&closing(&head)).ok()?;
    let mut passed = 0;
    let mut buffer = vec![0; 65_536];
    let mut cut = None;
    loop {
        let count = up.read(&mut buffer).ok()?;
        if count == 0 {
            break;
        }
        let before = passed;
        passed += count;
        if before <= LARGE && passed > LARGE {
            let nth = large_answers.fetch_add(1, Ordering::Relaxed);
            cut = match fault {
                Fault::CutAfter { bytes, times } if nth < times => Some(bytes.max(LARGE)),
                Fault::GoneAfter { bytes } => Some(bytes.max(LARGE)),
                _ => None,
            };
        }
        match fault {
            Fault::FlipByte { at } if (before..passed).contains(&at) && passed > LARGE => {
                buffer[at - before] ^= 1
            }
            Fault::Slow(pause) => std::thread::sleep(pause),
            _ => {}
        }
        if let Some(limit) = cut.filter(|limit| passed > *limit) {
            let _ = down.write_all(&buffer[..count.saturating_sub(passed - limit)]);
            break;
        }
        down.write_all(&buffer[..count]).ok()?;
    }
    let _ = client.shutdown(Shutdown::Both);
    None
}

fn read_head(mut stream: &TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 65_536 || stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(head)
}

fn closing(head: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(head);
    let kept = text.split("\r\n").filter(|line| !line.is_empty());
    let kept = kept.filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let mut lines: Vec<&str> = kept.collect();
    lines.push("Connection: close");
    format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes()
}
