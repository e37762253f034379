//! Which statement writes the WAL of the window, and which statement only reads while it takes CPU: two loads that fall
//! into one window need not have one cause.

use std::collections::BTreeMap;

use crate::capture::Capture;
use crate::model::{CulpritKind, Window};
use crate::observe::facts::{FactSheet, active, largest, looks, mean, text_of, window, work};
use crate::observe::{Observation, Scene, activity};

use super::top::class_of;
use super::{Loaded, loaded};

/// Verbs of statements that write WAL.
const WRITES: &[&str] = &["insert", "update", "delete", "merge", "ddl", "vacuum"];
/// A reader below this share of the load is not worth a sentence.
const WORTH: f64 = 0.1;

/// Time of one statement by wait, in sessions at a time.
fn waits(scene: &Scene<'_>, id: i64) -> BTreeMap<String, f64> {
    let w = window(scene);
    let mut by_event = BTreeMap::new();
    let looks = looks(scene.capture, Some(w)).max(1.0);
    for sample in active(scene.capture, Some(w)).filter(|s| s.query_id == id) {
        let event = if sample.wait_class.is_empty() { "CPU".to_owned() } else { format!("{}:{}", sample.wait_class, sample.wait_event) };
        *by_event.entry(event).or_insert(0.0) += 1.0 / looks;
    }
    if by_event.is_empty() {
        for load in activity::by_statement(scene.capture, w).into_iter().filter(|l| l.query_id == id) {
            *by_event.entry(load.event).or_insert(0.0) += load.sessions;
        }
    }
    by_event
}

/// True for a wait for WAL to be inserted, written or flushed.
pub(crate) fn is_wal(event: &str) -> bool {
    // Spelled WALSync up to PostgreSQL 16, WalSync from 17 on.
    let event = event.to_ascii_lowercase();
    event.starts_with("io:wal") || event.starts_with("lwlock:wal") || event.starts_with("wal:")
}

/// `wal_writers`.
pub fn wal_writers(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("wal_writers", scene);
    let w = window(scene);
    let wal = |w| mean(capture, "wal_bytes_rate", w);
    sheet.put_pair("wal_bytes_per_s", wal(Some(w)), wal(scene.detection.baseline), Some(100_000.0));
    sheet.put("source", activity::source(capture));
    let statements = loaded(capture, w);
    let writer = writer(capture, &statements, w);
    if let Some(writer) = writer {
        describe(scene, &mut sheet, "writer", writer);
        sheet.put("writer_table", writer.features.target.clone().or_else(|| writer.features.tables.first().cloned()));
        let waits = waits(scene, writer.id);
        let total: f64 = waits.values().sum();
        let wal: f64 = waits.iter().filter(|(e, _)| is_wal(e)).map(|(_, n)| n).sum();
        sheet.put("writer_wal_share", (total > 0.0).then(|| wal / total));
        sheet.put("writer_calls_per_s", activity::calls_per_s(capture, writer.id, w));
        matching(scene, &mut sheet, writer, w);
    }
    if let Some((reader, cpu)) = reader(scene, &statements, writer) {
        describe(scene, &mut sheet, "reader", reader);
        sheet.put("reader_cpu_share", cpu).put("reader_cpu_sessions", cpu * reader.load);
    }
    sheet.signals(&["wal_bytes_rate", "active_sessions"]);
    sheet.finish("no statement that writes was seen")
}

/// The statement that writes most: by its own WAL where that is counted, else the heaviest that writes.
fn writer<'l>(capture: &Capture, statements: &'l [Loaded], w: Window) -> Option<&'l Loaded> {
    let work = work(capture, Some(w));
    let wal = |s: &&Loaded| work.get(&s.id).map_or(0.0, |w| w.wal_bytes);
    let writers = || statements.iter().filter(|s| WRITES.contains(&s.features.verb.as_str()));
    writers().filter(|s| wal(s) > 0.0).max_by(|a, b| wal(a).total_cmp(&wal(b))).or_else(|| writers().next())
}

/// The heaviest statement that only reads and spends most of its time on CPU, with the share of its time there.
fn reader<'l>(scene: &Scene<'_>, statements: &'l [Loaded], writer: Option<&Loaded>) -> Option<(&'l Loaded, f64)> {
    let readers = statements.iter().filter(|s| s.features.reads_only && s.share >= WORTH && writer.is_some_and(|w| w.id != s.id));
    readers
        .map(|s| {
            let waits = waits(scene, s.id);
            let cpu: f64 = waits.iter().filter(|(e, _)| class_of(e) == "CPU").map(|(_, n)| n).sum();
            (s, cpu / waits.values().sum::<f64>().max(1e-9))
        })
        .find(|(_, cpu)| *cpu > 0.5)
}

fn describe(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, prefix: &str, statement: &Loaded) {
    let text = text_of(scene.capture, statement.id);
    sheet.put(&format!("{prefix}_query_id"), statement.id.to_string()).put(&format!("{prefix}_text"), text.clone());
    sheet.put(&format!("{prefix}_verb"), statement.features.verb.to_uppercase());
    sheet.put(&format!("{prefix}_sessions"), statement.load).put(&format!("{prefix}_share"), statement.share);
    if prefix == "writer" {
        sheet.culprit(CulpritKind::Query, statement.id, &text.unwrap_or_default());
    }
}

/// Who runs the writer: its sessions say; averages only say whose load is as large as its load.
fn matching(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, writer: &Loaded, w: Window) {
    let mut users = BTreeMap::new();
    for sample in active(scene.capture, Some(w)).filter(|s| s.query_id == writer.id) {
        *users.entry(sample.user.clone()).or_insert(0.0) += 1.0;
    }
    if let Some((user, _)) = largest(&users) {
        sheet.put("writer_user", user);
        return;
    }
    let close =
        |loads: BTreeMap<String, f64>| largest(&loads).filter(|(_, load)| (load / writer.load - 1.0).abs() < 0.25).map(|(name, _)| name);
    sheet.put("writer_user", close(activity::by_label(scene.capture, "user_load", "user", w)));
    sheet.put("writer_client", close(activity::by_label(scene.capture, "client_load", "client", w)));
}
