//! Whether pods can be given a network: a CNI configuration, its plugins, and forwarding.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Report;
use crate::config::Config;
use crate::runtimes::is_executable;

pub(super) fn check(config: &Config, report: &mut Report) {
    let network = &config.network;
    match first_list(&network.conf_dir) {
        Ok(Some(list)) => plugins(&list, &network.bin_dirs, report),
        Ok(None) => report.warn(
            "cni",
            format!("{} has no network list", network.conf_dir.display()),
            "pods start once a network add-on, or you, put one there; the node is NotReady until then",
        ),
        Err(why) => {
            report.fail("cni", why, "repair the network list; files are tried in the order of their names")
        }
    }
    let forwarding = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
    if forwarding.trim() == "1" {
        report.ok("forwarding", "IPv4 packets are forwarded");
    } else {
        report.warn(
            "forwarding",
            "IPv4 packets are not forwarded between pods and beyond",
            "sysctl -w net.ipv4.ip_forward=1",
        );
    }
}

/// A network list, as far as this check reads it.
#[derive(Debug, PartialEq, Eq)]
struct List {
    path: PathBuf,
    name: String,
    plugins: Vec<String>,
}

/// The list that is used: the first file by name, as libcni takes it.
fn first_list(directory: &Path) -> Result<Option<List>, String> {
    let mut paths: Vec<_> = match fs::read_dir(directory) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", directory.display())),
    };
    paths.retain(|path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("conflist" | "conf" | "json"))
    });
    paths.sort();
    let Some(path) = paths.into_iter().next() else { return Ok(None) };
    let fault = |why: String| format!("{}: {why}", path.display());
    let text = fs::read_to_string(&path).map_err(|error| fault(error.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| fault(error.to_string()))?;
    let string = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let name = string(&value, "name").ok_or_else(|| fault("has no name".to_owned()))?;
    let plugins = match value.get("plugins").and_then(Value::as_array) {
        Some(plugins) => plugins.iter().filter_map(|plugin| string(plugin, "type")).collect(),
        // A single plugin's configuration.
        None => string(&value, "type").into_iter().collect::<Vec<_>>(),
    };
    if plugins.is_empty() {
        return Err(fault("names no plugin".to_owned()));
    }
    Ok(Some(List { path, name, plugins }))
}

fn plugins(list: &List, directories: &[PathBuf], report: &mut Report) {
    let missing: Vec<_> = list
        .plugins
        .iter()
        .filter(|plugin| !directories.iter().any(|directory| is_executable(&directory.join(plugin))))
        .map(String::as_str)
        .collect();
    let named = format!("network {} of {}: {}", list.name, list.path.display(), list.plugins.join(", "));
    if missing.is_empty() {
        report.ok("cni", named);
    } else {
        let directories: Vec<_> = directories.iter().map(|path| path.display().to_string()).collect();
        report.fail(
            "cni",
            format!("{named}; not installed: {}", missing.join(", ")),
            format!("install the plugins into one of {}", directories.join(", ")),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_list_by_name_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(first_list(dir.path()), Ok(None));
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("20-b.conf", r#"{"name": "b", "type": "macvlan"}"#);
        write("00-readme.txt", "no list");
        assert_eq!(first_list(dir.path()).unwrap().unwrap().plugins, ["macvlan"]);
        write("10-a.conflist", r#"{"name": "a", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}"#);
        let list = first_list(dir.path()).unwrap().unwrap();
        assert_eq!(
            (list.name.as_str(), list.plugins.as_slice()),
            ("a", &["bridge".into(), "portmap".into()][..])
        );

        let mut report = Report::default();
        plugins(&list, &["/nonexistent".into()], &mut report);
        assert!(report.findings[0].found.ends_with("not installed: bridge, portmap"), "{report:?}");

        write("05-broken.conflist", "{");
        assert!(first_list(dir.path()).unwrap_err().contains("05-broken.conflist: EOF"));
    }
}
