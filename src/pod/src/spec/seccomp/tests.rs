//! The default profile asked about calls and capabilities; profiles of the node's read and refused.

use std::collections::BTreeSet;

use super::*;
use crate::spec::fixture::Fixture;

fn with(capabilities: &[&str]) -> Capabilities {
    Capabilities {
        bounding: capabilities.iter().map(|name| format!("CAP_{name}")).collect(),
        ..Capabilities::default()
    }
}

/// What the filter does for a call: the first rule that matches, as libseccomp's would for disjoint rules.
fn verdict(filter: &Seccomp, call: &str, args: &[u64]) -> String {
    let holds = |arg: &SyscallArg| {
        let given = args.get(arg.index as usize).copied().unwrap_or(0);
        match arg.op.as_str() {
            "SCMP_CMP_EQ" => given == arg.value,
            "SCMP_CMP_LT" => given < arg.value,
            "SCMP_CMP_MASKED_EQ" => given & arg.value == arg.value_two,
            op => panic!("{op} is not used"),
        }
    };
    let rule = filter
        .syscalls
        .iter()
        .find(|rule| rule.names.iter().any(|name| name == call) && rule.args.iter().all(holds));
    match rule {
        Some(rule) if rule.action == ALLOW => "allow".into(),
        Some(rule) => format!("errno {}", rule.errno_ret.unwrap_or(EPERM)),
        None => format!("errno {}", filter.default_errno_ret.unwrap()),
    }
}

#[test]
fn the_default_profile_asks_for_capabilities_and_looks_at_arguments() {
    const NEWUSER: u64 = 0x1000_0000;
    const NEWNS: u64 = 0x0002_0000;
    const THREAD: u64 = 0x0001_0f00;
    let rows: [(&[&str], &str, &[u64], &str); 29] = [
        (&[], "read", &[], "allow"),
        (&[], "execve", &[], "allow"),
        (&[], "openat2", &[], "allow"),
        (&[], "mount", &[], "errno 1"),
        (&["SYS_ADMIN"], "mount", &[], "allow"),
        (&[], "unshare", &[], "errno 1"),
        (&["SYS_ADMIN"], "setns", &[], "allow"),
        (&[], "clone", &[THREAD], "allow"),
        (&[], "clone", &[THREAD | NEWUSER], "errno 1"),
        (&[], "clone", &[NEWNS], "errno 1"),
        (&["SYS_ADMIN"], "clone", &[NEWUSER], "allow"),
        (&[], "clone3", &[], "errno 38"),
        (&["SYS_ADMIN"], "clone3", &[], "allow"),
        (&[], "personality", &[0], "allow"),
        (&[], "personality", &[0xffff_ffff], "allow"),
        (&[], "personality", &[0x0040_0000], "errno 1"),
        (&[], "socket", &[2], "allow"),
        (&[], "socket", &[16], "allow"),
        (&[], "socket", &[38], "errno 1"),
        (&[], "socket", &[40], "errno 1"),
        (&[], "socket", &[12], "errno 1"),
        (&[], "bpf", &[], "errno 1"),
        (&["BPF"], "bpf", &[], "allow"),
        (&["SYS_CHROOT"], "chroot", &[], "allow"),
        (&[], "io_uring_setup", &[], "errno 1"),
        (&[], "kexec_load", &[], "errno 1"),
        (&["SYS_ADMIN"], "keyctl", &[], "errno 1"),
        (&["SYS_TIME"], "clock_settime", &[], "allow"),
        (&[], "arch_prctl", &[], "allow"),
    ];
    for (capabilities, call, args, expect) in rows {
        let filter = default_filter("x86_64", &with(capabilities));
        assert_eq!(verdict(&filter, call, args), expect, "{call} {args:?} with {capabilities:?}");
    }
}

#[test]
fn the_default_profile_knows_the_architecture() {
    for (architecture, names, call, expect) in [
        ("x86_64", 3, "cacheflush", "errno 1"),
        ("aarch64", 2, "cacheflush", "allow"),
        ("aarch64", 2, "arch_prctl", "errno 1"),
        ("riscv64", 1, "riscv_flush_icache", "allow"),
        ("s390x", 2, "s390_runtime_instr", "allow"),
        ("unheard-of", 0, "read", "allow"),
    ] {
        let filter = default_filter(architecture, &with(&[]));
        assert_eq!(filter.architectures.len(), names);
        assert_eq!(verdict(&filter, call, &[]), expect, "{call} on {architecture}");
    }
    let z = default_filter("s390x", &with(&[]));
    assert_eq!(verdict(&z, "clone", &[0, 0x1000_0000]), "errno 1", "the flags are the second argument");
    assert_eq!(verdict(&z, "clone", &[0x1000_0000, 0]), "allow");
}

#[test]
fn the_default_profile_is_whole_and_says_nothing_twice() {
    let profile: Profile = serde_json::from_str(include_str!("../seccomp_default.json")).unwrap();
    let mut always = BTreeSet::new();
    for rule in profile.rules.iter().filter(|rule| rule.capability.is_none() && rule.condition.is_none()) {
        for call in rule.expand().into_iter().flat_map(|rule| rule.names) {
            let place = (call.clone(), rule.architectures.clone());
            assert!(always.insert(place), "{call} is allowed twice");
        }
    }
    assert!(always.len() > 340, "{}", always.len());
    for rule in &profile.rules {
        for name in [&rule.capability, &rule.without_capability].into_iter().flatten() {
            assert!(kernel::caps::NAMES.contains(&name.as_str()), "{name}");
        }
        assert!(rule.condition.as_ref().is_none_or(|c| OPERATORS.contains(&c.op.as_str())));
    }
}

#[test]
fn which_profile_is_meant() {
    use MandatoryProfile::{Localhost, RuntimeDefault, Unconfined};
    let file = br#"{"defaultAction":"SCMP_ACT_LOG"}"#;
    let (none, ours) = (SeccompDefault::Unconfined, SeccompDefault::RuntimeDefault);
    let rows = [
        (None, none, false, None),
        (None, ours, false, Some(ERRNO)),
        (Some(Unconfined), ours, false, None),
        (Some(RuntimeDefault), none, false, Some(ERRNO)),
        (Some(Localhost("/p".into())), none, false, Some("SCMP_ACT_LOG")),
        (Some(RuntimeDefault), ours, true, None),
        (Some(Localhost("/p".into())), ours, true, None),
    ];
    for (asked, unset, privileged, expect) in rows {
        let mut fixture = Fixture::default();
        fixture.container.security.seccomp = asked.clone();
        fixture.container.security.privileged = privileged;
        fixture.defaults.seccomp_unset = unset;
        fixture.seccomp_localhost = Some(file.to_vec());
        let found = filter(&fixture.input(), &with(&[])).unwrap();
        assert_eq!(found.map(|filter| filter.default_action).as_deref(), expect, "{asked:?} {privileged}");
    }
}

#[test]
fn profiles_of_the_nodes_are_read_whole_or_refused() {
    let good =
        br#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86_64"],
        "syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","comment":"x",
                     "args":[{"index":1,"value":2,"valueTwo":3,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
    let profile = parse("/p", good).unwrap();
    assert_eq!(profile.default_errno_ret, Some(38));
    assert_eq!(profile.syscalls[0].args[0].value_two, 3);
    for (bad, why) in [
        ("", "EOF while parsing"),
        ("{}", "missing field `defaultAction`"),
        (r#"{"defaultAction":"ALLOW"}"#, "\"ALLOW\" is not an action"),
        (r#"{"defaultAction":"SCMP_ACT_LOG","archMap":[]}"#, "unknown field `archMap`"),
        (
            r#"{"defaultAction":"SCMP_ACT_LOG","syscalls":[{"names":["a"],"action":"x"}]}"#,
            "\"x\" is not an action",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_LOG","syscalls":[{"names":["a"],"action":"SCMP_ACT_LOG","excludes":{}}]}"#,
            "unknown field `excludes`",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_LOG","syscalls":[{"names":["a"],"action":"SCMP_ACT_LOG",
                "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
            "the rule for a compares argument 6",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_LOG","architectures":["SCMP_ARCH_VAX"]}"#,
            "\"SCMP_ARCH_VAX\" is not an architecture",
        ),
        (r#"{"defaultAction":"SCMP_ACT_LOG","architectures":["X86"]}"#, "\"X86\" is not an architecture"),
        (
            r#"{"defaultAction":"SCMP_ACT_LOG","flags":["SECCOMP_FILTER_FLAG_NEW"]}"#,
            "\"SECCOMP_FILTER_FLAG_NEW\" is not a flag",
        ),
        (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "SCMP_ACT_NOTIFY cannot be the default action"),
        (
            r#"{"defaultAction":"SCMP_ACT_LOG","syscalls":[{"names":["a"],"action":"SCMP_ACT_NOTIFY"}]}"#,
            "SCMP_ACT_NOTIFY needs a listenerPath",
        ),
    ] {
        let error = parse("/p", bad.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("linux.security_context.seccomp.localhost_ref: \"/p\": "), "{error}");
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_localhost_file_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("profile.json");
    std::fs::write(&path, "{}").unwrap();
    let local = |path: &str| read_localhost(Some(&MandatoryProfile::Localhost(path.to_owned())));
    assert_eq!(local(path.to_str().unwrap()).unwrap(), Some(b"{}".to_vec()));
    assert_eq!(read_localhost(None).unwrap(), None);
    assert_eq!(read_localhost(Some(&MandatoryProfile::RuntimeDefault)).unwrap(), None);
    let field = "linux.security_context.seccomp.localhost_ref";
    assert_eq!(
        local("a.json").unwrap_err().to_string(),
        format!("{field}: \"a.json\" is not an absolute path")
    );
    let absent = dir.path().join("absent");
    let expect = format!("{field}: {absent:?} does not exist");
    assert_eq!(local(absent.to_str().unwrap()).unwrap_err().to_string(), expect);
}
