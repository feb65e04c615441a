//! Debian's docker-registry, filled by skopeo: what others write is what we read.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use image::PullRequest;
use model::{Classify as _, CriToken, ErrorKind};

use crate::build::{Built, Put, assert_empty, digest, gzip, image, layer, noise, open, zstd};

pub(crate) struct RealRegistry {
    child: Child,
    pub(crate) address: String,
    dir: tempfile::TempDir,
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn installed(program: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.exists())
}

/// Runs to its end; panics with its words on failure.
fn run(program: &Path, args: &[&str]) {
    let output = kernel::process::command(program).args(args).env("HOME", "/root").output().unwrap();
    assert!(output.status.success(), "{program:?} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A certificate for 127.0.0.1 that signed itself, as people make them.
fn certify(openssl: &Path, key: &Path, certificate: &Path) {
    let (key, certificate) = (key.display().to_string(), certificate.display().to_string());
    let kind = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"];
    let subject = ["-subj", "/CN=registry.test", "-addext", "subjectAltName=IP:127.0.0.1"];
    run(openssl, &[&kind[..], &subject[..], &["-keyout", &key, "-out", &certificate]].concat());
}

/// Says why a test does not run; where all must, which `make test` demands, that is a failure.
fn skip(why: &str) {
    assert!(std::env::var_os("GANTLINE_TESTS_MUST_RUN").is_none(), "this test must run: {why}");
    println!("skipped: {why}");
}

/// One that nobody listens at, below those that the kernel gives to whoever asks for any (ip(7), ip_local_port_range):
/// nobody gets it meanwhile.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + u16::try_from(n % 10_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A registry on a port of its own, with TLS where a certificate is given. `None`: not installed.
pub(crate) async fn registry(tls: bool) -> Option<RealRegistry> {
    let (Some(program), Some(_)) = (installed("docker-registry"), installed("skopeo")) else {
        skip("docker-registry and skopeo are not installed");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let at = dir.path().display();
    let mut config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {at}/data}}\n\
         http:\n  addr: 127.0.0.1:{port}\n"
    );
    if tls {
        let Some(openssl) = installed("openssl") else {
            skip("openssl is not installed");
            return None;
        };
        let (key, cert) = (dir.path().join("key.pem"), dir.path().join("cert.pem"));
        certify(&openssl, &key, &cert);
        let (key, cert) = (key.display(), cert.display());
        config += &format!("  tls:\n    certificate: {cert}\n    key: {key}\n");
    }
    fs::write(dir.path().join("config.yml"), config).unwrap();
    let child = kernel::process::command(program)
        .arg("serve")
        .arg(dir.path().join("config.yml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let registry = RealRegistry { child, address: format!("127.0.0.1:{port}"), dir };
    let started = Instant::now();
    while tokio::net::TcpStream::connect(&registry.address).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(20), "docker-registry does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Some(registry)
}

impl RealRegistry {
    /// Puts an image there with skopeo, from an OCI layout.
    pub(crate) fn push(&self, name: &str, built: &Built, more: &[&str]) {
        let layout = self.dir.path().join("layout");
        let _ = fs::remove_dir_all(&layout);
        for blob in built.blobs.iter().chain([&built.config, &built.manifest]) {
            let path = layout.join("blobs").join(digest(blob).replace(':', "/"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, blob).unwrap();
        }
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": built.media_type, "digest": digest(&built.manifest), "size": built.manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "it"}}]});
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        let from = format!("oci:{}:it", layout.display());
        let to = format!("docker://{}/{name}", self.address);
        let args =
            [&["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"], more, &[&from, &to]].concat();
        run(&installed("skopeo").unwrap(), &args);
    }
}

pub(crate) fn built() -> Built {
    let base = layer(&[("bin/", Put::Dir(0o755)), ("bin/sh", Put::File(&noise(1, 400_000)))]);
    let top = layer(&[("etc/", Put::Dir(0o755)), ("etc/motd", Put::File(b"hello"))]);
    image(&[(base, gzip), (top, zstd)], false)
}

pub(crate) fn request(reference: &str) -> PullRequest {
    PullRequest { reference: reference.parse().unwrap(), auth: None, progress: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_both_kinds_come_from_a_real_registry() {
    let Some(registry) = registry(false).await else { return };
    registry.push("team/app:oci", &built(), &[]);
    // Docker's schema has no zstd: skopeo compresses anew, so the blobs differ and the diff ids do not.
    registry.push("team/app:docker", &built(), &["--format", "v2s2", "--dest-compress-format", "gzip"]);
    let root = tempfile::tempdir().unwrap();
    let images = open(root.path());
    let mut layers = Vec::new();
    for tag in ["oci", "docker"] {
        let name = format!("{}/team/app:{tag}", registry.address);
        let id = images.pull(request(&name)).await.unwrap_or_else(|e| panic!("{tag}: {}", model::chain(&e)));
        layers.push(images.find(id.as_str()).unwrap().unwrap().layers.clone());
        let sh = root.path().join("image/layers").join(layers[0][0].hex()).join("bin/sh");
        assert!(fs::read(sh).unwrap() == noise(1, 400_000));
    }
    assert_eq!(layers[0], layers[1], "the same layers, on disk once");
    let missing = images.pull(request(&format!("{}/team/app:absent", registry.address))).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(model::chain(&missing).contains("MANIFEST_UNKNOWN"), "{}", model::chain(&missing));
    for tag in ["oci", "docker"] {
        images.remove(&format!("{}/team/app:{tag}", registry.address)).await.unwrap();
    }
    assert_empty(root.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_only_when_it_is_configured() {
    let Some(registry) = registry(true).await else { return };
    registry.push("team/app:v1", &built(), &[]);
    let root = tempfile::tempdir().unwrap();
    let images = open(root.path());
    let name = format!("{}/team/app:v1", registry.address);
    let hosts = root.path().join("certs.d").join(&registry.address);
    fs::create_dir_all(&hosts).unwrap();
    let certificate = registry.dir.path().join("cert.pem");
    let other = registry.dir.path().join("other.pem");
    certify(&installed("openssl").unwrap(), &registry.dir.path().join("other.key"), &other);
    let own = format!("server = \"https://{}\"\n", registry.address);
    for (more, trusted) in [
        (String::new(), false),
        (format!("ca = \"{}\"\n", certificate.display()), true),
        (format!("ca = \"{}\"\n", other.display()), false),
        ("skip_verify = true\n".to_owned(), true),
    ] {
        fs::write(hosts.join("hosts.toml"), format!("{own}{more}")).unwrap();
        let result = images.pull(request(&name)).await;
        match result {
            Ok(_) => assert!(trusted, "{more}"),
            Err(error) => {
                assert!(!trusted, "{more}: {}", model::chain(&error));
                assert_eq!(error.kind(), ErrorKind::Token(CriToken::RegistryUnavailable));
                assert!(model::chain(&error).contains("certificate"), "{}", model::chain(&error));
            }
        }
        images.remove(&name).await.unwrap();
    }
    assert_empty(root.path());
}
