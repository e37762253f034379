//! Who writes what: rows, commits, and the statements behind them.

use std::collections::BTreeMap;

use crate::model::{CulpritKind, Window};
use crate::observe::facts::{FactSheet, TableWork, Work, active, looks, mean, ratio, table_work, window, work};
use crate::observe::{Observation, Scene};
use crate::sql::features;

use super::{Loaded, loaded, role_of, runs_else, same_table};

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
    let written: Vec<f64> = VERBS.iter().filter_map(|(_, signal)| mean(capture, signal, w)).collect();
    let commits = mean(capture, "tps", w).filter(|t| *t > 0.5 && !written.is_empty());
    sheet.put("rows_per_commit", commits.map(|t| written.iter().sum::<f64>() / t));
    let mut cache = BTreeMap::new();
    let now = sessions(scene, w, &mut cache);
    let before = sessions(scene, base, &mut cache);
    if looks(capture, w) >= 1.0 {
        for verb in ["insert", "update", "delete", "select"] {
            let of = |m: &BTreeMap<String, f64>| Some(m.get(verb).copied().unwrap_or(0.0));
            sheet.put_pair(&format!("{verb}_sessions"), of(&now), base.and(of(&before)), None);
        }
    }
    let mut writers = Writers::of(scene);
    for verb in VERBS {
        writers.profile(&mut sheet, verb);
    }
    writers.point(&mut sheet);
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

/// Verbs that write rows, with the signal that counts them.
const VERBS: [(&str, &str); 3] = [("insert", "tup_inserted_per_s"), ("update", "tup_updated_per_s"), ("delete", "tup_deleted_per_s")];
/// The growth of what was not there before.
const MOST_GROWTH: f64 = 1000.0;
/// A writer that does not write this many times as much as before is no culprit.
const GROWN: f64 = 2.0;

/// Who writes in the window, and what grew against the baseline.
struct Writers<'s> {
    scene: &'s Scene<'s>,
    window: Window,
    statements: Vec<Loaded>,
    now: BTreeMap<i64, Work>,
    before: BTreeMap<i64, Work>,
    tables: BTreeMap<String, TableWork>,
    tables_before: BTreeMap<String, TableWork>,
    /// Culprits with how many times as much they do as before.
    grown: Vec<(f64, CulpritKind, String, String)>,
}

impl<'s> Writers<'s> {
    fn of(scene: &'s Scene<'s>) -> Self {
        let (window, base) = (window(scene), scene.detection.baseline);
        Self {
            scene,
            window,
            statements: loaded(scene.capture, window),
            now: work(scene.capture, Some(window)),
            before: work(scene.capture, base),
            tables: table_work(scene.capture, Some(window)),
            tables_before: table_work(scene.capture, base),
            grown: Vec::new(),
        }
    }

    /// The statement of a verb that writes, and the table that it writes: another table may take more rows all the time.
    fn profile(&mut self, sheet: &mut FactSheet<'_>, (verb, signal): (&str, &str)) {
        let target = match self.statements.iter().find(|s| s.features.verb == verb) {
            Some(first) => {
                let (id, target) = (first.id, first.features.target.clone());
                self.statement(sheet, verb, signal, id);
                target
            }
            None => self.between_looks(sheet, verb),
        };
        self.table(sheet, verb, target);
    }

    /// The heaviest statement of a verb and what it does.
    fn statement(&mut self, sheet: &mut FactSheet<'_>, verb: &str, signal: &str, id: i64) {
        let (capture, w) = (self.scene.capture, self.window);
        sheet.put(&format!("{verb}_role"), role_of(capture, w, id)).put(&format!("{verb}_role_runs_else"), runs_else(capture, w, id));
        sheet.put(&format!("{verb}_query_id"), id.to_string()).put(&format!("{verb}_text"), capture.texts.get(&id).cloned());
        let share: f64 = self.statements.iter().filter(|s| s.features.verb == verb).map(|s| s.share).sum();
        sheet.put(&format!("{verb}_share"), share);
        if share > 0.2 {
            self.suspect(id);
            sheet.signals(&[signal, "wal_bytes_rate"]);
        }
        let rate = |m: &BTreeMap<i64, Work>| m.get(&id).and_then(|w| w.per_s(w.calls));
        sheet.put_pair(&format!("{verb}_calls_per_s"), rate(&self.now), rate(&self.before), Some(0.5));
        let rows = self.now.get(&id).and_then(|w| w.per_call(w.rows));
        sheet.put(&format!("{verb}_rows_per_call"), rows);
        let running = active(capture, Some(w)).filter(|s| s.query_id == id).filter_map(|s| s.query_age_ms).max();
        if verb != "update" {
            sheet.put(&format!("{verb}_running_s"), running.map(|ms| ms as f64 / 1000.0));
        }
        if verb == "insert" {
            let loads = self.statements.iter().any(|s| s.features.verb == verb && s.share > 0.2 && s.features.loads);
            sheet.put("copy", loads).put("single_row_inserts", rows.map(|r| r < 2.0 && !loads));
        }
    }

    /// The statement of a verb that wrote most rows, where none carries load: a delete of many rows can end within a second.
    /// Returns the table that it writes.
    fn between_looks(&mut self, sheet: &mut FactSheet<'_>, verb: &str) -> Option<String> {
        let capture = self.scene.capture;
        let read = |id: &i64| capture.texts.get(id).and_then(|t| features(t)).filter(|f| f.verb == verb);
        let most = self.now.iter().filter(|(id, w)| w.rows > 1_000.0 && read(id).is_some());
        let (id, work) = most.max_by(|a, b| a.1.rows.total_cmp(&b.1.rows)).map(|(id, work)| (*id, *work))?;
        sheet.put(&format!("{verb}_query_id"), id.to_string()).put(&format!("{verb}_text"), capture.texts.get(&id).cloned());
        sheet.put(&format!("{verb}_rows_per_call"), work.per_call(work.rows));
        self.suspect(id);
        read(&id)?.target
    }

    /// What happened to the table of the statement; where none is known, to the one with most rows written.
    fn table(&mut self, sheet: &mut FactSheet<'_>, verb: &str, target: Option<String>) {
        let rows = |w: &TableWork| match verb {
            "insert" => w.inserted,
            "update" => w.updated,
            _ => w.deleted,
        };
        let written = || self.tables.iter().filter(|(_, w)| rows(w) > 0.0);
        let most = || written().max_by(|a, b| rows(a.1).total_cmp(&rows(b.1))).map(|(table, _)| table.clone());
        let qualified = |target: String| self.tables.keys().find(|table| same_table(&target, table)).cloned().unwrap_or(target);
        let Some(table) = target.map(qualified).or_else(most) else { return };
        sheet.put(&format!("top_{verb}_table"), table.as_str());
        let Some(w) = self.tables.get(&table).filter(|w| rows(w) > 0.0) else { return };
        let per_s = |w: &TableWork| rows(w) / w.seconds;
        let (now, before) = (per_s(w), self.tables_before.get(&table).map(per_s));
        sheet.put_pair(&format!("top_{verb}_table_per_s"), Some(now), before, Some(10.0));
        sheet.put(&format!("{}ed_rows", verb.trim_end_matches('e')), rows(w));
        let each = rows(w) / w.before.n_live_tup.max(1.0);
        match verb {
            "insert" => sheet.put("inserted_share", each),
            // The same rows again and again, or each row once: what a queue for row locks can come from.
            "update" => sheet.put("updates_per_row", each).put("update_table_rows", w.before.n_live_tup),
            _ => sheet.put("deleted_share", each),
        };
        let growth = before.map_or(MOST_GROWTH, |before| ratio(now, before, 10.0));
        if rows(w) > 1_000.0 && growth >= GROWN && verb == "delete" {
            let deleted = format!("{:.0} rows deleted", rows(w));
            self.grown.retain(|(_, kind, id, _)| *kind != CulpritKind::Table || *id != table);
            self.grown.push((growth, CulpritKind::Table, table, deleted));
        }
    }

    /// Remembers a statement, and the table that it writes, as culprits: unless it writes as it did before.
    fn suspect(&mut self, id: i64) {
        let growth = self.growth(id).unwrap_or(MOST_GROWTH);
        if growth < GROWN {
            return;
        }
        let text = self.scene.capture.texts.get(&id).cloned().unwrap_or_default();
        let features = features(&text).unwrap_or_default();
        self.grown.push((growth, CulpritKind::Query, id.to_string(), text));
        if let Some(target) = features.target {
            let table = self.tables.keys().find(|table| same_table(&target, table)).cloned().unwrap_or(target);
            self.grown.push((growth, CulpritKind::Table, table, format!("written by the {} statements", features.verb)));
        }
    }

    /// How many times as many calls or rows a second as in the baseline, whichever rose more; none where that was not counted.
    fn growth(&self, id: i64) -> Option<f64> {
        let now = self.now.get(&id).filter(|_| !self.before.is_empty())?;
        let rate = |of: fn(&Work) -> f64, floor: f64| {
            let before = self.before.get(&id).map_or(0.0, |b| of(b) / b.seconds);
            ratio(of(now) / now.seconds, before, floor)
        };
        Some(rate(|w| w.calls, 0.5).max(rate(|w| w.rows, 1.0)))
    }

    /// Points at the culprits, those first that grew most.
    fn point(mut self, sheet: &mut FactSheet<'_>) {
        self.grown.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (_, kind, id, text) in self.grown {
            sheet.culprit(kind, id, &text);
        }
    }
}
