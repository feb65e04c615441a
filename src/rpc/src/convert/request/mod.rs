//! Requests to the model. Each function refuses what can never be right, before anything is touched.

mod container;
mod mounts;
mod pod;
mod resources;
mod security;
mod stream;
mod sysctls;
mod text;

pub(crate) use container::{container, container_config};
pub(crate) use pod::{image_spec, pod_config};
pub(crate) use resources::resources;
pub(crate) use stream::{attach, exec, exec_sync, port_forward, seconds};
pub(crate) use text::{absolute, id};

#[cfg(test)]
mod tests;
