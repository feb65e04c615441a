use std::fs;

use super::*;

const NOW: UnixNanos = 1_700_000_000_000_000_000;
const TIME: &str = "2023-11-14T22:13:20.000000000Z";

fn log(dir: &std::path::Path, line_bytes_max: usize) -> CriLog {
    CriLog::open(Some(&LogTarget { path: dir.join("log"), line_bytes_max })).unwrap()
}

/// The records of a log, without their times.
fn records(path: &std::path::Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    let strip = |line: &str| line.strip_prefix(TIME).expect(line).trim_start().to_owned();
    text.lines().map(strip).collect()
}

#[test]
fn output_becomes_records_however_it_is_cut() {
    use Stream::{Stderr, Stdout};
    for (input, expected) in [
        (&[(Stdout, "one\ntwo\n")][..], &["stdout F one", "stdout F two"][..]),
        (&[(Stdout, "on"), (Stdout, "e\n"), (Stdout, "\n")], &["stdout F one", "stdout F "]),
        (&[(Stdout, "no end")], &["stdout F no end"]),
        (&[(Stdout, "12345678\n")], &["stdout F 12345678"]),
        (&[(Stdout, "12345678")], &["stdout F 12345678"]),
        (&[(Stdout, "123456789\n")], &["stdout P 12345678", "stdout F 9"]),
        (&[(Stdout, "1234567812345678x")], &["stdout P 12345678", "stdout P 12345678", "stdout F x"]),
        (&[(Stdout, "1234567"), (Stdout, "89\n")], &["stdout P 12345678", "stdout F 9"]),
        (&[(Stdout, "a"), (Stderr, "b\n"), (Stdout, "c\n")], &["stderr F b", "stdout F ac"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), 8);
        for (stream, text) in input {
            log.take(*stream, text.as_bytes(), NOW);
        }
        log.end(Stdout, NOW);
        log.end(Stderr, NOW);
        assert_eq!(records(&dir.path().join("log")), expected, "{input:?}");
    }
}

#[test]
fn every_way_of_cutting_a_text_gives_the_same_log() {
    let text = "a\n\nbcdefgh\nijklmnopq\nrstuvwxyz0123456789\nend";
    let whole = |cuts: &dyn Fn(usize) -> usize| {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), 8);
        let mut rest = text.as_bytes();
        let mut round = 0;
        while !rest.is_empty() {
            let n = cuts(round).clamp(1, rest.len());
            log.take(Stream::Stdout, &rest[..n], NOW);
            rest = &rest[n..];
            round += 1;
        }
        log.end(Stream::Stdout, NOW);
        records(&dir.path().join("log"))
    };
    let expected = whole(&|_| usize::MAX);
    for seed in 1..200_usize {
        assert_eq!(whole(&|round| (seed * 31 + round * 7) % 11), expected, "seed {seed}");
    }
}

#[test]
fn a_reopened_log_goes_on_in_the_new_file_with_whole_records() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = log(dir.path(), 8);
    log.take(Stream::Stdout, b"first\nlonger than eight", NOW);
    fs::rename(&path, dir.path().join("log.1")).unwrap();
    log.reopen().unwrap();
    assert!(path.exists());
    log.take(Stream::Stdout, b"!\n", NOW);
    assert_eq!(
        records(&dir.path().join("log.1")),
        ["stdout F first", "stdout P longer t", "stdout P han eigh"]
    );
    assert_eq!(records(&path), ["stdout F t!"]);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(log.reopen().is_err());
}

#[test]
fn what_a_full_disk_refuses_is_counted_and_told() {
    // RLIMIT_FSIZE would be the process's; /dev/full refuses every write as a full disk does.
    let target = LogTarget { path: "/dev/full".into(), line_bytes_max: 100 };
    let mut log = CriLog::open(Some(&target)).unwrap();
    log.take(Stream::Stdout, b"12345\n678\n", NOW);
    log.take(Stream::Stderr, b"9\n", NOW);
    assert!(log.owes_marker());
    assert_eq!(log.lost_in_all(), 9);
    // Room again: as if the disk had got some.
    let dir = tempfile::tempdir().unwrap();
    log.open.as_mut().unwrap().target.path = dir.path().join("log");
    log.reopen().unwrap();
    log.take(Stream::Stdout, b"after\n", NOW);
    let records = records(&dir.path().join("log"));
    assert_eq!(records.len(), 2);
    assert!(
        records[0].starts_with("stderr F gantline: 9 bytes of output were lost: No space left"),
        "{records:?}"
    );
    assert_eq!(records[1], "stdout F after");
    assert!(!log.owes_marker());
    assert_eq!(log.lost_in_all(), 9);
}

#[test]
fn without_a_path_everything_is_discarded() {
    let mut log = CriLog::open(None).unwrap();
    log.take(Stream::Stdout, b"x\n", NOW);
    log.end(Stream::Stdout, NOW);
    assert_eq!((log.owes_marker(), log.lost_in_all()), (false, 0));
}
