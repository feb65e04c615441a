//! Whether pods can be given a network: a CNI configuration that is right, its plugins, and what they speak.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Host, Report};

const SUBJECT: &str = "cni";

pub(super) fn check(host: &Host<'_>, report: &mut Report) {
    let network = &host.config.network;
    let lists = lists(host, &network.conf_dir);
    let Some(first) = lists.first() else {
        return report.warn(
            SUBJECT,
            format!("{} has no network list", network.conf_dir.display()),
            "pods start once a network add-on, or you, put one there; the node is NotReady until then",
        );
    };
    match read(host, first) {
        Ok(list) => plugins(host, &list, report),
        Err(why) => {
            report.fail(SUBJECT, why, "repair the network list; files are tried in the order of their names");
        }
    }
    if lists.len() > 1 {
        let others: Vec<_> = lists[1..].iter().map(|path| path.display().to_string()).collect();
        report.ok(SUBJECT, format!("not used, as {} comes first: {}", first.display(), others.join(", ")));
    }
}

/// A network list, as far as this check reads it.
#[derive(Debug, PartialEq, Eq)]
struct List {
    path: PathBuf,
    name: String,
    /// What its plugins must speak.
    version: String,
    plugins: Vec<String>,
}

/// The lists of a directory in the order in which libcni takes them.
fn lists(host: &Host<'_>, directory: &Path) -> Vec<PathBuf> {
    let mut paths = host.files.list(directory);
    paths.retain(|path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("conflist" | "conf" | "json"))
    });
    paths
}

fn read(host: &Host<'_>, path: &Path) -> Result<List, String> {
    let fault = |why: String| format!("{}: {why}", path.display());
    let text = host.files.read(path).map_err(|error| fault(error.to_string()))?.unwrap_or_default();
    let value: Value = serde_json::from_str(&text).map_err(|error| fault(error.to_string()))?;
    let string = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let name = string(&value, "name").ok_or_else(|| fault("has no name".to_owned()))?;
    // CNI 1.0.0: a list that does not say is of 0.1.0.
    let version = string(&value, "cniVersion").unwrap_or_else(|| "0.1.0".to_owned());
    let plugins: Vec<String> = match value.get("plugins").and_then(Value::as_array) {
        Some(plugins) => {
            let nameless = plugins.iter().position(|plugin| string(plugin, "type").is_none());
            if let Some(index) = nameless {
                return Err(fault(format!("plugin {} has no type", index + 1)));
            }
            plugins.iter().filter_map(|plugin| string(plugin, "type")).collect()
        }
        // A single plugin's configuration.
        None => string(&value, "type").into_iter().collect(),
    };
    if plugins.is_empty() {
        return Err(fault("names no plugin".to_owned()));
    }
    Ok(List { path: path.to_owned(), name, version, plugins })
}

fn plugins(host: &Host<'_>, list: &List, report: &mut Report) {
    let directories = &host.config.network.bin_dirs;
    let mut missing = Vec::new();
    let mut told = Vec::new();
    let mut faults = Vec::new();
    for plugin in &list.plugins {
        let candidates = directories.iter().map(|directory| directory.join(plugin));
        let Some(binary) = candidates.into_iter().find(|path| host.files.is_executable(path)) else {
            missing.push(plugin.as_str());
            continue;
        };
        match host.probe.cni_versions(&host.files.find(&binary).unwrap_or(binary)) {
            Ok(versions) => {
                told.push(format!("{plugin} (to {})", versions.last().map_or("?", String::as_str)));
                if !versions.contains(&list.version) {
                    faults.push(format!("{plugin} speaks {}", versions.join(", ")));
                }
            }
            // Not all answer; nothing is held against them.
            Err(_) => told.push(plugin.clone()),
        }
    }
    let named = format!("network {} of {}, CNI {}", list.name, list.path.display(), list.version);
    if !missing.is_empty() {
        let directories: Vec<_> = directories.iter().map(|path| path.display().to_string()).collect();
        return report.fail(
            SUBJECT,
            format!("{named}; not installed: {}", missing.join(", ")),
            format!("install the plugins into one of {}", directories.join(", ")),
        );
    }
    if !faults.is_empty() {
        return report.fail(
            SUBJECT,
            format!("{named}; {}", faults.join("; ")),
            "write a cniVersion into the list that all its plugins speak, or install newer plugins",
        );
    }
    report.ok(SUBJECT, format!("{named}: {}", told.join(", ")));
}
