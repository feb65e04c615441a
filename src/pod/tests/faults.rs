//! The pod room between a faulty network and faulty shims, with restarts in the middle of everything.
//!
//! The kernel, the stores and the images are real; networks and shims are made up, and misbehave as a seed
//! says. Whatever happens: once every pod is removed nothing is left, no address, no directory, no pin, no
//! mount. The seed is printed; `GANTLINE_SEED` repeats a run.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and prints its seed")]

mod node;

use std::time::Duration;

use model::{ErrorKind, PodConfig};
use network::fake;
use node::{Node, container_config, pod_config};
use pod::{ContainerPhase, EventKind, PodPhase};
use shim_client::Shims as _;

/// xorshift64*: enough randomness for choices, and repeatable.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound
    }
}

fn seed() -> u64 {
    let given = std::env::var("GANTLINE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 0x5eed);
    println!("GANTLINE_SEED={seed}");
    seed
}

#[test]
fn a_pod_and_its_container_live_and_go() {
    let Some(node) = Node::new(1) else { return };
    let runtime = node.runtime();
    runtime.block_on(async {
        let pods = node.open().await;
        let mut events = pods.events();
        let pod = pods.run_pod(pod_config("a", 0)).await.unwrap();
        let view = pods.pod(&pod.as_str()[..10]).unwrap();
        assert_eq!((view.pod.phase.clone(), view.pod.ips.len()), (PodPhase::Ready, 1));
        let container = pods.create_container(pod.as_str(), container_config("c", 0)).await.unwrap();
        pods.start_container(container.as_str()).await.unwrap();
        let status = pods.container(container.as_str()).unwrap();
        assert!(matches!(status.phase, ContainerPhase::Running { .. }), "{:?}", status.phase);
        let again = pods.start_container(container.as_str()).await.unwrap_err();
        assert_eq!(model::Classify::kind(&again), ErrorKind::WrongState);

        node.shims.exit(&pod, &container, 3);
        let exited = node::until(|| match &pods.container(container.as_str()).unwrap().phase {
            ContainerPhase::Exited(exit) => Some(exit.clone()),
            _ => None,
        })
        .await;
        assert_eq!((exited.code, exited.reason.as_str()), (3, "Error"));
        pods.stop_pod(pod.as_str()).await.unwrap();
        pods.stop_pod(pod.as_str()).await.unwrap();
        assert!(pods.pod(pod.as_str()).unwrap().pod.ips.is_empty());
        pods.remove_pod(pod.as_str()).await.unwrap();
        pods.remove_pod(pod.as_str()).await.unwrap();
        assert!(pods.list().is_empty());

        let mut told = Vec::new();
        while let Ok(Ok(event)) = tokio::time::timeout(Duration::from_millis(100), events.next()).await {
            told.push((event.subject == pod.as_str(), event.kind));
        }
        use EventKind::{Created, Deleted, Started, Stopped};
        let of = |sandbox| told.iter().filter(|(s, _)| *s == sandbox).map(|(_, k)| *k).collect::<Vec<_>>();
        assert_eq!(of(true), [Created, Started, Stopped, Deleted]);
        assert_eq!(of(false), [Created, Started, Stopped, Deleted]);
    });
    drop(runtime);
    node.assert_empty();
}

#[test]
fn retries_join_and_strangers_are_refused() {
    let Some(node) = Node::new(2) else { return };
    let runtime = node.runtime();
    runtime.block_on(async {
        let pods = node.open().await;
        let runs = (0..5).map(|_| pods.run_pod(pod_config("a", 0)));
        let ids: Vec<_> =
            futures_util::future::join_all(runs).await.into_iter().map(Result::unwrap).collect();
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
        assert_eq!(node.network().calls().0, 1, "one ADD for five requests");
        let other = PodConfig { hostname: "other".to_owned(), ..pod_config("a", 0) };
        let refused = pods.run_pod(other).await.unwrap_err();
        assert_eq!(model::Classify::kind(&refused), ErrorKind::Exists, "{refused}");

        let creates = (0..5).map(|_| pods.create_container(ids[0].as_str(), container_config("c", 0)));
        let containers: Vec<_> =
            futures_util::future::join_all(creates).await.into_iter().map(Result::unwrap).collect();
        assert!(containers.windows(2).all(|pair| pair[0] == pair[1]), "{containers:?}");

        // A client that hangs up aborts nothing.
        {
            let mut hung_up = std::pin::pin!(pods.run_pod(pod_config("b", 0)));
            assert!(futures_util::poll!(&mut hung_up).is_pending());
        }
        let finished =
            node::until(|| pods.list().iter().find(|v| v.pod.config.identity.name == "b").cloned()).await;
        assert_eq!(pods.run_pod(pod_config("b", 0)).await.unwrap(), finished.pod.id);
        for id in [ids[0].clone(), finished.pod.id.clone()] {
            pods.remove_pod(id.as_str()).await.unwrap();
        }
    });
    drop(runtime);
    node.assert_empty();
}

/// A shim may go on with a start that its service had given up: the pod's removal must not be refused for that for ever.
#[test]
fn a_container_that_only_the_shim_knows_goes_with_its_pod() {
    let Some(node) = Node::new(4) else { return };
    let runtime = node.runtime();
    runtime.block_on(async {
        let pods = node.open().await;
        let pod = pods.run_pod(pod_config("a", 0)).await.unwrap();
        let stray = shim_client::RunContainer {
            container: model::ContainerId::from_bytes([7; 32]),
            bundle: "/nonexistent".into(),
            runtime: shim_client::OciRuntime::default(),
            stdio: shim_client::StdioSpec::default(),
            log: None,
            memory_cgroup: None,
            deadline_ms: 1000,
            restore: None,
        };
        node.shims.connect(&pod).await.unwrap().run(stray).await.unwrap();
        assert_eq!(node.shims.running().len(), 1);
        pods.stop_pod(pod.as_str()).await.unwrap();
        pods.remove_pod(pod.as_str()).await.unwrap();
        assert!(node.shims.running().is_empty());
    });
    drop(runtime);
    node.assert_empty();
}

#[test]
fn a_step_that_fails_leaves_nothing_and_frees_the_name() {
    let Some(node) = Node::new(3) else { return };
    let runtime = node.runtime();
    runtime.block_on(async {
        let pods = node.open().await;
        node.set_network_faults(fake::Faults { add_fails: 1.0, ..fake::Faults::default() });
        let failed = pods.run_pod(pod_config("a", 0)).await.unwrap_err();
        assert!(failed.to_string().contains("set up the network"), "{failed}");
        assert!(pods.list().is_empty());
        // Undoing fails as well: the pod is listed, so that its owner can remove it.
        node.set_network_faults(fake::Faults { add_fails: 1.0, del_fails: 1.0, ..fake::Faults::default() });
        let failed = pods.run_pod(pod_config("a", 0)).await.unwrap_err();
        assert!(failed.to_string().contains("owed"), "{failed}");
        let listed = pods.list();
        assert!(matches!(listed[0].pod.phase, PodPhase::NotReady { .. }));
        node.set_network_faults(fake::Faults::default());
        pods.remove_pod(listed[0].pod.id.as_str()).await.unwrap();
        pods.run_pod(pod_config("a", 0)).await.unwrap();
        pods.remove_pod(pods.list()[0].pod.id.as_str()).await.unwrap();
    });
    drop(runtime);
    node.assert_empty();
}

#[test]
fn a_dead_shim_ends_its_pod() {
    let Some(node) = Node::new(4) else { return };
    let runtime = node.runtime();
    runtime.block_on(async {
        let pods = node.open().await;
        let pod = pods.run_pod(pod_config("a", 0)).await.unwrap();
        let container = pods.create_container(pod.as_str(), container_config("c", 0)).await.unwrap();
        pods.start_container(container.as_str()).await.unwrap();
        node.shims.disconnect(&pod);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let status = pods.container(container.as_str()).unwrap();
        assert!(matches!(status.phase, ContainerPhase::Running { .. }), "a lost connection is no death");
        node.shims.crash(&pod);
        let exit = node::until(|| match &pods.container(container.as_str()).unwrap().phase {
            ContainerPhase::Exited(exit) => Some(exit.clone()),
            _ => None,
        })
        .await;
        assert_eq!((exit.code, exit.reason.as_str()), (255, "Unknown"));
        let stopped =
            node::until(|| Some(pods.pod(pod.as_str()).unwrap()).filter(|v| v.pod.ips.is_empty())).await;
        let why = node::until(|| match &pods.pod(stopped.pod.id.as_str()).unwrap().pod.phase {
            PodPhase::NotReady { why } => Some(why.clone()),
            _ => None,
        })
        .await;
        assert!(why.contains("shim"), "{why}");
        pods.remove_pod(pod.as_str()).await.unwrap();
    });
    drop(runtime);
    node.assert_empty();
}

#[test]
fn a_grace_of_ages_is_cut_short_by_a_removal() {
    let Some(node) = Node::new(5) else { return };
    let runtime = node.runtime();
    runtime.block_on(async {
        let pods = node.open().await;
        let pod = pods.run_pod(pod_config("a", 0)).await.unwrap();
        let container = pods.create_container(pod.as_str(), container_config("c", 0)).await.unwrap();
        pods.start_container(container.as_str()).await.unwrap();
        node.shims.ignore_signals();
        let stop = pods.stop_container(container.as_str(), Duration::MAX);
        let remove = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            pods.remove_container(container.as_str()).await
        };
        let (stopped, removed) = tokio::join!(stop, remove);
        stopped.unwrap();
        removed.unwrap();
        assert!(pods.list_containers().is_empty());
        pods.remove_pod(pod.as_str()).await.unwrap();
    });
    drop(runtime);
    node.assert_empty();
}

#[test]
fn what_runs_is_spared_when_its_record_is_lost() {
    let Some(node) = Node::new(6) else { return };
    let runtime = node.runtime();
    let (pod, container) = runtime.block_on(async {
        let pods = node.open().await;
        let pod = pods.run_pod(pod_config("a", 0)).await.unwrap();
        let container = pods.create_container(pod.as_str(), container_config("c", 0)).await.unwrap();
        pods.start_container(container.as_str()).await.unwrap();
        (pod, container)
    });
    drop(runtime);
    node.wait_for_the_dead();
    node.lose_records();
    let runtime = node.runtime();
    runtime.block_on(async {
        let pods = node.open().await;
        assert!(pods.list().is_empty());
        assert_eq!(node.shims.running(), [container], "it goes on");
        assert_eq!(node.network().taken(), std::slice::from_ref(&pod), "with its address");
        assert!(node.rootfs_mounted(), "and its root file system");
    });
    drop(runtime);
    node.wait_for_the_dead();
    // Once it is dead, the next start clears it away.
    node.shims.crash(&pod);
    let runtime = node.runtime();
    runtime.block_on(async { drop(node.open().await) });
    drop(runtime);
    node.assert_empty();
}

/// Random work in many pods, with faults, cut off at random moments as by SIGKILL.
#[test]
fn restarts_in_the_middle_of_everything_leave_nothing() {
    let seed = seed();
    let Some(node) = Node::new(seed) else { return };
    let mut random = Random(seed | 1);
    for round in 0..12 {
        let faulty = round % 3 != 0;
        let often = if faulty { 0.1 } else { 0.0 };
        node.set_network_faults(fake::Faults {
            add_fails: often,
            del_fails: often,
            ..fake::Faults::default()
        });
        let per_mille = if faulty { 40 } else { 0 };
        node.shims.set_faults(shim_client::fake::Faults {
            slow: 100,
            slow_by: Duration::from_millis(20),
            fail: per_mille,
            lose_answer: per_mille / 2,
            die: per_mille / 8,
            exit: 100,
        });
        let runtime = node.runtime();
        let seeds: Vec<u64> = (0..6).map(|_| random.below(u64::MAX)).collect();
        let cut = Duration::from_millis(20 + random.below(400));
        runtime.block_on(async {
            let pods = node.open().await;
            let work =
                seeds.into_iter().enumerate().map(|(n, seed)| churn(&pods, n, round, Random(seed | 1)));
            let _ = tokio::time::timeout(cut, futures_util::future::join_all(work)).await;
        });
        // No drain, no goodbye; but what a dead process does not do any more, a thread that blocks here still does.
        runtime.shutdown_timeout(Duration::from_secs(20));
        node.wait_for_the_dead();
    }
    node.set_network_faults(fake::Faults::default());
    node.shims.set_faults(shim_client::fake::Faults::default());
    let runtime = node.runtime();
    runtime.block_on(async {
        let pods = node.open().await;
        for view in pods.list() {
            let id = view.pod.id.as_str();
            pods.stop_pod(id).await.unwrap_or_else(|e| panic!("stop {id}: {}", model::chain(&e)));
            pods.remove_pod(id).await.unwrap_or_else(|e| panic!("remove {id}: {}", model::chain(&e)));
        }
        assert!(pods.list().is_empty());
        assert!(pods.list_containers().is_empty());
    });
    drop(runtime);
    node.assert_empty();
}

/// One client at work in pods of its own.
async fn churn(pods: &pod::Pods, client: usize, round: u32, mut random: Random) {
    for attempt in 0.. {
        let name = format!("p{client}-{round}");
        let Ok(pod) = pods.run_pod(pod_config(&name, attempt)).await else { continue };
        for n in 0..random.below(3) {
            let config = container_config(&format!("c{n}"), 0);
            let Ok(container) = pods.create_container(pod.as_str(), config).await else { continue };
            if random.below(4) > 0 {
                let _ = pods.start_container(container.as_str()).await;
            }
            match random.below(4) {
                0 => drop(
                    pods.stop_container(container.as_str(), Duration::from_millis(random.below(30))).await,
                ),
                1 => drop(pods.remove_container(container.as_str()).await),
                _ => {}
            }
        }
        if random.below(3) > 0 {
            let _ = pods.stop_pod(pod.as_str()).await;
        }
        if random.below(3) > 0 {
            let _ = pods.remove_pod(pod.as_str()).await;
        }
    }
}
