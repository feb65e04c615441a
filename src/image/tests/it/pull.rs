//! Pulls, from a registry that misbehaves.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::StatusCode;
use image::{Images, LayerStage, Progress, PullError, PullRequest};
use model::{Classify as _, CriToken, Digest, ErrorKind, ImageId};

use crate::build::{
    Built, Put, assert_empty, build, config, digest, gzip, image, layer, noise, on_disk, open, zstd,
};
use crate::fake::{Door, Registry};

pub(crate) fn request(reference: &str) -> PullRequest {
    PullRequest { reference: reference.parse().unwrap(), auth: None, progress: None }
}

pub(crate) async fn pull(images: &Images, reference: &str) -> Result<ImageId, PullError> {
    images.pull(request(reference)).await
}

fn hex(diff_id: &str) -> &str {
    diff_id.strip_prefix("sha256:").unwrap()
}

pub(crate) fn three_layers() -> Built {
    let base =
        layer(&[("bin/", Put::Dir(0o755)), ("bin/sh", Put::File(b"#!")), ("etc/gone", Put::File(b"x"))]);
    let middle = layer(&[("bin/busybox", Put::File(&noise(1, 300_000))), ("bin/ls", Put::Link("busybox"))]);
    let top = layer(&[("etc/.wh.gone", Put::File(b"")), ("bin/.wh..wh..opq", Put::File(b""))]);
    image(&[(base, gzip), (middle, zstd), (top, <[u8]>::to_vec)], false)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stage_of_a_pull_is_timed_once_and_the_one_it_fails_in_too() {
    let root = tempfile::tempdir().unwrap();
    let metrics = telemetry::Metrics::new();
    let mut config = config(root.path());
    config.stages = metrics.stages.clone();
    let count = |stage: &str| {
        let text = metrics.encode(telemetry::Exposition::Classic);
        let of = format!("gantline_stage_duration_seconds_count{{stage=\"{stage}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&of)?.parse::<u32>().ok()).unwrap_or(0)
    };
    let (images, registry) = (Images::open(config).unwrap(), Registry::start().await);
    let name = registry.put("a/b:v1", &three_layers());
    // One that joins times nothing of its own.
    let (first, joined) = tokio::join!(pull(&images, &name), pull(&images, &name));
    assert_eq!(first.unwrap(), joined.unwrap());
    for stage in ["pull", "pull_resolve", "pull_config", "pull_layers", "pull_commit"] {
        assert_eq!(count(stage), 1, "{stage}");
    }
    for stage in ["layer", "layer_fetch", "layer_unpack"] {
        assert_eq!(count(stage), 3, "{stage}");
    }

    pull(&images, &format!("{}/a/b:absent", registry.host())).await.unwrap_err();
    assert_eq!((count("pull"), count("pull_resolve"), count("pull_config")), (2, 2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_arrives_with_its_names_and_layers() {
    let root = tempfile::tempdir().unwrap();
    let (images, registry) = (open(root.path()), Registry::start().await);
    let built = three_layers();
    let name = registry.put("a/b:v1", &built);
    let steps = Arc::new(Mutex::new(Vec::new()));
    let sink = steps.clone();
    let progress: image::ProgressSink = Arc::new(move |step| sink.lock().unwrap().push(step));
    let id = images.pull(PullRequest { progress: Some(progress), ..request(&name) }).await.unwrap();
    assert_eq!(id.as_str(), built.id());

    let found = images.find(&name).unwrap().unwrap();
    let by_digest = format!("{}/a/b@{}", registry.host(), digest(&built.manifest));
    assert_eq!((&found.repo_tags, &found.repo_digests), (&vec![name.clone()], &vec![by_digest]));
    assert_eq!((found.config.user.as_str(), found.layers.len()), ("7", 3));
    assert!(found.size > 300_000);
    let layers = root.path().join("image/layers");
    let [base, middle, top] = [0, 1, 2].map(|n| layers.join(hex(&built.diff_ids[n])));
    assert_eq!(fs::read(middle.join("bin/busybox")).unwrap(), noise(1, 300_000));
    assert_eq!(fs::read_link(middle.join("bin/ls")).unwrap(), Path::new("busybox"));
    assert_eq!(fs::metadata(base.join("bin/sh")).unwrap().permissions().mode() & 0o7777, 0o644);
    assert!(fs::symlink_metadata(top.join("etc/gone")).unwrap().file_type().is_char_device());
    assert!(on_disk(root.path()).1.is_empty());

    let steps = steps.lock().unwrap().clone();
    assert!(matches!(&steps[0], Progress::Resolved { layers, .. } if layers.len() == 3));
    assert_eq!(steps.last(), Some(&Progress::Committing));
    let done = steps.iter().filter(|s| matches!(s, Progress::Layer { stage: LayerStage::Done, .. })).count();
    assert_eq!(done, 3);

    // After a restart everything is as it was; again costs a manifest and no layer.
    let usage = images.usage();
    assert!(usage.bytes > 300_000 && usage.inodes > 5);
    drop(images);
    let images = open(root.path());
    assert_eq!((images.usage().bytes, images.list().len()), (usage.bytes, 1));
    assert_eq!(images.find(&name).unwrap().unwrap().repo_digests, found.repo_digests);
    let asked = registry.asked("/blobs/");
    pull(&images, &name).await.unwrap();
    assert_eq!(registry.asked("/blobs/"), asked + 1, "the configuration only");
    images.remove(&name).await.unwrap();
    images.remove(&name).await.unwrap();
    assert_empty(root.path());
    assert_eq!((images.usage().bytes, images.list().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_told_with_its_stage_and_leaves_nothing() {
    let tar = layer(&[("file", Put::File(&noise(2, 100_000)))]);
    let good = image(&[(tar.clone(), gzip)], true);
    let lying = build(&[(tar.clone(), gzip)], vec![format!("sha256:{}", "0".repeat(64))], false);
    let counting = build(&[(tar.clone(), gzip)], vec![], false);
    let hostile = image(&[(layer(&[("../../evil", Put::File(b"x"))]), gzip)], false);
    let junk = image(&[(noise(3, 5000), gzip)], false);
    type Case<'a> = (&'a str, &'a Built, fn(&Registry, &Built), &'a str, ErrorKind);
    let cases: Vec<Case<'_>> = vec![
        (
            "another blob",
            &good,
            |r, b| {
                let other = gzip(&layer(&[("file", Put::File(&noise(9, 100_000)))]));
                let mut other = other;
                other.resize(b.blobs[0].len(), 0);
                r.state().blobs.insert(digest(&b.blobs[0]), other.into());
            },
            "verify: the bytes have digest",
            ErrorKind::Corrupt,
        ),
        (
            "truncated",
            &good,
            |r, b| {
                let half = b.blobs[0][..b.blobs[0].len() / 2].to_vec();
                r.state().blobs.insert(digest(&b.blobs[0]), half.into());
            },
            "ended after",
            ErrorKind::Token(CriToken::RegistryUnavailable),
        ),
        (
            "too long",
            &good,
            |r, b| {
                let long = [&b.blobs[0][..], b"more"].concat();
                r.state().blobs.insert(digest(&b.blobs[0]), long.into());
            },
            "is longer than",
            ErrorKind::Internal,
        ),
        ("lying diff id", &lying, |_, _| {}, "verify: the unpacked layer has diff id", ErrorKind::Corrupt),
        ("lying count", &counting, |_, _| {}, "1 layers, the image's configuration 0", ErrorKind::Invalid),
        ("hostile", &hostile, |_, _| {}, "has .. in its path", ErrorKind::Invalid),
        ("no tar", &junk, |_, _| {}, "header checksum", ErrorKind::Invalid),
        (
            "blob gone",
            &good,
            |r, b| {
                r.state().blobs.remove(&digest(&b.blobs[0]));
            },
            "NAME_UNKNOWN: no such thing",
            ErrorKind::NotFound,
        ),
        (
            "config damaged",
            &good,
            |r, b| {
                r.state().blobs.insert(b.id(), "{}".into());
            },
            "fetch the image's configuration",
            ErrorKind::Corrupt,
        ),
        (
            "denied",
            &good,
            |r, _| r.state().statuses = vec![StatusCode::FORBIDDEN],
            "access denied (403): X: as told",
            ErrorKind::Denied,
        ),
        (
            "unauthorized",
            &good,
            |r, _| r.state().door = Door::Basic("u:p".into()),
            "authentication required (401): UNAUTHORIZED: who?",
            ErrorKind::Denied,
        ),
        (
            "failing",
            &good,
            |r, _| r.state().statuses = vec![StatusCode::BAD_GATEWAY; 50],
            "502",
            ErrorKind::Token(CriToken::RegistryUnavailable),
        ),
        (
            "busy",
            &good,
            |r, _| r.state().statuses = vec![StatusCode::TOO_MANY_REQUESTS; 50],
            "429",
            ErrorKind::Token(CriToken::RegistryUnavailable),
        ),
    ];
    for (case, built, spoil, text, kind) in cases {
        let root = tempfile::tempdir().unwrap();
        let (images, registry) = (open(root.path()), Registry::start().await);
        let name = registry.put("a:v1", built);
        spoil(&registry, built);
        let error = pull(&images, &name).await.expect_err(case);
        let told = model::chain(&error);
        assert!(told.contains(text) && told.starts_with(&format!("pull {name}")), "{case}: {told}");
        assert_eq!(error.kind(), kind, "{case}: {told}");
        assert_empty(root.path());
        assert_eq!(images.usage().bytes, 0, "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_unreachable_is_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let (images, registry) = (open(root.path()), Registry::start().await);
    let error = pull(&images, &format!("{}/absent:v1", registry.host())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    for unreachable in ["127.0.0.1:1/a:v1", "no-such-host.invalid/a:v1"] {
        let error = pull(&images, unreachable).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Token(CriToken::RegistryUnavailable), "{}", model::chain(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_transfers_are_taken_up_where_they_broke() {
    let built = image(&[(layer(&[("file", Put::File(&noise(4, 500_000)))]), <[u8]>::to_vec)], false);
    for no_ranges in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let (images, registry) = (open(root.path()), Registry::start().await);
        let name = registry.put("a:v1", &built);
        {
            let mut state = registry.state();
            (state.cut, state.no_ranges) = (Some((120_000, 3)), no_ranges);
            state.statuses = vec![StatusCode::SERVICE_UNAVAILABLE];
        }
        pull(&images, &name).await.unwrap_or_else(|e| panic!("{}", model::chain(&e)));
        let state = registry.state();
        let ranges = state.seen.iter().filter(|seen| seen.headers.contains_key("range")).count();
        assert!(ranges >= 2, "{ranges}");
        assert!(images.counters().retries.load(std::sync::atomic::Ordering::Relaxed) >= 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_says_nothing_is_given_up() {
    let root = tempfile::tempdir().unwrap();
    let mut settings = config(root.path());
    settings.stall_max = Duration::from_millis(200);
    settings.attempts_max = 2;
    let (images, registry) = (Images::open(settings).unwrap(), Registry::start().await);
    let name = registry.put("a:v1", &three_layers());
    registry.state().hang = true;
    let started = Instant::now();
    let error = pull(&images, &name).await.unwrap_err();
    assert!(model::chain(&error).contains("not a byte for"), "{}", model::chain(&error));
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_empty(root.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_gives_the_image_of_this_machine() {
    let root = tempfile::tempdir().unwrap();
    let (images, registry) = (open(root.path()), Registry::start().await);
    let built = three_layers();
    registry.put("a:own", &built);
    let descriptor = |digest: &str, arch: &str| {
        serde_json::json!({"mediaType": built.media_type, "digest": digest, "size": built.manifest.len(),
            "platform": {"os": "linux", "architecture": arch}})
    };
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let absent = format!("sha256:{}", "1".repeat(64));
    let index = serde_json::json!({"schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor(&absent, "s390x"), descriptor(&digest(&built.manifest), arch)]});
    let index = serde_json::to_vec(&index).unwrap();
    let index_digest = digest(&index);
    {
        let mut state = registry.state();
        let entry = ("application/vnd.oci.image.index.v1+json".to_owned(), index.into());
        state.manifests.insert("a/manifests/multi".into(), entry.clone());
        state.manifests.insert(format!("a/manifests/{index_digest}"), entry);
    }
    let host = registry.host();
    let id = pull(&images, &format!("{host}/a:multi")).await.unwrap();
    assert_eq!(id.as_str(), built.id());
    let found = images.find(&format!("{host}/a:multi")).unwrap().unwrap();
    assert_eq!(found.repo_digests, [format!("{host}/a@{index_digest}")]);
    // By digest: no tag is made, and the digest is a name.
    images.remove(id.as_str()).await.unwrap();
    let id = pull(&images, &format!("{host}/a:multi@{index_digest}")).await.unwrap();
    let found = images.find(id.as_str()).unwrap().unwrap();
    assert_eq!((found.repo_tags.len(), &found.repo_digests), (0, &vec![format!("{host}/a@{index_digest}")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pulls_of_one_thing_are_one_and_outlive_their_callers() {
    let root = tempfile::tempdir().unwrap();
    let (images, registry) = (open(root.path()), Registry::start().await);
    let built = three_layers();
    let name = registry.put("a:v1", &built);
    let other = registry.put("b:v1", &built);
    registry.state().delay = Duration::from_secs(1);
    let gone = tokio::time::timeout(Duration::from_millis(20), pull(&images, &name)).await;
    assert!(gone.is_err(), "the first caller went away");
    let pulls = (0..8).map(|n| {
        let (images, name) = (images.clone(), if n % 2 == 0 { name.clone() } else { other.clone() });
        tokio::spawn(async move { pull(&images, &name).await.map(|id| id.to_string()) })
    });
    for pull in pulls.collect::<Vec<_>>() {
        assert_eq!(pull.await.unwrap().unwrap(), built.id());
    }
    assert_eq!(registry.asked("/manifests/"), 2, "one for each name");
    for blob in &built.blobs {
        assert_eq!(registry.asked(&digest(blob)), 1, "each layer once, for both names");
    }
    assert_eq!(images.list().len(), 1);
    assert_eq!(images.list()[0].repo_tags, [name, other]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_fails_for_one_pull_is_had_by_the_other() {
    let root = tempfile::tempdir().unwrap();
    let (images, bad, good) = (open(root.path()), Registry::start().await, Registry::start().await);
    let built = three_layers();
    let (bad_name, good_name) = (bad.put("a:v1", &built), good.put("a:v1", &built));
    bad.state().blobs.remove(&digest(&built.blobs[1]));
    bad.state().delay = Duration::from_millis(50);
    good.state().delay = Duration::from_millis(50);
    // The one whose registry lacks a layer may have it from the other's, if they meet.
    let (_, pulled) = tokio::join!(pull(&images, &bad_name), pull(&images, &good_name));
    pulled.unwrap_or_else(|e| panic!("{}", model::chain(&e)));
    assert_eq!(on_disk(root.path()).0.len(), built.diff_ids.len());
    images.remove(&built.id()).await.unwrap();
    assert_empty(root.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moved_leaves_the_old_image_its_digest() {
    let root = tempfile::tempdir().unwrap();
    let (images, registry) = (open(root.path()), Registry::start().await);
    let old = three_layers();
    let name = registry.put("a:v1", &old);
    pull(&images, &name).await.unwrap();
    let new = image(&[(layer(&[("new", Put::File(b"new"))]), gzip)], false);
    registry.put("a:v1", &new);
    pull(&images, &name).await.unwrap();
    drop(images);
    let images = open(root.path());
    assert_eq!(images.find(&name).unwrap().unwrap().id.as_str(), new.id());
    let old = images.find(&old.id()).unwrap().unwrap();
    assert_eq!((old.repo_tags.len(), old.repo_digests.len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_layer_was_lost_is_forgotten_and_pulled_again() {
    let root = tempfile::tempdir().unwrap();
    let (images, registry) = (open(root.path()), Registry::start().await);
    let built = three_layers();
    let name = registry.put("a:v1", &built);
    pull(&images, &name).await.unwrap();
    drop(images);
    fs::remove_dir_all(root.path().join("image/layers").join(hex(&built.diff_ids[1]))).unwrap();
    let images = open(root.path());
    assert!(images.list().is_empty());
    assert_empty(root.path());
    pull(&images, &name).await.unwrap();
    drop(images);
    let images = open(root.path());
    assert_eq!((images.list().len(), on_disk(root.path()).0.len()), (1, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_cleaned_up() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting a small tmpfs needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("small");
    fs::create_dir(&root).unwrap();
    kernel::mount::tmpfs(&root, 16 << 20, 0o700, kernel::mount::Flags::default()).unwrap();
    let result = async {
        let (images, registry) = (open(&root), Registry::start().await);
        let small = registry.put("small:v1", &image(&[(layer(&[("f", Put::File(b"x"))]), gzip)], false));
        let tar = layer(&[("big", Put::File(&noise(1, 20 << 20)))]);
        let big = registry.put("big:v1", &image(&[(tar, gzip)], false));
        let failed = pull(&images, &big).await;
        let left = on_disk(&root);
        let after = pull(&images, &small).await.map(drop);
        (failed, left, after)
    }
    .await;
    kernel::mount::unmount(&root).unwrap();
    let (failed, (layers, ingest), after) = result;
    let error = failed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{}", model::chain(&error));
    assert!(
        model::chain(&error).contains("extract: unpack archive entry \"big\""),
        "{}",
        model::chain(&error)
    );
    assert!(layers.is_empty() && ingest.is_empty(), "{layers:?} {ingest:?}");
    after.unwrap_or_else(|e| panic!("{}", model::chain(&e)));
}

/// Random pulls and removals at once: the directory follows the images, and ends empty.
#[tokio::test(flavor = "multi_thread")]
async fn any_order_of_pulls_and_removals_gives_the_same_layers() {
    let seed =
        std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(u64::from(std::process::id()));
    println!("SEED={seed}");
    let mut random = noise(seed, 10_000).into_iter();
    let registry = Registry::start().await;
    let tars: Vec<_> = (0..6u64)
        .map(|n| layer(&[("d/", Put::Dir(0o755)), (&format!("d/f{n}"), Put::File(&noise(n, 4000)))]))
        .collect();
    let builts: Vec<_> = (0..8)
        .map(|n| {
            let count = 1 + usize::from(random.next().unwrap() % 4);
            let layers: Vec<_> = (0..count)
                .map(|_| {
                    (
                        tars[usize::from(random.next().unwrap()) % tars.len()].clone(),
                        gzip as fn(&[u8]) -> Vec<u8>,
                    )
                })
                .collect();
            let built = image(&layers, n % 2 == 0);
            (registry.put(&format!("i{n}:v1"), &built), built)
        })
        .collect();
    let root = tempfile::tempdir().unwrap();
    let images = open(root.path());
    for _ in 0..4 {
        let mut jobs = Vec::new();
        for (name, _) in &builts {
            let (images, name, remove) = (images.clone(), name.clone(), random.next().unwrap() < 85);
            jobs.push(tokio::spawn(async move {
                match remove {
                    true => images.remove(&name).await.unwrap(),
                    false => {
                        drop(pull(&images, &name).await.unwrap_or_else(|e| panic!("{}", model::chain(&e))))
                    }
                }
            }));
        }
        for job in jobs {
            job.await.unwrap();
        }
        let mut expected: Vec<_> = images
            .list()
            .iter()
            .flat_map(|image| {
                image.layers.iter().map(|layer: &Digest| layer.hex().to_owned()).collect::<Vec<_>>()
            })
            .collect();
        expected.sort();
        expected.dedup();
        let (layers, ingest) = on_disk(root.path());
        assert_eq!((layers, ingest.len()), (expected, 0), "seed {seed}");
    }
    for (name, _) in &builts {
        images.remove(name).await.unwrap();
    }
    assert_empty(root.path());
    assert_eq!((images.usage().bytes, images.usage().inodes), (0, 0));
}
