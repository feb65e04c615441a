//! Plugins that fail, hang, crash and lie, and a service that is killed in between: whatever was taken is owed
//! until it is given back.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests fail by panicking and say what they skip"
)]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{Node, is_root};
use model::{Classify as _, ErrorKind};
use network::{NetworkError, PodNetwork as _};

#[tokio::test]
async fn an_attachment_that_fails_is_undone_at_once() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.configure("1.0.0");
    let cni = node.open().await;
    let pod = node.pod(1);
    for (fault, expected) in [
        ("fail", "told to fail: by the test (CNI code 107)"),
        ("crash", "ended with signal: 9 (SIGKILL) and no CNI error, nothing was printed"),
        (
            "rubbish",
            "succeeded but printed no CNI result, printed: this is no JSON: parse: expected ident at line 1 column 2",
        ),
    ] {
        node.fault("ADD", "omega", fault);
        let error = cni.attach(&pod.request).await.unwrap_err();
        assert_eq!(model::chain(&error), format!("CNI ADD in network \"net\", plugin \"omega\": {expected}"));
        assert_eq!(node.take_calls(), ["alpha ADD", "omega ADD", "omega DEL", "alpha DEL"]);
        assert_eq!((node.leases().len(), node.cached()), (0, 0));
    }
    cni.detach(&pod.request.pod).await.unwrap();
    assert_eq!(node.take_calls(), Vec::<String>::new(), "nothing is owed any more");
}

#[tokio::test]
async fn a_plugin_that_hangs_meets_its_deadline_with_all_it_started() {
    if !is_root() {
        return;
    }
    let mut node = Node::new();
    node.deadline = Duration::from_secs(2);
    node.configure("1.0.0");
    let cni = node.open().await;
    let pod = node.pod(1);
    node.fault("ADD", "alpha", "hang");
    let begun = Instant::now();
    let error = cni.attach(&pod.request).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert_eq!(
        model::chain(&error),
        "CNI ADD in network \"net\", plugin \"alpha\": killed with its process group after 2 s without an end"
    );
    let hung = fs::read_to_string(node.path("hung")).unwrap();
    for pid in hung.split_whitespace() {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
    }
    assert_eq!(node.leases().len(), 0);

    node.heal();
    cni.attach(&pod.request).await.unwrap();
    node.fault("DEL", "alpha", "hang");
    assert_eq!(cni.detach(&pod.request.pod).await.unwrap_err().kind(), ErrorKind::Deadline);
    assert_eq!(node.leases(), ["01.alpha"]);
    node.heal();
    cni.detach(&pod.request.pod).await.unwrap();
    assert_eq!(node.leases().len(), 0);
}

#[tokio::test]
async fn an_undo_that_fails_stays_owed_over_a_restart_without_netns_and_configuration() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.configure("1.0.0");
    let pod = node.pod(1);
    {
        let cni = node.open().await;
        node.fault("ADD", "omega", "fail");
        node.fault("DEL", "alpha", "crash");
        let error = cni.attach(&pod.request).await.unwrap_err();
        assert!(matches!(error, NetworkError::AndUndo { .. }), "{error}");
        assert_eq!(node.leases(), ["01.alpha"]);
        cni.detach(&pod.request.pod).await.unwrap_err();
    }
    drop(pod);
    fs::remove_file(node.path("conf/10-net.conflist")).unwrap();
    node.configure_with(
        "10-other.conflist",
        r#"{"cniVersion":"1.0.0","name":"o","plugins":[{"type":"beta"}]}"#,
    );
    node.heal();
    let cni = node.open().await;
    node.take_calls();
    cni.collect(&[]).await;
    let calls = node.take_call_lines();
    assert!(calls[0].starts_with("omega DEL netns= if=eth0"), "{calls:?}");
    assert_eq!(calls.len(), 2);
    assert_eq!(node.leases().len(), 0);
}

#[tokio::test]
async fn a_result_cache_that_others_cleaned_is_no_loss() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.configure("1.0.0");
    let cni = node.open().await;
    let pod = node.pod(1);
    cni.attach(&pod.request).await.unwrap();
    fs::remove_dir_all(node.path("cache")).unwrap();
    cni.check(&pod.request.pod).await.unwrap();
    cni.detach(&pod.request.pod).await.unwrap();
    assert_eq!(node.stdin("DEL", "alpha")["prevResult"]["by"], "omega");
}

/// Until a plugin that hangs has said who it and its child are.
async fn hung(node: &Node) {
    while fs::read_to_string(node.path("hung")).unwrap_or_default().lines().count() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_plugin_that_outlived_its_service_takes_nothing_after_the_del() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.configure("1.0.0");
    let pod = node.pod(1);
    node.fault("ADD", "alpha", "hang");
    {
        let cni = node.open().await;
        tokio::select! {
            attached = cni.attach(&pod.request) => panic!("it hangs: {attached:?}"),
            () = hung(&node) => {}
        }
    }
    // A killed service cannot kill its plugins: here is one that goes on.
    let mut orphan = kernel::process::command(node.path("bin/alpha"));
    orphan.env("PATH", "/usr/bin:/bin").env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", node.id(1).as_str());
    fs::remove_file(node.path("hung")).unwrap();
    let mut orphan = orphan.spawn().unwrap();
    hung(&node).await;
    node.heal();
    let cni = node.open().await;
    cni.detach(&pod.request.pod).await.unwrap();
    assert!(orphan.try_wait().unwrap().is_some(), "it is dead before the DEL");
    assert_eq!(node.leases().len(), 0);
}

#[tokio::test]
async fn a_collection_with_an_old_list_spares_what_was_attached_since() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.configure("1.0.0");
    let cni = node.open().await;
    let (kept, given_up) = (node.pod(1), node.pod(2));
    cni.attach(&kept.request).await.unwrap();
    cni.attach(&given_up.request).await.unwrap();
    node.fault("DEL", "omega", "fail");
    cni.detach(&given_up.request.pod).await.unwrap_err();
    node.heal();
    cni.collect(&[]).await;
    assert_eq!(node.leases(), ["01.alpha", "01.omega"]);
}

#[tokio::test]
async fn a_second_attachment_is_preceded_by_the_del_of_the_first() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.configure("1.0.0");
    let cni = node.open().await;
    let pod = node.pod(1);
    cni.attach(&pod.request).await.unwrap();
    node.take_calls();
    cni.attach(&pod.request).await.unwrap();
    assert_eq!(node.take_calls(), ["omega DEL", "alpha DEL", "alpha ADD", "omega ADD"]);
}

#[tokio::test]
async fn without_a_network_nothing_is_begun() {
    let node = Node::new();
    let cni = node.open().await;
    let error = cni.attach(&node.request(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotReady);
    // A configuration that came this instant is seen, whether or not its event was.
    node.configure_with(
        "10-a.conflist",
        r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"absent"}]}"#,
    );
    let error = cni.attach(&node.request(1)).await.unwrap_err();
    assert!(
        model::chain(&error).contains("plugin \"absent\": no such plugin in"),
        "{}",
        model::chain(&error)
    );
    cni.detach(&node.id(1)).await.unwrap();
}

/// A generator that a printed seed repeats (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Attach, detach, faults, configuration changes, network namespaces that vanish, and kills of the service at any
/// moment, in random order: once a detach succeeded, or a collection ran without faults, nothing is reserved.
#[tokio::test]
async fn no_reservation_outlives_its_del() {
    if !is_root() {
        return;
    }
    let first = std::env::var("GANTLINE_SEED").ok().and_then(|s| s.parse().ok());
    let seeds = first.map_or(0..6_u64, |seed| seed..seed + 1);
    for seed in seeds {
        println!("GANTLINE_SEED={seed}");
        wander(seed).await;
    }
}

async fn wander(seed: u64) {
    let mut random = Random(seed);
    let node = Node::new();
    node.configure("1.0.0");
    let mut cni = node.open().await;
    let mut pods: Vec<_> = (1..=4).map(|byte| Some(node.pod(byte))).collect();
    for _ in 0..40 {
        let at = usize::try_from(random.below(4)).unwrap();
        let byte = u8::try_from(at).unwrap() + 1;
        match random.below(10) {
            0..=2 => {
                let pod = pods[at].get_or_insert_with(|| node.pod(byte));
                let attached = cni.attach(&pod.request).await;
                assert!(attached.is_err() || held(&node, byte) == 2);
            }
            3..=4 => {
                if cni.detach(&node.id(byte)).await.is_ok() {
                    assert_eq!(held(&node, byte), 0, "step of pod {byte}");
                }
            }
            5 => {
                // The service is killed: its plugins with it, in this test.
                let pod = pods[at].get_or_insert_with(|| node.pod(byte));
                let moment = Duration::from_millis(random.below(25));
                let _ = tokio::time::timeout(moment, cni.attach(&pod.request)).await;
                drop(cni);
                cni = node.open().await;
            }
            6 => {
                let moment = Duration::from_millis(random.below(25));
                let _ = tokio::time::timeout(moment, cni.detach(&node.id(byte))).await;
                drop(cni);
                cni = node.open().await;
            }
            7 => drop(pods[at].take()),
            8 => {
                let command = ["ADD", "DEL"][usize::try_from(random.below(2)).unwrap()];
                let plugin = ["alpha", "omega"][usize::try_from(random.below(2)).unwrap()];
                let fault = ["fail", "crash", "rubbish"][usize::try_from(random.below(3)).unwrap()];
                node.fault(command, plugin, fault);
            }
            _ => node.heal(),
        }
    }
    node.heal();
    drop(cni);
    let cni = node.open().await;
    cni.collect(&[node.id(1), node.id(2)]).await;
    assert!(node.leases().iter().all(|lease| lease < &"03".to_owned()), "{:?}", node.leases());
    for byte in 1..=4 {
        cni.detach(&node.id(byte)).await.unwrap();
    }
    assert_eq!((node.leases().len(), node.cached()), (0, 0));
    node.take_calls();
    cni.collect(&[]).await;
    assert_eq!(node.take_calls(), Vec::<String>::new(), "nothing is owed any more");
}

fn held(node: &Node, byte: u8) -> usize {
    node.leases().iter().filter(|lease| lease.starts_with(&format!("{byte:02x}."))).count()
}
