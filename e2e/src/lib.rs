//! The end-to-end harness: real nodes made of namespaces, with a real registry, real OCI runtimes and CNI
//! plugins, and the real `gantline`. Tests read as prose:
//!
//! ```no_run
//! let node = e2e::Node::start();
//! let pod = node.pod("web").run();
//! let hello = pod.container("hello").sh("echo hello").start();
//! assert_eq!(hello.exit().exit_code, 0);
//! assert_eq!(hello.log().text(), "hello\n");
//! pod.remove();
//! node.leaves_nothing();
//! ```
//!
//! Each node is a [`Machine`]: a mount and a network namespace of its own, so that tests run beside each
//! other and beside a real node, and what they forget goes away with the namespaces. This crate must never
//! know the service's inside: it speaks CRI, runs programs, and looks at the kernel.

pub mod bench;
pub mod cluster;
pub mod command;
pub mod config;
pub mod conformance;
pub mod cri;
pub mod faulty;
pub mod forward;
pub mod host;
pub mod http;
pub mod image;
pub mod installer;
pub mod leftovers;
pub mod log;
pub mod machine;
pub mod many;
pub mod node;
pub mod otlp;
pub mod package;
pub mod peer;
pub mod plugin;
pub mod pod;
pub mod programs;
pub mod random;
pub mod registry;
pub mod scrape;
pub mod stream;
pub mod terminal;
pub mod throughput;
pub mod wait;

pub use config::Config;
pub use cri::Cri;
pub use log::Log;
pub use machine::{Machine, unified};
pub use node::{Node, NodeBuilder};
pub use pod::{Container, ContainerBuilder, Pod, PodBuilder};
pub use registry::Registry;
pub use wait::{eventually, patience, patient};

/// A result whose error is a sentence: the harness's callers panic with it or print it.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;
