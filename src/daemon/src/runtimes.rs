//! Where the programs are that run containers: the OCI runtimes by handler, and the shim.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use pod::{ExecBy, Kind};

use crate::config::Config;
use crate::config::value::ExecMode;

/// Used under their own names when the configuration names none; the first that is there is the default.
const WELL_KNOWN: [&str; 3] = ["crun", "runc", "youki"];
const SHIM: &str = "gantline-shim";
const SHIM_DIRECTORY: &str = "/usr/libexec/gantline";

/// Why no container could run with this configuration on this host.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RuntimesError {
    /// Nothing was configured, and nothing is installed.
    #[error(
        "no OCI runtime: none of crun, runc, youki is in PATH; install one, or name one in [runtimes.NAME]"
    )]
    None,
    /// A configured runtime has no binary.
    #[error("runtime {name}: {path} is not an executable file")]
    NotExecutable {
        /// The handler.
        name: String,
        /// What the configuration names.
        path: PathBuf,
    },
    /// A configured runtime without a path is not installed.
    #[error("runtime {name}: no executable of that name is in PATH; set runtimes.{name}.path")]
    NotInPath {
        /// The handler.
        name: String,
    },
    /// The default is not among them.
    #[error("default_runtime {name:?} is not installed")]
    NoDefault {
        /// What the configuration names.
        name: String,
    },
    /// There is no shim.
    #[error("no executable gantline-shim in {}; install it beside gantline, or set pods.shim", .0.join(", "))]
    NoShim(Vec<String>),
}

/// The OCI runtimes of this node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Runtimes {
    /// Binaries by handler name; never empty.
    pub(crate) handlers: BTreeMap<String, PathBuf>,
    /// A key of `handlers`.
    pub(crate) default: String,
}

/// Finds the OCI runtimes. `path` is PATH, as the environment has it.
pub(crate) fn find(config: &Config, path: &str) -> Result<Runtimes, RuntimesError> {
    let mut handlers = BTreeMap::new();
    for (name, runtime) in &config.runtimes {
        let binary = match &runtime.path {
            Some(binary) if is_executable(binary) => binary.clone(),
            Some(binary) => {
                return Err(RuntimesError::NotExecutable { name: name.clone(), path: binary.clone() });
            }
            None => in_path(name, path).ok_or_else(|| RuntimesError::NotInPath { name: name.clone() })?,
        };
        handlers.insert(name.clone(), binary);
    }
    if config.runtimes.is_empty() {
        let found = WELL_KNOWN.iter().filter_map(|name| Some(((*name).to_owned(), in_path(name, path)?)));
        handlers.extend(found);
    }
    let default = match &config.default_runtime {
        Some(name) if handlers.contains_key(name) => name.clone(),
        Some(name) => return Err(RuntimesError::NoDefault { name: name.clone() }),
        None => {
            let well_known = WELL_KNOWN.iter().find(|name| handlers.contains_key(**name));
            let first = well_known.map(|name| (*name).to_owned()).or_else(|| handlers.keys().next().cloned());
            first.ok_or(RuntimesError::None)?
        }
    };
    Ok(Runtimes { handlers, default })
}

/// Finds the shim: where the configuration says, or else beside this binary, in libexec, in PATH.
pub(crate) fn find_shim(config: &Config, path: &str) -> Result<PathBuf, RuntimesError> {
    if let Some(shim) = &config.pods.shim {
        let missing = || RuntimesError::NoShim(vec![shim.display().to_string()]);
        return is_executable(shim).then(|| shim.clone()).ok_or_else(missing);
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
    let directories: Vec<_> = beside.into_iter().chain([PathBuf::from(SHIM_DIRECTORY)]).collect();
    directories
        .iter()
        .map(|directory| directory.join(SHIM))
        .find(|candidate| is_executable(candidate))
        .or_else(|| in_path(SHIM, path))
        .ok_or_else(|| {
            let names = directories.iter().map(|directory| directory.display().to_string());
            RuntimesError::NoShim(names.chain(["PATH".to_owned()]).collect())
        })
}

/// The first executable of this name in a PATH.
pub(crate) fn in_path(name: &str, path: &str) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
}

/// Whether a path is a file that may be executed.
pub(crate) fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Who starts the processes of execs in containers of a handler.
pub(crate) fn exec_by(config: &Config, name: &str, binary: &Path) -> ExecBy {
    let file_name = binary.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match config.runtimes.get(name).and_then(|runtime| runtime.exec) {
        Some(ExecMode::Runtime) => ExecBy::Runtime,
        // What others run may be no processes of this kernel.
        None if !WELL_KNOWN.contains(&file_name) => ExecBy::Runtime,
        Some(ExecMode::Native) | None => ExecBy::Shim(Kind::of(binary)),
    }
}

/// What an OCI runtime says that it can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// Mounts recursively read-only.
    pub(crate) recursive_read_only: bool,
    /// Makes id-mapped mounts.
    pub(crate) id_mapped_mounts: bool,
    /// Makes user namespaces.
    pub(crate) user_namespaces: bool,
}

impl Features {
    /// What is left of them on a kernel of this version (major, minor): recursive read-only mounts are of 5.12, and
    /// id-mapped ones of 5.12 for volumes, of 5.19 for the layers of a root file system. A pod needs both in a user
    /// namespace of its own.
    pub(crate) fn on_kernel(self, version: (u32, u32)) -> Self {
        Self {
            recursive_read_only: self.recursive_read_only && version >= (5, 12),
            id_mapped_mounts: self.id_mapped_mounts && version >= (5, 12),
            user_namespaces: self.user_namespaces && self.id_mapped_mounts && version >= (5, 19),
        }
    }
}

/// Asks a runtime for its features (runtime-spec, features.md). One that does not know the question is asked for its
/// version; it has what is known of that, else none: Status says so, and a container that needs one is refused
/// instead of run without it.
pub(crate) fn features(binary: &Path) -> Features {
    let asked = briefly(binary, "features").map(|text| parse_features(&text));
    asked.or_else(|_| briefly(binary, "--version").map(|text| features_by_version(&text))).unwrap_or_default()
}

/// What a runtime of that version can do, of those that have no `features` command. By its NEWS crun has one since
/// 1.8.6, mounts recursively read-only since 1.4, and maps ids of mounts as the runtime-spec has it since 1.8.1.
fn features_by_version(text: &str) -> Features {
    let version = text.lines().next().and_then(|line| line.strip_prefix("crun version "));
    let mut numbers = version.unwrap_or_default().split('.').map_while(|number| number.parse::<u32>().ok());
    let mut next = || numbers.next().unwrap_or(0);
    let version = (next(), next(), next());
    let maps = version >= (1, 8, 1);
    Features { recursive_read_only: version >= (1, 4, 0), id_mapped_mounts: maps, user_namespaces: maps }
}

fn parse_features(text: &str) -> Features {
    let Ok(features) = serde_json::from_str::<serde_json::Value>(text) else { return Features::default() };
    let lists = |pointer: &str, wanted: &str| {
        let list = features.pointer(pointer).and_then(serde_json::Value::as_array);
        list.is_some_and(|list| list.iter().any(|item| item == wanted))
    };
    let idmap = features.pointer("/linux/mountExtensions/idmap/enabled");
    Features {
        recursive_read_only: lists("/mountOptions", "rro"),
        id_mapped_mounts: idmap == Some(&serde_json::Value::Bool(true)),
        user_namespaces: lists("/linux/namespaces", "user"),
    }
}

/// A program that has not answered a simple question in this time is broken.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// What a pipe holds: a program that says more waits for a reader, and is given up.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// What `<program> <question>` prints.
pub(crate) fn briefly(binary: &Path, question: &str) -> Result<String, String> {
    let mut command = kernel::process::command(binary);
    command.arg(question);
    answer(command)
}

/// What a command prints, of those that answer at once.
pub(crate) fn answer(mut command: std::process::Command) -> Result<String, String> {
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let deadline = Instant::now() + ANSWER_MAX;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no answer in {} s", ANSWER_MAX.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    let mut text = String::new();
    if let Some(out) = child.stdout.take() {
        out.take(ANSWER_BYTES_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    }
    if status.success() { Ok(text) } else { Err(status.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Runtime;

    fn bin(names: &[&str]) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::write(dir.path().join("plain"), "").unwrap();
        let path = format!("relative:{}", dir.path().display());
        (dir, path)
    }

    fn config(runtimes: &[(&str, Option<PathBuf>)], default: Option<&str>) -> Config {
        let runtimes = runtimes
            .iter()
            .map(|(name, path)| ((*name).to_owned(), Runtime { path: path.clone(), ..Runtime::default() }));
        Config {
            runtimes: runtimes.collect(),
            default_runtime: default.map(str::to_owned),
            ..Config::default()
        }
    }

    #[test]
    fn without_configuration_what_is_installed_is_used() {
        let (dir, path) = bin(&["youki", "runc"]);
        let found = find(&config(&[], None), &path).unwrap();
        assert_eq!(found.handlers.keys().collect::<Vec<_>>(), ["runc", "youki"]);
        assert_eq!((found.default.as_str(), &found.handlers["runc"]), ("runc", &dir.path().join("runc")));
        assert_eq!(find(&config(&[], None), "/nonexistent"), Err(RuntimesError::None));
        let wanted = find(&config(&[], Some("crun")), &path).unwrap_err();
        assert_eq!(wanted, RuntimesError::NoDefault { name: "crun".into() });
    }

    #[test]
    fn with_configuration_only_what_it_names_is_used() {
        let (dir, path) = bin(&["crun", "kata"]);
        let kata = dir.path().join("kata");
        let found = find(&config(&[("vm", Some(kata.clone()))], None), &path).unwrap();
        assert_eq!(found, Runtimes { handlers: [("vm".to_owned(), kata)].into(), default: "vm".into() });
        let plain = dir.path().join("plain");
        let error = find(&config(&[("vm", Some(plain.clone()))], None), &path).unwrap_err();
        assert_eq!(error, RuntimesError::NotExecutable { name: "vm".into(), path: plain });
        let error = find(&config(&[("plain", None)], None), &path).unwrap_err();
        assert_eq!(error, RuntimesError::NotInPath { name: "plain".into() });
    }

    #[test]
    fn execs_are_native_for_runtimes_that_make_processes_of_this_kernel() {
        for (file, exec, expected) in [
            ("runc", None, ExecBy::Shim(Kind::Runc)),
            ("crun", None, ExecBy::Shim(Kind::Crun)),
            ("youki", None, ExecBy::Shim(Kind::Other)),
            ("runsc", None, ExecBy::Runtime),
            ("runsc", Some(ExecMode::Native), ExecBy::Shim(Kind::Other)),
            ("runc", Some(ExecMode::Native), ExecBy::Shim(Kind::Runc)),
            ("runc", Some(ExecMode::Runtime), ExecBy::Runtime),
        ] {
            let mut config = config(&[("x", None)], None);
            config.runtimes.get_mut("x").unwrap().exec = exec;
            assert_eq!(exec_by(&config, "x", &Path::new("/opt").join(file)), expected, "{file} {exec:?}");
        }
        let found = exec_by(&Config::default(), "crun", Path::new("/usr/bin/crun"));
        assert_eq!(found, ExecBy::Shim(Kind::Crun), "without a section");
    }

    #[test]
    fn a_shim_that_is_not_there_is_named() {
        let mut config = Config::default();
        config.pods.shim = Some("/nonexistent/shim".into());
        let error = find_shim(&config, "").unwrap_err().to_string();
        assert_eq!(
            error,
            "no executable gantline-shim in /nonexistent/shim; install it beside gantline, or set pods.shim"
        );
    }
    #[test]
    fn an_old_crun_is_known_by_its_version() {
        let all = Features { recursive_read_only: true, id_mapped_mounts: true, user_namespaces: true };
        let read_only = Features { recursive_read_only: true, ..Features::default() };
        for (text, expected) in [
            ("crun version 1.8.1\ncommit: f8a096b\n", all),
            ("crun version 1.10\n", all),
            ("crun version 1.8\n", read_only),
            ("crun version 1.4\n", read_only),
            ("crun version 1.3.2\n", Features::default()),
            ("crun version 0.21\n", Features::default()),
            ("runc version 1.0.0\n", Features::default()),
            ("crun version UNKNOWN\n", Features::default()),
            ("", Features::default()),
        ] {
            assert_eq!(features_by_version(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_feature_needs_the_kernel_too() {
        let all = Features { recursive_read_only: true, id_mapped_mounts: true, user_namespaces: true };
        let none = Features::default();
        for (version, expect) in [
            ((5, 11), none),
            ((5, 12), Features { user_namespaces: false, ..all }),
            ((5, 18), Features { user_namespaces: false, ..all }),
            ((5, 19), all),
            ((6, 1), all),
        ] {
            assert_eq!(all.on_kernel(version), expect, "{version:?}");
            assert_eq!(none.on_kernel(version), none);
        }
        let without_mounts = Features { id_mapped_mounts: false, ..all };
        assert!(!without_mounts.on_kernel((6, 1)).user_namespaces);
    }

    #[test]
    fn features_are_read_as_the_runtime_spec_has_them() {
        let text =
            r#"{"ociVersionMin": "1.0.0", "mountOptions": ["ro", "rro"], "linux": {"namespaces": ["net"]}}"#;
        assert_eq!(parse_features(text), Features { recursive_read_only: true, ..Features::default() });
        let able =
            r#"{"linux": {"namespaces": ["net", "user"], "mountExtensions": {"idmap": {"enabled": true}}}}"#;
        let features = Features { recursive_read_only: false, id_mapped_mounts: true, user_namespaces: true };
        assert_eq!(parse_features(able), features);
        let off = able.replace("true", "false");
        assert_eq!(parse_features(&off), Features { id_mapped_mounts: false, ..features });
        for nothing in ["", "{}", "unknown command features", "[]"] {
            assert_eq!(parse_features(nothing), Features::default());
        }
    }
}
