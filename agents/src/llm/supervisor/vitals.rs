//! What is known of the model's process from outside.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::EngineMetrics;

/// Failures in a row after which the model is given up until a reset.
pub const MOST_FAILURES: u32 = 3;

/// What the provider may look at from outside.
#[derive(Debug, Default)]
pub struct Vitals {
    /// Process id, 0 when there is none.
    pub pid: AtomicU32,
    /// Failures in a row.
    pub failures: AtomicU32,
    /// Milliseconds of the last load.
    pub load_ms: AtomicU64,
    /// What the engine has done.
    metrics: Mutex<EngineMetrics>,
}

impl Vitals {
    /// What the engine has done.
    pub fn metrics(&self) -> MutexGuard<'_, EngineMetrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it failed so often in a row that it is not started again before a reset.
    pub fn given_up(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= MOST_FAILURES
    }
}
