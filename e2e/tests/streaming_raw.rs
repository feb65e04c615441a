//! The streaming server as clients see it that crictl is not: numbered channels of a plain WebSocket, URLs tried twice or
//! guessed, frames that mean no good.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use api::v1;
use e2e::stream::{self, Spdy, WebSocket};
use e2e::{Container, Node, eventually, patient};

/// What must not take long takes less.
const SOON: Duration = Duration::from_secs(15);
const V4: &str = "v4.channel.k8s.io";

fn exec_url(node: &Node, container: &Container<'_>) -> String {
    let request = v1::ExecRequest {
        container_id: container.id.clone(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    node.cri().exec(request).unwrap().url
}

/// The connection of a session at this URL, or the status that refuses it.
fn upgraded(url: &str) -> Result<TcpStream, u16> {
    let client = Spdy::connect(url, V4).map_err(|(status, _)| status)?;
    Ok(client.socket().try_clone().unwrap())
}

#[test]
fn ports_of_the_request_are_numbered_channels_of_a_plain_websocket() {
    let node = Node::start();
    let pod = node.pod("numbered").run();
    let server = pod.container("main").sh("while :; do nc -l -p 7 -e sh -c 'echo hello; cat'; done").start();
    eventually("the server listens", SOON, || {
        // Port 7 and state LISTEN in /proc/net/tcp's numbers (proc_pid_net(5)).
        let listens = server.sh("cat /proc/net/tcp /proc/net/tcp6 | grep -c ':0007 .* 0A ' || true");
        if listens.trim() == "0" { Err(listens) } else { Ok(()) }
    });
    let url = |ports: &[i32]| {
        let request = v1::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: ports.to_vec() };
        node.cri().port_forward(request).unwrap().url
    };
    // RFC 6455's own example, 1.3.
    let (to, path) = stream::split(&url(&[9]));
    node.machine.on_its_network(|| {
        let mut plain = TcpStream::connect(to).unwrap();
        plain.set_read_timeout(Some(patient(SOON))).unwrap();
        let head = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io";
        write!(plain, "GET {path} HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n").unwrap();
        let answer = stream::head(&mut plain).unwrap().to_ascii_lowercase();
        assert!(answer.contains("s3pplmbitxaq9kygzzhzrbk+xoo=") && answer.contains(V4), "{answer}");
    });
    let url = url(&[7, 9]);
    node.machine.on_its_network(|| {
        let mut client = WebSocket::connect(&url, V4).unwrap();
        let mut message = Vec::new();
        for port in [[0, 7, 0], [1, 7, 0], [2, 9, 0], [3, 9, 0]] {
            client.next(&mut message).unwrap().unwrap();
            assert_eq!(message, port);
        }
        client.send(b"\0abc\n").unwrap();
        let (mut data, mut error) = (Vec::new(), Vec::new());
        while data != b"hello\nabc\n" || error.is_empty() {
            client.next(&mut message).unwrap().unwrap();
            match message.split_first().unwrap() {
                (0, bytes) => data.extend_from_slice(bytes),
                (3, bytes) => error.extend_from_slice(bytes),
                other => panic!("{other:?}"),
            }
        }
        assert!(String::from_utf8(error).unwrap().contains("refused"));
    });
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_url_is_good_once_and_a_guess_is_good_for_nothing() {
    let node = Node::start();
    let (pod, container) = node.busy();
    let url = exec_url(&node, &container);
    let server = url.split("/exec/").next().unwrap();
    node.machine.on_its_network(|| {
        for guess in ["/exec/00000000000000000000000000000000", "/"] {
            assert_eq!(upgraded(&format!("{server}{guess}")).unwrap_err(), 404, "{guess}");
        }
        upgraded(&url).expect("the first to come");
        assert_eq!(upgraded(&url).unwrap_err(), 404, "the second");
    });
    let url = exec_url(&node, &container);
    node.machine.on_its_network(|| {
        assert_eq!(
            upgraded(&url.replace("/exec/", "/attach/")).unwrap_err(),
            404,
            "a token is for one thing"
        );
        assert_eq!(upgraded(&url).unwrap_err(), 404, "which spends it");
    });
    // A container that has ended meanwhile is told of at once.
    container.stop(0);
    let said = node.crictl(&["exec", &container.id, "true"]).fails();
    assert!(said.contains("exited"), "{said}");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn hostile_frames_end_their_connection_and_nothing_else() {
    let node = Node::start();
    let (pod, container) = node.busy();
    let before = node.descriptors();
    let zlib_rubbish = [&[0x80, 3, 0, 1, 0, 0, 0, 20][..], &[0; 10], &[0xde; 10]].concat();
    let huge_control = [&[0x80, 3, 0, 4, 0, 0xff, 0xff, 0xff][..], &[0; 1024]].concat();
    for bytes in [zlib_rubbish, huge_control, vec![0xff; 4096]] {
        let url = exec_url(&node, &container);
        node.machine.on_its_network(|| {
            let mut stream = upgraded(&url).unwrap();
            stream.set_read_timeout(Some(patient(SOON))).unwrap();
            stream.write_all(&bytes).unwrap();
            // The end, or a reset over what was not read; but no waiting.
            let mut answer = Vec::new();
            if let Err(error) = stream.read_to_end(&mut answer) {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it is still open");
            }
        });
    }
    // A flood on which nobody acts and which nobody reads.
    let url = exec_url(&node, &container);
    node.machine.on_its_network(|| {
        let mut stream = upgraded(&url).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
        let window = [0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff];
        let many: Vec<u8> = (0..1000).flat_map(|_| [&ping[..], &window].concat()).collect();
        for _ in 0..300 {
            if stream.write_all(&many).is_err() {
                break;
            }
        }
    });
    let said = node.crictl(&["exec", &container.id, "echo", "unharmed"]).ok();
    assert_eq!(said, "unharmed\n");
    node.leaks_no_descriptor(before);
    pod.remove();
    node.leaves_nothing();
}
