//! The chart, by helm: what it says, what it refuses, and that the API server takes it. What comes of it on a node is
//! `installer.rs`'s.

use std::fs;
use std::process::Command;

use e2e::cluster::Cluster;
use e2e::command::{Said, command, run_with_input};
use e2e::installer;
use e2e::programs::tool;
use serde_json::{Value, json};

tests![
    the_chart_is_sound,
    what_values_make_of_the_chart,
    misspelt_and_contradictory_values_are_refused,
    the_api_server_takes_all_of_the_chart,
];

/// With these every template says something.
fn everything() -> Value {
    json!({
        "image": {"repository": "registry.example/gantline-installer", "pullSecrets": [{"name": "pull"}]},
        "runtimeClasses": [{
            "name": "helm-all", "handler": "crun", "overhead": {"podFixed": {"memory": "1Mi"}},
            "scheduling": {"nodeSelector": {"gantline/node": "true"}, "tolerations": [{"operator": "Exists"}]},
        }],
        "installer": {
            "enabled": true, "config": "[log]\nlevel = \"debug\"\n", "seLinuxOptions": {"type": "spc_t"},
            "podAnnotations": {"a": "b"}, "podLabels": {"c": "d"},
        },
        "metrics": {"enabled": true, "service": {"annotations": {"e": "f"}}, "podMonitor": {"enabled": true, "labels": {"g": "h"}}},
        "rules": {"enabled": true, "labels": {"g": "h"}},
        "dashboards": {"enabled": true, "annotations": {"folder": "Nodes"}},
        "commonLabels": {"team": "nodes"},
    })
}

/// Kinds of the Prometheus operator that a cluster with it has.
const MONITORING: [&str; 4] = [
    "--api-versions",
    "monitoring.coreos.com/v1/PodMonitor",
    "--api-versions",
    "monitoring.coreos.com/v1/PrometheusRule",
];

/// A command that runs helm against the cluster, with files of its own.
pub(crate) fn helm_command(cluster: &Cluster, args: &[&str]) -> Command {
    let mut line = command(tool("helm"));
    line.arg("--kubeconfig").arg(cluster.place.kubeconfig()).args(args);
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        line.env(variable, cluster.place.dir.join("helm"));
    }
    line
}

/// Runs helm with values, which are said on its standard input.
pub(crate) fn helm(cluster: &Cluster, args: &[&str], values: &Value) -> Said {
    let mut line = helm_command(cluster, args);
    run_with_input(line.args(["--values", "-"]), values.to_string().as_bytes())
}

pub(crate) fn chart() -> String {
    installer::chart().display().to_string()
}

fn template(cluster: &Cluster, values: &Value) -> Said {
    let (chart, name) = (chart(), ["template", "it", "--namespace", "somewhere"]);
    helm(cluster, &[&name[..], &[chart.as_str()], &MONITORING].concat(), values)
}

/// The objects that values make of the chart.
fn objects(cluster: &Cluster, values: &Value) -> Vec<Value> {
    let text = template(cluster, values).ok();
    let documents = text.split("\n---\n").map(|one| yaml_serde::from_str::<Value>(one).unwrap());
    documents.filter(|object| !object.is_null()).collect()
}

fn one<'o>(objects: &'o [Value], kind: &str, name: &str) -> &'o Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name} in {:?}", names(objects)))
}

/// `Kind/name` of each object, sorted.
fn names(objects: &[Value]) -> Vec<String> {
    let name = |object: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))
    };
    let mut names: Vec<String> = objects.iter().map(name).collect();
    names.sort();
    names
}

fn the_chart_is_sound(cluster: &Cluster) {
    for values in [json!({}), everything(), json!({"runtimeClasses": []})] {
        helm(cluster, &["lint", "--strict", &chart()], &values).ok();
    }
    // Each value is in both files, and is said to be for something.
    let values: Value =
        yaml_serde::from_str(&fs::read_to_string(installer::chart().join("values.yaml")).unwrap()).unwrap();
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(installer::chart().join("values.schema.json")).unwrap())
            .unwrap();
    let mut complaints = Vec::new();
    described("", &values, &schema, &mut complaints);
    assert!(complaints.is_empty(), "{complaints:#?}");
    let version = |line: &str| {
        fs::read_to_string(installer::chart().join("Chart.yaml")).unwrap().lines().find_map(|found| {
            found.strip_prefix(line).map(|version| version.trim().trim_matches('"').to_owned())
        })
    };
    assert_eq!(
        version("appVersion:"),
        Some(env!("CARGO_PKG_VERSION").into()),
        "the chart's appVersion is the workspace's"
    );
}

/// Compares the keys of the values with those of the schema, down to where anything may stand.
fn described(path: &str, values: &Value, schema: &Value, complaints: &mut Vec<String>) {
    let Some(properties) = schema["properties"].as_object() else { return };
    if schema["additionalProperties"] != false {
        complaints.push(format!("{path}: unknown keys would be taken"));
    }
    for (key, below) in properties {
        let path = format!("{path}.{key}");
        if below["description"].as_str().is_none_or(str::is_empty) {
            complaints.push(format!("{path} is not described"));
        }
        // What charts above this one say is theirs.
        if values[key].is_null() && path != ".global" && !path.contains("[]") {
            complaints.push(format!("{path} has no default"));
        }
        described(&path, &values[key], below, complaints);
        described(&format!("{path}[]"), &values[key][0], &without_defaults(&below["items"]), complaints);
    }
    let keys = values.as_object().into_iter().flatten().map(|(key, _)| key);
    complaints.extend(
        keys.filter(|key| !properties.contains_key(*key))
            .map(|key| format!("{path}.{key} is not in the schema")),
    );
}

/// An item of a list need not have every key.
fn without_defaults(schema: &Value) -> Value {
    let mut schema = schema.clone();
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    if let Some(properties) = schema["properties"].as_object_mut() {
        properties.retain(|key, _| required.iter().any(|name| name == key));
    }
    schema
}

fn what_values_make_of_the_chart(cluster: &Cluster) {
    assert_eq!(names(&objects(cluster, &json!({}))), ["RuntimeClass/crun", "RuntimeClass/runc"]);
    let all = objects(cluster, &everything());
    let expected = [
        "ConfigMap/it-gantline-config",
        "ConfigMap/it-gantline-dashboards",
        "DaemonSet/it-gantline-installer",
        "DaemonSet/it-gantline-remover",
        "Job/it-gantline-retire",
        "PodMonitor/it-gantline",
        "PrometheusRule/it-gantline",
        "Role/it-gantline-retire",
        "RoleBinding/it-gantline-retire",
        "RuntimeClass/helm-all",
        "Service/it-gantline-metrics",
        "ServiceAccount/it-gantline-installer",
        "ServiceAccount/it-gantline-retire",
    ];
    assert_eq!(names(&all), expected);
    for object in &all {
        let metadata = &object["metadata"];
        assert_eq!(metadata["labels"]["team"], "nodes", "{object}");
        assert_eq!(metadata["labels"]["app.kubernetes.io/instance"], "it", "{object}");
        let of_the_cluster = object["kind"] == "RuntimeClass";
        assert_eq!(
            metadata["namespace"],
            if of_the_cluster { Value::Null } else { json!("somewhere") },
            "{object}"
        );
    }
    let class = one(&all, "RuntimeClass", "helm-all");
    assert_eq!(
        (&class["handler"], &class["overhead"]["podFixed"]["memory"]),
        (&json!("crun"), &json!("1Mi"))
    );
    // Installers have no token and no right but to write the node; their sets exclude each other.
    for (name, verb) in [("it-gantline-installer", "install"), ("it-gantline-remover", "remove")] {
        let spec = &one(&all, "DaemonSet", name)["spec"]["template"]["spec"];
        let container = &spec["containers"][0];
        assert_eq!(
            (&spec["automountServiceAccountToken"], &spec["hostNetwork"]),
            (&json!(false), &json!(true))
        );
        assert_eq!(container["args"], json!([verb]));
        assert_eq!(container["image"], "registry.example/gantline-installer:0.1.0");
        assert_eq!(
            container["securityContext"]["capabilities"],
            json!({"drop": ["ALL"], "add": ["SYS_CHROOT"]})
        );
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert!(spec["hostPID"].is_null() && container["securityContext"]["privileged"].is_null());
    }
    let on = |name: &str| one(&all, "DaemonSet", name)["spec"]["template"]["spec"].clone();
    assert_eq!(on("it-gantline-installer")["nodeSelector"]["gantline/node"], "true");
    let term = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let expected =
        json!([{"matchExpressions": [{"key": "gantline/node", "operator": "NotIn", "values": ["true"]}]}]);
    assert_eq!(on("it-gantline-remover").pointer(term), Some(&expected));
    // Service and PodMonitor mean the installers' pods, and a port that these have.
    let service = &one(&all, "Service", "it-gantline-metrics")["spec"];
    let monitor = &one(&all, "PodMonitor", "it-gantline")["spec"];
    let endpoint = &monitor["podMetricsEndpoints"][0];
    let port = &on("it-gantline-installer")["containers"][0]["ports"][0];
    assert_eq!((&port["name"], &port["containerPort"]), (&json!("metrics"), &json!(9180)));
    assert_eq!((&service["ports"][0]["targetPort"], &endpoint["port"]), (&port["name"], &port["name"]));
    assert_eq!(service["ports"][0]["port"], port["containerPort"]);
    assert_eq!(endpoint["path"], "/metrics");
    for selector in [&service["selector"], &monitor["selector"]["matchLabels"]] {
        let means = |set: &str| {
            let labels = &one(&all, "DaemonSet", set)["spec"]["template"]["metadata"]["labels"];
            selector.as_object().unwrap().iter().all(|(key, value)| &labels[key] == value)
        };
        assert!(means("it-gantline-installer") && !means("it-gantline-remover"), "{selector}");
    }
    // The Job may do two things to two objects.
    let rules = &one(&all, "Role", "it-gantline-retire")["rules"];
    assert_eq!(rules.as_array().unwrap().len(), 2, "{rules}");
    assert_eq!(rules[0]["verbs"], json!(["delete"]));
    assert_eq!(rules[0]["resourceNames"], json!(["it-gantline-installer"]));
    assert_eq!(rules[1]["verbs"], json!(["get", "patch"]));
    assert_eq!(rules[1]["resourceNames"], json!(["it-gantline-remover"]));
    let config = &one(&all, "ConfigMap", "it-gantline-config")["data"]["50-chart.toml"];
    let text = config.as_str().unwrap();
    assert!(
        text.trim_end().ends_with("[metrics]\naddress = \"@NODE_IP@:9180\"\n[log]\nlevel = \"debug\""),
        "{text}"
    );
    // Dashboard and alerts are those of the tree, whole.
    let file = |name: &str| fs::read_to_string(installer::chart().join(name)).unwrap();
    let dashboards = one(&all, "ConfigMap", "it-gantline-dashboards");
    assert_eq!(dashboards["metadata"]["labels"]["grafana_dashboard"], "1");
    let told: Value = serde_json::from_str(dashboards["data"]["gantline.json"].as_str().unwrap()).unwrap();
    assert_eq!(told, serde_json::from_str::<Value>(&file("dashboards/gantline.json")).unwrap());
    let rules: Value = yaml_serde::from_str(&file("rules/gantline.yaml")).unwrap();
    assert_eq!(one(&all, "PrometheusRule", "it-gantline")["spec"], rules);
    // Another configuration is another pod; the removers have none.
    let mark = |config: &str| {
        let mut values = everything();
        values["installer"]["config"] = json!(config);
        let of = |name: &str| {
            one(&objects(cluster, &values), "DaemonSet", name)["spec"]["template"]["metadata"].clone()
        };
        (of("it-gantline-installer"), of("it-gantline-remover"))
    };
    let (one_config, other_config) = (mark("[log]"), mark("[images]"));
    assert_ne!(one_config.0, other_config.0);
    assert_eq!(one_config.1, other_config.1);
}

fn misspelt_and_contradictory_values_are_refused(cluster: &Cluster) {
    let with = |pointer: &str, value: Value| {
        let mut values = everything();
        let (above, key) = pointer.rsplit_once('/').unwrap();
        values.pointer_mut(above).unwrap()[key] = value;
        values
    };
    let table = [
        (json!({"runtimeclasses": []}), "additional properties 'runtimeclasses' not allowed"),
        (with("/installer/nodeselector", json!({})), "additional properties 'nodeselector' not allowed"),
        (with("/installer/removal", json!({"forced": true})), "additional properties 'forced' not allowed"),
        (with("/metrics/podMonitor/intervall", json!("1s")), "additional properties 'intervall' not allowed"),
        (with("/runtimeClasses/0/handler", json!("Not A Handler")), "does not match pattern"),
        (with("/runtimeClasses/0/name", Value::Null), "runtimeClasses"),
        (with("/installer/nodeSelector", json!({"gantline/node": null})), "minProperties"),
        (with("/installer/editedConfig", json!("overwrite")), "editedConfig"),
        (with("/installer/binDir", json!("relative")), "does not match pattern"),
        (with("/installer/binDir", json!("/usr/../etc")), "does not match pattern"),
        (with("/image/repository", json!("")), "repository"),
        (with("/image/digest", json!("sha256:12")), "does not match pattern"),
        (with("/metrics/port", json!(70000)), "maximum"),
        (
            with("/installer/config", json!("[metrics]\naddress = \"\"")),
            "installer.config has a table [metrics]",
        ),
        (json!({"metrics": {"enabled": true}}), "metrics.enabled needs installer.enabled"),
        (
            json!({"metrics": {"podMonitor": {"enabled": true}}}),
            "metrics.podMonitor.enabled needs metrics.enabled",
        ),
    ];
    for (values, words) in table {
        let said = template(cluster, &values);
        assert!(
            said.code != 0 && said.stderr.contains(words),
            "{values} should be refused with {words:?}: {said:?}"
        );
    }
    // Kinds that a cluster does not know.
    for (values, words) in [
        (json!({"rules": {"enabled": true}}), "this cluster does not know PrometheusRule"),
        (with("/rules", json!({"enabled": false})), "this cluster does not know PodMonitor"),
    ] {
        let said = helm(cluster, &["template", "it", &chart()], &values);
        assert!(said.code != 0 && said.stderr.contains(words), "{said:?}");
    }
}

/// The parts of the Prometheus operator's two kinds that the chart fills, as its API reference has them; anything else is
/// refused.
fn monitoring_kinds() -> [Value; 2] {
    let text = json!({"type": "string"});
    let texts = json!({"type": "object", "additionalProperties": text});
    let list = |item: Value| json!({"type": "array", "items": item});
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    let kind = |kind: &str, plural: &str, spec: Value| {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.monitoring.coreos.com")},
            "spec": {
                "group": "monitoring.coreos.com", "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": object(json!({"spec": spec}))}}],
            },
        })
    };
    let relabelings = list(object(json!({"sourceLabels": list(text.clone()), "targetLabel": text})));
    let endpoint = object(json!({
        "port": text, "path": text, "interval": text, "scrapeTimeout": text, "relabelings": relabelings,
    }));
    let monitor = object(json!({
        "jobLabel": text, "selector": object(json!({"matchLabels": texts})), "podMetricsEndpoints": list(endpoint),
    }));
    let rule = object(json!({
        "alert": text, "expr": {"x-kubernetes-int-or-string": true}, "for": text, "labels": texts, "annotations": texts,
    }));
    let groups = list(object(json!({"name": text, "rules": list(rule)})));
    [
        kind("PodMonitor", "podmonitors", monitor),
        kind("PrometheusRule", "prometheusrules", object(json!({"groups": groups}))),
    ]
}

fn the_api_server_takes_all_of_the_chart(cluster: &Cluster) {
    let room = cluster.room("dryrun");
    let apply = |more: &[&str], text: &str| {
        let args = [&["apply", "-f", "-"], more].concat();
        run_with_input(&mut room.kubectl_command(&args), text.as_bytes())
    };
    for kind in monitoring_kinds() {
        apply(&[], &kind.to_string()).ok();
    }
    let established = [
        "wait",
        "--for=condition=established",
        "--timeout=30s",
        "crd/podmonitors.monitoring.coreos.com",
        "crd/prometheusrules.monitoring.coreos.com",
    ];
    cluster.kubectl(&established).ok();
    for values in [json!({"runtimeClasses": [{"name": "helm-dry", "handler": "runc"}]}), everything()] {
        let args = ["template", "it", "--namespace", &room.name, &chart()];
        let text = helm(cluster, &[&args[..], &MONITORING].concat(), &values).ok();
        // One after another, as the hooks' own account would be; the server's schema of each kind is held strictly.
        let said = apply(&["--dry-run=server", "--validate=strict"], &text);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(!said.stderr.contains("Warning"), "{said:?}");
    }
    for kind in monitoring_kinds() {
        cluster.kubectl(&["delete", "crd", kind["metadata"]["name"].as_str().unwrap()]).ok();
    }
}
