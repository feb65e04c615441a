//! `make cluster` and `make cluster-down` as a person uses them: what they call is run, and asked from the host.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use e2e::command::{Said, command, run};
use e2e::programs::tool;

fn cluster(word: &str, dir: &Path) -> Said {
    run(command(env!("CARGO_BIN_EXE_cluster")).arg(word).env("GANTLINE_CLUSTER_DIR", dir))
}

/// Starts one; what a person is told to export.
fn up(dir: &Path) -> String {
    let said = cluster("up", dir).ok();
    let line = said.lines().find_map(|line| line.trim().strip_prefix("export KUBECONFIG="));
    line.unwrap_or_else(|| panic!("no KUBECONFIG line: {said}")).to_owned()
}

fn serves(kubeconfig: &str) {
    let kubectl = |args: &[&str]| run(command(tool("kubectl")).env("KUBECONFIG", kubeconfig).args(args)).ok();
    assert!(kubectl(&["get", "nodes"]).contains(" Ready "));
    let runtime = "jsonpath={.items[0].status.nodeInfo.containerRuntimeVersion}";
    assert!(kubectl(&["get", "nodes", "-o", runtime]).starts_with("gantline://"));
}

#[test]
fn a_cluster_comes_up_serves_and_goes_also_when_its_holder_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = up(dir.path());
    serves(&kubeconfig);
    let refused = cluster("up", dir.path()).fails();
    assert!(refused.contains("up already") && refused.contains("cluster-down"), "{refused}");
    assert!(cluster("down", dir.path()).ok().contains("nothing is left"));
    assert!(!Path::new(&kubeconfig).exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    let kubeconfig = up(dir.path());
    let holder = fs::read_to_string(dir.path().join("gantline-cluster.pid")).unwrap();
    run(command("kill").args(["-9", holder.trim()])).ok();
    assert!(cluster("down", dir.path()).ok().contains("nothing is left"));
    assert!(!Path::new(&kubeconfig).exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(
        cluster("down", dir.path()).ok().contains("nothing is left"),
        "there is nothing to be taken down"
    );
}
