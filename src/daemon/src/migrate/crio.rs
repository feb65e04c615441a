//! What becomes of CRI-O's configuration (crio.conf(5), crio.conf.d(5)).

use std::path::Path;

use super::containerd::Found;
use super::document::{self, At, Leaf, Unreadable};
use super::rules::{
    Rule, Rules, capabilities, cgroup_manager, duration, image_volumes, level, path, paths, same,
    seccomp_flag, ulimits,
};
use crate::files::Files;

pub(super) const NAME: &str = "CRI-O";
pub(super) const FILE: &str = "/etc/crio/crio.conf";

/// What CRI-O does where its files say nothing, and Gantline would do otherwise.
const DEFAULTS: &str = "
[crio.runtime]
cgroup_manager = 'systemd'
default_capabilities = ['CHOWN', 'DAC_OVERRIDE', 'FSETID', 'FOWNER', 'SETGID', 'SETUID', 'SETPCAP', 'NET_BIND_SERVICE', 'KILL']
seccomp_use_default_when_empty = true
default_sysctls = []
[crio.image]
image_volumes = 'mkdir'
signature_policy = ''
[crio.network]
plugin_dirs = ['/opt/cni/bin']
";

const STORAGE: &str = "images are pulled again into Gantline's own root";
const MONITOR: &str = "Gantline's shim is the monitor, in the pod's cgroup";
const NO_PAUSE: &str = "Gantline runs no pause container";
const WIPE: &str = "what a crash left is undone or finished at the next start";
const NO_ANNOTATIONS: &str = "CRI-O's annotations are not heeded";
const NRI: &str = "NRI is not there: what its plugins adjust stays as the kubelet asks for it";
const KUBELETS: &str = "the kubelet's containerLogMaxSize rotates logs";
const METRICS: &str = "metrics are served without TLS, on loopback: put a proxy before them";

const NRI_PLUGINS: &str = "NRI plugins are not run: keep nodes whose pods need what they adjust as they are";

pub(super) const RULES: Rules = &[
    (
        "crio/root",
        Rule::Only(
            &["\"/var/lib/containers/storage\""],
            STORAGE,
            "if that is a disk of its own for images, set root to a directory on it",
        ),
    ),
    ("crio/runroot", Rule::Needless("Gantline's own state is in /run/gantline")),
    (
        "crio/imagestore",
        Rule::Only(&[], STORAGE, "images and layers are in one place: set root to a directory on that disk"),
    ),
    (
        "crio/storage_driver",
        Rule::Only(&["\"overlay\""], "images are unpacked for overlayfs", "Gantline knows overlayfs alone"),
    ),
    (
        "crio/storage_option",
        Rule::Only(
            &[],
            "options of overlayfs are Gantline's own",
            "options of overlayfs are Gantline's own; fuse-overlayfs is not needed",
        ),
    ),
    ("crio/log_dir", Rule::Needless("the kubelet says where each log is")),
    ("crio/version_file", Rule::Needless(WIPE)),
    ("crio/version_file_persist", Rule::Needless(WIPE)),
    ("crio/internal_wipe", Rule::Needless(WIPE)),
    ("crio/internal_repair", Rule::Needless(WIPE)),
    ("crio/clean_shutdown_file", Rule::Needless(WIPE)),
    ("crio/file_locking", Rule::Needless("the root is locked by the service that runs")),
    ("crio/file_locking_path", Rule::Needless("the root is locked by the service that runs")),
    // [crio.api]
    ("crio/api/listen", Rule::Needless("Gantline's own socket is gantline.sock in its state directory")),
    (
        "crio/api/host_ip",
        Rule::Only(&[], "the kubelet tells a node's address", "set --node-ip of the kubelet"),
    ),
    ("crio/api/stream_address", Rule::Streaming),
    ("crio/api/stream_port", Rule::Streaming),
    ("crio/api/stream_enable_tls", Rule::Streaming),
    ("crio/api/stream_tls_cert", Rule::Streaming),
    ("crio/api/stream_tls_key", Rule::Streaming),
    ("crio/api/stream_tls_ca", Rule::Streaming),
    (
        "crio/api/stream_tls_min_version",
        Rule::Only(
            &["\"VersionTLS12\"", "\"VersionTLS13\""],
            "TLS 1.2 and 1.3 are spoken",
            "TLS 1.2 and 1.3 are spoken, nothing older",
        ),
    ),
    (
        "crio/api/stream_tls_cipher_suites",
        Rule::Only(
            &[],
            "cipher suites are rustls's own",
            "cipher suites are rustls's own, all of them of today",
        ),
    ),
    ("crio/api/stream_idle_timeout", Rule::Key(&["streaming", "idle_timeout"], duration)),
    (
        "crio/api/grpc_max_send_msg_size",
        Rule::Needless("answers may have 16 MiB, and long lists are streamed"),
    ),
    ("crio/api/grpc_max_recv_msg_size", Rule::Needless("requests may have 16 MiB")),
    ("crio/api/tls_min_version", Rule::Needless("TLS 1.2 and 1.3 are spoken")),
    ("crio/api/tls_cipher_suites", Rule::Needless("cipher suites are rustls's own")),
    // [crio.runtime]
    ("crio/runtime/default_runtime", Rule::Runtime),
    ("crio/runtime/runtimes/**", Rule::Runtime),
    ("crio/runtime/default_ulimits", Rule::Key(&["pods", "default_ulimits"], ulimits)),
    (
        "crio/runtime/no_pivot",
        Rule::Only(
            &["false"],
            "roots are pivoted to",
            "Gantline does not run from an initramfs's root; boot from a disk",
        ),
    ),
    (
        "crio/runtime/decryption_keys_path",
        Rule::Needless("of encrypted images, which Gantline does not pull"),
    ),
    ("crio/runtime/conmon", Rule::Needless(MONITOR)),
    ("crio/runtime/conmon_cgroup", Rule::Needless(MONITOR)),
    ("crio/runtime/conmon_env", Rule::Needless(MONITOR)),
    (
        "crio/runtime/default_env",
        Rule::Only(
            &[],
            "is not set",
            "Gantline adds nothing to a container's environment: say it in the pod (env, envFrom)",
        ),
    ),
    ("crio/runtime/selinux", Rule::Needless("SELinux is used where the kernel has it")),
    (
        "crio/runtime/hostnetwork_disable_selinux",
        Rule::Needless("SELinux's labels are those that pods ask for"),
    ),
    ("crio/runtime/seccomp_profile", Rule::Key(&["security", "seccomp_profile"], path)),
    ("crio/runtime/seccomp_use_default_when_empty", Rule::Key(&["security", "unset_seccomp"], seccomp_flag)),
    (
        "crio/runtime/privileged_seccomp_profile",
        Rule::Only(&[], "privileged containers have no filter", "privileged containers have no filter here"),
    ),
    (
        "crio/runtime/apparmor_profile",
        Rule::Only(
            &["\"crio-default\""],
            "Gantline's own default profile is gantline-default",
            "load the profile, and name it in the pods that need it (appArmorProfile, Localhost)",
        ),
    ),
    (
        "crio/runtime/blockio_config_file",
        Rule::Only(
            &[],
            "block I/O classes are not there",
            "block I/O classes are not there: pods that name one are not held to it",
        ),
    ),
    ("crio/runtime/blockio_reload", Rule::Needless("block I/O classes are not there")),
    (
        "crio/runtime/rdt_config_file",
        Rule::Only(
            &[],
            "RDT classes are not there",
            "RDT classes are not there: pods that name one are not held to it",
        ),
    ),
    ("crio/runtime/irqbalance_config_file", Rule::Needless("interrupts are not moved away from pods")),
    (
        "crio/runtime/irqbalance_config_restore_file",
        Rule::Needless("interrupts are not moved away from pods"),
    ),
    ("crio/runtime/cgroup_manager", Rule::Key(&["cgroup", "driver"], cgroup_manager)),
    (
        "crio/runtime/separate_pull_cgroup",
        Rule::Only(
            &[],
            "images are pulled in the service's own cgroup",
            "images are pulled in the service's own cgroup: bound gantline.service",
        ),
    ),
    (
        "crio/image/separate_pull_cgroup",
        Rule::Only(
            &[],
            "images are pulled in the service's own cgroup",
            "images are pulled in the service's own cgroup: bound gantline.service",
        ),
    ),
    ("crio/runtime/default_capabilities", Rule::Key(&["security", "default_capabilities"], capabilities)),
    (
        "crio/runtime/add_inheritable_capabilities",
        Rule::Only(
            &["false"],
            "nothing is inheritable",
            "programs of other users than root need ambient capabilities, or file ones in the image",
        ),
    ),
    ("crio/runtime/default_sysctls", Rule::Own),
    (
        "crio/runtime/allowed_devices",
        Rule::Only(
            &["[\"/dev/fuse\"]", "[\"/dev/fuse\", \"/dev/net/tun\"]"],
            "devices by annotation are not there",
            "devices by annotation are not there: use a device plugin or CDI",
        ),
    ),
    (
        "crio/runtime/additional_devices",
        Rule::Only(&[], "is not set", "devices are those of device plugins and CDI specifications"),
    ),
    ("crio/runtime/cdi_spec_dirs", Rule::Key(&["pods", "cdi_spec_dirs"], paths)),
    (
        "crio/runtime/device_ownership_from_security_context",
        Rule::Key(&["security", "device_ownership_from_security_context"], same),
    ),
    (
        "crio/runtime/hooks_dir",
        Rule::Empty(
            "OCI hooks come with CDI specifications alone",
            "OCI hooks come with CDI specifications alone: write one for each hook that devices need",
        ),
    ),
    ("crio/runtime/default_mounts", Rule::Only(&[], "is not set", "mount it in the pods that need it")),
    ("crio/runtime/default_mounts_file", Rule::Only(&[], "is not set", "mount it in the pods that need it")),
    ("crio/runtime/pids_limit", Rule::Own),
    ("crio/runtime/log_size_max", Rule::Only(&["-1"], KUBELETS, KUBELETS)),
    (
        "crio/runtime/log_to_journald",
        Rule::Only(
            &["false"],
            "output goes to the log files of pods",
            "output goes to the log files of pods: let a collector read these",
        ),
    ),
    ("crio/runtime/container_exits_dir", Rule::Needless(MONITOR)),
    ("crio/runtime/container_attach_socket_dir", Rule::Needless(MONITOR)),
    (
        "crio/runtime/bind_mount_prefix",
        Rule::Only(&[], "is not set", "Gantline is not run in a container: run it on the host"),
    ),
    (
        "crio/runtime/read_only",
        Rule::Only(
            &["false"],
            "roots are writable where pods do not say otherwise",
            "say readOnlyRootFilesystem in pods, or have an admission policy set it",
        ),
    ),
    ("crio/runtime/log_level", Rule::Key(&["log", "level"], level)),
    ("crio/runtime/log_format", Rule::Key(&["log", "format"], super::rules::log_format)),
    (
        "crio/runtime/log_filter",
        Rule::Only(&[], "is not set", "log.level takes levels by module: info,image=debug"),
    ),
    (
        "crio/runtime/uid_mappings",
        Rule::Only(
            &[],
            "pods with hostUsers: false have user namespaces",
            "the kubelet gives each pod with hostUsers: false ids of its own",
        ),
    ),
    (
        "crio/runtime/gid_mappings",
        Rule::Only(
            &[],
            "pods with hostUsers: false have user namespaces",
            "the kubelet gives each pod with hostUsers: false ids of its own",
        ),
    ),
    (
        "crio/runtime/minimum_mappable_uid",
        Rule::Needless("the kubelet gives each pod with hostUsers: false ids of its own"),
    ),
    (
        "crio/runtime/minimum_mappable_gid",
        Rule::Needless("the kubelet gives each pod with hostUsers: false ids of its own"),
    ),
    (
        "crio/runtime/ctr_stop_timeout",
        Rule::Needless("the kubelet says how long a container may take to stop"),
    ),
    ("crio/runtime/drop_infra_ctr", Rule::Needless(NO_PAUSE)),
    (
        "crio/runtime/infra_ctr_cpuset",
        Rule::Only(&[], NO_PAUSE, "shims are not bound to processors: Gantline runs no pause container"),
    ),
    ("crio/runtime/shared_cpuset", Rule::Only(&[], "is not set", NO_ANNOTATIONS)),
    (
        "crio/runtime/exec_cpu_affinity",
        Rule::Only(&[], "execs run where their container does", "execs run where their container does"),
    ),
    (
        "crio/runtime/namespaces_dir",
        Rule::Needless("namespaces are pinned in network.netns_dir and Gantline's state"),
    ),
    ("crio/runtime/pinns_path", Rule::Needless("namespaces are pinned by Gantline itself")),
    ("crio/runtime/manage_ns_lifecycle", Rule::Needless("namespaces are pinned by Gantline itself")),
    (
        "crio/runtime/enable_criu_support",
        Rule::Needless("checkpoints are made where CRIU and an OCI runtime that knows it are installed"),
    ),
    ("crio/runtime/enable_pod_events", Rule::Needless("events of pods are always to be had")),
    (
        "crio/runtime/absent_mount_sources_to_reject",
        Rule::Key(&["pods", "absent_mount_sources_to_reject"], paths_or_none),
    ),
    (
        "crio/runtime/disable_hostport_mapping",
        Rule::Only(
            &["false"],
            "host ports are the CNI plugins' (portmap)",
            "take portmap out of the network list",
        ),
    ),
    ("crio/runtime/timezone", Rule::Only(&[], "is not set", "set TZ in the pods that need it")),
    ("crio/runtime/workloads/**", Rule::Only(&[], "is not set", NO_ANNOTATIONS)),
    ("crio/runtime/container_min_memory", Rule::Needless("a limit is taken as the pod asks for it")),
    ("crio/runtime/selinux_mount_label", Rule::Needless("SELinux's labels are those that pods ask for")),
    // [crio.image]
    (
        "crio/image/default_transport",
        Rule::Only(
            &["\"docker://\""],
            "images come from registries",
            "images come from registries, or by `gantline import`",
        ),
    ),
    ("crio/image/global_auth_file", Rule::Only(&[], "is not set", super::registries::CREDENTIALS)),
    (
        "crio/image/namespaced_auth_dir",
        Rule::Only(&["\"/etc/crio/auth\""], "credentials come with the pod", super::registries::CREDENTIALS),
    ),
    ("crio/image/pause_image", Rule::Needless(NO_PAUSE)),
    ("crio/image/pause_image_auth_file", Rule::Needless(NO_PAUSE)),
    ("crio/image/pause_command", Rule::Needless(NO_PAUSE)),
    ("crio/image/pinned_images", Rule::Key(&["images", "pinned"], same)),
    ("crio/image/signature_policy", Rule::Registry),
    (
        "crio/image/signature_policy_dir",
        Rule::Only(
            &["\"/etc/crio/policies\""],
            "signatures of images are not looked at",
            "signatures of images are not looked at: verify them at admission",
        ),
    ),
    ("crio/image/insecure_registries", Rule::Registry),
    ("crio/image/registries", Rule::Needless("CRI-O itself does not heed it since 1.24")),
    ("crio/image/image_volumes", Rule::Key(&["pods", "image_defined_volumes"], image_volumes)),
    (
        "crio/image/big_files_temporary_dir",
        Rule::Needless("layers are unpacked while they come, without files between"),
    ),
    ("crio/image/auto_reload_registries", Rule::Needless("certs.d is read at each pull")),
    ("crio/image/pull_progress_timeout", Rule::Needless("Gantline's own deadlines are fixed")),
    (
        "crio/image/oci_artifact_mount_support",
        Rule::Needless("image volumes are of images, not of other artifacts"),
    ),
    ("crio/image/short_name_mode", Rule::Needless("a name without a registry means docker.io")),
    // [crio.network]
    (
        "crio/network/cni_default_network",
        Rule::Only(
            &[],
            "the first network list by name is used",
            "the first network list by name is used: give the one that is meant a name that comes first",
        ),
    ),
    ("crio/network/network_dir", Rule::Key(&["network", "conf_dir"], path)),
    ("crio/network/plugin_dirs", Rule::Key(&["network", "bin_dirs"], paths)),
    ("crio/network/plugin_dir", Rule::Key(&["network", "bin_dirs"], paths)),
    // [crio.metrics], [crio.tracing], [crio.stats], [crio.nri]
    ("crio/metrics/enable_metrics", Rule::Own),
    ("crio/metrics/metrics_host", Rule::Own),
    ("crio/metrics/metrics_port", Rule::Own),
    (
        "crio/metrics/metrics_collectors",
        Rule::Needless("all metrics are always there, under Gantline's own names (docs/observability.md)"),
    ),
    (
        "crio/metrics/metrics_socket",
        Rule::Only(
            &[],
            "metrics are on the admin socket too",
            "metrics are on admin.sock in Gantline's state directory",
        ),
    ),
    ("crio/metrics/metrics_cert", Rule::Only(&[], "is not set", METRICS)),
    ("crio/metrics/metrics_key", Rule::Only(&[], "is not set", METRICS)),
    ("crio/metrics/tls_min_version", Rule::Needless(METRICS)),
    ("crio/metrics/tls_cipher_suites", Rule::Needless(METRICS)),
    ("crio/tracing/enable_tracing", Rule::Own),
    ("crio/tracing/tracing_endpoint", Rule::Own),
    ("crio/tracing/tracing_sampling_rate_per_million", Rule::Own),
    ("crio/stats/**", Rule::Needless("figures are read when they are asked for")),
    ("crio/nri/nri_plugin_dir", Rule::Empty(NRI, NRI_PLUGINS)),
    ("crio/nri/default_validator/nri_enable_default_validator", Rule::Only(&["false"], NRI, NRI_PLUGINS)),
    ("crio/nri/**", Rule::Needless(NRI)),
];

fn paths_or_none(value: &toml::Value) -> Result<toml::Value, String> {
    if super::rules::says_nothing(value) { Ok(value.clone()) } else { paths(value) }
}

/// Reads the file and its drop-ins.
pub(super) fn read(files: &Files, main: &Path) -> Result<Found, Unreadable> {
    let mut found = Found { files: Vec::new(), leaves: Vec::new(), version: 0 };
    let runc_alone = ["/usr/bin/runc", "/usr/sbin/runc", "/usr/local/bin/runc", "/usr/local/sbin/runc"]
        .iter()
        .any(|path| files.is_executable(Path::new(path)))
        && !["/usr/bin/crun", "/usr/local/bin/crun", "/usr/libexec/crio/crun"]
            .iter()
            .any(|path| files.is_executable(Path::new(path)));
    // It was runc before CRI-O 1.31.
    let default_runtime = if runc_alone { "runc" } else { "crun" };
    let defaults = DEFAULTS.replacen(
        "[crio.runtime]",
        &format!("[crio.runtime]\ndefault_runtime = '{default_runtime}'"),
        1,
    );
    let defaults = document::read(Path::new("/"), &defaults)?;
    found.leaves.extend(defaults.into_iter().map(|leaf| Leaf { at: At::Default(NAME), ..leaf }));
    let mut drop_ins = main.to_owned().into_os_string();
    drop_ins.push(".d");
    let mut paths = vec![main.to_owned()];
    paths.extend(files.list(Path::new(&drop_ins)).into_iter().filter(|path| {
        // Editors' leavings are no drop-ins.
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| !name.starts_with('.') && !name.ends_with('~'))
    }));
    for path in paths {
        let text = match files.read(&path) {
            Ok(Some(text)) => text,
            Ok(None) => continue,
            Err(error) => return Err(Unreadable::new(&path, &error.to_string())),
        };
        let leaves = document::read(&path, &text)?;
        found.files.push(path);
        document::lay_over(&mut found.leaves, leaves);
    }
    Ok(found)
}
