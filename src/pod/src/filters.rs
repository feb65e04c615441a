//! Compiled system call filters, by profile: compiling takes milliseconds, and a node's containers have few profiles.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use model::limits::SECCOMP_FILTERS_MAX;
use shim_client::Filter;
use tracing::warn;

use crate::config::Kind;
use crate::spec::oci::Seccomp;
use crate::spec::seccomp::compile::compile;

/// A profile, and whether what is newer than it fails with ENOSYS.
type Key = (Seccomp, bool);

/// The filters of this node. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters {
    /// `None`: it is for the OCI runtime.
    known: Arc<Mutex<HashMap<Key, Option<Filter>>>>,
}

impl Filters {
    /// The filter of a profile as a runtime of this kind would load it; `None` when only the runtime itself can.
    pub(crate) fn of(&self, profile: &Seccomp, kind: Kind) -> Option<Filter> {
        let key = (profile.clone(), kind == Kind::Runc);
        // Nothing panics while it holds the lock; if it did, the table would still be whole.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filter) = known.get(&key) {
            return filter.clone();
        }
        let filter = match compile(profile, key.1) {
            Ok(compiled) => Some(Filter { memory: Arc::new(compiled.memory), flags: compiled.flags }),
            Err(error) => {
                warn!(
                    error = model::chain(&error),
                    "execs under a seccomp profile go through the OCI runtime"
                );
                None
            }
        };
        if known.len() >= SECCOMP_FILTERS_MAX {
            known.clear();
        }
        known.insert(key, filter.clone());
        filter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_compiled_once_and_the_table_is_bounded() {
        let filters = Filters::default();
        let profile = |errno| Seccomp {
            default_action: "SCMP_ACT_ERRNO".into(),
            default_errno_ret: Some(errno),
            ..Seccomp::default()
        };
        let one = filters.of(&profile(1), Kind::Crun).unwrap();
        let again = filters.of(&profile(1), Kind::Other).unwrap();
        assert!(Arc::ptr_eq(&one.memory, &again.memory));
        assert!(filters.of(&profile(70000), Kind::Crun).is_none());
        for errno in 0..2 * SECCOMP_FILTERS_MAX as u32 {
            filters.of(&profile(errno), Kind::Runc).unwrap();
            assert!(filters.known.lock().unwrap().len() <= SECCOMP_FILTERS_MAX);
        }
    }
}
