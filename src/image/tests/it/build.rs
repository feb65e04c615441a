//! Layers and images to pull, written with the `tar` crate.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use image::{ImageConfig, Images};
use sha2::{Digest as _, Sha256};

/// `sha256:<hex>` of bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// What an entry of a layer is.
pub(crate) enum Put<'a> {
    File(&'a [u8]),
    Dir(u32),
    Link(&'a str),
    Hard(&'a str),
}

/// A layer's tar.
pub(crate) fn layer(entries: &[(&str, Put<'_>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, put) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        let (kind, mode, data): (_, _, &[u8]) = match put {
            Put::File(data) => (tar::EntryType::Regular, 0o644, data),
            Put::Dir(mode) => (tar::EntryType::Directory, *mode, &[]),
            Put::Link(target) => {
                header.set_link_name(target).unwrap();
                (tar::EntryType::Symlink, 0o777, &[])
            }
            Put::Hard(target) => {
                header.set_link_name(target).unwrap();
                (tar::EntryType::Link, 0o644, &[])
            }
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        // Raw bytes: the crate refuses the paths that are of interest here.
        let name = path.as_bytes();
        header.as_mut_bytes()[..100].fill(0);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    })
    .take(length)
    .collect()
}

/// An image as a registry has it.
#[derive(Clone)]
pub(crate) struct Built {
    pub(crate) manifest: Vec<u8>,
    pub(crate) media_type: &'static str,
    pub(crate) config: Vec<u8>,
    /// As they are fetched.
    pub(crate) blobs: Vec<Vec<u8>>,
    pub(crate) diff_ids: Vec<String>,
}

impl Built {
    pub(crate) fn id(&self) -> String {
        digest(&self.config)
    }
}

/// A layer's tar, and how it is compressed.
pub(crate) type Layer = (Vec<u8>, fn(&[u8]) -> Vec<u8>);

/// An image of these layers, each compressed as told.
pub(crate) fn image(layers: &[Layer], docker: bool) -> Built {
    let diff_ids: Vec<_> = layers.iter().map(|(tar, _)| digest(tar)).collect();
    build(layers, diff_ids, docker)
}

/// As [`image`], with a configuration that says these diff ids.
pub(crate) fn build(layers: &[Layer], diff_ids: Vec<String>, docker: bool) -> Built {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::json!({
        "architecture": arch, "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "User": "7"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let blobs: Vec<_> = layers.iter().map(|(tar, compress)| compress(tar)).collect();
    let kinds = match docker {
        true => [
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ],
        false => [
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.oci.image.layer.v1.tar+gzip",
        ],
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": kinds[0],
        "config": {"mediaType": kinds[1], "digest": digest(&config), "size": config.len()},
        "layers": blobs.iter()
            .map(|blob| serde_json::json!({"mediaType": kinds[2], "digest": digest(blob), "size": blob.len()}))
            .collect::<Vec<_>>(),
    });
    Built { manifest: serde_json::to_vec(&manifest).unwrap(), media_type: kinds[0], config, blobs, diff_ids }
}

/// Images on a directory of their own, with short pauses.
pub(crate) fn open(root: &Path) -> Images {
    open_with(config(root))
}

/// A room that was dropped a moment ago may be held still, by what another test has forked and not yet executed.
#[track_caller]
pub(crate) fn open_with(config: ImageConfig) -> Images {
    let began = Instant::now();
    loop {
        match Images::open(config.clone()) {
            Ok(images) => return images,
            Err(error) if began.elapsed() > Duration::from_secs(5) => panic!("{}", model::chain(&error)),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

pub(crate) fn config(root: &Path) -> ImageConfig {
    let mut config = ImageConfig::new(root);
    config.registry_config_dirs = vec![root.join("certs.d")];
    config.backoff_first = Duration::from_millis(5);
    config.stall_max = Duration::from_secs(3);
    config.measure_period = Duration::from_millis(20);
    config
}

/// What lies in the layer store: layers and leftovers.
pub(crate) fn on_disk(root: &Path) -> (Vec<String>, Vec<PathBuf>) {
    let names =
        |dir: &str| std::fs::read_dir(root.join("image").join(dir)).unwrap().map(|e| e.unwrap().path());
    let mut layers: Vec<_> =
        names("layers").map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    layers.sort();
    (layers, names("ingest").collect())
}

/// Nothing is left of any image.
pub(crate) fn assert_empty(root: &Path) {
    let (layers, ingest) = on_disk(root);
    assert!(layers.is_empty() && ingest.is_empty(), "left: {layers:?} {ingest:?}");
}
