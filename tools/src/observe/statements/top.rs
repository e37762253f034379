//! The statement whose database time grew most, and the mix of all.

use std::collections::BTreeMap;

use crate::model::Window;
use crate::observe::facts::{FactSheet, Work, active, looks, ratio, text_of, time_by_statement, window, work};
use crate::observe::{Observation, Scene, activity};
use crate::sql::{explainable, features};

use super::loaded;

/// Longest statement that a remedy repeats, bytes.
const MOST_EXPLAINED: usize = 1_000;
/// How long an anomaly may be at work before it is noticed, milliseconds.
const NOTICE_MS: i64 = 4_000;

/// The statement with the largest growth of database time.
pub(crate) fn top(scene: &Scene<'_>) -> Option<i64> {
    let mut before = time_by_statement(scene.capture, scene.detection.baseline);
    for load in activity::before(scene.capture, scene.detection.baseline) {
        *before.entry(load.query_id).or_insert(0.0) += load.sessions;
    }
    let grown = loaded(scene.capture, window(scene)).into_iter().map(|s| (s.id, s.load - before.get(&s.id).copied().unwrap_or(0.0)));
    grown.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(id, _)| id)
}

/// `top_statement`.
pub fn top_statement(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("top_statement", scene);
    sheet.signals(&["active_sessions", "statement_seconds_per_s"]);
    let w = window(scene);
    let Some(id) = top(scene) else { return sheet.finish("no statement was seen: is pg_stat_statements there?") };
    let now = work(capture, Some(w)).get(&id).copied();
    let base = work(capture, scene.detection.baseline).get(&id).copied();
    sheet.statement("", id);
    let text = text_of(capture, id);
    if let Some(f) = text.as_deref().and_then(features) {
        sheet.put("verb", f.verb).put("tables", f.tables);
    }
    if let Some(entry) = loaded(capture, w).into_iter().find(|s| s.id == id) {
        sheet.put("share", entry.share).put("seconds", entry.load * w.seconds());
    }
    rates(&mut sheet, now, base);
    samples(scene, &mut sheet, id);
    averages(scene, &mut sheet, id);
    sheet.finish("")
}

/// What a managed service says of the statement, where no session was sampled.
fn averages(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, id: i64) {
    let (capture, w) = (scene.capture, window(scene));
    let of: Vec<activity::Load> = activity::by_statement(capture, w).into_iter().filter(|l| l.query_id == id).collect();
    let total: f64 = of.iter().map(|l| l.sessions).sum();
    if total <= 0.0 {
        return;
    }
    let share = |class: &str| of.iter().filter(|l| class_of(&l.event) == class).map(|l| l.sessions).sum::<f64>() / total;
    sheet.put("cpu_share", share("CPU")).put("io_share", share("IO")).put("lock_share", share("Lock")).put("client_share", share("Client"));
    let top = of.iter().max_by(|a, b| a.sessions.total_cmp(&b.sessions));
    sheet.put("top_event", top.map(|l| l.event.clone())).put("sessions", total);
    sheet.put("calls_per_s", activity::calls_per_s(capture, id, w)).put("source", activity::source(capture));
    if let Some(f) = text_of(capture, id).as_deref().and_then(features) {
        let columns: Vec<String> = f.predicates.iter().map(|p| p.column.clone()).collect();
        sheet.put("predicate_columns", (!columns.is_empty()).then_some(columns));
        sheet.put("explainable", capture.texts.get(&id).and_then(|text| explainable(text)).filter(|sql| sql.len() <= MOST_EXPLAINED));
    }
}

/// `IO` of `IO:DataFileRead`.
pub(crate) fn class_of(event: &str) -> &str {
    event.split(':').next().unwrap_or(event)
}

fn rates(sheet: &mut FactSheet<'_>, now: Option<Work>, base: Option<Work>) {
    let both = |f: &dyn Fn(&Work) -> Option<f64>| (now.as_ref().and_then(f), base.as_ref().and_then(f));
    let (a, b) = both(&|w| w.per_s(w.calls));
    sheet.put_pair("calls_per_s", a, b, Some(0.5));
    let (a, b) = both(&|w| w.per_call(w.exec_ms));
    sheet.put("mean_ms", a).put("mean_ms_base", b).put("mean_ratio", a.zip(b).map(|(a, b)| ratio(a, b, 0.05)));
    let (a, b) = both(&|w| w.per_call(w.blks));
    sheet.put("blks_per_call", a).put("blks_per_call_base", b);
    let (a, b) = both(&|w| w.per_call(w.wal_bytes));
    sheet
        .put("wal_bytes_per_call", a)
        .put("wal_bytes_per_call_base", b)
        .put("wal_per_call_ratio", a.zip(b).map(|(a, b)| ratio(a, b, 50.0)));
    let Some(now) = now else { return };
    sheet.put("calls_ratio", base.map_or(1000.0, |b| ratio(now.calls / now.seconds, b.calls / b.seconds, 0.5)));
    sheet.put("rows_per_call", now.per_call(now.rows)).put("rows_per_s", now.per_s(now.rows));
    sheet.put("read_blks_per_call", now.per_call(now.read_blks)).put("temp_blks_per_call", now.per_call(now.temp_blks));
    if now.exec_ms > 0.0 {
        sheet.put("jit_share", (now.jit_ms / now.exec_ms).min(1.0));
    }
}

/// True for a statement of which the baseline shows nothing; none where nothing of the baseline could show it.
fn is_new(scene: &Scene<'_>, id: i64) -> Option<bool> {
    let (capture, base) = (scene.capture, scene.detection.baseline);
    base?;
    let (counted, followed) = (work(capture, base), activity::before(capture, base));
    let could_show = !counted.is_empty() || !followed.is_empty() || looks(capture, base) >= 1.0;
    let sampled = || active(capture, base).any(|s| s.query_id == id);
    let known = counted.get(&id).is_some_and(|b| b.calls > 0.0) || followed.iter().any(|l| l.query_id == id) || sampled();
    could_show.then_some(!known)
}

fn samples(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, id: i64) {
    let w = window(scene);
    let of: Vec<_> = active(scene.capture, Some(w)).filter(|s| s.query_id == id).collect();
    sheet.put("is_new", is_new(scene, id));
    if of.is_empty() {
        return;
    }
    let n = of.len() as f64;
    let share = |class: &str| of.iter().filter(|s| s.wait_class == class).count() as f64 / n;
    sheet.put("cpu_share", share("")).put("io_share", share("IO")).put("lock_share", share("Lock")).put("client_share", share("Client"));
    sheet.put("running_s", of.iter().filter_map(|s| s.query_age_ms).max().map(|ms| ms as f64 / 1000.0));
    sheet.put("sessions", n / looks(scene.capture, Some(w)).max(1.0));
}

/// The baseline without its last seconds: an anomaly begins before it is noticed, and its statements would count as known.
fn before(scene: &Scene<'_>) -> Option<Window> {
    let calm = scene.detection.baseline?;
    Some(Window { end: (calm.end - NOTICE_MS).max((calm.start + calm.end) / 2), ..calm })
}

/// `workload_mix`.
pub fn workload_mix(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("workload_mix", scene);
    sheet.signals(&["tps"]);
    let (now, base) = (work(capture, Some(window(scene))), work(capture, before(scene)));
    if now.is_empty() {
        return sheet.finish("statements were not counted: is pg_stat_statements there?");
    }
    let calls = |m: &BTreeMap<i64, Work>| (!m.is_empty()).then(|| m.values().map(|w| w.calls / w.seconds).sum::<f64>());
    let mean = |m: &BTreeMap<i64, Work>| {
        let n: f64 = m.values().map(|w| w.calls).sum();
        (n > 0.0).then(|| m.values().map(|w| w.exec_ms).sum::<f64>() / n)
    };
    sheet.put_pair("calls_per_s", calls(&now), calls(&base), Some(2.0));
    sheet.put("mean_ratio", mean(&now).zip(mean(&base)).map(|(a, b)| ratio(a, b, 0.05)));
    let known: Vec<(&Work, &Work)> = now.iter().filter_map(|(id, w)| Some((w, base.get(id)?))).filter(|(_, b)| b.calls >= 3.0).collect();
    sheet.put("statements_seen", known.len());
    sheet.put("statements_up", known.iter().filter(|(n, b)| ratio(n.calls / n.seconds, b.calls / b.seconds, 0.05) > 1.5).count());
    if !base.is_empty() {
        let total: f64 = now.values().map(|w| w.exec_ms).sum();
        let fresh: Vec<&Work> = now.iter().filter(|(id, _)| !base.contains_key(id)).map(|(_, w)| w).collect();
        sheet.put("new_statements", fresh.len()).put("new_share", fresh.iter().map(|w| w.exec_ms).sum::<f64>() / total.max(1e-9));
    }
    let total: f64 = now.values().map(|w| w.calls).sum();
    let writes: f64 = now
        .iter()
        .filter(|(id, _)| {
            capture.texts.get(id).and_then(|t| features(t)).is_some_and(|f| matches!(f.verb.as_str(), "insert" | "update" | "delete"))
        })
        .map(|(_, w)| w.calls)
        .sum();
    sheet.put("write_share", writes / total.max(1.0));
    sheet.finish("")
}
