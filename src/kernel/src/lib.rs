//! The kernel, as the other rooms want it: mounts, namespaces, cgroups, processes, sockets, durable files.
//!
//! The only crate with `unsafe`, and synchronous throughout: async callers use a blocking pool, the shim
//! calls it directly. It must never know what a pod, an image or a network is, nor hold state between
//! calls. Every error names the system call's object.

pub mod alone;
pub mod beneath;
pub mod caps;
pub mod cgroup;
pub mod clock;
pub mod copy;
pub mod disk;
pub mod durable;
pub mod enter;
pub mod epoll;
pub mod error;
pub mod label;
pub mod mount;
pub mod namespace;
pub mod pidfd;
pub mod privileges;
pub mod process;
pub mod procfs;
pub mod pty;
pub mod quota;
pub mod random;
pub mod release;
pub mod rooted;
pub mod sealed;
pub mod seccomp;
pub mod seqpacket;
pub mod unnamed;
pub mod xattr;

pub use error::SysError;
