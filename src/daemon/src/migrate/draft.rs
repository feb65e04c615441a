//! What is going to be written: our configuration file and the `hosts.toml` files, with where each line came from.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value as Json;
use toml::Value;

use crate::config::schema::{join, quote};
use crate::config::{Config, reference};

/// Our configuration file, as far as it says something else than its defaults.
#[derive(Debug)]
pub(crate) struct Draft {
    /// By section and name.
    values: BTreeMap<(Vec<String>, String), (Value, String)>,
    defaults: Json,
}

impl Draft {
    pub(crate) fn new() -> Self {
        Self { values: BTreeMap::new(), defaults: reference::flat(&Config::default()) }
    }

    /// Sets a key, named as `section.name`. False when that is what Gantline has by default.
    pub(crate) fn set(&mut self, key: &[&str], value: Value, from: &str) -> bool {
        let Some((name, section)) = key.split_last() else { return false };
        let section: Vec<String> = section.iter().map(|part| (*part).to_owned()).collect();
        let place = (section, (*name).to_owned());
        let usual = self.defaults.get(key.join("."));
        if usual.is_some() && usual == serde_json::to_value(&value).ok().as_ref() {
            // A layer below may have said otherwise.
            self.values.remove(&place);
            return false;
        }
        self.values.insert(place, (value, from.to_owned()));
        true
    }

    /// Whether something is said at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The file.
    pub(crate) fn text(&self, peer: &str) -> String {
        let mut text = format!(
            "# Made by `gantline migrate {peer}`. Behind each value stands where it came from;\n\
             # what is not here is as `gantline config default` shows it.\n"
        );
        let mut last: Option<&Vec<String>> = None;
        for ((section, name), (value, from)) in &self.values {
            if !section.is_empty() && last != Some(section) {
                let header = section.iter().fold(String::new(), |path, part| join(&path, part));
                let _ = writeln!(text, "\n[{header}]");
            }
            last = Some(section);
            let _ = writeln!(text, "{} = {value} # {from}", join("", name));
        }
        text
    }
}

/// One host of a `hosts.toml`, or the registry itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostEntry {
    /// `https://mirror.example/v2/path`.
    pub(crate) url: String,
    /// The URL's path is whole, `/v2` included.
    pub(crate) override_path: bool,
    /// For manifests and blobs that are named by digest alone.
    pub(crate) by_digest_only: bool,
    /// Whether its certificate is taken as it is.
    pub(crate) skip_verify: bool,
    /// Certificates to trust.
    pub(crate) ca: Vec<String>,
    /// Certificates and keys to show.
    pub(crate) client: Vec<(String, String)>,
}

/// A `hosts.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostsFile {
    /// Whose images: `docker.io`, `host:port`, `_default`.
    pub(crate) registry: String,
    /// The registry itself, where its own URL will not do.
    pub(crate) server: Option<HostEntry>,
    /// Who is asked before it.
    pub(crate) hosts: Vec<HostEntry>,
    /// Where it came from.
    pub(crate) from: String,
}

impl HostsFile {
    /// The file.
    pub(crate) fn text(&self, peer: &str) -> String {
        let mut text = format!("# Made by `gantline migrate {peer}` from {}.\n", self.from);
        if let Some(server) = &self.server {
            let _ = writeln!(text, "server = {}", quote(&server.url));
            server.settings(&mut text);
        }
        for host in &self.hosts {
            let _ = writeln!(text, "\n[host.{}]", quote(&host.url));
            let capabilities = if host.by_digest_only { "[\"pull\"]" } else { "[\"pull\", \"resolve\"]" };
            let _ = writeln!(text, "capabilities = {capabilities}");
            host.settings(&mut text);
        }
        text
    }
}

impl HostEntry {
    fn settings(&self, text: &mut String) {
        for (set, key) in [(self.override_path, "override_path"), (self.skip_verify, "skip_verify")] {
            if set {
                let _ = writeln!(text, "{key} = true");
            }
        }
        let list = |items: &[String]| items.iter().map(|item| quote(item)).collect::<Vec<_>>().join(", ");
        if !self.ca.is_empty() {
            let _ = writeln!(text, "ca = [{}]", list(&self.ca));
        }
        if !self.client.is_empty() {
            let pairs = self.client.iter().map(|(cert, key)| format!("[{}, {}]", quote(cert), quote(key)));
            let _ = writeln!(text, "client = [{}]", pairs.collect::<Vec<_>>().join(", "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_default_is_not_said() {
        let mut draft = Draft::new();
        assert!(!draft.set(&["pods", "log_line_bytes_max"], Value::Integer(16384), "a:1"));
        assert!(draft.is_empty());
        assert!(draft.set(&["pods", "log_line_bytes_max"], Value::Integer(4096), "a:1"));
        assert!(draft.set(&["runtimes", "kata-x", "path"], Value::String("/k".into()), "a:2"));
        assert!(draft.set(&["default_runtime"], Value::String("kata-x".into()), "a:3"));
        let text = draft.text("x");
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "default_runtime = \"kata-x\" # a:3",
                "",
                "[pods]",
                "log_line_bytes_max = 4096 # a:1",
                "",
                "[runtimes.kata-x]",
                "path = \"/k\" # a:2"
            ]
        );
        // A later layer takes it back.
        assert!(!draft.set(&["pods", "log_line_bytes_max"], Value::Integer(16384), "b:1"));
        assert!(!draft.text("x").contains("[pods]"));
    }
}
