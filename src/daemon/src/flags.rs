//! The command line, as it was typed. No system call happens here; what it means is decided later.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::layers::Override;

/// What the service starts itself with to look at paths that may hang.
pub(crate) const LOOK_AT_PATHS: &str = "look-at-paths";

/// A Kubernetes container runtime: serves the Container Runtime Interface to a kubelet, and to crictl.
#[derive(Debug, Parser)]
#[command(name = "gantline", version, max_term_width = 100)]
pub(crate) struct Flags {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// What applies to every command.
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Flags of every command; each one that sets something stands for a line of the configuration file.
#[derive(Debug, Default, Args)]
pub(crate) struct Common {
    /// The configuration file; drop-ins lie in config.d beside it [default: /etc/gantline/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What survives a reboot: images, writable layers, records [default: /var/lib/gantline]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<String>,
    /// What a reboot discards: sockets, bundles, shims [default: /run/gantline]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state: Option<String>,
    /// error, warn, info, debug, trace, or by module: info,image=debug [default: info]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// text or json [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
    /// The CRI socket [default: gantline.sock in the state directory]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<String>,
    /// Where /metrics, /healthz and /readyz are served, such as 127.0.0.1:9180 [default: nowhere]
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub(crate) metrics_address: Option<String>,
}

impl Common {
    /// The flags that set something, as lines over the configuration file.
    pub(crate) fn overrides(&self) -> Vec<Override> {
        [
            ("--root", "root", &self.root),
            ("--state", "state", &self.state),
            ("--log-level", "log.level", &self.log_level),
            ("--log-format", "log.format", &self.log_format),
            ("--socket", "server.socket", &self.socket),
            ("--metrics-address", "metrics.address", &self.metrics_address),
        ]
        .into_iter()
        .filter_map(|(flag, key, value)| Some(Override { flag, key, value: value.clone()? }))
        .collect()
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the CRI until SIGTERM or SIGINT; pods keep running after that
    Serve,
    /// Print or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Say whether this node can run pods, and what to do about what is missing; status 1 when it cannot
    Check(Output),
    /// Say what containerd's or CRI-O's configuration comes to here, value by value, and write it
    Migrate(MigrateFlags),
    /// Pull an image through the running service, showing its progress
    Pull(Pull),
    /// Import the images of an OCI or docker archive, or of an OCI layout directory
    Import(Import),
    /// Show what the running service is doing
    Status(Output),
    /// Show what each pod uses: CPU, memory, network, restarts; live on a terminal
    Top(TopFlags),
    /// Show what happened to pods and containers
    Events(EventsFlags),
    /// Say why a pod is not further: what it waits for, at which stage, since when, and what failed
    Why(WhyFlags),
    /// End and remove every pod of this node; images stay. Only when no service runs
    Reset(Reset),
    /// Print the version
    Version(Output),
    /// Answer the service's questions about paths that may hang
    #[command(name = LOOK_AT_PATHS, hide = true)]
    LookAtPaths,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print a commented file with every default
    Default,
    /// Print what applies, each value with the file and line that it came from
    Dump,
    /// Say everything that is wrong with the configuration
    Check,
    /// Print docs/configuration.md
    #[command(hide = true)]
    Reference,
}

/// How a result is printed.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// A table for people, or JSON for programs
    #[arg(long, short, value_enum, default_value = "text")]
    pub(crate) output: Format,
}

/// Of what form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `gantline migrate`.
#[derive(Debug, Args)]
pub(crate) struct MigrateFlags {
    /// Whose configuration
    #[arg(value_enum)]
    pub(crate) peer: Peer,
    /// Its main file [default: /etc/containerd/config.toml, /etc/crio/crio.conf]
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Where the node's file system is: another directory for a disk that is mounted there
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) from: PathBuf,
    /// Write config.toml, certs.d and the like below this directory, /etc/gantline for example; nothing is written without
    #[arg(long, value_name = "DIR")]
    pub(crate) write: Option<PathBuf>,
    /// Overwrite files that are there
    #[arg(long, requires = "write")]
    pub(crate) force: bool,
    /// How it is printed.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Another runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// containerd: /etc/containerd/config.toml with its imports.
    Containerd,
    /// CRI-O: /etc/crio, and /etc/containers beside it.
    Crio,
}

/// `gantline events`.
#[derive(Debug, Args)]
pub(crate) struct EventsFlags {
    /// Go on with what happens from now on, until interrupted
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How it is printed; JSON comes one event a line.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `gantline top`.
#[derive(Debug, Args)]
pub(crate) struct TopFlags {
    /// Show one table and end
    #[arg(long, conflicts_with = "count")]
    pub(crate) once: bool,
    /// Show so many tables and end
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Seconds from one table to the next
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) interval: u64,
    /// What comes first; on a terminal the keys c, m, i, o, r, a and n change it, q ends
    #[arg(long, value_enum, default_value = "cpu")]
    pub(crate) sort: SortKey,
    /// How it is printed; JSON comes one object a line.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What pods are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortKey {
    /// The busiest first.
    Cpu,
    /// The largest first.
    Memory,
    /// Who receives most first.
    In,
    /// Who sends most first.
    Out,
    /// Who restarted most first.
    Restarts,
    /// The youngest first.
    Age,
    /// By namespace and name.
    Name,
}

/// `gantline why`.
#[derive(Debug, Args)]
pub(crate) struct WhyFlags {
    /// The pod: an id or a prefix of one, namespace/name, or a name
    pub(crate) pod: String,
    /// How it is printed.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `gantline reset`.
#[derive(Debug, Args)]
pub(crate) struct Reset {
    /// Print what there is to end, and end nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `gantline pull`.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// The image: busybox, docker.io/library/busybox:1.36, registry.k8s.io/pause@sha256:…
    pub(crate) reference: String,
    /// Credentials for the registry; "-" reads USER:PASSWORD from standard input
    #[arg(long, value_name = "USER:PASSWORD")]
    pub(crate) creds: Option<String>,
    /// Work on the image store directly; only when no service runs
    #[arg(long)]
    pub(crate) offline: bool,
}

/// `gantline import`.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// An archive, plain or compressed, or an OCI layout directory
    pub(crate) path: PathBuf,
    /// The name of an image that has none in the archive
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Work on the image store directly; only when no service runs
    #[arg(long)]
    pub(crate) offline: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Flags::command().debug_assert();
    }

    #[test]
    fn flags_stand_for_lines_of_the_file() {
        let flags = Flags::parse_from(["gantline", "serve", "--root", "/r", "--log-level", "debug"]);
        let keys: Vec<_> = flags.common.overrides().into_iter().map(|o| (o.key, o.value)).collect();
        assert_eq!(keys, [("root", "/r".to_owned()), ("log.level", "debug".to_owned())]);
    }
}
