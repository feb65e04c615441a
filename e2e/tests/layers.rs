//! Writable layers are measured beside all that is asked for: a large one slows nobody.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::{Duration, Instant};

use e2e::bench::Times;
use e2e::{Container, Node, eventually, patient};

#[test]
fn a_layer_of_many_files_slows_nobody() {
    // A million takes minutes on a busy machine.
    let files: u64 = if std::env::var_os("GANTLINE_E2E_LONG").is_some() { 1_000_000 } else { 100_000 };
    let node = Node::start();
    let pod = node.pod("many").run();
    let (many, few) = (pod.container("many").idle().start(), pod.container("few").idle().start());
    let upper = node.config.root.join("containers").join(&many.id).join("upper/many");
    fs::create_dir(&upper).unwrap();
    for number in 0..files {
        fs::File::create(upper.join(number.to_string())).unwrap();
    }
    few.sh("head -c 1000000 /dev/zero > /file");
    let inodes = |container: &Container<'_>| {
        container.stats().writable_layer.and_then(|layer| layer.inodes_used).map_or(0, |inodes| inodes.value)
    };
    let mut times = Times::default();
    let mut ask =
        |when| drop(times.time(when, || node.cri().list_pod_sandbox_stats(Default::default())).unwrap());
    let deadline = Instant::now() + patient(Duration::from_secs(200));
    while inodes(&many) < files {
        assert!(Instant::now() < deadline, "the large layer is measured at last");
        ask("meanwhile");
    }
    (0..50).for_each(|_| ask("after"));
    let (meanwhile, after) = (times.percentile("meanwhile", 50), times.percentile("after", 50));
    assert!(
        meanwhile < 5.0 * after + 50.0,
        "an answer takes {after} ms, and {meanwhile} ms while the layer is measured"
    );
    eventually("the small one is measured too", Duration::from_secs(60), || {
        let used = few.stats().writable_layer.unwrap().used_bytes.unwrap().value;
        if used >= 1_000_000 { Ok(()) } else { Err(format!("{used} bytes")) }
    });
    // Both are in what ImageFsInfo counts.
    let filesystems = node.cri().image_fs_info(Default::default()).unwrap();
    let (images, writable) = (&filesystems.image_filesystems[0], &filesystems.container_filesystems[0]);
    assert_eq!(images.fs_id, writable.fs_id, "one file system");
    assert!(writable.inodes_used.unwrap().value > files && writable.used_bytes != images.used_bytes);
    assert!(writable.timestamp > 0);
    pod.remove();
    node.leaves_nothing();
}
