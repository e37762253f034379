//! How long an alert waits until it is durable: for `galen bench`.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::database::Store;
use super::error::{StoreError, StoreErrorKind};
use crate::model::Alert;

/// Alerts a second that the benchmark sends.
const RATE: f64 = 200.0;
/// Senders at a time: as many connections as a busy Alertmanager pair opens.
const SENDERS: usize = 8;

/// Takes in `n` distinct alerts of 20 targets at 200 a second into a store under `data_dir`, and returns the
/// milliseconds each waited, from the moment it was due until it was durable (a late start counts as waiting).
pub fn bench_intake(data_dir: &Path, n: usize) -> Result<Vec<f64>, StoreError> {
    let store = Store::open(data_dir)?;
    let start = Instant::now();
    let send = |sender: usize| -> Result<Vec<f64>, StoreError> {
        (sender..n).step_by(SENDERS).map(|index| send_one(&store, start, index)).collect()
    };
    thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS).map(|sender| scope.spawn(move || send(sender))).collect();
        let mut waits = Vec::with_capacity(n);
        for sender in senders {
            let gone = |_| StoreError::new(StoreErrorKind::Io, "a sender of the benchmark died");
            waits.extend(sender.join().map_err(gone)??);
        }
        Ok(waits)
    })
}

fn send_one(store: &Store, start: Instant, index: usize) -> Result<f64, StoreError> {
    let due = start + Duration::from_secs_f64(index as f64 / RATE);
    thread::sleep(due.saturating_duration_since(Instant::now()));
    let alert = Alert {
        fingerprint: format!("bench-{index}"),
        name: "Bench".into(),
        status: "firing".into(),
        source: "manual".into(),
        starts_at: super::database::now(),
        ..Alert::default()
    };
    store.intake(&[alert], &format!("target-{}", index % 20), 60_000)?;
    Ok(due.elapsed().as_secs_f64() * 1e3)
}
