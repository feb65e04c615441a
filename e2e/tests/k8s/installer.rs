//! The chart's installer, by helm: it puts Gantline on a node, which runs and is scraped, and takes it off again. The node of
//! that is a directory: this machine's own Gantline stays as it is. `tests/installer.rs` has what its script does by itself.

use std::fs;
use std::path::PathBuf;

use e2e::cluster::room::{self, SOON};
use e2e::cluster::{Cluster, NODE, Room};
use e2e::command::{Running, Said, command, run};
use e2e::programs::Programs;
use e2e::{eventually, installer};
use serde_json::{Value, json};

use crate::helm::{chart, helm, helm_command};

tests![the_installer_puts_gantline_on_a_node_and_takes_it_off];

/// A release of the chart on the node, whose root is a directory.
struct Release<'c> {
    room: Room<'c>,
    root: PathBuf,
    values: Value,
}

impl<'c> Release<'c> {
    const NAME: &'static str = "gl";

    fn new(cluster: &'c Cluster) -> Self {
        let room = cluster.room("helm");
        let root = cluster.place.dir.join("noderoot");
        let programs = Programs::dev();
        installer::node_root(&root, &programs);
        let dir = &cluster.place.dir;
        let reference = cluster
            .node
            .push(&installer::image(&installer::programs(&programs, dir, "")), "gantline-installer:0.1.0");
        // The same but for the last bytes of the binary.
        cluster
            .node
            .push(&installer::image(&installer::programs(&programs, dir, "next")), "gantline-installer:next");
        let values = json!({
            "image": {"repository": reference.rsplit_once(':').unwrap().0},
            "runtimeClasses": [{"name": "helm-crun", "handler": "crun"}, {"name": "helm-runc", "handler": "runc"}],
            "installer": {"enabled": true, "hostRoot": root, "interval": 1, "removal": {"timeout": 15}},
            "metrics": {"enabled": true},
        });
        Self { room, root, values }
    }

    fn set(&mut self, pointer: &str, value: Value) {
        let (above, key) = pointer.rsplit_once('/').unwrap();
        self.values.pointer_mut(above).unwrap()[key] = value;
    }

    fn helm(&self, args: &[&str]) -> Said {
        let args = [&["--namespace", &self.room.name], args].concat();
        run(&mut helm_command(self.room.cluster, &args))
    }

    fn upgrade(&self) {
        let args = ["--namespace", &self.room.name, "upgrade", "--install", Self::NAME, &chart()];
        helm(self.room.cluster, &args, &self.values).ok();
    }

    /// Waits until the pods of one of the DaemonSets are of its newest template, as many as there are nodes for, and Ready.
    fn rolled_out(&self, set: &str) {
        self.room.rolled_out("DaemonSet", &format!("{}-gantline-{set}", Self::NAME));
    }

    /// Waits until a pod of a DaemonSet says by its probe why it is not Ready.
    fn complains(&self, component: &str, words: &str) {
        eventually(&format!("{component} says {words:?}"), SOON, || {
            let events = self.room.cluster.api.list("Event", &self.room.name, "").unwrap_or_default();
            let said: Vec<String> = events.iter().map(|event| event["message"].to_string()).collect();
            let pods = self.room.pods(&format!("app.kubernetes.io/component={component}"));
            let not_ready = pods.iter().any(|pod| !room::is_ready(pod));
            if not_ready && said.iter().any(|text| text.contains(words)) {
                Ok(())
            } else {
                Err(said.join("; "))
            }
        });
    }

    fn label(&self, label: &str) {
        self.room.cluster.kubectl(&["label", "node", NODE, "--overwrite", label]).ok();
    }

    fn file(&self, path: &str) -> Option<String> {
        fs::read(self.root.join(path)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// How often the node's systemd was told to start Gantline anew.
    fn restarts(&self) -> usize {
        let told = self.file("systemctl.log").unwrap_or_default();
        told.lines().filter(|line| *line == "restart gantline.service").count()
    }

    /// Files below the directories of the node that an installer touches.
    fn files(&self) -> Vec<String> {
        let line =
            format!("cd {} && find usr/local etc var/lib -type f 2>/dev/null || true", self.root.display());
        let mut files: Vec<String> =
            run(command("sh").args(["-c", &line])).ok().lines().map(str::to_owned).collect();
        files.sort();
        files
    }
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        // Of a test that failed half-way: the node is everybody's, and the class is the cluster's.
        let label = ["label", "node", NODE, "gantline/node-"];
        let _ = self.room.cluster.kubectl(&label);
        let _ = self.helm(&["uninstall", Self::NAME, "--no-hooks", "--ignore-not-found"]);
    }
}

/// The service that the node's systemd would start, by the files that the installer left, is asked by a pod through the Service.
fn what_was_installed_is_scraped(release: &Release<'_>, binary: &str) {
    let cluster = release.room.cluster;
    // systemd's line names no file, and so wants none; a flag's is to be there.
    let config = release.root.join("etc/gantline/config.toml");
    fs::write(&config, "").unwrap();
    let mut service = cluster.node.machine.command(release.root.join(binary));
    service.args(["serve", "--state", "/run/gantline-installed", "--config"]).arg(&config);
    service.arg("--root").arg(cluster.place.dir.join("installed"));
    let mut service = Running::logged(&mut service, &cluster.place.dir.join("installed.log"));
    let line = "until wget -q -O - http://gl-gantline-metrics:9180/metrics >/all; do sleep 1; done; \
                grep '^gantline_build_info' /all";
    let told = release.room.once("scrape", line, json!({}));
    assert!(told.contains(env!("CARGO_PKG_VERSION")), "{told}");
    assert!(service.child().try_wait().unwrap().is_none(), "it was somebody else who answered");
    service.kill();
    fs::remove_file(config).unwrap();
}

fn the_installer_puts_gantline_on_a_node_and_takes_it_off(cluster: &Cluster) {
    let mut release = Release::new(cluster);
    release.upgrade();
    release.rolled_out("remover");
    assert_eq!(release.files(), [""; 0], "the node has no label");
    let spec = json!({"runtimeClassName": "helm-runc", "terminationGracePeriodSeconds": 1,
                      "containers": [room::container("main", "sleep 1000", json!({}))]});
    release.room.pod("classed", spec);

    release.label("gantline/node=true");
    eventually("the installer has a node", SOON, || {
        let pods = release.room.pods("app.kubernetes.io/component=installer");
        if pods.is_empty() { Err("not yet".into()) } else { Ok(()) }
    });
    release.rolled_out("installer");
    let (binary, drop_in, unit) = (
        "usr/local/bin/gantline",
        "etc/gantline/config.d/50-chart.toml",
        "etc/systemd/system/gantline.service",
    );
    let ours = [
        drop_in,
        unit,
        binary,
        "usr/local/bin/gantline-shim",
        "var/lib/gantline-node/installed",
        "var/lib/gantline-node/lock",
    ];
    assert_eq!(release.files(), ours);
    let address = format!("address = \"{}:9180\"", cluster.place.address);
    assert!(release.file(drop_in).unwrap().contains(&address), "{:?}", release.file(drop_in));
    assert!(release.file(unit).unwrap().contains("\nExecStart=/usr/local/bin/gantline serve\n"));
    assert_eq!(release.restarts(), 1);
    release.room.ready("classed");

    // The Service leads to the node's own port.
    let slices = cluster
        .api
        .list("EndpointSlice", &release.room.name, "kubernetes.io/service-name=gl-gantline-metrics")
        .unwrap();
    assert_eq!(slices[0]["endpoints"][0]["addresses"], json!([cluster.place.address]), "{slices:?}");
    assert_eq!(slices[0]["ports"][0]["port"], 9180);
    what_was_installed_is_scraped(&release, binary);

    // Another release of the binary, another configuration.
    release.set("/image/tag", json!("next"));
    release.upgrade();
    release.rolled_out("installer");
    assert!(fs::read(release.root.join(binary)).unwrap().ends_with(b"next"));
    assert_eq!(release.restarts(), 2);
    // Not both at once: the pod of before might put the configuration there, and its successor the binary.
    release.set("/installer/config", json!("[log]\nlevel = \"debug\"\n"));
    release.upgrade();
    release.rolled_out("installer");
    assert!(release.file(drop_in).unwrap().contains("level = \"debug\""));
    assert_eq!(release.restarts(), 3);

    // One that Gantline does not take never comes to the node.
    release.set("/installer/config", json!("[log]\nlevle = \"debug\"\n"));
    release.upgrade();
    release.complains("installer", "the configuration would be refused");
    assert!(release.file(drop_in).unwrap().contains("level = \"debug\""));
    assert_eq!(release.restarts(), 3);
    release.set("/installer/config", json!(""));
    release.upgrade();
    release.rolled_out("installer");

    // This node's kubelet uses the socket.
    release.label("gantline/node-");
    release.complains("remover", "a client (the kubelet?) is connected to /run/gantline/gantline.sock");
    assert_eq!(release.files(), ours);
    let said = release.helm(&["uninstall", Release::NAME]);
    assert!(said.code != 0, "the node is not clean: {said:?}");
    assert_eq!(release.files(), ours);
    let why = release.room.kubectl(&["logs", "job/gl-gantline-retire"]).ok();
    assert!(why.contains("0 of 1 nodes are clean"), "{why}");
    // The release is as it was again.
    let status: Value =
        serde_json::from_str(&release.helm(&["status", Release::NAME, "-o", "json"]).ok()).unwrap();
    release.helm(&["rollback", Release::NAME, &status["version"].to_string()]).ok();
    let sets = release.room.kubectl(&["get", "daemonsets", "-o", "name"]).ok();
    assert_eq!(sets.lines().count(), 2, "{sets}");

    release.set("/installer/removal/force", json!(true));
    // The uninstall that fails has been; the next one is to come to its end.
    release.set("/installer/removal/timeout", json!(180));
    release.upgrade();
    release.rolled_out("remover");
    assert_eq!(release.files(), [""; 0], "the label is gone, and so are the files");
    assert!(
        release.file("systemctl.log").unwrap().contains("disable --now gantline.service\ndaemon-reload\n")
    );

    release.label("gantline/node=true");
    eventually("Gantline is there again", SOON, || {
        if release.files().len() == ours.len() { Ok(()) } else { Err(release.files().join(" ")) }
    });
    release.room.delete("Pod", "classed");
    release.helm(&["uninstall", Release::NAME, "--wait"]).ok();
    assert_eq!(release.files(), [""; 0], "the label stays, the files are gone");
    eventually("no object of the release is left", SOON, || {
        let all =
            "daemonsets,jobs,pods,services,configmaps,serviceaccounts,roles,rolebindings,runtimeclasses";
        let left =
            release.room.kubectl(&["get", all, "-o", "name", "-l", "app.kubernetes.io/instance=gl"]).ok();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}
