//! Random bytes from getrandom(2).

use crate::SysError;

/// 32 random bytes: an id.
///
/// # Errors
/// The system call, which in practice never fails.
pub fn id_bytes() -> Result<[u8; 32], SysError> {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .map_err(|e| SysError::bare("getrandom", e))?;
    }
    Ok(bytes)
}
