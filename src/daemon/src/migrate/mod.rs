//! `gantline migrate`: another runtime's configuration, value by value, as ours. Each value is carried over, or is
//! told with why not and what to do, or needs nothing; none is passed over in silence.
//!
//! The tables of [`containerd`] and [`crio`] say what becomes of each key; what takes more than one key to tell has a
//! module of its own. Nothing is written here: [`mod@write`] does that, when it is asked to.

mod containerd;
mod crio;
mod crio_own;
mod document;
mod draft;
mod registries;
mod registries_conf;
mod rules;
mod runtimes;
mod streaming;
mod unit;
pub(crate) mod write;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::layers;
use crate::files::Files;
use crate::flags::Peer;
use crate::kubelet;

use document::{At, Leaf, Unreadable};
use draft::{Draft, HostsFile};
use rules::Rule;

/// What became of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub(crate) enum Outcome {
    /// It is in what is written.
    Carried {
        /// The line of ours.
        to: String,
    },
    /// It is not.
    Left {
        /// Why.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// Gantline does the same, or has no need of it.
    Needless {
        /// Why.
        why: String,
    },
}

/// A value and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The file and line, or whose default it is.
    pub(crate) at: String,
    /// The key. `cri` stands for the plugin of that name, by whichever of its names the file calls it.
    pub(crate) key: String,
    /// The value as TOML shows it; dots where it may hold a secret.
    pub(crate) value: String,
    /// What became of it.
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

/// A file that would be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Below `/etc/gantline`.
    pub(crate) path: PathBuf,
    /// The text.
    pub(crate) text: String,
    /// Whether nobody but root may read it.
    pub(crate) private: bool,
}

/// What a migration comes to.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The files that were read, in order.
    pub(crate) read: Vec<PathBuf>,
    /// What became of each value.
    pub(crate) findings: Vec<Finding>,
    /// What would be written.
    pub(crate) written: Vec<Written>,
    /// Where kubelets of this node are told which runtime to speak to.
    pub(crate) kubelet: kubelet::Kubelet,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MigrateError {
    /// There is nothing to migrate.
    #[error("no configuration of {peer}: {} is not there", .path.display())]
    Nothing {
        /// The peer.
        peer: &'static str,
        /// Its main file.
        path: PathBuf,
    },
    /// A file is no TOML, or cannot be read.
    #[error("read the configuration of {peer}")]
    Unreadable {
        /// The peer.
        peer: &'static str,
        /// Which file and why.
        source: Unreadable,
    },
    /// What came out is not right: a fault of this program.
    #[error("what would be written is not a right configuration (a fault of `gantline migrate`): {0}")]
    Wrong(String),
}

/// What the parts of a migration add to.
struct Work<'a> {
    peer: &'static str,
    files: &'a Files,
    findings: Vec<Finding>,
    draft: Draft,
    hosts: Vec<HostsFile>,
}

impl Work<'_> {
    fn tell(&mut self, leaf: &Leaf, outcome: Outcome) {
        self.tell_as(leaf, leaf.value.to_string(), outcome);
    }

    fn tell_secret(&mut self, leaf: &Leaf, outcome: Outcome) {
        self.tell_as(leaf, "…".into(), outcome);
    }

    fn tell_as(&mut self, leaf: &Leaf, value: String, outcome: Outcome) {
        // What is in no file is told only where something comes of it.
        if matches!((&leaf.at, &outcome), (At::Default(_), Outcome::Needless { .. })) {
            return;
        }
        self.findings.push(Finding { at: leaf.at.to_string(), key: leaf.key(), value, outcome });
    }

    /// Sets a key of ours from a value of theirs.
    fn carry(&mut self, leaf: &Leaf, key: &[&str], value: toml::Value) {
        let to = format!("{} = {value}", key.join("."));
        let outcome = if self.draft.set(key, value, &leaf.at.to_string()) {
            Outcome::Carried { to }
        } else {
            needless("Gantline's default is the same")
        };
        self.tell(leaf, outcome);
    }

    fn by_rule(&mut self, leaf: &Leaf, rule: Option<Rule>) {
        match rule {
            Some(Rule::Key(..)) if leaf.value.as_str() == Some("") => {
                self.tell(leaf, needless("is not set"));
            }
            Some(Rule::KeyBut(unset, ..)) if leaf.value.to_string() == unset => {
                self.tell(leaf, needless("is not set"));
            }
            Some(Rule::Key(key, convert) | Rule::KeyBut(_, key, convert)) => match convert(&leaf.value) {
                Ok(value) => self.carry(leaf, key, value),
                Err(why) => {
                    let remedy = format!("set {} by hand", key.join("."));
                    self.tell(leaf, Outcome::Left { why, remedy });
                }
            },
            Some(Rule::Needless(why)) => self.tell(leaf, needless(why)),
            Some(Rule::Only(values, why, remedy)) => {
                let usual =
                    rules::says_nothing(&leaf.value) || values.contains(&leaf.value.to_string().as_str());
                let outcome = if usual { needless(why) } else { left("Gantline does not do this", remedy) };
                self.tell(leaf, outcome);
            }
            Some(Rule::Empty(why, remedy)) => {
                let one = leaf.value.as_str().into_iter();
                let paths =
                    one.chain(leaf.value.as_array().into_iter().flatten().filter_map(toml::Value::as_str));
                let mut kept = paths.flat_map(|path| self.files.list(Path::new(path)));
                let outcome = match kept.next() {
                    None => needless(why),
                    Some(path) => left(format!("{} lies there", path.display()), remedy),
                };
                self.tell(leaf, outcome);
            }
            // These parts have told all that is theirs.
            Some(Rule::Runtime | Rule::Registry | Rule::Streaming | Rule::Own) => {}
            None if rules::says_nothing(&leaf.value) && leaf.value.is_table() => {
                self.tell(leaf, needless("holds nothing"));
            }
            None => self.tell(
                leaf,
                left(
                    "this version of Gantline does not know the key",
                    "look up what it does, and whether pods need it",
                ),
            ),
        }
    }
}

fn needless(why: impl Into<String>) -> Outcome {
    Outcome::Needless { why: why.into() }
}

fn left(why: impl Into<String>, remedy: impl Into<String>) -> Outcome {
    Outcome::Left { why: why.into(), remedy: remedy.into() }
}

/// Reads what a peer is configured with and says what it comes to. Changes nothing. `main` is its main file, where that
/// is another than the usual one.
pub(crate) fn plan(peer: Peer, files: &Files, main: Option<&Path>) -> Result<Plan, MigrateError> {
    let (name, rules, usual) = match peer {
        Peer::Containerd => (containerd::NAME, containerd::RULES, containerd::FILE),
        Peer::Crio => (crio::NAME, crio::RULES, crio::FILE),
    };
    let main = main.unwrap_or(Path::new(usual));
    let unreadable = |source| MigrateError::Unreadable { peer: name, source };
    let found = match peer {
        Peer::Containerd => containerd::read(files, main),
        Peer::Crio => crio::read(files, main),
    }
    .map_err(unreadable)?;
    if found.files.is_empty() {
        return Err(MigrateError::Nothing { peer: name, path: main.into() });
    }
    let mut read = found.files.clone();
    let mut work = Work { peer: name, files, findings: Vec::new(), draft: Draft::new(), hosts: Vec::new() };

    let of = |wanted: fn(&Rule) -> bool| -> Vec<Leaf> {
        let is = |leaf: &&Leaf| rules::find(rules, &leaf.path).as_ref().is_some_and(wanted);
        found.leaves.iter().filter(is).cloned().collect()
    };
    let runtimes = of(|rule| matches!(rule, Rule::Runtime));
    let registries = of(|rule| matches!(rule, Rule::Registry));
    let streaming = of(|rule| matches!(rule, Rule::Streaming));
    let own = of(|rule| matches!(rule, Rule::Own));
    match peer {
        Peer::Containerd => {
            runtimes::of_containerd(&mut work, &runtimes);
            registries::of_containerd(&mut work, &registries, found.version);
        }
        Peer::Crio => {
            runtimes::of_crio(&mut work, &runtimes);
            crio_own::of(&mut work, &own);
            read.extend(registries_conf::of_crio(&mut work, &registries).map_err(unreadable)?);
        }
    }
    streaming::of(&mut work, &streaming);
    for leaf in &found.leaves {
        work.by_rule(leaf, rules::find(rules, &leaf.path));
    }
    let environment = unit::of(&mut work, &mut read);

    let mut written = Vec::new();
    if !work.draft.is_empty() {
        let text = work.draft.text(name);
        layers::check_text(&text).map_err(|error| MigrateError::Wrong(error.to_string()))?;
        written.push(Written { path: "config.toml".into(), text, private: false });
    }
    for hosts in &work.hosts {
        let text = hosts.text(name);
        let path = Path::new("certs.d").join(&hosts.registry).join("hosts.toml");
        image::check_hosts(&hosts.registry, &text, &path)
            .map_err(|error| MigrateError::Wrong(model::chain(&error)))?;
        written.push(Written { path, text, private: false });
    }
    written.extend(environment);
    Ok(Plan { read, findings: work.findings, written, kubelet: kubelet::look(files) })
}

#[cfg(test)]
mod tests;
