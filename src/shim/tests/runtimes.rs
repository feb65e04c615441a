//! How long runs and execs take with each OCI runtime that is here, and that each one works.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, reason = "tests")]

mod node;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use node::{Node, able, exit, sh};
use wire::Event;

const ROUNDS: usize = 10;

fn p50(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// crun, and runc and youki where `$GANTLINE_RUNTIMES` (paths with colons between) names them.
fn runtimes() -> Vec<PathBuf> {
    let more = std::env::var("GANTLINE_RUNTIMES").unwrap_or_default();
    let mut all = vec![PathBuf::from("/usr/bin/crun")];
    all.extend(more.split(':').filter(|path| !path.is_empty()).map(PathBuf::from));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_runtime_runs_execs_and_deletes() {
    if !able() {
        return;
    }
    for runtime in runtimes() {
        let mut node = Node::new();
        node.runtime.binary = runtime.clone();
        let shim = node.shim().await;
        let (mut runs, mut execs, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
        let mut kills = Vec::new();
        for _ in 0..ROUNDS {
            tokio::time::sleep(Duration::from_millis(40)).await;
            let bundle = node.bundle(&sh("sleep 1000"));
            let id = bundle.container.clone();
            let began = Instant::now();
            shim.run(bundle).await.map_err(|e| model::chain(&e)).unwrap();
            runs.push(began.elapsed());
            tokio::time::sleep(Duration::from_millis(40)).await;
            let began = Instant::now();
            let exec = node.exec(&shim, &id, "exit 3", None).await;
            assert_eq!(shim.wait_exec(&exec.exec).await.unwrap().code, 3);
            execs.push(began.elapsed());
            // As a pod's driver does: it hears of the exit and deletes at once.
            tokio::time::sleep(Duration::from_millis(40)).await;
            let mut events = shim.events();
            let began = Instant::now();
            shim.kill(&id, model::Signal::KILL, false).await.unwrap();
            while !matches!(events.recv().await.unwrap(), Event::Exited { .. }) {}
            kills.push(began.elapsed());
            assert_eq!(exit(&shim, &id).await.code, 137);
            let began = Instant::now();
            shim.delete(&id).await.unwrap();
            deletes.push(began.elapsed());
        }
        println!(
            "{}: run {:?}, exec {:?}, kill {:?}, delete {:?} (p50)",
            runtime.display(),
            p50(runs),
            p50(execs),
            p50(kills),
            p50(deletes)
        );
    }
}
