//! containerd's registries: `config_path`, and the mirrors and TLS settings that it has given up, as `hosts.toml`.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Value;

use super::document::Leaf;
use super::draft::{HostEntry, HostsFile};
use super::rules::says_nothing;
use super::{Outcome, Work, left, needless};
use crate::files::Files;

/// Where Gantline looks first.
const OWN: &str = "/etc/gantline/certs.d";
/// Where containerd 2 looks when nothing is said.
const USUAL: [&str; 2] = ["/etc/containerd/certs.d", "/etc/docker/certs.d"];
/// Who gives credentials, without a file of the runtime's.
pub(super) const CREDENTIALS: &str = "credentials come with the pod (imagePullSecrets), or from the kubelet's own /var/lib/kubelet/config.json";

/// The TLS settings of one host.
#[derive(Clone, Debug, Default)]
struct Tls {
    skip_verify: bool,
    ca: Option<String>,
    cert: Option<String>,
    key: Option<String>,
    from: String,
}

pub(super) fn of_containerd(work: &mut Work<'_>, leaves: &[Leaf], version: i64) {
    pinned(work, leaves);
    let rest = |leaf: &Leaf| leaf.path.get(2..).unwrap_or_default().to_vec();
    let registry: Vec<&Leaf> =
        leaves.iter().filter(|leaf| leaf.path.get(1).is_some_and(|key| key == "registry")).collect();
    let config_path = registry.iter().rfind(|leaf| rest(leaf) == ["config_path"]);
    let paths: Vec<String> = config_path
        .and_then(|leaf| leaf.value.as_str())
        .map(|text| text.split(':').filter(|path| !path.is_empty()).map(str::to_owned).collect())
        .unwrap_or_default();
    let mut tls: BTreeMap<String, Tls> = BTreeMap::new();
    let mut mirrors: BTreeMap<String, (Vec<String>, String)> = BTreeMap::new();
    for leaf in &registry {
        let rest = rest(leaf);
        let parts: Vec<&str> = rest.iter().map(String::as_str).collect();
        let outcome = match parts[..] {
            ["config_path"] => continue,
            _ if says_nothing(&leaf.value) => needless("is not set"),
            ["mirrors", ..] | ["configs", _, "tls", ..] if !paths.is_empty() => {
                needless("containerd does not heed it beside config_path")
            }
            ["mirrors", host, "endpoint"] => {
                let list = leaf.value.as_array().into_iter().flatten().filter_map(Value::as_str);
                mirrors.insert(host.to_owned(), (list.map(str::to_owned).collect(), leaf.at.to_string()));
                Outcome::Carried { to: format!("certs.d/{}/hosts.toml", directory(host)) }
            }
            ["mirrors", _, "rewrite", ..] => left(
                "names of images are not rewritten",
                "let the mirror serve them under their own names, or name them as it does",
            ),
            ["configs", host, "tls", key] => {
                let entry = tls.entry(host.to_owned()).or_default();
                entry.from = leaf.at.to_string();
                let path = || leaf.value.as_str().map(str::to_owned);
                match key {
                    "insecure_skip_verify" => entry.skip_verify = leaf.value.as_bool() == Some(true),
                    "ca_file" => entry.ca = path(),
                    "cert_file" => entry.cert = path(),
                    "key_file" => entry.key = path(),
                    _ => {}
                }
                match key {
                    "insecure_skip_verify" | "ca_file" | "cert_file" | "key_file" => {
                        Outcome::Carried { to: format!("certs.d/{}/hosts.toml", directory(host)) }
                    }
                    _ => left("this version of Gantline does not know the key", "look up what it does"),
                }
            }
            ["configs", _, "auth", ..] | ["auths", ..] => {
                work.tell_secret(leaf, left("Gantline keeps no credentials", CREDENTIALS));
                continue;
            }
            ["headers", ..] => {
                let remedy =
                    "add it as [host.\"https://…\".header] to the hosts.toml of the registries that need it";
                work.tell_secret(
                    leaf,
                    left("headers are sent to the host that they are meant for alone", remedy),
                );
                continue;
            }
            _ => left("this version of Gantline does not know the key", "look up what it does"),
        };
        work.tell(leaf, outcome);
    }
    let named = mirrors.is_empty() && tls.is_empty();
    if let Some(leaf) = config_path {
        directories(work, leaf, &paths);
    } else if named && version > 2 {
        // What it does when nothing is said.
        let there: Vec<String> = USUAL
            .iter()
            .filter(|path| work.files.exists(Path::new(path)))
            .map(|path| (*path).to_owned())
            .collect();
        if there.iter().any(|path| path != USUAL[0]) {
            set_directories(work, &there, "containerd's default");
        }
    }
    files(work, &mirrors, &tls);
}

/// Images that the kubelet shall not remove.
fn pinned(work: &mut Work<'_>, leaves: &[Leaf]) {
    let images: Vec<&Leaf> =
        leaves.iter().filter(|leaf| leaf.path.get(1).is_some_and(|key| key == "pinned_images")).collect();
    let names: Vec<Value> = images.iter().map(|leaf| leaf.value.clone()).collect();
    for leaf in images {
        work.carry(leaf, &["images", "pinned"], Value::Array(names.clone()));
    }
}

fn set_directories(work: &mut Work<'_>, paths: &[String], from: &str) -> Value {
    let list: Vec<Value> =
        [OWN.to_owned()].iter().chain(paths).map(|path| Value::String(path.clone())).collect();
    let list = Value::Array(list);
    work.draft.set(&["images", "certs_d"], list.clone(), from);
    list
}

fn directories(work: &mut Work<'_>, leaf: &Leaf, paths: &[String]) {
    if paths.is_empty() {
        return work.tell(leaf, needless("is not set: the usual directories are read"));
    }
    let list = set_directories(work, paths, &leaf.at.to_string());
    work.tell(leaf, Outcome::Carried { to: format!("images.certs_d = {list}") });
    // Their files stay where they are, and must be such as Gantline reads.
    for directory in paths {
        for host in work.files.list(Path::new(directory)) {
            let path = host.join("hosts.toml");
            let registry = host.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Ok(Some(text)) = work.files.read(&path) else { continue };
            let outcome = match image::check_hosts(registry, &text, &path) {
                Ok(()) => needless(
                    "Gantline reads it where it is; copy it before you remove the package it belongs to",
                ),
                Err(error) => {
                    left(model::chain(&error), "mend the file: pulls from this registry fail otherwise")
                }
            };
            work.findings.push(super::Finding {
                at: path.display().to_string(),
                key: registry.to_owned(),
                value: "hosts.toml".into(),
                outcome,
            });
        }
    }
}

/// The directory of a registry's file.
pub(super) fn directory(registry: &str) -> &str {
    if registry == "*" { "_default" } else { registry }
}

/// Certificates that lie beside no `hosts.toml`, as docker and CRI-O have them, for a host of ours.
pub(super) fn docker_certificates(files: &Files, bases: &[&str], authority: &str, entry: &mut HostEntry) {
    for base in bases {
        for path in files.list(&Path::new(base).join(authority)) {
            let name = path.display().to_string();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => entry.ca.push(name),
                Some("cert") => entry.client.push((name, path.with_extension("key").display().to_string())),
                _ => {}
            }
        }
    }
}

fn files(
    work: &mut Work<'_>,
    mirrors: &BTreeMap<String, (Vec<String>, String)>,
    tls: &BTreeMap<String, Tls>,
) {
    let secured = |url: String, authority: &str| {
        let mut entry = HostEntry { url, ..HostEntry::default() };
        if let Some(tls) = tls.get(authority) {
            entry.skip_verify = tls.skip_verify;
            entry.ca.extend(tls.ca.clone());
            if let Some(cert) = &tls.cert {
                entry.client.push((cert.clone(), tls.key.clone().unwrap_or_default()));
            }
        }
        entry
    };
    for (registry, (endpoints, from)) in mirrors {
        let mut hosts = Vec::new();
        for endpoint in endpoints {
            let rest = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, rest)| rest);
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let entry = secured(endpoint.trim_end_matches('/').to_owned(), authority);
            // containerd takes a path as it is, and adds /v2 only where there is none.
            hosts.push(HostEntry { override_path: !path.trim_matches('/').is_empty(), ..entry });
        }
        let server = tls.contains_key(registry).then(|| secured(format!("https://{registry}"), registry));
        work.hosts.push(HostsFile {
            registry: directory(registry).to_owned(),
            server,
            hosts,
            from: from.clone(),
        });
    }
    for (registry, settings) in tls {
        if !mirrors.contains_key(registry) {
            let server = Some(secured(format!("https://{registry}"), registry));
            let from = settings.from.clone();
            work.hosts.push(HostsFile { registry: registry.clone(), server, hosts: Vec::new(), from });
        }
    }
}
