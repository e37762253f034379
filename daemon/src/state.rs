//! What the daemon's tasks and doors share: the store, the targets, counters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use galen_agents::llm::Provider;
use galen_tools::capture::Capture;
use galen_tools::model::Alert;
use galen_tools::store::{Intake, Store, StoreError};

use crate::config::Config;
use crate::target::now_ms;

/// Shared state of a running daemon.
pub struct State {
    /// Configuration it runs with.
    pub config: Config,
    /// Incidents, reports, feedback. Blocking: called through [`State::with_store`].
    store: Arc<Store>,
    /// Targets by name.
    pub targets: BTreeMap<String, Target>,
    /// Woken when an incident waits for its diagnosis.
    pub wake: Notify,
    /// Counters for `/metrics`.
    pub counters: Counters,
    /// The model, once it is loaded.
    pub model: std::sync::OnceLock<Arc<dyn Provider>>,
    /// First finding of incidents under diagnosis: cause, and seconds after the alert.
    pub first_findings: Mutex<BTreeMap<i64, (String, f64)>>,
    /// Why incidents under way wait, where only the disk keeps them from going on.
    pub troubles: Mutex<BTreeMap<i64, String>>,
}

/// What is known of a target right now.
#[derive(Default)]
pub struct Target {
    /// Rolling history, trimmed to the configured length.
    pub history: Mutex<Capture>,
    /// Why it cannot be reached, when it cannot.
    pub down: Mutex<Option<String>>,
    /// When the log last said so, milliseconds since 1970.
    pub down_said: AtomicI64,
    /// Until when the collector looks closely, milliseconds since 1970: an incident has just begun.
    pub attend_until: AtomicI64,
}

/// Counters since the start.
#[derive(Default)]
pub struct Counters {
    /// Alerts taken in.
    pub alerts: AtomicU64,
    /// Diagnoses finished.
    pub diagnoses: AtomicU64,
    /// Diagnoses that failed.
    pub failures: AtomicU64,
    /// Collector turns.
    pub turns: AtomicU64,
}

impl Counters {
    /// Adds one.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Locks a mutex whose holder may have panicked: the data is samples, not invariants.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// State over an open store.
    pub fn new(config: Config, store: Store) -> Self {
        let targets = config.targets.iter().map(|t| (t.name.clone(), Target::default())).collect();
        Self {
            config,
            store: Arc::new(store),
            targets,
            wake: Notify::new(),
            counters: Counters::default(),
            model: std::sync::OnceLock::new(),
            first_findings: Mutex::default(),
            troubles: Mutex::default(),
        }
    }

    /// Runs a blocking call of the store off the runtime's threads.
    ///
    /// # Errors
    /// What the store says.
    pub async fn with_store<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || call(&store)).await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// Takes alerts in: durable when it returns. The one way in, for webhooks and the detector alike.
    ///
    /// # Errors
    /// What the store says; then nothing was taken in.
    pub async fn intake(&self, alerts: Vec<Alert>, target: &str) -> Result<Intake, StoreError> {
        if let Some(known) = self.targets.get(target) {
            let until = now_ms() + (self.config.incident.settle_s as i64 + 10) * 1000;
            known.attend_until.fetch_max(until, Ordering::Relaxed);
        }
        let count = alerts.len() as u64;
        let (target, window) = (target.to_owned(), self.config.incident.group_window_s as i64 * 1000);
        let taken = self.with_store(move |store| store.intake(&alerts, &target, window)).await?;
        self.counters.alerts.fetch_add(count, Ordering::Relaxed);
        self.wake.notify_one();
        Ok(taken)
    }
}
