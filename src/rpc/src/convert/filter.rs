//! The filters of list requests: all that is set must match. A part of an id is a prefix; one that several
//! ids begin with is refused, as it is everywhere else.

use std::sync::Arc;

use api::v1;
use model::StringMap;
use pod::{ContainerInView, PodView};

use super::Invalid;
use super::reply::{container_state, pod_state};

/// The length of a whole id.
const ID_LENGTH: usize = 64;

/// Which sandboxes are meant.
pub(crate) fn pods(
    filter: Option<v1::PodSandboxFilter>,
    mut pods: Vec<Arc<PodView>>,
) -> Result<Vec<Arc<PodView>>, Invalid> {
    let filter = filter.unwrap_or_default();
    let state = filter.state.map(|value| state_of::<v1::PodSandboxState>(value.state)).transpose()?;
    by_id("filter.id", &filter.id, &mut pods, |view| view.pod.id.as_str())?;
    pods.retain(|view| {
        state.is_none_or(|state| pod_state(&view.pod.phase) == state)
            && selected(&filter.label_selector, &view.pod.config.labels)
    });
    Ok(pods)
}

/// Which containers are meant.
pub(crate) fn containers(
    filter: Option<v1::ContainerFilter>,
    mut containers: Vec<ContainerInView>,
) -> Result<Vec<ContainerInView>, Invalid> {
    let filter = filter.unwrap_or_default();
    let state = filter.state.map(|value| state_of::<v1::ContainerState>(value.state)).transpose()?;
    by_id("filter.id", &filter.id, &mut containers, |container| container.id.as_str())?;
    by_pod(&filter.pod_sandbox_id, &mut containers)?;
    containers.retain(|container| {
        state.is_none_or(|state| container_state(&container.phase) == state)
            && selected(&filter.label_selector, &container.config.labels)
    });
    Ok(containers)
}

/// Which containers' stats are meant.
pub(crate) fn container_stats(
    filter: Option<v1::ContainerStatsFilter>,
    containers: Vec<ContainerInView>,
) -> Result<Vec<ContainerInView>, Invalid> {
    let v1::ContainerStatsFilter { id, pod_sandbox_id, label_selector } = filter.unwrap_or_default();
    self::containers(
        Some(v1::ContainerFilter { id, state: None, pod_sandbox_id, label_selector }),
        containers,
    )
}

/// Which sandboxes' stats are meant.
pub(crate) fn pod_stats(
    filter: Option<v1::PodSandboxStatsFilter>,
    pods: Vec<Arc<PodView>>,
) -> Result<Vec<Arc<PodView>>, Invalid> {
    let v1::PodSandboxStatsFilter { id, label_selector } = filter.unwrap_or_default();
    self::pods(Some(v1::PodSandboxFilter { id, state: None, label_selector }), pods)
}

fn state_of<S: TryFrom<i32>>(number: i32) -> Result<S, Invalid> {
    S::try_from(number).map_err(|_| Invalid::new("filter.state", format!("{number} is not a state of CRI")))
}

fn by_id<T>(field: &str, prefix: &str, items: &mut Vec<T>, id: impl Fn(&T) -> &str) -> Result<(), Invalid> {
    items.retain(|item| id(item).starts_with(prefix));
    match !prefix.is_empty() && prefix.len() < ID_LENGTH && items.len() > 1 {
        true => {
            Err(Invalid::new(field, format!("{prefix:?} is ambiguous: {} ids begin with it", items.len())))
        }
        false => Ok(()),
    }
}

/// Many containers have the same pod: it is the pods that must not be several.
fn by_pod(prefix: &str, containers: &mut Vec<ContainerInView>) -> Result<(), Invalid> {
    containers.retain(|container| container.pod.as_str().starts_with(prefix));
    let first = containers.first().map(|container| container.pod.clone());
    match !prefix.is_empty() && containers.iter().any(|container| Some(&container.pod) != first.as_ref()) {
        true => Err(Invalid::new("filter.pod_sandbox_id", format!("{prefix:?} is ambiguous"))),
        false => Ok(()),
    }
}

/// Every label of the selector, with that very value.
fn selected(selector: &StringMap, labels: &StringMap) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
