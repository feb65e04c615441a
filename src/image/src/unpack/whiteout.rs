//! Deletions as image layers write them (OCI image-spec, layer.md, "Whiteouts").

const PREFIX: &[u8] = b".wh.";

/// What an entry's last path component means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker<'a> {
    /// An ordinary name.
    None,
    /// `.wh..wh..opq`: its directory hides everything that lower layers have in it.
    Opaque,
    /// `.wh.<name>`: this name is deleted.
    Hide(&'a [u8]),
    /// `.wh..wh.*`: AUFS's own bookkeeping, which means nothing here.
    Bookkeeping,
    /// `.wh.` and nothing that could be a file's name.
    Invalid,
}

/// Reads one path component.
pub(super) fn marker(component: &[u8]) -> Marker<'_> {
    let Some(name) = component.strip_prefix(PREFIX) else { return Marker::None };
    match name {
        b".wh..opq" => Marker::Opaque,
        _ if name.starts_with(PREFIX) => Marker::Bookkeeping,
        b"" | b"." | b".." => Marker::Invalid,
        _ => Marker::Hide(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_the_specification_says() {
        for (name, meaning) in [
            ("file", Marker::None),
            ("wh.file", Marker::None),
            (".wh.file", Marker::Hide(b"file")),
            (".wh...data", Marker::Hide(b"..data")),
            (".wh..wh..opq", Marker::Opaque),
            (".wh..wh.plnk", Marker::Bookkeeping),
            (".wh..wh.aufs", Marker::Bookkeeping),
            (".wh.", Marker::Invalid),
            (".wh..", Marker::Invalid),
            (".wh...", Marker::Invalid),
        ] {
            assert_eq!(marker(name.as_bytes()), meaning, "{name}");
        }
    }
}
