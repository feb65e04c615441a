//! Services, DNS, host ports, and pods that share the node's namespaces.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use e2e::cluster::manifests::deployment;
use e2e::cluster::room::{SOON, container};
use e2e::cluster::{Cluster, Room};
use e2e::eventually;
use serde_json::{Value, json};

use crate::workloads::{service, web};

tests![
    services_by_address_and_by_name,
    a_pod_reaches_itself_through_its_service,
    host_port,
    host_network,
    host_pid_and_host_ipc,
    share_process_namespace,
    host_users_false,
    host_names_and_dns_settings,
];

/// What came of a [`Load`].
pub(crate) struct Told {
    /// All requests.
    pub(crate) count: usize,
    /// What was said of those that failed.
    pub(crate) failed: Vec<String>,
}

impl Told {
    /// Asserts that every request was answered.
    #[track_caller]
    pub(crate) fn none_failed(&self) {
        let Self { count, failed } = self;
        assert!(failed.is_empty(), "{} of {count} requests failed: {failed:?}", failed.len());
    }
}

/// Requests over HTTP to a service's address, one after another, from a process of the machine that is no pod.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    last: Arc<Mutex<Option<String>>>,
    worker: JoinHandle<Told>,
}

impl Load {
    /// Starts asking a service that answers already.
    #[track_caller]
    pub(crate) fn start(cluster: &Cluster, room: &Room<'_>, service: &str) -> Self {
        let object = room.get("Service", service).expect("the service is there");
        let address = format!("{}:80", object["spec"]["clusterIP"].as_str().unwrap());
        eventually("the service answers", SOON, || {
            cluster.node.machine.on_its_network(|| ask(&address)).map(drop)
        });
        let stop = Arc::new(AtomicBool::new(false));
        let last = Arc::new(Mutex::new(None));
        let (stopping, saying) = (Arc::clone(&stop), Arc::clone(&last));
        // Started inside, the thread stays in the machine's network.
        let worker = cluster.node.machine.on_its_network(move || {
            std::thread::spawn(move || {
                let mut told = Told { count: 0, failed: Vec::new() };
                while !stopping.load(Ordering::Relaxed) {
                    told.count += 1;
                    match ask(&address) {
                        Ok(answer) => *saying.lock().unwrap() = Some(answer),
                        Err(error) => told.failed.push(error),
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                told
            })
        });
        Self { stop, last, worker }
    }

    /// The last answer.
    pub(crate) fn last(&self) -> Option<String> {
        self.last.lock().unwrap().clone()
    }

    /// Stops asking.
    pub(crate) fn stop(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.join().expect("the load's thread")
    }
}

/// One GET of `/`: the body of an answer 200.
pub(crate) fn ask(address: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| error.to_string();
    let to = address.parse().map_err(|error| format!("{address}: {error}"))?;
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(failed)?;
    stream.write_all(format!("GET / HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_string()),
        _ => Err(format!("not an answer: {answer:?}")),
    }
}

/// A shell line that gets `/` of a host and prints the last line of it. Debian's busybox has a wget that dies of names.
fn fetch(host: &str) -> String {
    format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {host} 80 | tail -n 1")
}

fn idle(more: Value) -> Value {
    let mut spec = json!({"terminationGracePeriodSeconds": 1, "containers": [container("main", "sleep 1000", json!({}))]});
    if let (Value::Object(spec), Value::Object(more)) = (&mut spec, more) {
        spec.extend(more);
    }
    spec
}

fn services_by_address_and_by_name(cluster: &Cluster) {
    let room = cluster.room("services");
    room.apply(deployment("web", 2, json!({"containers": [web("$HOSTNAME")]})));
    let service = room.apply(service("web"));
    room.rolled_out("Deployment", "web");
    room.pod("client", idle(json!({})));
    room.ready("client");
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    let names = [
        "web".to_string(),
        format!("web.{}", room.name),
        format!("web.{}.svc.cluster.local", room.name),
        address.into(),
    ];
    for name in names {
        eventually(&format!("{name} answers"), SOON, || {
            let said = room.exec("client", &fetch(&name));
            if said.stdout.starts_with("web-") { Ok(()) } else { Err(format!("{said:?}")) }
        });
    }
    let line = format!("for i in $(seq 30); do {}; done | sort -u | wc -l", fetch(address));
    // The API server is a service too.
    let open = "nc -w 5 kubernetes.default 443 < /dev/null && echo open";
    for (what, line, expected) in
        [("both pods answer", line.as_str(), "2"), ("the API server answers", open, "open")]
    {
        eventually(what, SOON, || {
            let said = room.exec("client", line);
            if said.stdout.trim() == expected { Ok(()) } else { Err(format!("{said:?}")) }
        });
    }
}

fn a_pod_reaches_itself_through_its_service(cluster: &Cluster) {
    let room = cluster.room("hairpin");
    room.apply(deployment("web", 1, json!({"containers": [web("myself")]})));
    room.apply(service("web"));
    room.rolled_out("Deployment", "web");
    let pod = room.pods("app=web")[0]["metadata"]["name"].as_str().unwrap().to_string();
    eventually("it hears itself", SOON, || {
        let said = room.exec(&pod, &fetch("web"));
        if said.stdout == "myself\n" { Ok(()) } else { Err(format!("{said:?}")) }
    });
}

fn host_port(cluster: &Cluster) {
    let room = cluster.room("hostport");
    let mut web = web("by-host-port");
    web["ports"] = json!([{"containerPort": 8080, "hostPort": 18080}]);
    room.pod("web", json!({"terminationGracePeriodSeconds": 1, "containers": [web]}));
    room.ready("web");
    // From the host, over the machine's link.
    let address = format!("{}:18080", cluster.place.address);
    eventually("the port answers", SOON, || ask(&address).map(|body| assert_eq!(body, "by-host-port\n")));
    room.delete("Pod", "web");
    eventually("the port is closed again", SOON, || match ask(&address) {
        Ok(_) => Err("it answers".into()),
        Err(_) => Ok(()),
    });
}

fn host_network(cluster: &Cluster) {
    let room = cluster.room("hostnetwork");
    room.pod("main", idle(json!({"hostNetwork": true})));
    let pod = room.ready("main");
    assert_eq!(pod["status"]["podIP"], json!(cluster.place.address));
    let inside = room.exec("main", "readlink /proc/self/ns/net").ok();
    assert_eq!(inside, cluster.node.machine.sh("readlink /proc/self/ns/net"));
    assert!(room.exec("main", "ip -o addr").ok().contains(&cluster.place.address));
}

fn host_pid_and_host_ipc(cluster: &Cluster) {
    let room = cluster.room("hostpid");
    room.pod("main", idle(json!({"hostPID": true, "hostIPC": true})));
    room.ready("main");
    for kind in ["pid", "ipc"] {
        let inside = room.exec("main", &format!("readlink /proc/self/ns/{kind}")).ok();
        assert_eq!(inside, cluster.node.machine.sh(&format!("readlink /proc/self/ns/{kind}")), "{kind}");
    }
    assert!(room.exec("main", "ps -o comm").ok().contains("kubelet"));
}

fn share_process_namespace(cluster: &Cluster) {
    let room = cluster.room("sharedpid");
    let spec = json!({
        "shareProcessNamespace": true, "terminationGracePeriodSeconds": 1,
        "containers": [container("main", "sleep 1001", json!({})), container("other", "sleep 1002", json!({}))],
    });
    room.pod("both", spec);
    room.ready("both");
    let seen = room.kubectl(&["exec", "both", "-c", "main", "--", "ps", "-o", "pid,args"]).ok();
    assert!(seen.contains("sleep 1001") && seen.contains("sleep 1002"), "{seen}");
    let first = seen.lines().nth(1).unwrap_or_default();
    assert!(
        first.trim().starts_with("1 ") && !first.contains("sleep"),
        "pid 1 is nobody's container: {first}"
    );
    room.delete("Pod", "both");
    room.gone("app=both");
}

fn host_users_false(cluster: &Cluster) {
    let room = cluster.room("users");
    let spec = idle(json!({
        "hostUsers": false, "runtimeClassName": "runc",
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    }));
    let mut spec = spec;
    spec["containers"][0]["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
    room.pod("mapped", spec);
    room.ready("mapped");
    let map = room.exec("mapped", "cat /proc/self/uid_map").ok();
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!((words[0], words[2]), ("0", "65536"), "{map}");
    assert_ne!(words[1], "0", "root inside is nobody outside: {map}");
    assert_eq!(
        room.exec("mapped", "touch /scratch/mine && stat -c %u /scratch/mine && id -u").ok(),
        "0\n0\n"
    );
}

fn host_names_and_dns_settings(cluster: &Cluster) {
    let room = cluster.room("names");
    let spec = idle(json!({
        "hostname": "alpha", "subdomain": "beta", "setHostnameAsFQDN": false,
        "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["gamma", "delta"]}],
        "dnsPolicy": "None", "dnsConfig": {"nameservers": ["10.96.0.10"], "searches": ["example.org"], "options": [{"name": "ndots", "value": "3"}]},
        "securityContext": {"sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "20000 30000"}]},
    }));
    room.pod("named", spec);
    room.ready("named");
    assert_eq!(room.exec("named", "hostname").ok(), "alpha\n");
    let hosts = room.exec("named", "cat /etc/hosts").ok();
    assert!(hosts.contains("10.1.2.3\tgamma\tdelta"), "{hosts}");
    assert!(hosts.contains(&format!("alpha.beta.{}.svc.cluster.local\talpha", room.name)), "{hosts}");
    let resolv = room.exec("named", "cat /etc/resolv.conf").ok();
    for line in ["nameserver 10.96.0.10", "search example.org", "options ndots:3"] {
        assert!(resolv.contains(line), "{resolv}");
    }
    assert_eq!(
        room.exec("named", "cat /proc/sys/net/ipv4/ip_local_port_range")
            .ok()
            .split_whitespace()
            .collect::<Vec<_>>(),
        ["20000", "30000"]
    );
}
