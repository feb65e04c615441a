//! The API server as tests ask it: objects are JSON, calls block, and every kind is reached by its name.

use std::path::Path;

use kube::api::{Api as Objects, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config};
use serde_json::Value;

use crate::Result;
use crate::cri::runtime;

/// Who the tests are, to server-side apply.
const MANAGER: &str = "gantline-e2e";

/// A client of one API server.
#[derive(Clone)]
pub struct Api {
    client: Client,
}

impl Api {
    /// Reads a kubeconfig; nothing is asked yet.
    pub fn new(kubeconfig: &Path) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let client = runtime().block_on(async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            Ok::<_, Error>(Client::try_from(config)?)
        })?;
        Ok(Self { client })
    }

    fn objects(&self, kind: &str, namespace: &str) -> Objects<DynamicObject> {
        let (group, version) = group_of(kind);
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        if namespace.is_empty() {
            Objects::all_with(self.client.clone(), &resource)
        } else {
            Objects::namespaced_with(self.client.clone(), namespace, &resource)
        }
    }

    /// The text of a path that is no object's, as `/readyz`.
    pub fn text(&self, path: &str) -> Result<String> {
        let request = http::Request::get(path).body(Vec::new())?;
        Ok(runtime().block_on(self.client.request_text(request))?)
    }

    /// Creates an object or makes it what `object` says. Its namespace is its own; none is the cluster's.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let objects = self.objects(text("/kind"), text("/metadata/namespace"));
        let how = PatchParams::apply(MANAGER).force();
        let applied =
            runtime().block_on(objects.patch(text("/metadata/name"), &how, &Patch::Apply(object)))?;
        Ok(serde_json::to_value(applied)?)
    }

    /// Merges `change` into an object, or into a part of it (`resize`, `status`) that has a door of its own.
    pub fn merge(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        part: Option<&str>,
        change: &Value,
    ) -> Result<Value> {
        let objects = self.objects(kind, namespace);
        let (how, change) = (PatchParams::default(), Patch::Strategic(change));
        let merged = runtime().block_on(async {
            match part {
                Some(part) => objects.patch_subresource(part, name, &how, &change).await,
                None => objects.patch(name, &how, &change).await,
            }
        })?;
        Ok(serde_json::to_value(merged)?)
    }

    /// The object, if it is there.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let found = runtime().block_on(self.objects(kind, namespace).get_opt(name))?;
        Ok(found.map(serde_json::to_value).transpose()?)
    }

    /// Whether the node is called Ready.
    pub fn node_is_ready(&self) -> Result<bool> {
        let node = self.get("Node", "", super::NODE)?.unwrap_or_default();
        let conditions =
            node.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True"))
    }

    /// Objects that a label selector picks; an empty one picks all.
    pub fn list(&self, kind: &str, namespace: &str, labels: &str) -> Result<Vec<Value>> {
        let how = ListParams::default().labels(labels);
        let found = runtime().block_on(self.objects(kind, namespace).list(&how))?;
        Ok(found.items.into_iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
    }

    /// Asks for an object's end; one that is gone already is no error.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        match runtime().block_on(self.objects(kind, namespace).delete(name, &DeleteParams::background())) {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What can go wrong before the first request.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// The API group and version of a kind that the cluster or its tests use.
fn group_of(kind: &str) -> (&'static str, &'static str) {
    match kind {
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" => ("apps", "v1"),
        "Job" | "CronJob" => ("batch", "v1"),
        "ClusterRole" | "ClusterRoleBinding" => ("rbac.authorization.k8s.io", "v1"),
        "EndpointSlice" => ("discovery.k8s.io", "v1"),
        "PodDisruptionBudget" => ("policy", "v1"),
        "RuntimeClass" => ("node.k8s.io", "v1"),
        _ => ("", "v1"),
    }
}
