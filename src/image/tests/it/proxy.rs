//! Registries that only a proxy reaches: a small one, which knows where they are and wants a password.

use std::fs;
use std::sync::{Arc, Mutex};

use image::{ImageConfig, Images, ProxyConfig};
use model::{Classify as _, CriToken, ErrorKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::build::{assert_empty, config, open_with};
use crate::fake::Registry;
use crate::real::{built, registry, request};

/// `user:pass`.
const AUTHORIZATION: &str = "proxy-authorization: basic dxnlcjpwyxnz";

/// A proxy on the way to one registry, whatever its name; the first lines of what it was asked.
async fn proxy(to: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass_on(client, to.clone(), Arc::clone(&seen)));
        }
    });
    (address, asked)
}

async fn pass_on(mut client: TcpStream, to: String, asked: Arc<Mutex<Vec<String>>>) {
    let mut server = TcpStream::connect(to).await.unwrap();
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match client.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let line = head.lines().next().unwrap().to_owned();
        asked.lock().unwrap().push(line.clone());
        if !head.to_ascii_lowercase().contains(AUTHORIZATION) {
            client.write_all(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            continue;
        }
        if line.starts_with("CONNECT ") {
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            return;
        }
        // Requests without a body, one a connection: what comes back goes back.
        let path = line.split("://").nth(1).unwrap().split_once('/').unwrap().1;
        let rest = head.split_once("\r\n").unwrap().1;
        let request = format!("GET /{path}\r\nConnection: close\r\n{rest}");
        server.write_all(request.as_bytes()).await.unwrap();
        let _ = tokio::io::copy(&mut server, &mut client).await;
        return;
    }
}

fn open(root: &std::path::Path, proxies: ProxyConfig) -> Images {
    open_with(ImageConfig { proxies, ..config(root) })
}

fn configure(root: &std::path::Path, host: &str, toml: &str) {
    let dir = root.join("certs.d").join(host);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("hosts.toml"), toml).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_registry_is_asked_through_the_http_proxy_and_no_proxy_spares_it() {
    let upstream = Registry::start().await;
    upstream.put("team/app:v1", &built());
    let (address, asked) = proxy(upstream.host()).await;
    let root = tempfile::tempdir().unwrap();
    configure(root.path(), "registry.test", "server = \"http://registry.test\"\n");
    let proxies = ProxyConfig { http: Some(format!("http://user:pass@{address}")), ..Default::default() };
    let images = open(root.path(), proxies.clone());
    images
        .pull(request("registry.test/team/app:v1"))
        .await
        .unwrap_or_else(|e| panic!("{}", model::chain(&e)));
    {
        let asked = asked.lock().unwrap();
        assert!(asked.iter().all(|line| line.starts_with("GET http://registry.test/v2/")), "{asked:?}");
        assert!(asked.iter().any(|line| line.contains("/blobs/")), "{asked:?}");
    }
    // The password is for the proxy; registries, and hosts without a proxy, do not see it: this one passed it on.
    images.remove("registry.test/team/app:v1").await.unwrap();
    drop(images);
    let before = asked.lock().unwrap().len();
    let spared = ProxyConfig { no_proxy: ".test".into(), ..proxies };
    let error = open(root.path(), spared).pull(request("registry.test/team/app:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Token(CriToken::RegistryUnavailable), "nobody knows that name");
    assert_eq!(asked.lock().unwrap().len(), before);
    assert_empty(root.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_of_https_is_reached_through_a_tunnel() {
    let Some(real) = registry(true).await else { return };
    real.push("team/app:v1", &built(), &[]);
    let (address, asked) = proxy(real.address.clone()).await;
    let root = tempfile::tempdir().unwrap();
    configure(root.path(), "registry.test", "server = \"https://registry.test\"\nskip_verify = true\n");
    let of = |https: String| ProxyConfig { https: Some(https), ..Default::default() };
    // A wrong password is told, and who wants one.
    let images = open(root.path(), of(address.clone()));
    let error = images.pull(request("registry.test/team/app:v1")).await.unwrap_err();
    let said = model::chain(&error);
    assert!(said.contains(&format!("the proxy http://{address}/")), "{said}");
    drop(images);
    let images = open(root.path(), of(format!("user:pass@{address}")));
    images
        .pull(request("registry.test/team/app:v1"))
        .await
        .unwrap_or_else(|e| panic!("{}", model::chain(&e)));
    let asked = asked.lock().unwrap().clone();
    assert!(asked.iter().all(|line| line == "CONNECT registry.test:443 HTTP/1.1"), "{asked:?}");
    images.remove("registry.test/team/app:v1").await.unwrap();
    drop(images);
    let images = open(root.path(), of("socks5://x".to_owned()));
    let said = model::chain(&images.pull(request("registry.test/team/app:v1")).await.unwrap_err());
    assert!(said.contains("HTTPS_PROXY"), "{said}");
    assert_empty(root.path());
}
