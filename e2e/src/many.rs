//! A node with more pods and containers than could be run here: the records of a few real ones, multiplied.
//!
//! The one place where the harness knows something of the service's inside: the tables of `<root>/pod.redb` and the
//! fields of a record that must differ between two (ADR 122). What the records say besides is what the service wrote.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use store::{Store, Table};

use crate::node::Node;

const PODS: Table<Value> = Table::new("pods", 1);
const CONTAINERS: Table<Value> = Table::new("containers", 1);

/// A node whose store was filled; [`Many::empty`] takes that back.
#[derive(Debug)]
pub struct Many<'n> {
    node: &'n Node,
    kept: PathBuf,
}

/// Makes `pods` pods that are stopped, of `containers` created containers each, and starts the service with them.
/// Labels and annotations are as long as a kubelet's, and `more` bytes longer.
///
/// # Panics
/// When the node has pods already, or its store is not as this module knows it.
#[track_caller]
pub fn fill(node: &Node, pods: usize, containers: usize, more: usize) -> Many<'_> {
    assert!(node.pods().is_empty(), "only an empty node is filled");
    let pod = node.pod("template").with(|config| config.annotations = kubelets_pod_annotations()).run();
    let container = pod.container("template").idle().with(|config| {
        config.annotations = kubelets_container_annotations(more);
        config.labels.extend(pod.config.labels.clone());
    });
    container.create();
    pod.stop();
    node.terminate();
    let file = node.config.root.join("pod.redb");
    let kept = file.with_extension("kept");
    fs::copy(&file, &kept).expect("keep the store");
    multiply(&Store::open(&file).expect("open the store"), pods, containers);
    node.start_service();
    Many { node, kept }
}

impl Many<'_> {
    /// Takes all of them away again.
    ///
    /// # Panics
    /// When the service does not go on with the records that it had.
    #[track_caller]
    pub fn empty(self) {
        self.node.terminate();
        fs::rename(&self.kept, self.node.config.root.join("pod.redb")).expect("put the store back");
        self.node.start_service();
        self.node.remove_all_pods();
    }
}

fn multiply(store: &Store, pods: usize, containers: usize) {
    let only = |table| -> (String, Value) {
        let mut records = store.list(table).expect("read a table");
        assert_eq!(records.len(), 1, "one template");
        let (id, record) = records.remove(0);
        (id, record.expect("a record"))
    };
    let (pod_id, pod) = only(&PODS);
    let (container_id, container) = only(&CONTAINERS);
    let made = store.write(|write| {
        for number in 0..pods {
            let id = id_of(&format!("pod {number}"));
            let mut record = pod.clone();
            set(&mut record, "/config/identity/name", json!(format!("template-{number:05}")));
            set(&mut record, "/config/identity/uid", json!(format!("{:.36}", id_of("uid") + &id)));
            later(&mut record, number);
            // It owns no cgroup: there is none.
            set(&mut record, "/cgroups_made", json!([]));
            write.put(&PODS, &id, &record)?;
            for part in 0..containers {
                let mut record = container.clone();
                set(&mut record, "/pod", json!(id));
                set(&mut record, "/config/name", json!(format!("container-{part}")));
                later(&mut record, number * containers + part);
                write.put(&CONTAINERS, &id_of(&format!("container {number} {part}")), &record)?;
            }
        }
        write.remove(&PODS, &pod_id)?;
        write.remove(&CONTAINERS, &container_id)
    });
    made.expect("write the store");
}

/// 64 hexadecimal digits, like a random id's.
fn id_of(what: &str) -> String {
    Sha256::digest(what).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[track_caller]
fn set(record: &mut Value, place: &str, value: Value) {
    *record.pointer_mut(place).unwrap_or_else(|| panic!("no {place} in a record")) = value;
}

/// As if it had been made some milliseconds after its template.
fn later(record: &mut Value, milliseconds: usize) {
    let at = record["created_at"].as_i64().expect("a time");
    set(record, "/created_at", json!(at + milliseconds as i64 * 1_000_000));
}

fn kubelets_pod_annotations() -> std::collections::BTreeMap<String, String> {
    [("kubernetes.io/config.seen", "2026-01-01T00:00:00.000000000Z"), ("kubernetes.io/config.source", "api")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn kubelets_container_annotations(more: usize) -> std::collections::BTreeMap<String, String> {
    [
        ("io.kubernetes.container.hash", "5a2e1f0c"),
        ("io.kubernetes.container.restartCount", "0"),
        ("io.kubernetes.container.terminationMessagePath", "/dev/termination-log"),
        ("io.kubernetes.container.terminationMessagePolicy", "File"),
        ("io.kubernetes.pod.terminationGracePeriod", "30"),
        ("more", &"x".repeat(more)),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}
