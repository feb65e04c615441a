//! Test images, built in Rust from Debian's dynamic busybox: OCI layouts held in memory.
//!
//! Dynamic, because Debian's static busybox runs its applets inside the shell, where a masked /bin/ls still
//! "works".

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::command::{command, run};
use crate::programs::installed;

/// Media types of the OCI image specification.
pub mod media {
    /// An image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A gzipped layer.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A layer as it is.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
}

/// `sha256:<hex>` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// One image: a manifest and the blobs that it names.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Digest → bytes of config and layers.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// The digests of the (compressed) layers, base first.
    pub layers: Vec<String>,
    /// The image's id: the digest of its config.
    pub id: String,
}

impl Image {
    /// The image as the files of an OCI layout (and its tar is an OCI archive), under one name.
    pub fn layout(&self, name: &str) -> Tree {
        let manifest = digest(&self.manifest);
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": media::MANIFEST, "digest": manifest, "size": self.manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": name},
        }]});
        let mut tree = Tree::default().file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#).file(
            "index.json",
            0o644,
            index.to_string().as_bytes(),
        );
        let blobs = self.blobs.iter().map(|(digest, bytes)| (digest.as_str(), bytes));
        for (digest, bytes) in blobs.chain([(manifest.as_str(), &self.manifest)]) {
            tree = tree.file(&format!("blobs/{}", digest.replace(':', "/")), 0o644, bytes);
        }
        tree
    }
}

/// Builds an image layer by layer.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    /// Each as a tar, and whether it is to be gzipped.
    layers: Vec<(Vec<u8>, bool)>,
    config: Value,
}

impl Builder {
    /// The image's configuration: the `config` object of the OCI image specification.
    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// Adds a layer on top.
    pub fn layer(mut self, tree: Tree) -> Self {
        self.layers.push((tree.tar(), true));
        self
    }

    /// Adds a layer on top that stays uncompressed.
    pub fn plain_layer(mut self, tree: Tree) -> Self {
        self.layers.push((tree.tar(), false));
        self
    }

    /// The image.
    pub fn build(self) -> Image {
        let diff_ids: Vec<String> = self.layers.iter().map(|(tar, _)| digest(tar)).collect();
        let config = json!({
            "architecture": architecture(), "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": self.config, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes();
        let mut blobs = BTreeMap::new();
        let mut descriptors = Vec::new();
        let mut layers = Vec::new();
        for ((tar, zip), diff_id) in self.layers.into_iter().zip(&diff_ids) {
            let (kind, blob, digest) = if zip {
                let zipped = gzip(&tar);
                let digest = digest(&zipped);
                (media::LAYER_GZIP, zipped, digest)
            } else {
                (media::LAYER, tar, diff_id.clone())
            };
            descriptors.push(json!({"mediaType": kind, "digest": digest, "size": blob.len()}));
            layers.push(digest.clone());
            blobs.insert(digest, blob);
        }
        let id = digest(&config);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media::MANIFEST,
            "config": {"mediaType": media::CONFIG, "digest": id, "size": config.len()}, "layers": descriptors,
        });
        blobs.insert(id.clone(), config);
        Image { manifest: manifest.to_string().into_bytes(), blobs, layers, id }
    }
}

/// GOARCH's name of this machine.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("compress into memory");
    encoder.finish().expect("compress into memory")
}

/// A file tree to be: paths without a leading slash.
#[derive(Debug, Clone, Default)]
pub struct Tree(Vec<(String, u32, Entry)>);

#[derive(Debug, Clone)]
enum Entry {
    Directory,
    File(Vec<u8>),
    /// With an extended attribute: its name and value.
    FileWith(Vec<u8>, String, Vec<u8>),
    Symlink(String),
    Hardlink(String),
}

impl Tree {
    /// Adds a directory.
    pub fn dir(mut self, path: &str, mode: u32) -> Self {
        self.0.push((path.into(), mode, Entry::Directory));
        self
    }

    /// Adds a file.
    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.0.push((path.into(), mode, Entry::File(content.to_vec())));
        self
    }

    /// Adds a file with an extended attribute.
    pub fn file_with(mut self, path: &str, mode: u32, content: &[u8], name: &str, value: &[u8]) -> Self {
        self.0.push((path.into(), mode, Entry::FileWith(content.to_vec(), name.into(), value.to_vec())));
        self
    }

    /// Adds a symbolic link.
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        self.0.push((path.into(), 0o777, Entry::Symlink(target.into())));
        self
    }

    /// Adds another name of a file that is already there.
    pub fn hardlink(mut self, path: &str, target: &str) -> Self {
        self.0.push((path.into(), 0o755, Entry::Hardlink(target.into())));
        self
    }

    /// The tree as a tar stream, the same bytes each time.
    pub fn tar(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, mode, entry) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_mode(*mode);
            header.set_mtime(1_767_225_600);
            header.set_uid(0);
            header.set_gid(0);
            let written = match entry {
                Entry::Directory => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_size(0);
                    tar.append_data(&mut header, format!("{path}/"), std::io::empty())
                }
                Entry::File(content) => {
                    header.set_size(content.len() as u64);
                    tar.append_data(&mut header, path, content.as_slice())
                }
                Entry::FileWith(content, name, value) => {
                    // As GNU tar and every image builder write them (pax(1), vendor keywords).
                    let key = format!("SCHILY.xattr.{name}");
                    let extended = tar.append_pax_extensions([(key.as_str(), value.as_slice())]);
                    header.set_size(content.len() as u64);
                    extended.and_then(|()| tar.append_data(&mut header, path, content.as_slice()))
                }
                Entry::Symlink(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_size(0);
                    tar.append_link(&mut header, path, target)
                }
                Entry::Hardlink(target) => {
                    header.set_entry_type(tar::EntryType::Link);
                    header.set_size(0);
                    tar.append_link(&mut header, path, target)
                }
            };
            written.expect("write a tar into memory");
        }
        tar.into_inner().expect("write a tar into memory")
    }

    /// Writes the tree's files below a directory.
    pub fn write(&self, below: &Path) {
        for (path, _, entry) in &self.0 {
            if let Entry::File(content) = entry {
                let path = below.join(path);
                std::fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
                std::fs::write(path, content).expect("write a file of the layout");
            }
        }
    }
}

/// The busybox image: three layers (libraries; programs; accounts and a page to serve).
pub fn busybox() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| busybox_builder().build())
}

/// The busybox image's layers and configuration, to build others on.
pub fn busybox_builder() -> Builder {
    let program = installed("busybox");
    let mut libraries = Tree::default().dir("lib", 0o755).dir("lib64", 0o755);
    for (inside, host) in libraries_of(&program, None) {
        libraries = libraries.file(&inside, 0o755, &std::fs::read(&host).expect("read a library"));
    }
    let content = std::fs::read(&program).expect("read busybox");
    let mut programs = Tree::default().dir("bin", 0o755).file("bin/busybox", 0o755, &content);
    // Names of one file, as in the image that all know: what is mounted over one of them hides no other.
    for applet in run(command(&program).arg("--list")).ok().lines().filter(|name| *name != "busybox") {
        programs = programs.hardlink(&format!("bin/{applet}"), "bin/busybox");
    }
    let accounts = Tree::default()
        .dir("etc", 0o755)
        .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n")
        .file("etc/group", 0o644, b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n")
        .dir("home", 0o755)
        .dir("home/app", 0o755)
        .dir("root", 0o700)
        .dir("tmp", 0o1777)
        .dir("var", 0o755)
        .dir("www", 0o755)
        .file("www/index.html", 0o644, b"hello from busybox\n");
    let config = json!({
        "Env": ["PATH=/bin", "GREETING=from the image"], "Cmd": ["/bin/sh"], "WorkingDir": "/",
        "Labels": {"maker": "gantline e2e"},
    });
    Builder::default().config(config).layer(libraries).layer(programs).layer(accounts)
}

/// The shared libraries of a program by `ldd`, those in the directory `before` the machine's own: path in the image,
/// file on this machine.
pub(crate) fn libraries_of(program: &Path, before: Option<&Path>) -> Vec<(String, PathBuf)> {
    let mut ldd = command(installed("ldd"));
    ldd.arg(program).envs(before.map(|dir| ("LD_LIBRARY_PATH", dir)));
    let listing = run(&mut ldd).ok();
    assert!(!listing.contains("not found"), "{} lacks libraries:\n{listing}", program.display());
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    let libraries: Vec<PathBuf> = listing.lines().filter_map(path).collect();
    assert!(
        !libraries.is_empty(),
        "{} is static; the tests want Debian's package `busybox`, the dynamic one",
        program.display()
    );
    let place = |host: PathBuf| (host.display().to_string().trim_start_matches('/').to_string(), host);
    libraries.into_iter().map(place).collect()
}

/// A layer tree with one file of `bytes` incompressible bytes, the same for the same seed.
pub fn noise(path: &str, bytes: usize, seed: u64) -> Tree {
    let mut state = seed | 1;
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        // xorshift64: enough to defeat gzip.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(bytes);
    Tree::default().file(path, 0o644, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_tree_is_the_same_bytes() {
        assert_eq!(noise("a", 1000, 7).tar(), noise("a", 1000, 7).tar());
        assert_ne!(noise("a", 1000, 7).tar(), noise("a", 1000, 8).tar());
    }

    #[test]
    fn a_manifest_names_blobs_that_are_there() {
        let image = Builder::default().layer(noise("a", 100, 1)).layer(noise("b", 100, 2)).build();
        assert_eq!(image.layers.len(), 2);
        for layer in &image.layers {
            assert_eq!(&digest(&image.blobs[layer]), layer);
        }
        assert!(image.blobs.contains_key(&image.id));
    }
}
