//! gantline(8) and a page for each of its commands, from the declaration of the command line.

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use roff::{bold, roman};

use crate::config::DEFAULT_FILE;
use crate::exit::Exit;
use crate::flags::Flags;
use crate::page::{MANUAL, Page, SOURCE};

const EXITS: [Exit; 6] =
    [Exit::Success, Exit::Failure, Exit::Usage, Exit::Unavailable, Exit::Host, Exit::Held];

/// What a status means to who waits for it. One that is new is missed here by the compiler.
fn meaning(exit: Exit) -> &'static str {
    match exit {
        Exit::Success => "Done. For `serve`: stopped by a signal; for `check`: the node is able.",
        Exit::Failure => {
            "What was asked for failed; standard error says why. For `check`: something must be repaired."
        }
        Exit::Usage => "The command line or the configuration is wrong. A restart does not help.",
        Exit::Unavailable => "No service answers.",
        Exit::Host => "The host refused something that the service needs to start.",
        Exit::Held => "Another service holds the root directory.",
    }
}

/// File names and texts.
pub(crate) fn pages(date: &str) -> Vec<(String, String)> {
    // Every command's name with those above it, and the flags of all with each.
    let mut gantline = Flags::command().disable_help_subcommand(true);
    gantline.build();
    let mut pages = Vec::new();
    add(&gantline, date, &mut pages);
    pages
}

fn add(command: &Command, date: &str, pages: &mut Vec<(String, String)>) {
    for below in shown(command) {
        add(below, date, pages);
    }
    let man = Man::new(command.clone()).section("8").date(date).source(SOURCE).manual(MANUAL);
    let name = man.get_filename();
    let man = man.title(name.trim_end_matches(".8").to_uppercase());
    let mut text = Vec::new();
    // A buffer takes everything.
    let _ = sections(&man, command, &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    pages.push((name, text + &end(command)));
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|below| !below.is_hide_set())
}

fn sections(man: &Man, command: &Command, text: &mut Vec<u8>) -> std::io::Result<()> {
    man.render_title(text)?;
    man.render_name_section(text)?;
    man.render_synopsis_section(text)?;
    man.render_description_section(text)?;
    man.render_options_section(text)?;
    if shown(command).next().is_some() {
        man.render_subcommands_section(text)?;
    }
    Ok(())
}

fn end(command: &Command) -> String {
    let mut page = Page::end();
    if command.get_name() != "gantline" {
        return page.see_also(&["gantline(8)", "gantline.toml(5)"]).text();
    }
    page.section("EXIT STATUS");
    for exit in EXITS {
        page.term(vec![bold(exit.code().to_string())], meaning(exit));
    }
    page.section("SIGNALS")
        .term(
            vec![bold("SIGTERM"), roman(", "), bold("SIGINT")],
            "End `gantline serve`: requests under way are finished within `server.drain_grace`. Pods keep running.",
        )
        .term(vec![bold("SIGHUP")], "Read `log.level` of the configuration again.");
    page.section("FILES")
        .term(vec![bold(DEFAULT_FILE)], "The configuration, gantline.toml(5).")
        .term(vec![bold("/run/gantline/gantline.sock")], "The CRI socket, for kubelet and crictl.")
        .term(vec![bold("/run/gantline")], "What a reboot discards: sockets, bundles, shims.")
        .term(vec![bold("/var/lib/gantline")], "What survives it: images, writable layers, records.")
        .term(
            vec![bold("/etc/gantline/certs.d"), roman("/HOST/hosts.toml")],
            "Mirrors and certificates of registries.",
        );
    page.see_also(&["gantline.toml(5)", "gantline-shim(8)", "systemctl(1)"]).text()
}
