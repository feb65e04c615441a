//! How fast bytes come through a session: a gibibyte each, by clients that do nothing but read.

use std::io::Write as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use api::v1;

use crate::stream::{Frame, GOAWAY, Spdy, WebSocket};
use crate::{Container, Node, Pod};

/// What is carried, bytes.
const SIZE: u64 = 1 << 30;
/// Where the host-network pod's server is.
const PORT: u16 = 7070;
/// A protocol that both services speak.
const REMOTE: &str = "v4.channel.k8s.io";

/// The sessions that are measured, by name.
pub const SESSIONS: [&str; 3] =
    ["exec stdout over SPDY", "exec stdout over WebSocket", "port-forward over SPDY"];

/// Throughputs of one session after the other, MiB/s, in the order of [`SESSIONS`].
pub fn measure(node: &Node) -> Vec<f64> {
    let pod = node.pod("stream").with(host_network).run();
    let container = pod.container("c").idle().start();
    let speeds = node.machine.on_its_network(|| {
        vec![
            speed(|| exec_over_spdy(&exec_url(node, &container))),
            speed(|| exec_over_websocket(&exec_url(node, &container))),
            speed(|| forward_over_spdy(node, &pod)),
        ]
    });
    pod.remove();
    speeds
}

fn host_network(config: &mut v1::PodSandboxConfig) {
    // containerd would set it in the host's own UTS namespace, which runc refuses.
    config.hostname.clear();
    let linux = config.linux.get_or_insert_default();
    let security = linux.security_context.get_or_insert_default();
    let network = v1::NamespaceMode::Node.into();
    security.namespace_options.get_or_insert_default().network = network;
}

fn speed(work: impl FnOnce() -> u64) -> f64 {
    let began = Instant::now();
    let bytes = work();
    assert_eq!(bytes, SIZE, "all of it comes");
    bytes as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64()
}

fn exec_url(node: &Node, container: &Container<'_>) -> String {
    let words = ["dd", "if=/dev/zero", "bs=1M", "count=1024"];
    let request = v1::ExecRequest {
        container_id: container.id.clone(),
        cmd: words.map(str::to_string).to_vec(),
        stdout: true,
        ..Default::default()
    };
    node.cri().exec(request).expect("Exec").url
}

fn exec_over_spdy(url: &str) -> u64 {
    let mut client = Spdy::connect(url, REMOTE).expect("upgrade to SPDY");
    client.open(&[("streamtype", "error")]).expect("open a stream");
    let stdout = client.open(&[("streamtype", "stdout")]).expect("open a stream");
    until_end(&mut client, stdout)
}

fn until_end(client: &mut Spdy, stream: u32) -> u64 {
    let (mut bytes, mut payload) = (0, Vec::new());
    while let Some(frame) = client.next(&mut payload).expect("read a frame") {
        match frame {
            Frame::Data(id, last) if id == stream => {
                bytes += payload.len() as u64;
                if last {
                    break;
                }
            }
            Frame::Control(GOAWAY) => break,
            _ => {}
        }
    }
    bytes
}

fn exec_over_websocket(url: &str) -> u64 {
    let mut client = WebSocket::connect(url, REMOTE).expect("upgrade to WebSocket");
    let (mut bytes, mut message) = (0, Vec::new());
    while client.next(&mut message).expect("read a message").is_some() {
        if message.first() == Some(&1) {
            bytes += message.len() as u64 - 1;
        }
    }
    bytes
}

fn forward_over_spdy(node: &Node, pod: &Pod<'_>) -> u64 {
    let listener = TcpListener::bind(("127.0.0.1", PORT)).expect("listen");
    let request = v1::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![PORT.into()] };
    let url = node.cri().port_forward(request).expect("PortForward").url;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let block = vec![0; 1 << 20];
            for _ in 0..SIZE / block.len() as u64 {
                stream.write_all(&block).expect("serve");
            }
        });
        let mut client = Spdy::connect(&url, "portforward.k8s.io").expect("upgrade to SPDY");
        let port = PORT.to_string();
        let mut open = |kind| {
            let headers = [("streamtype", kind), ("port", port.as_str()), ("requestid", "0")];
            client.open(&headers).expect("open a stream")
        };
        let (_error, data) = (open("error"), open("data"));
        let bytes = until_end(&mut client, data);
        // containerd gives each half a second to end.
        std::thread::sleep(Duration::from_millis(10));
        bytes
    })
}
