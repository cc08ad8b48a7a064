//! Tasks that run for a cloud while it is served.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// A service that listens: the load balancer's id, the port, and the address.
pub(crate) type Listening = (u64, u16, Ipv4Addr);

/// The running tasks of load balancers and actions.
#[derive(Default)]
pub(crate) struct Tasks {
    services: Mutex<BTreeMap<Listening, ServiceTasks>>,
    actions: Mutex<Vec<AbortHandle>>,
}

/// The tasks of one service. Dropping the value ends them, and so their connections.
pub(crate) struct ServiceTasks(pub(crate) Vec<AbortHandle>);

impl Drop for ServiceTasks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Tasks {
    pub(crate) fn services(&self) -> MutexGuard<'_, BTreeMap<Listening, ServiceTasks>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the task of an action until the task has ended.
    pub(crate) fn keep_action(&self, task: AbortHandle) {
        let mut tasks = self.actions.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    /// Ends the tasks of all services and actions.
    pub(crate) fn end(&self) {
        self.services().clear();
        for action in self.actions.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            action.abort();
        }
    }
}
