//! What every room calls things: ids, names, image references, the plain configuration of pods and
//! containers, named limits, and the kinds of error.
//!
//! Plain data only. This crate does no I/O, starts nothing, and must never know protobuf, tokio, the
//! store's on-disk form or the shim's frames. Everything here has public fields or a constructor that
//! refuses what is not valid; nothing here has behaviour that could fail at run time for another reason.

pub mod container;
pub mod error;
pub mod id;
pub mod image_ref;
pub mod limits;
pub mod pod;
pub mod resources;
pub mod security;
pub mod signal;
pub mod time;

pub use container::{ContainerConfig, ContainerIdentity, Device, ImageSpec, Mount, MountSource, Propagation};
pub use error::{Classify, CriToken, ErrorKind, chain};
pub use id::{ContainerId, Digest, ExecId, ImageId, PodId};
pub use image_ref::ImageRef;
pub use pod::{DnsConfig, PodConfig, PodIdentity, PortMapping, Protocol};
pub use resources::{HugepageLimit, Resources};
pub use security::{
    Capabilities, ContainerSecurity, IdMapping, MandatoryProfile, NamespaceMode, Namespaces, PodSecurity,
    SeLinuxLabel, SupplementalGroupsPolicy, UserMode, UserNamespace, host_id,
};
pub use signal::Signal;

/// Nanoseconds since the Unix epoch, as CRI writes every time.
pub type UnixNanos = i64;

/// Labels and annotations: returned byte for byte as they came, in key order.
pub type StringMap = std::collections::BTreeMap<String, String>;
