//! What a pod's request becomes for plugins: CNI_ARGS, and the capability arguments of which each plugin gets
//! those that it declares.

use model::{PodId, Protocol};
use serde_json::{Map, Value, json};

use crate::conf::Plugin;
use crate::{Attach, NetworkError, bandwidth};

/// A value in CNI_ARGS must not be able to add another one.
#[derive(Debug, thiserror::Error)]
#[error("{key} is {value:?}, and ';' separates CNI arguments")]
struct Separator {
    key: &'static str,
    value: String,
}

/// CNI_ARGS in the order that containerd has them; plugins that name pods (Calico, Cilium, Multus) read these.
pub(crate) fn args(request: &Attach) -> Result<Vec<(String, String)>, NetworkError> {
    let identity = &request.identity;
    let pairs = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", identity.namespace.as_str()),
        ("K8S_POD_NAME", identity.name.as_str()),
        ("K8S_POD_INFRA_CONTAINER_ID", request.pod.as_str()),
        ("K8S_POD_UID", identity.uid.as_str()),
    ];
    if let Some((key, value)) = pairs.iter().find(|(_, value)| value.contains([';', '\0'])) {
        let source = Box::new(Separator { key, value: (*value).to_owned() });
        return Err(invalid(&request.pod, "CNI arguments", source));
    }
    Ok(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into())
}

/// CNI_ARGS as the environment carries it.
pub(crate) fn join(args: &[(String, String)]) -> String {
    args.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(";")
}

/// All capability arguments of a pod, by capability (CNI CONVENTIONS.md). `pod_cidrs` are the node's, as the
/// kubelet said them: they become `ipRanges`, as dockershim did.
pub(crate) fn arguments(request: &Attach, pod_cidrs: &[String]) -> Result<Map<String, Value>, NetworkError> {
    let mut all = Map::new();
    let mut put = |capability: &str, value: Value| drop(all.insert(capability.to_owned(), value));
    if !request.port_mappings.is_empty() {
        let mappings = request.port_mappings.iter().map(|mapping| {
            json!({
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": match mapping.protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                    Protocol::Sctp => "sctp",
                },
                "hostIP": mapping.host_ip.map_or(String::new(), |ip| ip.to_string()),
            })
        });
        put("portMappings", mappings.collect());
    }
    let bandwidth = bandwidth::from_annotations(&request.annotations)
        .map_err(|e| invalid(&request.pod, "bandwidth", Box::new(e)))?;
    if let Some(bandwidth) = bandwidth {
        put("bandwidth", bandwidth);
    }
    if let Some(dns) = &request.dns {
        let value = json!({ "servers": dns.servers, "searches": dns.searches, "options": dns.options });
        put("dns", value);
    }
    if !pod_cidrs.is_empty() {
        put("ipRanges", pod_cidrs.iter().map(|cidr| json!([{ "subnet": cidr }])).collect());
    }
    if !request.cgroup_path.is_empty() {
        put("cgroupPath", request.cgroup_path.as_str().into());
    }
    if !request.annotations.is_empty() {
        put("io.kubernetes.cri.pod-annotations", json!(request.annotations));
    }
    Ok(all)
}

/// A plugin's `runtimeConfig`: the arguments whose capability it declares.
pub(crate) fn declared_by(plugin: &Plugin, arguments: &Map<String, Value>) -> Map<String, Value> {
    let declared = arguments.iter().filter(|(capability, _)| plugin.declares(capability));
    declared.map(|(capability, value)| (capability.clone(), value.clone())).collect()
}

fn invalid(
    pod: &PodId,
    what: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
) -> NetworkError {
    NetworkError::Request { pod: pod.clone(), what, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Classify as _, DnsConfig, ErrorKind, PodIdentity, PortMapping, StringMap};

    fn request() -> Attach {
        Attach {
            pod: PodId::from_bytes([0xab; 32]),
            identity: PodIdentity {
                namespace: "prod".to_owned(),
                name: "web-0".to_owned(),
                uid: "11-22".to_owned(),
                attempt: 3,
            },
            netns: "/run/netns/gantline-x".into(),
            port_mappings: vec![PortMapping {
                protocol: Protocol::Udp,
                container_port: 53,
                host_port: 5353,
                host_ip: Some("10.0.0.1".parse().unwrap()),
            }],
            dns: Some(DnsConfig {
                servers: vec!["10.96.0.10".to_owned()],
                searches: vec!["svc".to_owned()],
                options: vec!["ndots:5".to_owned()],
            }),
            annotations: StringMap::from([("kubernetes.io/egress-bandwidth".to_owned(), "1M".to_owned())]),
            cgroup_path: "/kubepods/pod1".to_owned(),
        }
    }

    #[test]
    fn args_name_the_pod_and_cannot_be_added_to() {
        let id = "ab".repeat(32);
        assert_eq!(
            join(&args(&request()).unwrap()),
            format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=11-22"
            )
        );
        let mut bad = request();
        bad.identity.name = "web;K8S_POD_NAMESPACE=kube-system".to_owned();
        assert_eq!(args(&bad).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn each_plugin_gets_what_it_declares() {
        let all = arguments(&request(), &["10.1.0.0/24".to_owned(), "fd00::/64".to_owned()]).unwrap();
        let for_plugin = |capabilities: Value| {
            let object = json!({ "type": "x", "capabilities": capabilities });
            let plugin = Plugin { kind: "x".to_owned(), object: object.as_object().unwrap().clone() };
            Value::Object(declared_by(&plugin, &all))
        };
        for (declared, expected) in [
            (json!(null), json!({})),
            (json!({ "portMappings": false, "unknown": true }), json!({})),
            (
                json!({ "portMappings": true }),
                json!({ "portMappings": [
                    {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "10.0.0.1"}
                ] }),
            ),
            (
                json!({ "bandwidth": true }),
                json!({ "bandwidth": {"egressRate": 1_000_000, "egressBurst": 4_294_967_295_u64} }),
            ),
            (
                json!({ "dns": true, "cgroupPath": true }),
                json!({
                    "dns": {"servers": ["10.96.0.10"], "searches": ["svc"], "options": ["ndots:5"]},
                    "cgroupPath": "/kubepods/pod1",
                }),
            ),
            (
                json!({ "ipRanges": true }),
                json!({ "ipRanges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]] }),
            ),
            (
                json!({ "io.kubernetes.cri.pod-annotations": true }),
                json!({ "io.kubernetes.cri.pod-annotations": {"kubernetes.io/egress-bandwidth": "1M"} }),
            ),
        ] {
            assert_eq!(for_plugin(declared.clone()), expected, "{declared}");
        }
    }

    #[test]
    fn what_was_not_asked_for_is_not_passed() {
        let mut plain = request();
        plain.port_mappings.clear();
        plain.dns = None;
        plain.annotations.clear();
        plain.cgroup_path.clear();
        assert_eq!(arguments(&plain, &[]).unwrap(), Map::new());
    }
}
