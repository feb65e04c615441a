//! What the pod room's probe of itself means to a client: the condition RuntimeReady, and the details of a verbose
//! Status.

use std::collections::BTreeMap;
use std::time::Duration;

use pod::Health;
use rpc::Condition;
use serde_json::json;

/// A probe that is older tells nothing: it comes back within ten seconds, and begins each ten.
const PROBE_AGE_MAX: Duration = Duration::from_secs(60);

/// RuntimeReady: the pods of the last run are taken over, and everything that a pod takes was tried with success.
pub(crate) fn condition(recovered: bool, health: Option<Health>) -> Condition {
    let not_ready =
        |reason: &str, message: String| Condition::NotReady { reason: reason.to_owned(), message };
    let Some(health) = health.filter(|_| recovered) else {
        return match recovered {
            false => not_ready("Recovering", "pods of the last run are being taken over".to_owned()),
            true => not_ready("Probing", "whether pods can be run is being tried".to_owned()),
        };
    };
    let age = health.age.as_secs();
    let Some(first) = health.failing.first() else {
        return match health.age > PROBE_AGE_MAX {
            true => not_ready("ProbeOverdue", format!("whether pods can be run was last tried {age} s ago")),
            false => Condition::Ready,
        };
    };
    let all: Vec<String> = health.failing.iter().map(ToString::to_string).collect();
    not_ready(first.part.reason(), format!("{} (tried {age} s ago)", all.join("; ")))
}

/// For a verbose Status.
pub(crate) fn describe(health: Option<Health>) -> serde_json::Value {
    let Some(health) = health else { return json!({}) };
    json!({
        "at": health.at,
        "ageSeconds": health.age.as_secs_f64(),
        "tookMilliseconds": health.took.as_secs_f64() * 1000.0,
        "failing": health.failing.iter().map(|failing| (failing.part.reason(), &failing.why)).collect::<BTreeMap<_, _>>(),
    })
}

#[cfg(test)]
mod tests {
    use pod::{Failing, Part};

    use super::*;

    #[test]
    fn each_part_that_fails_is_named_in_the_condition() {
        let health = |failing: &[Part], age| {
            let failing = failing.iter().map(|part| Failing { part: *part, why: "so it is".to_owned() });
            Some(Health {
                at: 1,
                age: Duration::from_secs(age),
                took: Duration::ZERO,
                failing: failing.collect(),
            })
        };
        let tell = |recovered, health| match condition(recovered, health) {
            Condition::Ready => String::new(),
            Condition::NotReady { reason, message } => format!("{reason} {message}"),
        };
        assert_eq!(tell(true, health(&[], 15)), "");
        assert!(tell(false, health(&[Part::Disk], 0)).starts_with("Recovering "));
        assert!(tell(true, None).starts_with("Probing "));
        assert!(tell(true, health(&[], 3600)).starts_with("ProbeOverdue "));
        for part in [Part::Store, Part::Shim, Part::Cgroup, Part::Disk] {
            let reason = part.reason();
            assert_eq!(
                tell(true, health(&[part], 2)),
                format!("{reason} {reason}: so it is (tried 2 s ago)")
            );
        }
        let told = tell(true, health(&[Part::Store, Part::Disk], 0));
        assert!(
            told.starts_with("StoreNotWritable ") && told.contains("DiskReserveUsedUp: so it is"),
            "{told}"
        );
    }
}
