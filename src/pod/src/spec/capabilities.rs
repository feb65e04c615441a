//! The capability sets: the node's defaults, what the request adds and drops, and ambient ones.

use kernel::caps::NAMES;

use super::oci::Capabilities;
use super::{SpecError, SpecInput};

/// What a container may do unless it or the configuration says otherwise: containerd's set, so that what runs there
/// runs here.
pub(super) const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

const FIELD: &str = "linux.security_context.capabilities";

/// The sets of the container's process. `ALL` is applied before names, in both lists; inheritable stays empty but for
/// ambient ones, so that a file's inheritable capabilities give nobody anything (CVE-2022-24769).
pub(super) fn sets(input: &SpecInput<'_>) -> Result<Capabilities, SpecError> {
    let security = &input.container.security;
    let wanted = &security.capabilities;
    let available = &input.host.capabilities;
    let add = Wanted::parse("add", &wanted.add)?;
    let drop = Wanted::parse("drop", &wanted.drop)?;
    let ambient = Wanted::parse("add_ambient", &wanted.add_ambient)?;

    let start_from_all = security.privileged || add.all;
    let mut held: Vec<&str> = NAMES
        .into_iter()
        .filter(|name| available.contains(name))
        .filter(|name| start_from_all || input.defaults.capabilities.iter().any(|default| default == name))
        .collect();
    if drop.all && !security.privileged {
        held.clear();
    }
    for (list, added) in [("add", &add), ("add_ambient", &ambient)] {
        for name in &added.names {
            if !available.contains(name) {
                let why = format!("this node's service does not have CAP_{name} itself and cannot give it");
                return Err(SpecError::invalid(format!("{FIELD}.{list}"), why));
            }
            if !held.contains(name) {
                held.push(name);
            }
        }
    }
    if ambient.all {
        held = available.clone();
    }
    if !security.privileged {
        held.retain(|name| !drop.names.contains(name));
    }

    let ambient: Vec<&str> =
        held.iter().copied().filter(|name| ambient.all || ambient.names.contains(name)).collect();
    let held = spelled(&held);
    Ok(Capabilities {
        bounding: held.clone(),
        effective: held.clone(),
        permitted: held,
        inheritable: spelled(&ambient),
        ambient: spelled(&ambient),
    })
}

/// A list of the request's, read.
struct Wanted {
    all: bool,
    names: Vec<&'static str>,
}

impl Wanted {
    fn parse(list: &str, given: &[String]) -> Result<Self, SpecError> {
        let mut wanted = Self { all: false, names: Vec::new() };
        for (n, text) in given.iter().enumerate() {
            let upper = text.to_ascii_uppercase();
            let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if name == "ALL" {
                wanted.all = true;
            } else if let Some(known) = NAMES.iter().find(|known| **known == name) {
                wanted.names.push(known);
            } else {
                let why = format!("{text:?} is not a capability");
                return Err(SpecError::invalid(format!("{FIELD}.{list}[{n}]"), why));
            }
        }
        Ok(wanted)
    }
}

/// With `CAP_`, in the kernel's order.
fn spelled(names: &[&str]) -> Vec<String> {
    NAMES.iter().filter(|name| names.contains(name)).map(|name| format!("CAP_{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::fixture::Fixture;

    fn check(add: &[&str], drop: &[&str], ambient: &[&str], privileged: bool) -> Result<[String; 2], String> {
        let mut fixture = Fixture::default();
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let security = &mut fixture.container.security;
        security.privileged = privileged;
        fixture.pod.security.privileged = privileged;
        security.capabilities =
            model::Capabilities { add: own(add), drop: own(drop), add_ambient: own(ambient) };
        let sets = sets(&fixture.input()).map_err(|e| e.to_string())?;
        assert_eq!(sets.bounding, sets.effective);
        assert_eq!(sets.bounding, sets.permitted);
        assert_eq!(sets.inheritable, sets.ambient);
        let short = |names: &[String]| names.join(" ").replace("CAP_", "");
        Ok([short(&sets.bounding), short(&sets.ambient)])
    }

    const DEFAULTS: &str = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW \
                            SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP";

    #[test]
    fn added_dropped_and_ambient() {
        let all: Vec<&str> = NAMES.into_iter().filter(|name| *name != "SYS_RESOURCE").collect();
        let all = all.join(" ");
        let without_kill = all.replace(" KILL", "");
        type Names = &'static [&'static str];
        let rows: [(Names, Names, Names, &str, &str); 10] = [
            (&[], &[], &[], DEFAULTS, ""),
            (&["NET_RAW"], &[], &[], DEFAULTS, ""),
            (&["sys_time"], &["ALL"], &[], "SYS_TIME", ""),
            (&["CAP_SYS_TIME"], &["all"], &[], "SYS_TIME", ""),
            (&[], &["ALL"], &[], "", ""),
            (&["ALL"], &[], &[], &all, ""),
            (&["ALL"], &["KILL"], &[], &without_kill, ""),
            (&["KILL"], &["KILL", "ALL"], &[], "", ""),
            (&[], &["ALL"], &["NET_BIND_SERVICE"], "NET_BIND_SERVICE", "NET_BIND_SERVICE"),
            (&["CHOWN", "KILL"], &["ALL"], &["KILL"], "CHOWN KILL", "KILL"),
        ];
        for (add, drop, ambient, held, kept) in rows {
            let expect = Ok([held.to_owned(), kept.to_owned()]);
            assert_eq!(check(add, drop, ambient, false), expect, "{add:?} {drop:?} {ambient:?}");
        }
        assert_eq!(check(&[], &["ALL"], &[], true), Ok([all, String::new()]), "privileged has all");
    }

    #[test]
    fn what_is_no_capability_or_not_ours_to_give_is_named() {
        let field = "linux.security_context.capabilities";
        assert_eq!(
            check(&["CHOWN", "FLY"], &[], &[], false),
            Err(format!("{field}.add[1]: \"FLY\" is not a capability"))
        );
        assert_eq!(check(&[], &[""], &[], false), Err(format!("{field}.drop[0]: \"\" is not a capability")));
        assert_eq!(
            check(&["SYS_RESOURCE"], &[], &[], false),
            Err(format!(
                "{field}.add: this node's service does not have CAP_SYS_RESOURCE itself and cannot give it"
            ))
        );
    }
}
