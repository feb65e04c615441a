//! `gantline-pages DIRECTORY DATE`: what a package has beside the service, made from what the service itself reads.
//!
//! Manual pages of the commands from the declaration of the command line, that of the configuration from the one struct
//! that is the configuration, and completions for shells. A program of its own, so that `gantline` carries none of it.

mod commands;
#[path = "../../config/mod.rs"]
#[allow(dead_code, reason = "the service reads configurations, this describes one")]
mod config;
mod configuration;
#[path = "../../exit.rs"]
#[allow(dead_code, reason = "the service exits with it")]
mod exit;
#[path = "../../flags.rs"]
#[allow(dead_code, reason = "the service acts on what it reads, this describes it")]
mod flags;
mod page;
mod shim;
#[path = "../../../../shim/src/options.rs"]
#[allow(dead_code, reason = "the shim acts on what it reads, this describes it")]
mod shim_options;

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, date] = arguments.as_slice() else {
        complain("usage: gantline-pages DIRECTORY DATE");
        return ExitCode::from(64);
    };
    match write(Path::new(directory), date) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("write the pages to {directory}: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// `man/*.[58]`, and `completions/` under the names that each shell looks for.
fn write(directory: &Path, date: &str) -> io::Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    for (name, text) in commands::pages(date) {
        fs::write(man.join(name), text)?;
    }
    fs::write(man.join("gantline.toml.5"), configuration::page(date))?;
    fs::write(man.join("gantline-shim.8"), shim::page(date))?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut flags::Flags::command(), "gantline", &completions)?;
    }
    Ok(())
}

#[allow(clippy::print_stderr, reason = "this is a command")]
fn complain(text: impl std::fmt::Display) {
    eprintln!("gantline-pages: {text}");
}
