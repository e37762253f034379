//! Incidents: what the store says about them, and how one is claimed for diagnosis exactly once.

use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::database::{Store, now};
use super::error::{StoreError, StoreErrorKind};
use crate::model::{Alert, UnixMs};

/// Where an incident stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Alerts came in; nobody works on it yet.
    Open,
    /// Claimed: its capture is being made.
    Collecting,
    /// Its capture is being diagnosed.
    Diagnosing,
    /// It has a report; its alerts still fire.
    Reported,
    /// The diagnosis failed; `error` says why.
    Failed,
    /// All its alerts ended, or somebody closed it.
    Resolved,
}

/// Alerts of one target over one window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Number, never used again.
    pub id: i64,
    /// Name of the target.
    pub target: String,
    /// Where it stands.
    pub state: State,
    /// When its first alert began.
    pub opened_at: UnixMs,
    /// Last change of anything about it.
    pub updated_at: UnixMs,
    /// Fingerprints of its alerts, sorted, each once.
    pub fingerprints: Vec<String>,
    /// One line for people, once diagnosed.
    pub headline: Option<String>,
    /// File of its capture, whether written yet or not.
    pub capture_path: PathBuf,
    /// Id of the most probable cause, once diagnosed.
    pub top_cause: Option<String>,
    /// Probability of that cause, 0..1.
    pub probability: Option<f64>,
    /// Why the diagnosis failed, if it did.
    pub error: Option<String>,
}

/// Which incidents to list; an absent field allows all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Only of this target.
    pub target: Option<String>,
    /// Only in this state.
    pub state: Option<State>,
    /// Only those opened at or after this time.
    pub since: Option<UnixMs>,
}

impl State {
    /// The name in the store and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Collecting => "collecting",
            State::Diagnosing => "diagnosing",
            State::Reported => "reported",
            State::Failed => "failed",
            State::Resolved => "resolved",
        }
    }

    fn parse(name: &str) -> Result<State, StoreError> {
        use State::*;
        let all = [Open, Collecting, Diagnosing, Reported, Failed, Resolved];
        let found = all.into_iter().find(|state| state.as_str() == name);
        found.ok_or_else(|| StoreError::damaged(format!("unknown incident state {name:?}")))
    }
}

const COLUMNS: &str = "id, target, state, opened_at, updated_at, headline, top_cause, probability, error";

impl Store {
    /// Incidents that pass the filter, the newest first, at most `limit`.
    pub fn incidents(&self, filter: &Filter, limit: usize) -> Result<Vec<Incident>, StoreError> {
        let db = self.connection();
        let sql = format!(
            "SELECT {COLUMNS} FROM incidents WHERE (?1 IS NULL OR target = ?1) AND (?2 IS NULL OR state = ?2)
             AND (?3 IS NULL OR opened_at >= ?3) ORDER BY opened_at DESC, id DESC LIMIT ?4"
        );
        let mut select = db.prepare_cached(&sql)?;
        let state = filter.state.map(State::as_str);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows = select.query(params![filter.target, state, filter.since, limit])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(self.incident_of(&db, row)?);
        }
        Ok(found)
    }

    /// One incident; `NotFound` where there is none of that number.
    pub fn incident(&self, id: i64) -> Result<Incident, StoreError> {
        let db = self.connection();
        let mut select = db.prepare_cached(&format!("SELECT {COLUMNS} FROM incidents WHERE id = ?"))?;
        let mut rows = select.query([id])?;
        let row = rows.next()?.ok_or_else(|| no_incident(id))?;
        self.incident_of(&db, row)
    }

    /// The alerts of an incident, the earliest first.
    pub fn alerts_of(&self, id: i64) -> Result<Vec<Alert>, StoreError> {
        let db = self.connection();
        require(&db, id)?;
        let mut select = db.prepare_cached(
            "SELECT fingerprint, name, status, source, starts_at, ends_at, labels, summary FROM incident_alerts
             WHERE incident = ? ORDER BY starts_at, fingerprint",
        )?;
        let mut rows = select.query([id])?;
        let mut alerts = Vec::new();
        while let Some(row) = rows.next()? {
            alerts.push(alert_of(row)?);
        }
        Ok(alerts)
    }

    /// Moves an incident to a state; `error` is kept with `Failed` and cleared by every other state.
    pub fn set_state(&self, id: i64, state: State, error: Option<&str>) -> Result<(), StoreError> {
        let error = error.filter(|_| state == State::Failed);
        let sql = "UPDATE incidents SET state = ?, error = ?, updated_at = ? WHERE id = ?";
        let changed = self.write(|tx| Ok(tx.execute(sql, params![state.as_str(), error, now(), id])?))?;
        if changed == 0 { Err(no_incident(id)) } else { Ok(()) }
    }

    /// Takes the oldest open incident and moves it to `Collecting`; nobody else gets the same one. None when there
    /// is nothing to do.
    pub fn claim_next_to_diagnose(&self) -> Result<Option<Incident>, StoreError> {
        let id: Option<i64> = self.write(|tx| {
            let sql = "UPDATE incidents SET state = 'collecting', updated_at = ? WHERE id =
                       (SELECT id FROM incidents WHERE state = 'open' ORDER BY id LIMIT 1) RETURNING id";
            Ok(tx.query_row(sql, [now()], |row| row.get(0)).optional()?)
        })?;
        id.map(|id| self.incident(id)).transpose()
    }

    /// Reopens what a crash interrupted, so that it is claimed again. Returns how many.
    ///
    /// Only the daemon calls this, once, at its start: a CLI beside a running daemon must not.
    pub fn recover_interrupted(&self) -> Result<usize, StoreError> {
        let sql = "UPDATE incidents SET state = 'open', updated_at = ? WHERE state IN ('collecting', 'diagnosing')";
        self.write(|tx| Ok(tx.execute(sql, [now()])?))
    }

    fn incident_of(&self, db: &Connection, row: &Row<'_>) -> Result<Incident, StoreError> {
        let id = row.get(0)?;
        let mut select = db.prepare_cached("SELECT DISTINCT fingerprint FROM incident_alerts WHERE incident = ? ORDER BY 1")?;
        let fingerprints = select.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(Incident {
            id,
            target: row.get(1)?,
            state: State::parse(&row.get::<_, String>(2)?)?,
            opened_at: row.get(3)?,
            updated_at: row.get(4)?,
            fingerprints,
            headline: row.get(5)?,
            capture_path: self.capture_path(id),
            top_cause: row.get(6)?,
            probability: row.get(7)?,
            error: row.get(8)?,
        })
    }
}

/// `NotFound` unless there is such an incident.
pub(super) fn require(db: &Connection, id: i64) -> Result<(), StoreError> {
    let found = db.prepare_cached("SELECT 1 FROM incidents WHERE id = ?")?.exists([id])?;
    if found { Ok(()) } else { Err(no_incident(id)) }
}

fn no_incident(id: i64) -> StoreError {
    StoreError::new(StoreErrorKind::NotFound, format!("there is no incident {id}"))
}

fn alert_of(row: &Row<'_>) -> Result<Alert, StoreError> {
    let labels: String = row.get(6)?;
    Ok(Alert {
        fingerprint: row.get(0)?,
        name: row.get(1)?,
        status: row.get(2)?,
        source: row.get(3)?,
        starts_at: row.get(4)?,
        ends_at: row.get(5)?,
        labels: serde_json::from_str(&labels).map_err(|error| StoreError::damaged(format!("labels of an alert do not parse: {error}")))?,
        summary: row.get(7)?,
    })
}
