//! What clients of all ages send as `:authority`, in frames written by hand (traps: h2 resets a stream
//! whose authority is an escaped path).

use api::v1;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::node::start;

const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal header without indexing; its name by number in the static table, or spelt out.
fn header(name: Result<u8, &str>, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    match name {
        // Four bits of prefix hold up to 14.
        Ok(number) if number < 15 => [vec![number], text(value)].concat(),
        Ok(number) => [vec![0x0f, number - 15], text(value)].concat(),
        Err(name) => [vec![0], text(name), text(value)].concat(),
    }
}

/// One Version call on a fresh connection.
async fn version(socket: &std::path::Path, authority: &str) -> Result<v1::VersionResponse, String> {
    let mut connection = UnixStream::connect(socket).await.unwrap();
    let headers = [
        vec![0x83, 0x86], // POST, http
        header(Ok(4), "/runtime.v1.RuntimeService/Version"),
        header(Ok(1), authority),
        header(Ok(31), "application/grpc"),
        header(Err("te"), "trailers"),
    ]
    .concat();
    let message = v1::VersionRequest { version: "0.1.0".into() }.encode_to_vec();
    let body = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
    let sent = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frame(1, 0x4, 1, &headers),
        frame(DATA, 0x1, 1, &body),
    ];
    connection.write_all(&sent.concat()).await.unwrap();
    loop {
        let mut head = [0; 9];
        connection.read_exact(&mut head).await.map_err(|e| e.to_string())?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        connection.read_exact(&mut payload).await.map_err(|e| e.to_string())?;
        match head[3] {
            DATA => return Ok(v1::VersionResponse::decode(&payload[5..]).unwrap()),
            RST_STREAM | GOAWAY => return Err(format!("frame {} {payload:?}", head[3])),
            _ => {}
        }
    }
}

#[tokio::test]
async fn clients_of_all_ages_are_served() {
    let node = start().await;
    for authority in [
        "localhost",
        "%2Frun%2Fgantline%2Fgantline.sock",
        "/run/gantline/gantline.sock",
        "unix:%2F%2F%2Frun%2Fgantline.sock",
        "[::]",
        "127.0.0.1:50051",
    ] {
        let version =
            tokio::time::timeout(std::time::Duration::from_secs(5), version(&node.socket, authority));
        let version = version.await.expect("no answer").unwrap_or_else(|e| panic!("{authority:?}: {e}"));
        assert_eq!(version.runtime_name, "gantline", "{authority:?}");
    }
}
