//! Who a container's process is: users, groups, ambient capabilities, and whose processes it sees.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use api::v1;
use e2e::programs::{installed, tool};
use e2e::{ContainerBuilder, Node, eventually};
use tonic::Code;

/// A node with both runtimes.
fn node() -> Node {
    let runtimes = vec![("crun".into(), installed("crun")), ("runc".into(), tool("runc"))];
    Node::builder().with(|config, _| config.runtimes = runtimes).start()
}

fn int(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

#[test]
fn who_a_process_is_and_which_groups_it_has() {
    use v1::SupplementalGroupsPolicy::{Merge, Strict};
    let node = node();
    for handler in ["crun", "runc"] {
        let pod = node.pod("identity").handler(handler).run();
        type Change = fn(&mut v1::LinuxContainerSecurityContext);
        // The image's app is 1000:1000 and a member of extra, 2000.
        let rows: [(&str, Change, &str); 7] = [
            ("merge", |s| s.run_as_user = int(1000), "1000 1000 1000,2000"),
            (
                "merge-more",
                |s| {
                    s.run_as_user = int(1000);
                    s.supplemental_groups = vec![42];
                    s.supplemental_groups_policy = Merge.into();
                },
                "1000 1000 42,1000,2000",
            ),
            (
                "strict",
                |s| {
                    s.run_as_user = int(1000);
                    s.supplemental_groups = vec![42];
                    s.supplemental_groups_policy = Strict.into();
                },
                "1000 1000 42,1000",
            ),
            (
                "strict-alone",
                |s| {
                    s.run_as_user = int(1000);
                    s.supplemental_groups_policy = Strict.into();
                },
                "1000 1000 1000",
            ),
            ("name", |s| s.run_as_username = "app".into(), "1000 1000 1000,2000"),
            (
                "name-and-group",
                |s| {
                    s.run_as_username = "app".into();
                    s.run_as_group = int(7);
                },
                "1000 7 7,2000",
            ),
            ("number", |s| s.run_as_user = int(4321), "4321 0 0"),
        ];
        for (name, change, expect) in rows {
            let container = pod.container(name).idle().security(change).start();
            let words = container.sh("id -u; id -g; id -G");
            let words: Vec<u32> = words.split_whitespace().map(|word| word.parse().unwrap()).collect();
            let told = container.status().user.unwrap().linux.unwrap();
            let line = |uid: u32, gid: u32, mut groups: Vec<u32>| {
                groups.sort_unstable();
                groups.dedup();
                let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
                format!("{uid} {gid} {}", groups.join(","))
            };
            assert_eq!(
                line(words[0], words[1], words[2..].to_vec()),
                expect,
                "{handler} {name}: the process"
            );
            let narrow = |id: &i64| u32::try_from(*id).unwrap();
            let groups = told.supplemental_groups.iter().map(narrow).collect();
            assert_eq!(
                line(narrow(&told.uid), narrow(&told.gid), groups),
                expect,
                "{handler} {name}: the status"
            );
        }

        // Ambient capabilities stay with a user who is not root, through execve(2); others do not.
        let ambient = pod.container("ambient").idle().security(|security| {
            security.run_as_user = int(1000);
            let add = vec!["NET_ADMIN".to_owned()];
            let add_ambient_capabilities = vec!["CAP_NET_BIND_SERVICE".to_owned()];
            security.capabilities = Some(v1::Capability {
                add_capabilities: add,
                drop_capabilities: vec!["ALL".into()],
                add_ambient_capabilities,
            });
        });
        let ambient = ambient.start();
        eventually("the image's program runs", Duration::from_secs(10), || {
            let command = ambient.sh("tr '\\0' ' ' </proc/1/cmdline");
            if command.starts_with("sh ") { Ok(()) } else { Err(command) }
        });
        // Of the process itself, not of an exec beside it: numbers 10 and 12 of capabilities(7).
        let of = |key: &str| {
            let line = ambient.sh(&format!("grep ^{key}: /proc/1/status"));
            u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap()
        };
        let (bind, admin) = (1 << 10, 1 << 12);
        assert_eq!((of("CapAmb"), of("CapInh"), of("CapEff")), (bind, bind, bind), "{handler}");
        assert_eq!(of("CapBnd"), bind | admin, "{handler}");
        pod.remove();
    }
    node.leaves_nothing();
}

#[test]
fn a_user_who_cannot_be_is_refused_and_leaves_nothing() {
    let node = node();
    node.pull(&node.busybox());
    let pod = node.pod("refused").run();
    let refused = |change: fn(&mut v1::LinuxContainerSecurityContext), part: &str, why: &str| {
        let status = pod.container("refused").idle().security(change).try_create().unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(part) && status.message().contains(why), "{part}: {status}");
    };
    refused(|s| s.run_as_group = int(7), "run_as_group", "without run_as_user");
    refused(|s| s.run_as_username = "nobody".into(), "run_as_username", "not in the image's /etc/passwd");
    refused(|s| s.supplemental_groups_policy = 9, "supplemental_groups_policy", "9");
    refused(
        |s| {
            let label = v1::SeLinuxOption { r#type: "web_t".into(), ..Default::default() };
            s.selinux_options = Some(label);
        },
        "security_context.selinux_options",
        "SELinux is not enabled on this node",
    );
    refused(
        |s| {
            let profile_type = v1::security_profile::ProfileType::Localhost.into();
            s.apparmor = Some(v1::SecurityProfile { profile_type, localhost_ref: "localhost/web".into() });
        },
        "security_context.apparmor",
        "AppArmor is not enabled on this node",
    );
    assert!(node.containers().is_empty());
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn the_target_of_a_pid_namespace_must_run_in_the_same_pod() {
    let node = node();
    let (pod, other) = (node.pod("one").run(), node.pod("other").run());
    let target = pod.container("target").idle().start();
    fn at<'n>(builder: ContainerBuilder<'n>, target: &str) -> ContainerBuilder<'n> {
        builder.idle().security(|security| {
            let options = security.namespace_options.get_or_insert_default();
            options.pid = v1::NamespaceMode::Target.into();
            options.target_id = target.into();
        })
    }
    let foreign = at(other.container("debug"), &target.id).try_create().unwrap_err();
    assert_eq!(foreign.code(), Code::InvalidArgument, "{foreign}");
    assert!(foreign.message().contains("target_id"), "{foreign}");
    let unknown = at(pod.container("debug"), &"9".repeat(64)).try_create().unwrap_err();
    assert!(unknown.message().contains("target_id"), "{unknown}");
    let late = at(pod.container("late"), &target.id).create();
    let debug = at(pod.container("debug"), &target.id).start();
    assert!(debug.sh("ps").contains("trap 'exit 0' TERM"));
    target.stop(0);
    let refused = late.try_start().unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("share the PID namespace of"), "{refused}");
    let ended = at(pod.container("again"), &target.id).try_create().unwrap_err();
    assert_eq!(ended.code(), Code::FailedPrecondition, "{ended}");
    pod.remove();
    other.remove();
    node.leaves_nothing();
}
