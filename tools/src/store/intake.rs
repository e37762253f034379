//! Intake of alerts: durable before it returns, and one commit for all callers that wait at the same moment.

use std::sync::PoisonError;
use std::sync::mpsc::{SyncSender, sync_channel};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::database::{Store, now};
use super::error::{StoreError, StoreErrorKind};
use crate::model::{Alert, UnixMs};

/// What became of alerts that came in together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intake {
    /// The incident they belong to; the newest one where repeats belong to several.
    pub incident_id: i64,
    /// They opened it: it waits to be diagnosed.
    pub new: bool,
}

/// A caller waiting for the next commit.
pub(super) struct Waiting {
    alerts: Vec<Alert>,
    target: String,
    window_ms: i64,
    reply: SyncSender<Result<Intake, StoreError>>,
}

impl Store {
    /// Takes in alerts of one target. When this returns they survive a crash.
    ///
    /// An alert seen before (same fingerprint and start) only updates its status. New ones join the target's
    /// unfinished incident that opened at most `group_window_ms` from their earliest start, or open one. An
    /// incident whose alerts have all ended is resolved; one under diagnosis is when its report is saved. Alerts
    /// first heard of as resolved are recorded, and never start a diagnosis.
    ///
    /// Fails with `NotFound` when there are no alerts, `DiskFull` or `Io`; then nothing of this call is kept.
    pub fn intake(&self, alerts: &[Alert], target: &str, group_window_ms: i64) -> Result<Intake, StoreError> {
        if alerts.is_empty() {
            return Err(StoreError::new(StoreErrorKind::NotFound, "the message holds no alerts"));
        }
        let (reply, answer) = sync_channel(1);
        let mine = Waiting { alerts: alerts.to_vec(), target: target.to_owned(), window_ms: group_window_ms, reply };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(mine);
        // Whoever gets the connection serves all that queued up meanwhile; the others find their answer ready.
        let mut db = self.connection();
        if let Ok(served) = answer.try_recv() {
            return served;
        }
        let batch = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        serve(&mut db, batch);
        drop(db);
        answer.recv().unwrap_or_else(|_| Err(StoreError::new(StoreErrorKind::Io, "intake was interrupted")))
    }
}

/// One transaction for all, a savepoint for each; answers go out after the commit.
fn serve(db: &mut Connection, batch: Vec<Waiting>) {
    let outcome = commit_all(db, &batch);
    for (index, waiting) in batch.into_iter().enumerate() {
        let result = match &outcome {
            Ok(results) => results[index].clone(),
            Err(error) => Err(error.clone()),
        };
        // The receiver waits for the connection that we hold: it is still there.
        let _ = waiting.reply.send(result);
    }
}

fn commit_all(db: &mut Connection, batch: &[Waiting]) -> Result<Vec<Result<Intake, StoreError>>, StoreError> {
    let mut transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut results = Vec::with_capacity(batch.len());
    for waiting in batch {
        let savepoint = transaction.savepoint()?;
        let result = take_in(&savepoint, waiting);
        match &result {
            Ok(_) => savepoint.commit()?,
            // A full disk may have ended the whole transaction: then what caused it is the answer for all.
            Err(cause) => savepoint.finish().map_err(|_| cause.clone())?,
        }
        results.push(result);
    }
    transaction.commit()?;
    Ok(results)
}

fn take_in(db: &Connection, waiting: &Waiting) -> Result<Intake, StoreError> {
    let mut known: Vec<i64> = Vec::new();
    let mut fresh: Vec<&Alert> = Vec::new();
    for alert in &waiting.alerts {
        match update_known(db, &waiting.target, alert)? {
            Some(incident) => known.push(incident),
            None => fresh.push(alert),
        }
    }
    let joined = place_fresh(db, waiting, &fresh)?;
    if let Some(Intake { incident_id, .. }) = joined {
        for alert in &fresh {
            insert(db, &waiting.target, incident_id, alert)?;
        }
        known.push(incident_id);
    }
    known.sort_unstable();
    known.dedup();
    for incident in &known {
        touch(db, *incident)?;
    }
    let last = known.last().map(|incident| Intake { incident_id: *incident, new: false });
    joined.or(last).ok_or_else(|| StoreError::damaged("alerts belong to no incident"))
}

/// The incident of an alert seen before, after bringing its status up to date.
fn update_known(db: &Connection, target: &str, alert: &Alert) -> Result<Option<i64>, StoreError> {
    // A late copy of the firing message must not undo a resolution.
    let sql = "UPDATE incident_alerts SET status = CASE WHEN status = 'resolved' THEN status ELSE ?4 END,
               ends_at = coalesce(?5, ends_at) WHERE target = ?1 AND fingerprint = ?2 AND starts_at = ?3
               RETURNING incident";
    let mut update = db.prepare_cached(sql)?;
    let key = params![target, alert.fingerprint, alert.starts_at, alert.status, alert.ends_at];
    Ok(update.query_row(key, |row| row.get(0)).optional()?)
}

/// The incident that alerts not seen before belong to.
fn place_fresh(db: &Connection, waiting: &Waiting, fresh: &[&Alert]) -> Result<Option<Intake>, StoreError> {
    let firing = fresh.iter().filter(|alert| !is_resolved(alert)).map(|alert| alert.starts_at).min();
    let Some(start) = firing.or_else(|| fresh.iter().map(|alert| alert.starts_at).min()) else {
        return Ok(None);
    };
    // A sender's clock may be ahead: what has begun has begun by now.
    let start = start.min(now());
    if let Some(incident_id) = unfinished(db, &waiting.target, start, waiting.window_ms)? {
        return Ok(Some(Intake { incident_id, new: false }));
    }
    let state = if firing.is_some() { "open" } else { "resolved" };
    let mut open = db.prepare_cached("INSERT INTO incidents(target, state, opened_at, updated_at) VALUES(?, ?, ?, ?)")?;
    let incident_id = open.insert(params![waiting.target, state, start, now()])?;
    Ok(Some(Intake { incident_id, new: firing.is_some() }))
}

fn unfinished(db: &Connection, target: &str, start: UnixMs, window_ms: i64) -> Result<Option<i64>, StoreError> {
    let sql = "SELECT id FROM incidents WHERE target = ? AND opened_at BETWEEN ? AND ?
               AND state NOT IN ('resolved', 'failed') ORDER BY opened_at DESC, id DESC LIMIT 1";
    let window = window_ms.max(0);
    let bounds = params![target, start.saturating_sub(window), start.saturating_add(window)];
    Ok(db.prepare_cached(sql)?.query_row(bounds, |row| row.get(0)).optional()?)
}

fn insert(db: &Connection, target: &str, incident: i64, alert: &Alert) -> Result<(), StoreError> {
    let labels = serde_json::to_string(&alert.labels).map_err(|error| StoreError::damaged(format!("cannot write labels: {error}")))?;
    // The same alert twice in one message: the first stands.
    let sql = "INSERT OR IGNORE INTO incident_alerts(target, fingerprint, starts_at, incident, name, status, source,
               ends_at, labels, summary) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    db.prepare_cached(sql)?.execute(params![
        target,
        alert.fingerprint,
        alert.starts_at,
        incident,
        alert.name,
        alert.status,
        alert.source,
        alert.ends_at,
        labels,
        alert.summary
    ])?;
    Ok(())
}

/// Notes the change, and closes an incident whose alerts have all ended unless somebody is at work on it.
fn touch(db: &Connection, incident: i64) -> Result<(), StoreError> {
    let sql = "UPDATE incidents SET updated_at = ?1, state = CASE
                 WHEN state IN ('open', 'reported', 'failed') AND NOT EXISTS
                   (SELECT 1 FROM incident_alerts WHERE incident = ?2 AND status <> 'resolved') THEN 'resolved'
                 ELSE state END WHERE id = ?2";
    db.prepare_cached(sql)?.execute(params![now(), incident])?;
    Ok(())
}

fn is_resolved(alert: &Alert) -> bool {
    alert.status == "resolved"
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
