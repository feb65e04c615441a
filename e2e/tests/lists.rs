//! Lists of a node: each stream has the items of its list; and of one that has a great many: by stream whole and once, by
//! one message where it fits, else refused by name; and while much comes and goes.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use api::v1;
use e2e::cri::{image_spec, runtime};
use e2e::many::fill;
use e2e::{Node, Pod, image, patient};
use prost::Message as _;
use tonic::{Response, Status, Streaming};

/// What one message of a stream holds at most, unless a single item is larger.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;
const CLIENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// All messages of a stream.
async fn messages<M>(mut stream: Streaming<M>) -> Vec<M> {
    let mut all = Vec::new();
    while let Some(message) = stream.message().await.expect("the stream goes on") {
        all.push(message);
    }
    all
}

/// All messages of a stream that is being asked for.
#[track_caller]
fn streamed<M>(call: impl Future<Output = Result<Response<Streaming<M>>, Status>>) -> Vec<M> {
    runtime().block_on(async { messages(call.await.expect("the stream opens").into_inner()).await })
}

/// What a stream had is what its list had, and these are the items that are to be there.
#[track_caller]
fn same<T: PartialEq + Debug>(
    streamed: Vec<T>,
    listed: Vec<T>,
    id: impl Fn(&T) -> String,
    expect: &[&String],
) {
    assert_eq!(streamed, listed, "the stream, and the list");
    assert_eq!(listed.iter().map(id).collect::<Vec<_>>().iter().collect::<Vec<_>>(), expect);
}

/// What identifies a container's statistics, and whether they are of one that runs. The numbers change with each look.
fn container_identity(stats: v1::ContainerStats) -> (v1::ContainerAttributes, bool) {
    let numbers = stats.cpu.is_some_and(|cpu| cpu.usage_core_nano_seconds.is_some());
    (stats.attributes.expect("attributes"), numbers && stats.memory.is_some())
}

/// The same of a pod's, with those of its containers.
fn pod_identity(stats: v1::PodSandboxStats) -> (v1::PodSandboxAttributes, Vec<String>, bool) {
    let linux = stats.linux.expect("numbers of Linux");
    let containers = linux.containers.into_iter().map(|stats| stats.attributes.unwrap().id).collect();
    (stats.attributes.expect("attributes"), containers, linux.cpu.is_some() && linux.process.is_some())
}

/// Whose a pod's metrics are: the pod's id, and its containers' with the names of theirs.
fn metrics_identity(told: v1::PodSandboxMetrics) -> (String, Vec<(String, BTreeSet<String>)>) {
    let names = |metrics: Vec<v1::Metric>| metrics.into_iter().map(|metric| metric.name).collect();
    let containers = told.container_metrics.into_iter().map(|of| (of.container_id, names(of.metrics)));
    (told.pod_sandbox_id, containers.collect())
}

/// The service has one type for all its lists, bytes (`api::List`): no compiler sees that a call answers with the items of
/// another.
#[test]
fn each_stream_has_the_items_of_its_list_with_a_filter_and_without() {
    let node = Node::start();
    let other = image::busybox_builder().layer(image::noise("noise", 4096, 1)).build();
    let (busybox, other) = (node.busybox(), node.push(&other, "other:1"));
    let images = [node.pull(&busybox), node.pull(&other)];
    let pods = ["one", "two"].map(|name| node.pod(name).own_cgroup().run());
    let [one, two] = pods.each_ref().map(|pod| pod.container("runs").idle().start());
    let waits = pods[0].container("waits").idle().create();
    let (mut client, cri) = (node.cri().raw(), node.cri());
    let both = [&pods[0].id, &pods[1].id];
    let second = BTreeMap::from([("io.kubernetes.pod.name".to_owned(), "two".to_owned())]);
    let called_runs = BTreeMap::from([("io.kubernetes.container.name".to_owned(), "runs".to_owned())]);

    let by_label = v1::PodSandboxFilter { label_selector: second.clone(), ..Default::default() };
    for (filter, expect) in [(None, &both[..]), (Some(by_label), &both[1..])] {
        let messages =
            streamed(client.stream_pod_sandboxes(v1::StreamPodSandboxesRequest { filter: filter.clone() }));
        let listed = cri.list_pod_sandbox(v1::ListPodSandboxRequest { filter }).unwrap().items;
        let name = |pod: &v1::PodSandbox| pod.metadata.clone().unwrap().name;
        assert_eq!(listed.last().map(name), Some("two".to_owned()));
        let streamed = messages.into_iter().flat_map(|message| message.pod_sandboxes).collect();
        same(streamed, listed, |pod| pod.id.clone(), expect);
    }

    let by_state = v1::ContainerStateValue { state: v1::ContainerState::ContainerCreated.into() };
    let by_state = v1::ContainerFilter { state: Some(by_state), ..Default::default() };
    for (filter, expect) in [(None, &[&one.id, &two.id, &waits.id][..]), (Some(by_state), &[&waits.id][..])] {
        let messages =
            streamed(client.stream_containers(v1::StreamContainersRequest { filter: filter.clone() }));
        let listed = cri.list_containers(v1::ListContainersRequest { filter }).unwrap().containers;
        assert!(listed.iter().all(|container| container.image_id == images[0]), "{listed:?}");
        let streamed = messages.into_iter().flat_map(|message| message.containers).collect();
        same(streamed, listed, |container| container.id.clone(), expect);
    }

    // Lists of statistics are of containers that run.
    let of_second = v1::ContainerStatsFilter { pod_sandbox_id: pods[1].id.clone(), ..Default::default() };
    let by_label = v1::ContainerStatsFilter { label_selector: called_runs, ..Default::default() };
    let running = [&one.id, &two.id];
    for (filter, expect) in
        [(None, &running[..]), (Some(of_second), &running[1..]), (Some(by_label), &running)]
    {
        let request = v1::StreamContainerStatsRequest { filter: filter.clone() };
        let messages = streamed(client.stream_container_stats(request));
        let listed = cri.list_container_stats(v1::ListContainerStatsRequest { filter }).unwrap().stats;
        let listed: Vec<_> = listed.into_iter().map(container_identity).collect();
        assert!(listed.iter().all(|(_, numbers)| *numbers), "{listed:?}");
        let streamed = messages.into_iter().flat_map(|message| message.container_stats);
        same(streamed.map(container_identity).collect(), listed, |(of, _)| of.id.clone(), expect);
    }

    let by_id = v1::PodSandboxStatsFilter { id: pods[1].id.clone(), ..Default::default() };
    let by_label = v1::PodSandboxStatsFilter { label_selector: second, ..Default::default() };
    for (filter, expect) in [(None, &both[..]), (Some(by_id), &both[1..]), (Some(by_label), &both[1..])] {
        let request = v1::StreamPodSandboxStatsRequest { filter: filter.clone() };
        let messages = streamed(client.stream_pod_sandbox_stats(request));
        let listed = cri.list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest { filter }).unwrap().stats;
        let listed: Vec<_> = listed.into_iter().map(pod_identity).collect();
        let (_, containers, _) = listed.last().unwrap();
        assert_eq!((containers, listed.iter().all(|of| of.2)), (&vec![two.id.clone()], true));
        let streamed = messages.into_iter().flat_map(|message| message.pod_sandbox_stats);
        same(streamed.map(pod_identity).collect(), listed, |(of, ..)| of.id.clone(), expect);
    }

    // These have no filter.
    let messages = streamed(client.stream_pod_sandbox_metrics(v1::StreamPodSandboxMetricsRequest::default()));
    let listed = cri.list_pod_sandbox_metrics(Default::default()).unwrap().pod_metrics;
    let listed: Vec<_> = listed.into_iter().map(metrics_identity).collect();
    for ((_, containers), running) in listed.iter().zip(running) {
        let [(id, names)] = &containers[..] else { panic!("one container runs: {containers:?}") };
        assert!(id == running && names.contains("container_memory_usage_bytes"), "{id}: {names:?}");
    }
    let streamed_metrics = messages.into_iter().flat_map(|message| message.pod_sandbox_metrics);
    same(streamed_metrics.map(metrics_identity).collect(), listed, |(id, _)| id.clone(), &both);

    let mut client = node.cri().raw_images();
    let by_name = v1::ImageFilter { image: Some(image_spec(&other)) };
    for (filter, expect) in [(None, vec![&images[0], &images[1]]), (Some(by_name), vec![&images[1]])] {
        let messages = streamed(client.stream_images(v1::StreamImagesRequest { filter: filter.clone() }));
        let listed = cri.list_images(v1::ListImagesRequest { filter }).unwrap().images;
        assert!(listed.iter().any(|image| image.repo_tags.contains(&other)), "{listed:?}");
        let mut streamed: Vec<_> = messages.into_iter().flat_map(|message| message.images).collect();
        assert_eq!(streamed, listed, "the stream, and the list");
        // Images have an order of their own.
        streamed.sort_by_key(|image| image.id != images[0]);
        assert_eq!(streamed.iter().map(|image| &image.id).collect::<Vec<_>>(), expect);
    }
    pods.iter().for_each(Pod::remove);
    node.leaves_nothing();
}

/// What goes while it is read is left out of a list; it costs nobody the answer, and hides nothing of what stays.
#[test]
fn statistics_are_told_while_pods_and_containers_come_and_go() {
    let node = Node::start();
    node.pull(&node.busybox());
    let [steady, busy] = ["steady", "busy"].map(|name| node.pod(name).own_cgroup().run());
    let stays = steady.container("stays").idle().start();
    let began = Instant::now();
    let (looked, came) = (AtomicUsize::new(0), [const { AtomicUsize::new(0) }; 3]);
    let is_enough = || looked.load(Relaxed) >= 10 && came.iter().all(|came| came.load(Relaxed) >= 2);
    // A busy machine may need longer for it.
    let goes_on = || {
        let time = began.elapsed();
        time < patient(Duration::from_secs(8)) || !is_enough() && time < patient(Duration::from_secs(120))
    };
    let repeat = |count: &AtomicUsize, work: &(dyn Fn(usize) + Sync)| {
        while goes_on() {
            work(count.load(Relaxed));
            count.fetch_add(1, Relaxed);
        }
    };
    let look = || {
        let stats = node.cri().list_container_stats(Default::default()).expect("ListContainerStats").stats;
        let of: Vec<_> = stats.into_iter().map(container_identity).collect();
        assert!(
            of.iter().any(|(of, numbers)| of.id == stays.id && *numbers),
            "{} is not in {of:?}",
            stays.id
        );
        let stats = node.cri().list_pod_sandbox_stats(Default::default()).expect("ListPodSandboxStats").stats;
        let of: Vec<_> = stats.into_iter().map(pod_identity).collect();
        let steady_one = of.iter().find(|(of, ..)| of.id == steady.id);
        let (_, containers, numbers) = steady_one.unwrap_or_else(|| panic!("{} is not in {of:?}", steady.id));
        assert_eq!((&containers[..], *numbers), (&[stays.id.clone()][..], true));
        let metrics = node.cri().list_pod_sandbox_metrics(Default::default());
        let metrics = metrics.expect("ListPodSandboxMetrics").pod_metrics;
        let of: Vec<_> = metrics.into_iter().map(metrics_identity).collect();
        let (_, containers) = of.iter().find(|(id, _)| *id == steady.id).expect("its metrics");
        let [(id, names)] = &containers[..] else { panic!("one container: {containers:?}") };
        assert!(*id == stays.id && names.contains("container_memory_usage_bytes"), "{id}: {names:?}");
    };
    let a_container_comes_and_goes = |name: &str, round: usize| {
        let container = busy.container(&format!("{name}-{round}")).idle().start();
        container.stop(0);
        container.remove();
    };
    let a_pod_comes_and_goes = |round: usize| {
        let pod = node.pod(&format!("goes-{round}")).own_cgroup().run();
        pod.container("goes").idle().start();
        pod.remove();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| repeat(&looked, &|_| look()));
        scope.spawn(|| repeat(&came[0], &|round| a_container_comes_and_goes("this", round)));
        scope.spawn(|| repeat(&came[1], &|round| a_container_comes_and_goes("that", round)));
        scope.spawn(|| repeat(&came[2], &a_pod_comes_and_goes));
    });
    assert!(is_enough(), "{looked:?} looks while {came:?} came and went");
    look();
    steady.remove();
    busy.remove();
    node.leaves_nothing();
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
