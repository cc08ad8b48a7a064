//! Actions: what runs on after a call was answered.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::error::Refusal;
use crate::fault::Failure;
use crate::list;
use crate::store::{State, now};

/// How many finished actions are remembered.
const REMEMBERED: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Progress {
    Running,
    Success,
    Error,
}

/// What has to happen before an action is a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Effect {
    /// It was already so when the call was answered.
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

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Action {
    pub(crate) id: u64,
    pub(crate) command: String,
    pub(crate) status: Progress,
    pub(crate) progress: u8,
    pub(crate) started: String,
    pub(crate) finished: Option<String>,
    /// Kind and id; the first is the one that is locked until the action is done.
    pub(crate) resources: Vec<(String, u64)>,
    pub(crate) error: Option<(String, String)>,
    pub(crate) effect: Effect,
    pub(crate) failure: Option<Failure>,
}

impl Action {
    pub(crate) fn shown(&self) -> Value {
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

    fn is_of(&self, kind: &str, id: Option<u64>) -> bool {
        self.resources.iter().any(|(it, number)| it == kind && id.is_none_or(|id| id == *number))
    }
}

impl State {
    /// Begins an action; what it answers with is the action as JSON.
    pub(crate) fn begin(
        &mut self,
        command: &str,
        resources: &[(&str, u64)],
        effect: Effect,
    ) -> Value {
        let action = Action {
            id: self.id(),
            command: command.to_owned(),
            status: Progress::Running,
            progress: 0,
            started: now(),
            finished: None,
            resources: resources.iter().map(|(kind, id)| ((*kind).to_owned(), *id)).collect(),
            error: None,
            effect,
            failure: None,
        };
        let shown = action.shown();
        self.actions.insert(action.id, action);
        let finished = self.actions.iter().filter(|(_, it)| it.status != Progress::Running);
        if self.actions.len() > REMEMBERED
            && let Some(oldest) = finished.map(|(id, _)| *id).next()
        {
            self.actions.remove(&oldest);
        }
        shown
    }

    /// Ends an action, well or with this code and message.
    pub(crate) fn finish(&mut self, id: u64, error: Option<(String, String)>) {
        if let Some(action) = self.actions.get_mut(&id) {
            action.status = if error.is_some() { Progress::Error } else { Progress::Success };
            action.progress = 100;
            action.finished = Some(now());
            action.error = error;
        }
    }

    /// Whether an action runs on this resource.
    pub(crate) fn busy(&self, kind: &str, id: u64) -> bool {
        let mut running = self.actions.values().filter(|it| it.status == Progress::Running);
        running.any(|it| {
            it.resources.first().is_some_and(|(first, number)| first == kind && *number == id)
        })
    }

    /// Refuses what an action runs on, with the code that the API uses for this kind.
    pub(crate) fn unlocked(&self, kind: &str, id: u64) -> Result<(), Refusal> {
        match (self.busy(kind, id), kind) {
            (false, _) => Ok(()),
            (true, "network" | "firewall") => Err(Refusal::conflict(kind)),
            (true, _) => Err(Refusal::locked(kind)),
        }
    }
}

const SORTS: &[&str] = &["id", "command", "status", "started", "finished"];

/// `GET /actions?id=1&id=2`; without ids it was taken out of the API.
pub(crate) fn some(state: &State, call: &Call) -> Result<Answer, Refusal> {
    let ids = call.values("id");
    if ids.is_empty() {
        return Err(Refusal::new(
            410,
            "deprecated_api_endpoint",
            "actions can only be listed by their ids",
        ));
    }
    let ids: Result<Vec<u64>, _> = ids.into_iter().map(str::parse).collect();
    let ids = ids.map_err(|_| Refusal::invalid(&[("id", "must be numbers")]))?;
    let items = ids.iter().filter_map(|id| state.actions.get(id)).map(Action::shown).collect();
    list::page(call, "actions", items, &["status"], SORTS)
}

/// The actions of a kind, or of one resource.
pub(crate) fn of(
    state: &State,
    call: &Call,
    kind: &str,
    id: Option<u64>,
) -> Result<Answer, Refusal> {
    let items = state.actions.values().filter(|it| it.is_of(kind, id)).map(Action::shown).collect();
    list::page(call, "actions", items, &["id", "status"], SORTS)
}

/// One action, of this kind and resource if they are given.
pub(crate) fn one(
    state: &State,
    action: u64,
    kind: Option<&str>,
    id: Option<u64>,
) -> Result<Answer, Refusal> {
    let found = state.actions.get(&action).filter(|it| kind.is_none_or(|kind| it.is_of(kind, id)));
    let found = found.ok_or_else(|| Refusal::not_found("action", action))?;
    Ok(Answer::ok(json!({"action": found.shown()})))
}

/// The answer of a call that only began an action.
pub(crate) fn begun(action: &Value) -> Answer {
    Answer::made(json!({"action": action}))
}
