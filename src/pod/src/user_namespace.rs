//! A pod's own user namespace (user_namespaces(7)): who may have one, and its ids in the words of the other rooms.

use kernel::namespace::IdRange;
use model::{IdMapping, NamespaceMode, PodConfig};

use crate::config::OciHandler;
use crate::error::PodError;

const USERNS_OPTIONS: &str = "config.linux.security_context.namespace_options.userns_options";

/// That a pod which asks for a user namespace can have it. Nothing is made yet.
///
/// # Errors
/// The field that stands against it.
pub(crate) fn check(config: &PodConfig, name: &str, handler: &OciHandler) -> Result<(), PodError> {
    let namespaces = &config.security.namespaces;
    if namespaces.own_user().is_none() {
        return Ok(());
    }
    if !handler.user_namespaces {
        let why = format!(
            "runtime handler {name:?} runs no pods in user namespaces: its features, or this kernel's (before 5.19), \
             lack them or id-mapped mounts"
        );
        return Err(PodError::Invalid { field: USERNS_OPTIONS, why });
    }
    // /proc and /dev/mqueue show namespaces, and only their owner's root mounts them.
    for (field, mode) in [
        ("config.linux.security_context.namespace_options.pid", &namespaces.pid),
        ("config.linux.security_context.namespace_options.ipc", &namespaces.ipc),
    ] {
        if *mode == NamespaceMode::Node {
            let why = "NODE does not go with a user namespace of the pod's own".to_owned();
            return Err(PodError::Invalid { field, why });
        }
    }
    Ok(())
}

/// Mappings as the kernel room has them.
pub(crate) fn id_ranges(mappings: &[IdMapping]) -> Vec<IdRange> {
    let range = |mapping: &IdMapping| IdRange {
        inside: mapping.container_id,
        outside: mapping.host_id,
        length: mapping.length,
    };
    mappings.iter().map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::fixture::Fixture;
    use model::{UserMode, UserNamespace};

    #[test]
    fn only_an_able_handler_and_namespaces_of_the_pods_own_go_with_it() {
        use NamespaceMode::{Container, Node, Pod};
        let mapping = vec![IdMapping { host_id: 65_536, container_id: 0, length: 65_536 }];
        let own = Some(UserMode::Pod(UserNamespace { uids: mapping.clone(), gids: mapping }));
        let field = "config.linux.security_context.namespace_options";
        let refused = |part: &str, why: &str| Err(format!("{field}.{part}: {why}"));
        let node = "NODE does not go with a user namespace of the pod's own";
        // user namespace, able handler, network, pid, ipc
        let rows = [
            (None, false, Node, Node, Node, Ok(())),
            (Some(UserMode::Node), false, Node, Node, Node, Ok(())),
            (own.clone(), true, Pod, Pod, Pod, Ok(())),
            (own.clone(), true, Node, Container, Pod, Ok(())),
            (own.clone(), true, Pod, Node, Pod, refused("pid", node)),
            (own.clone(), true, Pod, Pod, Node, refused("ipc", node)),
            (
                own,
                false,
                Pod,
                Pod,
                Pod,
                refused(
                    "userns_options",
                    "runtime handler \"old\" runs no pods in user namespaces: its features, or this kernel's \
                     (before 5.19), lack them or id-mapped mounts",
                ),
            ),
        ];
        for (user, able, network, pid, ipc, expect) in rows {
            let mut fixture = Fixture::default();
            let namespaces = &mut fixture.pod.security.namespaces;
            (namespaces.user, namespaces.network, namespaces.pid, namespaces.ipc) = (user, network, pid, ipc);
            let handler = OciHandler {
                binary: "/bin/old".into(),
                recursive_read_only: true,
                id_mapped_mounts: able,
                user_namespaces: able,
                ..OciHandler::default()
            };
            assert_eq!(check(&fixture.pod, "old", &handler).map_err(|e| e.to_string()), expect);
        }
    }
}
