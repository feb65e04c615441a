//! Images: a private registry, pull policies, and what a person reads when a name is wrong.

use std::fs;

use e2e::cluster::Cluster;
use e2e::cluster::room::{SOON, busybox, status_of};
use e2e::command::Running;
use e2e::image::{Tree, busybox_builder};
use e2e::{eventually, http};
use serde_json::{Value, json};

tests![a_private_registry_wants_a_pull_secret, pull_policies, wrong_names_are_told_in_words,];

const PORT: u16 = 5001;
/// bcrypt of `opensesame`: the only hash that the registry takes.
const PASSWORD: &str = "ali:$2y$05$abcdefghijklmnopqrstuuQbLfdQZSxZ9gjhA5V9o8Tyc6aQRO0Qi\n";

/// A second registry on the same storage that wants a name and a password.
fn private_registry(cluster: &Cluster) -> Running {
    let machine = &cluster.node.machine;
    let (dir, storage) = (cluster.place.dir.join("private"), machine.dir().join("registry/storage"));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("htpasswd"), PASSWORD).unwrap();
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{PORT}'}}\n\
             auth: {{htpasswd: {{realm: private, path: {}}}}}\n",
        storage.display(),
        dir.join("htpasswd").display()
    );
    fs::write(dir.join("config.yml"), config).unwrap();
    let mut line = machine.command(e2e::programs::installed("docker-registry"));
    line.arg("serve").arg(dir.join("config.yml")).env("OTEL_TRACES_EXPORTER", "none");
    let private = Running::logged(&mut line, &dir.join("log"));
    eventually("the private registry refuses", SOON, || {
        let address = ([127, 0, 0, 1], PORT).into();
        match machine.on_its_network(|| http::request(address, "GET", "/v2/", "", b"")) {
            Ok(answer) if answer.status == 401 => Ok(()),
            Ok(answer) => Err(answer.status.to_string()),
            Err(error) => Err(error.to_string()),
        }
    });
    cluster.node.config.plain_http(&format!("127.0.0.1:{PORT}"));
    private
}

/// An image that nobody else has.
fn own_image(cluster: &Cluster, name: &str) {
    let image = busybox_builder().layer(Tree::default().file("mark", 0o644, name.as_bytes())).build();
    cluster.node.push(&image, name);
}

fn a_private_registry_wants_a_pull_secret(cluster: &Cluster) {
    let _private = private_registry(cluster);
    own_image(cluster, "secret:1");
    let room = cluster.room("private");
    let image = format!("127.0.0.1:{PORT}/secret:1");
    let pod = |name: &str, secrets: Value| {
        let main =
            json!({"name": "main", "image": image, "command": ["cat", "/mark"], "imagePullPolicy": "Always"});
        room.pod(name, json!({"restartPolicy": "Never", "imagePullSecrets": secrets, "containers": [main]}));
    };
    pod("stranger", json!([]));
    let refused = |name: &str| {
        let event = room.event(name, "Failed to pull image");
        assert!(event.contains(&image) && event.contains("authentication required (401)"), "{event}");
    };
    refused("stranger");
    let secret = |name: &str, password: &str| {
        let auths =
            json!({"auths": {format!("127.0.0.1:{PORT}"): {"username": "ali", "password": password}}});
        room.apply(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": auths.to_string()},
        }));
    };
    secret("right", "opensesame");
    secret("wrong", "guess");
    pod("guesser", json!([{"name": "wrong"}]));
    refused("guesser");
    pod("friend", json!([{"name": "right"}]));
    assert_eq!(room.ended("friend"), "Succeeded");
    assert_eq!(room.kubectl(&["logs", "friend"]).ok().trim(), "secret:1");
}

fn pull_policies(cluster: &Cluster) {
    let room = cluster.room("policies");
    own_image(cluster, "policy:1");
    let image = "127.0.0.1:5000/policy:1";
    let pod = |name: &str, policy: &str| {
        let main =
            json!({"name": "main", "image": image, "command": ["cat", "/mark"], "imagePullPolicy": policy});
        room.pod(name, json!({"restartPolicy": "Never", "containers": [main]}));
    };
    pod("never", "Never");
    let waiting = room.wait_pod("never", "waits", |pod| {
        status_of(pod, "main")["state"]["waiting"]["reason"]
            .as_str()
            .map(String::from)
            .filter(|reason| reason != "ContainerCreating")
    });
    assert_eq!(waiting, "ErrImageNeverPull");
    pod("first", "IfNotPresent");
    assert_eq!(room.ended("first"), "Succeeded");
    let status = status_of(&room.get("Pod", "first").unwrap(), "main").clone();
    assert_eq!(status["image"], image, "people know it by its name");
    assert!(status["imageID"].as_str().unwrap().contains("policy@sha256:"), "{status}");
    pod("second", "IfNotPresent");
    assert_eq!(room.ended("second"), "Succeeded");
    room.event("second", "already present on machine");
    // The tag moves on; who asks always has the new one.
    let newer = busybox_builder().layer(Tree::default().file("mark", 0o644, b"newer")).build();
    cluster.node.push(&newer, "policy:1");
    pod("always", "Always");
    assert_eq!(room.ended("always"), "Succeeded");
    assert_eq!(room.kubectl(&["logs", "always"]).ok().trim(), "newer");
}

fn wrong_names_are_told_in_words(cluster: &Cluster) {
    let room = cluster.room("wrong");
    let pod = |name: &str, image: &str| {
        room.pod(name, json!({"containers": [{"name": "main", "image": image}]}));
    };
    pod("tag", "127.0.0.1:5000/busybox:no-such-tag");
    pod("syntax", "127.0.0.1:5000/UPPER CASE");
    pod("host", "127.0.0.1:9/busybox:1");
    let event = room.event("tag", "Failed to pull image");
    assert!(
        event.contains("127.0.0.1:5000/busybox:no-such-tag") && event.to_lowercase().contains("not found"),
        "{event}"
    );
    let event = room.event("host", "Failed to pull image");
    assert!(event.to_lowercase().contains("refused"), "{event}");
    // Beside the event with the words is one with the reason that people look for.
    room.event("tag", "Error: ErrImagePull");
    let waits = |name: &str, reason: &str| {
        room.wait_pod(name, &format!("waits for {reason}"), |pod| {
            let waiting = &status_of(pod, "main")["state"]["waiting"];
            (waiting["reason"] == reason).then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
        })
    };
    waits("syntax", "InvalidImageName");
    // What went wrong is told for as long as the pod waits, not in events alone, which go.
    let message = waits("tag", "ImagePullBackOff");
    let expected =
        ["Back-off pulling image", "ErrImagePull", "127.0.0.1:5000/busybox:no-such-tag", "not found"];
    assert!(expected.iter().all(|words| message.contains(words)), "{message}");
    // The right name later is all that it takes.
    let change = json!({"spec": {"containers": [{"name": "main", "image": busybox()}]}});
    cluster.api.merge("Pod", &room.name, "tag", None, &change).unwrap();
    room.wait_pod("tag", "has its image", |pod| {
        status_of(pod, "main")["imageID"].as_str().filter(|id| !id.is_empty()).map(drop)
    });
}
