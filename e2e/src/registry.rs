//! A real registry (Debian's docker-registry) on the machine's loopback, and pushing images to it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::command::Running;
use crate::image::{Image, digest, media};
use crate::machine::Machine;
use crate::wait::eventually;
use crate::{http, programs};

/// Where the registry listens inside its machine.
pub const PORT: u16 = 5000;

/// A running registry; it ends when dropped.
#[derive(Debug)]
pub struct Registry {
    process: Running,
}

impl Registry {
    /// Starts a registry with an empty storage in the machine and waits until it answers.
    #[track_caller]
    pub fn start(machine: &Machine) -> Self {
        let dir = machine.dir().join("registry");
        fs::create_dir_all(&dir).expect("make the registry's directory");
        let config = dir.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: \
             {}/storage}}, delete: {{enabled: true}}}}\nhttp: {{addr: '127.0.0.1:{PORT}'}}\n",
            dir.display()
        );
        fs::write(&config, text).expect("write the registry's configuration");
        let mut command = machine.command(programs::installed("docker-registry"));
        command.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none");
        let process = Running::logged(&mut command, &dir.join("log"));
        let registry = Self { process };
        eventually("the registry answers", Duration::from_secs(20), || {
            let answer = machine.on_its_network(|| http::request(Self::address(), "GET", "/v2/", "", b""));
            answer.map(drop).map_err(|error| error.to_string())
        });
        registry
    }

    /// Its address inside the machine.
    pub fn address() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, PORT).into()
    }

    /// The reference by which a node of the same machine pulls a pushed image.
    pub fn reference(name: &str) -> String {
        format!("{}/{name}", Self::address())
    }

    /// Pushes an image under `repository:tag` and returns the manifest's digest.
    #[track_caller]
    pub fn push(&self, machine: &Machine, image: &Image, name: &str) -> String {
        let (repository, tag) = name.split_once(':').expect("a name with a tag");
        machine.on_its_network(|| {
            for (digest, bytes) in &image.blobs {
                push_blob(repository, digest, bytes);
            }
            let path = format!("/v2/{repository}/manifests/{tag}");
            expect("PUT", &path, media::MANIFEST, &image.manifest, 201);
        });
        digest(&image.manifest)
    }

    /// Ends the registry, as a machine that went down would.
    pub fn stop(self) {
        self.process.kill();
    }
}

fn push_blob(repository: &str, digest: &str, bytes: &[u8]) {
    let begun = expect("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"", 202);
    let location = begun.header("location").expect("an upload's location");
    // It may be absolute or not.
    let path = location.find("/v2/").map_or(location, |at| &location[at..]);
    let mark = if path.contains('?') { '&' } else { '?' };
    expect("PUT", &format!("{path}{mark}digest={digest}"), "application/octet-stream", bytes, 201);
}

fn expect(method: &str, path: &str, kind: &str, body: &[u8], status: u16) -> http::Answer {
    match http::request(Registry::address(), method, path, kind, body) {
        Ok(answer) if answer.status == status => answer,
        Ok(answer) => {
            panic!("{method} {path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body))
        }
        Err(error) => panic!("{method} {path}: {error}"),
    }
}
