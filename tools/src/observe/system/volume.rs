//! Storage of a managed instance: how much is free, how fast it goes, and whether writes have stopped.

use crate::capture::Capture;
use crate::model::{Series, Window};
use crate::observe::facts::{FactSheet, mean};
use crate::observe::{Observation, Scene, activity};
use crate::sql::features;

use super::events;

/// `storage`.
pub fn storage(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let window = crate::observe::facts::window(scene);
    let mut sheet = FactSheet::new("storage", scene);
    free(capture, &mut sheet, window, scene.detection.baseline);
    sheet.put("instance", instance(capture));
    let full = events::of_kind(capture, "storage_full", window);
    if let Some(source) = events::reporter(capture) {
        sheet.put("source", source).put("full_reported", !full.is_empty());
        sheet.put("full_text", full.first().map(|e| events::told(e))).put("full_at", full.first().map(|e| events::clock(e.at)));
        let low = events::of_kind(capture, "storage_low", window);
        sheet.put("low_text", low.last().map(|e| events::told(e)));
        sheet.put("reported_free_bytes", last(capture.series.get("storage_reported_free_bytes")));
    }
    writes(scene, &mut sheet, window);
    sheet.signals(&["storage_free_bytes", "disk_write_iops", "disk_write_latency_s"]);
    sheet.finish("the storage of the instance was not observed")
}

fn free(capture: &Capture, sheet: &mut FactSheet<'_>, window: Window, baseline: Option<Window>) {
    let total = last(capture.series.get("storage_total_bytes"));
    sheet.put("total_bytes", total);
    let Some(series) = capture.series.get("storage_free_bytes") else {
        let gap = capture.manifest.missing.iter().find(|m| m.what == "FreeStorageSpace");
        sheet.put("missing_metric", gap.map(|m| m.what.clone()));
        return;
    };
    let values = series.within(window);
    let (Some(first), Some(now)) = (values.first(), values.last()) else { return };
    sheet.put("free_bytes", *now).put("free_bytes_base", mean(capture, "storage_free_bytes", baseline));
    sheet.put("free_share", total.map(|t| now / t.max(1.0)));
    let inside: Vec<i64> = series.times.iter().copied().filter(|t| window.contains(*t)).collect();
    let seconds = inside.last().zip(inside.first()).map_or(0.0, |(b, a)| (b - a) as f64 / 1000.0);
    if seconds > 0.0 {
        let rate = (first - now) / seconds;
        sheet.put("shrinks_bytes_per_s", rate.max(0.0));
        sheet.put("full_in_s", (rate > 1.0).then(|| (now / rate).max(0.0)));
    }
}

/// The identifier of a managed instance, where it is one: remedies name it in a shell.
fn instance(capture: &Capture) -> Option<&str> {
    let name = capture.manifest.target.as_str();
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    (capture.manifest.origin == "rds" && plain && name.len() <= 63 && name != "rds").then_some(name)
}

fn last(series: Option<&Series>) -> Option<f64> {
    series?.values.last().copied()
}

/// Writes that have come to a halt: on the disk, and the statements that wait.
fn writes(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, window: Window) {
    let capture = scene.capture;
    let base = mean(capture, "disk_write_iops", scene.detection.baseline);
    let now = capture.series.get("disk_write_iops").and_then(|s| s.within(window).last().copied());
    sheet.put("write_iops_last", now).put("write_iops_base", base);
    sheet.put("writes_stopped", now.zip(base).map(|(n, b)| b > 20.0 && n < 0.05 * b));
    let latency = |w: Option<Window>| mean(capture, "disk_write_latency_s", w);
    let peak = capture.series.get("disk_write_latency_s").and_then(|s| s.within(window).iter().copied().reduce(f64::max));
    sheet.put("write_latency_max_s", peak).put("write_latency_base_s", latency(scene.detection.baseline));
    let writes = |id: &i64| {
        capture.texts.get(id).and_then(|t| features(t)).is_some_and(|f| matches!(f.verb.as_str(), "insert" | "update" | "delete" | "merge"))
    };
    let stuck = |id: &i64| activity::calls_per_s(capture, *id, window).is_some_and(|calls| calls < 0.01);
    let mut statements = std::collections::BTreeMap::new();
    for load in activity::by_statement(capture, window) {
        *statements.entry(load.query_id).or_insert(0.0) += load.sessions;
    }
    let waiting: Vec<f64> = statements.iter().filter(|(id, load)| **load > 0.5 && writes(id) && stuck(id)).map(|(_, n)| *n).collect();
    if !statements.is_empty() {
        sheet.put("stuck_statements", waiting.len()).put("stuck_sessions", waiting.iter().sum::<f64>());
        sheet.put("listed_sessions", statements.values().sum::<f64>()).put("load_source", activity::source(capture));
    }
}
