//! Runs last, by its name: whatever the other tests did, the machine is as it was.

#[test]
fn no_machine_of_a_dead_test_is_left() {
    let forgotten = e2e::machine::forgotten();
    assert!(forgotten.is_empty(), "machines {forgotten:?} left a directory, a process or a cgroup");
}
