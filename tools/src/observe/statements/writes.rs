//! Who writes what: rows, commits, and the statements behind them.

use std::collections::BTreeMap;

use crate::model::{CulpritKind, Window};
use crate::observe::facts::{FactSheet, TableWork, active, looks, mean, table_work, window, work};
use crate::observe::{Observation, Scene};
use crate::sql::{Features, features};

use super::{loaded, role_of, same_table};

/// `write_profile`.
pub fn write_profile(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("write_profile", scene);
    let w = Some(window(scene));
    let base = scene.detection.baseline;
    for (fact, signal) in [
        ("rows_inserted_per_s", "tup_inserted_per_s"),
        ("rows_updated_per_s", "tup_updated_per_s"),
        ("rows_deleted_per_s", "tup_deleted_per_s"),
        ("commits_per_s", "tps"),
        ("wal_bytes_per_s", "wal_bytes_rate"),
    ] {
        let floor = if fact == "wal_bytes_per_s" { 100_000.0 } else { 10.0 };
        sheet.put_pair(fact, mean(capture, signal, w), mean(capture, signal, base), Some(floor));
    }
    let written: f64 = ["tup_inserted_per_s", "tup_updated_per_s", "tup_deleted_per_s"].iter().filter_map(|s| mean(capture, s, w)).sum();
    sheet.put("rows_per_commit", mean(capture, "tps", w).filter(|t| *t > 0.5).map(|t| written / t));
    let mut cache = BTreeMap::new();
    let now = sessions(scene, w, &mut cache);
    let before = sessions(scene, base, &mut cache);
    if looks(capture, w) >= 1.0 {
        for verb in ["insert", "update", "delete", "select"] {
            let of = |m: &BTreeMap<String, f64>| Some(m.get(verb).copied().unwrap_or(0.0));
            sheet.put_pair(&format!("{verb}_sessions"), of(&now), base.and(of(&before)), None);
        }
    }
    tables(scene, &mut sheet);
    for verb in ["insert", "update", "delete"] {
        statement(scene, &mut sheet, verb);
    }
    sheet.finish("neither rows nor statements were counted")
}

/// Mean number of sessions active at a time, by verb.
fn sessions(scene: &Scene<'_>, window: Option<Window>, cache: &mut BTreeMap<i64, String>) -> BTreeMap<String, f64> {
    let looks = looks(scene.capture, window).max(1.0);
    let mut by_verb = BTreeMap::new();
    for sample in active(scene.capture, window) {
        let text = scene.capture.texts.get(&sample.query_id);
        let verb = cache.entry(sample.query_id).or_insert_with(|| text.and_then(|t| features(t)).map(|f| f.verb).unwrap_or_default());
        *by_verb.entry(verb.clone()).or_insert(0.0) += 1.0 / looks;
    }
    by_verb
}

fn tables(scene: &Scene<'_>, sheet: &mut FactSheet<'_>) {
    let work = table_work(scene.capture, Some(window(scene)));
    let top = |of: fn(&TableWork) -> f64| work.iter().filter(|(_, w)| of(w) > 0.0).max_by(|a, b| of(a.1).total_cmp(&of(b.1)));
    if let Some((table, w)) = top(|w| w.inserted) {
        sheet.put("top_insert_table", table.as_str()).put("inserted_rows", w.inserted);
        sheet.put("inserted_share", w.inserted / w.before.n_live_tup.max(1.0));
    }
    if let Some((table, w)) = top(|w| w.updated) {
        sheet.put("top_update_table", table.as_str()).put("updated_rows", w.updated);
        // The same rows again and again, or each row once: what a queue for row locks can come from.
        sheet.put("updates_per_row", w.updated / w.before.n_live_tup.max(1.0)).put("update_table_rows", w.before.n_live_tup);
    }
    if let Some((table, w)) = top(|w| w.deleted) {
        sheet.put("top_delete_table", table.as_str()).put("deleted_rows", w.deleted);
        sheet.put("deleted_share", w.deleted / w.before.n_live_tup.max(1.0));
        if w.deleted > 1_000.0 {
            sheet.culprit(CulpritKind::Table, table, &format!("{:.0} rows deleted", w.deleted));
        }
    }
}

/// The statement of a verb that wrote most rows, where none was running when sessions were looked at: a delete of many
/// rows can end within a second.
fn between_looks(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, verb: &str) {
    let capture = scene.capture;
    let is_verb = |id: &i64| capture.texts.get(id).and_then(|t| features(t)).is_some_and(|f| f.verb == verb);
    let done = work(capture, Some(window(scene)));
    let most = done.iter().filter(|(id, w)| w.rows > 1_000.0 && is_verb(id)).max_by(|a, b| a.1.rows.total_cmp(&b.1.rows));
    let Some((id, work)) = most else { return };
    let text = capture.texts.get(id).cloned().unwrap_or_default();
    sheet.put(&format!("{verb}_query_id"), id.to_string()).put(&format!("{verb}_text"), text.as_str());
    sheet.put(&format!("{verb}_rows_per_call"), work.per_call(work.rows));
    sheet.culprit(CulpritKind::Query, *id, &text);
}

/// The heaviest statement of a verb and what it does.
fn statement(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, verb: &str) {
    let capture = scene.capture;
    let w = window(scene);
    let statements = loaded(capture, w);
    let of_verb: Vec<_> = statements.iter().filter(|s| s.features.verb == verb).collect();
    let Some(first) = of_verb.first() else {
        return between_looks(scene, sheet, verb);
    };
    let prefix = format!("{verb}_");
    sheet.put(&format!("{prefix}role"), role_of(capture, w, first.id));
    sheet.put(&format!("{verb}_query_id"), first.id.to_string()).put(&format!("{verb}_text"), capture.texts.get(&first.id).cloned());
    let share = of_verb.iter().map(|s| s.share).sum::<f64>();
    sheet.put(&format!("{prefix}share"), share);
    if share > 0.2 {
        sheet.culprit(CulpritKind::Query, first.id, capture.texts.get(&first.id).map(String::as_str).unwrap_or_default());
        if let Some(target) = &first.features.target {
            let known = table_work(capture, Some(w)).into_keys().find(|table| same_table(target, table));
            sheet.culprit(CulpritKind::Table, known.as_ref().unwrap_or(target), &format!("written by the {verb} statements"));
        }
        let signal = match verb {
            "insert" => "tup_inserted_per_s",
            "update" => "tup_updated_per_s",
            _ => "tup_deleted_per_s",
        };
        sheet.signals(&[signal, "wal_bytes_rate"]);
    }
    let (now, base) = (work(capture, Some(w)), work(capture, scene.detection.baseline));
    let rate = |m: &BTreeMap<i64, crate::observe::facts::Work>| m.get(&first.id).and_then(|w| w.per_s(w.calls));
    sheet.put_pair(&format!("{prefix}calls_per_s"), rate(&now), rate(&base), Some(0.5));
    let rows = now.get(&first.id).and_then(|w| w.per_call(w.rows));
    sheet.put(&format!("{prefix}rows_per_call"), rows);
    let running = active(capture, Some(w)).filter(|s| s.query_id == first.id).filter_map(|s| s.query_age_ms).max();
    if verb != "update" {
        sheet.put(&format!("{prefix}running_s"), running.map(|ms| ms as f64 / 1000.0));
    }
    if verb == "insert" {
        let loads = of_verb.iter().any(|s| s.share > 0.2 && Features::clone(&s.features).loads);
        sheet.put("copy", loads).put("single_row_inserts", rows.map(|r| r < 2.0 && !loads));
    }
}
