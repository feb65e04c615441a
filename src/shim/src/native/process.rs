//! The OCI Process of an exec (runtime-spec, config.md), as the same bytes say it to an OCI runtime.
//!
//! Every field is known here or the whole is refused, and the runtime gets it: a newer service may ask for more than
//! this shim can do, and nothing of that may be left out silently.

use std::ffi::CString;

use kernel::caps;
use kernel::privileges::{Capabilities, User};
use rustix::process::{Resource, Rlimit};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Oci {
    #[serde(default)]
    terminal: bool,
    user: OciUser,
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    cwd: String,
    capabilities: OciCapabilities,
    #[serde(default)]
    rlimits: Vec<OciRlimit>,
    #[serde(default)]
    no_new_privileges: bool,
    apparmor_profile: Option<String>,
    oom_score_adj: Option<i32>,
    selinux_label: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OciUser {
    uid: u32,
    gid: u32,
    #[serde(default)]
    additional_gids: Vec<u32>,
    umask: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct OciCapabilities {
    bounding: Vec<String>,
    effective: Vec<String>,
    permitted: Vec<String>,
    inheritable: Vec<String>,
    ambient: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OciRlimit {
    #[serde(rename = "type")]
    kind: String,
    soft: u64,
    hard: u64,
}

/// What an exec's process is to be.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) terminal: bool,
    pub(crate) user: User,
    pub(crate) umask: u32,
    pub(crate) args: Vec<CString>,
    /// `KEY=value`.
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) capabilities: Capabilities,
    pub(crate) rlimits: Vec<(Resource, Rlimit)>,
    pub(crate) no_new_privileges: bool,
    pub(crate) apparmor_profile: Option<String>,
    pub(crate) selinux_label: Option<String>,
    pub(crate) oom_score_adj: Option<i32>,
}

/// What an OCI runtime uses where nothing is said.
const UMASK: u32 = 0o022;

impl Process {
    /// Reads it; the error says what this shim does not know.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let oci: Oci = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        if oci.args.first().is_none_or(String::is_empty) {
            return Err("args: no command".into());
        }
        let args: Result<Vec<_>, _> = oci.args.into_iter().map(CString::new).collect();
        Ok(Self {
            terminal: oci.terminal,
            user: User { uid: oci.user.uid, gid: oci.user.gid, groups: oci.user.additional_gids },
            umask: oci.user.umask.unwrap_or(UMASK),
            args: args.map_err(|e| format!("args: {e}"))?,
            env: oci.env,
            cwd: oci.cwd,
            capabilities: capabilities(&oci.capabilities)?,
            rlimits: oci.rlimits.iter().map(rlimit).collect::<Result<_, _>>()?,
            no_new_privileges: oci.no_new_privileges,
            // Empty is as good as absent.
            apparmor_profile: oci.apparmor_profile.filter(|profile| !profile.is_empty()),
            selinux_label: oci.selinux_label.filter(|label| !label.is_empty()),
            oom_score_adj: oci.oom_score_adj,
        })
    }

    /// The value of a variable; of several the last.
    pub(crate) fn variable(&self, key: &str) -> Option<&str> {
        let named = |entry: &'_ String| entry.split_once('=').is_some_and(|(name, _)| name == key);
        self.env.iter().rev().find(|entry| named(entry)).and_then(|entry| Some(entry.split_once('=')?.1))
    }
}

fn capabilities(oci: &OciCapabilities) -> Result<Capabilities, String> {
    let set = |names: &[String]| {
        caps::set(names.iter().map(String::as_str))
            .map_err(|name| format!("capabilities: {name:?} is unknown"))
    };
    Ok(Capabilities {
        bounding: set(&oci.bounding)?,
        effective: set(&oci.effective)?,
        permitted: set(&oci.permitted)?,
        inheritable: set(&oci.inheritable)?,
        ambient: set(&oci.ambient)?,
    })
}

fn rlimit(oci: &OciRlimit) -> Result<(Resource, Rlimit), String> {
    let resource = caps::rlimit(&oci.kind).ok_or_else(|| format!("rlimits: {:?} is unknown", oci.kind))?;
    let value = |value: u64| (value != u64::MAX).then_some(value);
    Ok((resource, Rlimit { current: value(oci.soft), maximum: value(oci.hard) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"{"terminal": true, "user": {"uid": 7, "gid": 8, "additionalGids": [9]},
        "args": ["ls", "-l"], "env": ["A=1", "HOME=/a", "HOME=/b", "X"], "cwd": "/srv",
        "capabilities": {"bounding": ["CAP_KILL"], "ambient": ["CAP_CHOWN"]},
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 18446744073709551615}],
        "noNewPrivileges": true, "apparmorProfile": "", "oomScoreAdj": -3}"#;

    #[test]
    fn every_field_is_read() {
        let process = Process::parse(WHOLE.as_bytes()).unwrap();
        assert!(process.terminal && process.no_new_privileges && process.apparmor_profile.is_none());
        assert_eq!(process.user, User { uid: 7, gid: 8, groups: vec![9] });
        assert_eq!((process.args.len(), process.umask, process.oom_score_adj), (2, 0o022, Some(-3)));
        assert_eq!(process.variable("HOME"), Some("/b"));
        assert_eq!(process.variable("X"), None);
        assert_eq!(process.capabilities.bounding, caps::set(["KILL"]).unwrap());
        assert!(process.capabilities.permitted.is_empty());
        let expected = Rlimit { current: Some(0), maximum: None };
        assert_eq!((process.rlimits[0].0, process.rlimits[0].1 == expected), (Resource::Core, true));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (from, to, expected) in [
            ("\"cwd\"", "\"ioPriority\": {}, \"cwd\"", "unknown field `ioPriority`"),
            ("\"gid\"", "\"username\": \"x\", \"gid\"", "unknown field `username`"),
            ("CAP_KILL", "CAP_FLY", "capabilities: \"CAP_FLY\" is unknown"),
            ("RLIMIT_CORE", "RLIMIT_X", "rlimits: \"RLIMIT_X\" is unknown"),
            ("\"ls\"", "\"\"", "args: no command"),
            ("\"ls\"", "\"l\\u0000s\"", "args: "),
        ] {
            let error = Process::parse(WHOLE.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        assert!(Process::parse(b"{}").is_err());
    }
}
