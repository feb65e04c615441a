//! The reference plugins (Debian's containernetworking-plugins, or those in `$GANTLINE_CNI_BIN`), for real.
//!
//! Each test has a "host" of its own: a network namespace in which its runtime, and so every plugin, runs. Its
//! bridge, its iptables chains and its veths go with it, whatever happens.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests fail by panicking and say what they skip"
)]

mod common;

use std::fs;
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{Node, is_root};
use model::{PortMapping, Protocol};
use network::{Cni, NetworkStatus, PodNetwork as _};

fn bin_dir() -> PathBuf {
    std::env::var_os("GANTLINE_CNI_BIN").map_or_else(|| "/usr/lib/cni".into(), PathBuf::from)
}

fn usable() -> bool {
    let missing = ["bridge", "host-local", "portmap"].into_iter().find(|p| !bin_dir().join(p).is_file());
    if let Some(missing) = missing {
        common::skip(&format!(
            "no {missing} in {}; install containernetworking-plugins",
            bin_dir().display()
        ));
    }
    missing.is_none() && is_root()
}

/// Runs a test in a network namespace that stands for the host's.
fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Node) -> F + Send) {
    struct Host(tempfile::TempDir);
    impl Drop for Host {
        fn drop(&mut self) {
            let _ = network::netns::remove(&self.0.path().join("host"));
        }
    }
    if !usable() {
        return;
    }
    let host = Host(tempfile::tempdir().unwrap());
    let path = host.0.path().join("host");
    network::netns::create(&path).unwrap();
    let namespace = fs::File::open(&path).unwrap();
    kernel::namespace::run_in(namespace.as_fd(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(Node::new()));
    })
    .unwrap();
}

fn configure(node: &Node, version: &str) {
    let leases = node.path("ipam").display().to_string();
    let list = format!(
        r#"{{"cniVersion":"{version}","name":"real","plugins":[
            {{"type":"loopback"}},
            {{"type":"bridge","bridge":"gtl0","isGateway":true,"ipMasq":true,"hairpinMode":true,
              "ipam":{{"type":"host-local","dataDir":"{leases}",
                       "ranges":[[{{"subnet":"10.89.7.0/24"}}],[{{"subnet":"fd00:89:7::/64"}}]],
                       "routes":[{{"dst":"0.0.0.0/0"}},{{"dst":"::/0"}}]}}}},
            {{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}"#
    );
    // v1.9.1 has no loopback of its own in $GANTLINE_CNI_BIN unless it was built; the chain works without.
    let list =
        if bin_dir().join("loopback").is_file() { list } else { list.replace(r#"{"type":"loopback"},"#, "") };
    node.configure_with("10-real.conflist", &list);
}

async fn open(node: &Node) -> Cni {
    let mut config = node.config();
    config.bin_dirs = vec![bin_dir()];
    let cni = node.open_with(config).await;
    common::until(&cni, |s| *s == NetworkStatus::Ready).await;
    cni
}

/// Addresses that host-local has reserved.
fn reserved(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(node.path("ipam/real")).into_iter().flatten();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut ips: Vec<_> = names.filter(|name| name.parse::<IpAddr>().is_ok()).collect();
    ips.sort();
    ips
}

fn interfaces(netns: &str) -> Vec<String> {
    network::interface_stats(&[netns.as_ref()])
        .unwrap()
        .remove(0)
        .unwrap()
        .into_iter()
        .map(|i| i.name)
        .collect()
}

fn veths() -> Vec<String> {
    let mut names = interfaces("/proc/thread-self/ns/net");
    names.retain(|name| name.starts_with("veth"));
    names
}

fn rules(table: &str) -> String {
    let output =
        kernel::process::command("/usr/sbin/iptables").args(["-w", "-t", table, "-S"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Answers one connection to `port` in the pod's namespace with a word.
fn serve_once(netns: &std::path::Path, port: u16) {
    let namespace = fs::File::open(netns).unwrap();
    let listener =
        kernel::namespace::run_in(namespace.as_fd(), || TcpListener::bind(("::", port)).unwrap()).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // Whoever has the answer may listen there next.
        drop(listener);
        let _ = stream.write_all(b"pong");
    });
}

fn fetch(address: SocketAddr) -> String {
    let begun = Instant::now();
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(3)) {
            Ok(mut stream) => {
                let mut word = String::new();
                stream.read_to_string(&mut word).unwrap();
                return word;
            }
            // A fresh IPv6 address or neighbour entry may need a moment.
            Err(e) => assert!(begun.elapsed() < Duration::from_secs(10), "{address}: {e}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn pods_have_addresses_reach_each_other_and_leave_nothing() {
    on_a_host(|node| async move {
        configure(&node, "1.0.0");
        let cni = open(&node).await;
        let (mut a, b) = (node.pod(1), node.pod(2));
        a.request.port_mappings = vec![PortMapping {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_port: 18080,
            host_ip: None,
        }];
        let at = cni.attach(&a.request).await.unwrap();
        let bt = cni.attach(&b.request).await.unwrap();
        assert_eq!(at.ips.len(), 2, "{:?}", at.result);
        assert!(at.ips[0].is_ipv4() && at.ips[1].is_ipv6() && bt.ips[0] != at.ips[0]);
        assert_eq!(reserved(&node).len(), 4);
        let mut inside = interfaces(a.request.netns.to_str().unwrap());
        inside.retain(|name| name == "eth0" || name == "lo");
        inside.sort();
        assert_eq!(inside, ["eth0", "lo"]);
        // Not pod a: portmap's CHECK (1.1.1) looks for the IPv4 rules of a dual-stack pod in ip6tables.
        cni.check(&b.request.pod).await.unwrap();

        for ip in &at.ips {
            serve_once(&a.request.netns, 80);
            let namespace = fs::File::open(&b.request.netns).unwrap();
            let word = kernel::namespace::run_in(namespace.as_fd(), || fetch((*ip, 80).into())).unwrap();
            assert_eq!(word, "pong", "pod b to pod a at {ip}");
        }
        serve_once(&a.request.netns, 80);
        assert_eq!(fetch("10.89.7.1:18080".parse().unwrap()), "pong", "the host's port to pod a");
        let counters = network::interface_stats(&[&a.request.netns]).unwrap().remove(0).unwrap();
        assert!(counters.iter().any(|i| i.name == "eth0" && i.rx_bytes > 0 && i.tx_bytes > 0));

        cni.detach(&a.request.pod).await.unwrap();
        cni.detach(&b.request.pod).await.unwrap();
        assert_eq!((reserved(&node), veths(), node.cached()), (vec![], vec![], 0));
        let nat = rules("nat");
        assert!(!nat.contains(&node.id(1).as_str()[..20]) && !nat.contains("10.89.7."), "{nat}");
    });
}

#[test]
fn what_was_attached_is_freed_after_its_namespace_configuration_and_service_are_gone() {
    on_a_host(|node| async move {
        configure(&node, "1.0.0");
        let (live, dead) = (node.pod(1), node.pod(2));
        {
            let cni = open(&node).await;
            cni.attach(&live.request).await.unwrap();
            cni.attach(&dead.request).await.unwrap();
        }
        drop(dead);
        fs::remove_file(node.path("conf/10-real.conflist")).unwrap();
        let mut config = node.config();
        config.bin_dirs = vec![bin_dir()];
        let cni = node.open_with(config).await;
        cni.collect(&[node.id(1)]).await;
        assert_eq!(reserved(&node).len(), 2, "the live pod keeps its addresses");
        cni.collect(&[]).await;
        // Its masquerading rules stay: without a namespace the bridge plugin frees the addresses alone.
        assert_eq!(reserved(&node), Vec::<String>::new());
    });
}

#[test]
fn a_chain_that_fails_at_its_end_leaves_nothing_of_its_beginning() {
    on_a_host(|node| async move {
        configure(&node, "1.0.0");
        let text = fs::read_to_string(node.path("conf/10-real.conflist")).unwrap();
        node.configure_with("10-real.conflist", &text.replace("\"portmap\"", "\"alpha\""));
        node.fault("ADD", "alpha", "fail");
        let mut config = node.config();
        config.bin_dirs = vec![bin_dir(), node.path("bin")];
        let cni = node.open_with(config).await;
        let pod = node.pod(1);
        for _ in 0..3 {
            cni.attach(&pod.request).await.unwrap_err();
            assert_eq!((reserved(&node), veths()), (vec![], vec![]));
        }
        // Killed at any moment of an attachment, then collected.
        node.heal();
        let mut cni = cni;
        for moment in [5, 20, 40, 60, 80, 120] {
            let _ = tokio::time::timeout(Duration::from_millis(moment), cni.attach(&pod.request)).await;
            drop(cni);
            let mut config = node.config();
            config.bin_dirs = vec![bin_dir(), node.path("bin")];
            cni = node.open_with(config).await;
            cni.collect(&[]).await;
            assert_eq!((reserved(&node), veths()), (vec![], vec![]), "killed after {moment} ms");
            assert!(!rules("nat").contains("10.89.7."), "killed after {moment} ms: {}", rules("nat"));
        }
    });
}

#[test]
fn plugins_of_1_1_are_asked_for_status_and_gc() {
    on_a_host(|node| async move {
        configure(&node, "1.1.0");
        let mut config = node.config();
        config.bin_dirs = vec![bin_dir()];
        let cni = node.open_with(config).await;
        let pod = node.pod(1);
        if let Err(e) = cni.attach(&pod.request).await {
            assert!(model::chain(&e).contains("but the configuration is 1.1.0"), "{}", model::chain(&e));
            let why = format!("the plugins in {} are older than CNI 1.1.0", bin_dir().display());
            // Debian's are; whoever names others means these to be tested.
            match std::env::var_os("GANTLINE_CNI_BIN") {
                Some(_) => common::skip(&why),
                None => println!("skipped: {why}"),
            }
            return;
        }
        common::until(&cni, |s| *s == NetworkStatus::Ready).await;
        // The reference bridge answers GC and frees nothing by it yet (v1.9.1); it must not free what is valid.
        cni.collect(&[node.id(1)]).await;
        assert_eq!(reserved(&node).len(), 2, "{:?}", reserved(&node));
        cni.detach(&pod.request.pod).await.unwrap();
        assert_eq!(reserved(&node), Vec::<String>::new());
    });
}
