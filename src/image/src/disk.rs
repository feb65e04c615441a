//! What a directory tree takes on disk.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use kernel::SysError;

/// Bytes on disk and inodes of a tree, each inode once. What vanishes meanwhile is not counted.
pub(crate) fn walk(root: &Path) -> Result<(u64, u64), SysError> {
    let failed = |e| SysError::path("walk", root, e);
    let mut bytes = fs::symlink_metadata(root).map_err(failed)?.blocks() * 512;
    let mut inodes = 1;
    let mut linked = HashSet::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_dir() && metadata.nlink() > 1 && !linked.insert((metadata.dev(), metadata.ino()))
            {
                continue;
            }
            bytes += metadata.blocks() * 512;
            inodes += 1;
            if metadata.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    Ok((bytes, inodes))
}
