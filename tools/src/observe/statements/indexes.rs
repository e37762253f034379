//! What the indexes of the most written table cost its writes.

use std::collections::BTreeMap;

use crate::model::{CulpritKind, IndexSample};
use crate::observe::facts::{FactSheet, TableWork, Work, ratio, table_work, window, work};
use crate::observe::{Observation, Scene};

use super::scans::{concurrently, indexes_of, masked, quoted};
use super::{loaded, same_table};

/// `index_overhead`.
pub fn index_overhead(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("index_overhead", scene);
    sheet.signals(&["wal_bytes_rate", "tup_inserted_per_s", "tup_updated_per_s"]);
    let now = table_work(capture, Some(window(scene)));
    let Some(table) = busiest(scene, &now) else { return sheet.finish("no table was written in the window, or tables were not sampled") };
    let base = table_work(capture, scene.detection.baseline);
    sheet.put("table", table.as_str());
    let per_s = |w: Option<&TableWork>| w.map(|w| w.writes() / w.seconds);
    sheet.put_pair("writes_per_s", per_s(now.get(&table)), per_s(base.get(&table)), None);
    if let Some(t) = now.get(&table) {
        sheet.put("index_bytes", t.after.index_bytes).put("table_bytes", t.after.table_bytes);
        sheet.put("index_to_table_ratio", t.after.index_bytes / t.after.table_bytes.max(1.0));
    }
    let hot = |w: Option<&TableWork>| w.filter(|w| w.updated > 0.0).map(|w| w.hot_updated / w.updated);
    sheet.put_pair("hot_share", hot(now.get(&table)), hot(base.get(&table)), None);
    sheet.culprit(CulpritKind::Table, &table, "most written table");
    list(scene, &mut sheet, &table);
    writes(scene, &mut sheet, &table);
    sheet.finish("")
}

/// The table with most row writes weighed by its secondary indexes; for imports, the one that got most indexes.
fn busiest(scene: &Scene<'_>, now: &BTreeMap<String, TableWork>) -> Option<String> {
    let weighed = |(table, work): &(&String, &TableWork)| {
        let secondary = indexes_of(scene.capture, table).iter().filter(|i| !i.constraint).count();
        work.writes() * (1.0 + secondary as f64)
    };
    let written = now.iter().filter(|(_, w)| w.writes() > 0.0).max_by(|a, b| weighed(a).total_cmp(&weighed(b)));
    written.map(|(table, _)| table.clone()).or_else(|| {
        let mut counts: BTreeMap<String, f64> = BTreeMap::new();
        for index in &scene.capture.indexes {
            *counts.entry(index.table.clone()).or_insert(0.0) += 1.0;
        }
        if now.is_empty() { crate::observe::facts::largest(&counts).map(|(table, _)| table) } else { None }
    })
}

/// Scans of an index inside the window.
fn scans(scene: &Scene<'_>, index: &str) -> f64 {
    let w = window(scene);
    let all: Vec<&IndexSample> = scene.capture.indexes.iter().filter(|i| i.index == index && i.at <= w.end).collect();
    let before = all.iter().rfind(|i| i.at <= w.start).or(all.first()).map_or(0.0, |i| i.idx_scan);
    all.last().map_or(0.0, |i| i.idx_scan - before)
}

fn list(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, table: &str) {
    let indexes = indexes_of(scene.capture, table);
    let secondary: Vec<&&IndexSample> = indexes.iter().filter(|i| !i.constraint).collect();
    let unused: Vec<&&IndexSample> = secondary.iter().copied().filter(|i| scans(scene, &i.index) < 1.0).collect();
    let covered = |i: &IndexSample, by: &IndexSample| {
        i.index != by.index
            && !i.columns.is_empty()
            && by.columns.starts_with(&i.columns)
            && (i.columns.len() < by.columns.len() || i.index > by.index || by.constraint)
    };
    let duplicates: Vec<&&IndexSample> = secondary.iter().copied().filter(|i| indexes.iter().any(|by| covered(i, by))).collect();
    let from = scene.detection.baseline.map_or(i64::MIN, |b| b.start);
    let created: Vec<&str> = scene
        .capture
        .events
        .iter()
        .filter(|e| {
            e.kind == "index_created"
                && e.at >= from
                && secondary.iter().any(|i| i.index == e.object || i.index.ends_with(&format!(".{}", e.object)))
        })
        .map(|e| e.object.as_str())
        .collect();
    let names = |list: &[&&IndexSample]| list.iter().map(|i| i.index.clone()).collect::<Vec<_>>();
    sheet.put("indexes", indexes.len()).put("secondary_indexes", secondary.len());
    sheet.put("unused_indexes", unused.len()).put("unused_names", names(&unused));
    sheet.put("unused_share", unused.len() as f64 / secondary.len().max(1) as f64);
    sheet.put("duplicate_indexes", duplicates.len()).put("duplicate_names", names(&duplicates));
    sheet.put("created_indexes", created.len()).put("created_names", created.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
    let drop_name = |i: &IndexSample| i.index.split('.').map(quoted).collect::<Vec<_>>().join(".");
    let doomed = doomed(&unused, &duplicates, &created);
    if !doomed.is_empty() {
        sheet.put(
            "drop_statements",
            doomed.iter().map(|i| format!("DROP INDEX CONCURRENTLY {};", drop_name(i))).collect::<Vec<_>>().join("\n"),
        );
        sheet.put("recreate_statements", doomed.iter().map(|i| format!("{};", concurrently(&i.definition))).collect::<Vec<_>>().join("\n"));
    }
    for index in doomed.iter().take(6) {
        sheet.culprit(CulpritKind::Index, &index.index, &format!("no scan in the window, {:.1} MB", index.bytes / 1_048_576.0));
    }
}

/// Indexes to drop: of those that came with the incident the unused ones; else what another index covers, or what was
/// never scanned since statistics were reset. An index that only rested in this window may serve a nightly job, and one
/// whose definition was masked could not be put back.
fn doomed<'i>(unused: &[&'i &'i IndexSample], duplicates: &[&'i &'i IndexSample], created: &[&str]) -> Vec<&'i &'i IndexSample> {
    let new = |i: &IndexSample| created.contains(&i.index.as_str());
    let covered = |i: &IndexSample| duplicates.iter().any(|d| d.index == i.index);
    let any_new = unused.iter().any(|i| new(i));
    let spare = |i: &IndexSample| if any_new { new(i) } else { covered(i) || i.idx_scan < 1.0 };
    unused.iter().copied().filter(|i| spare(i) && !masked(&i.definition)).collect()
}

/// Time and WAL of a call of the statements that write the table.
fn writes(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, table: &str) {
    let statements = loaded(scene.capture, window(scene));
    let writing: Vec<_> = statements.iter().filter(|s| s.features.target.as_deref().is_some_and(|t| same_table(t, table))).collect();
    let Some(first) = writing.first() else { return };
    sheet.statement("write_", first.id).put("write_share", writing.iter().map(|s| s.share).sum::<f64>());
    let (now, base) = (work(scene.capture, Some(window(scene))), work(scene.capture, scene.detection.baseline));
    let known: Vec<(&Work, &Work)> = writing
        .iter()
        .filter_map(|s| Some((now.get(&s.id)?, base.get(&s.id)?)))
        .filter(|(a, b)| a.calls >= 3.0 && b.calls >= 3.0)
        .collect();
    // Statement by statement, weighed by calls: a change of the mix is no change of the cost.
    let compare = |measure: &dyn Fn(&Work) -> f64| {
        let (mut a, mut b) = (0.0, 0.0);
        for (n, o) in &known {
            a += measure(n);
            b += measure(o) / o.calls * n.calls;
        }
        let calls: f64 = known.iter().map(|(n, _)| n.calls).sum();
        (calls > 0.0).then(|| (a / calls, b / calls))
    };
    if let Some((a, b)) = compare(&|w| w.exec_ms) {
        sheet.put("write_mean_ms", a).put("write_mean_ms_base", b).put("write_mean_ratio", ratio(a, b, 0.02));
    }
    if let Some((a, b)) = compare(&|w| w.wal_bytes) {
        sheet.put("wal_per_write_bytes", a).put("wal_per_write_bytes_base", b).put("wal_per_write_ratio", ratio(a, b, 40.0));
    }
}
