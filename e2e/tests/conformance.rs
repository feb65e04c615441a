//! The official suite, as much of it as runs each time; `make conformance` runs all.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use e2e::conformance::{Run, node};

/// What a client streams with.
const STREAMING: &[&str] = &["Streaming"];

fn passes(run: &Run) {
    let node = node(&run.handler);
    let outcome = run.on(&node);
    println!("{outcome}");
    outcome.assert_expected();
    node.remove_all_pods();
    node.leaves_nothing();
}

#[test]
fn all_specs_pass_with_runc() {
    passes(&Run::of("runc"));
}

#[test]
fn streaming_specs_pass_over_websocket_with_runc() {
    passes(&Run::of("runc").focus(STREAMING).websocket());
}

#[test]
fn streaming_specs_pass_with_crun() {
    passes(&Run::of("crun").focus(STREAMING));
}

#[test]
fn streaming_specs_pass_over_websocket_with_crun() {
    passes(&Run::of("crun").focus(STREAMING).websocket());
}
