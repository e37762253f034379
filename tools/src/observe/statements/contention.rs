//! Who competes for CPU and I/O: how many sessions at a time, and whether one kind of statement accounts for it.
//!
//! Statements are counted by kind (verb and tables): a hundred updates of a hundred columns of one table are one culprit.

use std::collections::BTreeMap;

use crate::model::{CulpritKind, SessionSample};
use crate::observe::facts::{FactSheet, LEAST_SEEN, active, largest, looks, text_of, window, work};
use crate::observe::{Observation, Scene};
use crate::sql::features;

/// A kind of statement below this share does not count as one of several.
const COUNTS: f64 = 0.1;

/// Kinds of statements by query id, each parsed once.
struct Kinds<'s> {
    scene: &'s Scene<'s>,
    known: BTreeMap<i64, String>,
}

impl Kinds<'_> {
    fn of(&mut self, query_id: i64) -> &str {
        let scene = self.scene;
        self.known.entry(query_id).or_insert_with(|| {
            let features = scene.capture.texts.get(&query_id).and_then(|text| features(text));
            // A COMMIT or a text that nobody knows is a kind of its own.
            match features.filter(|f| !f.tables.is_empty()) {
                Some(f) => format!("{} {}", f.verb, f.target.unwrap_or_else(|| f.tables.join(" "))),
                None => query_id.to_string(),
            }
        })
    }
}

/// The table that a kind of statement writes, else the kind: a CREATE INDEX and the updates of one table are one writer's.
fn written(kind: &str) -> &str {
    kind.split_once(' ').filter(|(verb, _)| *verb != "select").map_or(kind, |(_, table)| table)
}

/// True for a session that waits for I/O, its own or that of another (WAL that another flushes, a page that another reads,
/// a table that another extends).
fn waits_for_io(sample: &SessionSample) -> bool {
    let event = sample.wait_event.as_str();
    match sample.wait_class.as_str() {
        "IO" => true,
        "LWLock" => event == "WALWrite",
        "IPC" => event == "BufferIO" || event == "BufferIo",
        "Lock" => event == "extend",
        _ => false,
    }
}

/// `contention`.
pub fn contention(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("contention", scene);
    let w = window(scene);
    let looks = looks(capture, Some(w));
    let all = active(capture, Some(w)).count() as f64;
    if looks < 1.0 || all < 1.0 {
        return sheet.finish("no active session was sampled");
    }
    let mut kinds = Kinds { scene, known: BTreeMap::new() };
    let (mut on_cpu, mut in_io) = (BTreeMap::new(), BTreeMap::new());
    let mut heaviest: BTreeMap<i64, f64> = BTreeMap::new();
    for sample in active(capture, Some(w)) {
        let counts = match sample.wait_class.is_empty() {
            true => &mut on_cpu,
            false if waits_for_io(sample) => &mut in_io,
            false => continue,
        };
        *counts.entry(kinds.of(sample.query_id).to_owned()).or_insert(0.0) += 1.0;
        if sample.wait_class.is_empty() {
            *heaviest.entry(sample.query_id).or_insert(0.0) += 1.0;
        }
    }
    let total = |counts: &BTreeMap<String, f64>| counts.values().sum::<f64>();
    let several = |counts: &BTreeMap<String, f64>| counts.values().filter(|n| **n >= COUNTS * total(counts)).count();
    let (cpu, io) = (total(&on_cpu), total(&in_io));
    sheet.put("cpu_sessions", cpu / looks).put("cpu_kinds", several(&on_cpu));
    let cpus = capture.manifest.cpus.filter(|c| *c > 0).map(f64::from);
    sheet.put("cpu_sessions_per_cpu", cpus.map(|c| cpu / looks / c));
    sheet.put("cpu_top_share", largest(&on_cpu).map(|(_, n)| n / cpu));
    sheet.put("io_wait_share", io / all).put("io_wait_sessions", io / looks).put("io_kinds", several(&in_io));
    let before = active(capture, scene.detection.baseline).count() as f64;
    let waited = active(capture, scene.detection.baseline).filter(|s| waits_for_io(s)).count() as f64;
    sheet.put("io_wait_share_base", (before >= LEAST_SEEN).then_some(waited / before));
    if let Some(writer) = writer(scene, &mut kinds) {
        let own: f64 = in_io.iter().filter(|(kind, _)| written(kind) == writer).map(|(_, n)| n).sum();
        sheet.put("io_others_share", (io > 0.0).then_some((io - own) / io)).put("io_writer", writer);
    }
    let mut heaviest: Vec<(i64, f64)> = heaviest.into_iter().filter(|(_, n)| *n >= COUNTS * cpu).collect();
    heaviest.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    for (id, _) in heaviest.into_iter().take(4) {
        sheet.culprit(CulpritKind::Query, id, &text_of(capture, id).unwrap_or_default());
    }
    sheet.signals(&["active_sessions", "node_procs_running"]);
    sheet.finish("")
}

/// The table (or kind of statement, where it writes none) that most WAL of the window comes from.
fn writer(scene: &Scene<'_>, kinds: &mut Kinds<'_>) -> Option<String> {
    let mut wal: BTreeMap<String, f64> = BTreeMap::new();
    for (id, work) in work(scene.capture, Some(window(scene))).iter().filter(|(_, work)| work.wal_bytes > 0.0) {
        *wal.entry(written(kinds.of(*id)).to_owned()).or_insert(0.0) += work.wal_bytes;
    }
    largest(&wal).map(|(kind, _)| kind)
}

#[cfg(test)]
mod tests {
    use crate::capture::Capture;
    use crate::detect::Detection;
    use crate::model::{Series, StatementSample, Window};
    use crate::probe::Recorded;

    use super::*;

    const UPDATES: [&str; 2] = ["UPDATE t SET a = $1 WHERE id = $2", "UPDATE t SET b = $1 WHERE id = $2"];

    /// Ten looks, a second apart; each sees the given sessions, by wait class, wait event and text.
    fn capture(sessions: &[(&str, &str, &str)]) -> Capture {
        let mut capture = Capture::default();
        capture.manifest.cpus = Some(2);
        let mut looks = Series::default();
        for at in (1..=10).map(|n| n * 1000) {
            looks.push(at, sessions.len() as f64);
            for (number, (class, event, text)) in sessions.iter().enumerate() {
                capture.sessions.push(SessionSample {
                    at,
                    pid: number as i32,
                    backend_type: "client backend".into(),
                    state: "active".into(),
                    wait_class: (*class).into(),
                    wait_event: (*event).into(),
                    query_id: id(text),
                    ..SessionSample::default()
                });
                capture.texts.insert(id(text), (*text).to_owned());
            }
        }
        capture.series.insert("active_sessions".into(), looks);
        capture
    }

    fn id(text: &str) -> i64 {
        text.bytes().fold(7, |hash, byte| (hash * 31 + i64::from(byte)) % 1_000_003)
    }

    fn facts(capture: &Capture) -> impl Fn(&str) -> f64 + use<> {
        let detection = Detection { window: Some(Window { start: 0, end: 11_000 }), ..Detection::default() };
        let facts = contention(&Scene { capture, detection: &detection, prober: &Recorded(capture) }).facts;
        move |name| facts[name].as_f64().unwrap()
    }

    #[test]
    fn updates_of_two_columns_are_one_kind_and_two_tables_are_two() {
        let one = facts(&capture(&[("", "", UPDATES[0]), ("", "", UPDATES[1]), ("Client", "ClientRead", "SELECT 1")]));
        assert_eq!((one("cpu_sessions"), one("cpu_sessions_per_cpu"), one("cpu_top_share"), one("cpu_kinds")), (2.0, 1.0, 1.0, 1.0));
        let two = facts(&capture(&[("", "", UPDATES[0]), ("", "", "SELECT * FROM a JOIN b USING (id)")]));
        assert_eq!((two("cpu_top_share"), two("cpu_kinds")), (0.5, 2.0));
    }

    #[test]
    fn waits_for_anothers_flush_are_io_and_told_apart_from_the_writers_own() {
        let insert = "INSERT INTO big SELECT n FROM generate_series($1, $2) n";
        let mut capture =
            capture(&[("IO", "WALSync", insert), ("LWLock", "WALWrite", UPDATES[0]), ("LWLock", "WALWrite", "COMMIT"), ("", "", insert)]);
        for (at, wal_bytes) in [(0, 0.0), (10_500, 1e6)] {
            for (text, share) in [(insert, 1.0), (UPDATES[0], 0.1)] {
                capture.statements.push(StatementSample {
                    at,
                    query_id: id(text),
                    calls: wal_bytes,
                    wal_bytes: wal_bytes * share,
                    ..StatementSample::default()
                });
            }
        }
        let facts = facts(&capture);
        assert_eq!((facts("io_wait_share"), facts("io_wait_sessions"), facts("io_kinds")), (0.75, 3.0, 3.0));
        assert_eq!(facts("io_others_share"), (2.0f64 / 3.0 * 1e6).round() / 1e6);
    }
}
