//! Confinement: privilege, hidden and read-only paths, AppArmor profiles, SELinux labels.

use model::{
    ContainerConfig, ContainerSecurity, MandatoryProfile, NamespaceMode, PodConfig, PodId, SeLinuxLabel,
};

use super::{HostFacts, SpecError, SpecInput, namespaces};

const FIELD: &str = "linux.security_context";

/// What no other file looks at, and what must be known before anything is built.
pub(super) fn check(input: &SpecInput<'_>) -> Result<(), SpecError> {
    if input.container.security.privileged && !input.pod.security.privileged {
        let why = "the sandbox is not privileged, so no container in it can be";
        return Err(SpecError::invalid(format!("{FIELD}.privileged"), why));
    }
    namespaces::check(&input.pod.security.namespaces, &input.container.security.namespaces)
}

/// Hidden paths and read-only paths: exactly those of the request, so that an empty list unmasks /proc as procMount
/// asks; none for a privileged container.
pub(super) fn paths(security: &ContainerSecurity) -> (Vec<String>, Vec<String>) {
    if security.privileged {
        return (Vec::new(), Vec::new());
    }
    (security.masked_paths.clone(), security.readonly_paths.clone())
}

/// The AppArmor profile to run under; `None` is unconfined.
pub(super) fn apparmor(input: &SpecInput<'_>) -> Result<Option<String>, SpecError> {
    let host = &input.host.apparmor;
    let security = &input.container.security;
    let field = || format!("{FIELD}.apparmor");
    if security.privileged {
        return Ok(None);
    }
    match &security.apparmor {
        Some(MandatoryProfile::Unconfined) => Ok(None),
        Some(MandatoryProfile::Localhost(name)) if name.is_empty() => {
            Err(SpecError::invalid(field(), "the name of the Localhost profile is empty"))
        }
        Some(MandatoryProfile::Localhost(_)) if !host.enabled => {
            Err(SpecError::invalid(field(), "AppArmor is not enabled on this node"))
        }
        Some(MandatoryProfile::Localhost(name)) if !host.loaded.contains(name) => {
            Err(SpecError::invalid(field(), format!("profile {name:?} is not loaded on this node")))
        }
        Some(MandatoryProfile::Localhost(name)) => Ok(Some(name.clone())),
        Some(MandatoryProfile::RuntimeDefault) if host.enabled && host.default_profile.is_none() => {
            Err(SpecError::unsupported(field(), "no default profile is loaded: load one as gantline-default"))
        }
        None | Some(MandatoryProfile::RuntimeDefault) => Ok(host.default_profile.clone()),
    }
}

/// What asks for no confinement: it is there to be had on every node, and manifests of node agents say so everywhere.
const UNCONFINED_TYPE: &str = "spc_t";

/// That a label which is asked for can have an effect.
pub(super) fn check_selinux(asked: Option<&SeLinuxLabel>, host: &HostFacts) -> Result<(), SpecError> {
    let Some(asked) = asked.filter(|label| **label != SeLinuxLabel::default()) else { return Ok(()) };
    if host.selinux || asked.kind == UNCONFINED_TYPE {
        return Ok(());
    }
    Err(SpecError::invalid(format!("{FIELD}.selinux_options"), "SELinux is not enabled on this node"))
}

/// A container's SELinux labels.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Labels {
    /// What its processes run as.
    pub(super) process: String,
    /// What the files that are mounted for it are labelled with.
    pub(super) mount: String,
}

/// The labels on a node that uses them; none for privileged containers and those that see the host's processes or
/// its IPC objects, which a confined label could not touch.
pub(super) fn labels(
    pod_id: &PodId,
    pod: &PodConfig,
    container: &ContainerConfig,
    host: &HostFacts,
) -> Result<Option<Labels>, SpecError> {
    let security = &container.security;
    let shares_host = |mode: &NamespaceMode| *mode == NamespaceMode::Node;
    let pod = &pod.security;
    let exempt = security.privileged
        || shares_host(&security.namespaces.pid)
        || shares_host(&pod.namespaces.pid)
        || shares_host(&pod.namespaces.ipc);
    if !host.selinux || exempt {
        return Ok(None);
    }
    let unset = SeLinuxLabel::default();
    let own = security.selinux.as_ref().unwrap_or(&unset);
    let pods = pod.selinux.as_ref().unwrap_or(&unset);
    let level = pod_level(pod_id.as_str());
    let part = |name: &str, own: &str, pods: &str, default: &str| {
        let part = [own, pods, default].into_iter().find(|part| !part.is_empty()).unwrap_or_default();
        // Only a level may hold colons; nothing may end the label early.
        if part.contains(['\0', '\n', ' ']) || (name != "level" && part.contains(':')) {
            let field = format!("{FIELD}.selinux_options.{name}");
            return Err(SpecError::invalid(field, format!("{part:?} is not part of a label")));
        }
        Ok(part.to_owned())
    };
    let user = part("user", &own.user, &pods.user, "system_u")?;
    let role = part("role", &own.role, &pods.role, "system_r")?;
    let kind = part("type", &own.kind, &pods.kind, "container_t")?;
    let level = part("level", &own.level, &pods.level, &level)?;
    Ok(Some(Labels {
        process: format!("{user}:{role}:{kind}:{level}"),
        mount: format!("{user}:object_r:container_file_t:{level}"),
    }))
}

impl SpecInput<'_> {
    /// The container's SELinux labels, as [`labels`].
    pub(super) fn labels(&self) -> Result<Option<Labels>, SpecError> {
        labels(self.pod_id, self.pod, self.container, self.host)
    }
}

/// Two of 1024 categories from the pod's id: the same for all its containers without a register of what is taken.
/// Of 110 pods two share a pair about once in a hundred nodes.
fn pod_level(pod_id: &str) -> String {
    let number = |from: usize| {
        let digits = pod_id.get(from..from + 4).unwrap_or("0");
        u32::from_str_radix(digits, 16).unwrap_or(0)
    };
    let first = number(0) % 1024;
    // Never the same category twice: that would be a pair of one.
    let second = (first + 1 + number(4) % 1023) % 1024;
    format!("s0:c{},c{}", first.min(second), first.max(second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::fixture::Fixture;
    use MandatoryProfile::{Localhost, RuntimeDefault, Unconfined};

    #[test]
    fn privilege_needs_a_privileged_sandbox() {
        for (pod, container, expect) in [(true, true, true), (true, false, true), (false, true, false)] {
            let mut fixture = Fixture::default();
            fixture.pod.security.privileged = pod;
            fixture.container.security.privileged = container;
            assert_eq!(check(&fixture.input()).is_ok(), expect, "{pod} {container}");
        }
    }

    #[test]
    fn paths_are_exactly_those_asked_for() {
        let mut security = ContainerSecurity {
            masked_paths: vec!["/proc/kcore".into()],
            readonly_paths: vec!["/proc/sys".into()],
            ..ContainerSecurity::default()
        };
        assert_eq!(paths(&security), (vec!["/proc/kcore".into()], vec!["/proc/sys".into()]));
        assert_eq!(paths(&ContainerSecurity::default()), (vec![], vec![]));
        security.privileged = true;
        assert_eq!(paths(&security), (vec![], vec![]));
    }

    #[test]
    fn apparmor_profiles() {
        let local = |name: &str| Some(Localhost(name.to_owned()));
        // enabled, default profile loaded, asked for
        let rows = [
            (false, false, None, Ok(None)),
            (false, false, Some(RuntimeDefault), Ok(None)),
            (false, false, Some(Unconfined), Ok(None)),
            (false, false, local("web"), Err("AppArmor is not enabled on this node")),
            (true, true, None, Ok(Some("gantline-default"))),
            (true, true, Some(RuntimeDefault), Ok(Some("gantline-default"))),
            (true, true, Some(Unconfined), Ok(None)),
            (true, true, local("web"), Ok(Some("web"))),
            (true, true, local("nope"), Err("profile \"nope\" is not loaded on this node")),
            (true, true, local(""), Err("the name of the Localhost profile is empty")),
            (true, false, None, Ok(None)),
            (
                true,
                false,
                Some(RuntimeDefault),
                Err("no default profile is loaded: load one as gantline-default"),
            ),
        ];
        for (enabled, default, asked, expect) in rows {
            let mut fixture = Fixture::default();
            let host = &mut fixture.host.apparmor;
            host.enabled = enabled;
            host.default_profile = default.then(|| "gantline-default".to_owned());
            host.loaded = ["web".to_owned()].into();
            fixture.container.security.apparmor = asked.clone();
            let expect = expect
                .map(|p| p.map(str::to_owned))
                .map_err(|e| format!("linux.security_context.apparmor: {e}"));
            assert_eq!(apparmor(&fixture.input()).map_err(|e| e.to_string()), expect, "{asked:?}");
            fixture.container.security.privileged = true;
            assert_eq!(apparmor(&fixture.input()).unwrap(), None);
        }
    }

    #[test]
    fn selinux_labels_merge_container_pod_and_default() {
        let mut fixture = Fixture::default();
        assert_eq!(fixture.input().labels().unwrap(), None, "not on this node");
        fixture.host.selinux = true;
        let default = fixture.input().labels().unwrap().unwrap();
        assert_eq!(default.process, format!("system_u:system_r:container_t:{}", pod_level(&"1".repeat(64))));
        fixture.pod.security.selinux =
            Some(SeLinuxLabel { kind: "pod_t".into(), level: "s0:c1,c2".into(), ..SeLinuxLabel::default() });
        fixture.container.security.selinux =
            Some(SeLinuxLabel { kind: "web_t".into(), ..SeLinuxLabel::default() });
        let merged = fixture.input().labels().unwrap().unwrap();
        assert_eq!(merged.process, "system_u:system_r:web_t:s0:c1,c2");
        assert_eq!(merged.mount, "system_u:object_r:container_file_t:s0:c1,c2");
        fixture.container.security.namespaces.pid = NamespaceMode::Node;
        assert_eq!(fixture.input().labels().unwrap(), None, "host PID");
        fixture.container.security.namespaces.pid = NamespaceMode::Pod;
        fixture.container.security.selinux =
            Some(SeLinuxLabel { kind: "a:b".into(), ..SeLinuxLabel::default() });
        let expect = "linux.security_context.selinux_options.type: \"a:b\" is not part of a label";
        assert_eq!(fixture.input().labels().unwrap_err().to_string(), expect);
    }

    #[test]
    fn a_label_that_cannot_have_an_effect_is_refused() {
        let label = |kind: &str, level: &str| {
            Some(SeLinuxLabel { kind: kind.into(), level: level.into(), ..SeLinuxLabel::default() })
        };
        // enabled, asked for, served
        for (selinux, asked, served) in [
            (false, None, true),
            (false, label("", ""), true),
            (false, label("", "s0:c1,c2"), false),
            (false, label("web_t", ""), false),
            // No confinement is what every node without SELinux gives.
            (false, label("spc_t", "s0"), true),
            (true, label("web_t", "s0:c1,c2"), true),
        ] {
            let mut fixture = Fixture::default();
            fixture.host.selinux = selinux;
            let found = check_selinux(asked.as_ref(), &fixture.host).map_err(|e| e.to_string());
            let refused = "linux.security_context.selinux_options: SELinux is not enabled on this node";
            assert_eq!(found, if served { Ok(()) } else { Err(refused.to_owned()) }, "{asked:?}");
        }
    }

    #[test]
    fn a_pods_level_has_two_different_categories() {
        assert_eq!(pod_level(&"0".repeat(64)), "s0:c0,c1");
        assert_eq!(pod_level("03ff03ff"), "s0:c0,c1023");
        assert_eq!(pod_level("ffff0000"), "s0:c0,c1023");
    }
}
