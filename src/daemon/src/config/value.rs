//! The kinds of value that settings have.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::schema::{Scalar, found, quote};

fn text<'v>(value: &'v DeValue<'_>, expected: &str) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("expected {expected}, found {}", found(value)))
}

impl Scalar for String {
    fn kind() -> String {
        "string".into()
    }
    fn parse(value: &DeValue<'_>) -> Result<Self, String> {
        text(value, "a string").map(str::to_owned)
    }
    fn to_toml(&self) -> String {
        quote(self)
    }
}

impl Scalar for PathBuf {
    fn kind() -> String {
        "path".into()
    }
    fn parse(value: &DeValue<'_>) -> Result<Self, String> {
        text(value, "a path").map(Self::from)
    }
    fn to_toml(&self) -> String {
        quote(&self.to_string_lossy())
    }
}

impl Scalar for bool {
    fn kind() -> String {
        "true or false".into()
    }
    fn parse(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| format!("expected true or false, found {}", found(value)))
    }
    fn to_toml(&self) -> String {
        self.to_string()
    }
}

macro_rules! whole_number {
    ($($type:ty),+) => { $(
        impl Scalar for $type {
            fn kind() -> String {
                "whole number".into()
            }
            fn parse(value: &DeValue<'_>) -> Result<Self, String> {
                let expected = || {
                    format!("expected a whole number from 0 to {}, found {}", Self::MAX, found(value))
                };
                let number = value.as_integer().ok_or_else(expected)?;
                Self::from_str_radix(number.as_str(), number.radix()).map_err(|_| expected())
            }
            fn to_toml(&self) -> String {
                self.to_string()
            }
        }
    )+ };
}
whole_number!(u32, usize);

impl<T: Scalar> Scalar for Vec<T> {
    fn kind() -> String {
        format!("list of {}s", T::kind())
    }
    fn parse(value: &DeValue<'_>) -> Result<Self, String> {
        let list = value.as_array().ok_or_else(|| format!("expected a list, found {}", found(value)))?;
        let item = |(index, item): (usize, &toml::Spanned<DeValue<'_>>)| {
            T::parse(item.get_ref()).map_err(|message| format!("item {}: {message}", index + 1))
        };
        list.iter().enumerate().map(item).collect()
    }
    fn to_toml(&self) -> String {
        format!("[{}]", self.iter().map(Scalar::to_toml).collect::<Vec<_>>().join(", "))
    }
}

/// The permission bits of a file: `"0660"`, or the integer `0o660`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode(pub(crate) u32);

impl Scalar for Mode {
    fn kind() -> String {
        "octal mode".into()
    }
    fn parse(value: &DeValue<'_>) -> Result<Self, String> {
        let expected = || format!("expected a mode like \"0660\", found {}", found(value));
        let mode = match value {
            DeValue::String(text) => u32::from_str_radix(text, 8).ok(),
            DeValue::Integer(number) if number.radix() == 8 => u32::from_str_radix(number.as_str(), 8).ok(),
            _ => None,
        };
        mode.filter(|mode| *mode <= 0o777).map(Self).ok_or_else(expected)
    }
    fn to_toml(&self) -> String {
        format!("\"{:04o}\"", self.0)
    }
}

/// A length of time: `"500ms"`, `"10s"`, `"5m"`, `"4h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

impl Span {
    pub(crate) const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl Scalar for Span {
    fn kind() -> String {
        "duration".into()
    }
    fn parse(value: &DeValue<'_>) -> Result<Self, String> {
        let expected =
            || format!("expected a duration like \"500ms\", \"10s\", \"5m\", found {}", found(value));
        let text = value.as_str().ok_or_else(expected)?;
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| expected())?;
        let (_, millis) = UNITS.into_iter().find(|(name, _)| *name == unit.trim()).ok_or_else(expected)?;
        number.checked_mul(millis).map(Duration::from_millis).map(Self).ok_or_else(expected)
    }
    fn to_toml(&self) -> String {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let whole = UNITS.into_iter().rev().find(|(_, unit)| millis.is_multiple_of(*unit) && millis >= *unit);
        let (name, unit) = whole.unwrap_or(("ms", 1));
        format!("\"{}{name}\"", millis / unit)
    }
}

/// An address and port to listen on; the empty string listens nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listen(pub(crate) Option<SocketAddr>);

impl Scalar for Listen {
    fn kind() -> String {
        "address:port".into()
    }
    fn parse(value: &DeValue<'_>) -> Result<Self, String> {
        let expected = || format!("expected an address like \"127.0.0.1:9180\", found {}", found(value));
        match value.as_str().ok_or_else(expected)? {
            "" => Ok(Self(None)),
            text => text.parse().map(Some).map(Self).map_err(|_| expected()),
        }
    }
    fn to_toml(&self) -> String {
        quote(&self.0.map(|address| address.to_string()).unwrap_or_default())
    }
}

/// A resource limit of getrlimit(2): `"nofile=1024:65536"`, or one number for both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ulimit {
    /// Lower case, without `RLIMIT_`.
    pub(crate) name: String,
    /// What applies.
    pub(crate) soft: u64,
    /// How far a process may raise it.
    pub(crate) hard: u64,
}

/// getrlimit(2).
const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

impl Scalar for Ulimit {
    fn kind() -> String {
        "limit".into()
    }
    fn parse(value: &DeValue<'_>) -> Result<Self, String> {
        let expected = || format!("expected a limit like \"nofile=1024:65536\", found {}", found(value));
        let (name, limits) = value.as_str().and_then(|text| text.split_once('=')).ok_or_else(expected)?;
        if !ULIMITS.contains(&name) {
            return Err(format!("unknown limit {name:?}; one of {} is expected", ULIMITS.join(", ")));
        }
        let number = |text: &str| match text {
            "unlimited" => Ok(u64::MAX),
            text => text.parse().map_err(|_| expected()),
        };
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let (soft, hard) = (number(soft)?, number(hard)?);
        if soft > hard {
            return Err(format!("the soft limit is above the hard one in {}", found(value)));
        }
        Ok(Self { name: name.to_owned(), soft, hard })
    }
    fn to_toml(&self) -> String {
        let number = |limit: u64| if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() };
        quote(&format!("{}={}:{}", self.name, number(self.soft), number(self.hard)))
    }
}

/// Declares a setting that is one of a few words.
macro_rules! choice {
    ($(#[$doc:meta])* enum $name:ident { $( $(#[$variant_doc:meta])* $variant:ident = $word:literal ),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $( $(#[$variant_doc])* $variant ),+ }

        impl Scalar for $name {
            fn kind() -> String {
                format!("one of {}", [$( concat!("\"", $word, "\"") ),+].join(", "))
            }
            fn parse(value: &DeValue<'_>) -> Result<Self, String> {
                match value.as_str() {
                    $( Some($word) => Ok(Self::$variant), )+
                    _ => Err(format!("expected {}, found {}", Self::kind(), found(value))),
                }
            }
            fn to_toml(&self) -> String {
                match self { $( Self::$variant => quote($word) ),+ }
            }
        }
    };
}

choice! {
    /// How log lines look.
    enum LogFormat {
        /// For people.
        Text = "text",
        /// For collectors.
        Json = "json",
    }
}

choice! {
    /// How OTLP is spoken.
    enum OtlpProtocol {
        /// gRPC, port 4317 by convention.
        Grpc = "grpc",
        /// Protobuf over HTTP, port 4318 by convention.
        HttpProtobuf = "http/protobuf",
    }
}

choice! {
    /// Who makes cgroups.
    enum CgroupDriver {
        /// systemd where it is pid 1 and the hierarchy is v2, otherwise cgroupfs.
        Auto = "auto",
        /// Gantline, by writing to the hierarchy.
        Cgroupfs = "cgroupfs",
        /// systemd, asked over D-Bus.
        Systemd = "systemd",
    }
}

choice! {
    /// Who starts the processes of execs.
    enum ExecMode {
        /// The pod's shim.
        Native = "native",
        /// The OCI runtime.
        Runtime = "runtime",
    }
}

choice! {
    /// Which of a pod's addresses comes first.
    enum IpPreference {
        /// IPv4 before IPv6.
        Ipv4 = "ipv4",
        /// IPv6 before IPv4.
        Ipv6 = "ipv6",
        /// The order of the CNI result.
        Cni = "cni",
    }
}

choice! {
    /// What "no seccomp profile" in a request means.
    enum UnsetSeccomp {
        /// No filter.
        Unconfined = "unconfined",
        /// The default profile.
        RuntimeDefault = "runtime-default",
    }
}

choice! {
    /// What becomes of the volumes that an image's configuration asks for.
    enum ImageDefinedVolumes {
        /// Each container gets directories of its own, filled from the image.
        Copy = "copy",
        /// They are directories like any other.
        Ignore = "ignore",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Scalar>(toml: &str) -> Result<T, String> {
        T::parse(DeValue::parse(toml).unwrap().get_ref())
    }

    /// What is shown is read back as the same value.
    fn round<T: Scalar + PartialEq + std::fmt::Debug>(toml: &str, shown: &str) {
        let value: T = read(toml).unwrap();
        assert_eq!(value.to_toml(), shown, "{toml}");
        assert_eq!(read::<T>(shown).unwrap(), value, "{toml}");
    }

    #[test]
    fn values_are_shown_as_they_are_read() {
        round::<String>("'a \"b\"'", "'a \"b\"'");
        round::<u32>("0x10", "16");
        round::<Mode>("\"0660\"", "\"0660\"");
        round::<Mode>("0o600", "\"0600\"");
        round::<Span>("\"500ms\"", "\"500ms\"");
        round::<Span>("\"90s\"", "\"90s\"");
        round::<Span>("\"240m\"", "\"4h\"");
        round::<Span>("\"0s\"", "\"0ms\"");
        round::<Listen>("\"\"", "\"\"");
        round::<Listen>("\"[::1]:9180\"", "\"[::1]:9180\"");
        round::<Ulimit>("\"nofile=1024\"", "\"nofile=1024:1024\"");
        round::<Ulimit>("\"core=0:unlimited\"", "\"core=0:unlimited\"");
        round::<Vec<PathBuf>>("['/a', '/b']", "[\"/a\", \"/b\"]");
        round::<CgroupDriver>("\"auto\"", "\"auto\"");
    }

    #[test]
    fn what_is_wrong_says_what_is_expected() {
        fn wrong<T: Scalar>(toml: &str) -> String {
            read::<T>(toml).err().unwrap()
        }
        let cases = [
            (wrong::<String>("1"), "expected a string, found the integer 1"),
            (wrong::<u32>("-1"), "expected a whole number from 0 to 4294967295, found the integer -1"),
            (
                wrong::<u32>("4294967296"),
                "expected a whole number from 0 to 4294967295, found the integer 4294967296",
            ),
            (wrong::<Mode>("660"), "expected a mode like \"0660\", found the integer 660"),
            (wrong::<Mode>("\"1777\""), "expected a mode like \"0660\", found the string \"1777\""),
            (
                wrong::<Span>("10"),
                "expected a duration like \"500ms\", \"10s\", \"5m\", found the integer 10",
            ),
            (
                wrong::<Listen>("\"9180\""),
                "expected an address like \"127.0.0.1:9180\", found the string \"9180\"",
            ),
            (wrong::<Vec<String>>("['a', 2]"), "item 2: expected a string, found the integer 2"),
            (
                wrong::<Ulimit>("\"nofile=2:1\""),
                "the soft limit is above the hard one in the string \"nofile=2:1\"",
            ),
            (
                wrong::<CgroupDriver>("\"auto2\""),
                "expected one of \"auto\", \"cgroupfs\", \"systemd\", found the string \"auto2\"",
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(message, expected);
        }
        assert!(wrong::<Ulimit>("\"files=1\"").starts_with("unknown limit \"files\"; one of as, core,"));
        assert!(wrong::<Span>("\"18446744073709551615h\"").starts_with("expected a duration"));
    }
}
