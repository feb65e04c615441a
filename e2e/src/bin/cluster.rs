//! `make cluster` and `make cluster-down`: a cluster of one node on Gantline for a person to try.
//!
//! `cluster up` starts `cluster hold` in a session of its own and waits until it says that the cluster is whole;
//! `hold` keeps the machine until it is told to end; `cluster down` tells it, and sweeps what a killed one left.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use e2e::Machine;
use e2e::cluster::{Cluster, Settings};
use e2e::command::command;
use e2e::programs::{target_dir, tool};
use rustix::process::{Pid, Signal, kill_process};

/// The one who holds the cluster, by pid, while there is one.
const HOLDER: &str = "gantline-cluster.pid";
/// Its complaints.
const LOG: &str = "gantline-cluster.log";

/// Where those two are: a test names a directory of its own, and leaves a person's cluster alone.
fn place(file: &str) -> PathBuf {
    let dir = std::env::var_os("GANTLINE_CLUSTER_DIR").unwrap_or_else(|| "/var/tmp".into());
    Path::new(&dir).join(file)
}

/// All of a cluster is gone within this time.
const DOWN: Duration = Duration::from_secs(120);

/// The last line that `hold` prints, before the kubeconfig's path.
const WHOLE: &str = "whole ";

fn main() -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "cluster: this needs root: pods are made of namespaces, mounts and cgroups; run it with sudo"
        );
        return ExitCode::FAILURE;
    }
    let word = std::env::args().nth(1).unwrap_or_default();
    let done = match word.as_str() {
        "up" => up(),
        "hold" => hold(),
        "down" => down(),
        _ => Err("say `cluster up` or `cluster down`".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster: {error}");
            ExitCode::FAILURE
        }
    }
}

fn up() -> e2e::Result<()> {
    if let Some(pid) = holder() {
        return Err(format!(
            "one is up already (held by pid {}); `make cluster-down` removes it",
            pid.as_raw_nonzero()
        )
        .into());
    }
    let log = File::create(place(LOG))?;
    let mut held = command("setsid")
        .arg(std::env::current_exe()?)
        .arg("hold")
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?;
    let mut kubeconfig = None;
    for line in BufReader::new(held.stdout.take().ok_or("no pipe to the holder")?).lines() {
        let line = line?;
        if let Some(path) = line.strip_prefix(WHOLE) {
            kubeconfig = Some(PathBuf::from(path));
            break;
        }
        println!("{line}");
    }
    let Some(kubeconfig) = kubeconfig else {
        held.wait()?;
        return Err(
            format!("it did not come up:\n{}", fs::read_to_string(place(LOG)).unwrap_or_default()).into()
        );
    };
    let tools = fs::canonicalize(tool("kubectl"))?;
    println!("\nA cluster of one node is up. In a shell:\n");
    println!("  export KUBECONFIG={}", kubeconfig.display());
    println!("  export PATH={}:$PATH   # kubectl", tools.parent().unwrap_or(Path::new("/")).display());
    println!("  kubectl get pods -A\n");
    println!(
        "Its images: 127.0.0.1:5000/busybox:1, registry.k8s.io/e2e-test-images/agnhost:2.59. `make cluster-down` removes it all."
    );
    Ok(())
}

fn hold() -> e2e::Result<()> {
    fs::write(place(HOLDER), std::process::id().to_string())?;
    let start = Instant::now();
    let tell = |line: &str| {
        // Who started us may be gone: the cluster comes up all the same.
        let _ = writeln!(std::io::stdout(), "{:6.1} s  {line}", start.elapsed().as_secs_f64());
    };
    let release = target_dir().join("release/gantline").exists();
    let cluster = Cluster::start_telling(Settings { release, ..Settings::default() }, tell);
    let ended = e2e::cri::runtime().block_on(async {
        let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let _ = writeln!(std::io::stdout(), "{WHOLE}{}", cluster.place.kubeconfig().display());
        end.recv().await;
        Ok(())
    });
    drop(cluster);
    let _ = fs::remove_file(place(HOLDER));
    ended
}

fn down() -> e2e::Result<()> {
    if let Some(pid) = holder() {
        kill_process(pid, Signal::TERM)?;
        let start = Instant::now();
        while holder().is_some() {
            if start.elapsed() > DOWN {
                return Err(format!("pid {} still holds it", pid.as_raw_nonzero()).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    // Making a machine sweeps what the dead left of theirs: a holder may have died before its end.
    drop(Machine::boot());
    for file in [HOLDER, LOG] {
        if let Err(error) = fs::remove_file(place(file))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error.into());
        }
    }
    println!("nothing is left of it");
    Ok(())
}

/// The holder, until the kernel is done with it: a dying one has still its files, and so the machine's lock.
fn holder() -> Option<Pid> {
    let text = fs::read_to_string(place(HOLDER)).ok()?;
    let of = |file: &str| fs::read_to_string(format!("/proc/{text}/{file}"));
    let stat = of("stat").ok()?;
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
    // One thread may be over before the others, which have the files still.
    let threads = fs::read_dir(format!("/proc/{text}/task")).map_or(0, Iterator::count);
    let ours = stat.contains("(cluster)") && (state != Some(Some('Z')) || threads > 1);
    if ours { Pid::from_raw(text.parse().ok()?) } else { None }
}
