//! The RPCs that are registered and not built. README's list is made from this table.

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

    /// README's list, between its two marks, is this table.
    #[test]
    fn the_readme_says_what_is_not_there() {
        let list: String = UNBUILT.iter().map(|e| format!("- `{}`: {}\n", e.rpc, e.missing)).collect();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
        let readme = std::fs::read_to_string(path).unwrap();
        let (_, after) = readme.split_once("<!-- unbuilt: kept in step with rpc by a test -->\n").unwrap();
        let (written, _) = after.split_once("<!-- /unbuilt -->").unwrap();
        assert_eq!(written, list);
    }
}
