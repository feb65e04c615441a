//! `gantline`: flags → configuration → application → run → drain.
//!
//! The only crate that wires the others together. It must never know how a pod runs, how a layer unpacks or
//! what a CRI message looks like: it reads the configuration, hands each room its part, and stops them.

mod admin;
mod app;
mod apparmor;
mod check;
mod commands;
mod config;
mod counted;
mod drain;
mod exit;
mod files;
mod flags;
mod health;
mod jobs;
mod kubelet;
mod lock;
mod migrate;
mod moment;
mod notify;
mod progress;
mod runtimes;
mod screen;
mod socket;
mod ui;

use std::process::ExitCode;

use clap::Parser as _;
use exit::Exit;
use flags::{Command, Flags};

fn main() -> ExitCode {
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) => {
            // Help and version come this way too, on standard output.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success }.into();
        }
    };
    run(flags).into()
}

fn run(flags: Flags) -> Exit {
    let common = &flags.common;
    if matches!(flags.command, Command::Serve | Command::Pull(_) | Command::Import(_) | Command::Reset(_)) {
        kernel::process::usual_umask();
    }
    match flags.command {
        Command::Serve => commands::serve::run(common),
        Command::Config(command) => commands::config::run(&command, common),
        Command::Check(output) => commands::check::run(output.output, common),
        Command::Migrate(flags) => commands::migrate::run(&flags, common),
        Command::Pull(pull) => commands::transfer::pull(pull, common),
        Command::Import(import) => commands::transfer::import(import, common),
        Command::Status(output) => commands::status::run(output.output, common),
        Command::Top(flags) => commands::top::run(&flags, common),
        Command::LookAtPaths => commands::look::run(),
        Command::Events(flags) => commands::events::run(flags, common),
        Command::Why(flags) => commands::why::run(flags, common),
        Command::Reset(reset) => commands::reset::run(&reset, common),
        Command::Version(output) => commands::version::run(output.output),
    }
}
