//! What becomes of a value: tables of patterns, one line each, and the conversions that they name.

use std::time::Duration;

use toml::Value;

use crate::config::schema::Scalar as _;
use crate::config::value::{Listen, Span, Ulimit};

/// What becomes of the values at a pattern.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// It becomes the value of our key, or the conversion says why it cannot.
    Key(&'static [&'static str], fn(&Value) -> Result<Value, String>),
    /// The same, where this one value, as TOML shows it, means that it is not set.
    KeyBut(&'static str, &'static [&'static str], fn(&Value) -> Result<Value, String>),
    /// Whatever it is, Gantline does not need it: why.
    Needless(&'static str),
    /// Gantline does what these values, as TOML shows them, and what an empty one ask for: why. Anything else it
    /// cannot: what to do.
    Only(&'static [&'static str], &'static str, &'static str),
    /// A directory, or a list of them. While nothing lies in them, Gantline does not need it: why. Else what to do.
    Empty(&'static str, &'static str),
    /// A part of the table of OCI runtimes.
    Runtime,
    /// A part of the registries.
    Registry,
    /// A part of what this peer alone has.
    Own,
    /// A part of the server of exec, attach and port-forward sessions.
    Streaming,
}

/// Patterns of keys, parts between slashes: `*` is any one part, `**` at the end all that follow. The first counts.
pub(crate) type Rules = &'static [(&'static str, Rule)];

/// The rule for a key.
pub(crate) fn find(rules: Rules, path: &[String]) -> Option<Rule> {
    rules.iter().find(|(pattern, _)| matches(pattern, path)).map(|(_, rule)| *rule)
}

fn matches(pattern: &str, path: &[String]) -> bool {
    let mut path = path.iter();
    for part in pattern.split('/') {
        if part == "**" {
            return true;
        }
        match path.next() {
            Some(name) if part == "*" || part == name => {}
            _ => return false,
        }
    }
    path.next().is_none()
}

/// Whether a value says nothing: an empty text, list or table.
pub(crate) fn says_nothing(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Table(table) => table.is_empty(),
        _ => false,
    }
}

/// As it is.
pub(crate) fn same(value: &Value) -> Result<Value, String> {
    Ok(value.clone())
}

/// An absolute path, less the slash at its end.
pub(crate) fn path(value: &Value) -> Result<Value, String> {
    let text = value.as_str().ok_or("is not a path")?;
    let trimmed = if text.len() > 1 { text.trim_end_matches('/') } else { text };
    if trimmed.starts_with('/') {
        Ok(Value::String(trimmed.into()))
    } else {
        Err("is not an absolute path".into())
    }
}

/// A list of absolute paths; one path is a list of one.
pub(crate) fn paths(value: &Value) -> Result<Value, String> {
    match value {
        Value::Array(list) if list.is_empty() => Err("names no directory".into()),
        Value::Array(list) => list.iter().map(path).collect::<Result<_, _>>().map(Value::Array),
        one => path(one).map(|one| Value::Array(vec![one])),
    }
}

/// A whole number that is more than nothing.
pub(crate) fn positive(value: &Value) -> Result<Value, String> {
    match value.as_integer() {
        Some(number) if number > 0 => Ok(value.clone()),
        _ => Err("is not a number above 0, and Gantline has no word for \"no limit\" there".into()),
    }
}

/// The size of a log line: Gantline splits every line somewhere.
pub(crate) fn line_size(value: &Value) -> Result<Value, String> {
    match value.as_integer() {
        Some(256..=65536) => Ok(value.clone()),
        _ => {
            Err("lines are split at 256 to 65536 bytes here; set pods.log_line_bytes_max to the nearest"
                .into())
        }
    }
}

/// A duration as Go writes it, `4h0m0s`; a bare number is of seconds.
pub(crate) fn duration(value: &Value) -> Result<Value, String> {
    let wrong = || format!("{value} is not a duration");
    let span = match value {
        Value::Integer(seconds) => Duration::from_secs(u64::try_from(*seconds).map_err(|_| wrong())?),
        Value::String(text) => go_duration(text).ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    if span.is_zero() {
        return Err("0 is \"never\" there; Gantline has no never, and its own default stays".into());
    }
    // What Gantline shows is text that it reads.
    Ok(Value::String(Span(span).to_toml().trim_matches('"').to_owned()))
}

fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut millis = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let amount: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let one = match &rest[..unit] {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        millis = millis.checked_add(amount.checked_mul(one)?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then(|| Duration::from_millis(millis))
}

/// logrus's levels by ours.
pub(crate) fn level(value: &Value) -> Result<Value, String> {
    let ours = match value.as_str() {
        Some("") => "info",
        Some("fatal" | "panic") => "error",
        Some("warning") => "warn",
        Some(level @ ("error" | "warn" | "info" | "debug" | "trace")) => level,
        _ => return Err("is not a level that Gantline has".into()),
    };
    Ok(Value::String(ours.into()))
}

/// `text` or `json`.
pub(crate) fn log_format(value: &Value) -> Result<Value, String> {
    match value.as_str() {
        Some("" | "text") => Ok(Value::String("text".into())),
        Some("json") => Ok(value.clone()),
        _ => Err("is neither text nor json".into()),
    }
}

/// An address and port, or nothing.
pub(crate) fn listen(value: &Value) -> Result<Value, String> {
    let text = value.as_str().unwrap_or_default();
    let address = if text.is_empty() { Listen(None) } else { Listen(text.parse().ok()) };
    match address {
        Listen(None) if !text.is_empty() => Err("is not an IP address and a port".into()),
        _ => Ok(value.clone()),
    }
}

/// `nofile=1024:2048`.
pub(crate) fn ulimits(value: &Value) -> Result<Value, String> {
    let list = value.as_array().ok_or("is not a list")?;
    let one = |item: &Value| {
        let quoted = toml::de::DeValue::String(item.as_str().unwrap_or_default().into());
        let limit = Ulimit::parse(&quoted)?;
        Ok(Value::String(limit.to_toml().trim_matches('"').to_owned()))
    };
    list.iter().map(one).collect::<Result<_, String>>().map(Value::Array)
}

/// Capabilities, with or without `CAP_`.
pub(crate) fn capabilities(value: &Value) -> Result<Value, String> {
    let list = value.as_array().ok_or("is not a list")?;
    let names = list
        .iter()
        .filter_map(Value::as_str)
        .map(|name| Value::String(name.to_ascii_uppercase().trim_start_matches("CAP_").to_owned()));
    Ok(Value::Array(names.collect()))
}

/// One of a few words by one of ours.
macro_rules! words {
    ($name:ident, $( $theirs:pat => $ours:literal ),+) => {
        pub(crate) fn $name(value: &Value) -> Result<Value, String> {
            match value.as_str() {
                $( Some($theirs) => Ok(Value::String($ours.into())), )+
                _ => Err("is not a value that Gantline knows there".into()),
            }
        }
    };
}
words!(cgroup_manager, "systemd" => "systemd", "cgroupfs" => "cgroupfs");
words!(ip_preference, "" | "ipv4" => "ipv4", "ipv6" => "ipv6", "cni" => "cni");
words!(unset_seccomp, "" | "unconfined" => "unconfined", "runtime/default" | "docker/default" => "runtime-default");
words!(image_volumes, "bind" => "copy", "mkdir" | "ignore" => "ignore");

/// Whether an unset seccomp profile means the default one.
pub(crate) fn seccomp_flag(value: &Value) -> Result<Value, String> {
    let word = if value.as_bool() == Some(true) { "runtime-default" } else { "unconfined" };
    Ok(Value::String(word.into()))
}

/// Whether the volumes of images are ignored.
pub(crate) fn volumes_flag(value: &Value) -> Result<Value, String> {
    let word = if value.as_bool() == Some(true) { "ignore" } else { "copy" };
    Ok(Value::String(word.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        format!("x = {text}").parse::<toml::Table>().unwrap().remove("x").unwrap()
    }

    #[test]
    fn patterns_match_part_by_part() {
        let path = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
        for (pattern, key, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/b/c", "a/b", false),
            ("a/*/c", "a/x.y/c", true),
            ("a/**", "a/b/c", true),
            ("a/**", "a", true),
            ("b/**", "a/b", false),
        ] {
            assert_eq!(matches(pattern, &path(key)), expected, "{pattern} {key}");
        }
    }

    #[test]
    fn values_become_ours_or_say_why_not() {
        type Convert = fn(&Value) -> Result<Value, String>;
        let cases: &[(Convert, &str, Result<&str, &str>)] = &[
            (duration, "'4h0m0s'", Ok("'4h'")),
            (duration, "'1m30s'", Ok("'90s'")),
            (duration, "120", Ok("'2m'")),
            (duration, "'0s'", Err("0 is \"never\"")),
            (duration, "'soon'", Err("\"soon\" is not a duration")),
            (line_size, "-1", Err("lines are split")),
            (line_size, "4096", Ok("4096")),
            (paths, "'/opt/cni/bin/'", Ok("['/opt/cni/bin']")),
            (paths, "['/a/', 'b']", Err("is not an absolute path")),
            (level, "'fatal'", Ok("'error'")),
            (level, "'loud'", Err("is not a level")),
            (listen, "'localhost:1'", Err("is not an IP address")),
            (ulimits, "['nofile=1024:2048']", Ok("['nofile=1024:2048']")),
            (ulimits, "['files=1']", Err("unknown limit")),
            (capabilities, "['CAP_CHOWN', 'kill']", Ok("['CHOWN', 'KILL']")),
            (positive, "-1", Err("is not a number above 0")),
            (ip_preference, "''", Ok("'ipv4'")),
            (image_volumes, "'mkdir'", Ok("'ignore'")),
            (unset_seccomp, "'localhost/x'", Err("is not a value")),
        ];
        for (convert, text, expected) in cases {
            match (convert(&value(text)), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, value(expected), "{text}"),
                (Err(found), Err(expected)) => assert!(found.starts_with(expected), "{text}: {found}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
