//! Real OCI runtimes run what [`super::build`] writes. As another user than root, or without a runtime, the test says
//! why it skips.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kernel::cgroup::Hierarchy;
use model::NamespaceMode;

use super::fixture::{Fixture, bind};
use super::*;

/// A bundle with Debian's busybox in it, and a cgroup; both go with it.
struct Bundle {
    dir: tempfile::TempDir,
    cgroup: kernel::cgroup::Group,
}

impl Bundle {
    fn new(name: &str) -> Option<Self> {
        let permitted = kernel::caps::permitted().unwrap();
        let Ok(hierarchy) = Hierarchy::detect() else {
            println!("skipped: no cgroups are mounted");
            return None;
        };
        if !permitted.contains(&"SYS_ADMIN") || !Path::new("/bin/busybox").exists() {
            println!("skipped: needs root and busybox");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let cgroup = hierarchy.group(Path::new(&format!("gantline-test-{}-{name}", std::process::id())));
        let bundle = Self { dir, cgroup };
        let root = bundle.rootfs();
        for sub in ["bin", "etc", "dev", "proc", "sys", "tmp", "lib64"] {
            fs::create_dir_all(root.join(sub)).unwrap();
        }
        // By another process: what this one has open for writing a child of another test may hold until it executes.
        let copy = |from: &str, to: PathBuf| {
            let copied = kernel::process::command("/bin/cp").args(["-L", from]).arg(to).status();
            assert!(copied.unwrap().success(), "copy {from}");
        };
        copy("/bin/busybox", root.join("bin/busybox"));
        for applet in ["sh", "id", "cat", "grep", "ls", "env", "mount", "unshare"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let listed = kernel::process::command("/usr/bin/ldd").arg("/bin/busybox").output().unwrap();
        for word in String::from_utf8_lossy(&listed.stdout).split_whitespace().filter(|w| w.starts_with('/'))
        {
            let inside = root.join(word.trim_start_matches('/'));
            fs::create_dir_all(inside.parent().unwrap()).unwrap();
            copy(word, inside);
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:1000:1001::/:/bin/sh\n").unwrap();
        fs::write(root.join("etc/group"), "web:x:1001:\nlog:x:4:web\n").unwrap();
        Some(bundle)
    }

    fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    fn run(&self, runtime: &str, spec: &oci::Spec) -> Result<String, String> {
        let text = serde_json::to_vec_pretty(spec).unwrap();
        fs::write(self.dir.path().join("config.json"), text).unwrap();
        let id = self.cgroup.path().file_name().unwrap().to_string_lossy().into_owned();
        let output = kernel::process::command(runtime)
            .arg("--root")
            .arg(self.dir.path().join("runtime"))
            .args(["run", "--bundle"])
            .arg(self.dir.path())
            .arg(&id)
            .output()
            .map_err(|e| e.to_string())?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.cgroup.kill();
        let _ = self.cgroup.remove();
        let _ = kernel::mount::unmount_below(self.dir.path());
    }
}

fn runtimes() -> Vec<&'static str> {
    let known = ["/usr/bin/crun", "/usr/bin/runc", "/usr/sbin/runc", "/usr/local/bin/runc"];
    known.into_iter().filter(|path| Path::new(path).exists()).collect()
}

fn host() -> HostFacts {
    let hierarchy = Hierarchy::detect().unwrap();
    let version = if hierarchy.is_v2() { CgroupVersion::V2 } else { CgroupVersion::V1 };
    HostFacts::gather(version, hierarchy.limits_swap(), hierarchy.hugepage_sizes(), false).unwrap()
}

/// Everything that needs no namespace of a pod's.
fn fixture(bundle: &Bundle) -> Fixture {
    let mut fixture = Fixture { rootfs: bundle.rootfs(), host: host(), ..Fixture::default() };
    fixture.files = PodFiles::default();
    fixture.namespaces = NamespacePaths::default();
    fixture.pod.security.namespaces.network = NamespaceMode::Node;
    fixture.pod.security.namespaces.ipc = NamespaceMode::Node;
    fixture.cgroups_path = bundle.cgroup.path().to_string_lossy().into_owned();
    fixture.image.entrypoint = vec!["/bin/sh".into(), "-c".into()];
    fixture
}

fn check(name: &str, change: impl Fn(&Bundle, &mut Fixture), script: &str, expect: &str) {
    for runtime in runtimes() {
        let label = format!("{name}-{}", Path::new(runtime).file_name().unwrap().to_string_lossy());
        let Some(bundle) = Bundle::new(&label) else { return };
        if runtime.ends_with("crun") && hybrid_with_controllers() {
            println!("skipped: crun refuses this hybrid layout; mount the v1 hierarchies first");
            continue;
        }
        let mut fixture = fixture(&bundle);
        fixture.container.args = vec![script.to_owned()];
        change(&bundle, &mut fixture);
        let security = &fixture.container.security;
        fixture.user = resolve_user(&bundle.rootfs(), security, &fixture.image.user).unwrap();
        let here = crate::host_paths::HostPaths::new(None);
        let mut look = here.look();
        let choice = prepare::DeviceChoice { all_of_hosts: security.privileged, owned_by_user: false };
        fixture.mounts = prepare::mounts(&mut look, &fixture.container, &BTreeMap::new(), &[]).unwrap();
        fixture.devices = prepare::devices(&mut look, &fixture.container, choice).unwrap();
        let spec = build(&fixture.input()).unwrap();
        assert_eq!(bundle.run(runtime, &spec).as_deref(), Ok(expect), "{runtime}");
    }
}

fn hybrid_with_controllers() -> bool {
    fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").is_ok_and(|text| !text.trim().is_empty())
}

#[test]
fn a_confined_container_runs_as_asked() {
    check(
        "confined",
        |bundle, fixture| {
            let volume = bundle.dir.path().join("volume");
            fs::create_dir(&volume).unwrap();
            fs::write(volume.join("file"), "volume").unwrap();
            let at = volume.to_string_lossy().into_owned();
            fixture.container.mounts = vec![model::Mount { readonly: true, ..bind("/data", &at) }];
            let security = &mut fixture.container.security;
            security.run_as_username = "web".into();
            security.supplemental_groups = vec![77];
            security.no_new_privs = true;
            security.readonly_rootfs = true;
            security.seccomp = Some(model::MandatoryProfile::RuntimeDefault);
            security.masked_paths = vec!["/proc/kcore".into(), "/sys/firmware".into()];
            security.readonly_paths = vec!["/proc/sys".into()];
            fixture.container.working_dir = "/tmp".into();
            fixture.container.envs = vec![("MODE".into(), b"a b".to_vec())];
            fixture.container.resources.memory_limit = 64 << 20;
            fixture.container.resources.cpu_shares = 512;
            fixture.container.resources.cpu_quota = 50_000;
            fixture.container.resources.cpu_period = 100_000;
            fixture.container.resources.oom_score_adj = -998;
            fixture.defaults.pids_limit = Some(100);
            fixture.defaults.rlimits =
                vec![oci::Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 512, hard: u64::MAX }];
        },
        "id -u; id -g; id -G; pwd; echo $MODE $HOSTNAME; cat /data/file; echo; grep -E '^(Seccomp|NoNewPrivs):' \
         /proc/self/status; (echo x > /data/new) 2>/dev/null || echo ro; (echo x > /tmp/new) 2>/dev/null || echo ro; \
         (unshare -U true) 2>/dev/null || echo no-userns; ulimit -n",
        "1000\n1001\n1001 4 77\n/tmp\na b web\nvolume\nNoNewPrivs:\t1\nSeccomp:\t2\nro\nro\nno-userns\n512\n",
    );
}

#[test]
fn a_privileged_container_has_everything() {
    check(
        "privileged",
        |_, fixture| {
            fixture.pod.security.privileged = true;
            fixture.container.security.privileged = true;
        },
        "grep Seccomp: /proc/self/status; [ -c /dev/kmsg ] && echo kmsg; mount -t tmpfs none /tmp && echo mounted; \
         [ -w /sys ] && echo sys",
        "Seccomp:\t0\nkmsg\nmounted\nsys\n",
    );
}

#[test]
fn devices_and_limits_are_where_they_should_be() {
    check(
        "limits",
        |_, fixture| {
            fixture.container.devices = vec![model::Device {
                container_path: "/dev/of/zero".into(),
                host_path: "/dev/zero".into(),
                permissions: "r".into(),
            }];
            fixture.container.resources.memory_limit = 64 << 20;
        },
        "[ -c /dev/of/zero ] && echo device; ls /dev | grep -c kmsg; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true",
        "device\n0\n67108864\n",
    );
}
