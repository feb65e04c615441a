//! The whole specification: one golden text, its version, and OCI runtimes that accept it.

use serde_json::json;

use super::fixture::{Fixture, bind};
use super::*;

#[test]
fn a_whole_specification_has_no_surprises() {
    let mut fixture = Fixture::default();
    fixture.container.args = vec!["--port".into(), "80".into()];
    fixture.container.envs = vec![("MODE".into(), b"test".to_vec())];
    fixture.container.security.no_new_privs = true;
    fixture.container.security.masked_paths = vec!["/proc/kcore".into()];
    fixture.container.security.readonly_paths = vec!["/proc/sys".into()];
    fixture.container.security.capabilities.drop = vec!["ALL".into()];
    fixture.container.security.capabilities.add = vec!["NET_BIND_SERVICE".into()];
    fixture.container.resources.memory_limit = 1 << 26;
    fixture.container.resources.cpu_shares = 512;
    fixture.container.resources.oom_score_adj = 2;
    fixture.mount(model::Mount { readonly: true, ..bind("/etc/hosts", "/kubelet/hosts") });
    let spec = build(&fixture.input()).unwrap();
    let expect = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0, "additionalGids": [0] },
            "args": ["/bin/app", "--port", "80"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOSTNAME=web",
                "MODE=test"
            ],
            "cwd": "/",
            "capabilities": {
                "bounding": ["CAP_NET_BIND_SERVICE"],
                "effective": ["CAP_NET_BIND_SERVICE"],
                "permitted": ["CAP_NET_BIND_SERVICE"],
                "inheritable": [],
                "ambient": []
            },
            "noNewPrivileges": true,
            "oomScoreAdj": 2
        },
        "root": { "path": "/bundle/rootfs", "readonly": false },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            {
                "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]
            },
            {
                "destination": "/sys", "type": "sysfs", "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"]
            },
            {
                "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
            },
            {
                "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                "options": ["nosuid", "noexec", "nodev"]
            },
            {
                "destination": "/dev/shm", "type": "bind", "source": "/p/shm",
                "options": ["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"]
            },
            {
                "destination": "/etc/hostname", "type": "bind", "source": "/p/hostname",
                "options": ["rbind", "rprivate", "rw"]
            },
            {
                "destination": "/etc/resolv.conf", "type": "bind", "source": "/p/resolv.conf",
                "options": ["rbind", "rprivate", "rw"]
            },
            {
                "destination": "/etc/hosts", "type": "bind", "source": "/kubelet/hosts",
                "options": ["rbind", "rprivate", "ro"]
            },
            {
                "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]
            }
        ],
        "annotations": {
            "io.kubernetes.cri.container-name": "app",
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.image-name": "registry.test/app:1",
            "io.kubernetes.cri.sandbox-id": "1".repeat(64),
            "io.kubernetes.cri.sandbox-name": "web-0",
            "io.kubernetes.cri.sandbox-namespace": "default",
            "io.kubernetes.cri.sandbox-uid": "uid-1"
        },
        "linux": {
            "resources": {
                "devices": [{ "allow": false, "access": "rwm" }],
                "memory": { "limit": 67108864, "swap": 67108864 },
                "cpu": { "shares": 512 }
            },
            "cgroupsPath": format!("/pods/{}", "2".repeat(64)),
            "namespaces": [
                { "type": "pid" },
                { "type": "network", "path": "/n/net" },
                { "type": "ipc", "path": "/n/ipc" },
                { "type": "uts", "path": "/n/uts" },
                { "type": "mount" }
            ],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"]
        }
    });
    assert_eq!(serde_json::to_value(&spec).unwrap(), expect);
    let back: oci::Spec = serde_json::from_value(expect).unwrap();
    assert_eq!(back, spec, "what is stored is read back for an exec");
}

#[test]
fn the_version_is_the_lowest_that_knows_the_fields() {
    let version = |change: &dyn Fn(&mut Fixture)| {
        let mut fixture = Fixture::default();
        change(&mut fixture);
        build(&fixture.input()).unwrap().oci_version
    };
    assert_eq!(version(&|_| {}), "1.0.2");
    assert_eq!(version(&|f| f.defaults.seccomp_unset = SeccompDefault::RuntimeDefault), "1.1.0");
    let rro = model::Mount { readonly: true, recursive_read_only: true, ..bind("/a", "/b") };
    assert_eq!(version(&|f| f.mount(rro.clone())), "1.1.0");
    assert_eq!(
        version(&|f| {
            f.host.cgroup = CgroupVersion::V2;
            f.container.resources.unified = [("memory.high".to_owned(), "max".to_owned())].into();
        }),
        "1.1.0"
    );
}

/// The service's own directory is shared by tests and must agree with what the real OCI specification types read.
#[test]
fn the_fields_own_types_read_it_too() {
    let mut fixture = Fixture::default();
    fixture.defaults.seccomp_unset = SeccompDefault::RuntimeDefault;
    let text = serde_json::to_string(&build(&fixture.input()).unwrap()).unwrap();
    let spec: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
    assert_eq!(spec.mounts().as_ref().unwrap().len(), 10);
    assert!(spec.linux().as_ref().unwrap().seccomp().is_some());
}
