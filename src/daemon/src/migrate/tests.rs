//! Whole configurations in, findings and files out. The nodes are made up; so is every name of theirs.

use super::*;

const RUNC: (&str, &str) = ("/usr/bin/runc", "#!/bin/sh");
const CRUN: (&str, &str) = ("/usr/local/bin/crun", "#!/bin/sh");

fn planned(peer: Peer, files: &[(&str, &str)]) -> Plan {
    let (_dir, files) = Files::made_up(files);
    plan(peer, &files, None).unwrap_or_else(|error| panic!("{}", model::chain(&error)))
}

/// The text of a file that would be written, less comments.
fn written(plan: &Plan, path: &str) -> String {
    let file = plan.written.iter().find(|file| file.path == Path::new(path));
    let text = file.map(|file| file.text.as_str()).unwrap_or_default();
    let kept = text.lines().map(|line| line.split(" # ").next().unwrap_or_default());
    kept.filter(|line| !line.is_empty() && !line.starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// `file:line key: why` of what is not carried over.
fn lost(plan: &Plan) -> Vec<String> {
    let of = |finding: &Finding| match &finding.outcome {
        Outcome::Left { why, .. } => Some(format!("{} {}: {why}", finding.at, finding.key)),
        _ => None,
    };
    plan.findings.iter().filter_map(of).collect()
}

/// Every line of these files is a key with its default, and something is said of each.
#[test]
fn no_key_is_passed_over() {
    for (peer, path, text) in [
        (Peer::Containerd, containerd::FILE, include_str!("testdata/containerd-2.4.toml")),
        (Peer::Containerd, containerd::FILE, include_str!("testdata/containerd-1.7.toml")),
        (Peer::Containerd, containerd::FILE, include_str!("testdata/containerd-1.6.toml")),
        (Peer::Crio, crio::FILE, include_str!("testdata/crio.toml")),
    ] {
        let plan = planned(peer, &[(path, text), RUNC, ("/usr/bin/crun", "#!/bin/sh")]);
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
            let at = format!("{path}:{}", index + 1);
            let told: Vec<_> = plan.findings.iter().filter(|finding| finding.at == at).collect();
            assert!(!told.is_empty(), "nothing is said of {line}");
            for finding in told {
                let unknown =
                    matches!(&finding.outcome, Outcome::Left { why, .. } if why.contains("does not know"));
                assert!(!unknown, "{line}: {finding:?}");
            }
        }
    }
}

#[test]
fn a_key_that_nobody_knows_is_told() {
    let plan = planned(
        Peer::Containerd,
        &[(containerd::FILE, "version = 2\nnew = 1\n[plugins.'a.b'.c]\nd = 2"), RUNC],
    );
    let expected = [
        "/etc/containerd/config.toml:2 new: this version of Gantline does not know the key",
        "/etc/containerd/config.toml:4 plugins.a.b.c.d: this version of Gantline does not know the key",
    ];
    assert_eq!(lost(&plan), expected);
}

#[test]
fn containerds_runtimes_in_each_version_of_the_format() {
    for (version, cri, images) in [
        (1, "cri", "cri"),
        (2, "'io.containerd.grpc.v1.cri'", "'io.containerd.grpc.v1.cri'"),
        (3, "'io.containerd.cri.v1.runtime'", "'io.containerd.cri.v1.images'"),
        (4, "'io.containerd.cri.v1.runtime'", "'io.containerd.cri.v1.images'"),
    ] {
        let text = format!(
            "version = {version}
[plugins.{images}.pinned_images]
app = 'registry.example/app:1'
[plugins.{images}.registry]
config_path = '/etc/containerd/certs.d:/srv/certs.d'
[plugins.{cri}]
max_container_log_line_size = 4096
device_ownership_from_security_context = true
[plugins.{cri}.cni]
conf_dir = '/srv/cni'
[plugins.{cri}.containerd]
default_runtime_name = 'crun'
[plugins.{cri}.containerd.runtimes.crun]
runtime_type = 'io.containerd.runc.v2'
privileged_without_host_devices = true
pod_annotations = ['x/*']
[plugins.{cri}.containerd.runtimes.crun.options]
BinaryName = 'crun'
SystemdCgroup = true
[plugins.{cri}.containerd.runtimes.kata]
runtime_type = 'io.containerd.kata.v2'
privileged_without_host_devices = true
"
        );
        let plan = planned(Peer::Containerd, &[(containerd::FILE, &text), RUNC, CRUN]);
        assert_eq!(
            written(&plan, "config.toml"),
            "default_runtime = \"crun\"
[cgroup]
driver = \"systemd\"
[images]
certs_d = [\"/etc/gantline/certs.d\", \"/etc/containerd/certs.d\", \"/srv/certs.d\"]
pinned = [\"registry.example/app:1\"]
[network]
bin_dirs = [\"/opt/cni/bin\"]
conf_dir = \"/srv/cni\"
[pods]
log_line_bytes_max = 4096
[runtimes.crun]
path = \"/usr/local/bin/crun\"
privileged_without_host_devices = true
[runtimes.runc]
path = \"/usr/bin/runc\"
[security]
device_ownership_from_security_context = true",
            "version {version}"
        );
        let expected = [
            "/etc/containerd/config.toml:16 cri.containerd.runtimes.crun.pod_annotations: Gantline does not do this",
            "/etc/containerd/config.toml:21 cri.containerd.runtimes.kata.runtime_type: io.containerd.kata.v2 is a \
             containerd shim, and Gantline runs OCI runtimes by their command line alone",
        ];
        assert_eq!(lost(&plan), expected, "version {version}");
    }
}

#[test]
fn imports_are_laid_over_in_their_order() {
    let plan = planned(
        Peer::Containerd,
        &[
            (
                containerd::FILE,
                "version = 2\nimports = ['conf.d/*.toml', '/srv/last.toml']\n[debug]\nlevel = 'warn'",
            ),
            ("/etc/containerd/conf.d/20.toml", "[debug]\nlevel = 'error'"),
            ("/etc/containerd/conf.d/10.toml", "[debug]\nlevel = 'trace'\nformat = 'json'"),
            ("/etc/containerd/conf.d/30.toml.bak", "[debug]\nlevel = 'panic'"),
            ("/srv/last.toml", "imports = ['/etc/containerd/config.toml']\n[debug]\nlevel = 'debug'"),
            RUNC,
        ],
    );
    assert_eq!(plan.read.len(), 4, "{:?}", plan.read);
    assert!(
        written(&plan, "config.toml").contains("[log]\nformat = \"json\"\nlevel = \"debug\""),
        "{plan:?}"
    );
}

#[test]
fn the_main_file_may_be_elsewhere() {
    let main = Path::new("/var/lib/rancher/k3s/agent/etc/containerd/config.toml");
    let (_dir, files) = Files::made_up(&[
        ("/var/lib/rancher/k3s/agent/etc/containerd/config.toml", "version = 3\nimports = ['conf.d/*.toml']"),
        ("/var/lib/rancher/k3s/agent/etc/containerd/conf.d/a.toml", "debug.level = 'warn'"),
        ("/srv/crio.conf", ""),
        ("/srv/crio.conf.d/a", "crio.runtime.log_level = 'warn'"),
        RUNC,
    ]);
    for (peer, main) in [(Peer::Containerd, main), (Peer::Crio, Path::new("/srv/crio.conf"))] {
        let plan = plan(peer, &files, Some(main)).unwrap();
        assert!(written(&plan, "config.toml").contains("level = \"warn\""), "{plan:?}");
    }
}

#[test]
fn mirrors_that_containerd_has_given_up_become_hosts_files() {
    let text = "version = 2
[plugins.'io.containerd.grpc.v1.cri'.registry.mirrors.'docker.io']
endpoint = ['https://mirror.example/v2/hub', 'http://plain.example:5000']
[plugins.'io.containerd.grpc.v1.cri'.registry.mirrors.'*']
endpoint = ['https://any.example']
[plugins.'io.containerd.grpc.v1.cri'.registry.configs.'mirror.example'.tls]
ca_file = '/etc/ca.pem'
cert_file = '/etc/c.pem'
key_file = '/etc/k.pem'
[plugins.'io.containerd.grpc.v1.cri'.registry.configs.'self.example:8443'.tls]
insecure_skip_verify = true
[plugins.'io.containerd.grpc.v1.cri'.registry.configs.'mirror.example'.auth]
username = 'bob'
password = 'hunter2'
[plugins.'io.containerd.grpc.v1.cri'.registry.headers]
X-Key = ['hunter3']
";
    let plan = planned(Peer::Containerd, &[(containerd::FILE, text), RUNC]);
    assert_eq!(
        written(&plan, "certs.d/docker.io/hosts.toml"),
        "[host.\"https://mirror.example/v2/hub\"]
capabilities = [\"pull\", \"resolve\"]
override_path = true
ca = [\"/etc/ca.pem\"]
client = [[\"/etc/c.pem\", \"/etc/k.pem\"]]
[host.\"http://plain.example:5000\"]
capabilities = [\"pull\", \"resolve\"]"
    );
    assert!(written(&plan, "certs.d/_default/hosts.toml").starts_with("[host.\"https://any.example\"]"));
    let own = written(&plan, "certs.d/self.example:8443/hosts.toml");
    assert_eq!(own, "server = \"https://self.example:8443\"\nskip_verify = true");
    let all = format!("{plan:?}");
    assert!(!all.contains("hunter"), "secrets are not told: {all}");
    assert_eq!(lost(&plan).iter().filter(|line| line.contains("keeps no credentials")).count(), 2);
}

#[test]
fn hosts_files_that_stay_are_looked_at() {
    let text = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/etc/certs'";
    let plan = planned(
        Peer::Containerd,
        &[
            (containerd::FILE, text),
            ("/etc/certs/good.example/hosts.toml", "server = 'https://good.example'"),
            ("/etc/certs/bad.example/hosts.toml", "[host.'ftp://x']"),
            RUNC,
        ],
    );
    let lost = lost(&plan);
    assert!(lost.len() == 1 && lost[0].starts_with("/etc/certs/bad.example/hosts.toml"), "{lost:?}");
}

#[test]
fn proxies_of_the_unit_are_carried_and_not_shown() {
    let plan = planned(
        Peer::Containerd,
        &[
            (containerd::FILE, "version = 2"),
            (
                "/etc/systemd/system/containerd.service.d/proxy.conf",
                "[Service]\nEnvironment=\"HTTPS_PROXY=http://bob:hunter2@proxy.example:3128\" X=y\nLimitNOFILE=1024\n",
            ),
            RUNC,
        ],
    );
    let file = plan.written.iter().find(|file| file.private).unwrap();
    assert!(file.text.contains("Environment=\"HTTPS_PROXY=http://bob:hunter2@proxy.example:3128\""));
    assert!(!format!("{:?}", plan.findings).contains("hunter2"));
    assert_eq!(lost(&plan).len(), 2, "X and LimitNOFILE: {plan:?}");
}

#[test]
fn crios_configuration_with_its_drop_ins() {
    let plan = planned(
        Peer::Crio,
        &[
            (
                crio::FILE,
                "[crio.runtime]\nlog_level = 'debug'\ndefault_ulimits = ['nofile=1024:2048']\npids_limit = 0",
            ),
            (
                "/etc/crio/crio.conf.d/10-crun.conf",
                "[crio.runtime]
default_runtime = 'crun'
default_sysctls = ['net.ipv4.ping_group_range=0 2147483647', 'net.core.somaxconn = 4096']
hooks_dir = ['/usr/share/hooks']
[crio.runtime.runtimes.crun]
[crio.runtime.runtimes.kata]
runtime_path = '/usr/bin/kata'
runtime_type = 'vm'
[crio.network]
plugin_dirs = ['/opt/cni/bin/', '/usr/libexec/cni']
[crio.metrics]
enable_metrics = true
metrics_port = 9537
[crio.tracing]
enable_tracing = true
tracing_endpoint = '127.0.0.1:4317'
tracing_sampling_rate_per_million = 1
",
            ),
            ("/usr/share/hooks/a.json", "{}"),
            CRUN,
        ],
    );
    assert_eq!(
        written(&plan, "config.toml"),
        "default_runtime = \"crun\"
[cgroup]
driver = \"systemd\"
[log]
level = \"debug\"
[metrics]
address = \"127.0.0.1:9537\"
[network]
bin_dirs = [\"/opt/cni/bin\", \"/usr/libexec/cni\"]
[pods]
default_ulimits = [\"nofile=1024:2048\"]
image_defined_volumes = \"ignore\"
[runtimes.crun]
path = \"/usr/local/bin/crun\"
[security]
default_capabilities = [\"CHOWN\", \"DAC_OVERRIDE\", \"FSETID\", \"FOWNER\", \"SETGID\", \"SETUID\", \"SETPCAP\", \
         \"NET_BIND_SERVICE\", \"KILL\"]
unprivileged_ports = false
unset_seccomp = \"runtime-default\"
[tracing]
endpoint = \"http://127.0.0.1:4317\"
per_mille = 1
protocol = \"grpc\"
sampler = \"parentbased_traceidratio\""
    );
    let lost = lost(&plan);
    for part in
        ["runtimes of type vm", "Gantline sets no net.core.somaxconn", "/usr/share/hooks/a.json lies there"]
    {
        assert!(lost.iter().any(|line| line.contains(part)), "{part}: {lost:#?}");
    }
    assert_eq!(lost.len(), 3, "{lost:#?}");
}

#[test]
fn registries_conf_of_both_versions() {
    let crio = (crio::FILE, "[crio.image]\ninsecure_registries = ['plain.example:5000', '10.0.0.0/8']");
    let text = "unqualified-search-registries = ['a.example', 'docker.io']
[[registry]]
prefix = 'docker.io'
location = 'hub.example/proxy'
[[registry.mirror]]
location = 'mirror.example/hub'
pull-from-mirror = 'digest-only'
[[registry.mirror]]
location = 'near.example:5000'
insecure = true
[[registry]]
location = 'evil.example'
blocked = true
[[registry]]
prefix = '*.corp.example'
[[registry]]
location = 'usual.example'
";
    let plan = planned(
        Peer::Crio,
        &[
            crio,
            CRUN,
            ("/etc/containers/registries.conf", text),
            (
                "/etc/containers/registries.conf.d/short.conf",
                "[aliases]\nalpine = 'docker.io/library/alpine'\nx = 'q.example/x'",
            ),
            ("/etc/containers/certs.d/mirror.example/ca.crt", ""),
            ("/etc/containers/policy.json", r#"{"default": [{"type": "reject"}]}"#),
        ],
    );
    assert_eq!(
        written(&plan, "certs.d/docker.io/hosts.toml"),
        "server = \"https://hub.example/v2/proxy\"
override_path = true
[host.\"https://mirror.example/v2/hub\"]
capabilities = [\"pull\"]
override_path = true
ca = [\"/etc/containers/certs.d/mirror.example/ca.crt\"]
[host.\"https://near.example:5000\"]
capabilities = [\"pull\", \"resolve\"]
skip_verify = true
[host.\"http://near.example:5000\"]
capabilities = [\"pull\", \"resolve\"]"
    );
    assert_eq!(
        written(&plan, "certs.d/plain.example:5000/hosts.toml"),
        "server = \"http://plain.example:5000\"
[host.\"https://plain.example:5000\"]
capabilities = [\"pull\", \"resolve\"]
skip_verify = true"
    );
    let lost = lost(&plan);
    for part in [
        "unqualified-search",
        "evil.example: blocked",
        "*.corp.example: prefix",
        "aliases.x",
        "10.0.0.0/8",
        "signatures",
    ] {
        assert!(lost.iter().any(|line| line.contains(part)), "{part}: {lost:#?}");
    }
    assert_eq!(lost.len(), 6, "{lost:#?}");

    let old = "[registries.search]\nregistries = ['docker.io']\n[registries.insecure]\nregistries = ['old.example']\n[registries.block]\nregistries = ['evil.example']";
    let plan = planned(Peer::Crio, &[(crio::FILE, "[crio]"), CRUN, ("/etc/containers/registries.conf", old)]);
    assert!(written(&plan, "certs.d/old.example/hosts.toml").starts_with("server = \"http://old.example\""));
    assert_eq!(self::lost(&plan).len(), 1);
}

#[test]
fn sessions_leave_loopback_with_tls_alone() {
    let of = |text: &str| planned(Peer::Crio, &[(crio::FILE, text), CRUN]);
    let tls = "[crio.api]\nstream_address = '10.0.0.1'\nstream_port = '10010'\nstream_enable_tls = true\nstream_tls_cert = '/c'\nstream_tls_key = '/k'";
    let written = written(&of(tls), "config.toml");
    assert!(
        written.contains(
            "[streaming]\naddress = \"10.0.0.1:10010\"\ntls_certificate = \"/c\"\ntls_key = \"/k\""
        ),
        "{written}"
    );
    let plain = of("[crio.api]\nstream_address = '10.0.0.1'\nstream_tls_cert = '/c'");
    assert_eq!(lost(&plain).len(), 1, "{plain:?}");
    assert!(!self::written(&plain, "config.toml").contains("streaming"));
}

#[test]
fn what_cannot_be_read_is_said_with_its_line() {
    let (_dir, files) = Files::made_up(&[(containerd::FILE, "version = 2\nx = [")]);
    let error = model::chain(&plan(Peer::Containerd, &files, None).unwrap_err());
    assert!(error.contains("/etc/containerd/config.toml:2: "), "{error}");
    let (_dir, files) = Files::made_up(&[]);
    let error = plan(Peer::Crio, &files, None).unwrap_err().to_string();
    assert_eq!(error, "no configuration of CRI-O: /etc/crio/crio.conf is not there");
}

#[test]
fn a_binary_that_is_not_installed_is_told() {
    let plan = planned(Peer::Containerd, &[(containerd::FILE, "version = 2")]);
    let lost = lost(&plan);
    assert!(lost[0].contains("runc is not installed in "), "{lost:?}");
    assert!(!written(&plan, "config.toml").contains("default_runtime"));
}
