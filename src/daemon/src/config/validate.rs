//! What no single value shows: paths that must be absolute, names that must exist, settings that contradict
//! each other. Everything that is wrong is told at once, before anything binds.

use std::path::Path;
use std::time::Duration;

use super::layers::Loaded;
use super::schema::{Fault, Origin};
use super::value::CgroupDriver;

/// unix(7): sun_path has 108 bytes, the last one a zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// A frame between shim and service holds a line with room to spare.
const LOG_LINE_BYTES_MAX: usize = 64 * 1024;

/// A session has about five descriptors.
const SESSIONS_MAX: usize = 10_000;
/// A week.
const STREAMING_TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Linux's capabilities (capabilities(7), 6.x), without `CAP_`.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// Adds to `faults` what is wrong with the configuration as a whole.
pub(crate) fn check(loaded: &Loaded, faults: &mut Vec<Fault>) {
    let mut check = Check { loaded, faults };
    check.paths();
    check.lengths();
    check.names();
    check.bounds();
    check.streaming();
    check.tracing();
}

struct Check<'a> {
    loaded: &'a Loaded,
    faults: &'a mut Vec<Fault>,
}

impl Check<'_> {
    fn fault(&mut self, key: &str, message: impl Into<String>) {
        let origin: Option<Origin> = self.loaded.origins.get(key).cloned();
        self.faults.push(Fault { origin, key: key.to_owned(), message: message.into() });
    }

    fn unless(&mut self, right: bool, key: &str, message: impl Into<String>) {
        if !right {
            self.fault(key, message);
        }
    }

    fn tracing(&mut self) {
        let config = &self.loaded.config;
        let per_mille = config.tracing.per_mille.unwrap_or(0);
        self.unless(per_mille <= 1000, "tracing.per_mille", "is more than 1000, which is all");
        // What the environment says is looked at when the service starts; here it says no more than a receiver.
        let somewhere =
            |name: &str| name.ends_with("_TRACES_ENDPOINT").then(|| "http://localhost".to_owned());
        if let Err(error) = telemetry::TraceSettings::resolve(&config.trace_config(), somewhere)
            && error.variable != "tracing.per_mille"
        {
            self.fault(&error.variable, error.why);
        }
    }

    fn paths(&mut self) {
        let config = &self.loaded.config;
        let mut paths: Vec<(String, &Path)> = vec![
            ("root".into(), &config.root),
            ("state".into(), &config.state),
            ("network.conf_dir".into(), &config.network.conf_dir),
            ("network.cache_dir".into(), &config.network.cache_dir),
            ("network.netns_dir".into(), &config.network.netns_dir),
        ];
        let optional = [
            ("server.socket", &config.server.socket),
            ("network.conf_template", &config.network.conf_template),
            ("security.seccomp_profile", &config.security.seccomp_profile),
            ("pods.shim", &config.pods.shim),
            ("streaming.tls_certificate", &config.streaming.tls_certificate),
            ("streaming.tls_key", &config.streaming.tls_key),
            ("streaming.tls_client_ca", &config.streaming.tls_client_ca),
        ];
        paths.extend(optional.into_iter().filter_map(|(key, path)| Some((key.to_owned(), path.as_deref()?))));
        paths.extend(config.images.certs_d.iter().map(|path| ("images.certs_d".to_owned(), path.as_path())));
        paths.extend(
            config.network.bin_dirs.iter().map(|path| ("network.bin_dirs".to_owned(), path.as_path())),
        );
        let sources = &config.pods.absent_mount_sources_to_reject;
        let key = "pods.absent_mount_sources_to_reject";
        paths.extend(sources.iter().map(|path| (key.to_owned(), path.as_path())));
        let dirs = &config.pods.cdi_spec_dirs;
        paths.extend(dirs.iter().map(|path| ("pods.cdi_spec_dirs".to_owned(), path.as_path())));
        for (name, runtime) in &config.runtimes {
            if let Some(path) = &runtime.path {
                paths.push((format!("{}.path", super::schema::join("runtimes", name)), path));
            }
        }
        for (key, path) in paths {
            self.unless(path.is_absolute(), &key, format!("{} is not an absolute path", path.display()));
        }
        if config.root == config.state {
            self.fault(
                "state",
                "is the same directory as root: a reboot must discard one and keep the other",
            );
        } else if config.root.starts_with(&config.state) {
            self.fault("root", "lies in the state directory, which a reboot discards");
        }
    }

    fn lengths(&mut self) {
        let config = &self.loaded.config;
        let socket = config.socket();
        self.unless(
            socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX,
            "server.socket",
            format!(
                "{} is longer than the {SOCKET_PATH_BYTES_MAX} bytes of a socket's path",
                socket.display()
            ),
        );
    }

    fn names(&mut self) {
        let config = &self.loaded.config;
        if let Err(error) = config.log_config().validate() {
            self.fault("log.level", error.to_string());
        }
        for name in config.runtimes.keys() {
            // RuntimeClass.handler (Kubernetes API): a DNS label.
            let label = !name.is_empty()
                && name.len() <= 63
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !name.starts_with('-')
                && !name.ends_with('-');
            let message = "is not a handler's name: lower-case letters, digits and inner hyphens, at most 63";
            self.unless(label, &super::schema::join("runtimes", name), message);
        }
        for (name, runtime) in &config.runtimes {
            let key = "privileged_without_host_devices_all_devices_allowed";
            self.unless(
                runtime.privileged_without_host_devices
                    || !runtime.privileged_without_host_devices_all_devices_allowed,
                &format!("{}.{key}", super::schema::join("runtimes", name)),
                "means nothing without privileged_without_host_devices",
            );
        }
        if let Some(default) = &config.default_runtime
            && !config.runtimes.is_empty()
            && !config.runtimes.contains_key(default)
        {
            let known: Vec<_> = config.runtimes.keys().map(String::as_str).collect();
            let message = format!("{default:?} is not one of the runtimes: {}", known.join(", "));
            self.fault("default_runtime", message);
        }
        for name in &config.security.default_capabilities {
            let known = CAPABILITIES.contains(&name.strip_prefix("CAP_").unwrap_or(name));
            self.unless(known, "security.default_capabilities", format!("{name:?} is not a capability"));
        }
        // A pattern with * is not a reference.
        for reference in config.images.pinned.iter().filter(|reference| !reference.contains('*')) {
            if let Err(error) = reference.parse::<model::ImageRef>() {
                self.fault("images.pinned", error.to_string());
            }
        }
        let parent = config.cgroup.parent.as_deref();
        match (config.cgroup.driver, parent) {
            (_, None) => {}
            (CgroupDriver::Systemd, Some(parent)) => {
                let slice = parent.ends_with(".slice") && !parent.contains('/');
                self.unless(
                    slice,
                    "cgroup.parent",
                    format!("{parent:?} is not a slice's name, as \"kube.slice\""),
                );
            }
            (CgroupDriver::Cgroupfs, Some(parent)) => {
                let path = parent.starts_with('/') && Path::new(parent).components().all(normal);
                self.unless(path, "cgroup.parent", format!("{parent:?} is not an absolute cgroup path"));
            }
            (CgroupDriver::Auto, Some(_)) => {
                self.fault(
                    "cgroup.parent",
                    "needs cgroup.driver to be set, since each driver names parents its own way",
                );
            }
        }
    }

    fn bounds(&mut self) {
        let config = &self.loaded.config;
        self.unless(
            (1..=64).contains(&config.images.fetches_max),
            "images.fetches_max",
            "must be from 1 to 64",
        );
        self.unless(config.images.unpack_threads <= 256, "images.unpack_threads", "must be at most 256");
        let line = config.pods.log_line_bytes_max;
        self.unless(
            (256..=LOG_LINE_BYTES_MAX).contains(&line),
            "pods.log_line_bytes_max",
            format!("must be from 256 to {LOG_LINE_BYTES_MAX}"),
        );
        self.unless(
            config.pods.pids_limit != Some(0),
            "pods.pids_limit",
            "must be at least 1, or not be set",
        );
        self.unless(!config.network.bin_dirs.is_empty(), "network.bin_dirs", "must name a directory");
        self.unless(!config.network.plugin_timeout.0.is_zero(), "network.plugin_timeout", "must not be zero");
    }

    fn streaming(&mut self) {
        let streaming = &self.loaded.config.streaming;
        self.unless(streaming.address.0.is_some(), "streaming.address", "must not be empty");
        for (key, span) in [
            ("streaming.idle_timeout", streaming.idle_timeout),
            ("streaming.creation_timeout", streaming.creation_timeout),
            ("streaming.token_timeout", streaming.token_timeout),
        ] {
            self.unless(
                !span.0.is_zero() && span.0 <= STREAMING_TIMEOUT_MAX,
                key,
                "must be from 1ms to 168h",
            );
        }
        self.unless(
            (1..=SESSIONS_MAX).contains(&streaming.sessions_max),
            "streaming.sessions_max",
            format!("must be from 1 to {SESSIONS_MAX}"),
        );
        match (&streaming.tls_certificate, &streaming.tls_key) {
            (Some(_), None) => self.fault("streaming.tls_certificate", "needs streaming.tls_key beside it"),
            (None, Some(_)) => self.fault("streaming.tls_key", "needs streaming.tls_certificate beside it"),
            (None, None) if streaming.tls_client_ca.is_some() => {
                self.fault(
                    "streaming.tls_client_ca",
                    "needs streaming.tls_certificate and streaming.tls_key",
                );
            }
            _ => {}
        }
    }
}

fn normal(component: std::path::Component<'_>) -> bool {
    matches!(component, std::path::Component::RootDir | std::path::Component::Normal(_))
}

#[cfg(test)]
mod tests {
    use super::super::layers::load;

    fn faults(text: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        let prefix = format!("{}:", path.display());
        match load(Some(&path), &[]) {
            Ok(_) => Vec::new(),
            Err(error) => error.0.iter().map(|fault| fault.to_string().replace(&prefix, "")).collect(),
        }
    }

    #[test]
    fn what_contradicts_is_refused_with_its_line() {
        let cases = [
            ("root = 'here'", "1: root: here is not an absolute path"),
            ("root = '/x'\nstate = '/x'", "2: state: is the same directory as root"),
            ("root = '/run/gantline/root'", "1: root: lies in the state directory"),
            ("[network]\nbin_dirs = ['/a', 'b']", "2: network.bin_dirs: b is not an absolute path"),
            ("[network]\nbin_dirs = []", "2: network.bin_dirs: must name a directory"),
            ("[runtimes.Crun]", "1: runtimes.Crun: is not a handler's name"),
            ("[runtimes.crun]\npath = 'crun'", "2: runtimes.crun.path: crun is not an absolute path"),
            (
                "default_runtime = 'kata'\n[runtimes.crun]\n[runtimes.runc]",
                "1: default_runtime: \"kata\" is not one of the runtimes: crun, runc",
            ),
            (
                "[security]\ndefault_capabilities = ['KILL', 'FLY']",
                "2: security.default_capabilities: \"FLY\" is not a capability",
            ),
            ("[images]\npinned = ['UPPER']", "2: images.pinned: invalid image reference \"UPPER\""),
            ("[images]\nfetches_max = 0", "2: images.fetches_max: must be from 1 to 64"),
            ("[cgroup]\nparent = '/x'", "2: cgroup.parent: needs cgroup.driver to be set"),
            ("[cgroup]\ndriver = 'systemd'\nparent = '/x'", "3: cgroup.parent: \"/x\" is not a slice's name"),
            (
                "[cgroup]\ndriver = 'cgroupfs'\nparent = '/x/../y'",
                "3: cgroup.parent: \"/x/../y\" is not an absolute cgroup path",
            ),
            ("[pods]\nlog_line_bytes_max = 1000000", "2: pods.log_line_bytes_max: must be from 256 to 65536"),
            ("[pods]\npids_limit = 0", "2: pods.pids_limit: must be at least 1"),
            ("[pods]\ncdi_spec_dirs = ['cdi']", "2: pods.cdi_spec_dirs: cdi is not an absolute path"),
            (
                "[pods]\nabsent_mount_sources_to_reject = ['x']",
                "2: pods.absent_mount_sources_to_reject: x is not an absolute path",
            ),
            (
                "[runtimes.crun]\nprivileged_without_host_devices_all_devices_allowed = true",
                "2: runtimes.crun.privileged_without_host_devices_all_devices_allowed: means nothing without",
            ),
            ("[streaming]\naddress = ''", "2: streaming.address: must not be empty"),
            ("[streaming]\nidle_timeout = '0s'", "2: streaming.idle_timeout: must be from 1ms to 168h"),
            ("[streaming]\ntoken_timeout = '169h'", "2: streaming.token_timeout: must be from 1ms to 168h"),
            ("[streaming]\nsessions_max = 0", "2: streaming.sessions_max: must be from 1 to 10000"),
            ("[streaming]\ntls_certificate = '/c'", "2: streaming.tls_certificate: needs streaming.tls_key"),
            ("[streaming]\ntls_key = '/k'", "2: streaming.tls_key: needs streaming.tls_certificate"),
            (
                "[streaming]\ntls_client_ca = '/a'",
                "2: streaming.tls_client_ca: needs streaming.tls_certificate",
            ),
            (
                "[streaming]\ntls_certificate = '/c'\ntls_key = 'k'",
                "3: streaming.tls_key: k is not an absolute path",
            ),
        ];
        for (text, expected) in cases {
            let faults = faults(text);
            assert!(faults.len() == 1 && faults[0].starts_with(expected), "{text}: {faults:?}");
        }
    }

    #[test]
    fn paths_of_sockets_must_fit() {
        let long = format!("/{}", "x".repeat(107));
        assert!(faults(&format!("[server]\nsocket = '{long}'"))[0].contains("longer than the 107 bytes"));
    }

    #[test]
    fn usual_files_are_right() {
        for text in [
            "default_runtime = 'crun'\n[runtimes.crun]\n[runtimes.kata-qemu]\npath = '/opt/kata'",
            "[cgroup]\ndriver = 'cgroupfs'\nparent = '/kubepods'",
            "[cgroup]\ndriver = 'systemd'\nparent = 'kube-pods.slice'",
            "[security]\ndefault_capabilities = ['CAP_KILL', 'CHOWN']",
        ] {
            assert_eq!(faults(text), Vec::<String>::new(), "{text}");
        }
    }
}
