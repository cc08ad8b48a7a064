//! Actions: work that continues after its call has been answered.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::fault::Failure;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Progress {
    Running,
    Success,
    Error,
}

/// The change that takes effect when an action succeeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Effect {
    /// The change took effect before the call was answered.
    Nothing,
    Create {
        server: u64,
    },
    Start {
        server: u64,
    },
    Stop {
        server: u64,
    },
    Restart {
        server: u64,
    },
    Rebuild {
        server: u64,
    },
    Delete {
        server: u64,
    },
    Attach {
        server: u64,
        network: u64,
    },
    FinishImage {
        image: u64,
    },
}

impl Effect {
    /// Returns the id of the server that the effect concerns.
    pub(crate) fn server(&self) -> Option<u64> {
        match self {
            Self::Create { server }
            | Self::Start { server }
            | Self::Stop { server }
            | Self::Restart { server }
            | Self::Rebuild { server }
            | Self::Delete { server }
            | Self::Attach { server, .. } => Some(*server),
            Self::Nothing | Self::FinishImage { .. } => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Action {
    pub(crate) id: u64,
    pub(crate) command: String,
    pub(crate) status: Progress,
    /// Percentage, 0 to 100.
    pub(crate) progress: u8,
    pub(crate) started: String,
    pub(crate) finished: Option<String>,
    /// Kind and id of each resource; the action locks the first one until the action has ended.
    pub(crate) resources: Vec<(String, u64)>,
    /// Code and message, if the action failed.
    pub(crate) error: Option<(String, String)>,
    pub(crate) effect: Effect,
    /// The failure that a test injected.
    pub(crate) failure: Option<Failure>,
}

impl Action {
    pub(crate) fn to_json(&self) -> Value {
        let resources: Vec<_> =
            self.resources.iter().map(|(kind, id)| json!({"id": id, "type": kind})).collect();
        let error =
            self.error.as_ref().map(|(code, message)| json!({"code": code, "message": message}));
        json!({
            "id": self.id,
            "command": self.command,
            "status": self.status,
            "progress": self.progress,
            "started": self.started,
            "finished": self.finished,
            "resources": resources,
            "error": error,
        })
    }

    /// Whether the action concerns this resource, or without an id any resource of this kind.
    pub(crate) fn concerns(&self, kind: &str, id: Option<u64>) -> bool {
        self.resources
            .iter()
            .any(|(name, number)| name == kind && id.is_none_or(|id| id == *number))
    }

    pub(crate) fn is_running(&self) -> bool {
        self.status == Progress::Running
    }
}
