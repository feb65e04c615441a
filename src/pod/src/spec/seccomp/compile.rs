//! A filter as the kernel takes it, from the OCI form: by libseccomp, as runc and crun do it.
//!
//! What cannot be compiled here to the letter is an error, and the OCI runtime's to handle: nothing is left out.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use kernel::SysError;
use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use rustix::fs::{MemfdFlags, SealFlags};

use super::enosys;
use crate::spec::oci::{Seccomp, Syscall, SyscallArg};

/// SECCOMP_FILTER_FLAG_LOG and SECCOMP_FILTER_FLAG_SPEC_ALLOW (seccomp(2)).
const LOG: u32 = 1 << 1;
const SPEC_ALLOW: u32 = 1 << 2;
/// Rules from which on the filter is a tree instead of a list, as runc has it.
const TREE_FROM: usize = 33;
const EPERM: u32 = 1;

/// A compiled filter.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// Its instructions, in a sealed memfd.
    pub(crate) memory: OwnedFd,
    /// What to load it with.
    pub(crate) flags: u32,
}

/// Why a filter is not compiled here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompileError {
    /// A value that is for the OCI runtime alone.
    #[error("{0} is for the OCI runtime")]
    NotHere(String),
    /// libseccomp refused.
    #[error("{0}")]
    Library(String, #[source] SeccompError),
    /// The memory that holds it.
    #[error("keep the filter")]
    Memory(#[source] SysError),
}

/// Compiles a filter. `unknown_is_enosys`: what is newer than every call that the profile names fails with ENOSYS, and
/// not as the profile's default says, so that programs try what is older.
///
/// # Errors
/// What cannot be compiled to the letter.
pub(crate) fn compile(profile: &Seccomp, unknown_is_enosys: bool) -> Result<Compiled, CompileError> {
    if profile.listener_path.is_some() || profile.listener_metadata.is_some() {
        return Err(CompileError::NotHere("a listener".into()));
    }
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| CompileError::Library(what, source)
    };
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut filter = ScmpFilterContext::new(default).map_err(failed("make a filter"))?;
    // no_new_privs is its loader's business.
    filter.set_ctl_nnp(false).map_err(failed("leave no_new_privs"))?;
    let architectures = profile.architectures.iter().map(|name| architecture(name));
    let architectures = architectures.collect::<Result<Vec<_>, _>>()?;
    for architecture in &architectures {
        if !filter.is_arch_present(*architecture).map_err(failed("look for an architecture"))? {
            filter.add_arch(*architecture).map_err(failed("add an architecture"))?;
        }
    }
    if profile.syscalls.iter().map(|rule| rule.names.len()).sum::<usize>() >= TREE_FROM {
        // A library that is too old makes a list.
        let _ = filter.set_ctl_optimize(2);
    }
    for rule in &profile.syscalls {
        add(&mut filter, rule, default)?;
    }
    let memory = rustix::fs::memfd_create("filter", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|e| CompileError::Memory(SysError::bare("memfd_create", e)))?;
    let mut memory = File::from(memory);
    filter.export_bpf(&memory).map_err(failed("export the filter"))?;
    if unknown_is_enosys && !matches!(default, ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_)) {
        let stub = enosys::stub(profile, &architectures).map_err(CompileError::NotHere)?;
        prepend(&mut memory, &stub)
            .map_err(|e| CompileError::Memory(SysError::named("write", "a filter", e)))?;
    }
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals)
        .map_err(|e| CompileError::Memory(SysError::named("seal", "a filter", e)))?;
    Ok(Compiled { memory: memory.into(), flags: flags(&profile.flags)? })
}

fn prepend(memory: &mut File, stub: &[u8]) -> io::Result<()> {
    let length = memory.metadata()?.len();
    let mut program = stub.to_vec();
    program.resize(stub.len() + usize::try_from(length).map_err(io::Error::other)?, 0);
    memory.read_exact_at(&mut program[stub.len()..], 0)?;
    io::Seek::rewind(memory)?;
    memory.write_all(&program)
}

fn flags(names: &[String]) -> Result<u32, CompileError> {
    if names.is_empty() {
        // Nothing said means so to runc and crun.
        return Ok(SPEC_ALLOW);
    }
    names.iter().try_fold(0, |flags, name| match name.as_str() {
        // Its loader has one thread.
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(flags),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(flags | LOG),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(flags | SPEC_ALLOW),
        other => Err(CompileError::NotHere(format!("the flag {other}"))),
    })
}

fn action(name: &str, errno: Option<u32>) -> Result<ScmpAction, CompileError> {
    let number = errno.unwrap_or(EPERM);
    let narrow =
        u16::try_from(number).map_err(|_| CompileError::NotHere(format!("the error number {number}")));
    match name {
        "SCMP_ACT_ALLOW" => Ok(ScmpAction::Allow),
        "SCMP_ACT_ERRNO" => Ok(ScmpAction::Errno(narrow?.into())),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Ok(ScmpAction::KillThread),
        "SCMP_ACT_KILL_PROCESS" => Ok(ScmpAction::KillProcess),
        "SCMP_ACT_LOG" => Ok(ScmpAction::Log),
        "SCMP_ACT_TRACE" => Ok(ScmpAction::Trace(narrow?)),
        "SCMP_ACT_TRAP" => Ok(ScmpAction::Trap),
        other => Err(CompileError::NotHere(format!("the action {other}"))),
    }
}

fn architecture(name: &str) -> Result<ScmpArch, CompileError> {
    name.parse().map_err(|e| CompileError::Library(format!("architecture {name}"), e))
}

fn add(filter: &mut ScmpFilterContext, rule: &Syscall, default: ScmpAction) -> Result<(), CompileError> {
    let action = action(&rule.action, rule.errno_ret)?;
    if action == default {
        // It says nothing, and the library takes it for a mistake.
        return Ok(());
    }
    let conditions = rule.args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    // Several conditions on one argument cannot be one rule: each is one of its own, as runc and crun have it.
    let twice =
        rule.args.iter().enumerate().any(|(n, arg)| rule.args[..n].iter().any(|a| a.index == arg.index));
    let groups: Vec<&[ScmpArgCompare]> =
        if twice { conditions.chunks(1).collect() } else { vec![conditions.as_slice()] };
    // Names that this library does not know are calls that this node's kernel hardly has.
    for call in
        rule.names.iter().filter_map(|name| ScmpSyscall::from_name(name).ok().map(|call| (call, name)))
    {
        for group in &groups {
            let added = match group {
                [] => filter.add_rule(action, call.0),
                group => filter.add_rule_conditional(action, call.0, group),
            };
            added.map(drop).map_err(|e| CompileError::Library(format!("a rule for {}", call.1), e))?;
        }
    }
    Ok(())
}

fn condition(arg: &SyscallArg) -> Result<ScmpArgCompare, CompileError> {
    let op = match arg.op.as_str() {
        "SCMP_CMP_NE" => ScmpCompareOp::NotEqual,
        "SCMP_CMP_LT" => ScmpCompareOp::Less,
        "SCMP_CMP_LE" => ScmpCompareOp::LessOrEqual,
        "SCMP_CMP_EQ" => ScmpCompareOp::Equal,
        "SCMP_CMP_GE" => ScmpCompareOp::GreaterEqual,
        "SCMP_CMP_GT" => ScmpCompareOp::Greater,
        "SCMP_CMP_MASKED_EQ" => ScmpCompareOp::MaskedEqual(arg.value),
        other => return Err(CompileError::NotHere(format!("the operator {other}"))),
    };
    let datum = if matches!(op, ScmpCompareOp::MaskedEqual(_)) { arg.value_two } else { arg.value };
    Ok(ScmpArgCompare::new(arg.index, op, datum))
}

#[cfg(test)]
mod tests;
