//! What comes out is what went in, but for the authority; however the bytes are cut.

use tokio::io::AsyncReadExt as _;

use super::*;

const PREFACE_TEXT: &[u8; PREFACE] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

fn plain(prefix: u8, text: &str) -> Vec<u8> {
    [&[prefix, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

/// A few codes of RFC 7541, appendix B.
fn huffman(text: &str) -> Vec<u8> {
    let code = |c| match c {
        '%' => "010101",
        '-' => "010110",
        '.' => "010111",
        '/' => "011000",
        '2' => "00010",
        'F' => "1100010",
        'c' => "00100",
        'k' => "1110101",
        'n' => "101010",
        'o' => "00111",
        'r' => "101100",
        's' => "01000",
        'u' => "101101",
        '~' => "1111111111101",
        other => panic!("no code for {other}"),
    };
    let mut bits: String = text.chars().map(code).collect();
    bits.extend(std::iter::repeat_n('1', bits.len().next_multiple_of(8) - bits.len()));
    let bytes = bits.as_bytes().chunks(8).map(|b| u8::from_str_radix(str::from_utf8(b).unwrap(), 2).unwrap());
    bytes.collect()
}

fn huffman_field(prefix: u8, text: &str) -> Vec<u8> {
    let coded = huffman(text);
    [&[prefix, 0x80 | u8::try_from(coded.len()).unwrap()], &coded[..]].concat()
}

async fn passed(input: &[u8], cut: usize) -> Vec<u8> {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let input = input.to_vec();
    let send = async move {
        for piece in input.chunks(cut) {
            tokio::io::AsyncWriteExt::write_all(&mut client, piece).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let receive = async {
        let mut output = Vec::new();
        Tolerant::new(server).read_to_end(&mut output).await.unwrap();
        output
    };
    tokio::join!(send, receive).1
}

/// In a block of other fields; with each representation, padding and priority.
#[tokio::test]
async fn the_authority_is_mended_in_every_form() {
    let (path, mended) = ("%2Frun/s.sock", "-2Frun-s.sock");
    let name = [&[0x00][..], &plain(10, ":authority")[1..]].concat();
    for (what, field, expected) in [
        ("indexed name, incremental", plain(0x41, path), plain(0x41, mended)),
        ("indexed name, not indexed", plain(0x01, path), plain(0x01, mended)),
        ("indexed name, never indexed", plain(0x11, path), plain(0x11, mended)),
        ("Huffman", huffman_field(0x41, path), huffman_field(0x41, mended)),
        (
            "literal name",
            [&name[..], &plain(0, path)[1..]].concat(),
            [&name[..], &plain(0, mended)[1..]].concat(),
        ),
        ("nothing to mend", plain(0x41, "localhost"), plain(0x41, "localhost")),
        ("a path", plain(0x44, path), plain(0x44, path)),
        ("a path in Huffman", huffman_field(0x04, path), huffman_field(0x04, path)),
        ("long codes", huffman_field(0x41, "~%~~"), huffman_field(0x41, "~-~~")),
    ] {
        let block = |field: &[u8]| {
            [&[0x3f, 0xe1, 0x1f, 0x83, 0x86][..], field, &plain(0x40, "a/%")[..], b"\x01/"].concat()
        };
        let framed = |field: &[u8]| {
            let block = block(field);
            let padded = [&[3_u8][..], &[0, 0, 0, 0, 16], &block, &[0, 0, 0]].concat();
            [
                &PREFACE_TEXT[..],
                &frame(0x4, 0, b"%/%/%/"),
                &frame(HEADERS, 0x4, &block),
                &frame(0x0, 0, &plain(0x41, path)),
                &frame(HEADERS, 0x4 | FLAG_PADDED | FLAG_PRIORITY, &padded),
                &frame(0x0, 1, &[b'%'; 40_000]),
            ]
            .concat()
        };
        for cut in [1, 7, 100_000] {
            assert!(passed(&framed(&field), cut).await == framed(&expected), "{what}, in pieces of {cut}");
        }
    }
}

#[tokio::test]
async fn nonsense_passes_as_it_is() {
    for payload in
        [&b""[..], b"\x41", b"\x41\xff\xff\xff\xff\xff\xff", b"\x41\x7f%%%", b"\x40\x85%/", b"\x1f\xff"]
    {
        for flags in [0, FLAG_PADDED, FLAG_PRIORITY, FLAG_PADDED | FLAG_PRIORITY] {
            let input = [&PREFACE_TEXT[..], &frame(HEADERS, flags, payload), b"\x00\x00\x09\x01"].concat();
            assert_eq!(passed(&input, 5).await, input);
        }
    }
    assert_eq!(passed(b"GET / HTTP/1.1\r\n", 3).await, b"GET / HTTP/1.1\r\n");
}
