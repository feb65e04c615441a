//! The plugins of one network called in turn, as the specification says for each command (CNI 1.1.0, "Section 3:
//! Execution of Network Configurations").

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};
use telemetry::{Stages, field};

use crate::conf::{NetworkList, Plugin};
use crate::error::{Command, NetworkError, PluginError};
use crate::journal::Owed;
use crate::version::{Identity, Known, KnownVersions, SpecVersion};
use crate::{capability, invoke, result};

/// How long a plugin may take to say which versions it knows; without an answer it is taken to know them all.
const VERSION_MAX: Duration = Duration::from_secs(5);

/// How long a plugin may take to say whether it can serve: meanwhile no change of the configuration is seen.
const STATUS_MAX: Duration = Duration::from_secs(10);

/// Calls plugins.
pub(crate) struct Chain {
    bin_dirs: Vec<PathBuf>,
    deadline: Duration,
    known: KnownVersions,
    stages: Stages,
}

impl Chain {
    /// Plugins are looked for in `bin_dirs`, in order; each invocation may take `deadline`.
    pub(crate) fn new(bin_dirs: Vec<PathBuf>, deadline: Duration, stages: Stages) -> Self {
        Self { bin_dirs, deadline, known: KnownVersions::default(), stages }
    }

    /// The list in the newest version that it allows and that all its plugins know. Also finds the plugins.
    pub(crate) async fn negotiate(&self, list: &NetworkList) -> Result<NetworkList, NetworkError> {
        let mut allowed = list.versions.clone();
        for plugin in &list.plugins {
            let failed = |source| failed(Command::Version, &list.name, plugin, source);
            let path = invoke::find(&plugin.kind, &self.bin_dirs).map_err(failed)?;
            let Some(known) = self.versions_of(&path, list.newest()).await else { continue };
            let common: Vec<_> = allowed.iter().copied().filter(|version| known.contains(version)).collect();
            if common.is_empty() {
                let words = |versions: &[SpecVersion]| {
                    versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                };
                let (wanted, known) = (words(&allowed), words(&known));
                return Err(failed(PluginError::Version { path, wanted, known }));
            }
            allowed = common;
        }
        Ok(list.at(allowed.first().copied().unwrap_or_else(|| list.newest())))
    }

    async fn versions_of(&self, path: &Path, newest: SpecVersion) -> Known {
        let identity = Identity::of(path)?;
        if let Some(known) = self.known.get(path, identity) {
            return known;
        }
        // Plugins from before 0.2.0 want these variables even for VERSION; libcni sends the same.
        let variables = [
            ("CNI_COMMAND", OsString::from(Command::Version.as_str())),
            ("CNI_NETNS", OsString::from("dummy")),
            ("CNI_IFNAME", OsString::from("dummy")),
            ("CNI_PATH", self.path_variable()),
        ];
        let input = json!({ "cniVersion": newest.to_string() }).to_string();
        let deadline = self.deadline.min(VERSION_MAX);
        let known = match invoke::run(path, &variables, input.as_bytes(), deadline).await {
            Ok(stdout) => crate::version::parse_answer(&stdout),
            // A slow node is no property of the plugin: ask again next time.
            Err(PluginError::Deadline { .. }) => return None,
            Err(e) => {
                tracing::debug!(plugin = %path.display(), error = %model::chain(&e), "CNI VERSION failed");
                None
            }
        };
        self.known.set(path, identity, known.clone());
        known
    }

    /// ADD: in order, each plugin with the result of the one before. Returns the last one's.
    pub(crate) async fn add(&self, list: &NetworkList, attachment: &Owed) -> Result<Value, NetworkError> {
        let version = list.newest();
        let mut previous = None;
        for plugin in &list.plugins {
            let failed = |source| failed(Command::Add, &list.name, plugin, source);
            let call = Call { netns: Some(&attachment.netns), previous: previous.as_ref(), extra: &[] };
            let stdout =
                self.call(Command::Add, list, plugin, Some(attachment), call).await.map_err(failed)?;
            let parsed = result::parse(&stdout, version)
                .map_err(|source| failed(PluginError::Rubbish { stdout: invoke::quote(&stdout), source }))?;
            previous = Some(parsed);
        }
        Ok(previous.unwrap_or_else(|| json!({ "cniVersion": version.to_string() })))
    }

    /// DEL: in reverse order, each plugin with the attachment's result. `netns` is `None` when it is gone.
    pub(crate) async fn del(
        &self,
        list: &NetworkList,
        attachment: &Owed,
        netns: Option<&Path>,
        result: Option<&Value>,
    ) -> Result<(), NetworkError> {
        let previous = result.filter(|_| list.newest() >= SpecVersion::V0_4_0);
        for plugin in list.plugins.iter().rev() {
            let call = Call { netns, previous, extra: &[] };
            let done = self.call(Command::Del, list, plugin, Some(attachment), call).await;
            done.map_err(|source| failed(Command::Del, &list.name, plugin, source))?;
        }
        Ok(())
    }

    /// CHECK: in order, each plugin with the attachment's result. A list that forbids it or is from before it
    /// passes.
    pub(crate) async fn check(
        &self,
        list: &NetworkList,
        attachment: &Owed,
        result: &Value,
    ) -> Result<(), NetworkError> {
        if list.disable_check || list.newest() < SpecVersion::V0_4_0 {
            return Ok(());
        }
        for plugin in &list.plugins {
            let call = Call { netns: Some(&attachment.netns), previous: Some(result), extra: &[] };
            let done = self.call(Command::Check, list, plugin, Some(attachment), call).await;
            done.map_err(|source| failed(Command::Check, &list.name, plugin, source))?;
        }
        Ok(())
    }

    /// GC: every plugin, with the attachments that are valid; one that fails does not keep the others from
    /// theirs. A list that forbids it or is from before it passes.
    pub(crate) async fn gc(&self, list: &NetworkList, valid: &[(String, String)]) -> Vec<NetworkError> {
        if list.disable_gc || list.newest() < SpecVersion::V1_1_0 {
            return Vec::new();
        }
        let valid: Value =
            valid.iter().map(|(id, interface)| json!({ "containerID": id, "ifname": interface })).collect();
        // The second key is what an early draft called it; libcni sends both.
        let extra = [("cni.dev/valid-attachments", &valid), ("cni.dev/attachments", &valid)];
        let mut errors = Vec::new();
        for plugin in &list.plugins {
            let call = Call { netns: None, previous: None, extra: &extra };
            if let Err(source) = self.call(Command::Gc, list, plugin, None, call).await {
                errors.push(failed(Command::Gc, &list.name, plugin, source));
            }
        }
        errors
    }

    /// STATUS: in order, until one says that it cannot serve an ADD. A list from before it passes.
    pub(crate) async fn status(&self, list: &NetworkList) -> Result<(), NetworkError> {
        if list.newest() < SpecVersion::V1_1_0 {
            return Ok(());
        }
        for plugin in &list.plugins {
            let call = Call { netns: None, previous: None, extra: &[] };
            let done = self.call(Command::Status, list, plugin, None, call).await;
            done.map_err(|source| failed(Command::Status, &list.name, plugin, source))?;
        }
        Ok(())
    }

    /// One invocation of one plugin: a stage.
    async fn call(
        &self,
        command: Command,
        list: &NetworkList,
        plugin: &Plugin,
        attachment: Option<&Owed>,
        call: Call<'_>,
    ) -> Result<Vec<u8>, PluginError> {
        let pod = attachment.map_or("", |attachment| attachment.container_id.as_str());
        let fields =
            [(field::POD_ID, pod), (field::CNI_PLUGIN, &plugin.kind), (field::CNI_COMMAND, command.as_str())];
        let work = self.invoke(command, list, plugin, attachment, call);
        match command {
            // It comes every few seconds and is nobody's part.
            Command::Status => work.await,
            _ => self.stages.begin("cni_plugin", &fields).run(work).await,
        }
    }

    async fn invoke(
        &self,
        command: Command,
        list: &NetworkList,
        plugin: &Plugin,
        attachment: Option<&Owed>,
        call: Call<'_>,
    ) -> Result<Vec<u8>, PluginError> {
        let path = invoke::find(&plugin.kind, &self.bin_dirs)?;
        let deadline = if command == Command::Status { self.deadline.min(STATUS_MAX) } else { self.deadline };
        let mut variables =
            vec![("CNI_COMMAND", OsString::from(command.as_str())), ("CNI_PATH", self.path_variable())];
        if let Some(attachment) = attachment {
            variables.extend([
                ("CNI_CONTAINERID", OsString::from(&attachment.container_id)),
                ("CNI_NETNS", call.netns.map(OsString::from).unwrap_or_default()),
                ("CNI_IFNAME", OsString::from(&attachment.if_name)),
                ("CNI_ARGS", OsString::from(capability::join(&attachment.args))),
            ]);
        }
        let input = Value::Object(input(list, plugin, attachment, &call)).to_string();
        invoke::run(&path, &variables, input.as_bytes(), deadline).await
    }

    fn path_variable(&self) -> OsString {
        let mut joined = OsString::new();
        for dir in &self.bin_dirs {
            if !joined.is_empty() {
                joined.push(":");
            }
            joined.push(dir);
        }
        joined
    }
}

/// What differs from one call of a plugin to another.
struct Call<'a> {
    netns: Option<&'a Path>,
    previous: Option<&'a Value>,
    extra: &'a [(&'static str, &'a Value)],
}

/// A plugin's standard input: its own configuration, with what the runtime adds ("Deriving request
/// configuration").
fn input(
    list: &NetworkList,
    plugin: &Plugin,
    attachment: Option<&Owed>,
    call: &Call<'_>,
) -> Map<String, Value> {
    let mut input = plugin.object.clone();
    let mut put = |key: &str, value: Value| drop(input.insert(key.to_owned(), value));
    put("name", list.name.as_str().into());
    put("cniVersion", list.newest().to_string().into());
    if let Some(previous) = call.previous {
        put("prevResult", previous.clone());
    }
    if let Some(attachment) = attachment {
        let declared = capability::declared_by(plugin, &attachment.capabilities);
        if !declared.is_empty() {
            put("runtimeConfig", Value::Object(declared));
        }
    }
    for (key, value) in call.extra {
        put(key, (*value).clone());
    }
    if attachment.is_some() {
        input.remove("capabilities");
    }
    input
}

fn failed(command: Command, network: &str, plugin: &Plugin, source: PluginError) -> NetworkError {
    NetworkError::Plugin {
        command,
        network: network.to_owned(),
        plugin: plugin.kind.clone(),
        source: Box::new(source),
    }
}
