//! Killed with SIGKILL at any moment, the store is whole at the next start.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use image::PullRequest;

use crate::build::{Put, assert_empty, gzip, image, layer, noise, on_disk, open};
use crate::fake::Registry;

const ROOT: &str = "GANTLINE_TEST_CRASH_ROOT";
const NAMES: &str = "GANTLINE_TEST_CRASH_NAMES";

/// Not a test by itself: the process that is killed. Pulls and removes until then.
#[tokio::test(flavor = "multi_thread")]
async fn victim() {
    let (Ok(root), Ok(names)) = (std::env::var(ROOT), std::env::var(NAMES)) else { return };
    let images = open(Path::new(&root));
    let names: Vec<_> = names.split(',').map(str::to_owned).collect();
    for round in 0.. {
        let mut jobs = Vec::new();
        for (n, name) in names.iter().enumerate() {
            let (images, name, remove) = (images.clone(), name.clone(), (round + n) % 3 == 2);
            jobs.push(tokio::spawn(async move {
                if remove {
                    images.remove(&name).await.unwrap();
                } else {
                    let request =
                        PullRequest { reference: name.parse().unwrap(), auth: None, progress: None };
                    let _ = images.pull(request).await;
                }
            }));
        }
        for job in jobs {
            job.await.unwrap();
        }
    }
}

struct Victim(Child);

impl Victim {
    fn start(root: &Path, names: &[String]) -> Self {
        let mut command = kernel::process::command(std::env::current_exe().unwrap());
        command.args(["--exact", "crash::victim", "--nocapture"]).env(ROOT, root).env(NAMES, names.join(","));
        Self(command.stdout(std::process::Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_killed_in_the_middle_leaves_nothing() {
    let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let tar = layer(&[("file", Put::File(&noise(1, 1_000_000)))]);
    let name = registry.put("a:v1", &image(&[(tar, gzip)], false));
    registry.state().hang = true;
    let victim = Victim::start(dir.path(), &[name]);
    let started = Instant::now();
    let ingest = dir.path().join("image/ingest");
    let unpacking = || {
        let dirs = fs::read_dir(&ingest).into_iter().flatten().flatten();
        dirs.map(|dir| dir.path().join("file")).any(|file| file.exists())
    };
    while !unpacking() {
        assert!(started.elapsed() < Duration::from_secs(20), "the victim does nothing");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(victim);
    assert_eq!(on_disk(dir.path()).1.len(), 1, "there is something to sweep");
    let images = open(dir.path());
    assert_empty(dir.path());
    assert_eq!((images.list().len(), images.usage().bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_the_store_is_whole() {
    let seed =
        std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(u64::from(std::process::id()));
    println!("SEED={seed}");
    let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let names: Vec<_> = (0..4u64)
        .map(|n| {
            let layers = [n, n + 1].map(|f| layer(&[(&format!("f{f}"), Put::File(&noise(f, 200_000)))]));
            registry.put(
                &format!("i{n}:v1"),
                &image(&layers.map(|tar| (tar, gzip as fn(&[u8]) -> Vec<u8>)), false),
            )
        })
        .collect();
    for (round, byte) in noise(seed, 12).into_iter().enumerate() {
        let victim = Victim::start(dir.path(), &names);
        tokio::time::sleep(Duration::from_millis(u64::from(byte) + 20)).await;
        drop(victim);
        let images = open(dir.path());
        let used: BTreeSet<_> = images
            .list()
            .iter()
            .flat_map(|image| image.layers.iter().map(|digest| digest.hex().to_owned()).collect::<Vec<_>>())
            .collect();
        let (layers, ingest) = on_disk(dir.path());
        assert_eq!((Vec::from_iter(used), ingest.len()), (layers.clone(), 0), "seed {seed} round {round}");
        for layer in layers {
            let dir = dir.path().join("image/layers").join(layer);
            for file in fs::read_dir(dir).unwrap() {
                let file = file.unwrap();
                let n = file.file_name().to_string_lossy()[1..].parse().unwrap();
                assert!(fs::read(file.path()).unwrap() == noise(n, 200_000), "seed {seed} round {round}");
            }
        }
    }
    let images = open(dir.path());
    for name in &names {
        images.remove(name).await.unwrap();
    }
    assert_empty(dir.path());
}
