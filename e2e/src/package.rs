//! The Debian package: built of the programs that are there, and Debian roots to install it in.
//!
//! A root is made by mmdebstrap once and kept below the target directory; each test has an overlay of its own over it, in a
//! machine's mount namespace, so that nothing of it is on the host.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::Machine;
use crate::command::{Said, command, run};
use crate::programs::target_dir;

/// What the roots are of: the newest release that the package is for, as `e2e/vm/run.sh` has it.
const SUITE: Suite = Suite { version: 13, name: "trixie" };
/// The releases before that the package is for too.
const OLDER: [Suite; 1] = [Suite { version: 12, name: "bookworm" }];
/// What the package depends on, systemd to look at its unit with, and shells to read completions (fish would bring man-db).
const PACKAGES: &str = "systemd,crun,libseccomp2,containernetworking-plugins,iptables,bash-completion,zsh";

fn house() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where packages and roots of tests are.
fn place() -> PathBuf {
    let target = fs::canonicalize(target_dir()).expect("the target directory");
    target.join("package")
}

/// The package of the dev build, built once a test program.
#[track_caller]
pub fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("current"))
}

/// Builds the package into a directory of this name.
#[track_caller]
pub fn build(name: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let pages = ["--features", "pages", "--bin", "gantline-pages"];
    run(command(cargo).current_dir(house()).args(["build", "--locked", "-q", "-p", "gantline"]).args(pages))
        .ok();
    let out = place().join(name);
    let _ = fs::remove_dir_all(&out);
    let mut build = command(house().join("packaging/build.sh"));
    build.env("PROFILE", "debug").env("DPKG_DEB_OPTIONS", "-Zgzip -z1").env("OUT", &out);
    PathBuf::from(run(&mut build).ok().trim())
}

/// The package as another version of it: `change` is a shell line that runs in its tree.
#[track_caller]
pub fn another(version: &str, change: &str) -> PathBuf {
    let name = format!("gantline_{version}.deb");
    let script = r#"
set -e
rm -rf "$1.tree" "$1"
dpkg-deb -R "$2" "$1.tree"
cd "$1.tree"
sed -i "s/^Version: .*/Version: $3/" DEBIAN/control
eval "$4"
find . -path ./DEBIAN -prune -o -type f ! -path "./etc/*" -printf '%P\0' | xargs -0 md5sum >DEBIAN/md5sums
dpkg-deb --root-owner-group -Zgzip -z1 -b . "$1" >/dev/null
rm -rf "$1.tree"
"#;
    let path = place().join(name);
    run(command("sh").args(["-c", script, "another"]).arg(&path).arg(built()).args([version, change])).ok();
    path
}

/// A release of Debian.
#[derive(Clone, Copy)]
pub struct Suite {
    version: u32,
    /// What its archive calls it.
    pub name: &'static str,
}

/// The releases that the package of this machine is for: a program runs with the libc that it was linked with or a newer
/// one, so that those older than a Debian that the tests run on are left out, which is said.
#[allow(clippy::print_stderr)]
pub fn suites() -> Vec<Suite> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        let value = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().trim_matches('"')
    };
    // Of another system's libc nothing is known but what was tried: that the newest Debian has it.
    let built_on =
        field("VERSION_ID").parse().ok().filter(|_| field("ID") == "debian").unwrap_or(SUITE.version);
    let (mut suites, left_out): (Vec<_>, Vec<_>) =
        OLDER.into_iter().partition(|suite| suite.version >= built_on);
    for suite in left_out {
        eprintln!("skipped: a package of this machine may want a newer libc than Debian {}'s", suite.version);
    }
    suites.push(SUITE);
    suites
}

/// A Debian root for one test.
pub struct Root {
    machine: Machine,
}

impl Root {
    /// A new one of the newest release, as mmdebstrap made it.
    #[track_caller]
    pub fn new() -> Self {
        Self::of(SUITE)
    }

    /// A new one of this release.
    #[track_caller]
    pub fn of(suite: Suite) -> Self {
        let machine = Machine::boot();
        let root = Self { machine };
        let script = r#"
set -e
mkdir "$2" "$3" "$4"
mount -t overlay -o "lowerdir=$1,upperdir=$3,workdir=$4" overlay "$2"
mount -t proc proc "$2/proc"
mount -t tmpfs -o mode=755 tmpfs "$2/run"
mkdir "$2/deb"
mount --bind "$5" "$2/deb"
# Nobody needs this root after a power loss.
echo force-unsafe-io >"$2/etc/dpkg/dpkg.cfg.d/tests"
"#;
        let dir = root.machine.dir();
        let mut boot = root.machine.command("/bin/sh");
        boot.args(["-c", script, "root"]).arg(made(suite)).arg(dir.join("root"));
        boot.arg(dir.join("upper")).arg(dir.join("work")).arg(place());
        run(&mut boot).ok();
        root
    }

    /// A command in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.machine.command("chroot");
        command.arg(self.machine.dir().join("root")).args(["/usr/bin/env", "-i"]);
        command.args([
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND=noninteractive",
            "LC_ALL=C.UTF-8",
        ]);
        command.arg(program);
        command
    }

    /// Runs a shell line in it.
    #[track_caller]
    pub fn sh(&self, line: &str) -> Said {
        run(self.command("/bin/sh").args(["-c", line]))
    }

    /// Installs a package, a file of [`built`]'s or [`another`]'s.
    #[track_caller]
    pub fn install(&self, package: &Path, options: &str) {
        let inside = package.strip_prefix(place()).expect("a package of this place");
        self.sh(&format!("dpkg {options} -i /deb/{}", inside.display())).ok();
    }

    /// Every file of it with kind, mode, size and owner, less what dpkg and its kin write down for themselves.
    #[track_caller]
    pub fn files(&self) -> BTreeSet<String> {
        let found = self.sh("find / -xdev -path /deb -prune -o -printf '%y %m %u:%g %p %l\n'").ok();
        let own = ["/var/lib/dpkg/", "/var/log/", "/var/cache/ldconfig", "/deb"];
        let kept = |line: &&str| !own.iter().any(|path| line.contains(&format!(" {path}")));
        found.lines().filter(kept).map(str::to_owned).collect()
    }
}

impl Default for Root {
    fn default() -> Self {
        Self::new()
    }
}

/// The root that all of a release are overlays of.
#[track_caller]
fn made(suite: Suite) -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let name = suite.name;
    let root = place().join(format!("root-{name}"));
    let stamp = place().join(format!("root-{name}.packages"));
    if fs::read_to_string(&stamp).is_ok_and(|made_of| made_of == PACKAGES) {
        return root;
    }
    fs::create_dir_all(place()).expect("make the packages' directory");
    let _ = fs::remove_dir_all(&root);
    let mut make = command("mmdebstrap");
    make.args(["--quiet", "--mode=root", "--variant=minbase", "--format=directory"]);
    make.arg(format!("--include={PACKAGES}")).arg(name).arg(&root);
    run(&mut make).ok();
    fs::write(&stamp, PACKAGES).expect("write the root's stamp");
    root
}
