//! The verbose part of a status: what the pod room tells, and the configuration as CRI's JSON, which tools read.

use std::collections::BTreeMap;

use pod::{ContainerStatus, PodView};
use serde::Serialize;
use serde_json::Value;

use crate::convert::reply;

/// Fields whose entries are the client's own: an empty value is a value.
const KEPT_WHOLE: [&str; 4] = ["labels", "annotations", "sysctls", "unified"];

/// A sandbox's. crictl merges what is under the one key.
pub(super) fn of_pod(mut info: Value, view: &PodView) -> BTreeMap<String, String> {
    let config = reply::pod_config(&view.pod.config);
    let linux = config.linux.as_ref();
    info["overhead"] = message(linux.and_then(|linux| linux.overhead.as_ref()));
    info["resources"] = message(linux.and_then(|linux| linux.resources.as_ref()));
    info["config"] = message(Some(&config));
    one(&info)
}

/// A container's.
pub(super) fn of_container(mut info: Value, status: &ContainerStatus) -> BTreeMap<String, String> {
    info["config"] = message(Some(&reply::container_config(&status.config)));
    one(&info)
}

fn one(info: &Value) -> BTreeMap<String, String> {
    BTreeMap::from([("info".to_owned(), info.to_string())])
}

/// A message as Go writes it: the contract's names, and nothing for what is not set.
fn message(message: Option<&impl Serialize>) -> Value {
    let Some(Ok(mut value)) = message.map(serde_json::to_value) else { return Value::Null };
    prune(&mut value);
    value
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.retain(|name, field| {
            if KEPT_WHOLE.contains(&name.as_str()) {
                return field.as_object().is_some_and(|entries| !entries.is_empty());
            }
            prune(field);
            !is_unset(field)
        }),
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        // A message that is set says so with nothing in it.
        Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::v1;
    use serde_json::json;

    #[test]
    fn a_message_has_the_contracts_names_and_nothing_that_is_not_set() {
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
            envs: vec![v1::KeyValue { key: "A".into(), value: b"b".to_vec() }],
            mounts: vec![v1::Mount {
                container_path: "/x".into(),
                readonly: true,
                uid_mappings: vec![v1::IdMapping { host_id: 5, container_id: 0, length: 1 }],
                ..Default::default()
            }],
            labels: [("empty".to_owned(), String::new())].into(),
            cdi_devices: vec![v1::CdiDevice { name: "v/c=d".into() }],
            ..Default::default()
        };
        let expect = json!({
            "metadata": {"name": "c"}, "envs": [{"key": "A", "value": "b"}], "labels": {"empty": ""},
            "mounts": [{"container_path": "/x", "readonly": true, "uidMappings": [{"host_id": 5, "length": 1}]}],
            "CDI_devices": [{"name": "v/c=d"}],
        });
        assert_eq!(message(Some(&config)), expect);
        assert_eq!(message(None::<&v1::Mount>), Value::Null);
    }
}
