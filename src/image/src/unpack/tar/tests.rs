//! What the `tar` crate writes, and what nobody should write.

use std::io::Read;

use super::*;

fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut archive = Archive::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next()? {
        let mut data = Vec::new();
        let mut buffer = [0; 7];
        loop {
            match archive.read_data(&mut buffer)? {
                0 => break,
                read => data.extend_from_slice(&buffer[..read]),
            }
        }
        entries.push((entry, data));
    }
    Ok(entries)
}

fn header(kind: u8, name: &str, size: usize) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn data(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(BLOCK), 0);
    padded
}

#[test]
fn what_the_tar_crate_writes_is_read() {
    let long = format!("{}/file", "long-directory-name".repeat(20));
    let mut builder = ::tar::Builder::new(Vec::new());
    builder
        .append_pax_extensions([("SCHILY.xattr.user.k", &b"v"[..]), ("mtime", b"12.5"), ("uid", b"70000")])
        .unwrap();
    let mut h = ::tar::Header::new_gnu();
    h.set_size(5);
    h.set_mode(0o4755);
    h.set_uid(1);
    h.set_gid(3_000_000);
    builder.append_data(&mut h, &long, &b"hello"[..]).unwrap();
    let mut h = ::tar::Header::new_gnu();
    h.set_entry_type(::tar::EntryType::Symlink);
    h.set_size(0);
    builder.append_link(&mut h, "link", "t".repeat(300)).unwrap();
    let entries = read_all(&builder.into_inner().unwrap()).unwrap();
    let (file, contents) = &entries[0];
    assert_eq!(String::from_utf8_lossy(&file.path), long);
    assert_eq!((file.mode, file.uid, file.gid, file.mtime), (0o4755, 70000, 3_000_000, (12, 500_000_000)));
    assert_eq!((contents.as_slice(), file.xattrs.len()), (&b"hello"[..], 1));
    assert_eq!((entries[1].0.kind, entries[1].0.link.len()), (Kind::Symlink, 300));
    assert!(entries[1].0.xattrs.is_empty(), "extensions are for one entry");
}

#[test]
fn an_archive_may_end_without_its_zero_blocks_but_not_within_an_entry() {
    let mut bytes = header(b'0', "a", 600);
    bytes.extend(data(&[1; 600]));
    assert_eq!(read_all(&bytes).unwrap().len(), 1);
    for cut in [1, 511, 513, 1000, 1111] {
        assert!(read_all(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    bytes[5] ^= 1;
    assert!(matches!(read_all(&bytes), Err(TarError::Checksum)));
}

#[test]
fn sparse_files_of_every_form_have_their_segments() {
    let segments = vec![Segment { offset: 512, length: 3 }, Segment { offset: 4096, length: 2 }];
    let pax = |records: &[(&str, &str)]| {
        let mut body = String::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = if rest + 2 >= 100 { rest + 3 } else { rest + 2 };
            body += &format!("{length} {key}={value}\n");
        }
        [header(b'x', "pax", body.len()), data(body.as_bytes())].concat()
    };
    let v00 = [
        pax(&[
            ("GNU.sparse.size", "00005000"),
            ("GNU.sparse.offset", "00000512"),
            ("GNU.sparse.numbytes", "003"),
            ("GNU.sparse.offset", "0004096"),
            ("GNU.sparse.numbytes", "002"),
        ]),
        header(b'0', "f", 5),
        data(b"abcde"),
    ]
    .concat();
    let v01 = [
        pax(&[("GNU.sparse.size", "0005000"), ("GNU.sparse.map", "512,3,4096,2"), ("GNU.sparse.name", "f")]),
        header(b'0', "GNUSparseFile.0/f", 5),
        data(b"abcde"),
    ]
    .concat();
    let v10 = [
        pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "5000"), ("GNU.sparse.name", "f")]),
        header(b'0', "GNUSparseFile.0/f", 517),
        data(b"2\n512\n3\n4096\n2\n"),
        data(b"abcde"),
    ]
    .concat();
    let mut old = header(b'S', "f", 5);
    old[257..265].copy_from_slice(b"ustar  \0");
    for (at, number) in [(386, 512), (398, 3), (410, 4096), (422, 2), (483, 5000)] {
        old[at..at + 12].copy_from_slice(format!("{number:011o}\0").as_bytes());
    }
    seal(&mut old);
    let old = [old, data(b"abcde")].concat();
    for (form, bytes) in [("0.0", v00), ("0.1", v01), ("1.0", v10), ("old GNU", old)] {
        let entries = read_all(&bytes).unwrap_or_else(|e| panic!("{form}: {e}"));
        let (entry, contents) = &entries[0];
        assert_eq!(entry.path, b"f", "{form}");
        assert_eq!((entry.size, &entry.segments), (5000, &segments), "{form}");
        assert_eq!(contents, b"abcde", "{form}");
    }
    for map in
        ["512,3,4096", "4096,2,512,3", "512,3,4096,1", "512,3,4999,2", "1,18446744073709551615,2,5", "a,b"]
    {
        let bad = [
            pax(&[("GNU.sparse.size", "0005000"), ("GNU.sparse.map", map)]),
            header(b'0', "f", 5),
            data(b"abcde"),
        ]
        .concat();
        assert!(read_all(&bad).is_err(), "{map}");
    }
}

#[test]
fn extensions_are_bounded() {
    for kind in [b'x', b'g', b'L', b'K'] {
        let bytes = [header(kind, "big", 1 << 30), vec![b'a'; 4096]].concat();
        assert!(matches!(read_all(&bytes), Err(TarError::ExtensionSize(_))), "{}", char::from(kind));
    }
    assert!(matches!(read_all(&header(b'Q', "odd", 0)), Err(TarError::Type('Q'))));
}

#[test]
fn rubbish_is_an_error_and_never_a_panic() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let whole = [header(b'x', "p", 20), data(b"20 mtime=1700000.50\n"), header(b'0', "f", 5), data(b"abcde")]
        .concat();
    for _ in 0..3000 {
        let mut bytes = whole.clone();
        for _ in 0..random() % 4 {
            let at = random() as usize % bytes.len();
            bytes[at] = random() as u8;
        }
        for block in (0..bytes.len()).step_by(BLOCK) {
            if random() % 2 == 0 {
                seal(&mut bytes[block..block + BLOCK]);
            }
        }
        let _ = read_all(&bytes);
    }
}

#[test]
fn the_rest_of_the_stream_is_there_for_the_digest() {
    let bytes = [header(b'0', "a", 0), vec![0; 1024], b"rest".to_vec()].concat();
    let mut archive = Archive::new(bytes.as_slice());
    while archive.next().unwrap().is_some() {}
    let mut rest = Vec::new();
    archive.into_inner().read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(b"rest"));
}
