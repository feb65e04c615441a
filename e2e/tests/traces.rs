//! Traces: what a receiver gets of a pod's start, of a failure, and of none; and that nobody waits for one.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use api::v1;
use e2e::otlp::{Receiver, Span, draw};
use e2e::{Node, NodeBuilder, patient};
use tonic::Request;

/// A kubelet's trace, sampled.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const KUBELET: &str = "b7ad6b7169203331";

/// A request as a kubelet that traces sends it.
fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{TRACE}-{KUBELET}-01");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request.set_timeout(patient(Duration::from_secs(60)));
    request
}

fn exporting(builder: NodeBuilder, endpoint: &str, protocol: &str) -> NodeBuilder {
    let section = format!("[tracing]\nendpoint = {endpoint:?}\nprotocol = {protocol:?}\n");
    builder.with(|config, _| config.more.push_str(&section))
}

/// RunPodSandbox, PullImage, CreateContainer and StartContainer in one trace.
fn start_a_pod(node: &Node) -> Result<(), tonic::Status> {
    let runtime = e2e::cri::runtime();
    let (mut cri, mut images) = (node.cri().raw(), node.cri().raw_images());
    let pod = node.pod("traced");
    let pull =
        v1::PullImageRequest { image: Some(e2e::cri::image_spec(&node.busybox())), ..Default::default() };
    runtime.block_on(images.pull_image(traced(pull)))?;
    let config = pod.config.clone();
    let run = runtime.block_on(cri.run_pod_sandbox(traced(pod.request())))?.into_inner();
    let container = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
        image: Some(e2e::cri::image_spec(&node.busybox())),
        command: ["/bin/sh", "-c", "sleep 1000"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let create = v1::CreateContainerRequest {
        pod_sandbox_id: run.pod_sandbox_id,
        config: Some(container),
        sandbox_config: Some(config),
    };
    let created = runtime.block_on(cri.create_container(traced(create)))?.into_inner();
    let start = v1::StartContainerRequest { container_id: created.container_id };
    runtime.block_on(cri.start_container(traced(start)))?;
    Ok(())
}

fn named<'s>(spans: &'s [Span], name: &str) -> Vec<&'s Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[track_caller]
fn only<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    match named(spans, name)[..] {
        [span] => span,
        ref other => panic!("{} spans {name:?} in\n{}", other.len(), draw(spans)),
    }
}

/// Every stage of the four requests, under its parent; of some there is more than one.
const TREE: &[(&str, &str)] = &[
    ("pull", "PullImage"),
    ("pull_resolve", "pull"),
    ("pull_config", "pull"),
    ("pull_layers", "pull"),
    ("pull_commit", "pull"),
    ("layer", "pull_layers"),
    ("layer_fetch", "layer"),
    ("layer_unpack", "layer"),
    ("run_pod", "RunPodSandbox"),
    ("pod_directory", "run_pod"),
    ("pod_cgroup", "run_pod"),
    ("namespaces", "run_pod"),
    ("pod_files", "run_pod"),
    ("pod_shm", "run_pod"),
    ("cni_add", "run_pod"),
    ("shim_start", "run_pod"),
    ("create_container", "CreateContainer"),
    ("image_resolve", "create_container"),
    ("snapshot", "create_container"),
    ("spec", "create_container"),
    ("start_container", "StartContainer"),
    ("oci_run", "start_container"),
    ("oci_create", "shim_call"),
    ("oci_start", "shim_call"),
];

fn check_tree(spans: &[Span]) {
    let name_of = |id: &str| spans.iter().find(|span| span.id == id).map(|span| span.name.as_str());
    for rpc in ["PullImage", "RunPodSandbox", "CreateContainer", "StartContainer"] {
        let span = only(spans, rpc);
        assert_eq!(span.parent, KUBELET, "{rpc} continues the kubelet's trace");
        assert_eq!(span.attribute("rpc.code"), Some("OK"));
    }
    for (name, parent) in TREE {
        for span in named(spans, name) {
            assert_eq!(name_of(&span.parent), Some(*parent), "of {name} in\n{}", draw(spans));
            assert!(span.ended >= span.began && span.failed.is_none(), "{span:?}");
        }
    }
    let add = only(spans, "cni_add");
    let plugins: Vec<_> = named(spans, "cni_plugin").into_iter().filter(|s| s.parent == add.id).collect();
    let told = |span: &&Span| {
        let word = |name| span.attribute(name).unwrap_or_default().to_owned();
        (word("cni.command"), word("cni.plugin"))
    };
    let mut adds: Vec<_> = plugins.iter().map(told).filter(|(command, _)| command == "ADD").collect();
    adds.sort();
    let add_of = |plugin: &str| ("ADD".to_owned(), plugin.to_owned());
    assert_eq!(adds, [add_of("bridge"), add_of("portmap")]);
    let commits = named(spans, "store_commit");
    for job in ["run_pod", "create_container", "start_container"] {
        let job = only(spans, job);
        let of_job = commits.iter().filter(|commit| commit.parent == job.id).count();
        assert_eq!(of_job, 2, "the intent and the fact of {}\n{}", job.name, draw(spans));
    }
    let run = only(spans, "oci_run");
    let call = only(spans, "oci_create").parent.clone();
    let call = spans.iter().find(|span| span.id == call).unwrap();
    assert_eq!((call.attribute("shim.call"), &call.parent), (Some("run a container"), &run.id));
    let oldest = spans.iter().map(|span| span.began).min().unwrap();
    let newest = spans.iter().map(|span| span.ended).max().unwrap();
    assert!(Duration::from_nanos(newest - oldest) < patient(Duration::from_secs(120)), "{}", draw(spans));
    // What is inside another does not outlast it by more than the two clocks of service and shim can be apart.
    for span in spans.iter().filter(|span| span.name.starts_with("oci_")) {
        let parent = spans.iter().find(|other| other.id == span.parent).unwrap();
        assert!(span.began + 5_000_000 >= parent.began && span.ended <= parent.ended + 5_000_000, "{span:?}");
    }
}

fn is_whole(spans: &[Span]) -> bool {
    let all = ["PullImage", "RunPodSandbox", "CreateContainer", "StartContainer"];
    all.iter().all(|name| spans.iter().any(|span| span.name == *name))
        && TREE.iter().all(|(name, _)| spans.iter().any(|span| span.name == *name))
}

#[test]
fn a_pods_start_is_one_trace_down_to_each_plugin_and_runtime_call_over_grpc() {
    let builder = Node::builder();
    let receiver = Receiver::grpc(&builder.machine);
    let node = exporting(builder, &format!("http://{}", receiver.address), "grpc").start();
    start_a_pod(&node).unwrap();
    let spans = receiver.trace(TRACE, is_whole);
    println!("{}", draw(&spans));
    check_tree(&spans);
    let told = receiver.resource();
    assert!(told.contains(&("service.name".to_owned(), "gantline".to_owned())), "{told:?}");
    assert!(told.iter().any(|(key, _)| key == "service.version"), "{told:?}");
    // The log names the trace, in every line of the requests and of their work.
    let log = node.service_log();
    for words in ["pod sandbox ready", "container created", "container started", "image pulled"] {
        let line =
            log.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words} in {log}"));
        assert!(line.contains(TRACE), "{line}");
    }
    // A slow bucket leads to its trace, where the scraper asks for OpenMetrics.
    let socket = node.machine.path(&node.config.state).join("admin.sock");
    let scrape = |accept: &str| {
        let answer = e2e::http::get_over_unix(&socket, "/metrics", accept).unwrap();
        let kind = answer.header("content-type").unwrap().to_owned();
        (kind, String::from_utf8(answer.body).unwrap())
    };
    let (kind, open) = scrape("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.3,*/*;q=0.2");
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(open.ends_with("# EOF\n"), "{open}");
    for labels in ["rpc=\"RunPodSandbox\",code=\"OK\"", "stage=\"cni_plugin\"", "stage=\"oci_create\""] {
        let exemplar = format!("# {{trace_id=\"{TRACE}\"}}");
        let has = |line: &str| line.contains(labels) && line.contains(&exemplar);
        assert!(open.lines().any(has), "{labels} in\n{open}");
    }
    let (kind, classic) = scrape("*/*");
    assert!(kind.starts_with("text/plain"), "{kind}");
    assert!(!classic.contains(TRACE) && !classic.contains("# EOF"), "{classic}");
    assert!(classic.contains("# TYPE gantline_pulls_total counter"), "{classic}");
    node.remove_all_pods();
    node.leaves_nothing();
}

#[test]
fn the_environment_turns_traces_on_and_names_receiver_headers_and_service() {
    let builder = Node::builder();
    let receiver = Receiver::http(&builder.machine);
    let mut node = builder.prepare();
    let endpoint = format!("http://{}", receiver.address);
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20tea,x-tenant=t1"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "20000"),
        ("OTEL_SERVICE_NAME", "node-of-a-test"),
        ("OTEL_RESOURCE_ATTRIBUTES", "k8s.node.name=n1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        // Of what no kubelet sampled nothing is kept.
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
    ] {
        node.env(name, value);
    }
    node.start_service();
    start_a_pod(&node).unwrap();
    let spans = receiver.trace(TRACE, is_whole);
    check_tree(&spans);
    let heads = receiver.headers().concat().to_ascii_lowercase();
    assert!(heads.contains("authorization: bearer tea") && heads.contains("x-tenant: t1"), "{heads}");
    let told = receiver.resource();
    for (key, value) in [("service.name", "node-of-a-test"), ("k8s.node.name", "n1")] {
        assert!(told.contains(&(key.to_owned(), value.to_owned())), "{told:?}");
    }
    node.pods();
    std::thread::sleep(Duration::from_secs(1));
    assert!(receiver.spans().iter().all(|span| span.trace == TRACE), "the sampler is not asked");
    node.remove_all_pods();
    node.leaves_nothing();
}

#[test]
fn what_fails_is_marked_from_the_plugin_up_and_the_last_spans_come_with_the_services_end() {
    let builder = Node::builder();
    let receiver = Receiver::http(&builder.machine);
    let dir = builder.machine.dir().join("plugins");
    e2e::plugin::cni(&dir, "dry", r#"echo '{"code": 11, "msg": "the pool is dry"}'; exit 1"#);
    let builder = builder.with(|config, _| config.cni_bins.push(dir));
    let endpoint = format!("http://{}/v1/traces", receiver.address);
    let node = exporting(builder, &endpoint, "http/protobuf").prepare();
    let mut network = node.config.network(&node.machine);
    network["plugins"][1]["type"] = "dry".into();
    node.config.write_network(&network);
    node.start_service();
    let failed = start_a_pod(&node).unwrap_err();
    assert!(failed.message().contains("dry"), "{failed}");
    assert_eq!(node.terminate(), Some(0));
    let spans = receiver.trace(TRACE, |spans| spans.iter().any(|span| span.failed.is_some()));
    println!("{}", draw(&spans));
    for name in ["RunPodSandbox", "run_pod", "cni_add"] {
        let failed = named(&spans, name).into_iter().rfind(|span| span.failed.is_some());
        let failed = failed.unwrap_or_else(|| panic!("{name} is not marked in\n{}", draw(&spans)));
        assert!(failed.failed.as_deref().unwrap().contains("dry"), "{failed:?}");
    }
    let plugin = |span: &&Span| span.attribute("cni.plugin") == Some("dry") && span.failed.is_some();
    assert!(named(&spans, "cni_plugin").iter().any(plugin), "{}", draw(&spans));
    let well = |span: &&Span| span.attribute("cni.plugin") == Some("bridge") && span.failed.is_none();
    assert!(named(&spans, "cni_plugin").iter().any(well), "{}", draw(&spans));
    node.start_service();
    node.leaves_nothing();
}

#[test]
fn a_receiver_that_is_not_there_is_said_once_and_slows_nobody() {
    let builder = Node::builder();
    // Nobody listens there.
    let mut node = exporting(builder, "http://127.0.0.1:9", "grpc").prepare();
    node.env("OTEL_BSP_SCHEDULE_DELAY", "100");
    node.start_service();
    let began = Instant::now();
    for _ in 0..3000 {
        node.cri().version(Default::default()).unwrap();
    }
    let took = began.elapsed();
    start_a_pod(&node).unwrap();
    e2e::wait::eventually("it is said", Duration::from_secs(20), || {
        let log = node.service_log();
        if log.contains("traces are not taken") { Ok(()) } else { Err(log) }
    });
    assert!(took < patient(Duration::from_secs(15)), "3000 calls took {took:?}");
    std::thread::sleep(Duration::from_secs(2));
    let log = node.service_log();
    assert_eq!(log.matches("traces are not taken").count(), 1, "{log}");
    node.remove_all_pods();
    node.leaves_nothing();
    let asked = Instant::now();
    assert_eq!(node.terminate(), Some(0));
    assert!(asked.elapsed() < patient(Duration::from_secs(10)), "{:?}", asked.elapsed());
}

#[test]
fn a_wrong_setting_of_the_environment_is_refused_by_name_before_anything_is_bound() {
    let node = Node::builder().prepare();
    let mut command = node.gantline_command(&["serve"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    command.env("OTEL_TRACES_SAMPLER", "now_and_then");
    let said = e2e::command::run(&mut command);
    assert_eq!(said.code, 64, "{said:?}");
    assert!(said.stderr.contains("OTEL_TRACES_SAMPLER"), "{said:?}");
    assert!(!node.machine.path(&node.config.socket).exists());
}
