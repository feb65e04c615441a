//! Archives that nobody should write, and what must come of those that people do.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};

use ::tar::{Builder, EntryType, Header};

use super::*;

/// One entry as raw bytes: what the `tar` crate would refuse to write.
struct Raw<'a> {
    kind: EntryType,
    path: &'a str,
    link: &'a str,
    data: &'a [u8],
    mode: u32,
}

fn raw<'a>(kind: EntryType, path: &'a str, link: &'a str) -> Raw<'a> {
    Raw { kind, path, link, data: b"", mode: 0o644 }
}

fn file<'a>(path: &'a str, data: &'a [u8]) -> Raw<'a> {
    Raw { data, ..raw(EntryType::Regular, path, "") }
}

fn dir(path: &str) -> Raw<'_> {
    Raw { mode: 0o755, ..raw(EntryType::Directory, path, "") }
}

fn link<'a>(path: &'a str, target: &'a str) -> Raw<'a> {
    raw(EntryType::Symlink, path, target)
}

fn hard<'a>(path: &'a str, target: &'a str) -> Raw<'a> {
    raw(EntryType::Link, path, target)
}

fn tar(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(u64::from(rustix::process::geteuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getegid().as_raw()));
        header.set_mtime(1_600_000_000);
        header.set_size(entry.data.len() as u64);
        header.set_device_major(5).unwrap();
        header.set_device_minor(1).unwrap();
        header.as_mut_bytes()[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
        header.as_mut_bytes()[157..157 + entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_cksum();
        builder.append(&header, entry.data).unwrap();
    }
    builder.into_inner().unwrap()
}

struct Unpacked {
    dir: tempfile::TempDir,
    result: Result<LayerRecord, ExtractError>,
}

impl Unpacked {
    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("layer").join(path)
    }

    fn record(&self) -> &LayerRecord {
        self.result.as_ref().unwrap_or_else(|error| panic!("{}", model::chain(error)))
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let metadata = fs::symlink_metadata(self.at(path)).unwrap();
        metadata.file_type().is_char_device() && metadata.rdev() == 0
    }

    fn is_opaque(&self, path: &str) -> bool {
        let mut value = [0; 8];
        rustix::fs::lgetxattr(self.at(path), OPAQUE, &mut value).is_ok_and(|length| &value[..length] == b"y")
    }
}

fn unpack(bytes: &[u8]) -> Unpacked {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("layer")).unwrap();
    fs::write(dir.path().join("witness"), "untouched").unwrap();
    let result = extract(&dir.path().join("layer"), bytes).map(|(record, _)| record);
    Unpacked { dir, result }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: device nodes and trusted attributes need root");
    }
    root
}

#[test]
fn hostile_archives_are_refused_and_touch_nothing_outside() {
    let cases: Vec<(&str, Vec<Raw<'_>>)> = vec![
        ("dotdot", vec![file("../witness", b"x")]),
        ("dotdot within", vec![dir("a"), file("a/../../witness", b"x")]),
        ("dotdot that stays", vec![dir("a"), file("a/../b", b"x")]),
        ("dotdot directory", vec![dir("..")]),
        ("symlink out", vec![link("out", ".."), file("out/witness", b"x")]),
        ("absolute symlink out", vec![link("out", "/tmp"), file("out/gantline-evil", b"x")]),
        (
            "symlink chain out",
            vec![dir("a"), link("a/up", ".."), link("b", "a/up/.."), file("b/witness", b"x")],
        ),
        ("symlink to itself", vec![link("loop", "loop"), file("loop/x", b"x")]),
        ("directory through a symlink out", vec![link("out", ".."), dir("out/new")]),
        ("symlink through a symlink out", vec![link("out", ".."), link("out/new", "x")]),
        ("whiteout through a symlink out", vec![link("out", ".."), file("out/.wh.witness", b"")]),
        ("opaque through a symlink out", vec![link("out", "../.."), file("out/tmp/.wh..wh..opq", b"")]),
        ("hard link out", vec![hard("stolen", "../witness")]),
        ("hard link out by symlink", vec![link("out", ".."), hard("stolen", "out/witness")]),
        ("hard link to /etc", vec![hard("stolen", "/etc/passwd")]),
        ("hard link to nothing", vec![hard("stolen", "absent")]),
        ("hard link to a directory", vec![dir("d"), hard("e", "d")]),
        ("proc's links", vec![link("p", "/proc/self/cwd"), file("p/x", b"x")]),
        ("file as a directory", vec![file("f", b""), file("f/x", b"")]),
        ("whiteout of dotdot", vec![file(".wh...", b"")]),
        ("whiteout of nothing", vec![file("a/.wh.", b"")]),
        ("in a whiteout", vec![file(".wh.a/b", b"")]),
        ("root as a file", vec![Raw { kind: EntryType::Continuous, ..file("./", b"") }]),
        ("empty link", vec![link("l", "")]),
    ];
    for (case, entries) in cases {
        let unpacked = unpack(&tar(&entries));
        let error = unpacked.result.as_ref().expect_err(case);
        assert!(!model::chain(error).is_empty());
        assert_eq!(fs::read(unpacked.dir.path().join("witness")).unwrap(), b"untouched", "{case}");
        assert_eq!(fs::metadata(unpacked.dir.path().join("witness")).unwrap().nlink(), 1, "{case}");
        assert_eq!(
            fs::read_dir(unpacked.dir.path()).unwrap().count(),
            2,
            "{case}: something was made outside"
        );
        assert!(!Path::new("/tmp/gantline-evil").exists());
    }
}

#[test]
fn odd_archives_that_mean_well_are_unpacked() {
    let unpacked = unpack(&tar(&[
        dir("./"),
        file("/absolute", b"a"),
        file(".//./dotted", b"d"),
        dir("real"),
        link("inside", "real"),
        file("inside/through", b"t"),
        link("dangling", "/nowhere"),
        link("out", "../../etc"),
    ]));
    unpacked.record();
    assert_eq!(fs::read(unpacked.at("absolute")).unwrap(), b"a");
    assert_eq!(fs::read(unpacked.at("dotted")).unwrap(), b"d");
    assert_eq!(fs::read(unpacked.at("real/through")).unwrap(), b"t");
    assert_eq!(fs::read_link(unpacked.at("out")).unwrap(), Path::new("../../etc"), "a link is only bytes");
}

#[test]
fn the_later_of_two_entries_counts() {
    let unpacked = unpack(&tar(&[
        file("a", b"first"),
        file("a", b"second"),
        dir("d"),
        file("d/child", b"x"),
        Raw { mode: 0o700, ..dir("d") },
        dir("e"),
        file("e/child", b"x"),
        file("e", b"now a file"),
        file("f", b"x"),
        dir("f"),
        link("g", "a"),
        file("g", b"not through the link"),
        file("h", b"h"),
        hard("h", "h"),
        hard("i", "a"),
    ]));
    let record = unpacked.record();
    assert_eq!(fs::read(unpacked.at("a")).unwrap(), b"second");
    assert!(unpacked.at("d/child").exists(), "a directory twice is one");
    assert_eq!(fs::metadata(unpacked.at("d")).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read(unpacked.at("e")).unwrap(), b"now a file");
    assert!(unpacked.at("f").is_dir());
    assert_eq!(fs::read(unpacked.at("g")).unwrap(), b"not through the link");
    assert_eq!(fs::metadata(unpacked.at("i")).unwrap().ino(), fs::metadata(unpacked.at("a")).unwrap().ino());
    assert_eq!((record.bytes, record.inodes), crate::disk::walk(&unpacked.at("")).unwrap());
}

#[test]
fn deletions_become_overlayfs_marks() {
    if !is_root() {
        return;
    }
    let unpacked = unpack(&tar(&[
        file("a/.wh.gone", b""),
        file("kept", b"x"),
        file(".wh.kept", b""),
        dir("both"),
        file(".wh.both", b""),
        file(".wh.late", b""),
        dir("late"),
        file("late/x", b""),
        file(".wh.file", b""),
        file("file", b"new"),
        file("o/p/.wh..wh..opq", b""),
        file(".wh..wh.aufs", b""),
        file(".wh..wh.plnk/1.2", b""),
    ]));
    let record = unpacked.record();
    assert!(unpacked.is_whiteout("a/gone"));
    assert_eq!(fs::read(unpacked.at("kept")).unwrap(), b"x", "a deletion is about lower layers");
    assert!(unpacked.is_opaque("both") && unpacked.is_opaque("late") && unpacked.is_opaque("o/p"));
    assert!(!unpacked.is_opaque("a") && !unpacked.is_opaque("o"));
    assert_eq!(fs::read(unpacked.at("file")).unwrap(), b"new");
    assert_eq!(record.implicit, ["a", "o", "o/p"]);
    assert!(!record.explicit_root && !record.opaque_root);
    let names: Vec<_> = fs::read_dir(unpacked.at("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.as_bytes().starts_with(b".wh.")), "{names:?}");
    assert!(unpack(&tar(&[file(".wh..wh..opq", b"")])).record().opaque_root);
}

#[test]
fn everything_that_files_carry_is_kept() {
    if !is_root() {
        return;
    }
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut builder = Builder::new(Vec::new());
    builder
        .append_pax_extensions([
            ("SCHILY.xattr.security.capability", &capability[..]),
            ("SCHILY.xattr.user.note", b"n"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("mtime", b"1600000000.25"),
        ])
        .unwrap();
    let mut header = Header::new_ustar();
    header.set_mode(0o4755);
    header.set_uid(1000);
    header.set_gid(2000);
    header.set_size(4);
    builder.append_data(&mut header, "ping", &b"ping"[..]).unwrap();
    let mut bytes = builder.into_inner().unwrap();
    bytes.truncate(bytes.len() - 1024);
    bytes.extend(tar(&[
        raw(EntryType::Char, "console", ""),
        raw(EntryType::Block, "disk", ""),
        raw(EntryType::Fifo, "pipe", ""),
        Raw { mode: 0o1777, ..dir("tmp") },
        file("tmp/x", b"x"),
    ]));
    let unpacked = unpack(&bytes);
    let record = unpacked.record();
    let ping = fs::metadata(unpacked.at("ping")).unwrap();
    assert_eq!((ping.mode() & 0o7777, ping.uid(), ping.gid()), (0o4755, 1000, 2000));
    assert_eq!((ping.mtime(), ping.mtime_nsec()), (1_600_000_000, 250_000_000));
    let attribute = |name: &str| {
        let mut value = [0; 64];
        let length = rustix::fs::lgetxattr(unpacked.at("ping"), name, &mut value).ok()?;
        Some(value[..length].to_vec())
    };
    assert_eq!(attribute("security.capability").as_deref(), Some(&capability[..]));
    assert_eq!(attribute("user.note").as_deref(), Some(&b"n"[..]));
    assert_eq!(attribute("trusted.overlay.redirect"), None, "overlayfs's own marks are ours to make");
    let of = |path: &str| fs::symlink_metadata(unpacked.at(path)).unwrap();
    assert!(of("console").file_type().is_char_device() && of("disk").file_type().is_block_device());
    assert_eq!(of("console").rdev(), rustix::fs::makedev(5, 1));
    assert!(of("pipe").file_type().is_fifo());
    assert_eq!((of("tmp").mode() & 0o7777, of("tmp").mtime()), (0o1777, 1_600_000_000), "after its contents");
    assert_eq!((record.bytes, record.inodes), crate::disk::walk(&unpacked.at("")).unwrap());
}

#[test]
fn sparse_files_keep_their_holes() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(u64::from(rustix::process::geteuid().as_raw()));
    header.set_gid(u64::from(rustix::process::getegid().as_raw()));
    header.set_mtime(0);
    header.set_size(3);
    header.as_mut_bytes()[..6].copy_from_slice(b"sparse");
    for (at, number) in [(386, 1 << 20), (398, 3), (483, 4 << 20)] {
        header.as_mut_bytes()[at..at + 12].copy_from_slice(format!("{number:011o}\0").as_bytes());
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.write_all(b"end").unwrap();
    bytes.resize(1024, 0);
    let unpacked = unpack(&bytes);
    unpacked.record();
    let contents = fs::read(unpacked.at("sparse")).unwrap();
    assert_eq!((contents.len(), &contents[1 << 20..(1 << 20) + 3]), (4 << 20, &b"end"[..]));
    assert!(fs::metadata(unpacked.at("sparse")).unwrap().blocks() * 512 < 64 * 1024);
}
