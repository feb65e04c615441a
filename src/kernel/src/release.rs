//! Which Linux this is (uname(2)): for what the kernel cannot be asked about without side effects.

/// Major and minor number of the running kernel; (0, 0) where its release is not understood.
pub fn running() -> (u32, u32) {
    parse(&rustix::system::uname().release().to_string_lossy()).unwrap_or_default()
}

/// `6.18.44-generic` is (6, 18).
pub fn parse(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = release.split_once('.')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        for (text, expect) in [
            ("6.18.44-generic", Some((6, 18))),
            ("6.1", Some((6, 1))),
            ("5.10-rc1", Some((5, 10))),
            ("6", None),
            ("x.y", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expect, "{text}");
        }
        assert!(running() > (2, 6));
    }
}
