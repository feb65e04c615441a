//! The names of log fields. An operator greps and indexes by them, so they do not change.
//!
//! In the macros of `tracing`, either write the name (`pod.id = %id`) or the constant in braces
//! (`{ field::POD_ID } = %id`).

/// The pod sandbox, 64 hex digits.
pub const POD_ID: &str = "pod.id";
/// The pod's name in Kubernetes.
pub const POD_NAME: &str = "pod.name";
/// The pod's namespace in Kubernetes.
pub const POD_NAMESPACE: &str = "pod.namespace";
/// The container, 64 hex digits.
pub const CONTAINER_ID: &str = "container.id";
/// The container's name in its pod.
pub const CONTAINER_NAME: &str = "container.name";
/// An image as it was asked for.
pub const IMAGE_REF: &str = "image.ref";
/// An image's id, `sha256:<hex>`.
pub const IMAGE_ID: &str = "image.id";
/// The RPC, without its service: `RunPodSandbox`.
pub const RPC_METHOD: &str = "rpc.method";
/// The gRPC code of the answer, as the specification spells it: `NOT_FOUND`.
pub const RPC_CODE: &str = "rpc.code";
/// A CNI plugin's type: `bridge`.
pub const CNI_PLUGIN: &str = "cni.plugin";
/// What a CNI plugin was asked: `ADD`.
pub const CNI_COMMAND: &str = "cni.command";
/// A layer's digest in its manifest.
pub const LAYER_DIGEST: &str = "layer.digest";
/// The host that a registry's answer came from.
pub const REGISTRY_HOST: &str = "registry.host";
/// An OCI runtime's binary.
pub const OCI_RUNTIME: &str = "oci.runtime";
/// What a shim was asked: `run a container`.
pub const SHIM_CALL: &str = "shim.call";
/// The trace that a line belongs to, 32 hex digits, where traces go out.
pub const TRACE_ID: &str = "trace_id";
/// What was being done, as in `gantline_stage_duration_seconds`.
pub const STAGE: &str = "stage";
/// How long it took, milliseconds.
pub const ELAPSED_MS: &str = "elapsed_ms";
/// A path on the host.
pub const PATH: &str = "path";
/// A process of the host's.
pub const PID: &str = "pid";
/// An error with all its sources, in one line.
pub const ERROR: &str = "error";

/// That a span failed, as OpenTelemetry has it.
pub(crate) const STATUS_CODE: &str = "otel.status_code";
/// Why a span failed, as OpenTelemetry has it; not in logs, which have [`ERROR`].
pub(crate) const STATUS_DESCRIPTION: &str = "otel.status_description";

/// What a stage can be told of itself.
#[cfg(test)]
pub(crate) const OF_STAGES: [&str; 10] = [
    POD_ID,
    CONTAINER_ID,
    IMAGE_REF,
    IMAGE_ID,
    LAYER_DIGEST,
    CNI_PLUGIN,
    CNI_COMMAND,
    REGISTRY_HOST,
    OCI_RUNTIME,
    SHIM_CALL,
];
