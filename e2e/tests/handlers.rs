//! OCI runtimes by handler: what each says that it can do, and what is refused because it cannot.
#![allow(clippy::unwrap_used)]

use std::fs;

use api::v1::{IdMapping, Mount, NamespaceMode, RuntimeHandlerFeatures, UserNamespace};
use e2e::plugin;
use e2e::programs::{installed, tool};
use e2e::{ContainerBuilder, Node, PodBuilder};
use tonic::Code;

fn mapping() -> Vec<IdMapping> {
    vec![IdMapping { host_id: 200_000, container_id: 0, length: 65_536 }]
}

/// A pod in a user namespace of its own.
fn mapped(pod: PodBuilder<'_>) -> PodBuilder<'_> {
    pod.namespaces(|of| {
        let (uids, gids) = (mapping(), mapping());
        of.userns_options = Some(UserNamespace { mode: NamespaceMode::Pod.into(), uids, gids });
    })
}

fn mounting<'n>(container: ContainerBuilder<'n>, mount: Mount) -> ContainerBuilder<'n> {
    container.with(|config| config.mounts.push(mount))
}

/// What Status says of a handler; of `""`, the default one.
fn features(node: &Node, handler: &str) -> RuntimeHandlerFeatures {
    let status = node.cri().status(Default::default()).unwrap();
    let found = status.runtime_handlers.into_iter().find(|known| known.name == handler);
    found.expect("the handler is listed").features.expect("its features are said")
}

/// Debian's crun and the current runc, each under its name.
fn both() -> Node {
    let builder = Node::builder().with(|config, _| {
        config.runtimes = vec![("crun".into(), installed("crun")), ("runc".into(), tool("runc"))];
    });
    builder.start()
}

#[test]
fn a_pod_in_a_user_namespace_shares_pids_and_owns_its_volumes_under_each_handler() {
    let node = both();
    for handler in ["crun", "runc"] {
        let source = node.machine.dir().join(format!("volume-{handler}"));
        fs::create_dir(&source).unwrap();
        for pid in [NamespaceMode::Container, NamespaceMode::Pod] {
            let pod = mapped(node.pod("mapped").handler(handler)).namespaces(|of| of.pid = pid.into()).run();
            for name in ["first", "second"] {
                let volume = Mount {
                    container_path: "/volume".into(),
                    host_path: source.display().to_string(),
                    uid_mappings: mapping(),
                    gid_mappings: mapping(),
                    ..Default::default()
                };
                let container = mounting(pod.container(name).idle(), volume).start();
                let file = format!("{name}-{}", pid.as_str_name());
                assert_eq!(container.sh(&format!("touch /volume/{file}; stat -c %u /volume/{file}")), "0\n");
                let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(source.join(&file)).unwrap());
                assert_eq!(owner, 0, "{handler}: on the host it is the volume's owner's");
                assert!(container.sh("cat /proc/self/uid_map").contains("200000"));
            }
            pod.remove();
        }
    }
    node.leaves_nothing();
}

#[test]
fn handlers_say_what_their_runtimes_can() {
    let node = both();
    for handler in ["", "crun", "runc"] {
        let features = features(&node, handler);
        let all = (features.recursive_read_only_mounts, features.user_namespaces);
        assert_eq!(all, (true, true), "{handler:?}: {features:?}");
    }
}

/// crun behind a script that knows no feature, under its own name and as the default, and its calls in a file.
fn feeble() -> Node {
    let builder = Node::builder().with(|config, machine| {
        let body = format!(
            "echo \"$*\" >> {}\n[ \"$1\" = features ] && {{ echo '{{}}'; exit 0; }}\nexec {} \"$@\"",
            machine.dir().join("calls").display(),
            installed("crun").display(),
        );
        let path = plugin::script(&machine.dir().join("runtimes"), "feeble", &body);
        config.runtimes = vec![("feeble".into(), path)];
    });
    builder.start()
}

#[test]
fn what_a_handler_cannot_do_is_refused_before_anything_happens() {
    let node = feeble();
    let features = features(&node, "feeble");
    assert_eq!((features.recursive_read_only_mounts, features.user_namespaces), (false, false));
    let calls = || fs::read_to_string(node.machine.dir().join("calls")).unwrap();
    let asked = calls();
    assert_eq!(asked.lines().collect::<Vec<_>>(), ["features"]);

    let refused = mapped(node.pod("mapped")).try_run().expect_err("a user namespace");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("namespace_options.userns_options"), "{refused}");
    assert!(refused.message().contains("\"feeble\""), "{refused}");
    assert!(node.pods().is_empty());
    node.leaves_nothing();

    let pod = node.pod("plain").run();
    node.pull(&node.busybox());
    // Of a source that is not there, so that making it would be seen.
    let source = node.machine.dir().join("missing");
    let mount = || Mount {
        container_path: "/volume".into(),
        host_path: source.display().to_string(),
        readonly: true,
        ..Default::default()
    };
    let recursive = Mount { recursive_read_only: true, ..mount() };
    let refused =
        mounting(pod.container("recursive"), recursive).try_create().expect_err("recursive read-only");
    assert_eq!(refused.code(), Code::Unknown, "{refused}");
    assert!(refused.message().starts_with("RROUnsupported"), "{refused}");
    assert!(refused.message().contains("mounts[0].recursive_read_only"), "{refused}");
    let id_mapped = Mount { uid_mappings: mapping(), gid_mappings: mapping(), ..mount() };
    let refused =
        mounting(pod.container("id-mapped"), id_mapped).try_create().expect_err("an id-mapped mount");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("mounts[0].uidMappings"), "{refused}");
    assert!(node.containers().is_empty());
    assert!(!source.exists(), "the source of a refused mount was made");
    assert_eq!(calls(), asked, "the runtime was called for a refused request");
    // What it can do it does.
    assert_eq!(pod.container("plain").sh("true").start().exit().exit_code, 0);
    pod.remove();
    node.leaves_nothing();
}
