//! Status: the runtime is ready when what a pod takes was tried and worked, and says which part did not; the network as
//! the CNI plugins say.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use api::v1;
use e2e::programs::Programs;
use e2e::{Node, eventually};

/// The service looks again within this time.
const SEEN: Duration = Duration::from_secs(25);

fn condition(node: &Node, kind: &str) -> v1::RuntimeCondition {
    let status = node.cri().status(Default::default()).expect("Status").status.expect("a status");
    status.conditions.into_iter().find(|condition| condition.r#type == kind).expect("a condition")
}

#[track_caller]
fn becomes(node: &Node, failing: &[&str]) -> v1::RuntimeCondition {
    eventually(&format!("what fails is {failing:?}"), SEEN, || {
        let now = condition(node, "RuntimeReady");
        let all = ["StoreNotWritable", "ShimDoesNotStart", "CgroupCannotBeMade", "DiskReserveUsedUp"];
        let named: Vec<&str> =
            all.into_iter().filter(|part| now.message.contains(&format!("{part}: "))).collect();
        let right = named == failing && now.status == failing.is_empty();
        let reason = failing.first().copied().unwrap_or_default();
        if right && now.reason == reason { Ok(now) } else { Err(format!("{now:?}")) }
    })
}

/// Each part of what a pod takes is broken and mended for real, one by one and two at once.
#[test]
fn the_runtime_is_ready_when_store_shim_cgroups_and_disk_are() {
    let builder = Node::builder_with(|| {
        let dev = Programs::dev();
        let shim = std::env::temp_dir().join(format!("gantline-shim-of-{}", std::process::id()));
        fs::copy(&dev.shim, &shim).unwrap();
        Programs { shim, ..dev }
    });
    let shim = std::env::temp_dir().join(format!("gantline-shim-of-{}", std::process::id()));
    let away = shim.with_extension("away");
    let node = builder
        .with(|config, machine| {
            let state = config.state.display();
            machine.sh(&format!("mkdir -p {state} && mount -t tmpfs -o size=24m tmpfs {state}"));
        })
        .start();
    becomes(&node, &[]);

    let (full, state) = (node.config.state.join("full"), node.machine.path(&node.config.state));
    node.machine.sh(&format!("dd if=/dev/zero of={} bs=1M count=12 2>/dev/null", full.display()));
    let condition = becomes(&node, &["DiskReserveUsedUp"]);
    assert!(condition.message.contains("/run/gantline has "), "{condition:?}");
    fs::rename(&shim, &away).unwrap();
    let condition = becomes(&node, &["ShimDoesNotStart", "DiskReserveUsedUp"]);
    assert!(condition.message.contains(&shim.display().to_string()), "{condition:?}");
    fs::remove_file(state.join("full")).unwrap();
    becomes(&node, &["ShimDoesNotStart"]);
    fs::rename(&away, &shim).unwrap();
    becomes(&node, &[]);

    let store = node.config.root.join("pod.redb");
    node.machine.sh(&format!("chattr +i {}", store.display()));
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let condition = becomes(&node, &["StoreNotWritable"]);
        assert!(condition.message.contains("pod.redb"), "{condition:?}");
        node.pod("unwritten").try_run().expect_err("nothing may be made that is not written down")
    }));
    node.machine.sh(&format!("chattr -i {}", store.display()));
    let refused = refused.unwrap();
    assert!(refused.message().contains("pod.redb"), "{refused}");
    becomes(&node, &[]);

    let group = if e2e::unified() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/pids" };
    node.machine.sh(&format!("mount -o remount,bind,ro {group}"));
    let condition = becomes(&node, &["CgroupCannotBeMade"]);
    assert!(condition.message.contains("gantline-probe"), "{condition:?}");
    node.machine.sh(&format!("mount -o remount,bind,rw {group}"));
    becomes(&node, &[]);

    let verbose = node.cri().status(v1::StatusRequest { verbose: true }).unwrap().info;
    for key in ["config", "build", "cniconfig", "lastCNILoadStatus", "handlers", "recovery", "probe"] {
        assert!(verbose.contains_key(key), "{key} is not in {:?}", verbose.keys());
    }
    let probe: serde_json::Value = serde_json::from_str(&verbose["probe"]).unwrap();
    assert!(probe["at"].as_i64().unwrap() > 0 && probe["ageSeconds"].as_f64().unwrap() < 25.0, "{probe}");
    let pod = node.pod("after-all").run();
    pod.container("c").idle().start();
    pod.remove();
    node.leaves_nothing();
    let _ = fs::remove_file(&shim);
}

/// CNI 1.1 plugins say themselves whether they can serve: theirs is the word.
#[test]
fn the_network_is_ready_when_its_plugins_say_so() {
    let node = Node::builder()
        .with(|config, machine| {
            let dir = machine.dir().join("plugins");
            fs::create_dir_all(&dir).unwrap();
            let sick = machine.dir().join("sick");
            let plugin = format!(
                "cat >/dev/null\ncase $CNI_COMMAND in\n\
                 VERSION) echo '{{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"1.0.0\",\"1.1.0\"]}}';;\n\
                 STATUS) [ ! -e {} ] || {{ echo '{{\"cniVersion\":\"1.1.0\",\"code\":50,\"msg\":\"the tunnel is down\"}}'; \
                 exit 1; }};;\nesac\n",
                sick.display()
            );
            e2e::plugin::script(&dir, "moody", &plugin);
            config.cni_bins.insert(0, dir);
        })
        .start();
    let conflist = serde_json::json!(
        {"cniVersion": "1.1.0", "name": "moody", "plugins": [{"type": "moody"}]});
    node.config.write_network(&conflist);
    let becomes = |ready: bool, words: &str| {
        eventually("the plugin's word is heard", SEEN, || {
            let now = condition(&node, "NetworkReady");
            if now.status == ready && now.message.contains(words) { Ok(()) } else { Err(format!("{now:?}")) }
        });
    };
    becomes(true, "");
    fs::write(node.machine.dir().join("sick"), "").unwrap();
    becomes(false, "the tunnel is down");
    assert_eq!(condition(&node, "NetworkReady").reason, "NetworkPluginNotReady");
    assert!(condition(&node, "RuntimeReady").status, "the one is not the other");
    fs::remove_file(node.machine.dir().join("sick")).unwrap();
    becomes(true, "");
}

#[test]
fn the_kubelets_pod_cidr_makes_the_network_from_its_template() {
    let node = Node::builder()
        .with(|config, machine| {
            let template = machine.dir().join("network.template");
            let text = r#"{"cniVersion": "1.0.0", "name": "from-template", "plugins": [{"type": "bridge", "bridge": "t0",
                "ipam": {"type": "host-local", "subnet": "{{.PodCIDR}}"}}]}"#;
            fs::write(&template, text).unwrap();
            config.network = format!("conf_template = {template:?}\n");
        })
        .start();
    fs::remove_file(node.config.cni_conf.join("10-e2e.conflist")).unwrap();
    eventually("there is no network", SEEN, || match condition(&node, "NetworkReady") {
        now if now.status => Err(format!("{now:?}")),
        _ => Ok(()),
    });
    let update = |cidr: &str| {
        let network_config = Some(v1::NetworkConfig { pod_cidr: cidr.into() });
        let runtime_config = Some(v1::RuntimeConfig { network_config });
        node.cri().update_runtime_config(v1::UpdateRuntimeConfigRequest { runtime_config })
    };
    let refused = update("10.99.0.0/24,nonsense").expect_err("not a CIDR");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let field = "runtime_config.network_config.pod_cidr: ";
    assert!(refused.message().starts_with(field), "{refused}");
    update("").unwrap();
    assert_eq!(e2e::leftovers::entries(&node.config.cni_conf, &[]), Vec::<String>::new());
    update("10.99.0.0/24").unwrap();
    eventually("there is a network", SEEN, || match condition(&node, "NetworkReady") {
        now if now.status => Ok(()),
        now => Err(format!("{now:?}")),
    });
    let written = e2e::leftovers::entries(&node.config.cni_conf, &[]);
    assert_eq!(written.len(), 1, "{written:?}");
    let text = fs::read_to_string(&written[0])
        .unwrap_or_else(|_| fs::read_to_string(node.config.cni_conf.join(&written[0])).unwrap());
    assert!(text.contains("10.99.0.0/24") && text.contains("from-template"), "{text}");
    // With a network there already, another CIDR changes nothing.
    update("10.98.0.0/24").unwrap();
    assert_eq!(e2e::leftovers::entries(&node.config.cni_conf, &[]), written);
}
