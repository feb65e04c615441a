//! Pods in user namespaces of their own: whose what is, inside and on the host.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::v1;
use e2e::image::{Tree, busybox_builder};
use e2e::plugin;
use e2e::programs::{installed, tool};
use e2e::random::Random;
use e2e::{Container, Node, Pod, PodBuilder};
use tonic::Code;

/// The host's id of a pod's user and group 0.
const FIRST: u32 = 300_000;
const LENGTH: u32 = 65_536;

/// A node with a runtime that can and, as "old", one whose features are none.
fn node() -> Node {
    let builder = Node::builder().with(|config, machine| {
        let crun = installed("crun");
        let body = format!("[ \"$1\" = features ] && exec echo '{{}}'\nexec {} \"$@\"", crun.display());
        let old = plugin::script(&machine.dir().join("runtimes"), "old", &body);
        config.runtimes = vec![("runc".into(), tool("runc")), ("old".into(), old)];
    });
    builder.start()
}

fn ids(container_id: u32, host_id: u32, length: u32) -> Vec<v1::IdMapping> {
    vec![v1::IdMapping { host_id, container_id, length }]
}

fn own() -> v1::UserNamespace {
    let mapping = ids(0, FIRST, LENGTH);
    v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), uids: mapping.clone(), gids: mapping }
}

fn mapped<'n>(node: &'n Node, name: &str) -> PodBuilder<'n> {
    node.pod(name).namespaces(|options| options.userns_options = Some(own()))
}

fn owner(path: &Path) -> (u32, u32) {
    fs::symlink_metadata(path)
        .map(|found| (found.uid(), found.gid()))
        .unwrap_or_else(|e| panic!("{path:?}: {e}"))
}

fn upper(node: &Node, container: &Container<'_>) -> PathBuf {
    node.config.root.join("containers").join(&container.id).join("upper")
}

fn namespace(node: &Node, path: &str) -> u64 {
    node.machine.sh(&format!("stat -L -c %i {path}")).trim().parse().unwrap()
}

fn volume(at: &str, host: &Path, is_mapped: bool) -> v1::Mount {
    let mapping = || if is_mapped { ids(0, FIRST, LENGTH) } else { Vec::new() };
    v1::Mount {
        container_path: at.into(),
        host_path: host.display().to_string(),
        uid_mappings: mapping(),
        gid_mappings: mapping(),
        ..Default::default()
    }
}

#[test]
fn a_careful_umask_of_whoever_started_the_service_keeps_nobody_out() {
    let mut node =
        Node::builder().with(|config, _| config.runtimes = vec![("runc".into(), tool("runc"))]).prepare();
    node.started_by(&["/bin/sh", "-c", "umask 077; exec \"$@\"", "sh"]);
    node.start_service();
    let shared = |options: &mut v1::NamespaceOption| {
        options.userns_options = Some(own());
        options.pid = v1::NamespaceMode::Pod.into();
    };
    let made = node.machine.dir().join("made");
    let pod = node.pod("careful").namespaces(shared).run();
    let container = pod
        .container("c")
        .idle()
        .security(|s| s.run_as_user = Some(v1::Int64Value { value: 1000 }))
        .with(|config| config.mounts.push(volume("/made", &made, true)))
        .start();
    assert_eq!(container.sh("umask; id -u; ls /made; ls -d /bin/busybox"), "0022\n1000\n/bin/busybox\n");
    assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, 0o755);
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_pod_has_a_user_namespace_of_its_own() {
    let node = node();
    let pod = mapped(&node, "mapped").run();
    let container = pod.container("c").idle().start();
    assert_eq!(
        container.sh("id -u; id -g; cat /proc/self/uid_map").split_whitespace().collect::<Vec<_>>(),
        ["0", "0", "0", "300000", "65536"]
    );
    // The namespaces are the pod's, and the user namespace owns them: what only an owner may mount is there.
    let pid = container.pid();
    let dir = node.config.state.join("pods").join(&pod.id);
    for kind in ["user", "ipc", "uts"] {
        let pinned = namespace(&node, &dir.join(kind).display().to_string());
        assert_eq!(namespace(&node, &format!("/proc/{pid}/ns/{kind}")), pinned, "{kind}");
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("Uid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}\n")), "{status}");
    let mounted = container.sh("cut -d ' ' -f 5 /proc/self/mountinfo");
    for point in ["/proc", "/sys", "/dev/mqueue", "/dev/pts", "/dev/shm", "/sys/fs/cgroup"] {
        assert!(mounted.lines().any(|line| line == point), "{point} is not in {mounted}");
    }
    assert_eq!(container.sh("ls /sys/class/net"), "eth0\nlo\n");
    container.sh("ping -c 1 -W 5 127.0.0.1");
    container.sh(&format!("ping -c 1 -W 5 {}.1", node.machine.subnet()));

    // The files of the pod are its root's, who may write to them.
    for file in ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/dev/shm", "/", "/bin/busybox"] {
        assert_eq!(container.sh(&format!("stat -c %u:%g {file}")), "0:0\n", "{file}");
    }
    assert_eq!(container.sh("cat /etc/hostname; grep -c 10.96.0.10 /etc/resolv.conf"), "mapped\n1\n");
    container.sh("echo 192.0.2.1 other >> /etc/hosts && echo shared > /dev/shm/file");
    let second = pod.container("second").idle().start();
    assert_eq!(second.sh("cat /dev/shm/file; tail -n 1 /etc/hosts"), "shared\n192.0.2.1 other\n");

    // What it writes has the ids of the host's that are its own, and the image's layers are untouched.
    container.sh("echo new > /new && chown 1000:1001 /new && echo x >> /etc/passwd && mkdir /dir");
    let upper = upper(&node, &container);
    assert_eq!(owner(&upper), (FIRST, FIRST));
    assert_eq!(owner(&upper.join("new")), (FIRST + 1000, FIRST + 1001));
    assert_eq!(owner(&upper.join("etc/passwd")), (FIRST, FIRST), "copied up");
    assert_eq!(owner(&upper.join("dir")), (FIRST, FIRST));
    let denied = container.try_exec(&["chown", "70000", "/new"], 10).unwrap();
    assert_ne!(denied.exit_code, 0, "an id that is not mapped");

    // The status says what was asked for.
    let options = pod.status().linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(options.userns_options, Some(own()));

    let user = pod.container("user").idle().security(|security| {
        security.run_as_user = Some(v1::Int64Value { value: 1000 });
    });
    let user = user.start();
    assert_eq!(user.sh("id -u; id -G"), "1000\n1000 2000\n");
    assert_eq!(user.status().user.unwrap().linux.unwrap().uid, 1000);
    user.sh("echo out > /dev/stdout; touch /tmp/mine");
    assert_eq!(owner(&self::upper(&node, &user).join("tmp/mine")).0, FIRST + 1000);
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_service_that_was_killed_takes_a_mapped_pod_over() {
    let node = node();
    let pod = mapped(&node, "taken-over").run();
    let container = pod.container("c").idle().start();
    let created = pod.container("later").idle().create();
    node.restart();
    assert!(pod.is_ready() && container.is_running());
    assert_eq!(container.sh("id -u; cat /proc/self/uid_map").split_whitespace().nth(2), Some("300000"));
    created.try_start().unwrap();
    let new = pod.container("new").idle().start();
    assert_eq!(new.sh("stat -c %u /bin/busybox"), "0\n");
    assert_eq!(pod.status().linux.unwrap().namespaces.unwrap().options.unwrap().userns_options, Some(own()));
    pod.stop();
    let dir = node.config.state.join("pods").join(&pod.id);
    assert!(!node.machine.sh("cat /proc/self/mountinfo").contains(dir.join("user").to_str().unwrap()));
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn volumes_are_id_mapped_where_asked() {
    let node = node();
    let host = node.machine.dir().join("volume");
    fs::create_dir_all(&host).unwrap();
    fs::write(host.join("of-root"), "").unwrap();
    fs::write(host.join("of-1000"), "").unwrap();
    chown(host.join("of-1000"), Some(1000), Some(1001)).unwrap();
    let pod = mapped(&node, "volumes").run();
    let container = pod.container("c").idle().with(|config| {
        config.mounts = vec![volume("/mapped", &host, true), volume("/plain", &host, false)];
    });
    let container = container.start();
    assert_eq!(container.sh("stat -c %u:%g /mapped/of-root /mapped/of-1000"), "0:0\n1000:1001\n");
    assert_eq!(container.sh("stat -c %u /plain/of-root"), "65534\n", "nobody's, without a mapping");
    container.sh("echo new > /mapped/new && chown 7:8 /mapped/new");
    assert_eq!(owner(&host.join("new")), (7, 8), "on the host as in the container");
    let told = container.status().mounts;
    assert_eq!(told[0].uid_mappings, ids(0, FIRST, LENGTH));

    // Without a user namespace, too; and an image volume follows its pod's.
    let plain = node.pod("plain").run();
    let shifted = plain.container("c").idle().with(|config| {
        let mut mount = volume("/shifted", &host, true);
        mount.uid_mappings = ids(1000, 5, 1);
        mount.gid_mappings = ids(1001, 6, 1);
        config.mounts = vec![mount];
    });
    assert_eq!(shifted.start().sh("stat -c %u:%g /shifted/of-1000"), "5:6\n");
    let image = pod.container("image").idle().with(|config| {
        config.mounts = vec![v1::Mount {
            host_path: String::new(),
            image: Some(e2e::cri::image_spec(&node.busybox())),
            ..volume("/image", &host, true)
        }];
    });
    assert_eq!(image.start().sh("stat -c %u:%g /image/bin/busybox"), "0:0\n");

    // A file system that cannot is named, and nothing is left.
    let refused = pod.container("refused").idle().with(|config| {
        config.mounts = vec![volume("/sysctls", Path::new("/proc/sys"), true)];
    });
    let status = refused.try_create().unwrap_err();
    assert!(
        status.message().contains("mounts[0].uidMappings: id-map /proc/sys: the file system proc"),
        "{status}"
    );
    pod.remove();
    plain.remove();
    node.leaves_nothing();
}

/// An image with a set-user-id program and one with a capability: Debian's cat, which needs the C library alone.
fn privileged_files() -> e2e::image::Builder {
    let cat = fs::read(installed("cat")).unwrap();
    // struct vfs_cap_data, revision 2, effective: CAP_NET_BIND_SERVICE, 10 (capabilities(7), "File capabilities").
    let mut capability = 0x0200_0001_u32.to_le_bytes().to_vec();
    capability.extend([1_u32 << 10, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
    let tree = Tree::default().dir("p", 0o755).file("p/suid", 0o4755, &cat).file_with(
        "p/cap",
        0o755,
        &cat,
        "security.capability",
        &capability,
    );
    busybox_builder().layer(tree)
}

#[test]
fn programs_with_privileges_have_them_in_the_user_namespace() {
    let node = node();
    let reference = node.push(&privileged_files().build(), "privileges:1");
    node.pull(&reference);
    for own_namespace in [false, true] {
        let pod = match own_namespace {
            true => mapped(&node, "own").run(),
            false => node.pod("hosts").handler("runc").run(),
        };
        let as_user = |name: &str, no_new_privs: bool| {
            let container = pod.container(name).image(&reference).idle().security(|security| {
                security.run_as_user = Some(v1::Int64Value { value: 1000 });
                security.no_new_privs = no_new_privs;
            });
            container.start()
        };
        let shown = |container: &Container<'_>, program: &str, key: &str| {
            let line = container.sh(&format!("{program} /proc/self/status | grep ^{key}:"));
            line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        let free = as_user("free", false);
        assert_eq!(shown(&free, "/p/suid", "Uid"), "1000 0 0 0", "{own_namespace}");
        assert_eq!(shown(&free, "/p/cap", "CapEff"), "0000000000000400", "{own_namespace}");
        let bound = as_user("bound", true);
        assert_eq!(shown(&bound, "/p/suid", "Uid"), "1000 1000 1000 1000", "{own_namespace}");
        assert_eq!(shown(&bound, "/p/cap", "CapEff"), "0000000000000000", "{own_namespace}");
        pod.remove();
    }
    node.leaves_nothing();
}

#[test]
fn every_namespace_mode_that_goes_with_it_works() {
    let node = node();
    // A PID namespace of the pod's, whose pid 1 is the shim's child.
    let shared = mapped(&node, "shared").namespaces(|o| o.pid = v1::NamespaceMode::Pod.into()).run();
    let container = shared.container("c").idle().start();
    assert_eq!(container.sh("cat /proc/1/comm; stat -c %u /proc/1"), "gantline-init\n0\n");
    let other = shared.container("other").idle().start();
    assert!(other.sh("ps").lines().filter(|line| line.contains("sleep 1000")).count() >= 2);

    // Another container's.
    let pod = mapped(&node, "target").run();
    let target = pod.container("target").idle().start();
    let debug = pod.container("debug").idle().security(|security| {
        let options = security.namespace_options.get_or_insert_default();
        options.pid = v1::NamespaceMode::Target.into();
        options.target_id = target.id.clone();
    });
    let debug = debug.start();
    assert!(debug.sh("cat /proc/1/cmdline | tr '\\0' ' '").contains("trap"));

    // The host's network: the host's /sys, read-only.
    let hosts = mapped(&node, "hosts").namespaces(|o| o.network = v1::NamespaceMode::Node.into()).run();
    let container = hosts.container("c").idle().start();
    assert!(container.sh("cat /proc/net/dev").contains("e2e0"));
    assert!(container.sh("cat /proc/self/uid_map").contains("300000"));
    let denied = container.try_exec(&["sh", "-c", "echo x > /sys/kernel/uevent_helper"], 10).unwrap();
    assert_ne!(denied.exit_code, 0);
    let sys = container.sh("grep -E ' /sys(/kernel[^ ]*)? ' /proc/self/mountinfo | cut -d ' ' -f 6");
    assert!(!sys.is_empty() && sys.lines().all(|options| options.split(',').any(|o| o == "ro")), "{sys}");

    // Privileged is so within its user namespace: it mounts, but what is the host's it cannot change.
    let privileged = mapped(&node, "privileged").with(|config| {
        config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    });
    let privileged = privileged.run();
    let container = privileged.container("c").idle().security(|security| security.privileged = true).start();
    container.sh("mount -t tmpfs none /tmp && touch /tmp/x && hostname other");
    let denied = container.try_exec(&["sh", "-c", "echo 1 > /proc/sys/vm/drop_caches"], 10).unwrap();
    assert_ne!(denied.exit_code, 0);
    for pod in [shared, pod, hosts, privileged] {
        pod.remove();
    }
    node.leaves_nothing();
}

/// Standard streams are given to a container's user, so that it may open them anew; but not the host's device.
#[test]
fn the_hosts_null_device_stays_roots() {
    let runtimes = vec![("crun".into(), installed("crun")), ("runc".into(), tool("runc"))];
    let node = Node::builder().with(|config, _| config.runtimes = runtimes).start();
    let null = Path::new("/dev/null");
    assert_eq!(owner(null), (0, 0), "before");
    for handler in ["crun", "runc"] {
        for builder in [node.pod("plain"), mapped(&node, "mapped")] {
            let pod = builder.handler(handler).run();
            for (tty, user) in [(false, 0), (false, 1000), (true, 0), (true, 1000)] {
                let builder = pod.container(&format!("{tty}-{user}")).idle().with(|config| config.tty = tty);
                let user = Some(v1::Int64Value { value: user });
                let container = builder.security(|security| security.run_as_user = user).start();
                if !tty {
                    let input = container.sh("readlink /proc/1/fd/0; wc -c < /proc/1/fd/0");
                    assert_eq!(input, "/dev/null\n0\n", "{handler}");
                }
                assert_eq!(container.sh("readlink /proc/self/fd/0"), "/dev/null\n", "{handler}");
                assert_eq!(owner(null), (0, 0), "{handler}, {}, terminal: {tty}", pod.id);
            }
            pod.remove();
        }
    }
    node.leaves_nothing();
}

#[test]
fn what_cannot_be_given_is_refused_by_name_before_anything_is_made() {
    let node = node();
    let field = "namespace_options.userns_options";
    let mode = |mode: v1::NamespaceMode, uids: Vec<v1::IdMapping>, gids: Vec<v1::IdMapping>| {
        move |options: &mut v1::NamespaceOption| {
            options.userns_options = Some(v1::UserNamespace { mode: mode.into(), uids, gids });
        }
    };
    use v1::NamespaceMode::{Container as OfContainer, Node as OfNode, Pod as OfPod, Target};
    let good = || ids(0, FIRST, LENGTH);
    let two = [ids(0, FIRST, 10), ids(10, 7, 1)].concat();
    let refused = |pod: PodBuilder<'_>, part: &str, why: &str| {
        let status = pod.try_run().unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(part) && status.message().contains(why), "{part}: {status}");
    };
    let pod = || node.pod("refused");
    refused(pod().namespaces(mode(OfPod, vec![], vec![])), &format!("{field}.uids"), "exactly one");
    refused(pod().namespaces(mode(OfPod, good(), vec![])), &format!("{field}.gids"), "exactly one");
    refused(pod().namespaces(mode(OfPod, two.clone(), good())), &format!("{field}.uids"), "2 mappings");
    refused(pod().namespaces(mode(OfPod, good(), two)), &format!("{field}.gids"), "2 mappings");
    refused(pod().namespaces(mode(OfPod, ids(1, FIRST, 9), good())), &format!("{field}.uids"), "id 0");
    refused(pod().namespaces(mode(OfNode, good(), good())), &format!("{field}.mode"), "NODE");
    refused(pod().namespaces(mode(OfContainer, good(), good())), &format!("{field}.mode"), "CONTAINER");
    refused(pod().namespaces(mode(Target, good(), good())), &format!("{field}.mode"), "TARGET");
    refused(mapped(&node, "old").handler("old"), field, "\"old\" runs no pods in user namespaces");
    let shared = |change: fn(&mut v1::NamespaceOption)| mapped(&node, "shared").namespaces(change);
    refused(shared(|o| o.pid = OfNode.into()), "namespace_options.pid", "NODE does not go");
    refused(shared(|o| o.ipc = OfNode.into()), "namespace_options.ipc", "NODE does not go");
    assert!(node.pods().is_empty());

    let features = node.cri().status(v1::StatusRequest::default()).unwrap();
    let says = |name: &str| {
        let found = features.runtime_handlers.iter().find(|handler| handler.name == name).unwrap();
        found.features.as_ref().unwrap().user_namespaces
    };
    assert_eq!((says(""), says("runc"), says("old")), (true, true, false));
    assert!(features.features.unwrap().user_namespaces_host_network);

    let pod = mapped(&node, "pod").run();
    let plain = node.pod("plain").run();
    let create =
        |pod: &Pod<'_>, change: &dyn Fn(&mut v1::LinuxContainerSecurityContext), part: &str, why: &str| {
            let container = pod.container("refused").idle().security(change);
            let status = container.try_create().unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            assert!(status.message().contains(part) && status.message().contains(why), "{part}: {status}");
        };
    let asks = |user: v1::UserNamespace| {
        move |security: &mut v1::LinuxContainerSecurityContext| {
            security.namespace_options.get_or_insert_default().userns_options = Some(user.clone());
        }
    };
    node.pull(&node.busybox());
    create(&plain, &asks(own()), field, "the sandbox has no user namespace of its own");
    let other = v1::UserNamespace { uids: ids(0, 7, LENGTH), ..own() };
    create(&pod, &asks(other), field, "other mappings than the sandbox's");
    let none = v1::UserNamespace { mode: OfNode.into(), uids: vec![], gids: vec![] };
    create(&pod, &asks(none), field, "is NODE, and the sandbox");
    let unmapped =
        |s: &mut v1::LinuxContainerSecurityContext| s.run_as_user = Some(v1::Int64Value { value: 70_000 });
    create(&pod, &unmapped, "security_context.run_as_user", "user 70000 is not mapped");
    assert!(node.containers().is_empty());

    // A handler that makes no id-mapped mounts, and shapes that no runtime takes.
    let old = node.pod("old-mounts").handler("old").run();
    let mount = |pod: &Pod<'_>, change: fn(&mut v1::Mount), part: &str, why: &str| {
        let mut mount = volume("/data", Path::new("/var/tmp"), true);
        change(&mut mount);
        let container = pod.container("refused").idle().with(|config| config.mounts = vec![mount]);
        let status = container.try_create().unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(part) && status.message().contains(why), "{part}: {status}");
    };
    mount(&old, |_| (), "mounts[0].uidMappings", "no id-mapped mounts");
    mount(&pod, |m| m.gid_mappings.clear(), "mounts[0].gidMappings", "is empty");
    mount(&pod, |m| m.uid_mappings.push(m.uid_mappings[0]), "mounts[0].uidMappings", "twice");
    mount(&pod, |m| m.uid_mappings[0].length = 0, "mounts[0].uidMappings", "length");
    for pod in [pod, plain, old] {
        pod.remove();
    }
    node.leaves_nothing();
}

#[test]
fn kills_at_any_moment_leave_nothing_of_a_mapped_pod() {
    let node = node();
    node.pull(&node.busybox());
    let mut random = Random::seeded();
    for round in 0..8 {
        std::thread::scope(|scope| {
            let node = &node;
            let making = scope.spawn(move || {
                let pod = mapped(node, &format!("killed-{round}"));
                let Ok(pod) = pod.namespaces(|o| o.pid = v1::NamespaceMode::Pod.into()).try_run() else {
                    return;
                };
                if let Ok(container) = pod.container("c").idle().try_create() {
                    let _ = container.try_start();
                }
            });
            std::thread::sleep(Duration::from_millis(random.below(700)));
            node.kill9();
            making.join().unwrap();
        });
        node.start_service();
    }
    node.remove_all_pods();
    node.leaves_nothing();
}
