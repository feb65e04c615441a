//! What is on the host itself: the tests' machines are namespaces, but units work on the host, and a fault may reach
//! it. `make e2e` writes down what is there before any test; the last test compares.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::command::command;
use crate::leftovers;

/// What goes by itself, or belongs to another person's run, is gone within this time.
const SETTLED: Duration = Duration::from_secs(60);

/// Where the list of before is, when there is one: `$GANTLINE_HOST_BEFORE`.
pub fn list_of_before() -> Option<PathBuf> {
    std::env::var_os("GANTLINE_HOST_BEFORE").map(PathBuf::from)
}

/// Everything on the host, a line each, that pods or their tests may leave there.
pub fn things() -> BTreeSet<String> {
    let mut things = BTreeSet::new();
    let mut add = |kind: &str, found: Vec<String>| {
        things.extend(found.iter().map(|thing| format!("{kind} {thing}")));
    };
    add("mount", mounts());
    add("netns", leftovers::entries(Path::new("/run/netns"), &[]));
    add("process", leftovers::named_on_the_host("gantline"));
    add("link", leftovers::entries(Path::new("/sys/class/net"), &[]));
    add("rule", rules("iptables-save", &[]));
    add("rule", rules("nft", &["list", "ruleset"]));
    add("cgroup", leftovers::test_cgroups());
    add("CNI file", files_below(Path::new("/var/lib/cni")));
    for dir in ["/run", "/var/lib"] {
        let ours = |path: &String| path.contains("gantline");
        add("directory", leftovers::entries(Path::new(dir), &[]).into_iter().filter(ours).collect());
    }
    things
}

/// What is there now and was not before, and stays: each look for a minute saw it.
pub fn left_since(before: &BTreeSet<String>) -> BTreeSet<String> {
    let start = Instant::now();
    let mut left: BTreeSet<String> = things().difference(before).cloned().collect();
    while !left.is_empty() && start.elapsed() < crate::patient(SETTLED) {
        std::thread::sleep(Duration::from_millis(250));
        let now = things();
        left.retain(|thing| now.contains(thing));
    }
    left
}

/// Mount points that are named after us, and those in directories for temporary files, where units mount.
fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let temporary = std::env::temp_dir().display().to_string();
    let ours = |line: &&str| {
        let point = line.split(' ').nth(4).unwrap_or_default();
        line.contains("gantline") || point.starts_with(&temporary) || point.starts_with("/var/tmp/")
    };
    table.lines().filter(ours).map(str::to_string).collect()
}

/// Packet filter rules, without what changes by itself: comments and counters. A program that is not there or has
/// nothing to say knows no rule.
fn rules(program: &str, args: &[&str]) -> Vec<String> {
    let Ok(output) = command(crate::programs::installed(program)).args(args).output() else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(without_counters);
    lines.filter(|line| !line.is_empty()).collect()
}

/// A line without `[packets:bytes]` (iptables) and `packets N bytes N` (nft).
fn without_counters(line: &str) -> String {
    let mut words = Vec::new();
    let mut of_counter = false;
    for word in line.split_whitespace() {
        let of_iptables = word.starts_with('[') && word.ends_with(']') && word.contains(':');
        let of_nft = of_counter || matches!(word, "packets" | "bytes");
        of_counter = matches!(word, "packets" | "bytes");
        if !of_iptables && !of_nft {
            words.push(word);
        }
    }
    words.join(" ")
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_no_difference() {
        let table = [
            (":INPUT ACCEPT [12:3400]", ":INPUT ACCEPT"),
            ("\t\tcounter packets 5 bytes 420 accept", "counter accept"),
            ("-A CNI-FORWARD -s 10.0.0.1/32 -j ACCEPT", "-A CNI-FORWARD -s 10.0.0.1/32 -j ACCEPT"),
        ];
        for (line, expected) in table {
            assert_eq!(without_counters(line), expected);
        }
    }
}
