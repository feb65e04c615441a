//! Several at once: clients attached to one container, ports, connections and families of a port-forward.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use api::v1;
use e2e::forward::Forward;
use e2e::stream::{Frame, Spdy};
use e2e::{Container, Node, eventually, patient};

/// What must not take long takes less.
const SOON: Duration = Duration::from_secs(15);
const V4: &str = "v4.channel.k8s.io";

fn attach(node: &Node, container: &Container<'_>, stdin: bool) -> Spdy {
    let request =
        v1::AttachRequest { container_id: container.id.clone(), stdin, stdout: true, ..Default::default() };
    let mut client = Spdy::connect(&node.cri().attach(request).unwrap().url, V4).unwrap();
    client.open(&[("streamtype", "error")]).unwrap();
    client.open(&[("streamtype", "stdout")]).unwrap();
    if stdin {
        client.open(&[("streamtype", "stdin")]).unwrap();
    }
    client
}

/// Reads until something came on stdout: then it is attached.
fn attached(client: &mut Spdy) {
    let mut payload = Vec::new();
    while !matches!(client.next(&mut payload).unwrap().expect("a tick"), Frame::Data(3, _)) {}
}

/// What was written after the ticks.
fn after_ticks(mut output: &[u8]) -> &[u8] {
    while let Some(rest) = output.strip_prefix(b"tick\n") {
        output = rest;
    }
    output
}

/// Reads to the end; what came on stdout, and what on the error stream.
fn read_all(client: &mut Spdy) -> (Vec<u8>, String) {
    let (mut output, mut error, mut payload) = (Vec::new(), String::new(), Vec::new());
    while let Some(frame) = client.next(&mut payload).unwrap() {
        match frame {
            Frame::Data(1, _) => error.push_str(std::str::from_utf8(&payload).unwrap()),
            Frame::Data(..) => output.extend_from_slice(&payload),
            Frame::Control(_) => {}
        }
    }
    (output, error)
}

#[test]
fn many_attached_clients_see_every_byte_and_a_deaf_one_holds_up_nobody_for_long() {
    const LINES: usize = 500_000;
    const PIECE: usize = LINES / 5;
    let node = Node::start();
    let pod = node.pod("watched").run();
    // Whoever is attached sees the ticks. With pauses, in which those who read catch up on a busy machine.
    let line = format!(
        "echo before; until read -t 1 go; do echo tick; done; \
         for last in $(seq {PIECE} {PIECE} {LINES}); do seq $((last-{PIECE}+1)) $last; sleep 1; done; \
         echo done > /done; while [ ! -e /end ]; do sleep 0.1; done; exit 3"
    );
    let container = pod.container("main").sh(&line).with(|config| config.stdin = true).start();
    container.logs("before");
    let expected: String = (1..=LINES).map(|number| format!("{number}\n")).collect();
    node.machine.on_its_network(|| {
        // Once it is attached it reads nothing at all; the kernel's buffers and ours fill up.
        let mut deaf = attach(&node, &container, false);
        let mut clients: Vec<Spdy> = (0..4).map(|_| attach(&node, &container, false)).collect();
        let mut typist = attach(&node, &container, true);
        clients.iter_mut().chain([&mut deaf, &mut typist]).for_each(attached);
        let began = Instant::now();
        typist.data(5, b"go\n", false).unwrap();
        std::thread::scope(|scope| {
            let all: Vec<_> = clients
                .iter_mut()
                .chain([&mut typist])
                .map(|client| scope.spawn(|| read_all(client)))
                .collect();
            eventually("the container has written all", Duration::from_secs(60), || {
                let there = container.try_exec(&["test", "-e", "/done"], 10).unwrap().exit_code == 0;
                if there { Ok(()) } else { Err("it has not".to_string()) }
            });
            assert!(
                began.elapsed() < patient(Duration::from_secs(40)),
                "it waited for {:?}",
                began.elapsed()
            );
            container.sh("touch /end");
            for reader in all {
                let (output, error) = reader.join().unwrap();
                // What came before they were attached is not replayed; of what came then, nothing is missing.
                let output = after_ticks(&output);
                assert_eq!(output.len(), expected.len());
                assert!(output == expected.as_bytes());
                assert!(error.contains("exit code: exit status 3"), "{error}");
            }
        });
        // Whoever was let go is told that it was not all.
        let (output, error) = read_all(&mut deaf);
        let output = after_ticks(&output);
        let whole = output == expected.as_bytes() && error.contains("exit status 3");
        let told =
            error.contains("was let go") || (output.len() < expected.len() && error.contains("Failure"));
        assert!(whole || told, "{} bytes, {error}", output.len());
        assert!(expected.as_bytes().starts_with(output));
    });
    assert!(container.log().text().ends_with(&format!("{LINES}\n")));
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn stdin_of_a_container_outlives_its_clients_unless_it_is_for_one() {
    let node = Node::start();
    let pod = node.pod("typed").run();
    for once in [false, true] {
        let builder =
            pod.container(&format!("once-{once}")).sh("while read line; do echo \"<$line>\"; done; exit 4");
        let container = builder.with(|config| (config.stdin, config.stdin_once) = (true, once)).start();
        node.machine.on_its_network(|| {
            for word in ["first", "second"] {
                let mut client = attach(&node, &container, true);
                client.data(5, format!("{word}\n").as_bytes(), true).unwrap();
                container.logs(&format!("<{word}>"));
                if once {
                    let (output, error) = read_all(&mut client);
                    assert_eq!(output, b"<first>\n");
                    assert!(error.contains("exit status 4"), "{error}");
                    return;
                }
            }
        });
        assert_eq!(container.is_running(), !once);
    }
    pod.remove();
    node.leaves_nothing();
}

/// Asks whoever is behind a port for a line.
fn ask(port: u16) -> String {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(b"question\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn several_ports_of_both_families_carry_several_connections_at_once() {
    let node = Node::start();
    let pod = node.pod("ports").run();
    let line = "mkdir /srv && echo four > /srv/f && ip link set lo up 2>/dev/null; \
                httpd -p 127.0.0.1:80 -h /srv; httpd -p '[::1]:81' -h /srv; sleep 1000";
    let container = pod.container("main").sh(line).start();
    container.listens(80);
    container.listens(81);
    for (transport, first) in [("spdy", 10100_u16), ("websocket", 10110)] {
        let ports = [(first, 80), (first + 1, 81)];
        let words = ports.map(|(here, there)| format!("{here}:{there}"));
        let _forward = Forward::start(&node, transport, &pod, &[&words[0], &words[1]]);
        node.machine.on_its_network(|| {
            std::thread::scope(|scope| {
                for (here, _) in [ports, ports, ports, ports].concat() {
                    scope.spawn(move || {
                        let to = SocketAddr::from(([127, 0, 0, 1], here));
                        let answer = e2e::http::request(to, "GET", "/f", "", b"").unwrap();
                        assert_eq!(answer.body, b"four\n", "{transport}: port {here}");
                    });
                }
            });
        });
    }
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn ports_of_a_pod_on_the_hosts_network_are_the_hosts() {
    let node = Node::start();
    let pod = node.pod("host").with(|config| {
        let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        security.namespace_options.get_or_insert_default().network = v1::NamespaceMode::Node.into();
    });
    let pod = pod.run();
    let listener = node.machine.on_its_network(|| TcpListener::bind("127.0.0.1:7071").unwrap());
    let serving = std::thread::spawn(move || {
        for _ in 0..2 {
            let (stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            (&stream).write_all(format!("host: {line}").as_bytes()).unwrap();
        }
    });
    for (transport, port) in [("spdy", 10120_u16), ("websocket", 10121)] {
        let _forward = Forward::start(&node, transport, &pod, &[&format!("{port}:7071")]);
        node.machine.on_its_network(|| assert_eq!(ask(port), "host: question\n", "{transport}"));
    }
    serving.join().unwrap();
    // What nobody listens on is told on the error channel, in words that clients look for.
    let request = v1::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![7072] };
    let url = node.cri().port_forward(request).unwrap().url;
    node.machine.on_its_network(|| {
        let mut client = Spdy::connect(&url, "portforward.k8s.io").unwrap();
        for kind in ["error", "data"] {
            client.open(&[("streamtype", kind), ("port", "7072"), ("requestid", "0")]).unwrap();
        }
        let (mut error, mut payload) = (String::new(), Vec::new());
        while let Some(frame) = client.next(&mut payload).unwrap() {
            if let Frame::Data(1, last) = frame {
                error.push_str(std::str::from_utf8(&payload).unwrap());
                if last {
                    break;
                }
            }
        }
        assert!(error.contains("refused") && error.contains("7072"), "{error}");
    });
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn exec_sync_is_bounded_in_bytes_and_time_and_leaves_no_process() {
    const BOUND: usize = 16 * 1024 * 1024;
    let node = Node::start();
    let pod = node.pod("probed").run();
    let container = pod.container("main").idle().start();
    let said = container.try_exec(&["echo", "clean"], 10).unwrap();
    assert_eq!((&*said.stdout, &*said.stderr, said.exit_code), (&b"clean\n"[..], &b""[..], 0));
    let before = container.sh("ps | wc -l");
    // The command goes on when its output is cut, and ends with its own code.
    let said = container.try_exec(&["sh", "-c", "head -c 40000000 /dev/zero; exit 5"], 60).unwrap();
    assert_eq!(said.exit_code, 5);
    assert!((BOUND - 128 * 1024..=BOUND).contains(&said.stdout.len()), "{}", said.stdout.len());
    let line = "head -c 40000000 /dev/zero & head -c 40000000 /dev/zero >&2; wait; exit 6";
    let said = container.try_exec(&["sh", "-c", line], 60).unwrap();
    assert_eq!(said.exit_code, 6);
    let both = said.stdout.len() + said.stderr.len();
    assert!((BOUND - 128 * 1024..=BOUND).contains(&both), "{both}");
    // All that a command started ends with its deadline, in whatever session it hides.
    let line = "sleep 4321 & setsid sleep 4321 & (trap '' TERM HUP; sleep 4321)";
    let began = Instant::now();
    let late = container.try_exec(&["sh", "-c", line], 1).unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
    assert!(began.elapsed() < SOON);
    eventually("no process is left", SOON, || {
        let now = container.sh("ps | wc -l");
        if now == before { Ok(()) } else { Err(container.sh("ps")) }
    });
    pod.remove();
    node.leaves_nothing();
}
