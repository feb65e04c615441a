//! What becomes of containerd's configuration, of every version of its format (containerd, docs/cri/config.md and
//! docs/man/containerd-config.toml.5.md).

use std::path::{Path, PathBuf};

use super::document::{self, At, Leaf, Unreadable};
use super::rules::{
    Rule, Rules, duration, ip_preference, level, line_size, listen, log_format, path, paths, same,
    unset_seccomp, volumes_flag,
};
use crate::files::Files;

pub(super) const NAME: &str = "containerd";
pub(super) const FILE: &str = "/etc/containerd/config.toml";

/// What containerd does where its files say nothing, and Gantline would do otherwise.
const DEFAULTS: &str = "
[cri.containerd]
default_runtime_name = 'runc'
[cri.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[cri.containerd.runtimes.runc.options]
SystemdCgroup = false
[cri.cni]
bin_dirs = ['/opt/cni/bin']
";

const OWN_DEADLINES: &str = "Gantline's own deadlines are fixed";
const NO_PLUGINS: &str = "of a plugin that Gantline has no counterpart of";
const NO_PAUSE: &str = "Gantline runs no pause container";
const OVERLAY: &str = "images are unpacked for overlayfs";
const OTHER_SNAPSHOTTER: &str = "Gantline knows overlayfs alone: pods of this node use that";
const ENCRYPTED: &str = "of encrypted images, which Gantline does not pull";
const CHECKPOINTS: &str = "checkpoints are made where CRIU and an OCI runtime that knows it are installed";
const OWN_SOCKET: &str = "Gantline's own socket is gantline.sock in its state directory";
const NO_TCP: &str =
    "the CRI is served on a unix socket alone; reach it through ssh where it was reached by TCP";
const NRI: &str = "NRI is not there: what its plugins adjust stays as the kubelet asks for it";

const NRI_PLUGINS: &str = "NRI plugins are not run: keep nodes whose pods need what they adjust as they are";

pub(super) const RULES: Rules = &[
    ("version", Rule::Needless("every version of the format is read")),
    ("imports", Rule::Needless("these files were read too")),
    (
        "root",
        Rule::Only(
            &["\"/var/lib/containerd\""],
            "images are pulled again into Gantline's own root",
            "if that is a disk of its own for images, set root to a directory on it",
        ),
    ),
    (
        "state",
        Rule::Only(
            &["\"/run/containerd\""],
            "Gantline's own state is in /run/gantline",
            "set state if Gantline's shall not be in /run/gantline",
        ),
    ),
    ("temp", Rule::Needless("temporary files are in Gantline's own root")),
    ("plugin_dir", Rule::Only(&[], NO_PLUGINS, "Gantline loads no plugins")),
    ("disabled_plugins", Rule::Needless("there are no plugins to turn off")),
    ("required_plugins", Rule::Needless("there are no plugins to require")),
    (
        "oom_score",
        Rule::Only(
            &["0", "-999"],
            "gantline.service sets -999",
            "set OOMScoreAdjust in a drop-in of gantline.service",
        ),
    ),
    ("debug/level", Rule::Key(&["log", "level"], level)),
    ("debug/format", Rule::Key(&["log", "format"], log_format)),
    ("debug/log_trace_id", Rule::Needless("a trace's id is in the log where there is a trace")),
    ("debug/*", Rule::Needless("`gantline status`, `why` and `top` ask Gantline's own admin socket")),
    (
        "plugins/io.containerd.server.v1.debug/**",
        Rule::Needless("`gantline status`, `why` and `top` ask Gantline's own admin socket"),
    ),
    ("grpc/address", Rule::Needless(OWN_SOCKET)),
    (
        "grpc/uid",
        Rule::Only(&["0"], "root owns the socket", "root owns the socket: use server.socket_gid and a group"),
    ),
    ("grpc/gid", Rule::KeyBut("0", &["server", "socket_gid"], same)),
    ("grpc/max_recv_message_size", Rule::Needless("requests may have 16 MiB")),
    ("grpc/max_send_message_size", Rule::Needless("answers may have 16 MiB, and long lists are streamed")),
    ("grpc/tcp_address", Rule::Only(&[], "there is no TCP service", NO_TCP)),
    ("grpc/tcp_tls_ca", Rule::Only(&[], "there is no TCP service", NO_TCP)),
    ("grpc/tcp_tls_cert", Rule::Only(&[], "there is no TCP service", NO_TCP)),
    ("grpc/tcp_tls_key", Rule::Only(&[], "there is no TCP service", NO_TCP)),
    ("grpc/tcp_tls_common_name", Rule::Only(&[], "there is no TCP service", NO_TCP)),
    (
        "plugins/io.containerd.server.v1.grpc-tcp/max_recv_message_size",
        Rule::Needless("there is no TCP service"),
    ),
    (
        "plugins/io.containerd.server.v1.grpc-tcp/max_send_message_size",
        Rule::Needless("there is no TCP service"),
    ),
    ("plugins/io.containerd.server.v1.grpc-tcp/*", Rule::Only(&[], "there is no TCP service", NO_TCP)),
    ("ttrpc/*", Rule::Needless("shims have sockets of their own")),
    ("plugins/io.containerd.server.v1.ttrpc/*", Rule::Needless("shims have sockets of their own")),
    ("metrics/address", Rule::Key(&["metrics", "address"], listen)),
    ("metrics/grpc_histogram", Rule::Needless("every request is in gantline_cri_request_duration_seconds")),
    (
        "plugins/io.containerd.metrics.v1.grpc-prometheus/grpc_histogram",
        Rule::Needless("every request is in gantline_cri_request_duration_seconds"),
    ),
    (
        "cgroup/path",
        Rule::Only(
            &[],
            "the service runs where systemd starts it",
            "set Slice in a drop-in of gantline.service",
        ),
    ),
    ("timeouts/*", Rule::Needless(OWN_DEADLINES)),
    ("stream_processors/io.containerd.ocicrypt.decoder.v1.tar/*", Rule::Needless(ENCRYPTED)),
    ("stream_processors/io.containerd.ocicrypt.decoder.v1.tar.gzip/*", Rule::Needless(ENCRYPTED)),
    (
        "stream_processors/**",
        Rule::Only(&[], ENCRYPTED, "layers of other media types than OCI's and docker's are not unpacked"),
    ),
    (
        "proxy_plugins/**",
        Rule::Only(
            &[],
            NO_PLUGINS,
            "lazy and remote snapshotters are not there: images are unpacked whole, and must be plain ones",
        ),
    ),
    // The CRI plugin: runtime, images and streaming, whatever they are called.
    ("cri/sandbox_image", Rule::Needless(NO_PAUSE)),
    ("cri/pinned_images/sandbox", Rule::Needless(NO_PAUSE)),
    ("cri/pinned_images/*", Rule::Registry),
    ("cri/registry/**", Rule::Registry),
    ("cri/registry", Rule::Registry),
    ("cri/containerd/default_runtime_name", Rule::Runtime),
    ("cri/containerd/runtimes/**", Rule::Runtime),
    (
        "cri/containerd/default_runtime/**",
        Rule::Only(
            &["false", "0"],
            "of the format of containerd 1.2",
            "name the runtime in a table of runtimes, and it in default_runtime",
        ),
    ),
    (
        "cri/containerd/untrusted_workload_runtime/**",
        Rule::Only(
            &["false", "0"],
            "of the format of containerd 1.2",
            "use a RuntimeClass and a table of runtimes instead",
        ),
    ),
    ("cri/snapshotter", Rule::Only(&["\"overlayfs\""], OVERLAY, OTHER_SNAPSHOTTER)),
    ("cri/containerd/snapshotter", Rule::Only(&["\"overlayfs\""], OVERLAY, OTHER_SNAPSHOTTER)),
    ("cri/runtime_platforms/**", Rule::Only(&[], OVERLAY, OTHER_SNAPSHOTTER)),
    ("cri/runtime_platform/**", Rule::Only(&[], OVERLAY, OTHER_SNAPSHOTTER)),
    ("cri/disable_snapshot_annotations", Rule::Needless("of remote snapshotters alone")),
    ("cri/containerd/disable_snapshot_annotations", Rule::Needless("of remote snapshotters alone")),
    ("cri/discard_unpacked_layers", Rule::Needless("compressed layers are never kept")),
    ("cri/containerd/discard_unpacked_layers", Rule::Needless("compressed layers are never kept")),
    (
        "cri/containerd/no_pivot",
        Rule::Only(
            &["false"],
            "roots are pivoted to",
            "Gantline does not run from an initramfs's root; boot from a disk",
        ),
    ),
    ("cri/containerd/ignore_blockio_not_enabled_errors", Rule::Needless("block I/O classes are not there")),
    ("cri/containerd/ignore_rdt_not_enabled_errors", Rule::Needless("RDT classes are not there")),
    (
        "cri/max_concurrent_downloads",
        Rule::Needless("images.fetches_max bounds all pulls together, not each one"),
    ),
    ("cri/concurrent_layer_fetch_buffer", Rule::Needless("layers are unpacked while they come")),
    ("cri/image_pull_progress_timeout", Rule::Needless(OWN_DEADLINES)),
    (
        "cri/image_pull_with_sync_fs",
        Rule::Needless("layers are always synced before the record that names them"),
    ),
    ("cri/stats_collect_period", Rule::Needless("figures are read when they are asked for")),
    ("cri/stats_retention_period", Rule::Needless("figures are read when they are asked for")),
    ("cri/use_local_image_pull", Rule::Needless("there is one way to pull")),
    ("cri/image_decryption/**", Rule::Needless(ENCRYPTED)),
    ("cri/enable_selinux", Rule::Needless("SELinux is used where the kernel has it")),
    ("cri/selinux_category_range", Rule::Needless("SELinux's levels are those that pods ask for")),
    ("cri/max_container_log_line_size", Rule::Key(&["pods", "log_line_bytes_max"], line_size)),
    (
        "cri/disable_apparmor",
        Rule::Only(
            &["false"],
            "AppArmor is used where the kernel has it",
            "AppArmor is used where the kernel has it; boot with apparmor=0 to do without",
        ),
    ),
    ("cri/restrict_oom_score_adj", Rule::Needless("a score is clamped where the service may not go lower")),
    (
        "cri/disable_proc_mount",
        Rule::Only(&["false"], "a pod's procMount is heeded", "no kubelet since 1.12 needs it"),
    ),
    (
        "cri/disable_cgroup",
        Rule::Only(&["false"], "pods have cgroups", "Gantline does not run rootless: run it as root"),
    ),
    ("cri/unset_seccomp_profile", Rule::Key(&["security", "unset_seccomp"], unset_seccomp)),
    (
        "cri/tolerate_missing_hugetlb_controller",
        Rule::Needless("a limit is refused only where a pod asks for one that the node has not"),
    ),
    ("cri/disable_hugetlb_controller", Rule::Needless("huge pages are limited where a pod asks for it")),
    (
        "cri/device_ownership_from_security_context",
        Rule::Key(&["security", "device_ownership_from_security_context"], same),
    ),
    ("cri/ignore_image_defined_volumes", Rule::Key(&["pods", "image_defined_volumes"], volumes_flag)),
    (
        "cri/netns_mounts_under_state_dir",
        Rule::Only(
            &["false"],
            "namespaces are pinned in /run/netns",
            "set network.netns_dir, to a directory in Gantline's state for example",
        ),
    ),
    ("cri/enable_unprivileged_ports", Rule::Key(&["security", "unprivileged_ports"], same)),
    ("cri/enable_unprivileged_icmp", Rule::Key(&["security", "unprivileged_icmp"], same)),
    (
        "cri/enable_cdi",
        Rule::Only(
            &["true"],
            "CDI is always on",
            "CDI is always on; empty pods.cdi_spec_dirs to have no device by it",
        ),
    ),
    ("cri/cdi_spec_dirs", Rule::Key(&["pods", "cdi_spec_dirs"], paths)),
    (
        "cri/drain_exec_sync_io_timeout",
        Rule::Needless("ExecSync ends with its process, whoever holds its output"),
    ),
    ("cri/ignore_deprecation_warnings", Rule::Needless("there are none")),
    ("cri/enable_criu", Rule::Needless(CHECKPOINTS)),
    (
        "cri/systemd_cgroup",
        Rule::Only(&["false"], "of the format of containerd 1.2", "set cgroup.driver = \"systemd\""),
    ),
    ("cri/cni/bin_dir", Rule::Key(&["network", "bin_dirs"], paths)),
    ("cri/cni/bin_dirs", Rule::Key(&["network", "bin_dirs"], paths)),
    ("cri/cni/conf_dir", Rule::Key(&["network", "conf_dir"], path)),
    ("cri/cni/conf_template", Rule::Key(&["network", "conf_template"], path)),
    ("cri/cni/ip_pref", Rule::Key(&["network", "ip_preference"], ip_preference)),
    (
        "cri/cni/max_conf_num",
        Rule::Only(
            &["1"],
            "the first network list by name is used",
            "a pod joins one network list: use a meta plugin (Multus) for more",
        ),
    ),
    ("cri/cni/setup_serially", Rule::Needless("a pod joins one network list")),
    ("cri/cni/use_internal_loopback", Rule::Needless("loopback is set up by Gantline itself")),
    ("cri/disable_tcp_service", Rule::Only(&["true"], "there is no TCP service", NO_TCP)),
    ("cri/stream_idle_timeout", Rule::Key(&["streaming", "idle_timeout"], duration)),
    ("cri/stream_server_address", Rule::Streaming),
    ("cri/stream_server_port", Rule::Streaming),
    ("cri/enable_tls_streaming", Rule::Streaming),
    ("cri/x509_key_pair_streaming", Rule::Streaming),
    ("cri/x509_key_pair_streaming/**", Rule::Streaming),
    // Other plugins.
    ("plugins/io.containerd.nri.v1.nri/disable", Rule::Needless(NRI)),
    ("plugins/io.containerd.nri.v1.nri/plugin_path", Rule::Empty(NRI, NRI_PLUGINS)),
    ("plugins/io.containerd.nri.v1.nri/default_validator/enable", Rule::Only(&["false"], NRI, NRI_PLUGINS)),
    ("plugins/io.containerd.nri.v1.nri/**", Rule::Needless(NRI)),
    (
        "plugins/io.containerd.service.v1.tasks-service/blockio_config_file",
        Rule::Only(
            &[],
            "block I/O classes are not there",
            "block I/O classes are not there: pods that name one are not held to it",
        ),
    ),
    (
        "plugins/io.containerd.service.v1.tasks-service/rdt_config_file",
        Rule::Only(
            &[],
            "RDT classes are not there",
            "RDT classes are not there: pods that name one are not held to it",
        ),
    ),
    (
        "plugins/io.containerd.transfer.v1.local/config_path",
        Rule::Only(&[], "the registries of the CRI plugin count", "add the directory to images.certs_d"),
    ),
    (
        "plugins/io.containerd.transfer.v1.local/**",
        Rule::Needless("images.fetches_max bounds all pulls together, not each one"),
    ),
    (
        "plugins/io.containerd.image-verifier.v1.bindir/bin_dir",
        Rule::Empty(
            "images are verified by digest",
            "verify signatures at admission, before pods reach the node",
        ),
    ),
    (
        "plugins/io.containerd.image-verifier.v1.bindir/**",
        Rule::Needless("images are verified by digest; for signatures use an admission policy"),
    ),
    (
        "snapshotters/overlayfs/mount_options",
        Rule::Only(&[], OVERLAY, "options of overlayfs are Gantline's own"),
    ),
    ("snapshotters/overlayfs/root_path", Rule::Only(&[], OVERLAY, "set root to a directory on that disk")),
    ("snapshotters/overlayfs/*", Rule::Needless(OVERLAY)),
    ("snapshotters/**", Rule::Needless("of another snapshotter than overlayfs")),
    (
        "plugins/io.containerd.monitor.container.v1.restart/**",
        Rule::Needless("the kubelet restarts containers"),
    ),
    ("plugins/io.containerd.internal.v1.restart/**", Rule::Needless("the kubelet restarts containers")),
    ("plugins/io.containerd.internal.v1.opt/path", Rule::Needless("Gantline installs nothing by itself")),
    (
        "plugins/io.containerd.internal.v1.tracing/**",
        Rule::Only(&["1.0"], NO_PLUGINS, "set the [tracing] section"),
    ),
    (
        "plugins/io.containerd.tracing.processor.v1.otlp/insecure",
        Rule::Needless("the endpoint's scheme says it"),
    ),
    (
        "plugins/io.containerd.tracing.processor.v1.otlp/**",
        Rule::Only(&[], NO_PLUGINS, "set tracing.endpoint and tracing.protocol"),
    ),
    (
        "plugins/io.containerd.gc.v1.scheduler/**",
        Rule::Needless("layers that no image names go with their image"),
    ),
    ("plugins/io.containerd.metadata.v1.bolt/**", Rule::Needless("records are in stores of Gantline's own")),
    (
        "plugins/io.containerd.monitor.task.v1.cgroups/**",
        Rule::Needless("metrics of pods are in the kubelet's and Gantline's"),
    ),
    (
        "plugins/io.containerd.monitor.v1.cgroups/**",
        Rule::Needless("metrics of pods are in the kubelet's and Gantline's"),
    ),
    (
        "plugins/io.containerd.runtime.v2.task/sched_core",
        Rule::Only(
            &["false"],
            "core scheduling is not there",
            "core scheduling is not there: turn SMT off where pods must not share a core",
        ),
    ),
    (
        "plugins/io.containerd.runtime.v2.task/platforms",
        Rule::Needless("images of the node's own platform are pulled"),
    ),
    ("plugins/io.containerd.runtime.v1.linux/**", Rule::Needless("of a shim that containerd has given up")),
    (
        "plugins/io.containerd.shim.v1.manager/env",
        Rule::Only(&[], "shims have no environment to set", "Gantline's shim needs none"),
    ),
    ("plugins/io.containerd.shim.v1.manager/socket_dir", Rule::Needless("shims have sockets of their own")),
    (
        "plugins/io.containerd.service.v1.diff-service/**",
        Rule::Needless("layers are unpacked by Gantline itself"),
    ),
    ("plugins/io.containerd.differ.v1.erofs/**", Rule::Needless("of another snapshotter than overlayfs")),
    ("plugins/io.containerd.mount-handler.v1.erofs", Rule::Needless("of another snapshotter than overlayfs")),
    (
        "plugins/io.containerd.mount-handler.v1.erofs/**",
        Rule::Needless("of another snapshotter than overlayfs"),
    ),
];

/// The names that plugins had in version 1 of the format, by those that they have since.
const FIRST_NAMES: [(&str, &str); 7] = [
    ("cgroups", "io.containerd.monitor.v1.cgroups"),
    ("linux", "io.containerd.runtime.v1.linux"),
    ("scheduler", "io.containerd.gc.v1.scheduler"),
    ("bolt", "io.containerd.metadata.v1.bolt"),
    ("task", "io.containerd.runtime.v2.task"),
    ("opt", "io.containerd.internal.v1.opt"),
    ("restart", "io.containerd.internal.v1.restart"),
];
/// The CRI plugin's, which has become three.
const CRI_NAMES: [&str; 4] =
    ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"];

/// The files of the configuration that are there, the values that apply, and the version of the format.
pub(super) struct Found {
    pub(super) files: Vec<PathBuf>,
    pub(super) leaves: Vec<Leaf>,
    pub(super) version: i64,
}

/// Reads the configuration with its imports.
pub(super) fn read(files: &Files, main: &Path) -> Result<Found, Unreadable> {
    let mut found = Found { files: Vec::new(), leaves: Vec::new(), version: 1 };
    let defaults = document::read(Path::new("/"), DEFAULTS)?;
    found.leaves.extend(defaults.into_iter().map(|leaf| Leaf { at: At::Default(NAME), ..leaf }));
    let mut waiting = vec![main.to_owned()];
    while let Some(path) = waiting.pop() {
        if found.files.contains(&path) {
            continue;
        }
        let text = match files.read(&path) {
            Ok(Some(text)) => text,
            Ok(None) => continue,
            Err(error) => return Err(Unreadable::new(&path, &error.to_string())),
        };
        let mut leaves = document::read(&path, &text)?;
        let integer = |leaf: &Leaf| (leaf.path == ["version"]).then(|| leaf.value.as_integer()).flatten();
        if let Some(version) = leaves.iter().find_map(integer) {
            found.version = found.version.max(version);
        }
        for leaf in &mut leaves {
            rename(&mut leaf.path);
        }
        let imports: Vec<PathBuf> = leaves
            .iter()
            .filter(|leaf| leaf.path == ["imports"])
            .flat_map(|leaf| leaf.value.as_array().into_iter().flatten())
            .filter_map(toml::Value::as_str)
            .flat_map(|pattern| imported(files, &path, pattern))
            .collect();
        // A directory that is named twice is told once.
        waiting.splice(0..0, imports.into_iter().rev());
        found.files.push(path);
        document::lay_over(&mut found.leaves, leaves);
    }
    if found.leaves.iter().any(|leaf| leaf.path == ["cri", "cni", "bin_dir"]) {
        found.leaves.retain(|leaf| leaf.at != At::Default(NAME) || leaf.path != ["cri", "cni", "bin_dirs"]);
    }
    Ok(found)
}

/// The files that an import names: a path, or a directory with a pattern of names.
fn imported(files: &Files, importer: &Path, pattern: &str) -> Vec<PathBuf> {
    let path = importer.parent().unwrap_or(Path::new("/")).join(pattern);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((before, after)) = name.split_once('*') else { return vec![path] };
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut found = files.list(directory);
    found.retain(|candidate| {
        let name = candidate.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
    });
    found
}

/// Gives a key the name that the rules know it by.
fn rename(path: &mut Vec<String>) {
    if path.first().map(String::as_str) != Some("plugins") || path.len() < 2 {
        return;
    }
    if CRI_NAMES.contains(&path[1].as_str()) {
        path.splice(0..2, ["cri".to_owned()]);
    } else if let Some((_, name)) = FIRST_NAMES.iter().find(|(first, _)| *first == path[1]) {
        path[1] = (*name).to_owned();
    } else if !path[1].contains('.') && path[1].ends_with("-service") {
        path[1] = format!("io.containerd.service.v1.{}", path[1]);
    } else if !path[1].contains('.') {
        path[1] = format!("io.containerd.snapshotter.v1.{}", path[1]);
    }
    match path[..] {
        [_, ref plugin, ..] if plugin == "io.containerd.server.v1.grpc" => {
            path.splice(0..2, ["grpc".to_owned()]);
        }
        [_, ref plugin, ..] if plugin == "io.containerd.server.v1.metrics" => {
            path.splice(0..2, ["metrics".to_owned()]);
        }
        [_, ref plugin, ..] => {
            if let Some(name) = plugin.strip_prefix("io.containerd.snapshotter.v1.").map(str::to_owned) {
                path.splice(0..2, ["snapshotters".to_owned(), name]);
            }
        }
        _ => {}
    }
}
