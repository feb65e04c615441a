//! The RPCs that are registered and not built. README's list is made from this table and, for the fields of the
//! others, from docs/cri-coverage.tsv: see tests/ledger.rs.

use tonic::Status;

/// An RPC that answers UNIMPLEMENTED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unbuilt {
    /// The RPC.
    pub rpc: &'static str,
    /// Which part of Gantline it waits for.
    pub missing: &'static str,
}

/// Every RPC that answers UNIMPLEMENTED, in the contract's order.
pub const UNBUILT: [Unbuilt; 3] = [
    Unbuilt { rpc: "CheckpointContainer", missing: "container checkpoints (CRIU)" },
    Unbuilt { rpc: "CheckpointPod", missing: "pod checkpoints (CRIU)" },
    Unbuilt { rpc: "RestorePod", missing: "restore from a checkpoint (CRIU)" },
];

/// The answer of an RPC of the table.
pub(crate) fn unbuilt(rpc: &'static str) -> Status {
    let missing = UNBUILT.iter().find(|entry| entry.rpc == rpc).map_or("it", |entry| entry.missing);
    Status::unimplemented(format!("{rpc}: gantline has not built {missing} yet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_rpcs_of_the_contract() {
        for entry in UNBUILT {
            let path = format!("/runtime.v1.RuntimeService/{}", entry.rpc);
            assert!(crate::methods::find(&path).is_some(), "{}", entry.rpc);
            assert!(unbuilt(entry.rpc).message().contains(entry.missing));
        }
    }
}
