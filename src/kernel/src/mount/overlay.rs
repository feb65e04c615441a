//! overlayfs: layers from the top down through `lowerdir+`, or in one string where the kernel lacks that.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, mount, open_tree,
};

use super::{Flags, attach, bind};
use crate::SysError;

/// The longest value that fsconfig(2) takes, with its NUL.
const FSCONFIG_STRING_MAX: usize = 256;
/// mount(2) takes one page of options, with its NUL; 4096 is the smallest page.
const MOUNT_DATA_MAX: usize = 4096;

/// What an overlay is made of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overlay<'a> {
    /// Read-only layers, the top one first; at least one.
    pub lower: &'a [PathBuf],
    /// The writable layer. Without it the mount is read-only.
    pub upper: Option<&'a Path>,
    /// An empty directory on the upper layer's file system; only with `upper`.
    pub work: Option<&'a Path>,
    /// Further options as overlayfs names them; an empty value is a flag: `("index", "off")`, `("volatile", "")`.
    pub options: &'a [(&'a str, &'a str)],
    /// What the mount allows; `recursive` means nothing here, and without `upper` it is read-only in any case.
    pub flags: Flags,
}

impl Overlay<'_> {
    fn readonly(&self) -> bool {
        self.upper.is_none() || self.flags.readonly
    }
}

/// Mounts an overlay on `target`; it appears there whole or not at all.
///
/// One lower layer without an upper is what overlayfs refuses: it is bound read-only instead, so whiteouts in it
/// show as what they are. Where that matters, add an empty directory as a second layer.
///
/// # Errors
/// The system call that failed, with overlayfs's own words where it has any.
pub fn overlay(overlay: &Overlay<'_>, target: &Path) -> Result<(), SysError> {
    match (overlay.lower, overlay.upper) {
        ([], _) => Err(SysError::path("mount overlay", target, no_lower())),
        ([only], None) => bind(only, target, Flags { readonly: true, recursive: false, ..overlay.flags }),
        _ => match through_context(overlay, target) {
            Err(Refused::NotSupported) => through_mount(overlay, target),
            Err(Refused::Failed(e)) => Err(e),
            Ok(mounted) => attach(&mounted, target),
        },
    }
}

/// The same, detached: where `place` is, an existing directory of this mount namespace, it may be mounted for a moment.
pub(super) fn detached(overlay: &Overlay<'_>, place: &Path) -> Result<OwnedFd, SysError> {
    match through_context(overlay, place) {
        Err(Refused::NotSupported) => {
            through_mount(overlay, place)?;
            let how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let tree = open_tree(CWD, place, how).map_err(|e| SysError::path("open_tree", place, e));
            super::unmount(place)?;
            tree
        }
        Err(Refused::Failed(e)) => Err(e),
        Ok(mounted) => Ok(mounted),
    }
}

/// Whether this kernel's overlayfs takes layers one by one (6.7): up to 500, however long their paths. Otherwise they
/// must fit into one page together. Mounts nothing; loads overlayfs where it is a module.
///
/// # Errors
/// There is no overlayfs, or it may not be asked (fsopen(2)).
pub fn overlay_takes_many_layers() -> Result<bool, SysError> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|e| SysError::named("fsopen", "overlay".to_owned(), e))?;
    Ok(knows_lowerdir_plus(&context))
}

pub(super) fn no_lower() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "no lower layer is given")
}

/// Why the new mount API did not do it.
#[derive(Debug)]
enum Refused {
    /// The kernel has no such call, or no `lowerdir+` (before 6.7).
    NotSupported,
    /// It has, and the mount failed.
    Failed(SysError),
}

/// A detached mount; `target` is named in errors alone.
fn through_context(overlay: &Overlay<'_>, target: &Path) -> Result<OwnedFd, Refused> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| match e {
        Errno::NOSYS => Refused::NotSupported,
        e => Refused::Failed(SysError::path("fsopen overlay for", target, e)),
    })?;
    if !knows_lowerdir_plus(&context) {
        return Err(Refused::NotSupported);
    }
    let failed = |call, e| Refused::Failed(explain(&context, call, target, e));
    // Layers behind descriptors must stay open until the file system is created.
    let mut open = Vec::new();
    let mut set = |key: &str, path: &Path| {
        let value = value_within(path, FSCONFIG_STRING_MAX, &mut open).map_err(Refused::Failed)?;
        fsconfig_set_string(&context, key, value.as_path())
            .map_err(|e| Refused::Failed(explain(&context, "fsconfig overlay layer", path, e)))
    };
    for layer in overlay.lower {
        set("lowerdir+", layer)?;
    }
    if let Some(upper) = overlay.upper {
        set("upperdir", upper)?;
    }
    if let Some(work) = overlay.work {
        set("workdir", work)?;
    }
    for (key, value) in overlay.options {
        let set = if value.is_empty() {
            fsconfig_set_flag(&context, *key)
        } else {
            fsconfig_set_string(&context, *key, *value)
        };
        set.map_err(|e| failed("fsconfig overlay option for", e))?;
    }
    fsconfig_create(&context).map_err(|e| failed("mount overlay", e))?;
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, overlay.readonly());
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, overlay.flags.nosuid);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, overlay.flags.nodev);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, overlay.flags.noexec);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|e| failed("fsmount overlay", e))
}

/// Whether overlayfs takes layers one by one. Asked of the context itself, before it has any: as a flag `lowerdir+`
/// is refused by every kernel that knows its parameters, with words that tell whether it is one of them.
///
/// Before 6.5 overlayfs has no parameters of its own: the kernel keeps whatever it is given as text for mount(2)'s
/// parser, which refuses it only when the file system is created. There the flag is taken.
fn knows_lowerdir_plus(context: &OwnedFd) -> bool {
    if fsconfig_set_flag(context, "lowerdir+").is_ok() {
        return false;
    }
    // Reading takes the words out of the log, where they would explain a later error wrongly.
    let said = messages(context);
    !said.is_empty() && !said.contains("nknown parameter")
}

/// The same through mount(2): all layers in one string of at most a page.
fn through_mount(overlay: &Overlay<'_>, target: &Path) -> Result<(), SysError> {
    let mut open = Vec::new();
    let mut data = mount_data(overlay, |path| Ok(escaped(path)))?;
    if data.len() >= MOUNT_DATA_MAX {
        // `/proc/self/fd/9` is shorter than any layer's path: room for 200 layers.
        data = mount_data(overlay, |path| {
            let short = behind_descriptor(path, &mut open)?;
            Ok(short.as_os_str().as_bytes().to_vec())
        })?;
    }
    let failed = |e: io::Error| SysError::path("mount overlay", target, e);
    if data.len() >= MOUNT_DATA_MAX {
        let text = format!("{} layers are more than this kernel takes in one mount", overlay.lower.len());
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, text)));
    }
    let data = CString::new(data).map_err(|e| failed(e.into()))?;
    let mut flags = overlay.flags.classic();
    flags.set(MountFlags::RDONLY, overlay.readonly());
    mount("overlay", target, "overlay", flags, Some(data.as_c_str())).map_err(|e| failed(e.into()))
}

fn mount_data(
    overlay: &Overlay<'_>,
    mut spell: impl FnMut(&Path) -> Result<Vec<u8>, SysError>,
) -> Result<Vec<u8>, SysError> {
    let mut data = b"lowerdir=".to_vec();
    for (n, layer) in overlay.lower.iter().enumerate() {
        if n > 0 {
            data.push(b':');
        }
        data.extend(spell(layer)?);
    }
    for (key, path) in [("upperdir", overlay.upper), ("workdir", overlay.work)] {
        if let Some(path) = path {
            data.extend(format!(",{key}=").into_bytes());
            data.extend(spell(path)?);
        }
    }
    for (key, value) in overlay.options {
        let option = match *value {
            "" => format!(",{key}"),
            // The categories of a security label: who reads them takes off the quotes.
            value if value.contains(',') => format!(",{key}=\"{value}\""),
            value => format!(",{key}={value}"),
        };
        data.extend(option.into_bytes());
    }
    Ok(data)
}

/// overlayfs splits its string at `:` and `,`; a backslash protects them.
fn escaped(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(path.as_os_str().len());
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            bytes.push(b'\\');
        }
        bytes.push(*byte);
    }
    bytes
}

fn value_within(path: &Path, bytes_max: usize, open: &mut Vec<OwnedFd>) -> Result<PathBuf, SysError> {
    if path.as_os_str().len() < bytes_max { Ok(path.to_owned()) } else { behind_descriptor(path, open) }
}

fn behind_descriptor(path: &Path, open: &mut Vec<OwnedFd>) -> Result<PathBuf, SysError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd =
        rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| SysError::path("open", path, e))?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    open.push(fd);
    Ok(short)
}

/// The error with what the file system wrote into its context's log.
fn explain(context: &OwnedFd, call: &'static str, path: &Path, errno: Errno) -> SysError {
    let said = messages(context);
    if said.is_empty() {
        return SysError::path(call, path, errno);
    }
    SysError::named(call, format!("{} ({said})", path.display()), errno)
}

/// What is in the context's log: lines of `e overlay: …`, one for each read(2), ENODATA at the end.
fn messages(context: &OwnedFd) -> String {
    let Ok(mut log) = context.try_clone().map(File::from) else { return String::new() };
    let mut buffer = [0; 1024];
    let mut lines = Vec::new();
    while let Ok(length @ 1..) = log.read(&mut buffer) {
        let line = String::from_utf8_lossy(&buffer[..length]);
        lines.push(line.trim_start_matches(['e', 'w', 'i', ' ']).trim_end().to_owned());
    }
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_knows_lowerdir_plus_from_6_7_on() {
        let Ok(found) = overlay_takes_many_layers() else {
            println!("skipped: overlayfs cannot be asked under this user or on this kernel");
            return;
        };
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
        let version = (numbers.next(), numbers.next());
        assert_eq!(found, version >= (Some(6), Some(7)), "{release}");
    }

    #[test]
    fn layer_paths_are_escaped_for_the_one_string_form() {
        let lower = [PathBuf::from("/a:b"), PathBuf::from("/c,d\\e")];
        let overlay = Overlay {
            lower: &lower,
            upper: Some(Path::new("/u")),
            work: Some(Path::new("/w")),
            options: &[("index", "off"), ("volatile", ""), ("context", "u:r:t:s0:c1,c2")],
            ..Overlay::default()
        };
        let data = mount_data(&overlay, |path| Ok(escaped(path))).unwrap();
        assert_eq!(
            String::from_utf8(data).unwrap(),
            r#"lowerdir=/a\:b:/c\,d\\e,upperdir=/u,workdir=/w,index=off,volatile,context="u:r:t:s0:c1,c2""#
        );
    }

    #[test]
    fn the_one_string_form_mounts_what_the_layer_form_mounts() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        // Long names force descriptors: 40 layers of 200 bytes do not fit in a page.
        let lower: Vec<PathBuf> = (0..40).map(|n| dir.path().join(format!("{n:0>200}"))).collect();
        for (n, layer) in lower.iter().enumerate() {
            std::fs::create_dir(layer).unwrap();
            std::fs::write(layer.join(format!("file-{n}")), "").unwrap();
        }
        let target = dir.path().join("target");
        std::fs::create_dir(&target).unwrap();
        through_mount(&Overlay { lower: &lower, ..Overlay::default() }, &target).unwrap();
        let names = std::fs::read_dir(&target).unwrap().count();
        super::super::unmount(&target).unwrap();
        assert_eq!(names, 40);
    }
}
