//! Compiled filters, asked as the kernel asks them.

use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

/// Runs a filter over one system call: classic BPF, as far as seccomp(2) takes it.
fn ask(program: &[u8], architecture: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(architecture.to_ne_bytes());
    data.extend(0_u64.to_ne_bytes());
    args.iter().for_each(|arg| data.extend(arg.to_ne_bytes()));
    let (mut at, mut a) = (0, 0_u32);
    loop {
        let one = &program[at * 8..][..8];
        let (code, jt, jf) = (u16::from_ne_bytes([one[0], one[1]]), one[2], one[3]);
        let k = u32::from_ne_bytes(one[4..].try_into().unwrap());
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        at += 1;
        match code {
            0x20 => a = u32::from_ne_bytes(data[k as usize..][..4].try_into().unwrap()),
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x15 => at += jump(a == k),
            0x25 => at += jump(a > k),
            0x35 => at += jump(a >= k),
            0x45 => at += jump(a & k != 0),
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn profile(json: &str) -> Seccomp {
    serde_json::from_str(json).unwrap()
}

fn program(profile: &Seccomp, unknown_is_enosys: bool) -> Vec<u8> {
    let compiled = compile(profile, unknown_is_enosys).unwrap();
    let file = File::from(compiled.memory);
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn number(name: &str) -> u32 {
    ScmpSyscall::from_name_by_arch(name, ScmpArch::X8664).unwrap().as_raw_syscall() as u32
}

#[test]
fn every_action_operator_and_architecture_is_what_it_says() {
    let rule = |name: &str, action: &str, more: &str| {
        format!(r#"{{"names": ["{name}"], "action": "SCMP_ACT_{action}"{more}}}"#)
    };
    let arg = |op: &str, value: u64| {
        format!(r#", "args": [{{"index": 1, "value": {value}, "valueTwo": 6, "op": "SCMP_CMP_{op}"}}]"#)
    };
    let rules = [
        rule("read", "ALLOW", ""),
        rule("write", "ERRNO", r#", "errnoRet": 7"#),
        rule("open", "ERRNO", ""),
        rule("close", "KILL", ""),
        rule("stat", "KILL_PROCESS", ""),
        rule("fstat", "TRAP", ""),
        rule("lstat", "LOG", ""),
        rule("poll", "TRACE", ""),
        rule("lseek", "ALLOW", &arg("EQ", 5)),
        rule("mmap", "ALLOW", &arg("NE", 5)),
        rule("mprotect", "ALLOW", &arg("LT", 5)),
        rule("munmap", "ALLOW", &arg("LE", 5)),
        rule("brk", "ALLOW", &arg("GT", 5)),
        rule("ioctl", "ALLOW", &arg("GE", 5)),
        rule("access", "ALLOW", &arg("MASKED_EQ", 14)),
        rule("no_such_call", "ALLOW", ""),
        rule("getpid", "ERRNO", r#", "errnoRet": 9"#),
    ];
    let text = format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 9, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [{}]}}"#,
        rules.join(",")
    );
    let bytes = program(&profile(&text), false);
    for (name, second, expected) in [
        ("read", 0, ALLOW),
        ("write", 0, ERRNO | 7),
        ("open", 0, ERRNO | 1),
        ("close", 0, 0),
        ("stat", 0, 0x8000_0000),
        ("fstat", 0, 0x0003_0000),
        ("lstat", 0, 0x7ffc_0000),
        ("poll", 0, 0x7ff0_0001),
        ("getpid", 0, ERRNO | 9),
        ("getuid", 0, ERRNO | 9),
    ] {
        assert_eq!(ask(&bytes, X86_64, number(name), [0, second, 0, 0, 0, 0]), expected, "{name}");
    }
    for (name, allowed) in [
        ("lseek", [false, true, false]),
        ("mmap", [true, false, true]),
        ("mprotect", [true, false, false]),
        ("munmap", [true, true, false]),
        ("brk", [false, false, true]),
        ("ioctl", [false, true, true]),
        // 14 is the mask: of 4, 5 and 6 only 6 has those bits.
        ("access", [false, false, true]),
    ] {
        for (value, allowed) in [4, 5, 6].into_iter().zip(allowed) {
            let got = ask(&bytes, X86_64, number(name), [0, value, 0, 0, 0, 0]);
            assert_eq!(got == ALLOW, allowed, "{name} {value}");
        }
        // A value that differs in its upper half alone.
        let high = ask(&bytes, X86_64, number(name), [0, 5 | 1 << 32, 0, 0, 0, 0]) == ALLOW;
        assert_eq!(high, ["mmap", "brk", "ioctl"].contains(&name), "{name}, a large value");
    }
    // read is 3 there; an architecture that is not named ends its caller.
    assert_eq!((ask(&bytes, I386, 3, [0; 6]), ask(&bytes, 0x4000_0028, 3, [0; 6])), (ALLOW, 0));
}

#[test]
fn calls_newer_than_the_profile_are_not_there_where_that_is_asked() {
    let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW"}]}"#;
    let (plain, stubbed) = (program(&profile(text), false), program(&profile(text), true));
    let x32 = 1 << 30;
    for (architecture, call, without, with) in [
        (X86_64, number("read"), ALLOW, ALLOW),
        (X86_64, number("openat2"), ALLOW, ALLOW),
        (X86_64, number("mount"), ERRNO | 1, ERRNO | 1),
        (X86_64, number("openat2") + 1, ERRNO | 1, ERRNO | 38),
        (X86_64, 9999, ERRNO | 1, ERRNO | 38),
        (X86_64, x32, ALLOW, ALLOW),
        (X86_64, x32 | 9999, ERRNO | 1, ERRNO | 38),
        (I386, 3, ALLOW, ALLOW),
        (I386, 438, ERRNO | 1, ERRNO | 38),
        (0x4000_0028, 9999, 0, 0),
    ] {
        assert_eq!(ask(&plain, architecture, call, [0; 6]), without, "{architecture:#x} {call}");
        assert_eq!(
            ask(&stubbed, architecture, call, [0; 6]),
            with,
            "{architecture:#x} {call}, with the stub"
        );
    }
    let open = text.replacen("SCMP_ACT_ERRNO", "SCMP_ACT_LOG", 1);
    assert_eq!(program(&profile(&open), true), program(&profile(&open), false), "what is allowed needs none");
}

#[test]
fn flags_are_what_runtimes_make_of_them() {
    let with = |flags: &str| {
        let text = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "flags": {flags}}}"#);
        compile(&profile(&text), false).map(|compiled| compiled.flags).map_err(|e| e.to_string())
    };
    assert_eq!(with("[]"), Ok(SPEC_ALLOW));
    assert_eq!(with(r#"["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]"#), Ok(LOG));
    let refused = with(r#"["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#).unwrap_err();
    assert_eq!(refused, "the flag SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is for the OCI runtime");
}

#[test]
fn what_cannot_be_compiled_to_the_letter_is_the_runtimes() {
    for (text, expected) in [
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "the action SCMP_ACT_NOTIFY"),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}"#,
            "the action SCMP_ACT_NOTIFY",
        ),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}"#, "a listener"),
        (r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 70000}"#, "the error number 70000"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]}"#,
            "architecture SCMP_ARCH_Z80",
        ),
    ] {
        let error = compile(&profile(text), true).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

#[test]
fn the_kernel_takes_the_default_profile() {
    let capabilities = crate::spec::oci::Capabilities::default();
    let default = super::super::default_filter("x86_64", &capabilities);
    for unknown_is_enosys in [false, true] {
        let bytes = program(&default, unknown_is_enosys);
        let filter = kernel::seccomp::Filter::new(&bytes, SPEC_ALLOW).unwrap();
        let loaded = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            filter.load().unwrap();
            // What it forbids fails in this thread alone.
            rustix::process::chroot("/").unwrap_err()
        });
        assert_eq!(loaded.join().unwrap(), rustix::io::Errno::PERM);
        assert_eq!(ask(&bytes, X86_64, number("clone3"), [0; 6]), ERRNO | 38);
        assert_eq!(ask(&bytes, X86_64, number("read"), [0; 6]), ALLOW);
    }
}
