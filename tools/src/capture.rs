//! A capture: a frozen, portable, replayable slice of everything Galen saw of a target.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::*;
use crate::probe::ProbeAnswer;

/// Version of the capture's content; a reader refuses newer ones.
pub const FORMAT: u32 = 1;

/// What is missing when a target cannot be reached at all.
pub const TARGET: &str = "the target";

/// Everything a diagnosis may look at. Kept sorted by time; `store` writes and reads it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Capture {
    /// What this capture is of, and how it was made.
    pub manifest: Manifest,
    /// Canonical signals by rendered name (`active_sessions{wait_class="Lock"}`).
    pub series: BTreeMap<String, Series>,
    /// Active session history.
    pub sessions: Vec<SessionSample>,
    /// Locks waited for, and those held by blockers.
    pub locks: Vec<LockSample>,
    /// pg_stat_statements counters, cumulative.
    pub statements: Vec<StatementSample>,
    /// Normalised text by query id: no literals.
    pub texts: BTreeMap<i64, String>,
    /// Table counters, cumulative.
    pub tables: Vec<TableSample>,
    /// Indexes.
    pub indexes: Vec<IndexSample>,
    /// Run-time settings by name.
    pub settings: BTreeMap<String, Setting>,
    /// Replicas, slots, prepared transactions.
    pub holders: Vec<HolderSample>,
    /// Things that happened.
    pub events: Vec<Event>,
    /// Alerts that led here.
    pub alerts: Vec<Alert>,
    /// Answers to on-demand probes, frozen so that a replay sees what the live diagnosis saw. Key: `ProbeCall::key`.
    pub answers: BTreeMap<String, ProbeAnswer>,
    /// What collecting cost the target.
    pub bill: Vec<ProbeCost>,
}

/// What a labelled capture may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Half {
    /// Ratios, signatures and skill may be learnt from it.
    Learn,
    /// Only to be scored.
    Test,
}

impl Half {
    /// `learn` or `test`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Learn => "learn",
            Self::Test => "test",
        }
    }
}

/// Head of a capture.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] at the time of writing.
    pub format: u32,
    /// Name of the capture: the file's stem.
    pub name: String,
    /// Version of Galen that wrote it.
    pub galen_version: String,
    /// `live`, `dbot`, ...
    pub origin: String,
    /// Name of the target.
    pub target: String,
    /// `server_version_num`, 0 when unknown.
    pub server_version_num: i32,
    /// Logical CPUs of the host, if known.
    pub cpus: Option<u32>,
    /// Host memory in bytes, if known.
    pub memory_bytes: Option<f64>,
    /// First and last sample.
    pub span: Option<Window>,
    /// Cause ids, where somebody who knows has labelled it. A diagnosis never reads this.
    pub labels: Vec<String>,
    /// What could not be seen, why, and what to do: shown in the report.
    pub missing: Vec<Missing>,
    /// Wall time of the diagnosis that was made when this was live, milliseconds.
    pub diagnosed_in_ms: Option<u64>,
    /// The half that it belongs to, where an importer knows the rule that its benchmark published. A diagnosis never
    /// reads this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half: Option<Half>,
}

/// A gap in what Galen could see.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Missing {
    /// What is missing, such as `pg_stat_statements`.
    pub what: String,
    /// Why, in one line.
    pub why: String,
    /// What to do, in one line (a statement where there is one).
    pub fix: String,
    /// When it ended, for a gap that is over: it is forgotten with the history around it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<UnixMs>,
}

impl Missing {
    /// A gap that goes on.
    pub fn new(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into(), fix: fix.into(), at: None }
    }
}

impl Capture {
    /// First to last instant that any series or sample covers; the manifest's span when it has one.
    pub fn span(&self) -> Option<Window> {
        if self.manifest.span.is_some() {
            return self.manifest.span;
        }
        let times = self.series.values().filter_map(|s| Some((*s.times.first()?, *s.times.last()?)));
        let (start, end) = times.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
        Some(Window { start, end: end + 1 })
    }
}

/// What one turn of a collector saw: a small capture that is merged into a growing one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Frame {
    /// When the turn was taken.
    pub at: UnixMs,
    /// Signal values: rendered name, unit, value.
    pub values: Vec<(String, &'static str, f64)>,
    /// See [`Capture`].
    pub sessions: Vec<SessionSample>,
    /// See [`Capture`].
    pub locks: Vec<LockSample>,
    /// See [`Capture`].
    pub statements: Vec<StatementSample>,
    /// See [`Capture`].
    pub texts: BTreeMap<i64, String>,
    /// See [`Capture`].
    pub tables: Vec<TableSample>,
    /// See [`Capture`].
    pub indexes: Vec<IndexSample>,
    /// See [`Capture`].
    pub settings: BTreeMap<String, Setting>,
    /// See [`Capture`].
    pub holders: Vec<HolderSample>,
    /// See [`Capture`].
    pub events: Vec<Event>,
    /// What the probes of this turn cost; merged by probe name.
    pub bill: Vec<ProbeCost>,
    /// Gaps found since the last frame.
    pub missing: Vec<Missing>,
}

impl Capture {
    /// Merges a frame. Series drop samples that are not newer than their last.
    pub fn absorb(&mut self, frame: Frame) {
        for (name, unit, value) in frame.values {
            let series = self.series.entry(name).or_default();
            if series.unit.is_empty() {
                series.unit = unit.to_owned();
            }
            series.push(frame.at, value);
        }
        self.sessions.extend(frame.sessions);
        self.locks.extend(frame.locks);
        self.statements.extend(frame.statements);
        self.texts.extend(frame.texts);
        self.tables.extend(frame.tables);
        self.indexes.extend(frame.indexes);
        self.settings.extend(frame.settings);
        self.holders.extend(frame.holders);
        self.events.extend(frame.events);
        for cost in frame.bill {
            match self.bill.iter_mut().find(|known| known.probe == cost.probe) {
                Some(known) => {
                    known.runs += cost.runs;
                    known.failures += cost.failures;
                    known.total_ms += cost.total_ms;
                    known.max_ms = known.max_ms.max(cost.max_ms);
                }
                None => self.bill.push(cost),
            }
        }
        for gap in frame.missing {
            if !self.manifest.missing.contains(&gap) {
                self.manifest.missing.push(gap);
            }
        }
    }

    /// Forgets everything older than `before`, so that a daemon's rolling history stays small.
    pub fn trim(&mut self, before: UnixMs) {
        self.series.retain(|_, series| {
            let keep = series.times.partition_point(|t| *t < before);
            series.times.drain(..keep);
            series.values.drain(..keep);
            !series.times.is_empty()
        });
        self.sessions.retain(|s| s.at >= before);
        self.locks.retain(|s| s.at >= before);
        self.statements.retain(|s| s.at >= before);
        self.tables.retain(|s| s.at >= before);
        self.indexes.retain(|s| s.at >= before);
        self.holders.retain(|s| s.at >= before);
        self.events.retain(|s| s.at >= before);
        self.manifest.missing.retain(|gap| gap.at.is_none_or(|at| at >= before));
    }

    /// A copy of what lies at or after `from`: the freeze of an incident.
    pub fn since(&self, from: UnixMs) -> Capture {
        let mut copy = self.clone();
        copy.trim(from);
        copy
    }
}
