//! No credential that passes through the service is ever found in what it says or keeps: logs at trace, store, state,
//! metrics, admin endpoint, verbose status, traces.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use api::v1;
use e2e::otlp::Receiver;
use e2e::{Machine, Node, Registry, stream};

/// Each in no other's text, and in nothing else's.
const PASSWORD: &str = "canary-pw-8f1d";
const WRONG_PASSWORD: &str = "canary-wrong-77ae";
const AUTH_PASSWORD: &str = "canary-auth-55c2";
const IDENTITY_TOKEN: &str = "canary-identity-9b0e";
const REGISTRY_TOKEN: &str = "canary-registry-31f7";
const ISSUED_TOKEN: &str = "canary-issued-c40d";
const HOSTS_TOKEN: &str = "canary-hosts-2e6a";
const PROXY_PASSWORD: &str = "canary-proxy-d913";
const OTLP_TOKEN: &str = "canary-otlp-606b";
const ADMIN_PASSWORD: &str = "canary-admin-1c8f";
/// The user's own: it belongs into the store and into specifications, and nowhere else.
const ENVIRONMENT: &str = "canary-env-a37b";

/// A registry that lets nobody in without a token, before the real one; its token server knows two passwords and one
/// identity token.
#[derive(Clone)]
struct Guarded {
    address: SocketAddr,
    /// What it was shown, so that a test knows that each credential was used.
    shown: Arc<Mutex<String>>,
}

impl Guarded {
    fn start(machine: &Machine) -> Self {
        let shown = Arc::new(Mutex::new(String::new()));
        let keeping = Arc::clone(&shown);
        let address = machine.on_its_network(move || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            std::thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    let keeping = Arc::clone(&keeping);
                    std::thread::spawn(move || answer(client, address, &keeping));
                }
            });
            address
        });
        Self { address, shown }
    }

    fn was_shown(&self, secret: &str) -> bool {
        self.shown.lock().unwrap().contains(secret)
    }
}

fn answer(mut client: TcpStream, own: SocketAddr, shown: &Mutex<String>) -> Option<()> {
    let head = stream::head(&mut client).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    client.read_exact(&mut body).ok()?;
    let body = String::from_utf8_lossy(&body).into_owned();
    shown.lock().unwrap().push_str(&format!("{head}{body}\n"));
    if head.split(' ').nth(1)?.starts_with("/token") {
        let pairs =
            [format!("user:{PASSWORD}"), format!("user:{AUTH_PASSWORD}"), format!("user:{ADMIN_PASSWORD}")];
        let let_in = pairs.iter().any(|pair| head.contains(&base64(pair))) || body.contains(IDENTITY_TOKEN);
        let (status, body) = match let_in {
            true => ("200 OK", format!(r#"{{"token":"{ISSUED_TOKEN}","access_token":"{ISSUED_TOKEN}"}}"#)),
            false => {
                ("401 Unauthorized", r#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#.to_owned())
            }
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        return client.write_all(answer.as_bytes()).ok();
    }
    let known = [ISSUED_TOKEN, REGISTRY_TOKEN, HOSTS_TOKEN];
    if !known.iter().any(|token| head.contains(&format!("Bearer {token}"))) {
        let refusal = format!(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"s\"\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        return client.write_all(refusal.as_bytes()).ok();
    }
    let mut upstream = TcpStream::connect(Registry::address()).ok()?;
    let lines = head.trim_end().lines().filter(|line| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        name != "authorization" && name != "connection"
    });
    let passed: Vec<&str> = lines.chain(["Connection: close", "", ""]).collect();
    upstream.write_all(passed.join("\r\n").as_bytes()).ok()?;
    std::io::copy(&mut upstream, &mut client).ok().map(drop)
}

/// RFC 4648, section 4.
fn base64(text: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    out
}

/// Bytes as JSON has a list of them.
fn numbers(text: &str) -> String {
    text.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(",")
}

/// Everything that the service says and keeps, by where it was found.
struct Said(Vec<(String, Vec<u8>)>);

impl Said {
    fn add(&mut self, place: &str, bytes: impl Into<Vec<u8>>) {
        self.0.push((place.to_owned(), bytes.into()));
    }

    fn files(&mut self, kind: &str, below: &Path) {
        for entry in fs::read_dir(below).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(about) = fs::symlink_metadata(&path) else { continue };
            // Images are what the registry's users put into them, and large.
            if about.is_dir() && !path.ends_with("image/layers") && !path.ends_with("rootfs") {
                self.files(kind, &path);
            } else if about.is_file() {
                self.add(&format!("{kind} {}", path.display()), fs::read(&path).unwrap_or_default());
            }
        }
    }

    /// Where any of these is found.
    fn leaks(&self, secrets: &[String], except: &[&str]) -> Vec<String> {
        let found = |(place, bytes): &(String, Vec<u8>)| {
            let has =
                |secret: &&String| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            let excepted = except.iter().any(|words| place.starts_with(words));
            secrets.iter().find(has).filter(|_| !excepted).map(|secret| format!("{secret} in {place}"))
        };
        self.0.iter().filter_map(found).collect()
    }
}

fn admin(node: &Node, path: &str) -> Vec<u8> {
    let socket = node.machine.path(&node.config.state).join("admin.sock");
    let answer = e2e::http::get_over_unix(&socket, path, "application/openmetrics-text").unwrap();
    assert_eq!(answer.status, 200, "{path}");
    answer.body
}

fn pull(node: &Node, reference: &str, auth: v1::AuthConfig) -> Result<(), tonic::Status> {
    let image = Some(e2e::cri::image_spec(reference));
    let pod = node.pod("puller").config;
    let request = v1::PullImageRequest { image, auth: Some(auth), sandbox_config: Some(pod) };
    node.cri().pull_image(request).map(drop)
}

#[test]
fn no_credential_is_found_in_anything_that_is_said_or_kept() {
    let builder = Node::builder();
    let receiver = Receiver::http(&builder.machine);
    let section = format!(
        "[log]\nlevel = \"trace\"\nformat = \"json\"\n[tracing]\nendpoint = \"http://{}/v1/traces\"\n",
        receiver.address
    );
    let builder = builder.with(|config, _| config.more.push_str(&section));
    let mut node = builder.prepare();
    let guarded = Guarded::start(&node.machine);
    let host = guarded.address.to_string();
    node.config.plain_http(&host);
    // A mirror with a token of its own, in hosts.toml.
    let dir = node.config.certs.join("mirrored.test");
    fs::create_dir_all(&dir).unwrap();
    let hosts = format!(
        "[host.\"http://{host}\"]\n[host.\"http://{host}\".header]\nauthorization = \"Bearer {HOSTS_TOKEN}\"\n"
    );
    fs::write(dir.join("hosts.toml"), hosts).unwrap();
    node.env("OTEL_EXPORTER_OTLP_HEADERS", &format!("authorization=Bearer%20{OTLP_TOKEN}"));
    node.env("OTEL_BSP_SCHEDULE_DELAY", "200");
    for name in ["HTTP_PROXY", "HTTPS_PROXY"] {
        node.env(name, &format!("http://user:{PROXY_PASSWORD}@127.0.0.1:9"));
    }
    node.start_service();

    let reference = format!("{host}/busybox:1");
    let config = |change: &dyn Fn(&mut v1::AuthConfig)| {
        let mut auth = v1::AuthConfig::default();
        change(&mut auth);
        auth
    };
    let by_name = |password: &str| {
        config(&|auth| {
            auth.username = "user".into();
            auth.password = password.into();
        })
    };
    pull(&node, &reference, by_name(WRONG_PASSWORD)).expect_err("a wrong password");
    for auth in [
        by_name(PASSWORD),
        config(&|auth| auth.auth = base64(&format!("user:{AUTH_PASSWORD}"))),
        config(&|auth| auth.identity_token = IDENTITY_TOKEN.into()),
        config(&|auth| auth.registry_token = REGISTRY_TOKEN.into()),
    ] {
        pull(&node, &reference, auth).unwrap();
    }
    node.pull("mirrored.test/busybox:1");
    node.try_pull("through.a.proxy.test/no/such:1").expect_err("no such proxy");
    node.gantline(&["pull", "--creds", &format!("user:{ADMIN_PASSWORD}"), &reference]).ok();
    for secret in [IDENTITY_TOKEN, REGISTRY_TOKEN, ISSUED_TOKEN, HOSTS_TOKEN] {
        assert!(guarded.was_shown(secret), "{secret} was not used: the test tests nothing");
    }
    for password in [PASSWORD, WRONG_PASSWORD, AUTH_PASSWORD, ADMIN_PASSWORD] {
        assert!(guarded.was_shown(&base64(&format!("user:{password}"))), "{password} was not used");
    }

    let pod = node.pod("guarded").run();
    let container = pod
        .container("c")
        .image(&reference)
        .with(|config| config.envs.push(v1::KeyValue { key: "TOKEN".into(), value: ENVIRONMENT.into() }))
        .idle()
        .start();
    assert_eq!(container.sh("echo -n $TOKEN"), ENVIRONMENT);
    let exec = v1::ExecRequest {
        container_id: container.id.clone(),
        cmd: ["echo", "streamed"].map(str::to_owned).to_vec(),
        stdout: true,
        ..Default::default()
    };
    let url = node.cri().exec(exec).unwrap().url;
    let token = url.rsplit('/').next().unwrap().to_owned();
    assert!(token.len() >= 8, "{url}");
    let used = node.machine.on_its_network(|| stream::Spdy::connect(&url, "v4.channel.k8s.io").is_ok());
    assert!(used, "{url}");
    let again = node.machine.on_its_network(|| stream::Spdy::connect(&url, "v4.channel.k8s.io").is_err());
    assert!(again, "a token is good once");

    let mut said = Said(Vec::new());
    let verbose = |id: &str| v1::ContainerStatusRequest { container_id: id.into(), verbose: true };
    said.add("verbose Status", format!("{:?}", node.cri().status(v1::StatusRequest { verbose: true })));
    said.add("verbose ContainerStatus", format!("{:?}", node.cri().container_status(verbose(&container.id))));
    said.add("verbose PodSandboxStatus", pod.info().to_string());
    let image = v1::ImageStatusRequest { image: Some(e2e::cri::image_spec(&reference)), verbose: true };
    said.add("verbose ImageStatus", format!("{:?}", node.cri().image_status(image)));
    for path in ["/metrics", "/status", "/debug/state"] {
        said.add(&format!("admin {path}"), admin(&node, path));
    }
    for command in [&["events"][..], &["why", "guarded"], &["config", "dump"]] {
        said.add(&format!("gantline {command:?}"), node.gantline(command).ok());
    }
    receiver.trace(&receiver.spans().last().unwrap().trace, |spans| !spans.is_empty());
    std::thread::sleep(std::time::Duration::from_secs(1));
    said.files("state", &node.machine.path(&node.config.state));
    said.files("CNI", &node.config.cni_cache);
    node.terminate();
    said.files("root", &node.config.root);
    said.add("log", node.service_log());
    said.add("traces", receiver.raw());
    assert!(said.0.iter().any(|(place, bytes)| place.starts_with("root") && bytes.len() > 1000), "a store");
    assert!(receiver.headers().concat().contains(OTLP_TOKEN), "the receiver's token was not used");

    let mut secrets = Vec::new();
    for secret in [
        PASSWORD,
        WRONG_PASSWORD,
        AUTH_PASSWORD,
        IDENTITY_TOKEN,
        REGISTRY_TOKEN,
        ISSUED_TOKEN,
        HOSTS_TOKEN,
        PROXY_PASSWORD,
        OTLP_TOKEN,
        ADMIN_PASSWORD,
        &token,
    ] {
        secrets.extend([secret.to_owned(), numbers(secret), base64(secret)]);
        secrets.push(base64(&format!("user:{secret}")));
    }
    let leaks = said.leaks(&secrets, &[]);
    assert!(leaks.is_empty(), "\n  {}\n", leaks.join("\n  "));
    said.add("planted", format!("Authorization: Basic {}", base64(&format!("user:{PASSWORD}"))));
    assert_eq!(said.leaks(&secrets, &[]).len(), 1, "the search finds what is there");
    said.0.pop();
    let environment = [ENVIRONMENT.to_owned(), numbers(ENVIRONMENT)];
    let own = said.leaks(&environment, &["root", "state", "verbose ContainerStatus"]);
    assert!(own.is_empty(), "\n  {}\n", own.join("\n  "));
    let kept = said.leaks(&environment, &[]);
    assert!(
        kept.iter().any(|place| place.contains(" in root")) && kept.len() > 2,
        "the search finds what is there: {kept:?}"
    );

    node.start_service();
    node.remove_all_pods();
    node.leaves_nothing();
}
