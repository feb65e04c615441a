//! Which namespaces a container makes, joins or shares with the host (namespaces(7)).

use std::path::PathBuf;

use model::{NamespaceMode, Namespaces, UserMode};

use super::host::CgroupVersion;
use super::oci::Namespace;
use super::{SpecError, SpecInput};

const FIELD: &str = "linux.security_context.namespace_options";

/// Network, IPC and UTS are the pod's; mounts are the container's own; PID is as the container asks.
///
/// A mode of POD in the container's request says "as the sandbox", which also is what a client means that sends no
/// namespace options at all.
pub(super) fn namespaces(input: &SpecInput<'_>) -> Result<Vec<Namespace>, SpecError> {
    let mut namespaces = Vec::with_capacity(7);
    if input.pod.security.namespaces.own_user().is_some() {
        namespaces.push(joined("user", &input.namespaces.user)?);
    }
    if let Some(pid) = pid(input)? {
        namespaces.push(pid);
    }
    let pod = &input.pod.security.namespaces;
    let paths = input.namespaces;
    if pod.network == NamespaceMode::Pod {
        namespaces.push(joined("network", &paths.network)?);
    }
    if pod.ipc == NamespaceMode::Pod {
        namespaces.push(joined("ipc", &paths.ipc)?);
    }
    if let Some(path) = &paths.uts {
        namespaces.push(Namespace { kind: "uts".into(), path: Some(path.clone()) });
    }
    namespaces.push(own("mount"));
    // Under v1 a cgroup namespace would hide nothing, and old images look for the host's paths there.
    if input.host.cgroup == CgroupVersion::V2 && !input.container.security.privileged {
        namespaces.push(own("cgroup"));
    }
    Ok(namespaces)
}

/// That the container's modes are ones that its sandbox can give.
pub(super) fn check(pod: &Namespaces, container: &Namespaces) -> Result<(), SpecError> {
    for (name, pod, container) in
        [("network", &pod.network, &container.network), ("ipc", &pod.ipc, &container.ipc)]
    {
        let valid = |mode: &NamespaceMode| matches!(mode, NamespaceMode::Pod | NamespaceMode::Node);
        if !valid(container) || !valid(pod) {
            let mode = if valid(pod) { container } else { pod };
            return Err(SpecError::invalid(
                format!("{FIELD}.{name}"),
                format!("{} is not POD or NODE", cri(mode)),
            ));
        }
        if *container != NamespaceMode::Pod && container != pod {
            let why = format!("{} is not the sandbox's mode, {}", cri(container), cri(pod));
            return Err(SpecError::invalid(format!("{FIELD}.{name}"), why));
        }
    }
    let user = |why: &str| Err(SpecError::invalid(format!("{FIELD}.userns_options"), why));
    match (pod.own_user(), &container.user) {
        (None, Some(UserMode::Pod(_))) => user("is POD, and the sandbox has no user namespace of its own"),
        (Some(_), Some(UserMode::Node)) => user("is NODE, and the sandbox has a user namespace of its own"),
        (Some(pods), Some(UserMode::Pod(own))) if pods != own => {
            user("has other mappings than the sandbox's")
        }
        // /proc shows processes, and only the root of their user namespace mounts it.
        (Some(_), _) if container.pid == NamespaceMode::Node => Err(SpecError::invalid(
            format!("{FIELD}.pid"),
            "NODE does not go with a user namespace of the sandbox's own",
        )),
        _ => Ok(()),
    }
}

fn pid(input: &SpecInput<'_>) -> Result<Option<Namespace>, SpecError> {
    let asked = match &input.container.security.namespaces.pid {
        NamespaceMode::Pod => &input.pod.security.namespaces.pid,
        other => other,
    };
    match asked {
        NamespaceMode::Container => Ok(Some(own("pid"))),
        NamespaceMode::Node => Ok(None),
        NamespaceMode::Pod => joined("pid", &input.namespaces.pid).map(Some),
        NamespaceMode::Target(_) => match &input.namespaces.target_pid {
            Some(path) => Ok(Some(Namespace { kind: "pid".into(), path: Some(path.clone()) })),
            None => Err(SpecError::Incomplete("the target container's PID namespace")),
        },
    }
}

fn own(kind: &str) -> Namespace {
    Namespace { kind: kind.into(), path: None }
}

fn joined(kind: &'static str, path: &Option<PathBuf>) -> Result<Namespace, SpecError> {
    match path {
        Some(path) => Ok(Namespace { kind: kind.into(), path: Some(path.clone()) }),
        None => Err(SpecError::Incomplete(kind)),
    }
}

fn cri(mode: &NamespaceMode) -> &'static str {
    match mode {
        NamespaceMode::Pod => "POD",
        NamespaceMode::Container => "CONTAINER",
        NamespaceMode::Node => "NODE",
        NamespaceMode::Target(_) => "TARGET",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::fixture::{Fixture, id};
    use NamespaceMode::{Container, Node, Pod, Target};

    fn line(namespaces: Vec<Namespace>) -> String {
        let one = |ns: Namespace| match ns.path {
            Some(path) => format!("{}:{}", ns.kind, path.display()),
            None => ns.kind,
        };
        namespaces.into_iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_mode_makes_joins_or_shares() {
        let target = Target(id(9));
        let pod = "network:/n/net ipc:/n/ipc uts:/n/uts mount";
        // pod's network, ipc and pid; container's pid
        let rows = [
            (Pod, Pod, Container, Container, format!("pid {pod}")),
            (Pod, Pod, Container, Pod, format!("pid {pod}")),
            (Pod, Pod, Pod, Pod, format!("pid:/n/pid {pod}")),
            (Pod, Pod, Node, Pod, pod.to_owned()),
            (Pod, Pod, Container, Node, pod.to_owned()),
            (Pod, Pod, Container, target.clone(), format!("pid:/n/target {pod}")),
            (Node, Pod, Container, Container, "pid ipc:/n/ipc uts:/n/uts mount".to_owned()),
            (Node, Node, Container, Container, "pid uts:/n/uts mount".to_owned()),
        ];
        for (network, ipc, pod_pid, container_pid, expect) in rows {
            let mut fixture = Fixture::default();
            let pod = &mut fixture.pod.security.namespaces;
            (pod.network, pod.ipc, pod.pid) = (network, ipc, pod_pid);
            fixture.container.security.namespaces.pid = container_pid;
            check_fixture(&fixture).unwrap();
            assert_eq!(line(namespaces(&fixture.input()).unwrap()), expect);
        }
    }

    #[test]
    fn a_cgroup_namespace_is_for_the_unprivileged_on_v2() {
        for (cgroup, privileged, expect) in [
            (CgroupVersion::V1, false, false),
            (CgroupVersion::V2, false, true),
            (CgroupVersion::V2, true, false),
        ] {
            let mut fixture = Fixture::default();
            fixture.host.cgroup = cgroup;
            fixture.container.security.privileged = privileged;
            let made = namespaces(&fixture.input()).unwrap();
            assert_eq!(made.iter().any(|ns| ns.kind == "cgroup"), expect);
        }
    }

    #[test]
    fn modes_that_the_sandbox_cannot_give_are_named() {
        let field = "linux.security_context.namespace_options";
        for (pod, container, expect) in [
            (Pod, Node, "network: NODE is not the sandbox's mode, POD"),
            (Pod, Container, "network: CONTAINER is not POD or NODE"),
            (Container, Pod, "network: CONTAINER is not POD or NODE"),
        ] {
            let mut fixture = Fixture::default();
            fixture.pod.security.namespaces.network = pod;
            fixture.container.security.namespaces.network = container;
            assert_eq!(check_fixture(&fixture).unwrap_err().to_string(), format!("{field}.{expect}"));
        }
    }

    fn check_fixture(fixture: &Fixture) -> Result<(), SpecError> {
        check(&fixture.pod.security.namespaces, &fixture.container.security.namespaces)
    }

    #[test]
    fn a_user_namespace_is_the_sandboxs_and_joined() {
        let own = |host_id| {
            let mapping = vec![model::IdMapping { host_id, container_id: 0, length: 65_536 }];
            Some(UserMode::Pod(model::UserNamespace { uids: mapping.clone(), gids: mapping }))
        };
        let node = Some(UserMode::Node);
        let field = "linux.security_context.namespace_options";
        let refused = |why: &str| Err(format!("{field}.{why}"));
        let pod = "pid network:/n/net ipc:/n/ipc uts:/n/uts mount";
        let joined = format!("user:/n/user {pod}");
        for (pods, containers, pid, expect) in [
            (None, None, Pod, Ok(pod.to_owned())),
            (node.clone(), None, Pod, Ok(pod.to_owned())),
            (None, node.clone(), Pod, Ok(pod.to_owned())),
            (own(1), own(1), Pod, Ok(joined.clone())),
            // What a client means that sends no namespace options at all.
            (own(1), None, Pod, Ok(joined)),
            (own(1), own(2), Pod, refused("userns_options: has other mappings than the sandbox's")),
            (
                own(1),
                node.clone(),
                Pod,
                refused("userns_options: is NODE, and the sandbox has a user namespace of its own"),
            ),
            (
                node,
                own(1),
                Pod,
                refused("userns_options: is POD, and the sandbox has no user namespace of its own"),
            ),
            (
                None,
                own(1),
                Pod,
                refused("userns_options: is POD, and the sandbox has no user namespace of its own"),
            ),
            (own(1), None, Node, refused("pid: NODE does not go with a user namespace of the sandbox's own")),
        ] {
            let mut fixture = Fixture::default();
            fixture.pod.security.namespaces.user = pods;
            fixture.container.security.namespaces.user = containers;
            fixture.container.security.namespaces.pid = pid;
            let found = check_fixture(&fixture).and_then(|()| namespaces(&fixture.input())).map(line);
            assert_eq!(found.map_err(|e| e.to_string()), expect);
        }
    }

    #[test]
    fn a_missing_path_is_a_fault_of_ours() {
        let mut fixture = Fixture::default();
        fixture.namespaces.ipc = None;
        assert!(matches!(namespaces(&fixture.input()), Err(SpecError::Incomplete("ipc"))));
    }
}
