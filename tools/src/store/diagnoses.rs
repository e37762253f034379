//! What a diagnosis leaves behind: the report in its forms, the search tree, and what people said about it.

use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::database::{Store, now};
use super::error::{StoreError, StoreErrorKind};
use super::incidents::require;
use crate::model::UnixMs;

/// A finished diagnosis, to be saved.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewDiagnosis<'a> {
    /// The report object, JSON.
    pub report_json: &'a str,
    /// The search tree with every node, JSON.
    pub tree_json: &'a str,
    /// The report for people.
    pub markdown: &'a str,
    /// The report as one page.
    pub html: &'a str,
    /// One line for people.
    pub headline: &'a str,
    /// Id of the most probable cause, if any was named.
    pub top_cause: Option<&'a str>,
    /// Probability of that cause, 0..1.
    pub probability: Option<f64>,
}

/// A saved diagnosis, without its tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// When it was saved.
    pub at: UnixMs,
    /// The report object, JSON.
    pub report_json: String,
    /// The report for people.
    pub markdown: String,
    /// The report as one page.
    pub html: String,
}

/// What somebody who knows said about an incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    /// When it was said.
    pub at: UnixMs,
    /// The true cause, by id.
    pub cause: String,
    /// In their own words, may be empty.
    pub note: String,
}

impl Store {
    /// Saves a diagnosis (in place of an earlier one) and moves the incident to `Reported`, or to `Resolved` when
    /// all its alerts have ended meanwhile.
    pub fn save_diagnosis(&self, id: i64, diagnosis: &NewDiagnosis<'_>) -> Result<(), StoreError> {
        let d = diagnosis;
        self.write(|tx| {
            require(tx, id)?;
            tx.execute(
                "INSERT OR REPLACE INTO diagnoses(incident, at, report, tree, markdown, html) VALUES(?, ?, ?, ?, ?, ?)",
                params![id, now(), d.report_json, d.tree_json, d.markdown, d.html],
            )?;
            tx.execute(
                "UPDATE incidents SET headline = ?2, top_cause = ?3, probability = ?4, updated_at = ?5, error = NULL,
                 state = CASE WHEN EXISTS (SELECT 1 FROM incident_alerts WHERE incident = ?1 AND status <> 'resolved')
                   OR NOT EXISTS (SELECT 1 FROM incident_alerts WHERE incident = ?1)
                   THEN 'reported' ELSE 'resolved' END WHERE id = ?1",
                params![id, d.headline, d.top_cause, d.probability, now()],
            )?;
            Ok(())
        })
    }

    /// The saved diagnosis of an incident; `NotFound` where there is none yet.
    pub fn report(&self, id: i64) -> Result<Diagnosis, StoreError> {
        let db = self.connection();
        let mut select = db.prepare_cached("SELECT at, report, markdown, html FROM diagnoses WHERE incident = ?")?;
        let found = select
            .query_row([id], |row| Ok(Diagnosis { at: row.get(0)?, report_json: row.get(1)?, markdown: row.get(2)?, html: row.get(3)? }))
            .optional()?;
        found.ok_or_else(|| no_report(id))
    }

    /// The search tree of an incident, JSON; `NotFound` where there is none yet.
    pub fn tree(&self, id: i64) -> Result<String, StoreError> {
        let db = self.connection();
        let mut select = db.prepare_cached("SELECT tree FROM diagnoses WHERE incident = ?")?;
        select.query_row([id], |row| row.get(0)).optional()?.ok_or_else(|| no_report(id))
    }

    /// Records the true cause of an incident, as somebody says it was.
    pub fn label(&self, id: i64, cause: &str, note: &str) -> Result<(), StoreError> {
        self.write(|tx| {
            require(tx, id)?;
            let sql = "INSERT INTO feedback(incident, at, cause, note) VALUES(?, ?, ?, ?)";
            tx.execute(sql, params![id, now(), cause, note])?;
            Ok(())
        })
    }

    /// All that was said about an incident, the oldest first.
    pub fn feedback(&self, id: i64) -> Result<Vec<Feedback>, StoreError> {
        let db = self.connection();
        let mut select = db.prepare_cached("SELECT at, cause, note FROM feedback WHERE incident = ? ORDER BY id")?;
        let rows = select.query_map([id], |row| Ok(Feedback { at: row.get(0)?, cause: row.get(1)?, note: row.get(2)? }))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn no_report(id: i64) -> StoreError {
    StoreError::new(StoreErrorKind::NotFound, format!("incident {id} has no report (yet)"))
}
