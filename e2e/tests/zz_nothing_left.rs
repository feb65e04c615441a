//! Runs last, by its name: whatever the other tests did, the machine is as it was.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use e2e::host;

#[test]
fn no_machine_of_a_dead_test_is_left() {
    let forgotten = e2e::machine::forgotten();
    assert!(forgotten.is_empty(), "machines {forgotten:?} left a directory, a process or a cgroup");
}

#[test]
fn the_host_is_as_it_was_before_the_tests() {
    let Some(list) = host::list_of_before() else {
        println!("skipped: nobody wrote down what was there before; `make e2e` does");
        assert!(std::env::var_os("GANTLINE_TESTS_MUST_RUN").is_none(), "this test must run");
        return;
    };
    let before = std::fs::read_to_string(list).unwrap().lines().map(str::to_string).collect();
    let left: Vec<String> = host::left_since(&before).into_iter().collect();
    assert!(left.is_empty(), "left on the host:\n  {}", left.join("\n  "));
}
