//! The house rules that no compiler checks: edges between rooms, what the shim may link, how a module opens.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use e2e::command::{command, run};
use serde_json::Value;

/// Who may depend on whom, among the house's own crates. Drawn in docs/ARCHITECTURE.md; a new edge is a
/// decision and wants an ADR.
const EDGES: &[(&str, &[&str])] = &[
    ("gantline", &["image", "kernel", "model", "network", "pod", "rpc", "shim-client", "telemetry"]),
    ("rpc", &["api", "image", "model", "pod", "telemetry"]),
    ("pod", &["image", "kernel", "model", "network", "shim-client", "store", "telemetry"]),
    ("image", &["kernel", "model", "store", "telemetry"]),
    ("network", &["kernel", "model", "store", "telemetry"]),
    ("shim-client", &["kernel", "model", "telemetry", "wire"]),
    ("gantline-shim", &["kernel", "model", "wire"]),
    ("store", &["model"]),
    ("wire", &["model"]),
    ("kernel", &[]),
    ("telemetry", &[]),
    ("model", &[]),
    ("api", &[]),
    ("e2e", &["api", "store"]),
];

/// What the shim must never link: it is one small process a pod.
const NOT_IN_THE_SHIM: &[&str] = &["tokio", "tonic", "prost", "hyper", "h2", "tracing-subscriber", "rustls"];

/// A file longer than this says why in a line `// Long because …` near its top.
const LINES_MAX: usize = 600;

fn house() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Runs cargo on the house, with nothing fetched or resolved anew.
fn cargo(args: &[&str]) -> String {
    run(command(env!("CARGO")).current_dir(house()).args(args)).ok()
}

/// Every tracked file with one of the endings.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let listed = run(command("git").current_dir(house()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]));
    let kept = |name: &&str| endings.iter().any(|ending| name.ends_with(ending));
    let paths: Vec<PathBuf> = listed.ok().lines().filter(kept).map(|name| house().join(name)).collect();
    paths.into_iter().filter(|path| path.exists()).collect()
}

fn show(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n  {}\n", complaints.join("\n  "));
}

fn short(path: &Path) -> String {
    path.strip_prefix(house()).unwrap_or(path).display().to_string()
}

/// The edges between members, dev-dependencies aside.
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let text = cargo(&["metadata", "--format-version=1", "--no-deps", "--locked"]);
    let metadata: Value = serde_json::from_str(&text).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |package: &Value| package["name"].as_str().unwrap().to_string();
    let members: BTreeSet<String> = packages.iter().map(name).collect();
    let edges_of = |package: &Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let kept = dependencies.filter(|d| d["kind"].as_str() != Some("dev")).map(name);
        kept.filter(|dependency| members.contains(dependency)).collect()
    };
    packages.iter().map(|package| (name(package), edges_of(package))).collect()
}

#[test]
fn rooms_depend_only_on_what_the_plan_draws() {
    let allowed: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let mut complaints = Vec::new();
    for (room, dependencies) in edges() {
        match allowed.get(room.as_str()) {
            None => complaints.push(format!("{room} is not in the plan (EDGES in this file)")),
            Some(allowed) => {
                let new = dependencies.iter().filter(|dependency| !allowed.contains(&dependency.as_str()));
                complaints.extend(new.map(|dependency| format!("{room} → {dependency} is not in the plan")));
            }
        }
    }
    show(&complaints);
}

/// The oldest Rust that the dependencies build with is the one that we name: no newer for show, no older by hope.
/// That our own code keeps to it is clippy's `incompatible_msrv`.
#[test]
fn the_rust_version_is_what_the_dependencies_need() {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version=1", "--locked"])).unwrap();
    let version = |package: &Value| -> Option<Vec<u32>> {
        let text = package["rust_version"].as_str()?;
        Some(text.split('.').map(|part| part.parse().unwrap()).chain([0]).take(2).collect())
    };
    let packages = metadata["packages"].as_array().unwrap();
    let (theirs, ours): (Vec<_>, Vec<_>) = packages.iter().partition(|p| p["source"].is_string());
    let needed = theirs.iter().filter_map(|p| version(p)).max().unwrap();
    for package in ours {
        assert_eq!(version(package), Some(needed.clone()), "rust-version of {}", package["name"]);
    }
}

#[test]
fn the_shim_links_no_async_runtime_and_no_protocol() {
    let tree = cargo(&["tree", "-p", "gantline-shim", "-e", "normal", "--prefix", "none", "--locked"]);
    let crates: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains("gantline-shim"), "cargo tree says: {tree}");
    show(
        &NOT_IN_THE_SHIM
            .iter()
            .filter(|name| crates.contains(**name))
            .map(|n| n.to_string())
            .collect::<Vec<_>>(),
    );
}

#[test]
fn every_module_opens_with_what_it_is_for() {
    let opens_silently = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        // Inner attributes and the reason for length may stand before.
        let first =
            text.lines().find(|line| !line.is_empty() && !line.starts_with("#!") && !line.starts_with("// "));
        let said = first.and_then(|line| line.strip_prefix("//!")).map(str::trim);
        said.is_none_or(|words| words.len() <= 3)
    };
    // A tests.rs is its parent's: that says what it tests.
    let modules = files(&[".rs"]).into_iter().filter(|path| !path.ends_with("tests.rs"));
    let silent = modules.filter(opens_silently);
    show(&silent.map(|path| format!("{} does not open with a //! line", short(&path))).collect::<Vec<_>>());
}

#[test]
fn a_long_file_says_why() {
    let mut complaints = Vec::new();
    for path in files(&[".rs"]) {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        let reason = text.lines().take(40).any(|line| line.contains("Long because"));
        if lines > LINES_MAX && !reason {
            complaints.push(format!("{}: {lines} lines and no line `// Long because …`", short(&path)));
        }
    }
    show(&complaints);
}

/// A word of code, not of a comment or a string.
fn in_code(text: &str, word: &str) -> Option<usize> {
    text.lines().position(|line| {
        let code = line.split("//").next().unwrap_or_default();
        let is_word = |at: usize| {
            let letter = |c: char| c.is_alphanumeric() || c == '_' || c == '"';
            let before = code[..at].chars().next_back().is_some_and(letter);
            let after = code[at + word.len()..].chars().next().is_some_and(letter);
            !before && !after
        };
        code.match_indices(word).any(|(at, _)| is_word(at)) && !code.contains('"')
    })
}

#[test]
fn unsafe_code_is_in_one_room() {
    let elsewhere = files(&[".rs"]).into_iter().filter(|path| !short(path).starts_with("src/kernel/"));
    let found = elsewhere.filter_map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        in_code(&text, "unsafe").map(|at| format!("{}:{}: unsafe outside src/kernel", short(&path), at + 1))
    });
    show(&found.collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_undone_in_the_sources() {
    // Spelled so that this file does not find itself.
    let words = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["X", "XX"].concat()];
    let mut complaints = Vec::new();
    for path in files(&[".rs", ".sh", ".toml", "Makefile"]) {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let bare = line.split(|c: char| !c.is_alphanumeric());
            for word in bare.filter(|word| words.iter().any(|banned| banned == word)) {
                complaints.push(format!("{}:{}: {word}: file an issue instead", short(&path), number + 1));
            }
        }
    }
    show(&complaints);
}

#[test]
fn no_package_registry_is_named() {
    let hosts = ["crates.io", "golang.org", "debian.org", "npmjs.org", "pypi.org"];
    // Import paths that are no places to fetch from, and the lock files' own form.
    let fine =
        |line: &str| line.contains("golang.org/x/") || line.contains("github.com/rust-lang/crates.io-index");
    let mut complaints = Vec::new();
    for path in files(&[".rs", ".sh", "Makefile", ".yml", ".yaml", "run", "Dockerfile"]) {
        if short(&path) == "e2e/tests/tidy.rs" {
            continue;
        }
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            if hosts
                .iter()
                .any(|host| line.contains(&format!("://{host}")) || line.contains(&format!(".{host}/")))
                && !fine(line)
            {
                complaints.push(format!("{}:{}: {line}", short(&path), number + 1));
            }
        }
    }
    show(&complaints);
}

#[test]
fn the_papers_are_there_and_say_what_a_newcomer_needs() {
    let wants: &[(&str, &[&str])] = &[
        ("README.md", &["make demo", "make test", "crictl", "kubelet", "ARCHITECTURE.md"]),
        ("CHANGELOG.md", &["\n## "]),
        ("docs/ARCHITECTURE.md", &["RunPodSandbox", "Invariant"]),
        ("docs/performance.md", &["containerd", "make bench"]),
        ("LICENSE", &["Apache License"]),
    ];
    let mut complaints = Vec::new();
    for (file, words) in wants {
        match fs::read_to_string(house().join(file)) {
            Err(_) => complaints.push(format!("{file} is missing")),
            Ok(text) => {
                let silent = words.iter().filter(|word| !text.contains(**word));
                complaints.extend(silent.map(|word| format!("{file} does not mention {word:?}")));
            }
        }
    }
    show(&complaints);
}

/// What a Markdown text links to, less what is elsewhere on the net: `[words](target)` and `[words]: target`.
fn links(text: &str) -> Vec<&str> {
    let mut code = false;
    let prose = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    });
    let of = |line| -> Vec<&str> {
        let inline = str::split(line, "](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        let defined =
            line.starts_with('[').then(|| line.split_once("]: ")).flatten().map(|(_, to)| to.trim());
        inline.chain(defined).collect()
    };
    let found = prose.flat_map(of);
    found.filter(|to| !to.contains("://") && !to.starts_with("mailto:")).collect()
}

#[test]
fn links_between_the_papers_lead_somewhere() {
    assert_eq!(
        links("[a](b.md) and [c](d/e.md#f)\n```\n[g](h)\n```\n[i]: j.md\n"),
        ["b.md", "d/e.md#f", "j.md"]
    );
    let mut complaints = Vec::new();
    for path in files(&[".md"]) {
        let text = fs::read_to_string(&path).unwrap();
        for link in links(&text) {
            let target = link.split('#').next().unwrap_or_default();
            // Of a link within the paper itself only the place in it is named.
            if !target.is_empty() && !path.parent().unwrap().join(target).exists() {
                complaints.push(format!("{} links to {link}, which is not there", short(&path)));
            }
        }
    }
    show(&complaints);
}

#[test]
fn every_decision_record_is_short_and_whole() {
    let mut complaints = Vec::new();
    let mut numbers = BTreeSet::new();
    for path in files(&[".md"]).iter().filter(|path| short(path).starts_with("docs/adr/")) {
        let text = fs::read_to_string(path).unwrap();
        let number = path.file_name().unwrap().to_string_lossy().chars().take(3).collect::<String>();
        if !number.chars().all(|c| c.is_ascii_digit()) || !numbers.insert(number.clone()) {
            complaints.push(format!("{}: its number is missing or taken", short(path)));
        }
        if text.lines().filter(|line| !line.trim().is_empty()).count() > 25 {
            complaints.push(format!("{}: ten lines are enough for a decision", short(path)));
        }
    }
    show(&complaints);
}
