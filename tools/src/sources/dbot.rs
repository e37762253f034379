//! Import of D-Bot's recorded anomaly cases. Labels, commands and descriptions are the answer key: never read here.

use std::collections::BTreeMap;

use crate::capture::{Capture, FORMAT, Manifest, Missing};
use crate::model::*;

mod case;
pub(super) mod statement;

use super::names::{self, Names};
use case::Case;
use statement::Statement;

/// The largest text that is parsed, bytes.
const MAX_TEXT: usize = 32 << 20;
/// Metrics and statements beyond this many are refused.
const MAX_ITEMS: usize = 20_000;
/// A recording longer than this is absurd, milliseconds (31 days).
const MAX_SPAN: i64 = 31 * 86_400_000;
/// Start of the year 2200, milliseconds.
const LATEST: i64 = 7_258_118_400_000;

/// What is wrong with a case, for callers that decide by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportErrorKind {
    /// Not JSON.
    NotJson,
    /// JSON of another shape than a recorded case.
    Shape,
    /// No metric holds a sample.
    Empty,
    /// Start and end make no sense.
    Time,
    /// More than an import takes.
    TooLarge,
}

/// A case that cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {message}")]
pub struct ImportError {
    /// What is wrong.
    pub kind: ImportErrorKind,
    name: String,
    message: String,
}

/// Turns one recorded case (the JSON of a `testing_cases_*.json` file) into a capture called `name`.
///
/// Metrics are placed at equal steps from start to end; those with a canonical name are converted, the rest keep
/// their own name and have no unit. The labels stay empty.
pub fn import(text: &str, name: &str) -> Result<Capture, ImportError> {
    build(text, name).map_err(|(kind, message)| {
        let message = message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
        ImportError { kind, name: name.to_owned(), message }
    })
}

/// An error before it knows its file.
type Flaw = (ImportErrorKind, String);

fn build(text: &str, name: &str) -> Result<Capture, Flaw> {
    if text.len() > MAX_TEXT {
        return Err((ImportErrorKind::TooLarge, format!("{} bytes, above the limit of {MAX_TEXT}", text.len())));
    }
    let case: Case = serde_json::from_str(text).map_err(|error| case::flaw_of(&error))?;
    let span = span_of(&case)?;
    let alerts = alerts_of(&case)?;
    let mut capture = Capture {
        manifest: Manifest {
            format: FORMAT,
            name: name.to_owned(),
            galen_version: env!("CARGO_PKG_VERSION").to_owned(),
            origin: "dbot".to_owned(),
            target: alerts.iter().find_map(|alert| alert.labels.get("instance").cloned()).unwrap_or_else(|| "dbot".into()),
            span: Some(span),
            missing: gaps(),
            ..Manifest::default()
        },
        series: series_of(&case, span)?,
        alerts,
        ..Capture::default()
    };
    add_statements(&mut capture, &case, span)?;
    Ok(capture)
}

fn span_of(case: &Case) -> Result<Window, Flaw> {
    let (start, end) = (case.start_time.ms(), case.end_time.ms());
    let (Some(start), Some(end)) = (start, end) else {
        return Err((ImportErrorKind::Time, "start_time and end_time must be seconds since 1970".into()));
    };
    if start < 0 || end > LATEST || end <= start || end - start > MAX_SPAN {
        return Err((ImportErrorKind::Time, format!("the recording from {start} ms to {end} ms is absurd")));
    }
    // Half open: the last sample lies at `end`.
    Ok(Window { start, end: end + 1 })
}

fn series_of(case: &Case, span: Window) -> Result<BTreeMap<String, Series>, Flaw> {
    let map = Names::load(names::DBOT);
    let mut all = BTreeMap::new();
    for (group, metrics) in &case.exceptions {
        for (source, samples) in metrics {
            let (name, series) = one_series(&map, source, &samples.0, span);
            // Two sources of one signal, or one metric in two groups: the first stands, the other stays visible.
            let free = [name, source.clone(), format!("{source}{{group={group:?}}}")];
            if let Some(name) = free.into_iter().find(|name| !all.contains_key(name)).filter(|_| !series.times.is_empty()) {
                all.insert(name, series);
            }
        }
    }
    match all.len() {
        0 => Err((ImportErrorKind::Empty, "no metric under `exceptions` holds a sample".into())),
        n if n > MAX_ITEMS => Err((ImportErrorKind::TooLarge, format!("{n} metrics, above the limit of {MAX_ITEMS}"))),
        _ => Ok(all),
    }
}

fn one_series(map: &Names, source: &str, samples: &[f64], span: Window) -> (String, Series) {
    let (name, unit, convert) = map.resolve(source);
    let mut series = Series { unit, ..Series::default() };
    let steps = samples.len().saturating_sub(1).max(1) as f64;
    let length = (span.end - 1 - span.start) as f64;
    for (index, value) in samples.iter().enumerate() {
        let offset = (length * index as f64 / steps).round() as i64;
        // `push` drops what is missing (not a number).
        series.push(span.start + offset, convert.apply(*value));
    }
    (name, series)
}

fn alerts_of(case: &Case) -> Result<Vec<Alert>, Flaw> {
    let mut alerts = Vec::new();
    for received in case.alerts.iter().flat_map(|payload| &payload.alerts) {
        let starts_at = case::instant(&received.starts_at)
            .ok_or_else(|| (ImportErrorKind::Time, format!("an alert starts at {:?}", received.starts_at)))?;
        alerts.push(Alert {
            fingerprint: received.fingerprint.clone(),
            name: received.labels.get("alertname").cloned().unwrap_or_default(),
            status: received.status.clone(),
            source: "alertmanager".into(),
            starts_at,
            // Alertmanager writes the year 1 for "not ended".
            ends_at: case::instant(&received.ends_at).filter(|ends_at| *ends_at >= starts_at),
            labels: received.labels.clone(),
            summary: received.annotations.summary.clone(),
        });
    }
    alerts.sort_by_key(|alert| alert.starts_at);
    Ok(alerts)
}

fn add_statements(capture: &mut Capture, case: &Case, span: Window) -> Result<(), Flaw> {
    let count = case.workload.len() + case.slow_queries.len();
    if count > MAX_ITEMS {
        return Err((ImportErrorKind::TooLarge, format!("{count} statements, above the limit of {MAX_ITEMS}")));
    }
    let end = span.end - 1;
    let mut calls: BTreeMap<i64, f64> = BTreeMap::new();
    for (sql, count) in &case.workload {
        if !(count.is_finite() && *count >= 0.0) {
            return Err((ImportErrorKind::Shape, format!("a statement of the workload ran {count} times")));
        }
        let statement = Statement::read(sql);
        let first = !calls.contains_key(&statement.id);
        *calls.entry(statement.id).or_default() += count;
        if first {
            add_index(capture, &statement, span);
        }
        capture.texts.insert(statement.id, statement.text);
    }
    for (at, share) in [(span.start, 0.0), (end, 1.0)] {
        let samples =
            calls.iter().map(|(id, calls)| StatementSample { at, query_id: *id, calls: calls * share, ..StatementSample::default() });
        capture.statements.extend(samples);
    }
    for sql in &case.slow_queries {
        let Statement { id, text, .. } = Statement::read(sql);
        capture.events.push(Event { at: end, source: "log".into(), kind: "slow_query".into(), object: id.to_string(), text: text.clone() });
        capture.texts.insert(id, text);
    }
    Ok(())
}

/// The case does not say when an index was made: at the start of the recording, and there at its end.
fn add_index(capture: &mut Capture, statement: &Statement, span: Window) {
    let Some(index) = &statement.creates else {
        return;
    };
    capture.events.push(Event {
        at: span.start,
        source: "log".into(),
        kind: "index_created".into(),
        object: index.name.clone(),
        text: format!("index {} created on {} ({})", index.name, index.table, index.columns.join(", ")),
    });
    capture.indexes.push(IndexSample {
        at: span.end - 1,
        index: index.name.clone(),
        table: index.table.clone(),
        constraint: index.unique,
        valid: true,
        columns: index.columns.clone(),
        definition: statement.text.clone(),
        ..IndexSample::default()
    });
}

/// What no recorded case holds, so that a diagnosis says so instead of reading zeros.
fn gaps() -> Vec<Missing> {
    let gap = |what: &str, why: &str| Missing::new(what, why, "record the workload with `galen record`");
    vec![
        gap("sessions", "the recorded case holds no sessions and no locks"),
        gap("statement_times", "the recorded case counts executions but holds no execution times (0 means unknown)"),
        gap("index_usage", "the recorded case holds no sizes and no scans of indexes (0 means unknown)"),
    ]
}

#[cfg(test)]
#[path = "dbot/tests.rs"]
mod tests;
