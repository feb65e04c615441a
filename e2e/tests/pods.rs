//! Pods: what they share, what they are told, how they are reached.
#![allow(clippy::unwrap_used)]

use api::v1::{DnsConfig, NamespaceMode, PodSandboxState, PortMapping};
use e2e::{Node, eventually};
use std::time::Duration;

#[test]
fn two_containers_of_a_pod_talk_over_localhost_and_another_pod_by_its_address() {
    let node = Node::start();
    let web = node.pod("web").run();
    let server = web.container("server").command(&["httpd", "-f", "-p", "8080", "-h", "/www"]).start();
    let neighbour = web.container("neighbour").idle().start();
    eventually("the server listens", Duration::from_secs(10), || {
        let got =
            neighbour.try_exec(&["wget", "-qO-", "http://127.0.0.1:8080/"], 10).map_err(|e| e.to_string())?;
        if got.stdout == b"hello from busybox\n" { Ok(()) } else { Err(format!("{got:?}")) }
    });

    let other = node.pod("other").run();
    let client = other.container("client").idle().start();
    assert_ne!(web.ip(), other.ip());
    let got = client.sh(&format!("wget -qO- http://{}:8080/", web.ip()));
    assert_eq!(got, "hello from busybox\n");
    assert!(server.is_running());
    assert_eq!(client.sh("cat /sys/class/net/lo/operstate; ip -o addr show eth0 | wc -l").lines().count(), 2);

    web.remove();
    other.remove();
    node.leaves_nothing();
}

#[test]
fn a_pod_on_the_hosts_network_has_its_devices_and_no_address_of_its_own() {
    let node = Node::start();
    // As a kubelet sends it: a pod on the host's network has no hostname of its own.
    let pod = node.pod("host").namespaces(|of| of.network = NamespaceMode::Node.into());
    let pod = pod.with(|config| config.hostname.clear()).run();
    assert_eq!(pod.ip(), "", "an address of the host's network is the kubelet's to know");
    let seen = pod.container("look").idle().start();
    let inside = seen.sh("ip -o link show | wc -l");
    let outside = node.machine.sh("ip -o link show | wc -l");
    assert_eq!(inside, outside);
    let options = pod.status().linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(options.network(), NamespaceMode::Node);
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn the_pid_mode_decides_what_a_container_sees() {
    let node = Node::start();
    let names = |container: &e2e::Container<'_>| container.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '");

    let own = node.pod("own").namespaces(|of| of.pid = NamespaceMode::Container.into()).run();
    own.container("a").command(&["sleep", "1111"]).start();
    let b = own.container("b").command(&["sleep", "2222"]).start();
    // A container that was started may be the runtime's program for a moment still.
    let shows = |container: &e2e::Container<'_>, word: &str| {
        eventually("its program runs", Duration::from_secs(10), || {
            let names = names(container);
            if names.contains(word) { Ok(()) } else { Err(names) }
        });
    };
    shows(&b, "2222");
    assert!(b.sh("cat /proc/1/cmdline").contains("2222"));
    assert!(!names(&b).contains("1111"));

    let shared = node.pod("shared").namespaces(|of| of.pid = NamespaceMode::Pod.into()).run();
    let first = shared.container("a").command(&["sleep", "1111"]).start();
    let second = shared.container("b").command(&["sleep", "2222"]).start();
    shows(&second, "1111");
    shows(&first, "2222");
    assert!(!second.sh("cat /proc/1/cmdline").contains("2222"), "the pod's own pid 1 is there before");
    // Orphans of a shared namespace have a parent that reaps them.
    second.sh("(sleep 0.1 &)");
    eventually("an orphan is reaped", Duration::from_secs(5), || {
        let zombies = second.sh("grep -l 'State:.*Z' /proc/[0-9]*/status || true");
        if zombies.is_empty() { Ok(()) } else { Err(zombies) }
    });

    let target = own.container("target").command(&["sleep", "3333"]).start();
    let debugger = own.container("debugger").idle().security(|context| {
        let options = context.namespace_options.get_or_insert_default();
        options.pid = NamespaceMode::Target.into();
        options.target_id = target.id.clone();
    });
    let debugger = debugger.start();
    shows(&debugger, "3333");
    assert!(!names(&debugger).contains("1111"));

    let host = node.pod("host-pid").namespaces(|of| of.pid = NamespaceMode::Node.into()).run();
    let seer = host.container("a").idle().start();
    assert!(names(&seer).contains("docker-registry"));

    for pod in [own, shared, host] {
        pod.remove();
    }
    node.leaves_nothing();
}

#[test]
fn a_pod_has_its_hostname_dns_sysctls_and_shared_memory() {
    let node = Node::start();
    let pod = node.pod("facts").with(|config| {
        config.hostname = "the-name".into();
        config.dns_config = Some(DnsConfig {
            servers: vec!["10.0.0.53".into(), "10.0.0.54".into()],
            searches: vec!["default.svc.cluster.local".into(), "cluster.local".into()],
            options: vec!["ndots:5".into()],
        });
        let sysctls = &mut config.linux.get_or_insert_default().sysctls;
        sysctls.insert("net.core.somaxconn".into(), "777".into());
        sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    });
    let pod = pod.run();
    let one = pod.container("one").idle().start();
    let two = pod.container("two").idle().start();

    assert_eq!(one.sh("hostname; cat /etc/hostname; echo $HOSTNAME"), "the-name\nthe-name\nthe-name\n");
    assert_eq!(
        one.sh("cat /etc/resolv.conf"),
        "search default.svc.cluster.local cluster.local\nnameserver 10.0.0.53\nnameserver 10.0.0.54\noptions ndots:5\n"
    );
    assert_eq!(one.sh("cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shm_rmid_forced"), "777\n1\n");
    one.sh("echo shared > /dev/shm/note");
    assert_eq!(two.sh("cat /dev/shm/note"), "shared\n");
    let kilobytes = two.sh("df -k /dev/shm | tail -n 1 | awk '{print $2}'");
    assert_eq!(kilobytes.trim(), "65536");
    let ipc = |container: &e2e::Container<'_>| {
        container.sh("readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts")
    };
    assert_eq!(ipc(&one), ipc(&two));
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_port_of_the_host_leads_to_the_pod() {
    let node = Node::start();
    let pod = node.pod("mapped").with(|config| {
        config.port_mappings = vec![
            PortMapping { container_port: 8080, host_port: 18080, ..Default::default() },
            PortMapping { container_port: 8081, host_port: 0, ..Default::default() },
        ];
    });
    let pod = pod.run();
    pod.container("server").command(&["httpd", "-f", "-p", "8080", "-h", "/www"]).start();
    let gateway = format!("{}.1:18080", node.machine.subnet()).parse().unwrap();
    eventually("the port answers", Duration::from_secs(10), || {
        let answer = node.machine.on_its_network(|| e2e::http::request(gateway, "GET", "/", "", b""));
        let body = answer.map_err(|error| error.to_string())?.body;
        if body == b"hello from busybox\n" { Ok(()) } else { Err(format!("{body:?}")) }
    });
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn labels_and_annotations_come_back_byte_for_byte() {
    let node = Node::start();
    let odd = "ünï\u{202e}códe \"quotes\" {json:[1]} \n tab\t end ";
    let pod = node.pod("labelled").with(|config| {
        config.labels.insert("odd/label".into(), odd.into());
        config.annotations.insert("odd.io/annotation".into(), odd.repeat(100));
    });
    let pod = pod.run();
    let container = pod.container("c").with(|config| {
        config.labels.insert("c".into(), odd.into());
        config.annotations.insert("d".into(), odd.into());
    });
    let container = container.idle().start();

    let status = pod.status();
    assert_eq!(status.labels, pod.config.labels);
    assert_eq!(status.annotations, pod.config.annotations);
    let listed = node.pods();
    assert_eq!((&listed[0].labels, &listed[0].annotations), (&pod.config.labels, &pod.config.annotations));
    let listed = node.containers();
    let status = container.status();
    assert_eq!(status.labels["c"], odd);
    assert_eq!((&listed[0].labels, &listed[0].annotations), (&status.labels, &status.annotations));
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn stopping_is_idempotent_and_a_stopped_pod_takes_no_container() {
    let node = Node::start();
    let pod = node.pod("short").run();
    let container = pod.container("c").idle().start();
    pod.stop();
    pod.stop();
    assert_eq!(pod.status().state(), PodSandboxState::SandboxNotready);
    assert_eq!(container.exit().exit_code, 137, "a pod that stops kills its containers");
    let refused = pod.container("late").idle().try_create().expect_err("no container in a stopped pod");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    pod.remove();
    pod.remove();
    let gone = pod.try_status().expect_err("it is gone");
    assert_eq!(gone.code(), tonic::Code::NotFound);
    node.leaves_nothing();
}

#[test]
fn what_makes_no_sense_is_refused_with_the_fields_name_before_anything_happens() {
    let node = Node::start();
    let refused = |change: fn(&mut api::v1::PodSandboxConfig), word: &str| {
        let status = node.pod("bad").with(change).try_run().expect_err(word);
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
        assert!(status.message().contains(word), "{word:?} is not in {:?}", status.message());
    };
    refused(|config| config.metadata = None, "metadata");
    refused(|config| config.metadata.as_mut().unwrap().name.clear(), "name");
    refused(|config| config.metadata.as_mut().unwrap().uid.clear(), "uid");
    refused(
        |config| drop(config.linux.as_mut().unwrap().sysctls.insert("vm.swappiness".into(), "1".into())),
        "vm.swappiness",
    );
    let status = node.pod("bad").handler("no-such-handler").try_run().expect_err("an unknown handler");
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    assert!(status.message().contains("no-such-handler"), "{status}");
    assert!(node.pods().is_empty());
    node.leaves_nothing();
}
