//! CDI, the Container Device Interface: devices by a vendor's name, and what a container needs for each (ADR 098).
//!
//! A request names devices in its own field and in annotations; [`Registry`] has what the vendors' files say of them.
//! What a file asks for is honoured or refused, nothing is left out.

mod file;
mod registry;

use model::ContainerConfig;
use tracing::warn;

pub(crate) use file::{ContainerEdits, DeviceNode, HookName, Mount};
pub(crate) use registry::Registry;

use crate::spec::SpecError;

/// Annotations whose values are devices.
const ANNOTATION: &str = "cdi.k8s.io/";

/// The devices that a container asks for, each once, and the fields that name them.
fn requested(container: &ContainerConfig) -> (Vec<String>, Vec<String>) {
    let (mut names, mut fields) = (Vec::new(), Vec::new());
    let of_field = container
        .cdi_devices
        .iter()
        .enumerate()
        .map(|(n, name)| (name.as_str(), format!("CDI_devices[{n}].name")));
    let annotations = container.annotations.iter().filter(|(key, _)| key.starts_with(ANNOTATION));
    let of_annotations = annotations.flat_map(|(key, value)| {
        value.split(',').map(move |name| (name.trim(), format!("annotations[{key:?}]")))
    });
    for (name, field) in of_field.chain(of_annotations) {
        if names.iter().any(|known| known == name) {
            warn!(device = name, field, "a CDI device is asked for twice");
            continue;
        }
        names.push(name.to_owned());
        fields.push(field);
    }
    (names, fields)
}

/// What the devices that a container asks for change in it.
///
/// # Errors
/// The first device that no file describes, or that asks for what Gantline does not do.
pub(crate) fn edits(
    registry: &Registry,
    container: &ContainerConfig,
) -> Result<Vec<ContainerEdits>, SpecError> {
    let (names, fields) = requested(container);
    let Some(first) = fields.first() else { return Ok(Vec::new()) };
    let found = registry.edits(&names).map_err(|(n, why)| SpecError::invalid(&fields[n], why))?;
    let refused = |what: &str| {
        SpecError::unsupported(first, format!("{}: {what} of CDI are not built", names.join(", ")))
    };
    for edits in &found {
        if !edits.net_devices.is_empty() {
            return Err(refused("network devices (netDevices)"));
        }
        if edits.intel_rdt.is_some() {
            return Err(refused("cache and bandwidth classes (intelRdt)"));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::fixture::Fixture;

    #[test]
    fn devices_of_the_field_and_of_annotations_are_one_list() {
        let mut container = Fixture::default().container;
        container.cdi_devices = vec!["a.com/x=0".into(), "a.com/x=1".into()];
        container.annotations = [
            ("cdi.k8s.io/plugin".to_owned(), "a.com/x=1,b.com/y=z".to_owned()),
            ("other".to_owned(), "c.com/z=0".to_owned()),
        ]
        .into();
        let (names, fields) = requested(&container);
        assert_eq!(names, ["a.com/x=0", "a.com/x=1", "b.com/y=z"]);
        assert_eq!(fields[2], "annotations[\"cdi.k8s.io/plugin\"]");
        let registry = Registry::new(vec!["/nonexistent/cdi".into()]);
        let error = edits(&registry, &container).unwrap_err().to_string();
        assert_eq!(
            error,
            "CDI_devices[0].name: \"a.com/x=0\" is in no CDI specification in /nonexistent/cdi"
        );
        container.cdi_devices.clear();
        container.annotations.clear();
        assert_eq!(edits(&registry, &container).unwrap(), []);
    }
}
