//! `gantline-shim`: the one process of Gantline's that stays with a pod.
//!
//! It is the parent of the pod's containers: it calls the OCI runtime, keeps their standard streams, writes
//! their logs, runs execs and attaches, and records how they ended before it reaps them. One thread, one
//! epoll loop, no async runtime. The service may come and go; signals from terminals and service managers
//! are ignored, but where the machine goes down. It must never know images, networks, CNI or CRI messages.

mod attach;
mod checkpoint;
mod container;
mod cri_log;
mod daemon;
mod exec;
mod memory;
mod native;
mod note;
mod options;
mod orphan;
mod peer;
mod power;
mod reap;
mod requests;
mod runtime;
mod server;
mod start;
mod stdio;
mod stop;
mod subtree;
mod undo;

use std::process::ExitCode;

use note::complain;

fn main() -> ExitCode {
    let options = match options::parse(std::env::args_os().skip(1)) {
        Ok(options::Command::Run(options)) => options,
        Ok(options::Command::Version) => {
            complain(format_args!("gantline-shim {} (frames {})", env!("CARGO_PKG_VERSION"), wire::VERSION));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            complain(format_args!("gantline-shim: {error}\n{}", options::USAGE));
            return ExitCode::from(64);
        }
    };
    daemon::run(&options)
}
