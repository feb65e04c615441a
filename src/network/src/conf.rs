//! Network configuration files: which are there, which one is used, and what is wrong with the others.
//!
//! As libcni does it: `.conflist`, `.conf` and `.json` in lexical order, the first valid one wins, a `.conf` or
//! `.json` is a list of one plugin. Unlike libcni a bad file is reported and passed over; it hides no good one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::version::{NotAVersion, SpecVersion};

/// A configuration file, bytes: far above any real one.
const CONF_BYTES_MAX: u64 = 1024 * 1024;

/// A network: a name and the plugins that make it, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NetworkList {
    /// Also the name in the result cache and of IPAM's directories.
    pub(crate) name: String,
    /// The versions that the configuration allows and that are spoken here, newest first. Never empty.
    pub(crate) versions: Vec<SpecVersion>,
    /// CHECK must not be called.
    pub(crate) disable_check: bool,
    /// GC must not be called.
    pub(crate) disable_gc: bool,
    /// Each as it was written. Never empty.
    pub(crate) plugins: Vec<Plugin>,
    /// The whole list, with all plugins in it.
    object: Map<String, Value>,
}

/// One plugin of a network.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plugin {
    /// The name of its binary.
    pub(crate) kind: String,
    /// Its part of the configuration, as it was written.
    pub(crate) object: Map<String, Value>,
}

impl Plugin {
    /// Whether it says that it takes this capability.
    pub(crate) fn declares(&self, capability: &str) -> bool {
        let declared = self.object.get("capabilities").and_then(Value::as_object);
        declared.and_then(|all| all.get(capability)).and_then(Value::as_bool).unwrap_or(false)
    }
}

/// Why a file is not a network configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfError {
    /// It cannot be read.
    #[error("read")]
    Read(#[source] io::Error),
    /// It is no file, or too large for a configuration.
    #[error("not a regular file of at most {CONF_BYTES_MAX} bytes")]
    NotAFile,
    /// It is not JSON.
    #[error("parse")]
    Json(#[source] serde_json::Error),
    /// A key is missing.
    #[error("no {0:?}")]
    Missing(&'static str),
    /// A key has a value of the wrong kind.
    #[error("{key:?} is not {expected}")]
    Kind {
        /// The key.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// The network's name would not do as a file name.
    #[error(
        "name {0:?} holds other characters than letters, digits, '_', '.', '-', or begins with one of these"
    )]
    Name(String),
    /// A plugin's type would lead out of the plugin directories.
    #[error("plugin type {0:?} is not a file name")]
    Type(String),
    /// A version is not one.
    #[error("cniVersion")]
    Version(#[source] NotAVersion),
    /// No version is spoken here.
    #[error("cniVersion {0} is not between {oldest} and {newest}", oldest = SpecVersion::OLDEST, newest = SpecVersion::NEWEST)]
    NotSpoken(String),
    /// There are no plugins in it.
    #[error("no plugins")]
    NoPlugins,
    /// A list that is named as a single plugin.
    #[error("holds \"plugins\" but is not named *.conflist")]
    MisnamedList,
    /// A plugin's file beside the list is bad.
    #[error("plugin file {path}")]
    PluginFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<ConfError>,
    },
}

impl NetworkList {
    /// A list from its JSON object, with all plugins in it.
    pub(crate) fn from_object(object: Map<String, Value>) -> Result<Self, ConfError> {
        let name = string(&object, "name")?.ok_or(ConfError::Missing("name"))?.to_owned();
        if !is_name(&name) {
            return Err(ConfError::Name(name));
        }
        let plugins = match object.get("plugins") {
            None => Vec::new(),
            Some(Value::Array(plugins)) => plugins.iter().map(plugin).collect::<Result<_, _>>()?,
            Some(_) => return Err(ConfError::Kind { key: "plugins", expected: "a list" }),
        };
        if plugins.is_empty() {
            return Err(ConfError::NoPlugins);
        }
        Ok(Self {
            name,
            versions: versions(&object)?,
            disable_check: flag(&object, "disableCheck")?,
            disable_gc: flag(&object, "disableGC")?,
            plugins,
            object,
        })
    }

    /// The list as JSON.
    pub(crate) fn object(&self) -> &Map<String, Value> {
        &self.object
    }

    /// The newest version that the configuration allows.
    pub(crate) fn newest(&self) -> SpecVersion {
        self.versions.first().copied().unwrap_or(SpecVersion::OLDEST)
    }

    /// The same list in one version alone: what an attachment is made with, and undone.
    pub(crate) fn at(&self, version: SpecVersion) -> Self {
        let mut list = self.clone();
        list.object.remove("cniVersions");
        list.object.insert("cniVersion".to_owned(), version.to_string().into());
        list.versions = vec![version];
        list
    }
}

fn plugin(value: &Value) -> Result<Plugin, ConfError> {
    let object =
        value.as_object().ok_or(ConfError::Kind { key: "plugins", expected: "a list of objects" })?;
    let kind = string(object, "type")?.filter(|kind| !kind.is_empty()).ok_or(ConfError::Missing("type"))?;
    if kind.contains('/') || kind == "." || kind == ".." {
        return Err(ConfError::Type(kind.to_owned()));
    }
    Ok(Plugin { kind: kind.to_owned(), object: object.clone() })
}

fn versions(object: &Map<String, Value>) -> Result<Vec<SpecVersion>, ConfError> {
    let strings = ConfError::Kind { key: "cniVersions", expected: "a list of strings" };
    let mut texts: Vec<&str> = match object.get("cniVersions") {
        None => Vec::new(),
        Some(Value::Array(texts)) => match texts.iter().map(Value::as_str).collect() {
            Some(texts) => texts,
            None => return Err(strings),
        },
        Some(_) => return Err(strings),
    };
    texts.extend(string(object, "cniVersion")?);
    if texts.is_empty() {
        return Err(ConfError::Missing("cniVersion"));
    }
    let all: Vec<SpecVersion> =
        texts.iter().map(|text| text.parse()).collect::<Result<_, _>>().map_err(ConfError::Version)?;
    let mut spoken: Vec<_> = all.into_iter().filter(|version| version.is_spoken()).collect();
    if spoken.is_empty() {
        return Err(ConfError::NotSpoken(texts.join(", ")));
    }
    spoken.sort_unstable();
    spoken.dedup();
    spoken.reverse();
    Ok(spoken)
}

fn string<'a>(object: &'a Map<String, Value>, key: &'static str) -> Result<Option<&'a str>, ConfError> {
    match object.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ConfError::Kind { key, expected: "a string" }),
    }
}

/// A boolean, or one in a string: libcni takes both.
fn flag(object: &Map<String, Value>, key: &'static str) -> Result<bool, ConfError> {
    match object.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(ConfError::Kind { key, expected: "true or false" }),
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// What a configuration directory holds.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    /// The network that is used, and the file it came from.
    pub(crate) chosen: Option<(PathBuf, NetworkList)>,
    /// Files that are not network configurations, whichever is used; the directory itself when it cannot be read.
    pub(crate) faults: Vec<(PathBuf, ConfError)>,
}

impl Discovery {
    /// Why there is no network, in one line.
    pub(crate) fn why_none(&self, dir: &Path) -> String {
        let mut why = format!("no network configuration in {}", dir.display());
        for (path, fault) in &self.faults {
            why.push_str(&format!("; {}: {}", path.display(), model::chain(fault)));
        }
        why
    }
}

/// Reads a configuration directory. An absent one holds nothing.
pub(crate) fn discover(dir: &Path) -> Discovery {
    let mut found = Discovery::default();
    let paths = match candidates(dir, &["conflist", "conf", "json"]) {
        Ok(paths) => paths,
        Err(e) => {
            found.faults.push((dir.to_owned(), ConfError::Read(e)));
            return found;
        }
    };
    for path in paths {
        match load(&path) {
            Ok(list) if found.chosen.is_none() => found.chosen = Some((path, list)),
            Ok(_) => {}
            Err(fault) => found.faults.push((path, fault)),
        }
    }
    found
}

fn candidates(dir: &Path, extensions: &[&str]) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let extension = path.extension().and_then(|e| e.to_str());
        if extension.is_some_and(|e| extensions.contains(&e)) && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn load(path: &Path) -> Result<NetworkList, ConfError> {
    let mut object = read(path)?;
    if path.extension().is_none_or(|e| e != "conflist") {
        if object.contains_key("plugins") {
            return Err(ConfError::MisnamedList);
        }
        return NetworkList::from_object(list_of_one(object)?);
    }
    // CNI 1.1.0, "loadOnlyInlinedPlugins": more plugins may lie in <directory>/<network name>/*.conf.
    if !flag(&object, "loadOnlyInlinedPlugins")?
        && let Some(name) = string(&object, "name")?.filter(|name| is_name(name))
    {
        let more = beside(&path.with_file_name(name))?;
        if !more.is_empty()
            && let Value::Array(plugins) = object.entry("plugins").or_insert(Value::Array(Vec::new()))
        {
            plugins.extend(more.into_iter().map(Value::Object));
        }
    }
    NetworkList::from_object(object)
}

fn beside(dir: &Path) -> Result<Vec<Map<String, Value>>, ConfError> {
    let paths = candidates(dir, &["conf"]).map_err(ConfError::Read)?;
    let read_one = |path: PathBuf| {
        read(&path).map_err(|source| ConfError::PluginFile { path, source: Box::new(source) })
    };
    paths.into_iter().map(read_one).collect()
}

fn list_of_one(plugin: Map<String, Value>) -> Result<Map<String, Value>, ConfError> {
    let mut list = Map::new();
    for key in ["name", "cniVersion"] {
        if let Some(value) = plugin.get(key) {
            list.insert(key.to_owned(), value.clone());
        }
    }
    list.insert("plugins".to_owned(), Value::Array(vec![Value::Object(plugin)]));
    Ok(list)
}

fn read(path: &Path) -> Result<Map<String, Value>, ConfError> {
    // A FIFO or a device that is named like a configuration must not stop the service.
    let metadata = fs::metadata(path).map_err(ConfError::Read)?;
    if !metadata.is_file() || metadata.len() > CONF_BYTES_MAX {
        return Err(ConfError::NotAFile);
    }
    parse(&fs::read(path).map_err(ConfError::Read)?)
}

/// A JSON object.
pub(crate) fn parse(bytes: &[u8]) -> Result<Map<String, Value>, ConfError> {
    serde_json::from_slice(bytes).map_err(ConfError::Json)
}

#[cfg(test)]
mod tests;
