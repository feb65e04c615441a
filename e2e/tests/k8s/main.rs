//! Pods as Kubernetes makes them: a kubelet, a control plane and kubectl on Gantline, one cluster for all tests.
//!
//! ```text
//! make test-k8s                                        # all of them
//! cargo test -p e2e --test k8s -- job                  # those whose name has `job` in it
//! cargo test -p e2e --test k8s -- volumes::            # those of one file
//! cargo test -p e2e --test k8s -- --list
//! cargo test -p e2e --test k8s -- --test-threads=1 oom # one after another
//! ```
//!
//! A main of its own, because one cluster serves many tests and goes when they have ended. Each test has a namespace;
//! those of `node`, `gates` and `bad_days` change or break the node, so they come last and alone.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use e2e::cluster::{Cluster, Settings};
use serde_json::json;

/// A test by its file and name.
type Test = (&'static str, fn(&Cluster));

/// Lists a module's tests for `main`.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[crate::Test] =
            &[$((concat!(module_path!(), "::", stringify!($name)), $name as fn(&e2e::cluster::Cluster))),*];
    };
}

mod bad_days;
mod cadvisor;
mod gates;
mod helm;
mod images;
mod installer;
mod lifecycle;
mod network;
mod node;
mod people;
mod resources;
mod security;
mod volumes;
mod workloads;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let threads =
        args.iter().find_map(|arg| arg.strip_prefix("--test-threads=")).map_or(3, |n| n.parse().unwrap());
    let wanted = |test: &Test| words.is_empty() || words.iter().any(|word| test.0.contains(word.as_str()));
    let together = [
        workloads::TESTS,
        lifecycle::TESTS,
        people::TESTS,
        network::TESTS,
        volumes::TESTS,
        security::TESTS,
        resources::TESTS,
        images::TESTS,
        cadvisor::TESTS,
        helm::TESTS,
        installer::TESTS,
    ];
    let chosen = |tests: Vec<Test>| -> VecDeque<Test> {
        let short = |(name, test): Test| (name.trim_start_matches("k8s::"), test);
        tests.into_iter().map(short).filter(wanted).collect()
    };
    let together = chosen(together.concat());
    let alone = chosen([node::TESTS, gates::TESTS, bad_days::TESTS].concat());
    if args.iter().any(|arg| arg == "--list") {
        together.iter().chain(&alone).for_each(|test| println!("{}", test.0));
        return ExitCode::SUCCESS;
    }
    let mut missing = e2e::cluster::missing_programs();
    if !e2e::programs::target_dir().join("tools/helm").exists() {
        missing.push("helm");
    }
    if !missing.is_empty() {
        eprintln!("k8s: not built: {}; run `e2e/tools/build.sh cluster helm runc`", missing.join(", "));
        return ExitCode::FAILURE;
    }
    let start = Instant::now();
    let count = together.len() + alone.len();
    let settings = match gates() {
        Ok(gates) => Settings { gates, ..Settings::default() },
        Err(word) => {
            eprintln!("k8s: GANTLINE_E2E_GATES is `on`, `off` or absent, not {word:?}");
            return ExitCode::FAILURE;
        }
    };
    let tell = |line: &str| println!("{:6.1} s  {line}", start.elapsed().as_secs_f64());
    let cluster = Cluster::start_telling(settings, tell);
    let mut failed = run(&cluster, together, threads);
    failed.extend(run(&cluster, alone, 1));
    if !failed.is_empty() {
        keep_words(&cluster);
    }
    drop(cluster);
    println!(
        "\n{} passed, {} failed, {:.0} s",
        count - failed.len(),
        failed.len(),
        start.elapsed().as_secs_f64()
    );
    failed.iter().for_each(|name| println!("    {name}"));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The kubelet's gates that choose how it asks a runtime, by `GANTLINE_E2E_GATES`: `on`, `off`, or as they are.
fn gates() -> Result<serde_json::Value, String> {
    match std::env::var("GANTLINE_E2E_GATES").as_deref() {
        Ok("on") => Ok(gates::all(true)),
        Ok("off") => Ok(gates::all(false)),
        Err(_) => Ok(json!({})),
        Ok(other) => Err(other.into()),
    }
}

/// Whether the tests that take as long as one lets them take their whole time: `GANTLINE_E2E_LONG`, as `make test-k8s`
/// sets it.
pub(crate) fn long() -> bool {
    std::env::var_os("GANTLINE_E2E_LONG").is_some()
}

/// Runs tests, `threads` at once; the names of those that failed.
fn run(cluster: &Cluster, tests: VecDeque<Test>, threads: usize) -> Vec<&'static str> {
    let queue = Mutex::new(tests);
    let failed = Mutex::new(Vec::new());
    let work = || {
        loop {
            let Some((name, test)) = queue.lock().unwrap().pop_front() else { return };
            let start = Instant::now();
            let passed = catch_unwind(AssertUnwindSafe(|| test(cluster))).is_ok();
            let word = if passed { "ok" } else { "FAILED" };
            println!("{word:>6}  {name} ({:.1} s)", start.elapsed().as_secs_f64());
            if !passed {
                failed.lock().unwrap().push(name);
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    failed.into_inner().unwrap()
}

/// Keeps the logs of service and kubelet where a person finds them after the cluster is gone.
fn keep_words(cluster: &Cluster) {
    let kept = e2e::programs::target_dir().join("k8s-last");
    let _ = std::fs::create_dir_all(&kept);
    let _ = std::fs::copy(cluster.kubelet_log(), kept.join("kubelet.log"));
    let _ = std::fs::write(kept.join("gantline.log"), cluster.node.service_log());
    println!("logs of kubelet and service are kept in {}", kept.display());
}
