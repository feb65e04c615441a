//! ENOSYS for system calls that are newer than a profile.
//!
//! A profile that lists what is allowed says EPERM to what its author has never heard of, and a libc that tries a new
//! call first takes that for an answer, where ENOSYS would have made it try the old one. So runc puts a few instructions
//! before every filter, and so do these: a call whose number is above every one that the profile names is not there.

use libseccomp::{ScmpArch, ScmpSyscall};

use crate::spec::oci::Seccomp;

/// Set in the numbers of x32, which is x86_64 to the kernel otherwise.
const X32_BIT: u32 = 1 << 30;

// linux/bpf_common.h, linux/seccomp.h, and the offsets of struct seccomp_data.
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const RETURN_ENOSYS: u32 = 0x0005_0000 | 38;

/// One `struct sock_filter`.
fn instruction(code: u16, if_true: u8, if_false: u8, k: u32) -> [u8; 8] {
    let ([c0, c1], [k0, k1, k2, k3]) = (code.to_ne_bytes(), k.to_ne_bytes());
    [c0, c1, if_true, if_false, k0, k1, k2, k3]
}

/// The instructions, to be put before the filter: they return, or fall through into it.
///
/// # Errors
/// An architecture whose number is not known here.
pub(super) fn stub(profile: &Seccomp, architectures: &[ScmpArch]) -> Result<Vec<u8>, String> {
    let mut all = architectures.to_vec();
    if !all.contains(&ScmpArch::native()) {
        all.push(ScmpArch::native());
    }
    let mut program = Vec::new();
    for (at, architecture) in all.iter().enumerate().filter(|(at, one)| !all[..*at].contains(one)) {
        let _ = at;
        let names = profile.syscalls.iter().flat_map(|rule| &rule.names);
        let numbers = names.filter_map(|name| ScmpSyscall::from_name_by_arch(name, *architecture).ok());
        // Negative ones are the library's own, for calls that this architecture does not have.
        let newest = numbers.filter_map(|call| u32::try_from(call.as_raw_syscall()).ok()).max();
        if let Some(newest) = newest.filter(|newest| *newest > 0) {
            program.extend(section(*architecture, newest)?.concat());
        }
    }
    Ok(program)
}

/// For one architecture; others jump over it.
fn section(architecture: ScmpArch, newest: u32) -> Result<Vec<[u8; 8]>, String> {
    let mut body = vec![instruction(LOAD, 0, 0, NUMBER)];
    let answer = instruction(RETURN, 0, 0, RETURN_ENOSYS);
    match architecture {
        // The comparison and the answer are for one of the two alone.
        ScmpArch::X8664 => body.push(instruction(JUMP_SET, 2, 0, X32_BIT)),
        ScmpArch::X32 => body.push(instruction(JUMP_SET, 0, 2, X32_BIT)),
        // 0 is where numbers arrive that are too large for an instruction, and no call of anybody's else.
        ScmpArch::S390 | ScmpArch::S390X => body.extend([instruction(JUMP_EQUAL, 0, 1, 0), answer]),
        _ => {}
    }
    body.extend([instruction(JUMP_GREATER, 0, 1, newest), answer]);
    let over = u8::try_from(body.len()).unwrap_or(u8::MAX);
    let audit = audit_number(architecture).ok_or_else(|| format!("the architecture {architecture:?}"))?;
    let mut section = vec![instruction(LOAD, 0, 0, ARCHITECTURE), instruction(JUMP_EQUAL, 0, over, audit)];
    section.extend(body);
    Ok(section)
}

/// AUDIT_ARCH_* (linux/audit.h).
fn audit_number(architecture: ScmpArch) -> Option<u32> {
    Some(match architecture {
        ScmpArch::X8664 | ScmpArch::X32 => 0xc000_003e,
        ScmpArch::X86 => 0x4000_0003,
        ScmpArch::Arm => 0x4000_0028,
        ScmpArch::Aarch64 => 0xc000_00b7,
        ScmpArch::Loongarch64 => 0xc000_0102,
        ScmpArch::Riscv64 => 0xc000_00f3,
        ScmpArch::Ppc => 0x14,
        ScmpArch::Ppc64 => 0x8000_0015,
        ScmpArch::Ppc64Le => 0xc000_0015,
        ScmpArch::S390 => 0x16,
        ScmpArch::S390X => 0x8000_0016,
        ScmpArch::Mips => 0x8,
        ScmpArch::Mips64 => 0x8000_0008,
        ScmpArch::Mips64N32 => 0xa000_0008,
        ScmpArch::Mipsel => 0x4000_0008,
        ScmpArch::Mipsel64 => 0xc000_0008,
        ScmpArch::Mipsel64N32 => 0xe000_0008,
        _ => return None,
    })
}
