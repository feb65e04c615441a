//! What a pod and a container are: how they come to be, live, end and are found again.
//!
//! Start reading at [`Pods`], the face that `rpc` calls; then [`driver`], the task that owns one pod; then
//! [`queue`], the policy that it follows, and [`sandbox`] and [`bundle`], what it makes on the host. This
//! crate must never know protobuf or gRPC, how an image is fetched, or how a CNI plugin is called.

mod bundle;
mod cdi;
mod cgroups;
mod checkpoint;
mod config;
mod defined_volumes;
mod driver;
mod ending;
mod error;
mod events;
mod exec;
mod filters;
mod host;
mod host_paths;
mod image_volumes;
mod index;
mod info;
mod meter;
mod overview;
mod pods;
mod probe;
mod queue;
mod records;
mod resize;
mod sandbox;
pub mod spec;
mod spread;
mod state;
pub mod stats;
mod story;
mod sweep;
mod systemd;
mod usage;
mod user_namespace;

pub use checkpoint::Restored;
pub use config::{CgroupDriver, ContainerDefaults, ExecBy, Kind, OciHandler, PodsConfig, PrivilegedDevices};
pub use defined_volumes::DefinedVolume;
pub use error::PodError;
pub use events::{Event, EventKind, Events, NoMoreEvents, PastEvent, Subscription};
pub use exec::{Attachment, ExecOutput, Session, Streams, Wanted};
pub use host_paths::serve as serve_host_paths;
pub use overview::{Overview, Recovery};
pub use pods::{Pods, Rooms};
pub use probe::{Failing, Health, Part};
pub use records::recorded;
pub use spread::spread;
pub use state::{
    ContainerInView, ContainerPhase, ContainerStatus, Exit, ExitReason, PodPhase, PodStatus, PodView, User,
};
pub use story::{Doing, Story, Trouble};
