//! Runs actions: a moment passes, a machine is touched, the state follows.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use crate::action::{Effect, Progress};
use crate::call::{Answer, Call};
use crate::error::Refusal;
use crate::fault::Fault;
use crate::store::State;
use crate::{Cloud, Machines, Server, images, routes, servers};

impl Cloud {
    /// Does a write on a copy, keeps it if it was done, and runs the actions that it began.
    pub(crate) fn write(
        self: &Arc<Self>,
        call: &Call,
        fault: Option<&Fault>,
    ) -> Result<Answer, Refusal> {
        let mut held = self.state();
        let mut next = held.clone();
        let answer = routes::write(&mut next, call)?;
        let begun: Vec<u64> = next.actions.range(held.next_id..).map(|(id, _)| *id).collect();
        if let Some(fault) = fault.filter(|it| it.refusal().is_none()) {
            let failing = begun
                .iter()
                .copied()
                .find(|id| next.actions.get(id).is_some_and(|it| fault.fails(&it.command)));
            if let Some(action) = failing.and_then(|id| next.actions.get_mut(&id)) {
                action.failure = Some(fault.failure());
                let at_once =
                    next.actions.range(held.next_id..).all(|(_, it)| it.effect == Effect::Nothing);
                if at_once && !fault.after_effect() {
                    // What would have been done while answering is not done: only the actions are kept.
                    let (actions, next_id) = (next.actions, next.next_id);
                    next = State { next_id, actions, ..held.clone() };
                }
            }
        }
        next.save(&self.settings.state).map_err(|error| {
            Refusal::new(500, "server_error", format!("the state cannot be written: {error}"))
        })?;
        *held = next;
        drop(held);
        self.balance();
        self.run(begun);
        Ok(answer)
    }

    /// Takes up the actions that ran when the emulator was ended, those of one resource in their order.
    pub(crate) fn resume(self: &Arc<Self>) {
        let mut running = BTreeMap::<_, Vec<u64>>::new();
        for action in self.state().actions.values().filter(|it| it.status == Progress::Running) {
            running.entry(action.resources.first().cloned()).or_default().push(action.id);
        }
        for actions in running.into_values() {
            self.run(actions);
        }
    }

    /// One after the other. The task holds no more than a weak reference while it waits, so that a cloud
    /// nobody serves any more ends.
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
                with(&cloud, |cloud| {
                    if let Some(action) = cloud.state().actions.get_mut(&id) {
                        action.progress = 50;
                    }
                });
                tokio::time::sleep(pace / 2).await;
                let Some(cloud) = cloud.upgrade() else { return };
                failed = cloud.step(id, failed).await;
            }
        });
        self.balancers.keep(task.abort_handle());
    }

    /// Does one action; what it failed with fails those after it, too.
    async fn step(
        self: Arc<Self>,
        id: u64,
        failed: Option<(String, String)>,
    ) -> Option<(String, String)> {
        let (effect, failure, server) = {
            let state = self.state();
            let action = state.actions.get(&id)?;
            let server = servers::of(&action.effect)
                .and_then(|id| state.servers.seen(id))
                .map(|it| it.machine(&state));
            (action.effect.clone(), action.failure.clone(), server)
        };
        let skip = failed.is_some() || failure.as_ref().is_some_and(|it| !it.after_effect);
        let mut error = failed.or_else(|| failure.map(|it| (it.code, it.message)));
        if !skip && let Some(server) = server {
            let machines = Arc::clone(&self.machines);
            let effect = effect.clone();
            let touched =
                tokio::task::spawn_blocking(move || touch(machines.as_ref(), &effect, &server))
                    .await;
            if touched.is_err() {
                error =
                    Some(("action_failed".to_owned(), "the machine could not do it".to_owned()));
            }
        }
        let mut held = self.state();
        let mut next = held.clone();
        if skip {
            missed(&mut next, &effect);
        } else {
            done(&mut next, &effect);
        }
        next.finish(id, error.clone());
        if next.save(&self.settings.state).is_err() {
            error = Some(("server_error".to_owned(), "the state cannot be written".to_owned()));
            next.finish(id, error.clone());
        }
        *held = next;
        error
    }
}

fn with(cloud: &Weak<Cloud>, act: impl FnOnce(&Cloud)) {
    if let Some(cloud) = cloud.upgrade() {
        act(&cloud);
    }
}

/// What an action does to the machine.
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

/// What is so once an action was done.
fn done(state: &mut State, effect: &Effect) {
    match effect {
        Effect::Nothing => {}
        Effect::Create { server } | Effect::Stop { server } => {
            servers::set(state, *server, servers::Status::Off);
        }
        Effect::Start { server } | Effect::Restart { server } | Effect::Rebuild { server } => {
            servers::set(state, *server, servers::Status::Running);
            if let Some(server) = state.servers.seen_mut(*server) {
                server.rescue = false;
            }
        }
        Effect::Delete { server } => servers::remove(state, *server),
        Effect::Attach { server, network } => servers::attached(state, *server, *network),
        Effect::FinishImage { image } => images::finish(state, *image),
    }
}

/// What is so when an action was not done: a server that could not be made is gone, one that could not be
/// started, stopped or deleted is as it was.
fn missed(state: &mut State, effect: &Effect) {
    match effect {
        Effect::Nothing => {}
        Effect::Create { server } => servers::remove(state, *server),
        Effect::Start { server } => servers::set(state, *server, servers::Status::Off),
        Effect::Stop { server } | Effect::Restart { server } | Effect::Rebuild { server } => {
            servers::set(state, *server, servers::Status::Running);
        }
        Effect::Delete { server } => servers::undelete(state, *server),
        Effect::Attach { server, network } => servers::detach(state, *server, *network),
        Effect::FinishImage { image } => {
            state.images.remove(*image);
        }
    }
}
