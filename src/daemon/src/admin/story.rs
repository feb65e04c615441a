//! `POST /why`: why a pod is where it is, as the pod room tells it and as it travels to `gantline why`.

use std::time::Instant;

use pod::{ContainerPhase, PodPhase, Pods, Story};
use serde::{Deserialize, Serialize};

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WhyBody {
    /// An id, a prefix of one, `namespace/name` or a name.
    pub(crate) pod: String,
}

/// Everything about one pod.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Why {
    /// The Kubernetes namespace.
    pub(crate) namespace: String,
    /// The pod's name.
    pub(crate) name: String,
    /// The pod's uid in the API server.
    pub(crate) uid: String,
    /// Its id; `None`: it is gone, and only its troubles are known.
    pub(crate) id: Option<String>,
    /// Where it is in its life, in words.
    pub(crate) state: String,
    /// Its age, milliseconds.
    pub(crate) age_ms: Option<u64>,
    /// Its containers, by creation.
    pub(crate) containers: Vec<Member>,
    /// Work under way, the oldest first.
    pub(crate) doing: Vec<Work>,
    /// Stages of that work, the oldest first.
    pub(crate) stages: Vec<Stage>,
    /// Requests that nobody has looked at yet.
    pub(crate) queued: usize,
    /// What failed, the oldest first.
    pub(crate) troubles: Vec<Failure>,
}

/// A container of the pod.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Its name in the pod.
    pub(crate) name: String,
    /// Its id.
    pub(crate) id: String,
    /// Where it is in its life, in words; how it ended.
    pub(crate) state: String,
}

/// Work under way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Work {
    /// What, in words.
    pub(crate) what: String,
    /// The container that it is about: its name, or its id while it has none that others may see.
    pub(crate) container: Option<String>,
    /// For how long, milliseconds.
    pub(crate) for_ms: u64,
    /// Callers that wait for it.
    pub(crate) callers: usize,
}

/// A stage under way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stage {
    /// Its name in `gantline_stage_duration_seconds`.
    pub(crate) stage: String,
    /// For how long, milliseconds.
    pub(crate) for_ms: u64,
}

/// Something that failed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// When, RFC 3339.
    pub(crate) at: String,
    /// What was attempted.
    pub(crate) what: String,
    /// The container that it was about.
    pub(crate) container: Option<String>,
    /// The error with its causes.
    pub(crate) message: String,
}

/// The stories of all pods that `wanted` means.
pub(super) fn tell(pods: &Pods, wanted: &str) -> Vec<Why> {
    pods.stories(wanted).iter().map(why).collect()
}

fn why(story: &Story) -> Why {
    let now = kernel::clock::now();
    let ms_since = |at: i64| u64::try_from((now - at) / 1_000_000).unwrap_or(0);
    let members: Vec<Member> = story.view.iter().flat_map(|view| &view.containers).map(member).collect();
    let called = |id: &model::ContainerId| {
        let known = members.iter().find(|member| member.id == id.as_str());
        known.map_or_else(|| id.to_string(), |member| member.name.clone())
    };
    Why {
        namespace: story.identity.namespace.clone(),
        name: story.identity.name.clone(),
        uid: story.identity.uid.clone(),
        id: story.view.as_ref().map(|view| view.pod.id.to_string()),
        state: story.view.as_ref().map_or_else(
            || "gone".to_owned(),
            |view| match &view.pod.phase {
                PodPhase::NotReady { why } if !why.is_empty() => format!("not ready: {why}"),
                phase => phase.word().to_owned(),
            },
        ),
        age_ms: story.view.as_ref().map(|view| ms_since(view.pod.created_at)),
        doing: story
            .doing
            .iter()
            .map(|doing| Work {
                what: doing.what.to_owned(),
                container: doing.container.as_ref().map(called),
                for_ms: ms_since(doing.since),
                callers: doing.callers,
            })
            .collect(),
        stages: story
            .stages
            .iter()
            .map(|now| Stage { stage: now.stage.to_owned(), for_ms: elapsed_ms(now.since) })
            .collect(),
        queued: story.queued,
        troubles: story
            .troubles
            .iter()
            .map(|trouble| Failure {
                at: model::time::rfc3339_text(trouble.at),
                what: trouble.what.to_owned(),
                container: trouble.container.as_ref().map(called),
                message: trouble.message.clone(),
            })
            .collect(),
        containers: members,
    }
}

fn member(container: &pod::ContainerStatus) -> Member {
    let state = match &container.phase {
        ContainerPhase::Exited(exit) => {
            let told = if exit.message.is_empty() { "" } else { ": " };
            format!("exited {} ({}){told}{}", exit.code, exit.reason.as_str(), exit.message)
        }
        phase => phase.word().to_owned(),
    };
    Member { name: container.config.name.clone(), id: container.id.to_string(), state }
}

pub(super) fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
