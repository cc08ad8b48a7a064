//! The emulated cloud: the state and everything around it.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::fault::Faults;
use crate::limit::Bucket;
use crate::machines::Machines;
use crate::model::Status;
use crate::servers;
use crate::settings::{Pace, Settings};
use crate::state::State;
use crate::tasks::Tasks;

/// Number of calls that the journal keeps, more than any test makes.
const JOURNAL_CALLS: usize = 1000;

/// An emulated cloud with one project of one customer.
pub struct Cloud {
    pub(crate) settings: Settings,
    pub(crate) pace: Pace,
    pub(crate) machines: Arc<dyn Machines>,
    pub(crate) tasks: Tasks,
    state: Mutex<State>,
    faults: Mutex<Faults>,
    bucket: Mutex<Bucket>,
    writes: AtomicU64,
    calls: AtomicU64,
    journal: Mutex<VecDeque<Value>>,
}

impl Cloud {
    /// Reads the state from its file or creates the file, and powers on the machines of running servers.
    ///
    /// # Errors
    ///
    /// The state cannot be read or written, or belongs to another network.
    pub fn open(settings: Settings, machines: Arc<dyn Machines>) -> io::Result<Arc<Self>> {
        Self::open_at(settings, machines, Pace::default())
    }

    /// Opens a cloud like [`Cloud::open`], at another pace.
    ///
    /// # Errors
    ///
    /// The same as for [`Cloud::open`].
    pub fn open_at(
        settings: Settings,
        machines: Arc<dyn Machines>,
        pace: Pace,
    ) -> io::Result<Arc<Self>> {
        let state = State::open(&settings.state, settings.network)?;
        for server in servers::running(&state) {
            machines.power_on(&server);
        }
        Ok(Arc::new(Self {
            settings,
            pace,
            machines,
            tasks: Tasks::default(),
            state: Mutex::new(state),
            faults: Mutex::default(),
            bucket: Mutex::new(Bucket::full(pace.calls_per_hour)),
            writes: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            journal: Mutex::default(),
        }))
    }

    /// Returns the number of calls that changed the state, including calls whose answer a fault replaced.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Records that a machine powered itself off.
    ///
    /// # Errors
    ///
    /// The state cannot be written.
    pub fn went_off(&self, id: u64) -> io::Result<()> {
        let mut current = self.state();
        let mut next = current.clone();
        if let Some(server) = next.servers.find_mut(id) {
            server.status = Status::Off;
            next.save(&self.settings.state)?;
            *current = next;
        }
        Ok(())
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a call of a client with its answer, and forgets the oldest call.
    pub(crate) fn record(&self, call: Value) {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.push_back(call);
        if journal.len() > JOURNAL_CALLS {
            journal.pop_front();
        }
    }

    /// Returns the last calls of clients, the oldest first.
    pub(crate) fn journal(&self) -> Vec<Value> {
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.iter().cloned().collect()
    }

    pub(crate) fn count_write(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call of a client, and returns a number that no other call has.
    pub(crate) fn count_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns the number of calls of clients.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}
