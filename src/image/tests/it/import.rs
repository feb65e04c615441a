//! Archives of every kind.

use std::fs;
use std::path::Path;

use image::ImportOptions;
use model::{Classify as _, ErrorKind};

use crate::build::{Built, Put, assert_empty, digest, gzip, image, layer, noise, open, zstd};

fn built() -> Built {
    let base = layer(&[("bin/", Put::Dir(0o755)), ("bin/sh", Put::File(&noise(1, 50_000)))]);
    let top = layer(&[("etc/motd", Put::File(b"hello"))]);
    image(&[(base, gzip), (top, <[u8]>::to_vec)], false)
}

fn put(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn oci(dir: &Path, built: &Built, name: &str) {
    for blob in built.blobs.iter().chain([&built.config, &built.manifest]) {
        put(dir, &format!("blobs/{}", digest(blob).replace(':', "/")), blob);
    }
    put(dir, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let entry = |digest: String, annotations: serde_json::Value, os: &str| {
        serde_json::json!({"mediaType": built.media_type, "digest": digest, "size": built.manifest.len(),
            "annotations": annotations, "platform": {"os": os, "architecture": "amd64"}})
    };
    let absent = format!("sha256:{}", "2".repeat(64));
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [
        entry(absent, serde_json::json!({}), "unknown"),
        entry(digest(&built.manifest), serde_json::json!({"org.opencontainers.image.ref.name": name}), "linux"),
    ]});
    put(dir, "index.json", index.to_string().as_bytes());
}

fn docker(dir: &Path, built: &Built, tar_of: &[Vec<u8>]) {
    put(dir, "config.json", &built.config);
    let layers: Vec<_> = (0..tar_of.len()).map(|n| format!("l{n}/layer.tar")).collect();
    for (name, tar) in layers.iter().zip(tar_of) {
        put(dir, name, tar);
    }
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": ["app:v2"], "Layers": layers}]);
    put(dir, "manifest.json", manifest.to_string().as_bytes());
}

fn tar_of(dir: &Path) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(".", dir).unwrap();
    builder.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_archive_gives_the_same_image() {
    let built = built();
    let work = tempfile::tempdir().unwrap();
    let (oci_dir, docker_dir) = (work.path().join("oci"), work.path().join("docker"));
    oci(&oci_dir, &built, "docker.io/library/app:v1");
    let gunzip = |bytes: &[u8]| {
        let mut out = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes), &mut out).unwrap();
        out
    };
    docker(&docker_dir, &built, &[gunzip(&built.blobs[0]), built.blobs[1].clone()]);
    let files = [
        ("oci.tar", tar_of(&oci_dir)),
        ("oci.tar.gz", gzip(&tar_of(&oci_dir))),
        ("oci.tar.zst", zstd(&tar_of(&oci_dir))),
        ("docker.tar", tar_of(&docker_dir)),
        ("docker.tar.gz", gzip(&tar_of(&docker_dir))),
    ];
    for (name, bytes) in &files {
        put(work.path(), name, bytes);
    }
    for name in files.iter().map(|(name, _)| *name).chain(["oci", "docker"]) {
        let root = tempfile::tempdir().unwrap();
        let images = open(root.path());
        let imported = images.import(&work.path().join(name), ImportOptions::default()).await;
        let imported = imported.unwrap_or_else(|e| panic!("{name}: {}", model::chain(&e)));
        assert_eq!((imported.len(), imported[0].id.as_str()), (1, &*built.id()), "{name}");
        let tag = if name.starts_with("oci") { "app:v1" } else { "app:v2" };
        let found = images.find(tag).unwrap().unwrap_or_else(|| panic!("{name}: {:?}", imported[0].names));
        assert_eq!(found.repo_digests.len(), usize::from(name.starts_with("oci")), "{name}");
        images.remove(tag).await.unwrap();
        let options = ImportOptions { name: Some("localhost/mine:3".parse().unwrap()) };
        let imported = images.import(&work.path().join(name), options).await.unwrap();
        assert_eq!(
            images.find("localhost/mine:3").unwrap().unwrap().repo_tags,
            ["localhost/mine:3"],
            "{imported:?}"
        );
        assert!(images.find("app").unwrap().is_none());
        images.remove(imported[0].id.as_str()).await.unwrap();
        assert_empty(root.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_archives_are_told_and_leave_nothing() {
    let built = built();
    let work = tempfile::tempdir().unwrap();
    let spoiled = |name: &str, spoil: &dyn Fn(&Path)| {
        let dir = work.path().join(name);
        oci(&dir, &built, "app:v1");
        spoil(&dir);
        dir
    };
    let blob = |bytes: &[u8]| format!("blobs/{}", digest(bytes).replace(':', "/"));
    let cases = [
        (work.path().join("absent"), "open", ErrorKind::NotFound),
        (
            spoiled("no-index", &|dir| fs::remove_file(dir.join("index.json")).unwrap()),
            "neither",
            ErrorKind::Invalid,
        ),
        (spoiled("bad-index", &|dir| put(dir, "index.json", b"{")), "read index.json", ErrorKind::Invalid),
        (
            spoiled("no-layer", &|dir| fs::remove_file(dir.join(blob(&built.blobs[0]))).unwrap()),
            "it has no file",
            ErrorKind::Invalid,
        ),
        (
            spoiled("bad-layer", &|dir| put(dir, &blob(&built.blobs[1]), &noise(5, built.blobs[1].len()))),
            "verify: the bytes have digest",
            ErrorKind::Corrupt,
        ),
        (
            spoiled("bad-config", &|dir| put(dir, &blob(&built.config), b"{}")),
            "does not have the digest",
            ErrorKind::Corrupt,
        ),
        (
            spoiled("link-out", &|dir| {
                let path = dir.join(blob(&built.blobs[0]));
                fs::remove_file(&path).unwrap();
                std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
            }),
            "read the archive",
            ErrorKind::Internal,
        ),
    ];
    for (path, text, kind) in cases {
        let root = tempfile::tempdir().unwrap();
        let images = open(root.path());
        let error = images.import(&path, ImportOptions::default()).await.unwrap_err();
        let told = model::chain(&error);
        assert!(told.contains(text), "{told}");
        assert_eq!(error.kind(), kind, "{told}");
        assert_empty(root.path());
    }
}
