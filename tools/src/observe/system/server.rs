//! Connections, replication, archiving, errors and settings.

use std::collections::BTreeMap;

use crate::model::{CulpritKind, Window};
use crate::observe::facts::{FactSheet, largest, looks, mean, middle, peak, setting, setting_on};
use crate::observe::{Observation, Scene, activity};

use super::events;

/// `connections`: how many, whose, how fast they come.
pub fn connections(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let window = crate::observe::facts::window(scene);
    let mut sheet = FactSheet::new("connections", scene);
    let used = peak(capture, "sessions", Some(window));
    let limit = setting(capture, "max_connections");
    sheet.put("used_peak", used).put("max_connections", limit);
    sheet.put("used_share", peak(capture, "connections_used_ratio", Some(window)).or(used.zip(limit).map(|(u, l)| u / l.max(1.0))));
    let all = mean(capture, "sessions", Some(window));
    let busy = mean(capture, "active_sessions", Some(window)).unwrap_or(0.0)
        + mean(capture, "idle_in_transaction_sessions", Some(window)).unwrap_or(0.0);
    sheet.put("idle_sessions", all.map(|a| (a - busy).max(0.0)));
    sheet.put("idle_share", all.filter(|a| *a > 0.0).map(|a| ((a - busy) / a).max(0.0)));
    let base = mean(capture, "sessions", scene.detection.baseline);
    sheet.put("sessions_ratio", all.zip(base).map(|(a, b)| crate::observe::facts::ratio(a, b, 2.0)));
    let fresh = |w| mean(capture, "new_sessions_per_s", w);
    sheet.put_pair("new_sessions_per_s", fresh(Some(window)), fresh(scene.detection.baseline), Some(0.5));
    let mut applications = BTreeMap::new();
    for sample in capture.sessions.iter().filter(|s| window.contains(s.at) && s.backend_type == "client backend") {
        *applications.entry(sample.application.clone()).or_insert(0.0) += 1.0;
    }
    let total: f64 = applications.values().sum();
    if let Some((name, count)) = largest(&applications) {
        sheet.put("top_application", name).put("top_application_share", count / total);
    }
    if let Some((name, sessions)) = backup(scene) {
        sheet.put("backup_program", name.clone()).put("backup_sessions", sessions);
        sheet.culprit(CulpritKind::Session, &name, "takes a backup");
    }
    managed_connections(scene, &mut sheet);
    sheet.signals(&["connections_used_ratio", "sessions", "new_sessions_per_s"]);
    sheet.culprit(CulpritKind::Setting, "max_connections", &limit.map(|l| format!("{l:.0}")).unwrap_or_default());
    sheet.finish("sessions were not counted")
}

/// Programs that take backups, as they call themselves in `application_name`.
const BACKUP_PROGRAMS: [&str; 7] = ["pg_dump", "pg_dumpall", "pg_basebackup", "pgbackrest", "barman", "wal-g", "pg_probackup"];

/// The backup program with most active sessions, and how many it has on average.
fn backup(scene: &Scene<'_>) -> Option<(String, f64)> {
    let window = crate::observe::facts::window(scene);
    let mut programs = BTreeMap::new();
    for sample in scene.capture.sessions.iter().filter(|s| window.contains(s.at) && s.state == "active") {
        let name = sample.application.to_ascii_lowercase();
        if BACKUP_PROGRAMS.iter().any(|program| name.starts_with(program)) {
            *programs.entry(name).or_insert(0.0) += 1.0;
        }
    }
    let (name, count) = largest(&programs)?;
    Some((name, count / looks(scene.capture, Some(window)).max(1.0)))
}

/// What a managed service says of connections: its events, and load that waits for clients.
fn managed_connections(scene: &Scene<'_>, sheet: &mut FactSheet<'_>) {
    let (capture, window) = (scene.capture, crate::observe::facts::window(scene));
    if activity::sampled(capture) {
        return;
    }
    let near = events::of_kind(capture, "connections_near_limit", window);
    sheet.put("limit_reported", events::reporter(capture).map(|_| !near.is_empty()));
    sheet.put("limit_text", near.first().map(|e| events::told(e)));
    let waits = activity::by_wait(capture, window);
    let client: f64 = waits.iter().filter(|(event, _)| event.starts_with("Client:")).map(|(_, n)| n).sum();
    let total: f64 = waits.values().sum();
    if total > 0.0 {
        sheet.put("client_wait_sessions", client).put("client_wait_share", client / total).put("source", activity::source(capture));
    }
    let mut holders = BTreeMap::new();
    for load in activity::by_statement(capture, window).iter().filter(|l| l.event.starts_with("Client:")) {
        *holders.entry(load.query_id).or_insert(0.0) += load.sessions;
    }
    if let Some((id, load)) = largest(&holders).filter(|(_, load)| *load > 0.5) {
        sheet.put("waiting_sessions", load).statement("waiting_", id);
    }
    let users = activity::by_label(capture, "user_load", "user", window);
    sheet.put("top_user", largest(&users).map(|(user, _)| user));
}

/// `replication`: lag and retained WAL.
pub fn replication(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let window = crate::observe::facts::window(scene);
    let mut sheet = FactSheet::new("replication", scene);
    let measured =
        ["replica_lag_bytes", "replica_lag_seconds", "replica_lag_reported_seconds"].iter().any(|s| capture.series.contains_key(*s));
    if capture.manifest.server_version_num == 0 && capture.holders.is_empty() && !measured {
        return sheet.finish("replication was not observed");
    }
    let held: Vec<_> = capture.holders.iter().filter(|h| window.contains(h.at)).collect();
    let names: std::collections::BTreeSet<&str> = held.iter().filter(|h| h.kind == "replica").map(|h| h.name.as_str()).collect();
    // Of a server that was asked: without an answer the number of replicas is not known.
    sheet.put("replicas", (capture.manifest.server_version_num > 0 || !names.is_empty()).then_some(names.len()));
    let behind = |h: &&&crate::model::HolderSample| (h.lag_bytes.unwrap_or(0.0), h.lag_ms.unwrap_or(0.0));
    let worst = held.iter().filter(|h| h.kind == "replica").max_by(|a, b| {
        let (a, b) = (behind(a), behind(b));
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    sheet.put("replica_name", worst.map(|h| h.name.clone()));
    let lag = |w| peak(capture, "replica_lag_bytes", w);
    sheet.put_pair("lag_bytes_max", lag(Some(window)).or(worst.and_then(|h| h.lag_bytes)), lag(scene.detection.baseline), Some(1e6));
    sheet.put("lag_seconds_max", peak(capture, "replica_lag_seconds", Some(window)));
    managed_lag(scene, &mut sheet, worst.is_none());
    let slots: Vec<_> = held.iter().filter(|h| h.kind == "slot" && !h.active).collect();
    let distinct: std::collections::BTreeSet<&str> = slots.iter().map(|h| h.name.as_str()).collect();
    let asked = capture.manifest.server_version_num > 0 || held.iter().any(|h| h.kind == "slot");
    sheet.put("inactive_slots", asked.then_some(distinct.len()));
    let largest = slots.iter().max_by(|a, b| a.lag_bytes.unwrap_or(0.0).total_cmp(&b.lag_bytes.unwrap_or(0.0)));
    sheet.put("slot_name", largest.map(|h| h.name.clone())).put("slot_retained_bytes", largest.and_then(|h| h.lag_bytes));
    sheet.signals(&["replica_lag_bytes", "replica_lag_seconds", "slot_retained_bytes"]);
    sheet.finish("")
}

/// Lag before the incident, its growth, and what events of a managed service say of it.
fn managed_lag(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, nameless: bool) {
    let (capture, window) = (scene.capture, crate::observe::facts::window(scene));
    sheet.put("lag_seconds_base", mean(capture, "replica_lag_seconds", scene.detection.baseline));
    if let Some(values) = capture.series.get("replica_lag_seconds").map(|s| s.within(window)).filter(|v| v.len() >= 2) {
        sheet.put("lag_seconds_first", values.first().copied()).put("lag_seconds_last", values.last().copied());
    }
    let reports = events::of_kind(capture, "replication_lag", window);
    let Some(last) = reports.last() else { return };
    let near = Window { start: window.start - 600_000, end: window.end + 600_000 };
    sheet.put("reported_lag_s", peak(capture, "replica_lag_reported_seconds", Some(near)));
    sheet.put("reported_text", events::told(last)).put("source", events::reporter(capture));
    if nameless && !last.object.is_empty() {
        sheet.put("replica_name", last.object.clone());
    }
    let gap = capture.manifest.missing.iter().find(|m| m.what == "ReplicaLag");
    sheet.put("missing_metric", gap.map(|m| m.what.clone()));
}

/// `archiver`: failed attempts.
pub fn archiver(scene: &Scene<'_>) -> Observation {
    let window = crate::observe::facts::window(scene);
    let mut sheet = FactSheet::new("archiver", scene);
    let rate = mean(scene.capture, "archive_failures_per_s", Some(window));
    sheet.put("failures", rate.map(|r| (r * window.seconds()).round())).put("failures_per_min", rate.map(|r| r * 60.0));
    let command = scene.capture.settings.get("archive_command").map(|s| s.value.clone());
    sheet.put("archive_command", command.clone());
    sheet.signals(&["archive_failures_per_s"]);
    sheet.culprit(CulpritKind::Setting, "archive_command", &command.unwrap_or_default());
    sheet.finish("the archiver was not observed")
}

/// `errors`: rollbacks, deadlocks, restarts.
pub fn errors(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let window = crate::observe::facts::window(scene);
    let mut sheet = FactSheet::new("errors", scene);
    // A counter that ran backwards is no share.
    let rates = |w| mean(capture, "rollbacks_per_s", w).zip(mean(capture, "tps", w)).filter(|(r, t)| *r >= 0.0 && *t >= 0.0);
    let share = |w| rates(w).map(|(r, t)| r / t.max(0.1));
    sheet.put_pair("rollback_share", share(Some(window)), share(scene.detection.baseline), None);
    let rate = |w| mean(capture, "rollbacks_per_s", w);
    sheet.put_pair("rollbacks_per_s", rate(Some(window)), rate(scene.detection.baseline), Some(0.5));
    let deadlocks = mean(capture, "deadlocks_per_s", Some(window));
    sheet.put("deadlocks_per_s", deadlocks).put("deadlocks", deadlocks.map(|d| (d * window.seconds()).round()));
    let seen = |kind: &str| {
        capture.events.iter().filter(|e| e.at >= window.start - 30_000 && e.at < window.end && e.kind.starts_with(kind)).count()
    };
    if capture.manifest.server_version_num > 0 || capture.events.iter().any(|e| e.source != "rds") {
        sheet.put("restarted", seen("restart") > 0).put("role_changed", seen("role_changed") > 0).put("error_events", seen("error"));
        // The last one: in between, the way back may lead over a standby.
        let role = capture.events.iter().rev().find(|e| e.kind == "role_changed" && e.at >= window.start - 30_000 && e.at < window.end);
        sheet.put("role_text", role.map(|e| e.text.clone()).filter(|text| !text.is_empty()));
    }
    sheet.signals(&["rollbacks_per_s", "deadlocks_per_s"]);
    sheet.finish("errors were not counted")
}

/// `settings`: what is set, and what changed.
pub fn settings(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("settings", scene);
    if capture.settings.is_empty() {
        return sheet.finish("settings were not read");
    }
    for name in ["shared_buffers", "work_mem", "max_wal_size", "effective_cache_size"] {
        sheet.put(&format!("{name}_bytes"), setting(capture, name));
    }
    sheet.put("autovacuum_on", setting_on(capture, "autovacuum")).put("jit_on", setting_on(capture, "jit"));
    for name in ["random_page_cost", "max_connections"] {
        sheet.put(name, setting(capture, name));
    }
    sheet.put("synchronous_commit", capture.settings.get("synchronous_commit").map(|s| s.value.clone()));
    let memory = capture.manifest.memory_bytes;
    sheet.put("memory_bytes", memory);
    sheet.put("shared_buffers_share", setting(capture, "shared_buffers").zip(memory).map(|(s, m)| s / m.max(1.0)));
    // A quarter of the memory, as the manual advises for a server of its own; no more than the data can fill.
    let wanted = memory.map(|m| (m / 4.0).min(middle(capture, "database_bytes", capture.span()).map_or(f64::MAX, |d| d * 1.25)));
    let wanted = wanted.filter(|w| setting(capture, "shared_buffers").is_some_and(|now| *w > now * 1.2));
    sheet.put("suggested_shared_buffers", wanted.map(|w| format!("{:.0}MB", (w / 1_048_576.0).ceil())));
    let changed: Vec<String> = capture.events.iter().filter(|e| e.kind == "setting_changed").map(|e| e.text.clone()).take(20).collect();
    for event in capture.events.iter().filter(|e| e.kind == "setting_changed").take(3) {
        sheet.culprit(CulpritKind::Setting, &event.object, &event.text);
    }
    if !changed.is_empty() {
        sheet.put("changed", changed);
    }
    sheet.finish("")
}
