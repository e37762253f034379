//! Rows returned, and temporary files: what statements hand out and what they cannot hold.

use crate::model::CulpritKind;
use crate::observe::facts::{FactSheet, active, mean, setting, table_work, text_of, window, work};
use crate::observe::{Observation, Scene};
use crate::sql::features;

use super::{loaded, role_of, runs_else, same_table};

/// Rows a call from which on a result is large.
const LARGE: f64 = 5_000.0;

/// `results`.
pub fn results(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("results", scene);
    sheet.signals(&["node_network_transmit_bytes_rate", "active_sessions{wait_class=\"Client\"}", "tup_returned_per_s"]);
    let w = window(scene);
    let statements = loaded(capture, w);
    let (now, base) = (work(capture, Some(w)), work(capture, scene.detection.baseline));
    let is_select = |id: &i64| capture.texts.get(id).and_then(|t| features(t)).is_some_and(|f| f.verb == "select");
    let total = |m: &std::collections::BTreeMap<i64, crate::observe::facts::Work>| {
        (!m.is_empty()).then(|| m.iter().filter(|(id, _)| is_select(id)).map(|(_, w)| w.rows / w.seconds).sum::<f64>())
    };
    let all = total(&now).filter(|_| now.values().any(|w| w.rows > 0.0));
    sheet.put_pair("rows_per_s", all, total(&base), Some(50.0));
    let read = |w| mean(capture, "tup_returned_per_s", w);
    sheet.put_pair("read_rows_per_s", read(Some(w)), read(scene.detection.baseline), Some(1000.0));
    let sent = |w| mean(capture, "node_network_transmit_bytes_rate", w);
    sheet.put_pair("transmit_bytes_per_s", sent(Some(w)), sent(scene.detection.baseline), Some(1e5));
    // A fetch that has not ended is in no counter yet: the session that waits for its client shows it.
    let sending = active(capture, Some(w)).filter(|s| s.wait_event == "ClientWrite").map(|s| s.query_id).next();
    let biggest =
        now.iter().filter(|(id, w)| is_select(id) && w.rows > 0.0).max_by(|a, b| a.1.rows.total_cmp(&b.1.rows)).map(|(id, _)| *id);
    let running = sending.filter(|id| statements.iter().any(|s| s.id == *id && s.share > 0.2));
    let Some(id) = running.or(biggest) else { return sheet.finish("no statement returned rows in the window") };
    sheet.statement("", id);
    if let Some(done) = now.get(&id) {
        sheet.put("rows_per_call", done.per_call(done.rows));
        sheet.put("rows_share", all.map(|a| done.rows / done.seconds / a.max(1e-9)));
    }
    let large: f64 = now.iter().filter(|(id, w)| is_select(id) && w.per_call(w.rows) > Some(LARGE)).map(|(_, w)| w.rows / w.seconds).sum();
    sheet.put("large_share", all.map(|a| large / a.max(1e-9)));
    sheet.put("db_share", statements.iter().find(|s| s.id == id).map_or(0.0, |s| s.share));
    samples(scene, &mut sheet, id);
    if let Some(f) = text_of(capture, id).as_deref().and_then(features) {
        sheet.put("has_limit", f.has_limit);
        let tables = table_work(capture, Some(w));
        let sizes = tables.iter().filter(|(t, _)| f.tables.iter().any(|n| same_table(n, t))).map(|(_, w)| w.after.table_bytes);
        sheet.put("table_bytes", sizes.reduce(f64::max));
    }
    sheet.finish("")
}

fn samples(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, id: i64) {
    let w = window(scene);
    let of: Vec<_> = active(scene.capture, Some(w)).filter(|s| s.query_id == id).collect();
    if of.is_empty() {
        return;
    }
    let sending = of.iter().filter(|s| s.wait_event == "ClientWrite").count() as f64;
    sheet.put("client_write_share", sending / of.len() as f64);
    sheet.put("sessions", of.len() as f64 / w.seconds().max(1.0));
    sheet.put("running_s", of.iter().filter_map(|s| s.query_age_ms).max().map(|ms| ms as f64 / 1000.0));
}

/// `temp_files`.
pub fn temp_files(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("temp_files", scene);
    sheet.signals(&["temp_bytes_rate", "temp_files_per_s"]);
    let w = window(scene);
    // Temporary files are counted when the statement ends: the mean over the window evens the bursts out.
    let rate = |w| mean(capture, "temp_bytes_rate", w);
    let now = work(capture, Some(w));
    let counted = now.values().map(|w| w.temp_blks / 2.0 * 8192.0 / w.seconds).sum::<f64>();
    let by_signal = rate(Some(w));
    sheet.put("temp_bytes_per_s", by_signal.map(|r| r.max(counted)).or((!now.is_empty()).then_some(counted)));
    sheet.put("temp_bytes_per_s_base", rate(scene.detection.baseline));
    sheet.put("temp_files_per_s", mean(capture, "temp_files_per_s", Some(w)));
    let work_mem = setting(capture, "work_mem");
    sheet.put("work_mem_bytes", work_mem);
    let spilling = |id: i64| now.get(&id).is_some_and(|w| w.temp_blks > 100.0);
    let waiting = |id: i64| active(capture, Some(w)).any(|s| s.query_id == id && s.wait_event.starts_with("BufFile"));
    let statements = loaded(capture, w);
    let spillers: Vec<_> = statements.iter().filter(|s| spilling(s.id) || waiting(s.id)).collect();
    // Where neither statements were counted nor sessions seen, nothing says that none of them spills.
    let seen = !now.is_empty() || active(capture, Some(w)).next().is_some();
    sheet.put("spilling_share", seen.then(|| spillers.iter().map(|s| s.share).sum::<f64>()));
    let worst = now.iter().filter(|(_, w)| w.temp_blks > 0.0).max_by(|a, b| a.1.temp_blks.total_cmp(&b.1.temp_blks)).map(|(id, _)| *id);
    if let Some(id) = worst.or(spillers.first().map(|s| s.id)) {
        sheet.statement("", id);
        sheet.put("has_sort", text_of(capture, id).as_deref().and_then(features).map(|f| f.sorts));
        // Written once and read once: half the blocks are the size.
        let per_call = now.get(&id).and_then(|w| w.per_call(w.temp_blks / 2.0 * 8192.0)).filter(|b| *b > 0.0);
        sheet.put("temp_bytes_per_call", per_call);
        sheet.put("role", role_of(capture, w, id)).put("role_runs_else", runs_else(capture, w, id));
        sheet.put("suggested_work_mem", per_call.map(suggestion));
        if let Some(setting) = capture.settings.get("work_mem") {
            sheet.culprit(CulpritKind::Setting, "work_mem", &format!("{} {}", setting.value, setting.unit));
        }
    }
    sheet.finish("temporary files were not counted")
}

/// Next power of two above twice what was spilled, between 8 MB and 1 GB.
fn suggestion(bytes: f64) -> String {
    let wanted = (bytes * 2.0 / 1_048_576.0).max(8.0);
    let mut size = 8.0;
    while size < wanted && size < 1024.0 {
        size *= 2.0;
    }
    format!("{size:.0}MB")
}
