//! Device nodes and the rules of the device controller.

use model::Device;

use super::oci::{self, DeviceRule};
use super::{SpecError, SpecInput};

/// The nodes to make and the rules, which deny first unless the container may use any device.
pub(super) fn devices(input: &SpecInput<'_>) -> Result<(Vec<oci::Device>, Vec<DeviceRule>), SpecError> {
    let mut nodes: Vec<oci::Device> = Vec::with_capacity(input.devices.len());
    let everything = DeviceRule { allow: input.all_devices, access: "rwm".into(), ..DeviceRule::default() };
    let mut rules = vec![everything];
    for device in input.devices.iter().chain(&input.injection.devices) {
        let node = oci::Device {
            path: device.container_path.clone(),
            kind: device.kind.to_string(),
            major: device.major,
            minor: device.minor,
            file_mode: device.mode,
            uid: device.uid,
            gid: device.gid,
        };
        // Of two for one path the later one is meant; the runtime would fail to make the second.
        match nodes.iter_mut().find(|known| known.path == node.path) {
            Some(known) => *known = node,
            None => nodes.push(node),
        }
        // A FIFO is no device to the controller.
        if !input.all_devices && device.kind != 'p' {
            rules.push(DeviceRule {
                allow: true,
                kind: Some(device.kind.to_string()),
                major: Some(device.major.into()),
                minor: Some(device.minor.into()),
                access: device.access.clone(),
            });
        }
    }
    Ok((nodes, rules))
}

/// What a device of the request allows, `r`, `w` and `m` in this order; all three when it does not say.
pub(super) fn access(device: &Device, field: &str) -> Result<String, SpecError> {
    let asked = &device.permissions;
    if let Some(other) = asked.chars().find(|c| !"rwm".contains(*c)) {
        return Err(SpecError::invalid(
            format!("{field}.permissions"),
            format!("{asked:?}: {other:?} is not r, w or m"),
        ));
    }
    Ok("rwm".chars().filter(|c| asked.is_empty() || asked.contains(*c)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::PreparedDevice;
    use crate::spec::fixture::Fixture;

    fn device(path: &str, minor: u32) -> PreparedDevice {
        PreparedDevice {
            container_path: path.into(),
            kind: 'c',
            major: 1,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 5,
            access: "rw".into(),
        }
    }

    fn rule_lines(rules: &[DeviceRule]) -> Vec<String> {
        let one = |rule: &DeviceRule| {
            let number = |n: Option<i64>| n.map_or("*".to_owned(), |n| n.to_string());
            let verb = if rule.allow { "allow" } else { "deny" };
            let kind = rule.kind.as_deref().unwrap_or("a");
            format!("{verb} {kind} {}:{} {}", number(rule.major), number(rule.minor), rule.access)
        };
        rules.iter().map(one).collect()
    }

    #[test]
    fn devices_are_denied_but_for_those_asked_for() {
        let mut fixture = Fixture::default();
        let (nodes, rules) = devices(&fixture.input()).unwrap();
        assert_eq!((nodes.len(), rule_lines(&rules)), (0, vec!["deny a *:* rwm".to_owned()]));
        fixture.devices = vec![device("/dev/a", 3), device("/dev/b", 4), device("/dev/a", 5)];
        let (nodes, rules) = devices(&fixture.input()).unwrap();
        let found: Vec<_> = nodes.iter().map(|node| (node.path.to_str().unwrap(), node.minor)).collect();
        assert_eq!(found, [("/dev/a", 5), ("/dev/b", 4)], "the later one of a path");
        assert_eq!(rule_lines(&rules)[1..], ["allow c 1:3 rw", "allow c 1:4 rw", "allow c 1:5 rw"]);
        fixture.container.security.privileged = true;
        assert_eq!(rule_lines(&devices(&fixture.input()).unwrap().1), ["allow a *:* rwm"]);
    }

    #[test]
    fn permissions_are_a_subset_of_rwm() {
        for (asked, expect) in [
            ("", Ok("rwm")),
            ("mrw", Ok("rwm")),
            ("r", Ok("r")),
            ("wr", Ok("rw")),
            ("rx", Err("devices[0].permissions: \"rx\": 'x' is not r, w or m")),
        ] {
            let device = Device {
                container_path: "/dev/x".into(),
                host_path: "/dev/x".into(),
                permissions: asked.into(),
            };
            let found = access(&device, "devices[0]").map_err(|e| e.to_string());
            assert_eq!(found, expect.map(str::to_owned).map_err(str::to_owned));
        }
    }
}
