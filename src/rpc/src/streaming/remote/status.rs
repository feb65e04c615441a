//! The last word on the error channel: how it ended.

use bytes::Bytes;
use pod::PodError;
use serde_json::{Value, json};

use super::{Outgoing, Version};

/// How an exec or a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// With an exit status.
    Exited(i32),
    /// Something of ours failed, for this reason.
    Failed(String),
}

impl From<&PodError> for Status {
    fn from(error: &PodError) -> Self {
        Self::Failed(model::chain(error))
    }
}

impl Status {
    /// Says it to the client, and that nothing more comes.
    pub(super) async fn say(self, error: Outgoing, version: Version) {
        let text = match version.json {
            true => self.json().to_string(),
            false => self.text(),
        };
        if text.is_empty() || error.send(Bytes::from(text)).await.is_ok() {
            error.end().await;
        }
    }

    /// Before `v4`: nothing is success.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Exited(0) => String::new(),
            Self::Exited(code) => format!("command terminated with non-zero exit code: exit status {code}"),
            Self::Failed(why) => why.clone(),
        }
    }

    /// Kubernetes' `metav1.Status`, the fields that clients read.
    pub(super) fn json(&self) -> Value {
        match self {
            Self::Exited(0) => json!({ "metadata": {}, "status": "Success" }),
            Self::Exited(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.text(),
                "reason": "NonZeroExitCode",
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            }),
            Self::Failed(why) => json!({
                "metadata": {},
                "status": "Failure",
                "message": why,
                "reason": "InternalError",
                "code": 500,
            }),
        }
    }
}
