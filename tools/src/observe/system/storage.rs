//! Dead rows, vacuum, checkpoints and the buffer cache.

use std::collections::BTreeMap;

use crate::model::{CulpritKind, Window};
use crate::observe::facts::{FactSheet, active, largest, looks, mean, middle, peak, setting, setting_on, table_work, text_of};
use crate::observe::{Observation, Scene, activity};
use crate::sql::features;

use super::events;
use super::load::is_data_read;

/// `dead_rows`: the table that gains most dead rows.
pub fn dead_rows(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("dead_rows", scene);
    let work = table_work(capture, Some(crate::observe::facts::window(scene)));
    let worst = work
        .iter()
        .max_by(|a, b| (a.1.dead_growth + a.1.after.n_dead_tup * 0.01).total_cmp(&(b.1.dead_growth + b.1.after.n_dead_tup * 0.01)));
    let Some((table, w)) = worst else { return sheet.finish("table statistics were not sampled twice in the window") };
    let (dead, live) = (w.after.n_dead_tup, w.after.n_live_tup);
    sheet.put("table", table.as_str()).put("dead_rows", dead).put("live_rows", live);
    sheet.put("dead_ratio", dead / (dead + live).max(1.0));
    sheet.put("dead_growth", w.dead_growth).put("dead_growth_per_s", w.dead_growth / w.seconds);
    sheet.put("table_growth_bytes", w.growth_bytes).put("table_bytes", w.after.table_bytes);
    sheet.put("since_vacuum_s", w.after.since_vacuum_s).put("autovacuums", w.autovacuums);
    sheet.put("autovacuum", setting_on(capture, "autovacuum"));
    if let Some(since) = w.after.since_vacuum_s {
        // Rows that died after the vacuum are not its to remove; the others it could not.
        let later = since * ((w.updated + w.deleted) / w.seconds).max(w.dead_growth / w.seconds).max(0.0);
        let left = (dead - later).max(0.0);
        sheet.put("left_by_vacuum", roughly(left)).put("left_by_vacuum_share", left / (dead + live).max(1.0));
    }
    sheet.put("updates_per_s", w.updated / w.seconds).put("deletes_per_s", w.deleted / w.seconds);
    if w.updated > 0.0 {
        sheet.put("hot_share", w.hot_updated / w.updated);
    }
    sheet.signals(&["tup_deleted_per_s", "tup_updated_per_s"]);
    sheet.culprit(CulpritKind::Table, table, &format!("{dead:.0} dead rows"));
    sheet.finish("")
}

/// To two digits: an estimate says no more.
fn roughly(n: f64) -> f64 {
    let unit = 10f64.powf((n.max(1.0).log10().floor() - 1.0).max(0.0));
    (n / unit).round() * unit
}

/// Smallest index looked at, bytes: below this, what it wastes fits the cache anyway.
const LEAST_INDEX_BYTES: f64 = 50e6;
/// An entry takes at most a third of a page, and pages split in halves: more bytes a row are pages that emptied.
const MOST_BYTES_A_ROW: f64 = 1500.0;

/// `sparse_indexes`: the index that is scanned and takes most bytes for each live row of its table, if these are more than
/// an entry takes.
pub fn sparse_indexes(scene: &Scene<'_>) -> Observation {
    let mut sheet = FactSheet::new("sparse_indexes", scene);
    let window = crate::observe::facts::window(scene);
    if !scene.capture.indexes.iter().any(|i| window.contains(i.at)) {
        return sheet.finish("indexes were not sampled in the window");
    }
    let rows = |table: &str| scene.capture.tables.iter().rfind(|t| t.table == table).map(|t| t.n_live_tup).filter(|rows| *rows >= 1.0);
    let mut worst: Option<(&crate::model::IndexSample, f64)> = None;
    for last in scene.capture.indexes.iter().filter(|i| window.contains(i.at) && i.bytes > LEAST_INDEX_BYTES) {
        let first = scene.capture.indexes.iter().find(|i| i.index == last.index);
        let scanned = first.is_some_and(|first| last.idx_scan > first.idx_scan);
        let Some(each) = rows(&last.table).map(|rows| last.bytes / rows) else { continue };
        if scanned && each > MOST_BYTES_A_ROW && worst.is_none_or(|(_, most)| each >= most) {
            worst = Some((last, each));
        }
    }
    sheet.put("sparse", worst.is_some());
    if let Some((index, each)) = worst {
        sheet.put("index", index.index.as_str()).put("table", index.table.as_str());
        sheet.put("index_bytes", index.bytes).put("rows", rows(&index.table)).put("bytes_per_row", each);
        sheet.culprit(CulpritKind::Index, &index.index, &format!("{:.1} MB, {each:.0} bytes a row", index.bytes / 1_048_576.0));
    }
    sheet.signals(&["blks_read_per_s"]);
    sheet.finish("")
}

/// `vacuum`: workers, the oldest snapshot, frozen ids.
pub fn vacuum(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let window = crate::observe::facts::window(scene);
    let mut sheet = FactSheet::new("vacuum", scene);
    sheet.put("workers", mean(capture, "vacuum_workers", Some(window)));
    let all = active(capture, Some(window)).count() as f64;
    let vacuuming = |s: &&crate::model::SessionSample| {
        s.backend_type == "autovacuum worker" || text_of(capture, s.query_id).is_some_and(|t| t.to_ascii_lowercase().starts_with("vacuum"))
    };
    let workers = capture.sessions.iter().filter(|s| window.contains(s.at) && s.state == "active").filter(vacuuming).count() as f64;
    let seen = looks(capture, Some(window));
    if seen >= 1.0 {
        sheet.put("worker_share", workers / (all + workers).max(1.0)).put("worker_sessions", workers / seen);
    }
    averages(scene, &mut sheet, window);
    oldest_snapshot(scene, &mut sheet, window);
    // The database's age counts: its oldest table may be a system catalog, which is not among the tables.
    let ages = capture.tables.iter().map(|t| t.frozen_xid_age).chain(peak(capture, "frozen_xid_age", Some(window)));
    let frozen = ages.reduce(f64::max);
    let oldest = capture.tables.iter().max_by(|a, b| a.frozen_xid_age.total_cmp(&b.frozen_xid_age));
    let oldest = oldest.filter(|t| frozen.is_some_and(|age| t.frozen_xid_age > 0.9 * age));
    sheet.put("frozen_table", oldest.map(|t| t.table.as_str()));
    let limit = setting(capture, "autovacuum_freeze_max_age");
    sheet.put("frozen_xid_age_max", frozen).put("freeze_max_age", limit);
    sheet.put("wraparound_share", frozen.zip(limit).map(|(f, l)| f / l.max(1.0)));
    sheet.signals(&["vacuum_workers", "oldest_xmin_age"]);
    sheet.finish("vacuum was not observed")
}

/// Load of vacuum as a managed service keeps it, and the table that it works on.
fn averages(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, window: Window) {
    let capture = scene.capture;
    let (mut listed, mut vacuums) = (0.0, BTreeMap::new());
    for load in activity::by_statement(capture, window) {
        listed += load.sessions;
        if capture.texts.get(&load.query_id).and_then(|t| features(t)).is_some_and(|f| f.verb == "vacuum") {
            *vacuums.entry(load.query_id).or_insert(0.0) += load.sessions;
        }
    }
    // A share of the same list: that by wait, and the load over time, are other averages.
    let total = if listed > 0.0 { listed } else { activity::by_wait(capture, window).values().sum() };
    if total <= 0.0 {
        return;
    }
    let load: f64 = vacuums.values().sum();
    sheet.put("worker_share", (load / total).min(1.0)).put("workers", load).put("source", activity::source(capture));
    sheet.put("listed_sessions", (listed > 0.0).then_some(listed));
    let Some((id, load)) = largest(&vacuums) else { return };
    sheet.put("vacuum_sessions", load).statement("vacuum_", id);
    let text = text_of(capture, id).unwrap_or_default();
    let word = text.to_ascii_uppercase();
    sheet.put("automatic", word.starts_with("AUTOVACUUM")).put("freeze", word.contains("FREEZE") || word.contains("WRAPAROUND"));
    sheet.put("command", if word.contains("FREEZE") { "VACUUM FREEZE" } else { "VACUUM" });
    sheet.put("vacuum_table", features(&text).and_then(|f| f.tables.first().cloned()));
    let of: Vec<activity::Load> = activity::by_statement(capture, window).into_iter().filter(|l| l.query_id == id).collect();
    let top = of.iter().max_by(|a, b| a.sessions.total_cmp(&b.sessions));
    sheet.put("vacuum_top_wait", top.map(|l| l.event.clone())).put("vacuum_top_wait_sessions", top.map(|l| l.sessions));
    let cpu: f64 = of.iter().filter(|l| l.event == "CPU").map(|l| l.sessions).sum();
    sheet.put("vacuum_cpu_share", cpu / load.max(1e-9));
}

fn oldest_snapshot(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, window: Window) {
    let sessions = scene.capture.sessions.iter().filter(|s| window.contains(s.at));
    let oldest = sessions.filter(|s| s.xmin_age.is_some()).max_by_key(|s| s.xmin_age);
    let session = oldest.and_then(|s| Some((s.xmin_age?, "session", s.pid.to_string(), s.xact_age_ms)));
    let holders = scene.capture.holders.iter().filter(|h| window.contains(h.at));
    let holder =
        holders.filter_map(|h| Some((h.xmin_age?, h.kind.as_str(), h.name.clone(), h.lag_ms.map(|m| m as i64)))).max_by_key(|x| x.0);
    let holder = [session, holder].into_iter().flatten().max_by_key(|x| x.0);
    if let Some((age, kind, name, held_ms)) = holder {
        if let Some(session) = oldest.filter(|s| kind == "session" && s.pid.to_string() == name) {
            sheet.put("xmin_holder_application", Some(session.application.as_str()).filter(|a| !a.is_empty()));
            sheet.culprit(CulpritKind::Session, &name, &format!("{} {}", session.application, session.state));
        }
        sheet.put("xmin_age_max", age).put("xmin_holder_kind", kind).put("xmin_holder_name", name);
        sheet.put("xmin_holder_age_s", held_ms.map(|ms| ms as f64 / 1000.0));
    } else {
        sheet.put("xmin_age_max", peak(scene.capture, "oldest_xmin_age", Some(window)));
    }
}

/// `checkpoints`: how often and how hard.
pub fn checkpoints(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let window = crate::observe::facts::window(scene);
    let mut sheet = FactSheet::new("checkpoints", scene);
    let requested = mean(capture, "checkpoints_requested_per_s", Some(window));
    sheet.put("requested_per_min", requested.map(|r| r * 60.0));
    sheet.put("requested_per_min_base", mean(capture, "checkpoints_requested_per_s", scene.detection.baseline).map(|r| r * 60.0));
    sheet.put("requested", requested.map(|r| (r * window.seconds()).round()));
    sheet.put("timed_per_min", mean(capture, "checkpoints_timed_per_s", Some(window)).map(|r| r * 60.0));
    let buffers = mean(capture, "checkpoint_buffers_per_s", Some(window));
    sheet.put_pair("buffers_per_s", buffers, mean(capture, "checkpoint_buffers_per_s", scene.detection.baseline), None);
    let own = mean(capture, "backend_buffers_per_s", Some(window));
    sheet.put("backend_buffers_share", own.zip(buffers).filter(|(a, b)| a + b > 1.0).map(|(a, b)| a / (a + b)));
    sheet.put("max_wal_size_bytes", setting(capture, "max_wal_size"));
    sheet.put("checkpoint_timeout_s", setting(capture, "checkpoint_timeout").map(|ms| ms / 1000.0));
    sheet.put("full_page_writes", setting_on(capture, "full_page_writes"));
    let wal = |w| mean(capture, "wal_bytes_rate", w);
    sheet.put_pair("wal_bytes_per_s", wal(Some(window)), wal(scene.detection.baseline), Some(100_000.0));
    reported(scene, &mut sheet, window);
    sheet.signals(&["checkpoints_requested_per_s", "checkpoint_buffers_per_s", "wal_bytes_rate"]);
    if let Some(size) = setting(capture, "max_wal_size").filter(|_| requested.is_some_and(|r| r > 0.0)) {
        sheet.culprit(CulpritKind::Setting, "max_wal_size", &format!("{:.0} MB", size / 1_048_576.0));
    }
    sheet.finish("checkpoints were not observed")
}

/// What the server's log says, where a managed service passes it on: checkpoints that follow each other too fast.
fn reported(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, window: Window) {
    let capture = scene.capture;
    let frequent = events::of_kind(capture, "checkpoint_frequent", window);
    let Some(first) = frequent.first() else { return };
    let near = Window { start: window.start - 600_000, end: window.end + 600_000 };
    let interval = capture.series.get("checkpoint_reported_interval_s").and_then(|s| s.within(near).iter().copied().reduce(f64::min));
    sheet.put("reported_interval_s", interval).put("reported_at", events::clock(first.at)).put("source", events::reporter(capture));
    sheet.put("reported_starts", events::of_kind(capture, "checkpoint_started", window).len());
}

/// `cache`: hits, reads and how much of the database the cache covers.
pub fn cache(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let window = Some(crate::observe::facts::window(scene));
    let base = scene.detection.baseline;
    let mut sheet = FactSheet::new("cache", scene);
    sheet.put_pair("hit_ratio", middle(capture, "cache_hit_ratio", window), middle(capture, "cache_hit_ratio", base), None);
    sheet.put_pair("read_blks_per_s", mean(capture, "blks_read_per_s", window), mean(capture, "blks_read_per_s", base), Some(50.0));
    let all = active(capture, window).count() as f64;
    let reading = active(capture, window).filter(|s| is_data_read(&s.wait_event)).count() as f64;
    if all > 0.0 {
        sheet.put("data_read_share", reading / all);
    }
    let buffers = setting(capture, "shared_buffers");
    let size = middle(capture, "database_bytes", capture.span());
    sheet.put("shared_buffers_bytes", buffers).put("database_bytes", size);
    sheet.put("cache_cover", buffers.zip(size).map(|(b, s)| b / s.max(1.0)));
    sheet.put("evicting", mean(capture, "backend_buffers_per_s", window).map(|b| b > 100.0));
    sheet.signals(&["cache_hit_ratio", "blks_read_per_s"]);
    sheet.culprit(CulpritKind::Setting, "shared_buffers", &buffers.map(|b| format!("{:.0} MB", b / 1_048_576.0)).unwrap_or_default());
    sheet.finish("the buffer cache was not observed")
}
