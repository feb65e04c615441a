//! From root with everything to the user, groups and capabilities that a program shall have (credentials(7),
//! capabilities(7)), and the session keyring that it shall see.
//!
//! In this order, each step with what the next one still needs:
//!
//! 1. the bounding set, while CAP_SETPCAP is there ([`become_user`]);
//! 2. groups, group and user, keeping the permitted capabilities ([`become_user`]);
//! 3. the capabilities themselves ([`hold`]), and ambient ones last, which must be permitted and inheritable.

use std::ffi::CString;
use std::io;

use rustix::io::Errno;
use rustix::process::DumpableBehavior;
pub use rustix::thread::CapabilitySet;
use rustix::thread::{CapabilitySets, Gid, Uid};

use crate::{SysError, caps};

/// A user and its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
}

/// The five sets of capabilities(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The most that an execve(2) can bring.
    pub bounding: CapabilitySet,
    /// What is checked.
    pub effective: CapabilitySet,
    /// What may be made effective.
    pub permitted: CapabilitySet,
    /// What files may add.
    pub inheritable: CapabilitySet,
    /// What an execve(2) keeps.
    pub ambient: CapabilitySet,
}

/// Becomes the user, with capabilities beyond `bounding` out of reach for ever and the permitted ones kept.
///
/// # Errors
/// The system call; an id that the user namespace does not map is EINVAL.
pub fn become_user(user: &User, bounding: CapabilitySet) -> Result<(), SysError> {
    for (number, name) in caps::NAMES.iter().enumerate() {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if !bounding.contains(capability) {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // A kernel that is older than the capability.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(e) => return Err(SysError::named("drop from the bounding set", *name, e)),
            }
        }
    }
    let (uid, gid) = (id(user.uid).map(Uid::from_raw)?, id(user.gid).map(Gid::from_raw)?);
    let groups =
        user.groups.iter().map(|group| id(*group).map(Gid::from_raw)).collect::<Result<Vec<_>, _>>()?;
    let keep = |keep| {
        rustix::thread::set_keep_capabilities(keep).map_err(|e| SysError::bare("prctl PR_SET_KEEPCAPS", e))
    };
    keep(true)?;
    rustix::thread::set_thread_groups(&groups)
        .map_err(|e| SysError::named("setgroups", format!("{:?}", user.groups), e))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .map_err(|e| SysError::named("setgid", user.gid.to_string(), e))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .map_err(|e| SysError::named("setuid", user.uid.to_string(), e))?;
    keep(false)
}

/// The number -1 means "as it is" to the kernel, and is nobody's.
fn id(number: u32) -> Result<u32, SysError> {
    if number == u32::MAX {
        return Err(SysError::named(
            "become",
            number.to_string(),
            io::Error::from(io::ErrorKind::InvalidInput),
        ));
    }
    Ok(number)
}

/// Holds exactly these capabilities, and for the time being `also`; ambient ones only once there is no `also`.
///
/// # Errors
/// The system call: a capability that was not permitted before.
pub fn hold(capabilities: &Capabilities, also: CapabilitySet) -> Result<(), SysError> {
    let sets = CapabilitySets {
        effective: capabilities.effective | also,
        permitted: capabilities.permitted | also,
        inheritable: capabilities.inheritable,
    };
    rustix::thread::set_capabilities(None, sets).map_err(|e| SysError::bare("capset", e))?;
    if !also.is_empty() {
        return Ok(());
    }
    rustix::thread::clear_ambient_capability_set()
        .map_err(|e| SysError::bare("prctl PR_CAP_AMBIENT_CLEAR_ALL", e))?;
    for (number, name) in caps::NAMES.iter().enumerate() {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if capabilities.ambient.contains(capability) {
            rustix::thread::configure_capability_in_ambient_set(capability, true)
                .map_err(|e| SysError::named("make ambient", *name, e))?;
        }
    }
    Ok(())
}

/// Keeps other processes of the same user from reading, tracing or looking into this one, until its next execve(2).
///
/// # Errors
/// The system call.
pub fn hide() -> Result<(), SysError> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| SysError::bare("prctl PR_SET_DUMPABLE", e))
}

/// Leaves the session keyring that was inherited for the one of that name, which is made where it is not there;
/// without a name for a new one (keyctl(2), KEYCTL_JOIN_SESSION_KEYRING). A kernel without keyrings is success.
///
/// # Errors
/// The system call.
pub fn join_session_keyring(name: Option<&str>) -> Result<(), SysError> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    let name = name
        .map(CString::new)
        .transpose()
        .map_err(|e| SysError::bare("join session keyring", io::Error::from(e)))?;
    let pointer = name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr());
    // SAFETY: the pointer is null or a string that lives until the call returns, which only reads it.
    if unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, pointer) } < 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ENOSYS) {
            return Err(SysError::bare("keyctl KEYCTL_JOIN_SESSION_KEYRING", error));
        }
    }
    Ok(())
}
