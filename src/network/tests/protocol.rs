//! What plugins are called with, in which order, and what is made of their answers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests fail by panicking and say what they skip"
)]

mod common;

use std::fs;

use common::{Node, is_root, message, until};
use model::{Classify as _, DnsConfig, ErrorKind, PortMapping, Protocol};
use network::{NetworkStatus, PodNetwork as _};
use serde_json::{Value, json};

#[tokio::test]
async fn plugins_are_called_as_the_specification_says() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.configure("1.0.0");
    let cni = node.open().await;
    assert_eq!(cni.status(), NetworkStatus::Ready);
    let mut pod = node.pod(0xab);
    pod.request.port_mappings =
        vec![PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port: 8080, host_ip: None }];
    pod.request.dns = Some(DnsConfig { servers: vec!["10.0.0.10".to_owned()], ..DnsConfig::default() });

    let attached = cni.attach(&pod.request).await.unwrap();
    assert_eq!(attached.ips, ["10.88.0.7".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(attached.interface, "eth0");
    let netns = pod.request.netns.display().to_string();
    let path = format!("{}:{}", node.path("nowhere").display(), node.path("bin").display());
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-171;K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=uid",
        node.id(0xab)
    );
    let line = |plugin: &str, command: &str, netns: &str| {
        format!("{plugin} {command} netns={netns} if=eth0 args={args} path={path}")
    };
    assert_eq!(node.take_call_lines(), [line("alpha", "ADD", &netns), line("omega", "ADD", &netns)]);
    let result = |by: &str| {
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "eth0", "sandbox": netns}],
            "ips": [{"address": "10.88.0.7/16", "gateway": "10.88.0.1", "interface": 0}],
            "dns": {}, "by": by,
        })
    };
    let mappings = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]);
    let alpha = json!({
        "type": "alpha", "name": "net", "cniVersion": "1.0.0", "runtimeConfig": {"portMappings": mappings},
    });
    let omega = json!({
        "type": "omega", "name": "net", "cniVersion": "1.0.0",
        "runtimeConfig": {"dns": {"servers": ["10.0.0.10"], "searches": [], "options": []}},
    });
    let with = |mut config: Value, by: &str| {
        config["prevResult"] = result(by);
        config
    };
    assert_eq!(node.stdin("ADD", "alpha"), alpha);
    assert_eq!(node.stdin("ADD", "omega"), with(omega.clone(), "alpha"));
    assert_eq!(attached.result, result("omega"));

    cni.check(&pod.request.pod).await.unwrap();
    assert_eq!(node.take_calls(), ["alpha CHECK", "omega CHECK"]);
    assert_eq!(node.stdin("CHECK", "alpha"), with(alpha.clone(), "omega"));

    let cached = node.path("cache/results").join(format!("net-{}-eth0", node.id(0xab)));
    let cached: Value = serde_json::from_slice(&fs::read(cached).unwrap()).unwrap();
    assert_eq!((&cached["kind"], &cached["result"]), (&json!("cniCacheV1"), &result("omega")));

    cni.detach(&pod.request.pod).await.unwrap();
    assert_eq!(node.take_call_lines(), [line("omega", "DEL", &netns), line("alpha", "DEL", &netns)]);
    assert_eq!(node.stdin("DEL", "alpha"), with(alpha, "omega"));
    assert_eq!((node.leases().len(), node.cached()), (0, 0));

    cni.detach(&pod.request.pod).await.unwrap();
    assert_eq!(node.take_calls(), Vec::<String>::new());
    assert_eq!(cni.check(&pod.request.pod).await.unwrap_err().kind(), ErrorKind::WrongState);
}

#[tokio::test]
async fn versions_decide_what_is_called_and_with_what() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let pod = node.pod(1);
    for (version, extra, check, del_has_result) in [
        ("0.3.1", "", vec![], false),
        ("0.4.0", "", vec!["alpha CHECK", "omega CHECK"], true),
        ("1.0.0", r#""disableCheck":true,"#, vec![], true),
    ] {
        let list = format!(
            r#"{{"cniVersion":"{version}",{extra}"name":"net","plugins":[{{"type":"alpha"}},{{"type":"omega"}}]}}"#
        );
        node.configure_with("10-net.conflist", &list);
        let cni = node.open().await;
        let attached = cni.attach(&pod.request).await.unwrap();
        assert_eq!(attached.result["cniVersion"], version);
        assert_eq!(attached.result["ips"][0].get("version").is_some(), version < "1.0.0", "{version}");
        node.take_calls();
        cni.check(&pod.request.pod).await.unwrap();
        assert_eq!(node.take_calls(), check, "{version}");
        cni.detach(&pod.request.pod).await.unwrap();
        assert_eq!(node.stdin("DEL", "omega").get("prevResult").is_some(), del_has_result, "{version}");
        node.take_calls();
    }
}

#[tokio::test]
async fn the_newest_version_that_all_plugins_know_is_used() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let pod = node.pod(1);
    let knows = |versions: &str| {
        let answer = format!(r#"{{"cniVersion":"1.0.0","supportedVersions":{versions}}}"#);
        fs::write(node.path("versions.omega"), answer).unwrap();
        // Its knowledge is kept for as long as the binary is the same.
        fs::remove_file(node.path("bin/omega")).unwrap();
        node.install("omega");
    };
    let list = r#"{"cniVersion":"0.3.1","cniVersions":["0.4.0","1.0.0","1.1.0"],"name":"net",
        "plugins":[{"type":"alpha"},{"type":"omega"}]}"#;
    node.configure_with("10-net.conflist", list);
    let cni = node.open().await;
    for (known, used) in [(r#"["0.4.0","1.0.0"]"#, "1.0.0"), (r#"["0.3.1"]"#, "0.3.1"), ("[]", "1.1.0")] {
        knows(known);
        cni.attach(&pod.request).await.unwrap();
        let sent = node.stdin("ADD", "omega");
        assert_eq!((&sent["cniVersion"], &sent["prevResult"]["cniVersion"]), (&json!(used), &json!(used)));
    }
    cni.detach(&pod.request.pod).await.unwrap();
    knows(r#"["0.2.0"]"#);
    let error = cni.attach(&pod.request).await.unwrap_err();
    let expected = format!(
        "CNI VERSION in network \"net\", plugin \"omega\": {} knows CNI 0.2.0 but the configuration is 1.1.0, 1.0.0, 0.4.0, 0.3.1",
        node.path("bin/omega").display()
    );
    assert_eq!(model::chain(&error), expected);
    assert_eq!(node.leases().len(), 0);
}

#[tokio::test]
async fn readiness_follows_the_configuration_and_the_plugins() {
    let node = Node::new();
    let cni = node.open().await;
    let conf = node.path("conf").display().to_string();
    assert_eq!(
        message(&cni.status()),
        format!(
            "Network plugin returns error: cni plugin not initialized: no network configuration in {conf}"
        )
    );
    node.configure_with("05-bad.conflist", "{");
    let bad = until(&cni, |s| message(s).contains("05-bad.conflist: parse: EOF")).await;
    assert!(matches!(bad, NetworkStatus::NotReady { reason: "NetworkPluginNotReady", .. }));
    node.configure("1.0.0");
    until(&cni, |s| *s == NetworkStatus::Ready).await;
    let told = cni.describe();
    assert_eq!(told["lastCNILoadStatus"], "OK");
    assert_eq!(told["cniconfig"]["Networks"][0]["Config"]["Name"], "net");
    assert!(told["cniconfig"]["BadFiles"][format!("{conf}/05-bad.conflist")].is_string());

    fs::remove_dir_all(node.path("conf")).unwrap();
    until(&cni, |s| message(s).contains("no network configuration")).await;
    fs::create_dir(node.path("conf")).unwrap();
    node.configure("1.0.0");
    until(&cni, |s| *s == NetworkStatus::Ready).await;

    fs::remove_file(node.path("bin/omega")).unwrap();
    // Plugins are looked at with each look at the configuration.
    node.configure("1.0.0");
    let expected = format!(
        "plugin \"omega\": no such plugin in {}, {}",
        node.path("nowhere").display(),
        node.path("bin").display()
    );
    until(&cni, |s| message(s).ends_with(&expected)).await;
    node.install("omega");
    until(&cni, |s| *s == NetworkStatus::Ready).await;
}

#[tokio::test]
async fn status_is_asked_from_1_1_on() {
    let node = Node::new();
    node.fault("STATUS", "omega", "unavailable");
    node.configure("1.1.0");
    let cni = node.open().await;
    until(&cni, |s| message(s).ends_with("plugin \"omega\": no tunnel yet (CNI code 50)")).await;
    assert_eq!(node.take_calls()[..2], ["alpha STATUS", "omega STATUS"]);
    let asked = node.stdin("STATUS", "omega");
    assert_eq!((&asked["name"], &asked["cniVersion"]), (&json!("net"), &json!("1.1.0")));
    node.heal();
    until(&cni, |s| *s == NetworkStatus::Ready).await;
}

#[tokio::test]
async fn gc_names_every_attachment_that_may_be_valid() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.configure("1.1.0");
    let cni = node.open().await;
    let (live, dead, later) = (node.pod(1), node.pod(2), node.pod(3));
    for pod in [&live, &dead, &later] {
        cni.attach(&pod.request).await.unwrap();
    }
    let foreign =
        r#"{"kind":"cniCacheV1","containerId":"theirs","config":"","ifName":"net1","networkName":"net"}"#;
    fs::write(node.path("cache/results/net-theirs-net1"), foreign).unwrap();
    drop(cni);
    let cni = node.open().await;
    until(&cni, |s| *s == NetworkStatus::Ready).await;
    node.take_calls();
    cni.collect(&[node.id(1), node.id(3), node.id(4)]).await;
    let calls = node.take_calls();
    assert_eq!(calls.iter().filter(|c| c.ends_with("DEL")).count(), 2, "{calls:?}");
    assert_eq!(calls.iter().filter(|c| c.ends_with("GC")).collect::<Vec<_>>(), ["alpha GC", "omega GC"]);
    let sent = node.stdin("GC", "alpha");
    let valid = json!([
        {"containerID": node.id(1), "ifname": "eth0"},
        {"containerID": node.id(3), "ifname": "eth0"},
        {"containerID": node.id(4), "ifname": "eth0"},
        {"containerID": "theirs", "ifname": "net1"},
    ]);
    assert_eq!((&sent["cni.dev/valid-attachments"], &sent["cni.dev/attachments"]), (&valid, &valid));
    assert_eq!(node.leases(), ["01.alpha", "01.omega", "03.alpha", "03.omega"]);

    let list = r#"{"cniVersion":"1.1.0","name":"net","disableGC":true,"plugins":[{"type":"alpha"}]}"#;
    node.configure_with("05-first.conflist", list);
    until(&cni, |_| cni.describe().to_string().contains("disableGC")).await;
    node.take_calls();
    cni.collect(&[node.id(1), node.id(3)]).await;
    assert!(!node.take_calls().iter().any(|c| c.ends_with("GC")));
}

#[tokio::test]
async fn the_template_becomes_a_configuration_only_where_there_is_none() {
    let node = Node::new();
    let cni = node.open().await;
    let written = node.path("conf/10-gantline-net.conflist");
    let template = r#"{"cniVersion":"1.0.0","name":"from-template","plugins":[{"type":"alpha","ipam":{"ranges":[
        {{range $i, $r := .PodCIDRRanges}}{{if $i}},{{end}}[{"subnet":"{{$r}}"}]{{end}}]}}]}"#;

    cni.reconfigure("").unwrap();
    assert_eq!(cni.reconfigure("10.1.0.0").unwrap_err().kind(), ErrorKind::Invalid);
    let missing = cni.reconfigure("10.1.0.0/24").unwrap_err();
    assert!(model::chain(&missing).starts_with("render CNI template"), "{missing}");
    fs::write(node.path("template"), "{{.PodCIDR}}").unwrap();
    let useless = cni.reconfigure("10.1.0.0/24").unwrap_err();
    assert!(model::chain(&useless).contains("parse"), "{}", model::chain(&useless));
    assert!(!common::exists(&written));

    fs::remove_dir(node.path("conf")).unwrap();
    fs::write(node.path("template"), template).unwrap();
    cni.reconfigure("10.1.0.0/24, fd00::/64").unwrap();
    let first = fs::read_to_string(&written).unwrap();
    assert!(first.contains(r#"[{"subnet":"10.1.0.0/24"}],[{"subnet":"fd00::/64"}]"#), "{first}");
    until(&cni, |s| *s == NetworkStatus::Ready).await;
    cni.reconfigure("10.2.0.0/24").unwrap();
    assert_eq!(fs::read_to_string(&written).unwrap(), first);

    let mut config = node.config();
    config.conf_template = None;
    drop(cni);
    fs::remove_file(&written).unwrap();
    let cni = node.open_with(config).await;
    cni.reconfigure("10.2.0.0/24").unwrap();
    assert!(!common::exists(&written));
}
