//! Lists of a node that has a great many: by stream whole and once, by one message where it fits, else refused by name.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use api::v1;
use e2e::cri::runtime;
use e2e::many::fill;
use e2e::{Node, patient};
use prost::Message as _;
use std::time::{Duration, Instant};

/// What one message of a stream holds at most, unless a single item is larger.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;
const CLIENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// All messages of a stream.
async fn messages<M>(mut stream: tonic::Streaming<M>) -> Vec<M> {
    let mut all = Vec::new();
    while let Some(message) = stream.message().await.expect("the stream goes on") {
        all.push(message);
    }
    all
}

#[test]
fn ten_thousand_containers_are_listed_by_stream_and_refused_in_one_message() {
    let node = Node::start();
    let many = fill(&node, 1000, 10, 2048);
    let mut client = node.cri().raw();
    let streamed = runtime().block_on(async {
        messages(client.stream_containers(v1::StreamContainersRequest::default()).await.unwrap().into_inner())
            .await
    });
    let bytes: usize = streamed.iter().map(|message| message.encoded_len()).sum();
    assert!(bytes > CLIENT_BYTES_MAX, "{bytes} bytes would fit into one message: the test tells nothing");
    assert!(streamed.iter().all(|message| !message.containers.is_empty()));
    assert!(streamed.iter().all(|message| message.encoded_len() <= CHUNK_BYTES_MAX));
    assert!(streamed[0].encoded_len() < CHUNK_BYTES_MAX / 10, "the first one comes soon");
    let all: Vec<_> = streamed.into_iter().flat_map(|message| message.containers).collect();
    assert_eq!(all.len(), 10_000);
    assert_eq!(all.iter().map(|c| &c.id).collect::<BTreeSet<_>>().len(), 10_000, "each once");
    assert!(all.is_sorted_by_key(|c| (c.created_at, c.id.clone())), "oldest first");

    let refused = node.cri().list_containers(Default::default()).expect_err("too many for one message");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    for words in ["StreamContainers", "16777216"] {
        assert!(refused.message().contains(words), "{words:?} is not in {refused}");
    }
    // What is filtered fits again, and is the same.
    let filter = v1::ContainerFilter { pod_sandbox_id: all[0].pod_sandbox_id.clone(), ..Default::default() };
    let of_one = node.cri().list_containers(v1::ListContainersRequest { filter: Some(filter.clone()) });
    let of_one = of_one.unwrap().containers;
    assert_eq!(of_one, all[..10]);
    let streamed = runtime().block_on(async {
        let request = v1::StreamContainersRequest { filter: Some(filter) };
        messages(client.stream_containers(request).await.unwrap().into_inner()).await
    });
    assert_eq!(streamed.into_iter().flat_map(|message| message.containers).collect::<Vec<_>>(), of_one);

    // A thousand pods fit: both ways are the same list.
    let pods = node.pods();
    assert_eq!(pods.len(), 1000);
    let streamed = runtime().block_on(async {
        let request = v1::StreamPodSandboxesRequest::default();
        messages(client.stream_pod_sandboxes(request).await.unwrap().into_inner()).await
    });
    assert_eq!(streamed.into_iter().flat_map(|message| message.pod_sandboxes).collect::<Vec<_>>(), pods);
    let stats = runtime().block_on(async {
        let request = v1::StreamPodSandboxStatsRequest::default();
        messages(client.stream_pod_sandbox_stats(request).await.unwrap().into_inner()).await
    });
    let ids: Vec<_> = stats
        .into_iter()
        .flat_map(|message| message.pod_sandbox_stats)
        .map(|stats| stats.attributes.unwrap().id)
        .collect();
    assert_eq!(ids, pods.iter().map(|pod| pod.id.clone()).collect::<Vec<_>>());
    many.empty();
    node.leaves_nothing();
}

#[test]
fn a_stream_is_one_snapshot_whatever_happens_while_it_is_read() {
    let node = Node::start();
    let many = fill(&node, 200, 10, 2048);
    let mut client = node.cri().raw();
    let before = node.containers();
    let request = v1::StreamContainersRequest::default();
    let mut stream = runtime().block_on(client.stream_containers(request)).unwrap().into_inner();
    let first = runtime().block_on(stream.message()).unwrap().expect("a first message").containers;
    // All that has not been sent yet goes meanwhile, and something new comes.
    for container in before.iter().rev().take(20) {
        node.cri()
            .remove_container(v1::RemoveContainerRequest { container_id: container.id.clone() })
            .expect("RemoveContainer");
    }
    node.pod("new").run();
    let rest = runtime().block_on(messages(stream));
    let all: Vec<_> = first.into_iter().chain(rest.into_iter().flat_map(|m| m.containers)).collect();
    assert_eq!(all, before);
    assert_eq!(node.containers().len(), before.len() - 20);
    node.pods().iter().filter(|pod| pod.metadata.as_ref().is_some_and(|m| m.name == "new")).for_each(|pod| {
        let pod_sandbox_id = pod.id.clone();
        node.cri().remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id }).unwrap();
    });
    many.empty();
    node.leaves_nothing();
}

/// Two containers of two pods of which at most one runs: no list may ever show both.
#[test]
fn a_list_is_a_state_that_the_node_was_in() {
    let node = Node::start();
    node.pull(&node.busybox());
    let (one, other) = (node.pod("one").run(), node.pod("other").run());
    let done = std::sync::atomic::AtomicBool::new(false);
    let looked = std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut looked = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let containers = node.containers();
                let running = containers
                    .iter()
                    .filter(|c| c.state() == v1::ContainerState::ContainerRunning)
                    .collect::<Vec<_>>();
                assert!(running.len() <= 1, "{running:?}");
                looked += 1;
            }
            looked
        });
        let began = Instant::now();
        for round in 0..10 {
            for pod in [&one, &other] {
                let container = pod.container(&format!("c{round}")).idle().start();
                container.stop(0);
            }
            if began.elapsed() > patient(Duration::from_secs(20)) {
                break;
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        looks.join().unwrap()
    });
    assert!(looked > 100, "only {looked} looks");
    one.remove();
    other.remove();
    node.leaves_nothing();
}
