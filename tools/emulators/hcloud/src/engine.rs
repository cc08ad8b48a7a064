//! The engine that runs actions: it waits, touches the machine, and then changes the state.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use crate::call::{Answer, Call};
use crate::cloud::Cloud;
use crate::error::ApiError;
use crate::fault::Fault;
use crate::machines::{Contents, Machines, Server};
use crate::model::{Effect, Status};
use crate::state::State;
use crate::{images, routes, servers};

impl Cloud {
    /// Runs a write on a copy of the state, keeps the copy if the write succeeds, and runs the actions that
    /// the write began.
    pub(crate) fn write(
        self: &Arc<Self>,
        call: &Call,
        fault: Option<&Fault>,
    ) -> Result<Answer, ApiError> {
        let mut current = self.state();
        let mut next = current.clone();
        let answer = routes::write(&mut next, call)?;
        let begun: Vec<u64> = next.actions.range(current.next_id..).map(|(id, _)| *id).collect();
        if let Some(fault) = fault.filter(|fault| fault.error().is_none()) {
            next = with_failure(&current, next, &begun, fault);
        }
        next.save(&self.settings.state).map_err(|error| {
            ApiError::new(500, "server_error", format!("the state cannot be written: {error}"))
        })?;
        *current = next;
        drop(current);
        self.balance();
        self.run(begun);
        Ok(answer)
    }

    /// Continues the actions that were running when the emulator ended, in order for each resource.
    pub(crate) fn resume(self: &Arc<Self>) {
        let mut running = BTreeMap::<_, Vec<u64>>::new();
        for action in self.state().actions.values().filter(|action| action.is_running()) {
            running.entry(action.resources.first().cloned()).or_default().push(action.id);
        }
        for actions in running.into_values() {
            self.run(actions);
        }
    }

    /// Runs actions one after the other in a task. The task holds only a weak reference while it waits, so
    /// that it does not keep alive a cloud that is no longer served.
    fn run(self: &Arc<Self>, actions: Vec<u64>) {
        if actions.is_empty() {
            return;
        }
        let cloud = Arc::downgrade(self);
        let pace = self.pace.action;
        let task = tokio::spawn(async move {
            let mut failed = None;
            for id in actions {
                tokio::time::sleep(pace / 2).await;
                set_half_done(&cloud, id);
                tokio::time::sleep(pace / 2).await;
                let Some(cloud) = cloud.upgrade() else { return };
                failed = cloud.step(id, failed).await;
            }
        });
        self.tasks.keep_action(task.abort_handle());
    }

    /// Runs one action. Returns its error, which fails the actions after it, too.
    async fn step(
        self: Arc<Self>,
        id: u64,
        failed: Option<(String, String)>,
    ) -> Option<(String, String)> {
        let (effect, failure, server) = {
            let state = self.state();
            let action = state.actions.get(&id)?;
            let server = action.effect.server().and_then(|id| state.servers.find(id));
            let server = server.map(|server| server.machine(&state));
            (action.effect.clone(), action.failure.clone(), server)
        };
        let skip =
            failed.is_some() || failure.as_ref().is_some_and(|failure| !failure.after_effect);
        let mut error = failed.or_else(|| failure.map(|failure| (failure.code, failure.message)));
        if !skip && let Some(server) = server {
            let machines = Arc::clone(&self.machines);
            let effect = effect.clone();
            let touched =
                tokio::task::spawn_blocking(move || touch(machines.as_ref(), &effect, &server))
                    .await;
            if touched.is_err() {
                error = Some(("action_failed".to_owned(), "the machine failed".to_owned()));
            }
        }
        let contents = if skip { None } else { self.contents(&effect).await };
        let mut current = self.state();
        let mut next = current.clone();
        if let (Effect::FinishImage { image }, false) = (&effect, skip) {
            images::set_contents(&mut next, *image, contents);
        }
        if skip {
            undo(&mut next, &effect);
        } else {
            complete(&mut next, &effect);
        }
        next.finish(id, error.clone());
        if next.save(&self.settings.state).is_err() {
            error = Some(("server_error".to_owned(), "the state cannot be written".to_owned()));
            next.finish(id, error.clone());
        }
        *current = next;
        error
    }
}

impl Cloud {
    /// Reads the disk from which a snapshot is made.
    async fn contents(&self, effect: &Effect) -> Option<Contents> {
        let Effect::FinishImage { image } = effect else { return None };
        let server = self.state().images.find(*image)?.created_from.as_ref()?.0;
        let machines = Arc::clone(&self.machines);
        tokio::task::spawn_blocking(move || machines.contents(server)).await.ok()?
    }
}

fn set_half_done(cloud: &Weak<Cloud>, id: u64) {
    if let Some(cloud) = cloud.upgrade()
        && let Some(action) = cloud.state().actions.get_mut(&id)
    {
        action.progress = 50;
    }
}

/// Gives the fault's failure to the first action of the call that the fault names. If no action of the call
/// has an effect of its own and the fault comes before the effect, the call's changes are undone as well.
fn with_failure(current: &State, mut next: State, begun: &[u64], fault: &Fault) -> State {
    let failing = begun
        .iter()
        .find(|id| next.actions.get(id).is_some_and(|action| fault.fails(&action.command)));
    let Some(action) = failing.and_then(|id| next.actions.get_mut(id)) else { return next };
    action.failure = Some(fault.failure());
    let mut actions = begun.iter().filter_map(|id| next.actions.get(id));
    if actions.all(|action| action.effect == Effect::Nothing) && !fault.after_effect() {
        next = State { next_id: next.next_id, actions: next.actions, ..current.clone() };
    }
    next
}

/// Does to the machine what the action says.
fn touch(machines: &dyn Machines, effect: &Effect, server: &Server) {
    match effect {
        Effect::Nothing
        | Effect::Create { .. }
        | Effect::Attach { .. }
        | Effect::FinishImage { .. } => {}
        Effect::Start { .. } => machines.power_on(server),
        Effect::Stop { .. } => machines.power_off(server.id),
        Effect::Restart { .. } => {
            machines.power_off(server.id);
            machines.power_on(server);
        }
        Effect::Rebuild { .. } => {
            machines.power_off(server.id);
            machines.delete(server.id);
            machines.power_on(server);
        }
        Effect::Delete { .. } => {
            machines.power_off(server.id);
            machines.delete(server.id);
        }
    }
}

/// Changes the state after an action has succeeded.
fn complete(state: &mut State, effect: &Effect) {
    match effect {
        Effect::Nothing => {}
        Effect::Create { server } | Effect::Stop { server } => {
            servers::set_status(state, *server, Status::Off);
        }
        Effect::Start { server } | Effect::Restart { server } | Effect::Rebuild { server } => {
            servers::set_status(state, *server, Status::Running);
            if let Some(server) = state.servers.find_mut(*server) {
                server.rescue = false;
            }
        }
        Effect::Delete { server } => servers::remove(state, *server),
        Effect::Attach { server, network } => servers::set_attached(state, *server, *network),
        Effect::FinishImage { image } => images::finish(state, *image),
    }
}

/// Changes the state after an action has failed: a server that was being created is removed, and a server
/// that was to start or stop gets its former status.
fn undo(state: &mut State, effect: &Effect) {
    match effect {
        Effect::Nothing => {}
        Effect::Create { server } => servers::remove(state, *server),
        // A server whose deletion failed is off, because its machine may be half deleted.
        Effect::Start { server } | Effect::Delete { server } => {
            servers::set_status(state, *server, Status::Off);
        }
        Effect::Stop { server } | Effect::Restart { server } | Effect::Rebuild { server } => {
            servers::set_status(state, *server, Status::Running);
        }
        Effect::Attach { server, network } => servers::detach(state, *server, *network),
        Effect::FinishImage { image } => {
            state.images.remove(*image);
        }
    }
}
