//! The whole service over a Unix socket, on an empty node: what needs no pods.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and one that cannot begin says so"
)]

mod authority;
mod deadline;
mod independent;
mod node;

use std::time::Duration;

use api::v1;
use node::{Started, start};
use tonic::Code;

#[tokio::test]
async fn clients_find_a_runtime_that_is_well() {
    let node = start().await;
    let version = node.runtime().version(v1::VersionRequest::default()).await.unwrap().into_inner();
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("gantline", "v1"));
    assert_eq!((version.version.as_str(), version.runtime_version.as_str()), ("0.1.0", "1.2.3"));
    let status = node.runtime().status(v1::StatusRequest { verbose: false }).await.unwrap().into_inner();
    let conditions = status.status.unwrap().conditions;
    assert_eq!(conditions[0].r#type, "RuntimeReady");
    assert!(conditions[0].status && !conditions[1].status);
    assert_eq!((conditions[1].r#type.as_str(), conditions[1].reason.as_str()), ("NetworkReady", "NoConf"));
    assert!(status.info.is_empty(), "information only when asked for");
    assert_eq!(status.runtime_handlers.len(), 2);
    let status = node.runtime().status(v1::StatusRequest { verbose: true }).await.unwrap().into_inner();
    assert_eq!(status.info["config"], r#"{"root":"/x"}"#);
    let usage = node.image().image_fs_info(v1::ImageFsInfoRequest {}).await.unwrap().into_inner();
    assert!(usage.image_filesystems[0].timestamp > 0);
    let config = node.runtime().runtime_config(v1::RuntimeConfigRequest {}).await.unwrap().into_inner();
    assert_eq!(config.linux.unwrap().cgroup_driver(), v1::CgroupDriver::Cgroupfs);
}

#[tokio::test]
async fn until_recovery_only_the_early_calls_are_served() {
    let node = Started::shut().await;
    node.runtime().version(v1::VersionRequest::default()).await.unwrap();
    node.runtime().status(v1::StatusRequest::default()).await.unwrap();
    node.image().image_fs_info(v1::ImageFsInfoRequest {}).await.unwrap();
    let refused = node.runtime().list_pod_sandbox(v1::ListPodSandboxRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("taking over"), "{refused}");
    let refused = node.image().pull_image(v1::PullImageRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    node.recovered.send_replace(true);
    node.runtime().list_pod_sandbox(v1::ListPodSandboxRequest::default()).await.unwrap();
}

#[tokio::test]
async fn what_is_not_there_is_not_found_or_already_gone() {
    let node = start().await;
    let id = || "0".repeat(64);
    let status = v1::PodSandboxStatusRequest { pod_sandbox_id: id(), verbose: false };
    assert_eq!(node.runtime().pod_sandbox_status(status).await.unwrap_err().code(), Code::NotFound);
    let status = v1::ContainerStatusRequest { container_id: id(), verbose: false };
    assert_eq!(node.runtime().container_status(status).await.unwrap_err().code(), Code::NotFound);
    let exec =
        v1::ExecRequest { container_id: id(), cmd: vec!["sh".into()], stdout: true, ..Default::default() };
    assert_eq!(node.runtime().exec(exec).await.unwrap_err().code(), Code::NotFound);
    node.runtime().stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id() }).await.unwrap();
    node.runtime().remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id() }).await.unwrap();
    node.runtime().stop_container(v1::StopContainerRequest { container_id: id(), timeout: 0 }).await.unwrap();
    node.runtime().remove_container(v1::RemoveContainerRequest { container_id: id() }).await.unwrap();
    let image = || Some(v1::ImageSpec { image: "busybox".into(), ..Default::default() });
    let status = v1::ImageStatusRequest { image: image(), verbose: true };
    assert_eq!(node.image().image_status(status).await.unwrap().into_inner().image, None);
    node.image().remove_image(v1::RemoveImageRequest { image: image() }).await.unwrap();
    let none = v1::ListPodSandboxRequest {
        filter: Some(v1::PodSandboxFilter { id: "abc".into(), ..Default::default() }),
    };
    assert!(node.runtime().list_pod_sandbox(none).await.unwrap().into_inner().items.is_empty());
}

#[tokio::test]
async fn a_bad_request_is_refused_by_its_field() {
    let node = start().await;
    let refused = node.runtime().run_pod_sandbox(v1::RunPodSandboxRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "config: is missing"));
    let refused = node.runtime().stop_pod_sandbox(v1::StopPodSandboxRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "pod_sandbox_id: is empty"));
    let refused = node.image().image_status(v1::ImageStatusRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "image.image: is empty"));
    let unknown = v1::RunPodSandboxRequest {
        config: Some(v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: "n".into(),
                uid: "u".into(),
                namespace: "ns".into(),
                attempt: 0,
            }),
            ..Default::default()
        }),
        runtime_handler: "kata".into(),
    };
    let refused = node.runtime().run_pod_sandbox(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("runtime_handler \"kata\""), "{refused}");
}

#[tokio::test]
async fn an_image_is_asked_for_by_a_handler_that_there_is() {
    let node = start().await;
    let image = |handler: &str| {
        Some(v1::ImageSpec { image: "busybox".into(), runtime_handler: handler.into(), ..Default::default() })
    };
    let list = |handler| v1::ListImagesRequest { filter: Some(v1::ImageFilter { image: image(handler) }) };
    let ask = |handler| v1::ImageStatusRequest { image: image(handler), verbose: false };
    let pull = v1::PullImageRequest { image: image("kata"), ..Default::default() };
    let refused = [
        ("image", node.image().pull_image(pull).await.unwrap_err()),
        ("image", node.image().image_status(ask("kata")).await.unwrap_err()),
        ("filter.image", node.image().list_images(list("kata")).await.unwrap_err()),
    ];
    for (at, refused) in refused {
        let message = format!("{at}.runtime_handler: \"kata\" is not configured; known are crun");
        assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, message.as_str()));
    }
    for known in ["", "crun"] {
        node.image().list_images(list(known)).await.unwrap();
        node.image().image_status(ask(known)).await.unwrap();
    }
    node.image().remove_image(v1::RemoveImageRequest { image: image("kata") }).await.unwrap();
}

#[tokio::test]
async fn what_an_update_cannot_do_is_refused_by_its_field() {
    let node = start().await;
    let update = |change: fn(&mut v1::UpdateContainerResourcesRequest)| {
        let mut request =
            v1::UpdateContainerResourcesRequest { container_id: "a".into(), ..Default::default() };
        change(&mut request);
        request
    };
    let option = |request: &mut v1::UpdateContainerResourcesRequest| {
        request.annotations.insert("example.com/blockio".into(), "slow".into());
    };
    for (request, at) in [
        (update(option), "annotations: \"example.com/blockio\" is no option"),
        (update(|request| request.windows = Some(Default::default())), "windows: "),
        (
            update(|request| request.linux.get_or_insert_default().cpu_shares = -1),
            "linux.cpu_shares: -1 is below 0",
        ),
    ] {
        let refused = node.runtime().update_container_resources(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(at), "{refused}");
    }
}

#[tokio::test]
async fn a_container_is_made_for_a_handler_that_there_is() {
    let node = start().await;
    let image = |handler: &str| {
        Some(v1::ImageSpec { image: "busybox".into(), runtime_handler: handler.into(), ..Default::default() })
    };
    let create = |own: &str, volume: &str| v1::CreateContainerRequest {
        pod_sandbox_id: "a".into(),
        config: Some(v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
            image: image(own),
            mounts: vec![v1::Mount {
                container_path: "/x".into(),
                image: image(volume),
                ..Default::default()
            }],
            ..Default::default()
        }),
        sandbox_config: None,
    };
    for (request, field) in [
        (create("kata", ""), "config.image.runtime_handler: \"kata\""),
        (create("", "kata"), "config.mounts[0].image.runtime_handler: \"kata\""),
    ] {
        let refused = node.runtime().create_container(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{refused}");
    }
    let known = node.runtime().create_container(create("crun", "")).await.unwrap_err();
    assert_eq!(known.code(), Code::NotFound, "it is the sandbox that is not there: {known}");
}

#[tokio::test]
async fn a_request_over_16_mib_is_invalid() {
    let node = start().await;
    let large = v1::RunPodSandboxRequest { config: None, runtime_handler: "x".repeat(17 * 1024 * 1024) };
    let refused = node.runtime().run_pod_sandbox(large).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("larger than 16777216 bytes"), "{refused}");
}

#[tokio::test]
async fn checkpoints_that_cannot_be_are_refused_by_the_field() {
    let node = start().await;
    let id = || "0".repeat(64);
    let container = |location: &str, timeout| v1::CheckpointContainerRequest {
        container_id: id(),
        location: location.into(),
        timeout,
    };
    for (request, code, says) in [
        (container("c.tar", 0), Code::InvalidArgument, "location"),
        (container("/c.tar", -1), Code::InvalidArgument, "timeout"),
        (container("/c.tar", 0), Code::NotFound, "container"),
    ] {
        let refused = node.runtime().checkpoint_container(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(says), "{refused}");
    }
    let pod = v1::CheckpointPodRequest {
        pod_sandbox_id: id(),
        output_path: "/out".into(),
        container_ids: vec![id()],
        ..Default::default()
    };
    let option = std::collections::BTreeMap::from([("speed".to_owned(), "11".to_owned())]);
    for (request, code, says) in [
        (
            v1::CheckpointPodRequest { output_path: "out".into(), ..pod.clone() },
            Code::InvalidArgument,
            "output_path",
        ),
        (
            v1::CheckpointPodRequest { container_ids: vec![], ..pod.clone() },
            Code::InvalidArgument,
            "container_ids",
        ),
        (
            v1::CheckpointPodRequest { options: option.clone(), ..pod.clone() },
            Code::InvalidArgument,
            "options",
        ),
        (pod, Code::NotFound, "not found"),
    ] {
        let refused = node.runtime().checkpoint_pod(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(says), "{refused}");
    }
    let metadata =
        v1::PodSandboxMetadata { name: "p".into(), uid: "u".into(), namespace: "n".into(), attempt: 0 };
    let named = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: "busybox".into(), ..Default::default() }),
        ..Default::default()
    };
    let restore = v1::RestorePodRequest {
        checkpoint_path: "/nowhere".into(),
        config: Some(v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() }),
        container_configs: vec![named],
        ..Default::default()
    };
    for (request, says) in [
        (v1::RestorePodRequest { checkpoint_path: "x".into(), ..restore.clone() }, "checkpoint_path"),
        (v1::RestorePodRequest { config: None, ..restore.clone() }, "config"),
        (v1::RestorePodRequest { options: option, ..restore.clone() }, "options"),
        (v1::RestorePodRequest { container_configs: vec![], ..restore.clone() }, "container_configs"),
        (
            v1::RestorePodRequest { container_configs: vec![Default::default()], ..restore.clone() },
            "container_configs[0]",
        ),
        (restore, "/nowhere/pod.json"),
    ] {
        let refused = node.runtime().restore_pod(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(says), "{refused}");
    }
    let pods =
        node.runtime().list_pod_sandbox(v1::ListPodSandboxRequest::default()).await.unwrap().into_inner();
    assert!(pods.items.is_empty(), "nothing was made");
}

#[tokio::test]
async fn an_empty_stream_is_an_end_without_messages() {
    let node = start().await;
    let mut pods = node
        .runtime()
        .stream_pod_sandboxes(v1::StreamPodSandboxesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(pods.message().await.unwrap(), None);
}

#[tokio::test]
async fn the_server_drains_with_an_event_stream_open() {
    let node = start().await;
    let mut events = node.runtime().get_container_events(v1::GetEventsRequest {}).await.unwrap().into_inner();
    let (ended, ()) =
        tokio::time::timeout(Duration::from_secs(5), async { tokio::join!(events.message(), node.stop()) })
            .await
            .expect("the drain hangs");
    assert_eq!(ended.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn metrics_count_each_request_by_its_code() {
    let node = start().await;
    node.runtime().version(v1::VersionRequest::default()).await.unwrap();
    node.runtime().run_pod_sandbox(v1::RunPodSandboxRequest::default()).await.unwrap_err();
    let text = node.metrics.encode(telemetry::Exposition::OpenMetrics);
    for labels in [r#"rpc="Version",code="OK""#, r#"rpc="RunPodSandbox",code="INVALID_ARGUMENT""#] {
        assert!(text.contains(labels), "{labels} is not in {text}");
    }
    assert_eq!(node.metrics.operations.in_flight(), 0);
}

#[tokio::test]
async fn a_streaming_token_that_nobody_gave_is_unknown() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let node = start().await;
    let mut connection = tokio::net::TcpStream::connect(node.streaming).await.unwrap();
    connection.write_all(b"POST /exec/abc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}
