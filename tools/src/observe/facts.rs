//! Measures over a window and over the baseline, and the sheet that facts are written on.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::capture::Capture;
use crate::detect::stats::median;
use crate::model::{Culprit, CulpritKind, SessionSample, StatementSample, TableSample, Window};
use crate::observe::{Observation, Scene, activity};

/// Longest text in a fact, characters.
const MOST_TEXT: usize = 2_000;

/// Fewer sessions seen active than this say nothing of how a time was spent.
pub const LEAST_SEEN: f64 = 5.0;

/// Collects facts, signals and culprits of one observation.
pub struct FactSheet<'s> {
    scene: &'s Scene<'s>,
    observation: Observation,
}

impl<'s> FactSheet<'s> {
    /// An empty sheet for a tool.
    pub fn new(tool: &str, scene: &'s Scene<'s>) -> Self {
        let window = window(scene);
        let invocation = format!("{tool} window={window}");
        Self { scene, observation: Observation { tool: tool.to_owned(), invocation, window: Some(window), ..Observation::default() } }
    }

    /// Writes a fact; nothing when it is not known.
    pub fn put(&mut self, name: &str, value: impl IntoFact) -> &mut Self {
        if let Some(value) = value.into_fact() {
            self.observation.facts.insert(name.to_owned(), value);
        }
        self
    }

    /// Writes a measure with its `_base` and, when `floor` is given, its `_ratio` (denominator not below the floor).
    pub fn put_pair(&mut self, name: &str, now: Option<f64>, base: Option<f64>, floor: Option<f64>) -> &mut Self {
        self.put(name, now);
        self.put(&format!("{name}_base"), base);
        if let (Some(now), Some(base), Some(floor)) = (now, base, floor) {
            self.put(&format!("{name}_ratio"), (now.max(floor) / base.max(floor)).min(1000.0));
        }
        self
    }

    /// Names signals that show it, those that the capture holds.
    pub fn signals(&mut self, names: &[&str]) -> &mut Self {
        let held = names.iter().filter(|n| self.scene.capture.series.contains_key(**n)).map(|n| (*n).to_owned());
        self.observation.signals.extend(held);
        self
    }

    /// Points at something.
    pub fn culprit(&mut self, kind: CulpritKind, id: impl ToString, text: &str) -> &mut Self {
        self.observation.culprits.push(Culprit { kind, id: id.to_string(), text: cut(text) });
        self
    }

    /// Points at a statement and writes its id and text as facts with a prefix (`insert_` gives `insert_query_id`).
    pub fn statement(&mut self, prefix: &str, query_id: i64) -> &mut Self {
        let text = text_of(self.scene.capture, query_id);
        self.put(&format!("{prefix}query_id"), query_id.to_string());
        self.put(&format!("{prefix}text"), text.clone());
        self.culprit(CulpritKind::Query, query_id, &text.unwrap_or_default())
    }

    /// The cost of asking the target.
    pub fn cost(&mut self, ms: f64) -> &mut Self {
        self.observation.cost_ms += ms;
        self
    }

    /// The observation; one without facts says why.
    pub fn finish(mut self, nothing: &str) -> Observation {
        if self.observation.facts.is_empty() {
            self.observation.no_data = Some(nothing.to_owned());
        }
        self.observation
    }
}

/// Values that can be a fact.
pub trait IntoFact {
    /// The fact, none when unknown or not finite.
    fn into_fact(self) -> Option<Value>;
}

impl IntoFact for f64 {
    fn into_fact(self) -> Option<Value> {
        // Rounded, so that a replay on another machine prints the same digits.
        // An empty sum is -0: plus 0 it is 0.
        self.is_finite().then(|| Value::from((self * 1e6).round() / 1e6 + 0.0))
    }
}
impl IntoFact for usize {
    fn into_fact(self) -> Option<Value> {
        Some(Value::from(self))
    }
}
impl IntoFact for i64 {
    fn into_fact(self) -> Option<Value> {
        Some(Value::from(self))
    }
}
impl IntoFact for bool {
    fn into_fact(self) -> Option<Value> {
        Some(Value::from(self))
    }
}
impl IntoFact for String {
    fn into_fact(self) -> Option<Value> {
        Some(Value::from(cut(&self)))
    }
}
impl IntoFact for &str {
    fn into_fact(self) -> Option<Value> {
        self.to_owned().into_fact()
    }
}
impl IntoFact for Vec<String> {
    fn into_fact(self) -> Option<Value> {
        Some(Value::from(self))
    }
}
impl<T: IntoFact> IntoFact for Option<T> {
    fn into_fact(self) -> Option<Value> {
        self.and_then(T::into_fact)
    }
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').take(MOST_TEXT).collect()
}

/// The anomalous window, or the whole span where none was found.
pub fn window(scene: &Scene<'_>) -> Window {
    scene.detection.window.or_else(|| scene.capture.span()).unwrap_or(Window { start: 0, end: 0 })
}

/// Normalised text of a statement.
pub fn text_of(capture: &Capture, query_id: i64) -> Option<String> {
    capture.texts.get(&query_id).map(|t| cut(t))
}

/// Mean of a signal over a window.
pub fn mean(capture: &Capture, signal: &str, window: Option<Window>) -> Option<f64> {
    let values = capture.series.get(signal)?.within(window?);
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Median of a signal over a window.
pub fn middle(capture: &Capture, signal: &str, window: Option<Window>) -> Option<f64> {
    median(&mut capture.series.get(signal)?.within(window?).to_vec())
}

/// Largest value of a signal over a window.
pub fn peak(capture: &Capture, signal: &str, window: Option<Window>) -> Option<f64> {
    capture.series.get(signal)?.within(window?).iter().copied().reduce(f64::max)
}

/// A run-time setting as a number in its base unit: bytes, milliseconds, or as it is.
pub fn setting(capture: &Capture, name: &str) -> Option<f64> {
    let setting = capture.settings.get(name)?;
    let factor = match setting.unit.as_str() {
        "B" | "" | "ms" => 1.0,
        "kB" => 1024.0,
        "8kB" => 8192.0,
        "MB" => 1_048_576.0,
        "GB" => 1_073_741_824.0,
        "s" => 1_000.0,
        "min" => 60_000.0,
        _ => return None,
    };
    setting.value.parse::<f64>().ok().map(|v| v * factor)
}

/// True for a setting that is `on`.
pub fn setting_on(capture: &Capture, name: &str) -> Option<bool> {
    capture.settings.get(name).map(|s| s.value == "on")
}

/// Samples of the active session history of client backends that are active, inside a window.
pub fn active(capture: &Capture, window: Option<Window>) -> impl Iterator<Item = &SessionSample> {
    let window = window.unwrap_or(Window { start: 0, end: 0 });
    capture.sessions.iter().filter(move |s| window.contains(s.at) && s.state == "active" && s.backend_type == "client backend")
}

/// Distinct sample times in a window: the number of looks at the sessions. Counted by a signal that every look writes;
/// none where that signal comes from somebody who kept averages only.
pub fn looks(capture: &Capture, window: Option<Window>) -> f64 {
    if !activity::sampled(capture) {
        return 0.0;
    }
    let by_signal = window.and_then(|w| capture.series.get("active_sessions").map(|s| s.within(w).len()));
    by_signal.unwrap_or(0) as f64
}

/// Database time of statements from the session history, in session-seconds per second, by query id.
pub fn time_by_statement(capture: &Capture, window: Option<Window>) -> BTreeMap<i64, f64> {
    let looks = looks(capture, window).max(1.0);
    let mut time = BTreeMap::new();
    for sample in active(capture, window).filter(|s| s.query_id != 0) {
        *time.entry(sample.query_id).or_insert(0.0) += 1.0 / looks;
    }
    time
}

/// What a statement did over a window, from its cumulative counters.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Work {
    pub seconds: f64,
    pub calls: f64,
    pub exec_ms: f64,
    pub rows: f64,
    pub blks: f64,
    pub read_blks: f64,
    pub temp_blks: f64,
    pub wal_bytes: f64,
    pub jit_ms: f64,
    pub is_new: bool,
}

impl Work {
    /// A measure per call, none without calls.
    pub fn per_call(&self, measure: f64) -> Option<f64> {
        (self.calls >= 0.5).then(|| measure / self.calls)
    }

    /// A measure per second.
    pub fn per_s(&self, measure: f64) -> Option<f64> {
        (self.seconds > 0.0).then(|| measure / self.seconds)
    }
}

/// Work of every statement over a window: the last sample at or before its start against the last inside it.
/// A statement that was not there before counts from zero where other statements were.
pub fn work(capture: &Capture, window: Option<Window>) -> BTreeMap<i64, Work> {
    let Some(window) = window else { return BTreeMap::new() };
    let times: Vec<i64> = {
        let mut t: Vec<i64> = capture.statements.iter().map(|s| s.at).collect();
        t.sort_unstable();
        t.dedup();
        t
    };
    let Some((from, to)) = bracket(&times, window) else { return BTreeMap::new() };
    let mut first: BTreeMap<i64, &StatementSample> = BTreeMap::new();
    let mut last: BTreeMap<i64, &StatementSample> = BTreeMap::new();
    for sample in &capture.statements {
        if sample.at <= from {
            first.insert(sample.query_id, sample);
        } else if sample.at <= to {
            last.insert(sample.query_id, sample);
        }
    }
    let zero = StatementSample::default();
    let seconds = (to - from) as f64 / 1000.0;
    last.into_iter()
        .filter_map(|(id, after)| {
            let before = first.get(&id).copied().unwrap_or(&zero);
            let work = Work {
                seconds,
                calls: after.calls - before.calls,
                exec_ms: after.total_exec_ms - before.total_exec_ms,
                rows: after.rows - before.rows,
                blks: after.shared_blks_hit + after.shared_blks_read - before.shared_blks_hit - before.shared_blks_read,
                read_blks: after.shared_blks_read - before.shared_blks_read,
                temp_blks: after.temp_blks_read + after.temp_blks_written - before.temp_blks_read - before.temp_blks_written,
                wal_bytes: after.wal_bytes - before.wal_bytes,
                jit_ms: after.jit_ms - before.jit_ms,
                is_new: before.calls < 0.5,
            };
            // A counter that ran backwards was reset: unknown.
            (work.calls > 0.0 && work.exec_ms >= 0.0).then_some((id, work))
        })
        .collect()
}

/// What happened to a table over a window.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)]
pub struct TableWork {
    pub seconds: f64,
    pub seq_scans: f64,
    pub seq_rows: f64,
    /// Rows read by sequential and index scans; an index scan that filters most of them away reads them all.
    pub rows_read: f64,
    /// Sequential and index scans.
    pub scans: f64,
    pub inserted: f64,
    pub updated: f64,
    pub hot_updated: f64,
    pub deleted: f64,
    pub dead_growth: f64,
    pub growth_bytes: f64,
    pub autovacuums: f64,
    pub before: TableSample,
    pub after: TableSample,
}

impl TableWork {
    /// Rows written.
    pub fn writes(&self) -> f64 {
        self.inserted + self.updated + self.deleted
    }
}

/// Work on every table over a window.
pub fn table_work(capture: &Capture, window: Option<Window>) -> BTreeMap<String, TableWork> {
    let Some(window) = window else { return BTreeMap::new() };
    let mut times: Vec<i64> = capture.tables.iter().map(|s| s.at).collect();
    times.sort_unstable();
    times.dedup();
    let Some((from, to)) = bracket(&times, window) else { return BTreeMap::new() };
    // Each table's longest run of samples without a fall of its counters.
    let mut runs: BTreeMap<&str, Run<'_>> = BTreeMap::new();
    for sample in capture.tables.iter().filter(|s| s.at <= to) {
        let run = runs.entry(&sample.table).or_insert_with(|| Run::new(sample));
        if sample.at <= from {
            *run = Run::new(sample);
        } else {
            run.push(sample);
        }
    }
    runs.into_iter()
        .filter_map(|(table, run)| {
            let (before, after) = run.longest;
            let seconds = (after.at - before.at) as f64 / 1000.0;
            if seconds <= 0.0 {
                return None;
            }
            let work = TableWork {
                seconds,
                seq_scans: after.seq_scan - before.seq_scan,
                seq_rows: after.seq_tup_read - before.seq_tup_read,
                rows_read: after.seq_tup_read + after.idx_tup_fetch - before.seq_tup_read - before.idx_tup_fetch,
                scans: after.seq_scan + after.idx_scan - before.seq_scan - before.idx_scan,
                inserted: after.n_tup_ins - before.n_tup_ins,
                updated: after.n_tup_upd - before.n_tup_upd,
                hot_updated: after.n_tup_hot_upd - before.n_tup_hot_upd,
                deleted: after.n_tup_del - before.n_tup_del,
                dead_growth: after.n_dead_tup - before.n_dead_tup,
                growth_bytes: after.table_bytes - before.table_bytes,
                autovacuums: after.autovacuum_count - before.autovacuum_count,
                before: before.clone(),
                after: after.clone(),
            };
            (work.seq_rows >= 0.0 && work.inserted >= 0.0).then(|| (table.to_owned(), work))
        })
        .collect()
}

/// Samples of one table in order, cut where a counter falls. The server adds up the counters of a table's indexes: when
/// one is dropped its past goes with it, and a difference across that moment means nothing.
struct Run<'c> {
    current: (&'c TableSample, &'c TableSample),
    longest: (&'c TableSample, &'c TableSample),
}

impl<'c> Run<'c> {
    fn new(sample: &'c TableSample) -> Self {
        Self { current: (sample, sample), longest: (sample, sample) }
    }

    fn push(&mut self, sample: &'c TableSample) {
        let (first, last) = self.current;
        let fell = sample.idx_scan < last.idx_scan || sample.idx_tup_fetch < last.idx_tup_fetch || sample.seq_scan < last.seq_scan;
        self.current = if fell { (sample, sample) } else { (first, sample) };
        if self.current.1.at - self.current.0.at >= self.longest.1.at - self.longest.0.at {
            self.longest = self.current;
        }
    }
}

/// The sample times that bracket a window best: the last at or before its start (else the first inside), the last inside.
fn bracket(times: &[i64], window: Window) -> Option<(i64, i64)> {
    let at = times.partition_point(|t| *t <= window.start);
    let from = if at > 0 { times[at - 1] } else { *times.first()? };
    let to = times[..times.partition_point(|t| *t <= window.end)].last().copied()?;
    (to > from).then_some((from, to))
}

/// Ratio with a floor under both sides, capped.
pub fn ratio(now: f64, base: f64, floor: f64) -> f64 {
    (now.max(floor) / base.max(floor)).min(1000.0)
}

/// The key with the largest value; ties go to the first.
pub fn largest<K: Clone + Ord>(counts: &BTreeMap<K, f64>) -> Option<(K, f64)> {
    let mut best: Option<(K, f64)> = None;
    for (key, value) in counts {
        if best.as_ref().is_none_or(|(_, top)| value > top) {
            best = Some((key.clone(), *value));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: i64, idx_scan: f64, idx_tup_fetch: f64, n_tup_ins: f64) -> TableSample {
        TableSample { at, table: "public.t".into(), idx_scan, idx_tup_fetch, n_tup_ins, ..TableSample::default() }
    }

    fn of(tables: Vec<TableSample>) -> Option<TableWork> {
        let capture = Capture { tables, ..Capture::default() };
        table_work(&capture, Some(Window { start: 10_000, end: 30_000 })).remove("public.t")
    }

    #[test]
    fn work_is_counted_over_the_samples_that_bracket_the_window() {
        let work = of(vec![sample(0, 5.0, 50.0, 1.0), sample(10_000, 10.0, 100.0, 2.0), sample(30_000, 30.0, 900.0, 6.0)]).unwrap();
        assert_eq!((work.seconds, work.scans, work.rows_read, work.inserted), (20.0, 20.0, 800.0, 4.0));
    }

    #[test]
    fn counting_starts_anew_where_a_dropped_index_took_its_past_away() {
        let work = of(vec![sample(10_000, 9_000.0, 9_000.0, 2.0), sample(20_000, 100.0, 500.0, 4.0), sample(30_000, 110.0, 80_500.0, 6.0)]);
        let work = work.unwrap();
        assert_eq!((work.seconds, work.scans, work.rows_read), (10.0, 10.0, 80_000.0));
        assert!(of(vec![sample(10_000, 9_000.0, 9_000.0, 2.0), sample(30_000, 100.0, 500.0, 4.0)]).is_none());
        let before = of(vec![sample(0, 10.0, 10.0, 0.0), sample(20_000, 30.0, 30.0, 0.0), sample(29_000, 5.0, 5.0, 0.0)]).unwrap();
        assert_eq!((before.seconds, before.scans), (20.0, 20.0), "the longer side of the fall");
    }
}
