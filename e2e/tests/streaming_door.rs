//! The door of the streaming server: TLS, what a URL is good for, bounds, and clients that hang up at any stage.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use api::v1;
use e2e::command::{Said, command, run};
use e2e::programs::installed;
use e2e::stream::{Frame, Spdy, WebSocket, split};
use e2e::{Container, Node, eventually, patient};

/// What must not take long takes less.
const SOON: Duration = Duration::from_secs(15);
const V4: &str = "v4.channel.k8s.io";

/// An authority, and pairs that it has signed.
struct Authority {
    dir: PathBuf,
    name: String,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let authority = Self { dir: dir.to_owned(), name: name.to_owned() };
        let (key, certificate) = (authority.file("key"), authority.file("crt"));
        let subject = format!("/CN={name}");
        let new =
            ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
        openssl(&[&new[..], &["-subj", &subject, "-keyout", &key, "-out", &certificate]].concat());
        authority
    }

    fn file(&self, extension: &str) -> String {
        self.dir.join(format!("{}.{extension}", self.name)).display().to_string()
    }

    /// Signs a new pair for 127.0.0.1, for localhost (what crictl asks for) and for clients; writes it to these files.
    fn sign(&self, certificate: &str, key: &str) {
        let (request, extensions) = (self.file("csr"), self.file("ext"));
        fs::write(
            &extensions,
            "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n",
        )
        .unwrap();
        let new =
            ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=node"];
        openssl(&[&new[..], &["-keyout", key, "-out", &request]].concat());
        let (ca, ca_key) = (self.file("crt"), self.file("key"));
        openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-days",
            "2",
            "-out",
            certificate,
            "-extfile",
            &extensions,
        ]);
    }
}

#[track_caller]
fn openssl(args: &[&str]) {
    run(command(installed("openssl")).args(args)).ok();
}

/// The service's files, in its machine's directory.
struct Files {
    dir: PathBuf,
}

impl Files {
    fn of(node: &Node) -> Self {
        Self { dir: node.machine.dir() }
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn settings(dir: &Path, with_client_ca: bool) -> String {
        let line = |key: &str, name: &str| format!("{key} = {:?}\n", dir.join(name));
        let pair = line("tls_certificate", "server.crt") + &line("tls_key", "server.key");
        format!(
            "[streaming]\n{pair}{}",
            if with_client_ca { line("tls_client_ca", "a.crt") } else { String::new() }
        )
    }
}

/// `crictl exec` that trusts an authority, with a client's pair.
fn exec_trusting(node: &Node, files: &Files, ca: &str, container: &str, transport: &str) -> Said {
    let (certificate, key) = (files.path("client.crt"), files.path("client.key"));
    node.crictl(&[
        "exec",
        "--tls-ca",
        ca,
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
        "--transport",
        transport,
        container,
        "echo",
        "secured",
    ])
}

#[test]
fn sessions_speak_tls_with_a_pair_that_is_renewed_while_they_run() {
    let node = Node::builder();
    let dir = node.machine.dir();
    let [a, b] = ["a", "b"].map(|name| Authority::new(&dir, name));
    let path = |name: &str| dir.join(name).display().to_string();
    a.sign(&path("server.crt"), &path("server.key"));
    a.sign(&path("client.crt"), &path("client.key"));
    let node = node.with(|config, _| config.more.push_str(&Files::settings(&dir, false))).start();
    let files = Files::of(&node);
    let (pod, container) = node.busy();
    assert!(exec_url(&node, &container, &["true"]).starts_with("https://127.0.0.1:"));
    let works = |ca: &Authority| {
        for transport in ["spdy", "websocket"] {
            let said = exec_trusting(&node, &files, &ca.file("crt"), &container.id, transport);
            assert_eq!((said.code, &*said.stdout), (0, "secured\n"), "{transport}: {said:?}");
        }
    };
    works(&a);
    let said = exec_trusting(&node, &files, &b.file("crt"), &container.id, "spdy").fails();
    assert!(said.contains("certificate"), "{said}");
    // Plain text is not understood, and a client that says nothing does not hold up others.
    let (to, plain) = split(&exec_url(&node, &container, &["true"]));
    node.machine.on_its_network(|| {
        let _silent = TcpStream::connect(to).unwrap();
        let refused = e2e::stream::upgrade(to, &plain, "Upgrade: SPDY/3.1");
        assert!(refused.is_err(), "{refused:?}");
        works(&a);
    });

    b.sign(&files.path("new.crt"), &files.path("new.key"));
    // As a person would: one file after the other.
    fs::rename(files.path("new.key"), files.path("server.key")).unwrap();
    works(&a);
    fs::rename(files.path("new.crt"), files.path("server.crt")).unwrap();
    works(&b);
    assert!(exec_trusting(&node, &files, &a.file("crt"), &container.id, "spdy").code != 0);

    fs::write(files.path("server.crt"), "rubbish").unwrap();
    works(&b);
    let log = node.service_log();
    let complaint = format!("use {} for TLS", files.path("server.crt"));
    assert!(log.contains(&complaint) && log.contains("stay in use"), "{log}");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn clients_without_a_certificate_of_the_authority_are_turned_away() {
    let node = Node::builder();
    let dir = node.machine.dir();
    let [a, b] = ["a", "b"].map(|name| Authority::new(&dir, name));
    let path = |name: &str| dir.join(name).display().to_string();
    b.sign(&path("server.crt"), &path("server.key"));
    let node = node.with(|config, _| config.more.push_str(&Files::settings(&dir, true))).start();
    let files = Files::of(&node);
    let (pod, container) = node.busy();
    // Ours speaks TLS and asks for a client's certificate, which only the right authority's satisfies.
    node.crictl(&["exec", "--transport", "spdy", &container.id, "true"]).fails();
    b.sign(&path("client.crt"), &path("client.key"));
    assert_ne!(exec_trusting(&node, &files, &b.file("crt"), &container.id, "spdy").code, 0);
    a.sign(&path("client.crt"), &path("client.key"));
    for transport in ["spdy", "websocket"] {
        let said = exec_trusting(&node, &files, &b.file("crt"), &container.id, transport);
        assert_eq!((said.code, &*said.stdout), (0, "secured\n"), "{transport}: {said:?}");
    }
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_pair_that_cannot_be_used_stops_the_start_by_its_name() {
    let node = Node::builder();
    let dir = node.machine.dir();
    let a = Authority::new(&dir, "a");
    let path = |name: &str| dir.join(name).display().to_string();
    a.sign(&path("server.crt"), &path("other.key"));
    a.sign(&path("other.crt"), &path("server.key"));
    let node = node.with(|config, _| config.more.push_str(&Files::settings(&dir, false))).prepare();
    node.spawn_service();
    eventually("the service refuses to start", SOON, || {
        if node.service_runs() { Err("it runs".to_string()) } else { Ok(()) }
    });
    let log = node.service_log();
    assert!(
        log.contains(&format!("use {}", path("server.key"))) && log.contains("does not go with"),
        "{log}"
    );
}

fn exec_request(container: &Container<'_>, argv: &[&str]) -> v1::ExecRequest {
    v1::ExecRequest {
        container_id: container.id.clone(),
        cmd: argv.iter().map(|word| word.to_string()).collect(),
        stdin: true,
        stdout: true,
        ..Default::default()
    }
}

fn exec_url(node: &Node, container: &Container<'_>, argv: &[&str]) -> String {
    node.cri().exec(exec_request(container, argv)).unwrap().url
}

/// The streams of an exec, open.
fn begin(url: &str) -> Result<Spdy, (u16, String)> {
    let mut client = Spdy::connect(url, V4)?;
    for kind in ["error", "stdin", "stdout"] {
        client.open(&[("streamtype", kind)]).unwrap();
    }
    Ok(client)
}

/// What a client is told until the end of its connection, on all streams.
fn rest(client: &mut Spdy) -> String {
    let (mut text, mut payload) = (String::new(), Vec::new());
    while let Ok(Some(frame)) = client.next(&mut payload) {
        if let Frame::Data(..) = frame {
            text.push_str(&String::from_utf8_lossy(&payload));
        }
    }
    text
}

#[test]
fn so_many_sessions_run_and_one_more_is_told_so() {
    let node =
        Node::builder().with(|config, _| config.more.push_str("[streaming]\nsessions_max = 2\n")).start();
    let (pod, container) = node.busy();
    let urls: Vec<String> = (0..3).map(|_| exec_url(&node, &container, &["cat"])).collect();
    node.machine.on_its_network(|| {
        let first = begin(&urls[0]).unwrap();
        let _second = begin(&urls[1]).unwrap();
        let (status, words) = begin(&urls[2]).map(drop).unwrap_err();
        assert_eq!(status, 503);
        assert!(words.contains("streaming.sessions_max"), "{words}");
        let refused = node.cri().exec(exec_request(&container, &["cat"])).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains("2 streaming sessions run"), "{refused}");
        drop(first);
        // The refusal has not spent the URL.
        eventually("there is a place again", SOON, || {
            begin(&urls[2]).map(drop).map_err(|e| format!("{e:?}"))
        });
    });
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_url_lapses_and_so_does_a_session_that_does_not_begin_or_says_nothing() {
    // A session that does not begin is not idle yet when it is told so.
    let settings = "[streaming]\ntoken_timeout = '5s'\ncreation_timeout = '2s'\nidle_timeout = '8s'\n";
    let node = Node::builder().with(|config, _| config.more.push_str(settings)).start();
    let (pod, container) = node.busy();
    let late = exec_url(&node, &container, &["true"]);
    std::thread::sleep(Duration::from_millis(5200));
    node.machine.on_its_network(|| {
        assert!(begin(&late).is_err_and(|(status, _)| status == 404));

        let mut client = Spdy::connect(&exec_url(&node, &container, &["true"]), V4).unwrap();
        client.open(&[("streamtype", "error")]).unwrap();
        let began = Instant::now();
        let said = rest(&mut client);
        assert!(said.contains("did not come within 2s"), "{said}");
        assert!(began.elapsed() < patient(SOON));

        let began = Instant::now();
        let mut client = begin(&exec_url(&node, &container, &["cat"])).unwrap();
        // Its input ends with the session, and with that the command.
        rest(&mut client);
        assert!((Duration::from_secs(8)..patient(SOON)).contains(&began.elapsed()), "{:?}", began.elapsed());
    });
    eventually("the command ends with its input", SOON, || {
        let found = container.sh("ps | grep -c '[c]at$' || true");
        if found == "0\n" { Ok(()) } else { Err(found) }
    });
    pod.remove();
    node.leaves_nothing();
}

/// What the service says of itself: sessions, tokens and tasks; and its descriptors.
fn levels(node: &Node) -> [u64; 4] {
    let [sessions, tokens, tasks] =
        ["gantline_streaming_sessions", "gantline_streaming_tokens", "gantline_tasks"]
            .map(|level| node.metric(level));
    [sessions, tokens, tasks, node.descriptors() as u64]
}

#[test]
fn clients_that_hang_up_at_any_stage_leave_no_task_token_descriptor_or_process() {
    let settings = "[streaming]\ntoken_timeout = '5s'\n";
    let node = Node::builder().with_metrics().with(|config, _| config.more.push_str(settings)).start();
    let pod = node.pod("left").run();
    let container = pod.container("main").sh("while read line; do echo $line; done; sleep 1000");
    let container = container.with(|config| config.stdin = true).start();
    let exec = |argv: &[&str]| exec_url(&node, &container, argv);
    let attach = || {
        let request = v1::AttachRequest {
            container_id: container.id.clone(),
            stdin: true,
            stdout: true,
            ..Default::default()
        };
        node.cri().attach(request).unwrap().url
    };
    let forward = || {
        let request = v1::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![9] };
        node.cri().port_forward(request).unwrap().url
    };
    node.crictl(&["exec", &container.id, "true"]).ok();
    let before = levels(&node);
    let processes = container.sh("ps | wc -l");
    node.machine.on_its_network(|| {
        for round in 0..3 {
            // Never come.
            drop((exec(&["true"]), attach(), forward()));
            for url in [exec(&["cat"]), attach(), forward()] {
                let (to, path) = split(&url);
                // Before, in and after the head; the last is answered to nobody.
                drop(TcpStream::connect(to).unwrap());
                let heads = [format!("GET {path}"), format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")];
                for head in heads {
                    TcpStream::connect(to).unwrap().write_all(head.as_bytes()).unwrap();
                }
            }
            // Once upgraded; with some streams; with all of them; in the middle of what is said.
            drop(Spdy::connect(&exec(&["cat"]), V4).unwrap());
            drop(Spdy::connect(&attach(), V4).unwrap());
            drop(Spdy::connect(&forward(), "portforward.k8s.io").unwrap());
            for url in [exec(&["cat"]), attach()] {
                let mut client = Spdy::connect(&url, V4).unwrap();
                client.open(&[("streamtype", "error")]).unwrap();
                client.open(&[("streamtype", "stdin")]).unwrap();
            }
            drop(begin(&exec(&["cat"])).unwrap());
            let mut client = begin(&exec(&["cat", "/dev/zero"])).unwrap();
            let mut payload = Vec::new();
            while client.next(&mut payload).unwrap() != Some(Frame::Data(5, false)) {}
            // Its command goes on without it (ADR 042): something must end it.
            container.sh("ps | grep '[c]at /dev/zero' | while read pid rest; do kill $pid; done");
            drop(client);
            let mut client = begin(&attach()).unwrap();
            client.data(3, b"word\n", false).unwrap();
            while client.next(&mut payload).unwrap() != Some(Frame::Data(5, false)) {}
            drop(client);
            let mut client = Spdy::connect(&forward(), "portforward.k8s.io").unwrap();
            for (kind, id) in [("error", "0"), ("data", "0"), ("data", "1")] {
                client.open(&[("streamtype", kind), ("port", "9"), ("requestid", id)]).unwrap();
            }
            drop(client);
            drop(WebSocket::connect(&exec(&["cat"]), "v5.channel.k8s.io").unwrap());
            let mut client = WebSocket::connect(&exec(&["cat"]), "v5.channel.k8s.io").unwrap();
            client.send(b"\x00word\n").unwrap();
            while !payload.ends_with(b"word\n") {
                client.next(&mut payload).unwrap().expect("an echo");
            }
            // Half a frame.
            (&mut client.socket()).write_all(&[0x82, 0xfe, 1]).unwrap();
            drop(client);
            drop(WebSocket::connect(&attach(), V4).unwrap());
            drop(WebSocket::connect(&forward(), "SPDY/3.1+portforward.k8s.io").unwrap());
            let mut client = WebSocket::connect(&forward(), V4).unwrap();
            client.send(b"\x00word\n").unwrap();
            drop(client);
            assert!(container.is_running(), "round {round}");
        }
    });
    eventually("nothing of them is left", SOON, || {
        let now = levels(&node);
        // The harness's own connections come and go, with up to three tasks and one descriptor each.
        let is_well = now[..2] == [0, 0] && now[2] <= before[2] + 3 && now[3] <= before[3] + 2;
        if is_well { Ok(()) } else { Err(format!("{before:?} before, {now:?} now")) }
    });
    eventually("no process is left", SOON, || {
        let now = container.sh("ps | wc -l");
        if now == processes { Ok(()) } else { Err(container.sh("ps")) }
    });
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_refused_upgrade_says_what_is_known() {
    let node = Node::start();
    let (pod, container) = node.busy();
    node.machine.on_its_network(|| {
        let url = exec_url(&node, &container, &["true"]);
        let (status, words) = Spdy::connect(&url, "v9.channel.k8s.io").unwrap_err();
        assert!(status == 403 && words.contains("known are v4.channel.k8s.io, v3"), "{status} {words}");
        let url = exec_url(&node, &container, &["true"]);
        let (status, words) = WebSocket::connect(&url, "v9.channel.k8s.io").unwrap_err();
        assert!(status == 400 && words.contains("known are v5.channel.k8s.io"), "{status} {words}");
        let (to, path) = split(&exec_url(&node, &container, &["true"]));
        let (status, words) = e2e::stream::upgrade(to, &path, "Upgrade: h2c").unwrap_err();
        assert!(status == 400 && words.contains("SPDY/3.1 or websocket"), "{status} {words}");
        // A ping is answered before anything else is open, and a GOAWAY ends the session.
        let mut client = Spdy::connect(&exec_url(&node, &container, &["true"]), V4).unwrap();
        client.control(e2e::stream::PING, &7_u32.to_be_bytes()).unwrap();
        let mut payload = Vec::new();
        assert_eq!(client.next(&mut payload).unwrap(), Some(Frame::Control(e2e::stream::PING)));
        assert_eq!(payload, 7_u32.to_be_bytes());
        client.control(e2e::stream::GOAWAY, &[0; 8]).unwrap();
        let mut end = Vec::new();
        client.socket().read_to_end(&mut end).unwrap();
    });
    pod.remove();
    node.leaves_nothing();
}
