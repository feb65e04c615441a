//! Mounts made for real in a temporary directory; as another user than root they say why they skip.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// The ids of a user namespace for tests: 0 is this on the host.
const FIRST_ID: u32 = 300_000;

/// A directory that takes its mounts with it.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return None;
        }
        Some(Self(tempfile::tempdir().unwrap()))
    }

    fn dir(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        unmount_below(self.0.path()).unwrap();
    }
}

fn options_of(path: &Path) -> Vec<String> {
    holding(path).unwrap().options
}

#[test]
fn an_overlay_of_five_hundred_layers_shows_the_top_one_and_takes_writes() {
    let Some(scratch) = Scratch::new() else { return };
    // overlayfs takes 500 lower layers.
    let lower: Vec<PathBuf> = (0..500).map(|n| scratch.dir(&format!("layer-{n}"))).collect();
    fs::write(lower[0].join("name"), "top").unwrap();
    fs::write(lower[499].join("name"), "bottom").unwrap();
    fs::write(lower[499].join("base"), "base").unwrap();
    let (upper, work, target) = (scratch.dir("upper"), scratch.dir("work"), scratch.dir("rootfs"));
    let spec = Overlay { lower: &lower, upper: Some(&upper), work: Some(&work), ..Overlay::default() };
    overlay(&spec, &target).unwrap();
    assert_eq!(fs::read_to_string(target.join("name")).unwrap(), "top");
    assert_eq!(fs::read_to_string(target.join("base")).unwrap(), "base");
    fs::write(target.join("new"), "new").unwrap();
    assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "new");
    assert_eq!(holding(&target).unwrap().file_system, "overlay");
}

#[test]
fn an_overlay_without_an_upper_layer_is_read_only() {
    let Some(scratch) = Scratch::new() else { return };
    for count in [1, 2] {
        let lower: Vec<PathBuf> = (0..count).map(|n| scratch.dir(&format!("lower-{n}"))).collect();
        let target = scratch.dir(&format!("view-{count}"));
        overlay(&Overlay { lower: &lower, ..Overlay::default() }, &target).unwrap();
        let error = fs::write(target.join("new"), "").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem, "{count} layers");
    }
}

#[test]
fn an_overlay_that_cannot_be_names_the_layer_and_leaves_nothing() {
    let Some(scratch) = Scratch::new() else { return };
    let target = scratch.dir("rootfs");
    let lower = [scratch.dir("a"), scratch.0.path().join("absent")];
    let error = overlay(&Overlay { lower: &lower, ..Overlay::default() }, &target).unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
    let error = overlay(&Overlay::default(), &target).unwrap_err();
    assert!(error.source.to_string().contains("no lower layer"), "{error}");
    assert_eq!(below(&table().unwrap(), &target), Vec::<&MountInfo>::new());
}

#[test]
fn binds_have_their_flags_and_are_private() {
    let Some(scratch) = Scratch::new() else { return };
    let source = scratch.dir("source");
    let target = scratch.dir("target");
    let cases = [
        (Flags::default(), "rw", ""),
        (Flags::READ_ONLY, "ro", ""),
        (Flags::PLAIN, "rw", "nosuid,nodev,noexec"),
        (Flags { recursive: true, ..Flags::PLAIN }, "rw", "nosuid,nodev,noexec"),
    ];
    for (flags, access, rest) in cases {
        for bind in [bind, bind_classic] {
            bind(&source, &target, flags).unwrap();
            let options = options_of(&target);
            assert!(options.iter().any(|o| o == access), "{flags:?}: {options:?}");
            for option in rest.split(',').filter(|o| !o.is_empty()) {
                assert!(options.iter().any(|o| o == option), "{flags:?}: {options:?}");
            }
            assert_eq!(propagation(&target).unwrap(), Propagation::Private);
            unmount(&target).unwrap();
        }
    }
}

#[test]
fn a_recursive_read_only_bind_covers_what_lies_below() {
    let Some(scratch) = Scratch::new() else { return };
    let source = scratch.dir("source");
    let inner = scratch.dir("source/inner");
    tmpfs(&inner, 1 << 20, 0o755, Flags::default()).unwrap();
    let (all, top) = (scratch.dir("all"), scratch.dir("top"));
    bind(&source, &all, Flags { recursive: true, ..Flags::READ_ONLY }).unwrap();
    bind(&source, &top, Flags::READ_ONLY).unwrap();
    assert!(options_of(&all.join("inner")).contains(&"ro".to_owned()));
    assert_eq!(holding(&top.join("inner")).unwrap().mount_point, top, "not recursive");
    assert!(bind_classic(&source, &top, Flags { recursive: true, ..Flags::READ_ONLY }).is_err());
}

#[test]
fn a_tmpfs_has_its_size_and_mode() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(scratch) = Scratch::new() else { return };
    let target = scratch.dir("shm");
    tmpfs(&target, 64 << 20, 0o1777, Flags::PLAIN).unwrap();
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o1777);
    let stat = rustix::fs::statfs(&target).unwrap();
    assert_eq!(stat.f_blocks * u64::try_from(stat.f_bsize).unwrap(), 64 << 20);
}

#[test]
fn unmounting_is_idempotent_and_takes_a_whole_stack() {
    let Some(scratch) = Scratch::new() else { return };
    let target = scratch.dir("target");
    for _ in 0..3 {
        tmpfs(&target, 1 << 20, 0o755, Flags::default()).unwrap();
    }
    fs::create_dir(target.join("below")).unwrap();
    tmpfs(&target.join("below"), 1 << 20, 0o755, Flags::default()).unwrap();
    unmount(&target).unwrap();
    unmount(&target).unwrap();
    unmount(&scratch.0.path().join("absent")).unwrap();
    unmount(&scratch.0.path().join("absent/further")).unwrap();
    assert_eq!(below(&table().unwrap(), scratch.0.path()), Vec::<&MountInfo>::new());
}

#[test]
fn propagation_is_that_of_the_mount_that_holds_the_path() {
    let Some(scratch) = Scratch::new() else { return };
    let target = scratch.dir("target");
    tmpfs(&target, 1 << 20, 0o755, Flags::default()).unwrap();
    fs::create_dir_all(target.join("deep/er")).unwrap();
    for wanted in [Propagation::Shared, Propagation::Private, Propagation::Unbindable] {
        set_propagation(&target, wanted, false).unwrap();
        assert_eq!(propagation(&target.join("deep/er")).unwrap(), wanted);
    }
    make_private(&target).unwrap();
    set_propagation(&target, Propagation::Shared, false).unwrap();
    let peer = scratch.dir("peer");
    mount_bind(&target, &peer).unwrap();
    set_propagation(&peer, Propagation::Slave, false).unwrap();
    assert_eq!(propagation(&peer).unwrap(), Propagation::Slave);
}

#[test]
fn mountinfo_lines_are_read_and_others_refused() {
    let line = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 x:y - ext3 /dev/a\\134b rw,errors=continue\n";
    let [mount] = parse(line).unwrap().try_into().unwrap();
    assert_eq!((mount.id, mount.parent), (36, 35));
    assert_eq!(mount.mount_point, Path::new("/mnt 2"));
    assert_eq!(mount.source, "/dev/a\\b");
    assert_eq!(mount.options, ["rw", "noatime"]);
    assert_eq!(mount.propagation(), Propagation::Shared);
    for bad in ["1", "a b c d e f - g h i", "36 35 98:0 / /x rw shared:1", "36 35 98:0 / /x rw - ext4 dev"] {
        assert!(parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

/// A user namespace pinned in a directory of this test's.
fn pinned_user(scratch: &Scratch) -> PathBuf {
    use crate::namespace::{IdMaps, IdRange, create_pinned_with_user};
    let pin = scratch.dir("pins").join("user");
    let range = [IdRange { inside: 0, outside: FIRST_ID, length: 65_536 }];
    create_pinned_with_user(&pin, IdMaps { users: &range, groups: &range }, &[]).unwrap();
    pin
}

#[test]
fn id_mapped_layers_show_the_ids_of_a_user_namespace() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let Some(scratch) = Scratch::new() else { return };
    let user = pinned_user(&scratch);
    let lower: Vec<PathBuf> = (0..3).map(|n| scratch.dir(&format!("layer-{n}"))).collect();
    fs::write(lower[0].join("of-root"), "top").unwrap();
    fs::write(lower[2].join("of-1000"), "bottom").unwrap();
    chown(lower[2].join("of-1000"), Some(1000), Some(1001)).unwrap();
    let (upper, work, target) = (scratch.dir("upper"), scratch.dir("work"), scratch.dir("rootfs"));
    let spec =
        Overlay { lower: &lower, upper: Some(&upper), work: Some(&work), options: &[], ..Default::default() };
    let here = || below(&table().unwrap(), scratch.0.path()).len();
    let before = here();
    overlay_mapped(&spec, &user, &target).unwrap();
    assert_eq!(here(), before + 1, "only the overlay is seen here");
    assert_eq!(holding(&target).unwrap().file_system, "overlay");
    let owner = |path: PathBuf| fs::metadata(path).map(|found| (found.uid(), found.gid())).unwrap();
    assert_eq!(owner(target.join("of-root")), (FIRST_ID, FIRST_ID));
    assert_eq!(owner(target.join("of-1000")), (FIRST_ID + 1000, FIRST_ID + 1001));
    assert_eq!(owner(lower[2].join("of-1000")), (1000, 1001), "the layer itself is as it was");
    // What is changed is copied up with the owner that the container sees.
    fs::write(target.join("of-1000"), "changed").unwrap();
    assert_eq!(owner(upper.join("of-1000")), (FIRST_ID + 1000, FIRST_ID + 1001));
    unmount(&target).unwrap();
}

#[test]
fn a_file_system_without_id_mapped_mounts_is_named() {
    let Some(scratch) = Scratch::new() else { return };
    let user = pinned_user(&scratch);
    // procfs has none on any kernel.
    let lower = [PathBuf::from("/proc/sys"), scratch.dir("lower")];
    let target = scratch.dir("rootfs");
    let error = overlay_mapped(&Overlay { lower: &lower, ..Overlay::default() }, &user, &target).unwrap_err();
    assert_eq!(error.to_string(), "id-map /proc/sys");
    assert_eq!(error.source.to_string(), "the file system proc has no id-mapped mounts on this kernel",);
    assert!(below(&table().unwrap(), &target).is_empty());

    // The same of a mount: with what lies below it.
    let fd = fs::File::open(&user).unwrap();
    let volume = scratch.dir("volume");
    check_id_mapped(&volume, fd.as_fd()).unwrap();
    bind(Path::new("/proc/sys"), &scratch.dir("volume/below"), Flags::default()).unwrap();
    let error = check_id_mapped(&volume, fd.as_fd()).unwrap_err();
    assert_eq!(error.to_string(), format!("id-map {}", volume.join("below").display()));
}
