//! Every bound that Gantline keeps, by name. A bound that is not here does not exist.

use std::time::Duration;

/// gRPC messages in and out, bytes: what every CRI client accepts.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Standard output and standard error of one ExecSync together, bytes: the reply stays under the message bound.
pub const EXEC_SYNC_OUTPUT_BYTES_MAX: usize = GRPC_MESSAGE_BYTES_MAX - 64 * 1024;
/// How long ExecSync waits for the output pipes to close once the command itself has exited.
pub const EXEC_SYNC_DRAIN_MAX: Duration = Duration::from_secs(2);
/// One CRI log line before it is split with the tag P, bytes.
pub const LOG_LINE_BYTES_DEFAULT: usize = 16 * 1024;
/// One frame between service and shim, bytes.
pub const SHIM_FRAME_BYTES_MAX: usize = 128 * 1024;
/// How long the service waits for a shim's answer to anything that runs no OCI runtime.
pub const SHIM_REPLY_MAX: Duration = Duration::from_secs(10);
/// How long one invocation of an OCI runtime may take.
pub const OCI_RUNTIME_MAX: Duration = Duration::from_secs(120);
/// How long CRIU may write one container to disk before it counts as hanging and is killed, which the container may not
/// survive: memory by the hundred gigabytes goes to a slow disk in less.
pub const CHECKPOINT_MAX: Duration = Duration::from_secs(30 * 60);
/// How long one CNI plugin invocation may take.
pub const CNI_PLUGIN_MAX: Duration = Duration::from_secs(60);
/// How long a forwarded port's connection may take to be accepted.
pub const PORT_DIAL_MAX: Duration = Duration::from_secs(30);
/// How long a streaming connection may go without a byte in either direction before it counts as lost.
pub const STREAM_IDLE_DEFAULT: Duration = Duration::from_secs(4 * 60 * 60);
/// How long a streaming client may take to open the channels that belong together.
pub const STREAM_CREATION_DEFAULT: Duration = Duration::from_secs(30);
/// How long a streaming client may take from the URL to the connection.
pub const STREAM_TOKEN_DEFAULT: Duration = Duration::from_secs(60);
/// Streaming sessions at once.
pub const STREAM_SESSIONS_DEFAULT: usize = 512;
/// Requests that may wait for one pod's driver.
pub const POD_QUEUE_MAX: usize = 256;
/// What the file systems of the root and state directories must have left for the node to count as ready, bytes: room
/// for records, exit records and what clearing away takes.
pub const DISK_RESERVE_BYTES: u64 = 16 * 1024 * 1024;
/// And inodes.
pub const DISK_RESERVE_INODES: u64 = 256;
/// Container events that one subscriber may lag behind.
pub const EVENTS_PER_SUBSCRIBER_MAX: usize = 1024;
/// cgroups whose files stay open between readings of statistics; beyond, each reading opens them.
pub const CGROUPS_KEPT_OPEN_MAX: usize = 1024;
/// Processes of one container that its metrics count.
pub const PROCESSES_COUNTED_MAX: usize = 16 * 1024;
/// Open files of one container that its metrics look at, to tell sockets from the rest.
pub const OPEN_FILES_LOOKED_AT_MAX: u64 = 4096;
/// Failures that the node remembers for `gantline why`.
pub const TROUBLES_MAX: usize = 256;
/// Past events that the node remembers for `gantline events`.
pub const EVENTS_KEPT_MAX: usize = 512;
/// The size of a pod's /dev/shm, bytes.
pub const POD_SHM_BYTES: u64 = 64 * 1024 * 1024;
/// The least memory limit of a container, bytes: with this much crun still comes as far as the container's own program.
pub const CONTAINER_MEMORY_BYTES_MIN: i64 = 512 * 1024;
/// An image manifest or index, bytes.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// An image configuration, bytes.
pub const IMAGE_CONFIG_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Layers that one image may have: as many lower directories as overlayfs takes.
pub const IMAGE_LAYERS_MAX: usize = 500;
/// How long a pull may go without a single byte before it is given up.
pub const PULL_STALL_MAX: Duration = Duration::from_secs(60);
/// An image's /etc/passwd or /etc/group, bytes.
pub const ACCOUNT_FILE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long the file system of a path of the host's may take to answer before the request is given up.
pub const HOST_PATH_MAX: Duration = Duration::from_secs(15);
/// Look-ups of paths that may hang at once: processes that a dead file system holds, which no signal ends.
pub const HOST_PATHS_HANGING_MAX: usize = 16;
/// A CDI specification, bytes.
pub const CDI_SPEC_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A seccomp profile of the node's, bytes.
pub const SECCOMP_PROFILE_BYTES_MAX: usize = 1024 * 1024;
/// Compiled seccomp filters that are kept for execs.
pub const SECCOMP_FILTERS_MAX: usize = 64;

const _: () = assert!(EXEC_SYNC_OUTPUT_BYTES_MAX < GRPC_MESSAGE_BYTES_MAX);
const _: () = assert!(LOG_LINE_BYTES_DEFAULT < SHIM_FRAME_BYTES_MAX);
