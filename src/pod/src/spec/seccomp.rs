//! The system call filter: the node's default profile, a file of the node's, or none.
//!
//! The default profile is `seccomp_default.json`: what ordinary programs call, and more for the capabilities that the
//! container holds. Everything else fails with EPERM. It is data, checked by the tests, and never read from disk.

use std::path::Path;
use std::sync::OnceLock;

use model::{MandatoryProfile, limits};
use serde::Deserialize;

pub(crate) mod compile;
mod enosys;

use super::oci::{Capabilities, Seccomp, Syscall, SyscallArg};
use super::{SpecError, SpecInput};

/// What an unset profile means on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SeccompDefault {
    /// No filter: what CRI says.
    #[default]
    Unconfined,
    /// The node's default profile.
    RuntimeDefault,
}

const FIELD: &str = "linux.security_context.seccomp";
const EPERM: u32 = 1;
const ALLOW: &str = "SCMP_ACT_ALLOW";
const ERRNO: &str = "SCMP_ACT_ERRNO";
const ACTIONS: [&str; 9] = [
    ALLOW,
    ERRNO,
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
/// What libseccomp knows, without the prefix that all have.
const ARCHITECTURES: [&str; 18] = [
    "AARCH64",
    "ARM",
    "LOONGARCH64",
    "MIPS",
    "MIPS64",
    "MIPS64N32",
    "MIPSEL",
    "MIPSEL64",
    "MIPSEL64N32",
    "PPC",
    "PPC64",
    "PPC64LE",
    "RISCV64",
    "S390",
    "S390X",
    "X32",
    "X86",
    "X86_64",
];
/// seccomp(2), without the prefix that all have.
const FLAGS: [&str; 4] = ["LOG", "SPEC_ALLOW", "TSYNC", "WAIT_KILLABLE_RECV"];
const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// Reads the file that a Localhost profile names; `None` for every other profile.
///
/// # Errors
/// The path is not absolute, or the file cannot be read, or is longer than a profile may be.
pub fn read_localhost(profile: Option<&MandatoryProfile>) -> Result<Option<Vec<u8>>, SpecError> {
    let Some(MandatoryProfile::Localhost(name)) = profile else { return Ok(None) };
    let field = || format!("{FIELD}.localhost_ref");
    let path = Path::new(name);
    if !path.is_absolute() {
        return Err(SpecError::invalid(field(), format!("{name:?} is not an absolute path")));
    }
    let read = kernel::rooted::read(Path::new("/"), path, limits::SECCOMP_PROFILE_BYTES_MAX)
        .map_err(|source| SpecError::System { field: field(), source })?;
    match read {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(SpecError::invalid(field(), format!("{name:?} does not exist"))),
    }
}

/// The filter of the container; `None` is unconfined.
pub(super) fn filter(
    input: &SpecInput<'_>,
    capabilities: &Capabilities,
) -> Result<Option<Seccomp>, SpecError> {
    let security = &input.container.security;
    if security.privileged {
        return Ok(None);
    }
    match (&security.seccomp, input.defaults.seccomp_unset) {
        (Some(MandatoryProfile::Unconfined), _) | (None, SeccompDefault::Unconfined) => Ok(None),
        (Some(MandatoryProfile::RuntimeDefault), _) | (None, SeccompDefault::RuntimeDefault) => {
            Ok(Some(default_filter(input.host.architecture, capabilities)))
        }
        (Some(MandatoryProfile::Localhost(path)), _) => match input.seccomp_localhost {
            Some(bytes) => parse(path, bytes).map(Some),
            None => Err(SpecError::Incomplete("the Localhost seccomp profile")),
        },
    }
}

/// A profile in the OCI form. A field that the form does not have is an error: it would change what the author of
/// the profile meant. (`comment` changes nothing.)
fn parse(path: &str, bytes: &[u8]) -> Result<Seccomp, SpecError> {
    let invalid =
        |why: String| SpecError::invalid(format!("{FIELD}.localhost_ref"), format!("{path:?}: {why}"));
    let mut value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
    let rules = value.get_mut("syscalls").and_then(|rules| rules.as_array_mut());
    for rule in rules.into_iter().flatten().filter_map(|rule| rule.as_object_mut()) {
        rule.remove("comment");
    }
    let profile: Seccomp = serde_json::from_value(value).map_err(|e| invalid(e.to_string()))?;
    let actions =
        std::iter::once(&profile.default_action).chain(profile.syscalls.iter().map(|rule| &rule.action));
    if let Some(action) = actions.into_iter().find(|action| !ACTIONS.contains(&action.as_str())) {
        return Err(invalid(format!("{action:?} is not an action")));
    }
    let unknown = |names: &[String], prefix: &str, known: &[&str]| {
        let is_known = |name: &&String| name.strip_prefix(prefix).is_some_and(|name| known.contains(&name));
        names.iter().find(|name| !is_known(name)).cloned()
    };
    if let Some(name) = unknown(&profile.architectures, "SCMP_ARCH_", &ARCHITECTURES) {
        return Err(invalid(format!("{name:?} is not an architecture")));
    }
    if let Some(name) = unknown(&profile.flags, "SECCOMP_FILTER_FLAG_", &FLAGS) {
        return Err(invalid(format!("{name:?} is not a flag")));
    }
    let notifies = |rule: &Syscall| rule.action == "SCMP_ACT_NOTIFY";
    if profile.default_action == "SCMP_ACT_NOTIFY" {
        return Err(invalid("SCMP_ACT_NOTIFY cannot be the default action".to_owned()));
    }
    if profile.listener_path.is_none() && profile.syscalls.iter().any(notifies) {
        return Err(invalid("SCMP_ACT_NOTIFY needs a listenerPath".to_owned()));
    }
    for rule in &profile.syscalls {
        if let Some(arg) = rule.args.iter().find(|arg| !OPERATORS.contains(&arg.op.as_str()) || arg.index > 5)
        {
            let names = rule.names.join(", ");
            return Err(invalid(format!(
                "the rule for {names} compares argument {} by {:?}",
                arg.index, arg.op
            )));
        }
    }
    Ok(profile)
}

fn default_filter(architecture: &str, capabilities: &Capabilities) -> Seccomp {
    let holds = |name: &str| capabilities.bounding.iter().any(|held| held.strip_prefix("CAP_") == Some(name));
    let syscalls = default_profile()
        .rules
        .iter()
        .filter(|rule| rule.applies(architecture, holds))
        .flat_map(Rule::expand)
        .collect();
    Seccomp {
        default_action: ERRNO.into(),
        default_errno_ret: Some(EPERM),
        architectures: architectures(architecture).iter().map(|name| (*name).to_owned()).collect(),
        syscalls,
        ..Seccomp::default()
    }
}

/// The native interface and those that the same kernel also serves.
fn architectures(architecture: &str) -> &'static [&'static str] {
    match architecture {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "s390x" => &["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
        "powerpc64" => &["SCMP_ARCH_PPC64LE"],
        "riscv64" => &["SCMP_ARCH_RISCV64"],
        "loongarch64" => &["SCMP_ARCH_LOONGARCH64"],
        // Empty means the native one, whatever that is.
        _ => &[],
    }
}

/// `seccomp_default.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    rules: Vec<Rule>,
}

/// System calls that are allowed, or that fail in a particular way, together.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// What they are for, for people.
    #[serde(rename = "for")]
    _for: String,
    /// Names, several to a line.
    names: Vec<String>,
    /// Only for a container that holds it.
    #[serde(default)]
    capability: Option<String>,
    /// Only for one that does not.
    #[serde(default)]
    without_capability: Option<String>,
    /// Only there; everywhere when empty.
    #[serde(default)]
    architectures: Vec<String>,
    /// Not there.
    #[serde(default)]
    not_architectures: Vec<String>,
    /// Only when an argument is one of these.
    #[serde(default)]
    condition: Option<Condition>,
    /// Fails with this number instead of being allowed.
    #[serde(default)]
    errno: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    argument: u32,
    op: String,
    any_of: Vec<u64>,
}

fn default_profile() -> &'static Profile {
    static PROFILE: OnceLock<Profile> = OnceLock::new();
    // The text is part of the binary and a test reads it; an empty profile would allow nothing at all.
    PROFILE.get_or_init(|| serde_json::from_str(include_str!("seccomp_default.json")).unwrap_or_default())
}

impl Rule {
    fn applies(&self, architecture: &str, holds: impl Fn(&str) -> bool) -> bool {
        let here = |list: &[String]| list.iter().any(|name| name == architecture);
        self.capability.as_deref().is_none_or(&holds)
            && !self.without_capability.as_deref().is_some_and(&holds)
            && (self.architectures.is_empty() || here(&self.architectures))
            && !here(&self.not_architectures)
    }

    /// One OCI rule, or one for each value that the condition allows: within a rule all conditions must hold.
    fn expand(&self) -> Vec<Syscall> {
        let rule = Syscall {
            names: self.names.iter().flat_map(|line| line.split_whitespace()).map(str::to_owned).collect(),
            action: if self.errno.is_some() { ERRNO } else { ALLOW }.into(),
            errno_ret: self.errno,
            args: Vec::new(),
        };
        let Some(condition) = &self.condition else { return vec![rule] };
        let one = |value: &u64| {
            let index = condition.argument;
            let arg = SyscallArg { index, value: *value, value_two: 0, op: condition.op.clone() };
            Syscall { args: vec![arg], ..rule.clone() }
        };
        condition.any_of.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests;
