//! `make conformance`: critest whole, with each OCI runtime, over each transport, and in parallel.
//!
//! `conformance HANDLER [websocket] [parallel] [FOCUS…]` is one run, of the specs that a regular expression finds.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use e2e::conformance::{Run, node};
use e2e::random;

/// Processes of a parallel run: more than the cores, so that they meet.
const PROCESSES: u32 = 4;

/// Parallel runs, each in another order.
const ORDERS: u32 = 3;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runs = match args.split_first() {
        Some((handler, words)) => vec![one(handler, words)],
        None => everything(),
    };
    let failed = runs.iter().filter(|run| !passes(run)).count();
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(handler: &str, words: &[String]) -> Run {
    let mut run = Run::of(handler);
    let mut focus: Vec<&str> = Vec::new();
    for word in words {
        match word.as_str() {
            "websocket" => run = run.websocket(),
            "parallel" => run = run.parallel(PROCESSES, seed()),
            expression => focus.push(expression),
        }
    }
    run.focus(&focus)
}

/// ginkgo's seeds are small.
fn seed() -> u32 {
    random::seed() as u32
}

fn everything() -> Vec<Run> {
    let mut runs = vec![Run::of("runc"), Run::of("crun"), Run::of("runc").websocket()];
    let seed = seed();
    for order in 0..ORDERS {
        runs.push(Run::of("runc").parallel(PROCESSES, seed.wrapping_add(order)));
    }
    runs
}

/// Runs on a node of its own and prints what came of it.
fn passes(run: &Run) -> bool {
    let node = node(&run.handler);
    let outcome = run.on(&node);
    println!("{outcome}");
    node.remove_all_pods();
    node.leaves_nothing();
    outcome.verdict.as_expected()
}
