//! What the cluster is made of, as objects: the control plane's static pods, the kubelet's configuration, kube-proxy
//! and CoreDNS. They follow what kubeadm writes, less what one node has no use for.

use std::path::Path;

use serde_json::{Value, json};

use super::images::name_of;
use super::{Place, Settings};

/// Where the API server listens.
pub const API_PORT: u16 = 6443;

/// Pods of the control plane by file name: etcd and the three programs of Kubernetes.
pub fn static_pods(place: &Place) -> Vec<(&'static str, Value)> {
    let pki = |file: &str| place.pki.path(file).display().to_string();
    let option = |name: &str, value: &str| format!("--{name}={value}");
    let etcd = vec![
        option("data-dir", "/var/lib/etcd"),
        option("listen-client-urls", "http://127.0.0.1:2379"),
        option("advertise-client-urls", "http://127.0.0.1:2379"),
        option("listen-peer-urls", "http://127.0.0.1:2380"),
        // A cluster for a day: the machine's disk is busy enough.
        "--unsafe-no-fsync".into(),
    ];
    let apiserver = vec![
        option("advertise-address", &place.address),
        option("secure-port", &API_PORT.to_string()),
        option("etcd-servers", "http://127.0.0.1:2379"),
        option("service-cluster-ip-range", super::SERVICES),
        option("client-ca-file", &pki("ca.crt")),
        option("tls-cert-file", &pki("apiserver.crt")),
        option("tls-private-key-file", &pki("apiserver.key")),
        option("kubelet-certificate-authority", &pki("ca.crt")),
        option("kubelet-client-certificate", &pki("apiserver-kubelet.crt")),
        option("kubelet-client-key", &pki("apiserver-kubelet.key")),
        option("kubelet-preferred-address-types", "InternalIP"),
        option("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
        option("service-account-key-file", &pki("sa.pub")),
        option("service-account-signing-key-file", &pki("sa.key")),
        option("authorization-mode", "Node,RBAC"),
        option("enable-admission-plugins", "NodeRestriction"),
        "--allow-privileged".into(),
        // Alpha, and a runtime's business: a container's own stop signal.
        option("feature-gates", "ContainerStopSignals=true"),
    ];
    let manager = vec![
        option("kubeconfig", &pki("controller-manager.conf")),
        option("root-ca-file", &pki("ca.crt")),
        option("service-account-private-key-file", &pki("sa.key")),
        "--use-service-account-credentials".into(),
        option("leader-elect", "false"),
        option("bind-address", "127.0.0.1"),
    ];
    let scheduler = vec![
        option("kubeconfig", &pki("scheduler.conf")),
        option("leader-elect", "false"),
        option("bind-address", "127.0.0.1"),
    ];
    vec![
        ("etcd", static_pod(place, "etcd", etcd, probe("HTTP", "127.0.0.1", 2379, "/readyz"))),
        (
            "kube-apiserver",
            static_pod(
                place,
                "kube-apiserver",
                apiserver,
                probe("HTTPS", &place.address, API_PORT, "/livez"),
            ),
        ),
        (
            "kube-controller-manager",
            static_pod(
                place,
                "kube-controller-manager",
                manager,
                probe("HTTPS", "127.0.0.1", 10257, "/healthz"),
            ),
        ),
        (
            "kube-scheduler",
            static_pod(place, "kube-scheduler", scheduler, probe("HTTPS", "127.0.0.1", 10259, "/livez")),
        ),
    ]
}

fn probe(scheme: &str, host: &str, port: u16, path: &str) -> Value {
    json!({"httpGet": {"scheme": scheme, "host": host, "port": port, "path": path},
           "periodSeconds": 5, "timeoutSeconds": 15, "failureThreshold": 12})
}

fn static_pod(place: &Place, name: &str, args: Vec<String>, probe: Value) -> Value {
    let pki = place.pki.path("ca.crt").parent().map(|dir| dir.display().to_string());
    let mut startup = probe.clone();
    startup["periodSeconds"] = json!(1);
    startup["failureThreshold"] = json!(120);
    let mut mounts = vec![json!({"name": "pki", "mountPath": pki, "readOnly": true})];
    let mut volumes = vec![json!({"name": "pki", "hostPath": {"path": pki, "type": "Directory"}})];
    if name == "etcd" {
        mounts.push(json!({"name": "data", "mountPath": "/var/lib/etcd"}));
        volumes.push(
            json!({"name": "data", "hostPath": {"path": "/var/lib/etcd", "type": "DirectoryOrCreate"}}),
        );
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "kube-system", "labels": {"component": name, "tier": "control-plane"}},
        "spec": {
            "hostNetwork": true, "priorityClassName": "system-node-critical",
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": name, "image": name_of(name), "imagePullPolicy": "IfNotPresent", "args": args,
                "resources": {"requests": {"cpu": "10m"}},
                "startupProbe": startup, "livenessProbe": probe, "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    })
}

/// The kubelet's configuration file.
pub fn kubelet(place: &Place, socket: &Path, settings: &Settings) -> Value {
    let pki = |file: &str| place.pki.path(file).display().to_string();
    let mut gates = json!({"ContainerStopSignals": true});
    merge(&mut gates, &settings.gates);
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", socket.display()),
        "staticPodPath": place.manifests,
        "volumePluginDir": place.dir.join("volume-plugins"),
        "resolvConf": place.dir.join("resolv.conf"),
        "cgroupRoot": place.cgroup,
        "clusterDNS": [super::DNS], "clusterDomain": "cluster.local",
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": false}, "x509": {"clientCAFile": pki("ca.crt")},
        },
        // Whom our authority signed: the API server and the administrator.
        "authorization": {"mode": "AlwaysAllow"},
        "tlsCertFile": pki("kubelet-server.crt"), "tlsPrivateKeyFile": pki("kubelet-server.key"),
        // This machine is as it is: cgroup v1, no CAP_SYS_RESOURCE.
        "failCgroupV1": false, "failSwapOn": false, "oomScoreAdj": 0,
        // Other people's disk and memory are no reason to evict.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "50Mi", "nodefs.inodesFree": "1%"},
        "imageGCHighThresholdPercent": 100,
        "featureGates": gates,
        "maxPods": 250,
        // Small enough to be seen, and none is thrown away while a test reads.
        "containerLogMaxSize": "1Mi", "containerLogMaxFiles": 100, "containerLogMonitorInterval": "3s",
        // What a node of a day has no need to be careful about.
        "registryPullQPS": 0, "eventRecordQPS": 0, "kubeAPIQPS": 200, "kubeAPIBurst": 200,
    });
    merge(&mut config, &settings.kubelet);
    config
}

/// Sets the fields of one object in another.
fn merge(object: &mut Value, more: &Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more.clone());
    }
}

/// kube-proxy and CoreDNS with what they may do.
pub fn addons(place: &Place) -> Vec<Value> {
    let account = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "kube-system"},
        })
    };
    let bound = |name: &str, role: &str, account: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "kube-system"}],
        })
    };
    let mut all = vec![account("kube-proxy"), bound("e2e:kube-proxy", "system:node-proxier", "kube-proxy")];
    all.extend(proxy(place));
    all.push(account("coredns"));
    all.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "system:coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    }));
    all.push(bound("system:coredns", "system:coredns", "coredns"));
    all.extend(dns());
    // Both OCI runtimes by name; pods that name none have the first.
    all.extend(["crun", "runc"].map(|handler| json!({
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": handler}, "handler": handler,
    })));
    all
}

fn proxy(place: &Place) -> [Value; 2] {
    let labels = json!({"k8s-app": "kube-proxy"});
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables",
        "clientConnection": {"kubeconfig": "/config/kubeconfig"},
        "clusterCIDR": place.pods, "oomScoreAdj": 0, "hostnameOverride": super::NODE,
        // The machine's connection tracking is the host's to bound.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    });
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "default",
        "clusters": [{"name": "default", "cluster": {"server": place.server(), "certificate-authority": format!("{account}/ca.crt")}}],
        "users": [{"name": "default", "user": {"tokenFile": format!("{account}/token")}}],
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
    });
    [
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
            "data": {"config": config.to_string(), "kubeconfig": kubeconfig.to_string()},
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": "kube-proxy", "namespace": "kube-system", "labels": labels},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "hostNetwork": true, "serviceAccountName": "kube-proxy",
                        "priorityClassName": "system-node-critical", "tolerations": [{"operator": "Exists"}],
                        "containers": [{
                            "name": "kube-proxy", "image": name_of("kube-proxy"), "args": ["--config=/config/config"],
                            "securityContext": {"privileged": true},
                            "volumeMounts": [{"name": "config", "mountPath": "/config"}],
                        }],
                        "volumes": [{"name": "config", "configMap": {"name": "kube-proxy"}}],
                    },
                },
            },
        }),
    ]
}

fn dns() -> [Value; 3] {
    let labels = json!({"k8s-app": "kube-dns"});
    let corefile = ".:53 {\n    errors\n    health {\n        lameduck 2s\n    }\n    ready\n    \
        kubernetes cluster.local in-addr.arpa ip6.arpa {\n        pods insecure\n    }\n    cache 5\n}\n";
    let get = |path: &str, port: u16| json!({"httpGet": {"path": path, "port": port}, "periodSeconds": 2, "timeoutSeconds": 15});
    [
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "coredns", "namespace": "kube-system"},
            "data": {"Corefile": corefile},
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "coredns", "namespace": "kube-system", "labels": labels},
            "spec": {
                "replicas": 1, "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "serviceAccountName": "coredns", "dnsPolicy": "Default", "priorityClassName": "system-cluster-critical",
                        "containers": [{
                            "name": "coredns", "image": name_of("coredns"), "args": ["-conf", "/etc/coredns/Corefile"],
                            "readinessProbe": get("/ready", 8181), "livenessProbe": get("/health", 8080),
                            "securityContext": {
                                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                                "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
                            },
                            "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": true}],
                        }],
                        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
                    },
                },
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
            "spec": {
                "selector": labels, "clusterIP": super::DNS,
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                ],
            },
        }),
    ]
}

/// A Deployment of so many pods as `spec`, which have the label `app` with its name.
pub fn deployment(name: &str, replicas: u64, spec: Value) -> Value {
    let mut object = workload("Deployment", name, spec);
    object["spec"]["replicas"] = json!(replicas);
    object
}

/// A DaemonSet in the same way.
pub fn daemon_set(name: &str, spec: Value) -> Value {
    workload("DaemonSet", name, spec)
}

fn workload(kind: &str, name: &str, spec: Value) -> Value {
    let labels = json!({"app": name});
    json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    })
}
