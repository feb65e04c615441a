//! A system call filter, loaded as it was compiled (seccomp(2)).

use std::io;

use crate::SysError;

/// A filter in the kernel's own form: an array of `struct sock_filter` in host byte order.
#[derive(Clone, Debug)]
pub struct Filter {
    instructions: Vec<libc::sock_filter>,
    flags: u32,
}

/// One `struct sock_filter`, bytes.
const INSTRUCTION_BYTES: usize = size_of::<libc::sock_filter>();

impl Filter {
    /// Takes a filter's bytes, and the `SECCOMP_FILTER_FLAG_*` to load it with.
    ///
    /// # Errors
    /// Bytes that are no whole number of instructions, or none, or more than the kernel takes.
    pub fn new(bytes: &[u8], flags: u32) -> Result<Self, SysError> {
        let whole = bytes.len().is_multiple_of(INSTRUCTION_BYTES);
        if !whole || bytes.is_empty() || bytes.len() / INSTRUCTION_BYTES > usize::from(u16::MAX) {
            let why = io::Error::new(io::ErrorKind::InvalidData, "not a filter of 1 to 65535 instructions");
            return Err(SysError::named("read", format!("{} bytes", bytes.len()), why));
        }
        let read = |one: &[u8]| libc::sock_filter {
            code: u16::from_ne_bytes([one[0], one[1]]),
            jt: one[2],
            jf: one[3],
            k: u32::from_ne_bytes([one[4], one[5], one[6], one[7]]),
        };
        let instructions = bytes.chunks_exact(INSTRUCTION_BYTES).map(read).collect();
        Ok(Self { instructions, flags })
    }

    /// Filters this process's system calls from now on, and those of all that it starts. It must have no_new_privs, or
    /// CAP_SYS_ADMIN in its user namespace.
    ///
    /// # Errors
    /// The system call.
    pub fn load(&self) -> Result<(), SysError> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.instructions.len()).unwrap_or(0),
            filter: self.instructions.as_ptr().cast_mut(),
        };
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: the program points to `len` instructions that live until the call returns, which copies them and
        // does not write to them.
        if unsafe { libc::syscall(libc::SYS_seccomp, mode, self.flags, &raw const program) } != 0 {
            return Err(SysError::bare("seccomp", io::Error::last_os_error()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_filters_are_taken() {
        for length in [0, 4, 9, 8 * 65536] {
            assert!(Filter::new(&vec![0; length], 0).is_err(), "{length}");
        }
        assert!(Filter::new(&[0; 16], 0).is_ok());
    }

    #[test]
    fn the_kernel_has_the_last_word() {
        // Instructions of zeros load nothing and never return.
        let error = Filter::new(&[0; 16], 0).unwrap().load().unwrap_err();
        assert_eq!(error.source.raw_os_error(), Some(libc::EINVAL));
    }
}
