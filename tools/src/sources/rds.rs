//! Import of an RDS incident: a folder of answers of AWS's own APIs (CloudWatch GetMetricData, Performance Insights,
//! RDS DescribeEvents, parameter groups) and the alert. A file is told by what is in it, never by its name.

use crate::capture::{Capture, FORMAT, Manifest, Missing};
use crate::model::{Alert, UnixMs, Window};

mod alert;
mod answer;
mod events;
mod field;
mod insights;
mod metrics;
mod table;

use answer::{Answer, Answers};
use table::Table;

/// The largest answer that is parsed, bytes: several times what one call returns.
pub const MAX_BYTES: usize = 16 << 20;
/// Metrics, events and statements beyond this many are refused.
const MAX_ITEMS: usize = 20_000;
/// A recording longer than this is absurd, milliseconds (31 days).
const MAX_SPAN: i64 = 31 * 86_400_000;

/// An incident that cannot be imported: one line that says what is wrong and in which file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ImportError(String);

/// A message before it knows its file. Messages quote the file.
fn flaw(text: impl std::fmt::Display) -> ImportError {
    ImportError(field::clean(&text.to_string(), 300))
}

/// Turns the answers of one incident into a capture called `name`. Each file is its name (for messages only) and its
/// bytes. Metrics with a canonical name are converted, the rest keep their own and have no unit; what an instance
/// publishes and the files lack becomes a [`Missing`], never zero.
///
/// # Errors
/// A file that is no such answer, one that is too large, or files without a single sample.
pub fn import(files: &[(String, Vec<u8>)], name: &str) -> Result<Capture, ImportError> {
    let table = Table::load();
    let mut answers = Answers::default();
    for (file, bytes) in files {
        let of_file = |e: ImportError| flaw(format!("{file}: {e}"));
        if bytes.len() > MAX_BYTES {
            return Err(of_file(flaw(format!("{} bytes, above the limit of {MAX_BYTES}", bytes.len()))));
        }
        let json = serde_json::from_slice(bytes).map_err(|e| of_file(flaw(format!("not JSON: {e}"))))?;
        Answer::read(&json, &table, &mut answers).map_err(of_file)?;
    }
    build(answers, &table, name)
}

fn build(answers: Answers, table: &Table, name: &str) -> Result<Capture, ImportError> {
    let count = answers.metrics.len() + answers.events.len() + answers.insights.loads.len();
    if count > MAX_ITEMS {
        return Err(flaw(format!("{count} metrics, events and statements, above the limit of {MAX_ITEMS}")));
    }
    let target = answers.target();
    let mut capture = Capture {
        manifest: Manifest {
            format: FORMAT,
            name: name.to_owned(),
            galen_version: env!("CARGO_PKG_VERSION").to_owned(),
            origin: "rds".to_owned(),
            target: if target.is_empty() { "rds".to_owned() } else { target.clone() },
            ..Manifest::default()
        },
        ..Capture::default()
    };
    metrics::place(&answers, table, &target, &mut capture);
    insights::place(&answers.insights, &mut capture);
    let span = span_of(&capture)?;
    capture.manifest.span = Some(span);
    events::place(&answers, span, &mut capture);
    capture.settings.extend(answers.settings.clone());
    capture.alerts = answers.alerts.iter().map(|a| Alert { starts_at: a.starts_at.max(0), ..a.clone() }).collect();
    for alert in capture.alerts.iter_mut().filter(|a| a.starts_at == 0) {
        alert.starts_at = span.end;
    }
    capture.manifest.missing = gaps(&answers, table, &capture);
    Ok(capture)
}

/// From the first sample to the end of the last period.
fn span_of(capture: &Capture) -> Result<Window, ImportError> {
    let ends = |s: &crate::model::Series| Some((*s.times.first()?, *s.times.last()? + period(&s.times)));
    let span = capture.series.values().filter_map(ends).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
    let Some((start, end)) = span else { return Err(flaw("no metric holds a sample")) };
    if end - start > MAX_SPAN {
        return Err(flaw(format!("the samples span {} days; an incident spans at most 31", (end - start) / 86_400_000)));
    }
    Ok(Window { start, end })
}

/// Median distance of samples in milliseconds; 1 where there is only one.
fn period(times: &[UnixMs]) -> i64 {
    let mut gaps: Vec<i64> = times.windows(2).map(|w| w[1] - w[0]).collect();
    gaps.sort_unstable();
    gaps.get(gaps.len() / 2).copied().unwrap_or(1)
}

/// What could not be seen.
fn gaps(answers: &Answers, table: &Table, capture: &Capture) -> Vec<Missing> {
    let mut gaps = vec![
        Missing::new(
            "sessions",
            "CloudWatch and Performance Insights keep averages: no single session and no lock is in them",
            "let Galen watch the instance itself (`galen record --dsn ...`); a role with pg_monitor is enough",
        ),
        Missing::new(
            "tables and indexes",
            "AWS's APIs give no counters of tables and indexes",
            "let Galen watch the instance itself (`galen record --dsn ...`)",
        ),
    ];
    let replicated = answers.replica().is_some() || capture.events.iter().any(|e| e.kind.starts_with("replication"));
    for (source, signal) in table.expected(replicated) {
        if !capture.series.contains_key(signal) {
            gaps.push(Missing::new(
                source,
                format!("the metric {source} has no datapoint in this period"),
                format!("see whether CloudWatch publishes {source} for this instance, and query it again"),
            ));
        }
    }
    for (metric, status) in &answers.partial {
        gaps.push(Missing::new(
            metric.clone(),
            format!("CloudWatch answered {status}"),
            "query it again: some datapoints are not in the answer",
        ));
    }
    if answers.insights.is_empty() {
        gaps.push(Missing::new(
            "Performance Insights",
            "no answer of Performance Insights is among the files",
            "aws pi describe-dimension-keys --metric db.load.avg --group-by Group=db.sql_tokenized --partition-by Group=db.wait_event ...",
        ));
    }
    if !answers.has_events {
        gaps.push(Missing::new(
            "RDS events",
            "no answer of DescribeEvents is among the files",
            "aws rds describe-events --duration 1440 ...",
        ));
    }
    gaps
}

#[cfg(test)]
#[path = "rds/tests.rs"]
mod tests;
