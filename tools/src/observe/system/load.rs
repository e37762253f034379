//! Where active session time goes: the backbone of every diagnosis.

use std::collections::BTreeMap;

use crate::model::{CulpritKind, SessionSample, Window};
use crate::observe::facts::{FactSheet, LEAST_SEEN, active, largest, looks, mean, peak, text_of};
use crate::observe::statements::is_wal;
use crate::observe::{Observation, Scene, activity};

const NOTHING: &str = "no active session was sampled: record with a role that may read pg_stat_activity";

/// Shares of active session time in one window.
struct Profile {
    total: f64,
    by_class: BTreeMap<String, f64>,
    by_event: BTreeMap<String, f64>,
    /// What `total` and the rest are divided by to have sessions at a time.
    looks: f64,
    /// Somebody else looked and kept averages: `total` is in sessions at a time.
    averages: bool,
}

impl Profile {
    fn of(scene: &Scene<'_>, window: Option<Window>) -> Self {
        let mut profile = Self {
            total: 0.0,
            by_class: BTreeMap::new(),
            by_event: BTreeMap::new(),
            looks: looks(scene.capture, window).max(1.0),
            averages: !activity::sampled(scene.capture),
        };
        for sample in active(scene.capture, window) {
            profile.add(class_of(sample), event_of(sample), 1.0);
        }
        if let Some(window) = window.filter(|_| !activity::sampled(scene.capture)) {
            // Averages of a managed service, in sessions at a time.
            let before = scene.detection.baseline == Some(window);
            let loads = if before { activity::by_wait_before(scene.capture, window) } else { activity::by_wait(scene.capture, window) };
            for (event, load) in loads {
                let class = event.split(':').next().unwrap_or_default().to_owned();
                profile.add(&class, event, load);
            }
        }
        profile
    }

    fn add(&mut self, class: &str, event: String, time: f64) {
        self.total += time;
        *self.by_class.entry(class.to_owned()).or_insert(0.0) += time;
        *self.by_event.entry(event).or_insert(0.0) += time;
    }

    fn share(&self, class: &str) -> Option<f64> {
        (self.total > 0.0).then(|| self.by_class.get(class).copied().unwrap_or(0.0) / self.total)
    }

    /// The same where it is to be compared with: none where too little was seen for a usual share.
    fn usual_share(&self, class: &str) -> Option<f64> {
        self.share(class).filter(|_| self.enough())
    }

    /// Averages come from many looks of somebody else.
    fn enough(&self) -> bool {
        self.averages || self.total >= LEAST_SEEN
    }

    fn event_share(&self, matches: impl Fn(&str) -> bool) -> Option<f64> {
        let sum: f64 = self.by_event.iter().filter(|(event, _)| matches(event)).map(|(_, n)| n).sum();
        (self.total > 0.0).then(|| sum / self.total)
    }

    /// Sessions at a time in a class of waits.
    fn sessions(&self, class: &str) -> Option<f64> {
        (self.total > 0.0).then(|| self.by_class.get(class).copied().unwrap_or(0.0) / self.looks)
    }
}

/// True for waits for blocks of tables and indexes: from PostgreSQL 18 on a backend waits for whoever reads for it.
pub(super) fn is_data_read(event: &str) -> bool {
    matches!(event, "DataFileRead" | "AioIoCompletion" | "AioIoUringExecution")
}

fn class_of(sample: &SessionSample) -> &str {
    if sample.wait_class.is_empty() { "CPU" } else { &sample.wait_class }
}

fn event_of(sample: &SessionSample) -> String {
    if sample.wait_class.is_empty() { "CPU".to_owned() } else { format!("{}:{}", sample.wait_class, sample.wait_event) }
}

/// `load_profile`: active sessions, wait classes, top events.
pub fn load_profile(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("load_profile", scene);
    let window = Some(crate::observe::facts::window(scene));
    let base_window = scene.detection.baseline;
    let aas = mean(capture, "active_sessions", window);
    let base_aas = mean(capture, "active_sessions", base_window);
    sheet.put_pair("aas", aas, base_aas, Some(0.5));
    let usual = base_window.zip(capture.series.get("active_sessions")).map(|(base, series)| series.within(base).len());
    sheet.put("aas_base_samples", usual);
    let seconds = window.map_or(0.0, |w| w.seconds());
    sheet.put("db_seconds", aas.map(|a| a * seconds));
    sheet.put("extra_db_seconds", aas.zip(base_aas).map(|(a, b)| ((a - b) * seconds).max(0.0)));
    let (now, base) = (Profile::of(scene, window), Profile::of(scene, base_window));
    for class in ["CPU", "IO", "Lock", "LWLock", "Client", "IPC", "Timeout"] {
        let name = format!("{}_share", class.to_lowercase());
        sheet.put(&name, now.share(class)).put(&format!("{name}_base"), base.usual_share(class));
    }
    if let Some((event, count)) = largest(&now.by_event) {
        sheet.put("top_event", event).put("top_event_share", count / now.total);
    }
    let lwlocks: BTreeMap<String, f64> =
        now.by_event.iter().filter(|(e, _)| e.starts_with("LWLock:")).map(|(e, n)| (e.clone(), *n)).collect();
    sheet.put("top_lwlock", largest(&lwlocks).map(|(event, _)| event));
    if now.share("LWLock") > Some(0.3) {
        let mut waiting = BTreeMap::new();
        for sample in active(capture, window).filter(|s| s.query_id != 0 && class_of(s) == "LWLock") {
            *waiting.entry(sample.query_id).or_insert(0.0) += 1.0;
        }
        if let Some((id, _)) = largest(&waiting) {
            sheet.culprit(CulpritKind::Query, id, &text_of(capture, id).unwrap_or_default());
        }
    }
    if !activity::sampled(capture) {
        sheet
            .put("source", activity::source(capture))
            .put("cpu_sessions", now.sessions("CPU"))
            .put("lwlock_sessions", now.sessions("LWLock"));
    }
    sheet.put("wal_wait_share", now.event_share(is_wal));
    sheet.put("client_write_share", now.event_share(|e| e == "Client:ClientWrite"));
    sheet.put("data_read_share", now.event_share(|e| e.strip_prefix("IO:").is_some_and(is_data_read)));
    sheet.put("buffile_share", now.event_share(|e| e.starts_with("IO:BufFile")));
    sheet.put("extend_share", now.event_share(|e| e == "IO:DataFileExtend" || e == "Lock:extend"));
    sheet.put("sessions_peak", peak(capture, "sessions", window));
    let classes = ["CPU", "IO", "Lock", "LWLock", "Client"].map(|c| format!("active_sessions{{wait_class=\"{c}\"}}"));
    let top = largest(&now.by_class).map(|(class, _)| format!("active_sessions{{wait_class=\"{class}\"}}"));
    sheet.signals(&["active_sessions"]);
    sheet.signals(&classes.iter().map(String::as_str).filter(|c| Some(*c) == top.as_deref()).collect::<Vec<_>>());
    sheet.finish(NOTHING)
}

/// `wal`: waits for WAL beside commits and bytes.
pub fn wal(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("wal", scene);
    let window = Some(crate::observe::facts::window(scene));
    let base = scene.detection.baseline;
    let (now, before) = (Profile::of(scene, window), Profile::of(scene, base));
    sheet.put("wal_wait_share", now.event_share(is_wal)).put("wal_wait_share_base", before.event_share(is_wal).filter(|_| before.enough()));
    let waiting: f64 = now.by_event.iter().filter(|(e, _)| is_wal(e)).map(|(_, n)| n).sum();
    if now.total > 0.0 {
        sheet.put("commit_sessions", waiting / now.looks);
    }
    sheet.put_pair("commits_per_s", mean(capture, "tps", window), mean(capture, "tps", base), Some(5.0));
    sheet.put_pair("wal_bytes_per_s", mean(capture, "wal_bytes_rate", window), mean(capture, "wal_bytes_rate", base), Some(100_000.0));
    sheet.put("synchronous_commit", capture.settings.get("synchronous_commit").map(|s| s.value.clone()));
    sheet.signals(&["wal_bytes_rate", "tps"]);
    sheet.finish("neither WAL nor commits were measured")
}

/// `traffic`: transactions and rows.
pub fn traffic(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("traffic", scene);
    let window = Some(crate::observe::facts::window(scene));
    let base = scene.detection.baseline;
    let pair = |name: &str| (mean(capture, name, window), mean(capture, name, base));
    let (tps, tps_base) = pair("tps");
    sheet.put_pair("tps", tps, tps_base, Some(5.0));
    let (read, read_base) = pair("tup_returned_per_s");
    sheet.put_pair("rows_read_per_s", read, read_base, Some(1000.0));
    let written = |w| {
        let parts = ["tup_inserted_per_s", "tup_updated_per_s", "tup_deleted_per_s"].map(|s| mean(capture, s, w));
        parts.iter().any(Option::is_some).then(|| parts.iter().flatten().sum::<f64>())
    };
    sheet.put_pair("rows_written_per_s", written(window), written(base), Some(20.0));
    let (active, active_base) = pair("active_sessions");
    sheet.put("active_ratio", active.zip(active_base).map(|(a, b)| crate::observe::facts::ratio(a, b, 0.5)));
    let (busy, busy_base) = pair("statement_seconds_per_s");
    sheet.put_pair("statement_seconds_per_s", busy, busy_base, Some(0.1));
    sheet.signals(&["tps", "tup_returned_per_s"]);
    sheet.finish("no traffic was measured: pg_stat_database was not read")
}
