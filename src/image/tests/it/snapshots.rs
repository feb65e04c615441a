//! What every snapshotter must do, and that ours does.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use image::{Image, Images, ImportOptions, Mapped, Overlay, Seen, SnapshotError, Snapshots};
use kernel::namespace::{IdMaps, IdRange, create_pinned_with_user, unpin};
use model::{Classify as _, ContainerId, ErrorKind, UserNamespace};

use crate::build::{Built, Put, assert_empty, digest, gzip, image, layer, noise, on_disk, open};

/// Unmounts what a failing test leaves.
struct Mounts<'a>(&'a Path);

impl Drop for Mounts<'_> {
    fn drop(&mut self) {
        let _ = kernel::mount::unmount_below(self.0);
    }
}

fn container(n: u8) -> ContainerId {
    ContainerId::from_bytes([n; 32])
}

async fn bring(images: &Images, dir: &Path, name: &str, built: &Built) -> Image {
    let archive = dir.join("archive");
    let _ = fs::remove_dir_all(&archive);
    for blob in built.blobs.iter().chain([&built.config, &built.manifest]) {
        let path = archive.join("blobs").join(digest(blob).replace(':', "/"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, blob).unwrap();
    }
    let index = serde_json::json!({"manifests": [{"digest": digest(&built.manifest), "size": 1}]});
    fs::write(archive.join("index.json"), index.to_string()).unwrap();
    let options = ImportOptions { name: Some(name.parse().unwrap()) };
    images.import(&archive, options).await.unwrap_or_else(|e| panic!("{}", model::chain(&e)));
    (*images.find(name).unwrap().unwrap()).clone()
}

fn is_mounted(path: &Path) -> bool {
    path.exists() && fs::metadata(path).unwrap().dev() != fs::metadata(path.parent().unwrap()).unwrap().dev()
}

/// The suite: run it with any implementation.
async fn suite<S: Snapshots>(make: impl Fn(&Images) -> S) {
    let dir = tempfile::tempdir().unwrap();
    let _mounts = Mounts(dir.path());
    let root = dir.path().join("root");
    let images = open(&root);
    let snapshots = make(&images);
    let base = layer(&[
        ("./", Put::Dir(0o751)),
        ("bin/", Put::Dir(0o755)),
        ("bin/sh", Put::File(b"old")),
        ("etc/", Put::Dir(0o755)),
        ("etc/gone", Put::File(b"x")),
        ("opt/", Put::Dir(0o755)),
        ("opt/hidden", Put::File(b"x")),
        ("tmp/", Put::Dir(0o1777)),
    ]);
    let top = layer(&[
        ("bin/sh", Put::File(b"new")),
        ("bin/hard", Put::Hard("bin/sh")),
        ("etc/.wh.gone", Put::File(b"")),
        ("opt/.wh..wh..opq", Put::File(b"")),
        ("opt/seen", Put::File(b"y")),
        ("tmp/left", Put::File(b"z")),
    ]);
    let two = image(&[(base.clone(), gzip), (top, gzip)], false);
    let image_of_two = bring(&images, dir.path(), "localhost/two:1", &two).await;
    let rootfs = dir.path().join("state/rootfs");

    // A container's root filesystem is the image's, and writable.
    snapshots.prepare(&container(1), &image_of_two, &rootfs, Seen::default()).unwrap();
    assert_eq!(fs::read(rootfs.join("bin/sh")).unwrap(), b"new");
    assert_eq!(
        fs::metadata(rootfs.join("bin/sh")).unwrap().ino(),
        fs::metadata(rootfs.join("bin/hard")).unwrap().ino()
    );
    assert!(!rootfs.join("etc/gone").exists() && rootfs.join("etc").exists());
    let opt: Vec<_> = fs::read_dir(rootfs.join("opt")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(opt, ["seen"], "an opaque directory hides what lies below");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&rootfs), 0o751, "the root is as the layer says that says");
    assert_eq!(mode(&rootfs.join("tmp")), 0o1777, "an implied directory keeps what the base says");
    fs::write(rootfs.join("data"), noise(1, 100_000)).unwrap();
    let measured = || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        snapshots.usage(&container(1)).unwrap()
    };
    let usage = (0..500).map(|_| measured()).find(|usage| usage.bytes >= 100_000).unwrap();
    assert!((100_000..300_000).contains(&usage.bytes) && usage.inodes == 2, "{usage:?}");
    assert_eq!(images.writable_usage().mountpoint, images.usage().mountpoint, "one file system, one name");
    assert!(images.writable_usage().bytes >= 100_000);
    assert!(snapshots.upper(&container(1)).join("data").exists());

    // Another of the same image sees nothing of it.
    let other = dir.path().join("state/other");
    snapshots.prepare(&container(2), &image_of_two, &other, Seen::default()).unwrap();
    assert!(!other.join("data").exists());

    // The same once more, as a retry after a crash does.
    snapshots.unmount(&other).unwrap();
    snapshots.prepare(&container(2), &image_of_two, &other, Seen::default()).unwrap();

    // Unmounted and mounted again, the data is there.
    snapshots.unmount(&rootfs).unwrap();
    snapshots.unmount(&rootfs).unwrap();
    assert!(!is_mounted(&rootfs));
    snapshots.prepare(&container(1), &image_of_two, &rootfs, Seen::default()).unwrap();
    assert!(rootfs.join("data").exists());

    // The image may go: its layers stay as long as they are used, over a restart too.
    images.remove("localhost/two:1").await.unwrap();
    assert!(images.list().is_empty());
    assert_eq!(fs::read(rootfs.join("bin/sh")).unwrap(), b"new");
    let gone =
        snapshots.prepare(&container(3), &image_of_two, &dir.path().join("state/late"), Seen::default());
    gone.unwrap();
    snapshots.unmount(&dir.path().join("state/late")).unwrap();
    snapshots.remove(&container(3)).unwrap();
    drop((snapshots, images));
    let images = open(&root);
    let snapshots = make(&images);
    assert_eq!(snapshots.containers(), [container(1), container(2)]);
    snapshots.prepare(&container(1), &image_of_two, &rootfs, Seen::default()).unwrap();
    assert!(rootfs.join("data").exists() && rootfs.join("opt/seen").exists());
    for (n, path) in [(1, &rootfs), (2, &other)] {
        snapshots.unmount(path).unwrap();
        snapshots.remove(&container(n)).unwrap();
        snapshots.remove(&container(n)).unwrap();
    }
    assert_empty(&root);
    assert!(snapshots.containers().is_empty());
    assert_eq!(fs::read_dir(root.join("containers")).unwrap().count(), 0);

    // What is not there is told.
    let error = snapshots.prepare(&container(4), &image_of_two, &rootfs, Seen::default()).unwrap_err();
    assert!(matches!(error, SnapshotError::LayerMissing { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(snapshots.containers().is_empty(), "and leaves nothing");
    assert_eq!(snapshots.usage(&container(4)), None);
    assert_eq!(
        snapshots.view("a/b", &image_of_two, &rootfs, Seen::default()).unwrap_err().kind(),
        ErrorKind::Invalid
    );

    views(&snapshots, &images, dir.path(), &root, base).await;
}

/// Read-only views, of images with any number of layers.
async fn views(snapshots: &impl Snapshots, images: &Images, dir: &Path, root: &Path, base: Vec<u8>) {
    let target = dir.join("view");
    for layers in [vec![], vec![base.clone()], vec![base.clone(), base.clone()]] {
        let count = layers.len();
        let built =
            image(&layers.into_iter().map(|l| (l, gzip as fn(&[u8]) -> Vec<u8>)).collect::<Vec<_>>(), false);
        let found = bring(images, dir, "localhost/view:1", &built).await;
        snapshots
            .view("v", &found, &target, Seen::default())
            .unwrap_or_else(|e| panic!("{count}: {}", model::chain(&e)));
        assert!(is_mounted(&target));
        assert_eq!(target.join("bin/sh").exists(), count > 0);
        let denied = fs::write(target.join("x"), "x").unwrap_err();
        assert_eq!(denied.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        images.remove("localhost/view:1").await.unwrap();
        assert_eq!(snapshots.views(), ["v"]);
        assert_eq!(on_disk(root).0.len(), count.min(1), "held by the view");
        snapshots.remove_view("v", &target).unwrap();
        snapshots.remove_view("v", &target).unwrap();
        assert!(snapshots.views().is_empty());
        assert_empty(root);
        // As a container, too.
        let found = bring(images, dir, "localhost/view:1", &built).await;
        snapshots.prepare(&container(9), &found, &target, Seen::default()).unwrap();
        fs::write(target.join("x"), "x").unwrap();
        snapshots.unmount(&target).unwrap();
        snapshots.remove(&container(9)).unwrap();
        mapped(snapshots, &found, dir, count > 0);
        labelled(snapshots, &found, dir);
        images.remove("localhost/view:1").await.unwrap();
        assert_empty(root);
    }
}

/// Whatever mounts for somebody with an SELinux label tells the kernel of it: one without SELinux does not know the word.
fn labelled(snapshots: &impl Snapshots, image: &Image, dir: &Path) {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        return println!("skipped: this kernel has SELinux, and would take the label");
    }
    let seen = Seen { label: Some("system_u:object_r:container_file_t:s0:c1,c2"), user: None };
    let target = dir.join("labelled");
    let refused = [
        snapshots.prepare(&container(9), image, &target, seen).unwrap_err(),
        snapshots.view("labelled", image, &target, seen).unwrap_err(),
    ];
    for error in refused {
        let said = model::chain(&error);
        assert!(said.contains("nknown parameter 'context'") || said.contains("Invalid argument"), "{said}");
    }
    assert!(snapshots.containers().is_empty() && snapshots.views().is_empty() && !is_mounted(&target));
}

/// The same for a user namespace, as a container and as a view: its ids, the layers untouched.
fn mapped(snapshots: &impl Snapshots, image: &Image, dir: &Path, has_files: bool) {
    const FIRST: u32 = 300_000;
    let pin = dir.join("user");
    let ids = [IdRange { inside: 0, outside: FIRST, length: 65_536 }];
    create_pinned_with_user(&pin, IdMaps { users: &ids, groups: &ids }, &[]).unwrap();
    let mapping = vec![model::IdMapping { host_id: FIRST, container_id: 0, length: 65_536 }];
    let ids = UserNamespace { uids: mapping.clone(), gids: mapping };
    let user = Seen { user: Some(Mapped { namespace: &pin, ids: &ids }), label: None };
    let target = dir.join("view");
    let owner = |path: &Path| fs::metadata(path).map(|found| (found.uid(), found.gid())).unwrap();
    snapshots.prepare(&container(9), image, &target, user).unwrap();
    assert_eq!(owner(&target), (FIRST, FIRST), "the root");
    if has_files {
        assert_eq!(owner(&target.join("bin/sh")), (FIRST, FIRST));
        fs::write(target.join("bin/sh"), "changed").unwrap();
        assert_eq!(owner(&snapshots.upper(&container(9)).join("bin/sh")), (FIRST, FIRST), "copied up");
    }
    snapshots.unmount(&target).unwrap();
    snapshots.prepare(&container(9), image, &target, user).unwrap();
    assert_eq!(owner(&target), (FIRST, FIRST), "again");
    snapshots.unmount(&target).unwrap();
    snapshots.remove(&container(9)).unwrap();
    snapshots.view("v", image, &target, user).unwrap();
    assert!(!has_files || owner(&target.join("bin/sh")) == (FIRST, FIRST));
    snapshots.remove_view("v", &target).unwrap();
    unpin(&pin).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn overlay_snapshots() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting overlayfs needs root");
        return;
    }
    suite(|images| Overlay::new(images).unwrap()).await;
}

/// Everything that a directory shows: by name, what it is.
fn shown(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let m = fs::symlink_metadata(&path).unwrap();
        let mut is = format!("{:o} {}:{} dev {} mtime {}", m.mode(), m.uid(), m.gid(), m.rdev(), m.mtime());
        if m.is_symlink() {
            is += &format!(" to {:?}", fs::read_link(&path).unwrap());
        } else if m.is_file() {
            let mut value = [0; 64];
            let xattr = rustix::fs::getxattr(&path, "user.note", &mut value).unwrap_or(0);
            is += &format!(" links {} note {xattr} sha {}", m.nlink(), digest(&fs::read(&path).unwrap()));
        } else if m.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path.strip_prefix(root).unwrap().to_owned(), is);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writable_layer_goes_through_a_tar_and_is_what_it_was() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting overlayfs needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _mounts = Mounts(dir.path());
    let images = open(&dir.path().join("root"));
    let base = layer(&[
        ("./", Put::Dir(0o755)),
        ("etc/", Put::Dir(0o755)),
        ("etc/gone", Put::File(b"x")),
        ("opt/", Put::Dir(0o755)),
        ("opt/below", Put::File(b"x")),
        ("kept", Put::File(b"x")),
    ]);
    let found = bring(&images, dir.path(), "localhost/diff:1", &image(&[(base, gzip)], false)).await;
    let snapshots = Overlay::new(&images).unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    snapshots.prepare(&container(1), &found, &one, Seen::default()).unwrap();

    fs::remove_file(one.join("etc/gone")).unwrap();
    fs::remove_dir_all(one.join("opt")).unwrap();
    fs::create_dir(one.join("opt")).unwrap();
    let long = one.join("deep").join("n".repeat(120)).join("m".repeat(120));
    fs::create_dir_all(long.parent().unwrap()).unwrap();
    fs::write(&long, noise(3, 70_000)).unwrap();
    let noted = rustix::fs::setxattr(&long, "user.note", b"x\0y", rustix::fs::XattrFlags::empty()).is_ok();
    assert!(noted, "this file system keeps attributes of users");
    fs::hard_link(&long, one.join("twin")).unwrap();
    std::os::unix::fs::symlink("../nowhere", one.join("link")).unwrap();
    std::os::unix::fs::chown(&long, Some(1234), Some(5_000_000)).unwrap();
    fs::set_permissions(&long, fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(&one, fs::Permissions::from_mode(0o1750)).unwrap();
    for (name, kind, device) in [
        ("pipe", rustix::fs::FileType::Fifo, 0),
        ("null", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
    ] {
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, one.join(name), kind, mode, device).unwrap();
    }
    let _socket = std::os::unix::net::UnixListener::bind(one.join("socket")).unwrap();

    let tar = dir.path().join("diff.tar");
    snapshots.write_diff(&container(1), &mut fs::File::create(&tar).unwrap()).unwrap();
    snapshots.prepare_from(&container(2), &found, Some(&tar), &two, Seen::default()).unwrap();
    let mut expected = shown(&one);
    assert!(expected.remove(Path::new("socket")).is_some(), "no tar has it");
    assert_eq!(shown(&two), expected);
    assert!(!two.join("etc/gone").exists() && !two.join("opt/below").exists());

    // One that is no tar leaves nothing.
    fs::write(&tar, noise(5, 4096)).unwrap();
    let three = dir.path().join("three");
    let error =
        snapshots.prepare_from(&container(3), &found, Some(&tar), &three, Seen::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", model::chain(&error));
    assert!(!snapshots.upper(&container(3)).exists() && !is_mounted(&three));
}

/// Prints what CreateContainer waits for.
#[tokio::test(flavor = "multi_thread")]
async fn preparing_is_quick() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting overlayfs needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _mounts = Mounts(dir.path());
    let images = open(&dir.path().join("root"));
    let layers: Vec<_> = (0..10u64)
        .map(|n| (layer(&[(&format!("f{n}"), Put::File(&noise(n, 10)))]), gzip as fn(&[u8]) -> Vec<u8>))
        .collect();
    let found = bring(&images, dir.path(), "localhost/ten:1", &image(&layers, false)).await;
    let snapshots = Overlay::new(&images).unwrap();
    let rootfs = dir.path().join("rootfs");
    let mut times = Vec::new();
    for n in 0..40 {
        let started = Instant::now();
        snapshots.prepare(&container(n), &found, &rootfs, Seen::default()).unwrap();
        times.push(started.elapsed());
        snapshots.unmount(&rootfs).unwrap();
        snapshots.remove(&container(n)).unwrap();
    }
    times.sort();
    println!("prepare, 10 layers: p50 {:?}, p95 {:?}", times[20], times[38]);
}
