//! The configuration: one struct that is the file, `config default`, the validation and the reference.
//!
//! Layers, each over the one before: the defaults here, the file, its drop-ins in the order of their names,
//! the flags ([`layers`]). Then the whole is checked ([`validate`]), and only then does anything bind.

pub(crate) mod layers;
pub(crate) mod reference;
pub(crate) mod schema;
pub(crate) mod validate;
pub(crate) mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;

use schema::section;
use value::{
    CgroupDriver, ExecMode, ImageDefinedVolumes, IpPreference, Listen, LogFormat, Mode, OtlpProtocol, Span,
    Ulimit, UnsetSeccomp,
};

/// Where the file is when no flag says otherwise.
pub(crate) const DEFAULT_FILE: &str = "/etc/gantline/config.toml";

section! {
    /// Everything that can be set. Read once, at start; SIGHUP reads `log.level` again.
    struct Config {
        /// What must survive a reboot: images, writable layers, the records of pods and containers.
        /// Two services never share it: the second one is refused.
        root: PathBuf = "/var/lib/gantline".into(),
        /// What a reboot discards: sockets, bundles, shims. A tmpfs is best.
        state: PathBuf = "/run/gantline".into(),
        /// The OCI runtime for pods that name no handler. Not set: `crun`, else `runc`, else the first by name.
        default_runtime: Option<String> = None,
        /// The socket that kubelet and crictl speak to, and how the service ends.
        server: Server = Server::default(),
        /// What the service says on standard error.
        log: Log = Log::default(),
        /// Prometheus metrics and health, over HTTP.
        metrics: Metrics = Metrics::default(),
        /// Traces, to an OpenTelemetry collector. Where a key is not set, OpenTelemetry's environment variables are read:
        /// OTEL_EXPORTER_OTLP_ENDPOINT, _PROTOCOL, _TIMEOUT and _HEADERS, each also as OTEL_EXPORTER_OTLP_TRACES_…,
        /// OTEL_TRACES_SAMPLER and _SAMPLER_ARG, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_…;
        /// OTEL_SDK_DISABLED=true and OTEL_TRACES_EXPORTER=none turn them off. Headers are read from there alone: they
        /// may hold a token, and this file is shown to whoever asks for a status.
        tracing: Tracing = Tracing::default(),
        /// Registries, and how images are pulled. Proxies are those of the environment: HTTP_PROXY, HTTPS_PROXY, NO_PROXY.
        images: Images = Images::default(),
        /// Pod networks, through CNI.
        network: Network = Network::default(),
        /// Who makes cgroups, and where.
        cgroup: Cgroup = Cgroup::default(),
        /// What a container may do when its pod does not say.
        security: Security = Security::default(),
        /// Pods and containers.
        pods: Pods = Pods::default(),
        /// The server that exec, attach and port-forward sessions connect to.
        streaming: Streaming = Streaming::default(),
        /// OCI runtimes by handler name. Without any, those of crun, runc and youki that PATH has are used
        /// under their own names.
        runtimes: BTreeMap<String, Runtime> = BTreeMap::new(),
    }
}

section! {
    /// The CRI socket.
    struct Server {
        /// The CRI socket. Not set: `gantline.sock` in the state directory.
        socket: Option<PathBuf> = None,
        /// The socket's permissions; whoever may write to it is root on this node.
        socket_mode: Mode = Mode(0o660),
        /// The group that owns the socket. Not set: the service's own.
        socket_gid: Option<u32> = None,
        /// How long a stopping service waits for requests under way; what is not done then is finished by
        /// the next start. Pods keep running either way.
        drain_grace: Span = Span::seconds(20),
    }
}

section! {
    /// Logs.
    struct Log {
        /// `error`, `warn`, `info`, `debug`, `trace`, or by module: `info,image=debug`.
        level: String = "info".into(),
        /// Lines for people, or one JSON object a line with the same fields.
        format: LogFormat = LogFormat::Text,
    }
}

section! {
    /// Metrics.
    struct Metrics {
        /// Where `/metrics`, `/healthz` and `/readyz` are served, `127.0.0.1:9180` for example. Empty: only on
        /// the admin socket in the state directory. There is no authentication: keep it on loopback.
        address: Listen = Listen(None),
    }
}

section! {
    /// Traces.
    struct Tracing {
        /// Where traces are sent, `http://127.0.0.1:4317` for example; for `http/protobuf` with its path, `/v1/traces`.
        /// Not set: as the environment says; nowhere where that says nothing. The receiver need not be there, and never
        /// holds a request up: what it does not take is lost, and that is logged once.
        endpoint: Option<String> = None,
        /// How OTLP is spoken. Not set: as the environment says, else `http/protobuf`.
        protocol: Option<OtlpProtocol> = None,
        /// How long the receiver may take for one batch. Not set: as the environment says, else 10 s.
        timeout: Option<Span> = None,
        /// Which requests are traced: `always_on`, `always_off`, `traceidratio`, or each with `parentbased_` before it,
        /// which leaves it to the kubelet where that sent a trace along. Not set: as the environment says, else
        /// `parentbased_always_on`.
        sampler: Option<String> = None,
        /// For `traceidratio`: of a thousand requests, how many. Not set: as OTEL_TRACES_SAMPLER_ARG says, else all.
        per_mille: Option<u32> = None,
        /// What the service is called in traces. Not set: as the environment says, else `gantline`.
        service_name: Option<String> = None,
    }
}

section! {
    /// Images.
    struct Images {
        /// Directories of `<host>/hosts.toml` files (mirrors, certificates, plain HTTP), the first that has
        /// the host wins.
        certs_d: Vec<PathBuf> = vec!["/etc/gantline/certs.d".into(), "/etc/containerd/certs.d".into()],
        /// References that are reported as pinned, so that the kubelet never removes them; `*` matches any text.
        pinned: Vec<String> = Vec::new(),
        /// Layers that are fetched and unpacked at once, over all pulls.
        fetches_max: usize = 6,
        /// Threads that verify, inflate and extract layers, over all pulls. 0: one for each processor.
        unpack_threads: usize = 0,
    }
}

section! {
    /// CNI.
    struct Network {
        /// CNI network lists; the first file by name is the pod network. Watched: changes need no restart.
        conf_dir: PathBuf = "/etc/cni/net.d".into(),
        /// Where CNI plugins are looked for, in this order.
        bin_dirs: Vec<PathBuf> = vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
        /// Results of CNI ADD, as libcni keeps them; a pod's DEL needs the result of its ADD.
        cache_dir: PathBuf = "/var/lib/cni".into(),
        /// Where pods' network namespaces are pinned.
        netns_dir: PathBuf = "/run/netns".into(),
        /// A template of a network list that is filled with the node's pod CIDR when the kubelet announces
        /// one. Not set: the announcement is only logged.
        conf_template: Option<PathBuf> = None,
        /// How long one plugin may take before it is killed and the attempt fails.
        plugin_timeout: Span = Span::seconds(60),
        /// Which of a pod's addresses is reported first.
        ip_preference: IpPreference = IpPreference::Ipv4,
    }
}

section! {
    /// One OCI runtime.
    struct Runtime {
        /// The runtime's binary. Not set: the handler's name, looked for in PATH.
        path: Option<PathBuf> = None,
        /// Whether privileged containers get only the devices that they ask for, and may use no others.
        privileged_without_host_devices: bool = false,
        /// Whether they may make nodes of any device, and use them. Only beside `privileged_without_host_devices`.
        privileged_without_host_devices_all_devices_allowed: bool = false,
        /// Whether /sys/fs/cgroup is writable also in containers that are not privileged.
        cgroup_writable: bool = false,
        /// Who starts the processes of exec and ExecSync. `native`: the pod's shim, in a few milliseconds and just as
        /// the runtime would, falling back to the runtime where it cannot. `runtime`: always the runtime, which
        /// containers that are virtual machines or have a kernel of their own (Kata, gVisor) need. Not set: `native`
        /// for a binary named crun, runc or youki, `runtime` for any other.
        exec: Option<ExecMode> = None,
    }
}

section! {
    /// Cgroups.
    struct Cgroup {
        /// Must be what the kubelet uses, which it learns from us since Kubernetes 1.28. `auto` is systemd
        /// where systemd is pid 1 and the hierarchy is v2, otherwise cgroupfs.
        driver: CgroupDriver = CgroupDriver::Auto,
        /// Where pods go that name no parent: an absolute cgroup path, or a slice with the systemd driver.
        /// Not set: `/gantline`, or `gantline.slice`.
        parent: Option<String> = None,
    }
}

section! {
    /// Confinement.
    struct Security {
        /// A seccomp profile in the OCI form that replaces the built-in default profile.
        seccomp_profile: Option<PathBuf> = None,
        /// What a container gets whose pod names no seccomp profile.
        unset_seccomp: UnsetSeccomp = UnsetSeccomp::Unconfined,
        /// Capabilities of a container before its pod adds and drops some.
        default_capabilities: Vec<String> = [
            "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP",
            "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
        ].map(str::to_owned).to_vec(),
        /// Whether containers without capabilities may listen below port 1024
        /// (`net.ipv4.ip_unprivileged_port_start=0` in pods with a network of their own).
        unprivileged_ports: bool = true,
        /// Whether containers without capabilities may ping (`net.ipv4.ping_group_range` in the same pods).
        unprivileged_icmp: bool = true,
        /// Whether the devices that a container asks for belong to the user and group of its security context, so
        /// that it can use them without being root. Otherwise to whom they belong on the host.
        device_ownership_from_security_context: bool = false,
    }
}

section! {
    /// Pods.
    struct Pods {
        /// A longer line of container output is split in the log, bytes. At most 64 KiB.
        log_line_bytes_max: usize = model::limits::LOG_LINE_BYTES_DEFAULT,
        /// The per-pod process. Not set: `gantline-shim` beside the `gantline` binary, then in
        /// `/usr/libexec/gantline`, then in PATH.
        shim: Option<PathBuf> = None,
        /// Limits of every container, `"nofile=1024:65536"` (soft:hard). Others are the service's own.
        default_ulimits: Vec<Ulimit> = Vec::new(),
        /// Tasks (processes and threads) that one container may have. Not set: as many as its pod may.
        pids_limit: Option<u32> = None,
        /// What becomes of the volumes that an image's configuration asks for (`VOLUME` in a Dockerfile): with `copy`
        /// each container gets directories of its own, filled from the image and removed with it; with `ignore` they
        /// are directories of its root file system.
        image_defined_volumes: ImageDefinedVolumes = ImageDefinedVolumes::Copy,
        /// Host paths that are not made where a pod mounts them and they do not exist: the container is refused.
        /// Any other is made, a directory of root's with mode 0755. `/etc/hostname` is a good one to name.
        absent_mount_sources_to_reject: Vec<PathBuf> = Vec::new(),
        /// Directories of CDI specifications, by which vendors describe devices; where two describe one device, the
        /// later directory's counts. Read again whenever they have changed.
        cdi_spec_dirs: Vec<PathBuf> = vec!["/etc/cdi".into(), "/var/run/cdi".into()],
    }
}

section! {
    /// Streaming.
    struct Streaming {
        /// Where the kubelet connects for exec, attach and port-forward. Port 0: any free one. A session
        /// needs a one-time token; beyond loopback it wants TLS too.
        address: Listen = Listen(Some(std::net::SocketAddr::new(
            std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            0,
        ))),
        /// How long a session may go without a byte in either direction before it counts as lost.
        idle_timeout: Span = Span(model::limits::STREAM_IDLE_DEFAULT),
        /// How long a client may take to open the streams of its session.
        creation_timeout: Span = Span(model::limits::STREAM_CREATION_DEFAULT),
        /// How long the URL of a session is good. It is good once.
        token_timeout: Span = Span(model::limits::STREAM_TOKEN_DEFAULT),
        /// Sessions at once; one more is refused (RESOURCE_EXHAUSTED, HTTP 503).
        sessions_max: usize = model::limits::STREAM_SESSIONS_DEFAULT,
        /// A certificate in PEM, with those that lead to its root: sessions speak TLS then, and their URLs begin
        /// with https. New files are taken up without a restart; while they are of no use, the old ones serve.
        tls_certificate: Option<PathBuf> = None,
        /// The certificate's key, in PEM.
        tls_key: Option<PathBuf> = None,
        /// Certificates in PEM of those who sign clients' certificates: clients without one are turned away.
        tls_client_ca: Option<PathBuf> = None,
    }
}

impl Config {
    /// Where the CRI socket is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.server.socket.clone().unwrap_or_else(|| self.state.join("gantline.sock"))
    }

    /// Where `pull`, `import` and `status` find the running service.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.state.join("admin.sock")
    }

    /// What the file says of traces.
    pub(crate) fn trace_config(&self) -> telemetry::TraceConfig {
        let tracing = &self.tracing;
        telemetry::TraceConfig {
            endpoint: tracing.endpoint.clone(),
            protocol: tracing.protocol.map(|protocol| match protocol {
                OtlpProtocol::Grpc => telemetry::OtlpProtocol::Grpc,
                OtlpProtocol::HttpProtobuf => telemetry::OtlpProtocol::HttpProtobuf,
            }),
            timeout: tracing.timeout.map(|span| span.0),
            sampler: tracing.sampler.clone(),
            ratio: tracing.per_mille.map(|share| f64::from(share) / 1000.0),
            service_name: tracing.service_name.clone(),
        }
    }

    /// What telemetry is set up with.
    pub(crate) fn log_config(&self) -> telemetry::LogConfig {
        let format = match self.log.format {
            LogFormat::Text => telemetry::LogFormat::Text,
            LogFormat::Json => telemetry::LogFormat::Json,
        };
        telemetry::LogConfig { level: self.log.level.clone(), format }
    }
}
