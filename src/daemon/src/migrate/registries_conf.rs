//! `registries.conf` and `policy.json`, which CRI-O shares with podman (containers-registries.conf(5),
//! containers-policy.json(5)): versions 1 and 2, as `hosts.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Value;

use super::document::{self, At, Leaf, Unreadable};
use super::draft::{HostEntry, HostsFile};
use super::registries::{CREDENTIALS, docker_certificates};
use super::rules::says_nothing;
use super::{Outcome, Work, left, needless};

const FILE: &str = "/etc/containers/registries.conf";
const DROP_INS: &str = "/etc/containers/registries.conf.d";
const POLICY: &str = "/etc/containers/policy.json";
/// Docker's layout of certificates.
const CERTIFICATES: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];
const FORBIDDEN: &str =
    "forbid it by an admission policy (ValidatingAdmissionPolicy), which tells the pod's owner why";

/// What is said of one prefix of names.
#[derive(Clone, Debug, Default)]
struct Registry {
    location: String,
    insecure: bool,
    /// Where, whether without TLS, and whether for digests alone.
    mirrors: Vec<(String, bool, bool)>,
    from: String,
}

/// CRI-O's own keys of images, and the files beside. Returns the files that were read.
pub(super) fn of_crio(work: &mut Work<'_>, leaves: &[Leaf]) -> Result<Vec<PathBuf>, Unreadable> {
    let mut read = Vec::new();
    let mut registries: BTreeMap<String, Registry> = BTreeMap::new();
    let mut texts = vec![PathBuf::from(FILE)];
    texts.extend(
        work.files
            .list(Path::new(DROP_INS))
            .into_iter()
            .filter(|path| path.extension().is_some_and(|e| e == "conf")),
    );
    for path in texts {
        let text = match work.files.read(&path) {
            Ok(Some(text)) => text,
            Ok(None) => continue,
            Err(error) => return Err(Unreadable::new(&path, &error.to_string())),
        };
        for leaf in document::read(&path, &text)? {
            self::leaf(work, &leaf, &mut registries);
        }
        read.push(path);
    }
    for leaf in leaves {
        match leaf.path.last().map(String::as_str) {
            Some("insecure_registries") => insecure(work, leaf, &mut registries),
            Some("signature_policy") => {
                work.tell(leaf, needless("the policy's file is told of by itself"));
                read.extend(policy(work, leaf));
            }
            _ => {}
        }
    }
    for (prefix, registry) in &registries {
        let file = file(work, prefix, registry);
        work.hosts.push(file);
    }
    let there = CERTIFICATES.iter().find(|path| work.files.exists(Path::new(path)));
    if let Some(certificates) = there {
        let list = ["/etc/gantline/certs.d", certificates].map(|path| Value::String(path.into()));
        work.draft.set(&["images", "certs_d"], Value::Array(list.to_vec()), certificates);
    }
    Ok(read)
}

fn leaf(work: &mut Work<'_>, leaf: &Leaf, registries: &mut BTreeMap<String, Registry>) {
    let parts: Vec<&str> = leaf.path.iter().map(String::as_str).collect();
    let outcome = match parts[..] {
        ["registry"] => {
            for table in leaf.value.as_array().into_iter().flatten() {
                registry(work, leaf, table, registries);
            }
            return;
        }
        ["unqualified-search-registries"] | ["registries", "search", "registries"] => {
            let names: Vec<_> =
                leaf.value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            match names[..] {
                [] | ["docker.io"] => needless("a name without a registry means docker.io"),
                _ => left(
                    "a name without a registry means docker.io, always",
                    "write images with their registry in manifests: which one is meant is not the node's to say",
                ),
            }
        }
        ["short-name-mode"] => needless("a name without a registry means docker.io"),
        ["aliases", alias] => {
            let target = leaf.value.as_str().unwrap_or_default();
            if target == format!("docker.io/library/{alias}") || target.is_empty() {
                needless("a name without a registry means docker.io/library")
            } else {
                left(
                    "a name without a registry means docker.io, always",
                    "write images with their registry in manifests",
                )
            }
        }
        ["credential-helpers"]
            if leaf.value.as_array().is_some_and(|list| {
                list.iter().all(|item| item.as_str() == Some("containers-auth.json"))
            }) =>
        {
            needless(CREDENTIALS)
        }
        ["credential-helpers"] => left(
            "Gantline asks no credential helpers",
            "the kubelet does: --image-credential-provider-config",
        ),
        ["registries", "insecure", "registries"] => return insecure(work, leaf, registries),
        ["registries", "block", "registries"] if !says_nothing(&leaf.value) => {
            left("no registry is forbidden here", FORBIDDEN)
        }
        _ if says_nothing(&leaf.value) => needless("is not set"),
        _ => left("this version of Gantline does not know the key", "look up what it does"),
    };
    work.tell(leaf, outcome);
}

fn insecure(work: &mut Work<'_>, leaf: &Leaf, registries: &mut BTreeMap<String, Registry>) {
    if says_nothing(&leaf.value) {
        return work.tell(leaf, needless("is not set"));
    }
    let names: Vec<&str> = leaf.value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if let Some(strange) = names.iter().find(|name| name.contains(['/', '*'])) {
        let why = format!("{strange} is not one registry: Gantline is told by registry whom to trust");
        work.tell(leaf, left(why, "list each registry by its host and port"));
    }
    for name in names.iter().filter(|name| !name.contains(['/', '*'])) {
        let entry = registries.entry((*name).to_owned()).or_default();
        entry.insecure = true;
        entry.location = (*name).to_owned();
        entry.from = leaf.at.to_string();
    }
    let files: Vec<_> = names
        .iter()
        .filter(|name| !name.contains(['/', '*']))
        .map(|name| format!("certs.d/{name}/hosts.toml"))
        .collect();
    if !files.is_empty() {
        work.tell(leaf, Outcome::Carried { to: files.join(", ") });
    }
}

/// One `[[registry]]`.
fn registry(work: &mut Work<'_>, leaf: &Leaf, table: &Value, registries: &mut BTreeMap<String, Registry>) {
    let text =
        |table: &Value, key: &str| table.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let flag = |table: &Value, key: &str| table.get(key).and_then(Value::as_bool).unwrap_or(false);
    let location = text(table, "location");
    let prefix = match text(table, "prefix") {
        prefix if prefix.is_empty() => location.clone(),
        prefix => prefix,
    };
    let shown = |key: &str| format!("registry {prefix}: {key}");
    let mut tell = |key: &str, value: String, outcome: Outcome| {
        work.findings.push(super::Finding { at: leaf.at.to_string(), key: shown(key), value, outcome });
    };
    if prefix.contains(['/', '*']) || prefix.is_empty() {
        let why = "mirrors are by registry here, not by namespace, repository or wildcard";
        return tell(
            "prefix",
            prefix.clone(),
            left(
                why,
                "write certs.d/<host>/hosts.toml for each registry that is meant, if its mirror has all of it",
            ),
        );
    }
    for key in table.as_table().into_iter().flat_map(|table| table.keys()) {
        let known = ["prefix", "location", "insecure", "blocked", "mirror", "mirror-by-digest-only"];
        if !known.contains(&key.as_str()) {
            tell(
                key,
                String::new(),
                left("this version of Gantline does not know the key", "look up what it does"),
            );
        }
    }
    if flag(table, "blocked") {
        return tell("blocked", "true".into(), left("no registry is forbidden here", FORBIDDEN));
    }
    let by_digest_only = flag(table, "mirror-by-digest-only");
    let mut mirrors = Vec::new();
    for mirror in table.get("mirror").and_then(Value::as_array).into_iter().flatten() {
        let at = text(mirror, "location");
        let by_digest = match text(mirror, "pull-from-mirror").as_str() {
            "digest-only" => true,
            "tag-only" => {
                let why = "a mirror for tags alone is not to be had: it is asked for digests too";
                tell("pull-from-mirror", "tag-only".into(), left(why, "see that it has what its tags name"));
                by_digest_only
            }
            _ => by_digest_only,
        };
        mirrors.push((at, flag(mirror, "insecure"), by_digest));
    }
    let plain = mirrors.is_empty() && !flag(table, "insecure") && (location.is_empty() || location == prefix);
    if plain {
        return tell("location", location, needless("it is asked at its own name"));
    }
    tell(
        "location and mirrors",
        mirrors.iter().map(|(at, ..)| at.as_str()).collect::<Vec<_>>().join(", "),
        Outcome::Carried { to: format!("certs.d/{prefix}/hosts.toml") },
    );
    let location = if location.is_empty() { prefix.clone() } else { location };
    let entry = Registry { location, insecure: flag(table, "insecure"), mirrors, from: leaf.at.to_string() };
    registries.insert(prefix, entry);
}

/// The hosts of a location, `host[:port][/path]`: one, or two where it may be without TLS, as it is tried with first.
fn entries(work: &Work<'_>, location: &str, insecure: bool, by_digest_only: bool) -> Vec<HostEntry> {
    let (authority, path) = location.trim_end_matches('/').split_once('/').unwrap_or((location, ""));
    let rest = if path.is_empty() { authority.to_owned() } else { format!("{authority}/v2/{path}") };
    let schemes: &[&str] = if insecure { &["https", "http"] } else { &["https"] };
    let entry = |scheme: &&str| {
        let mut entry = HostEntry {
            url: format!("{scheme}://{rest}"),
            override_path: !path.is_empty(),
            by_digest_only,
            skip_verify: insecure && *scheme == "https",
            ..HostEntry::default()
        };
        if *scheme == "https" {
            docker_certificates(work.files, &CERTIFICATES, authority, &mut entry);
        }
        entry
    };
    schemes.iter().map(entry).collect()
}

fn file(work: &Work<'_>, prefix: &str, registry: &Registry) -> HostsFile {
    let mut hosts: Vec<HostEntry> = Vec::new();
    for (location, insecure, by_digest_only) in &registry.mirrors {
        hosts.extend(entries(work, location, *insecure, *by_digest_only));
    }
    let mut own = entries(work, &registry.location, registry.insecure, false);
    let server = own.pop();
    hosts.extend(own);
    HostsFile { registry: prefix.to_owned(), server, hosts, from: registry.from.clone() }
}

/// Signatures are not looked at: whoever relies on them must know.
fn policy(work: &mut Work<'_>, leaf: &Leaf) -> Option<PathBuf> {
    let path = match leaf.value.as_str() {
        None | Some("") => PathBuf::from(POLICY),
        Some(path) => PathBuf::from(path),
    };
    let text = work.files.read(&path).ok().flatten();
    let policy: Option<serde_json::Value> = text.as_ref().and_then(|text| serde_json::from_str(text).ok());
    let accepts = |rules: &serde_json::Value| {
        rules
            .as_array()
            .is_some_and(|rules| rules.iter().all(|rule| rule["type"] == "insecureAcceptAnything"))
    };
    // The part of it for images of registries; docker-daemon's images are not pulled by any runtime.
    let open = policy.as_ref().is_none_or(|policy| {
        let scopes = policy["transports"]["docker"].as_object();
        accepts(&policy["default"]) && scopes.is_none_or(|scopes| scopes.values().all(accepts))
    });
    let outcome = if open {
        needless("it accepts every image")
    } else {
        left(
            "signatures of images are not looked at",
            "verify them at admission (a policy controller), before pods reach the node",
        )
    };
    let at = At::Line(path.clone(), 1);
    work.tell(
        &Leaf { path: vec!["policy".into()], value: Value::String(path.display().to_string()), at },
        outcome,
    );
    text.map(|_| path)
}
