//! The binary from outside: exit statuses, the root's lock, signals. Everything lies in a directory of the
//! test's own, with stand-ins for the OCI runtime and the shim, which no test here runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const WAIT_MAX: Duration = Duration::from_secs(20);

/// A place for one service.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, "#!/bin/sh\necho stand-in\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let place = Self { dir };
        let at = place.dir.path().display();
        place.write(
            "config.toml",
            &format!(
                "root = '{at}/root'\nstate = '{at}/state'\n[pods]\nshim = '{at}/program'\n\
                 [runtimes.stand-in]\npath = '{at}/program'\n\
                 [network]\nconf_dir = '{at}/cni'\ncache_dir = '{at}/cache'\nnetns_dir = '{at}/netns'\n"
            ),
        );
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = kernel::process::command(env!("CARGO_BIN_EXE_gantline"));
        command.args(args).arg("--config").arg(self.path("config.toml"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Starts the service and waits until it serves.
    fn serve(&self) -> Service {
        self.serve_with(&[])
    }

    /// The same with these variables in its environment.
    fn serve_with(&self, variables: &[(&str, &OsStr)]) -> Service {
        let mut command = self.command(&["serve"]);
        command.envs(variables.iter().copied()).stderr(fs::File::create(self.path("log")).unwrap());
        let mut service = Service { child: command.spawn().unwrap() };
        until("the service serves", || {
            if let Some(status) = service.child.try_wait().unwrap() {
                panic!("the service ended, {status}: {}", self.log());
            }
            let status = self.run(&["status", "-o", "json"]);
            status.status.success() && text(&status.stdout).contains("\"serving\"")
        });
        service
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }
}

/// A running service; killed when the test ends, however it ends.
struct Service {
    child: Child,
}

impl Service {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The exit status after it has ended by itself.
    fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        until("the service ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < WAIT_MAX, "{what}: not in {WAIT_MAX:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[test]
fn a_wrong_configuration_ends_with_64_before_anything_is_made() {
    let place = Place::new();
    place.write("config.d/10-wrong.toml", "[server]\nsokcet = '/x'\n[log]\nlevel = 'loud'\n");
    let output = place.run(&["serve"]);
    assert_eq!(output.status.code(), Some(64));
    let said = text(&output.stderr);
    assert!(said.contains("10-wrong.toml:2: server.sokcet: unknown key; did you mean socket?"), "{said}");
    assert!(said.contains("10-wrong.toml:4: log.level:"), "{said}");
    assert!(!exists(&place.path("root")) && !exists(&place.path("state")));
    assert_eq!(place.run(&["config", "check"]).status.code(), Some(64));
    assert_eq!(place.run(&["serve", "--nonsense"]).status.code(), Some(64));
}

#[test]
fn one_service_for_one_root_and_sigterm_ends_it_politely() {
    let place = Place::new();
    let mut service = place.serve();
    let mode = fs::metadata(place.path("state/gantline.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);

    let second = place.run(&["serve"]);
    assert_eq!(second.status.code(), Some(75));
    let holder = format!("is held by another gantline, pid {}", service.child.id());
    assert!(text(&second.stderr).contains(&holder), "{}", text(&second.stderr));
    let offline = place.run(&["pull", "--offline", "busybox"]);
    assert_eq!(offline.status.code(), Some(75), "{}", text(&offline.stderr));

    service.signal(Signal::TERM);
    assert_eq!(service.ended(), Some(0), "{}", place.log());
    assert!(!exists(&place.path("state/gantline.sock")) && !exists(&place.path("state/admin.sock")));
    let status = place.run(&["status"]);
    assert_eq!(status.status.code(), Some(69));
    assert!(text(&status.stderr).contains("no service answers at"), "{}", text(&status.stderr));
}

/// Reads what systemd is told until each of these lines has come; one that was told before is not seen.
fn told(systemd: &UnixDatagram, lines: &[&str]) {
    let mut missing: Vec<_> = lines.to_vec();
    let mut message = [0; 4096];
    let began = Instant::now();
    while !missing.is_empty() {
        assert!(began.elapsed() < WAIT_MAX, "systemd was not told {missing:?} in {WAIT_MAX:?}");
        // Nothing in the socket's own time limit is the same as nothing yet.
        let Ok(length) = systemd.recv(&mut message) else { continue };
        let said = text(&message[..length]);
        missing.retain(|wanted| !said.lines().any(|line| line == *wanted));
    }
}

#[test]
fn systemd_is_told_of_the_start_the_life_and_the_end() {
    let place = Place::new();
    let path = place.path("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut service =
        place.serve_with(&[("NOTIFY_SOCKET", path.as_os_str()), ("WATCHDOG_USEC", OsStr::new("300000"))]);
    // Their order is nobody's business: a heartbeat before READY=1 does no harm.
    told(&systemd, &["READY=1", "WATCHDOG=1"]);
    // It goes on beating.
    told(&systemd, &["WATCHDOG=1"]);
    told(&systemd, &["WATCHDOG=1"]);
    service.signal(Signal::TERM);
    told(&systemd, &["STOPPING=1"]);
    // Nobody reads any more: heartbeats must not wait for room in the socket's short queue.
    drop(systemd);
    assert_eq!(service.ended(), Some(0), "{}", place.log());
}

#[test]
fn after_a_kill_the_next_service_takes_over_the_sockets_and_the_root() {
    let place = Place::new();
    let mut service = place.serve();
    service.signal(Signal::KILL);
    assert_eq!(service.ended(), None);
    assert!(exists(&place.path("state/gantline.sock")));
    let mut next = place.serve();
    next.signal(Signal::INT);
    assert_eq!(next.ended(), Some(0), "{}", place.log());
}

#[test]
fn sighup_reads_the_log_level_again_and_survives_a_wrong_file() {
    let place = Place::new();
    let mut service = place.serve();
    place.write("config.d/log.toml", "[log]\nlevel = 'loud'\n");
    service.signal(Signal::HUP);
    until("the fault is logged", || place.log().contains("the configuration is not read again"));
    place.write("config.d/log.toml", "[log]\nlevel = 'debug'\n");
    service.signal(Signal::HUP);
    until("the level is read again", || place.log().contains("log level read again"));
    service.signal(Signal::TERM);
    assert_eq!(service.ended(), Some(0));
}

#[test]
fn a_missing_program_is_named_and_nothing_is_served() {
    let place = Place::new();
    place.write("config.d/shim.toml", "[pods]\nshim = '/nonexistent/shim'\n");
    let output = place.run(&["serve"]);
    assert_eq!(output.status.code(), Some(71));
    assert!(text(&output.stderr).contains("/nonexistent/shim"), "{}", text(&output.stderr));
    assert!(!exists(&place.path("state/gantline.sock")));
}
