//! What containers and pods may use: told by the files that the kernel keeps, changed whole or not at all.
#![allow(clippy::unwrap_used)]

use api::v1;
use e2e::Node;

const MIB: i64 = 1 << 20;

#[test]
fn what_a_pod_is_told_of_its_resources_is_kept_and_shown() {
    let node = Node::start();
    let pod = node.pod("told").with(|config| {
        let linux = config.linux.get_or_insert_default();
        linux.overhead = Some(v1::LinuxContainerResources { cpu_shares: 10, ..Default::default() });
    });
    let pod = pod.run();
    assert_eq!(pod.info()["overhead"]["cpu_shares"], 10);
    let update = |id: &str, resources: v1::LinuxContainerResources| {
        let request = v1::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: id.into(),
            resources: Some(resources),
            ..Default::default()
        };
        node.cri().update_pod_sandbox_resources(request)
    };
    update(&pod.id, v1::LinuxContainerResources { memory_limit_in_bytes: 64 * MIB, ..Default::default() })
        .unwrap();
    let refused = update(&pod.id, v1::LinuxContainerResources { cpu_quota: -2, ..Default::default() })
        .expect_err("a quota that cannot be");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    assert!(refused.message().starts_with("resources.cpu_quota: "), "{refused}");
    let missing = update(&"0".repeat(64), Default::default()).expect_err("no such pod");
    assert_eq!(missing.code(), tonic::Code::NotFound, "{missing}");
    node.restart();
    let info = pod.info();
    assert_eq!(info["overhead"]["cpu_shares"], 10, "what was not updated stays");
    assert_eq!(info["resources"]["memory_limit"], 64 * MIB, "{}", info["resources"]);
    assert!(pod.is_ready(), "a refusal changes nothing");
    pod.remove();
    node.leaves_nothing();
}
