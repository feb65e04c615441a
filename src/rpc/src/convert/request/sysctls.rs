//! Which sysctls a pod may set: those that its own namespaces hold.

use model::{NamespaceMode, Namespaces, StringMap};

use crate::convert::Invalid;

/// Refuses a key that no namespace of this pod holds. Keys have dots or slashes, as sysctl(8) takes them.
pub(super) fn sysctls(sysctls: StringMap, namespaces: &Namespaces) -> Result<StringMap, Invalid> {
    for (key, value) in &sysctls {
        let refuse = |why: &str| Invalid::new("sysctls", format!("{key:?} {why}"));
        let path = path(key).ok_or_else(|| refuse("is not the name of a sysctl"))?;
        if value.contains(['\n', '\0']) {
            return Err(refuse("has a value with a line break or NUL"));
        }
        let (mode, namespace) = if path.starts_with("net/") {
            (&namespaces.network, "network")
        } else if ["kernel/shm", "kernel/msg", "fs/mqueue/"].iter().any(|ipc| path.starts_with(ipc))
            || path == "kernel/sem"
        {
            (&namespaces.ipc, "IPC")
        } else {
            return Err(refuse("is not of the pod's network or IPC namespace: it would change the node"));
        };
        if *mode == NamespaceMode::Node {
            return Err(refuse(&format!(
                "belongs to the {namespace} namespace, and this pod uses the node's"
            )));
        }
    }
    Ok(sysctls)
}

/// The path below /proc/sys. Where the first separator is a slash, dots are part of names (`eth0.100`).
fn path(key: &str) -> Option<String> {
    let swap = |c: char| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let slashed = key.find(['.', '/']).is_some_and(|at| key.as_bytes()[at] == b'/');
    let path: String = if slashed { key.to_owned() } else { key.chars().map(swap).collect() };
    let part_valid = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'@' | b':'))
    };
    (path.contains('/') && path.split('/').all(part_valid)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, network: NamespaceMode, ipc: NamespaceMode) -> Result<(), String> {
        let namespaces = Namespaces { network, ipc, ..Namespaces::default() };
        let one = StringMap::from([(key.to_owned(), "1".to_owned())]);
        sysctls(one, &namespaces).map(drop).map_err(|e| e.to_string())
    }

    #[test]
    fn a_pod_sets_what_its_own_namespaces_hold() {
        use NamespaceMode::{Node, Pod};
        for key in [
            "net.core.somaxconn",
            "net/ipv4/conf/eth0.100/forwarding",
            "kernel.shmmax",
            "kernel.msgmax",
            "kernel.sem",
            "fs.mqueue.msg_max",
        ] {
            assert_eq!(check(key, Pod, Pod), Ok(()), "{key}");
            assert!(check(key, Node, Node).unwrap_err().contains("node's"), "{key}");
        }
        assert_eq!(check("net.core.somaxconn", Pod, Node), Ok(()));
        assert_eq!(check("kernel.sem", Node, Pod), Ok(()));
        for key in [
            "kernel.panic",
            "vm.swappiness",
            "",
            "net",
            "net..x",
            "net/../kernel/panic",
            "/net/x",
            "net.ipv4. x",
            "kernel.semantics",
        ] {
            let error = check(key, Pod, Pod).unwrap_err();
            assert!(error.starts_with("sysctls: ") && error.contains(&format!("{key:?}")), "{key}: {error}");
        }
    }
}
