//! A namespace of one test, which goes when the test ends.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Cluster, images};
use crate::command::{Said, run};
use crate::registry::Registry;
use crate::wait::{eventually, patient};

/// Most things happen within this time on a busy machine.
pub const SOON: Duration = Duration::from_secs(180);

/// Makes namespaces of one process differ.
static SERIAL: AtomicU32 = AtomicU32::new(1);

/// A namespace and what a test does in it.
pub struct Room<'c> {
    /// The cluster it is in.
    pub cluster: &'c Cluster,
    /// The namespace.
    pub name: String,
}

impl<'c> Room<'c> {
    #[track_caller]
    pub(super) fn new(cluster: &'c Cluster, name: &str) -> Self {
        let name = format!("{}-{}", name.replace('_', "-"), SERIAL.fetch_add(1, Ordering::Relaxed));
        let room = Self { cluster, name };
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": room.name}});
        cluster.api.apply(&namespace).expect("make a namespace");
        // Made by a controller, and no pod is admitted without it.
        eventually("the namespace has its service account", SOON, || {
            room.get("ServiceAccount", "default").map(drop).ok_or_else(|| "not yet".into())
        });
        room
    }

    /// Creates or changes an object in this namespace.
    #[track_caller]
    pub fn apply(&self, object: Value) -> Value {
        self.try_apply(object).expect("apply an object")
    }

    /// Creates or changes an object in this namespace, or says why not.
    pub fn try_apply(&self, mut object: Value) -> Result<Value, String> {
        object["metadata"]["namespace"] = json!(self.name);
        self.cluster.api.apply(&object).map_err(|error| error.to_string())
    }

    /// Runs a pod whose specification is `spec`.
    #[track_caller]
    pub fn pod(&self, name: &str, spec: Value) -> Value {
        self.apply(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec,
        }))
    }

    /// Runs a pod of one busybox container `main` with a shell line; `more` are further fields of the container.
    #[track_caller]
    pub fn shell(&self, name: &str, line: &str, more: Value) -> Value {
        self.pod(
            name,
            json!({"terminationGracePeriodSeconds": 1, "containers": [container("main", line, more)]}),
        )
    }

    /// As [`shell`](Self::shell), for a pod that runs once; returns when it has ended, with its log.
    #[track_caller]
    pub fn once(&self, name: &str, line: &str, more: Value) -> String {
        self.pod(name, json!({"restartPolicy": "Never", "containers": [container("main", line, more)]}));
        let phase = self.ended(name);
        let log = self.kubectl(&["logs", name]).ok();
        assert_eq!(
            phase,
            "Succeeded",
            "{name} said: {log}; {}",
            self.get("Pod", name).unwrap_or_default()["status"]
        );
        log
    }

    /// Waits until a pod has ended; its phase.
    #[track_caller]
    pub fn ended(&self, name: &str) -> String {
        self.wait_pod(name, "has ended", |pod| {
            let phase = pod["status"]["phase"].as_str().unwrap_or_default();
            ["Succeeded", "Failed"].contains(&phase).then(|| phase.to_string())
        })
    }

    /// Waits until a pod is Ready; the pod.
    #[track_caller]
    pub fn ready(&self, name: &str) -> Value {
        self.wait_pod(name, "is Ready", |pod| is_ready(pod).then(|| pod.clone()))
    }

    /// Waits until `check` finds in a pod what the test wants.
    #[track_caller]
    pub fn wait_pod<T>(&self, name: &str, what: &str, check: impl Fn(&Value) -> Option<T>) -> T {
        eventually(&format!("pod {name} {what}"), SOON * 2, || {
            let pod = self.get("Pod", name).ok_or("it is not there")?;
            check(&pod).ok_or_else(|| format!("{}; {}", pod["status"], self.events(name).join("; ")))
        })
    }

    /// Waits until no pod of these labels is there.
    #[track_caller]
    pub fn gone(&self, labels: &str) {
        eventually(&format!("no pod {labels} is left"), SOON * 2, || {
            let left = self.pods(labels);
            if left.is_empty() { Ok(()) } else { Err(self.cluster.pods_in_words(&self.name)) }
        });
    }

    /// Waits until a workload has as many ready pods as it wants, all of its newest template.
    #[track_caller]
    pub fn rolled_out(&self, kind: &str, name: &str) {
        let what = format!("{}/{name}", kind.to_lowercase());
        let timeout = format!("--timeout={}s", patient(SOON * 2).as_secs());
        let said = self.kubectl(&["rollout", "status", &what, &timeout]);
        assert_eq!(
            said.code,
            0,
            "{what}: {said:?}; {}; {:?}",
            self.cluster.pods_in_words(&self.name),
            self.events("")
        );
    }

    /// An object of this namespace, if it is there.
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        self.cluster.api.get(kind, &self.name, name).ok().flatten()
    }

    /// Pods of this namespace by labels.
    #[track_caller]
    pub fn pods(&self, labels: &str) -> Vec<Value> {
        self.cluster.api.list("Pod", &self.name, labels).expect("list pods")
    }

    /// Deletes an object of this namespace.
    #[track_caller]
    pub fn delete(&self, kind: &str, name: &str) {
        self.cluster.api.delete(kind, &self.name, name).expect("delete an object");
    }

    /// Reasons and messages of the events about an object; about all when `name` is empty.
    pub fn events(&self, name: &str) -> Vec<String> {
        let events = self.cluster.api.list("Event", &self.name, "").unwrap_or_default();
        let about = |event: &&Value| name.is_empty() || event["involvedObject"]["name"] == name;
        let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_string();
        events
            .iter()
            .filter(about)
            .map(|event| format!("{}: {}", text(event, "reason"), text(event, "message")))
            .collect()
    }

    /// Waits for an event about an object whose text contains `words`; the event.
    #[track_caller]
    pub fn event(&self, name: &str, words: &str) -> String {
        eventually(&format!("an event about {name} says {words:?}"), SOON * 2, || {
            let events = self.events(name);
            events.iter().find(|event| event.contains(words)).cloned().ok_or_else(|| events.join("; "))
        })
    }

    /// A command that runs `kubectl` in this namespace.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        self.cluster.place.kubectl(&[&["--namespace", self.name.as_str()], args].concat())
    }

    /// Runs `kubectl` in this namespace.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> Said {
        run(&mut self.kubectl_command(args))
    }

    /// Runs a shell line in a pod's container `main` (or its only one) by `kubectl exec`.
    #[track_caller]
    pub fn exec(&self, pod: &str, line: &str) -> Said {
        self.kubectl(&["exec", pod, "--", "sh", "-c", line])
    }
}

impl Drop for Room<'_> {
    #[allow(clippy::print_stderr)]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (pods, events) = (self.cluster.pods_in_words(&self.name), self.events("").join("\n  "));
            eprintln!("{} when its test failed:\n  {pods}\n  {events}", self.name);
        }
        let _ = self.cluster.api.delete("Namespace", "", &self.name);
    }
}

/// A busybox container with a shell line and further fields.
pub fn container(name: &str, line: &str, more: Value) -> Value {
    let mut container = json!({"name": name, "image": busybox(), "command": ["sh", "-c", line]});
    if let (Value::Object(container), Value::Object(more)) = (&mut container, more) {
        container.extend(more);
    }
    container
}

/// The busybox image's reference.
pub fn busybox() -> String {
    Registry::reference("busybox:1")
}

/// The image of Kubernetes's own test program.
pub fn agnhost() -> String {
    images::name_of("agnhost")
}

/// Whether a pod's condition Ready holds.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

/// The status of a pod's container by name.
pub fn status_of<'p>(pod: &'p Value, container: &str) -> &'p Value {
    let kinds = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let all = kinds.iter().filter_map(|kind| pod["status"][*kind].as_array()).flatten();
    all.into_iter().find(|status| status["name"] == container).unwrap_or(&Value::Null)
}
