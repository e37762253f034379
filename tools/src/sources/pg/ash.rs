//! The active session history: one sample a second of every session that is not plainly idle, with who blocks whom.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};

use tokio_postgres::Row;

use crate::capture::Frame;
use crate::model::{LockSample, SessionSample, UnixMs};

use super::row::{age_ms, get, text};
use super::text::{fingerprint, normalise};

/// Shapes of texts remembered, so that a text is parsed once and not every second.
const REMEMBERED: usize = 4_000;
/// Classes that are always reported, with a measured zero where nobody waits.
const CLASSES: [&str; 6] = ["CPU", "IO", "Lock", "LWLock", "Client", "IPC"];

/// What the sampler remembers between turns.
#[derive(Debug, Default)]
pub(super) struct Ash {
    classes: BTreeSet<String>,
    shapes: HashMap<u64, (i64, String)>,
    /// Query id of pg_stat_statements by fingerprint, on servers whose sessions carry no id.
    pub known_ids: HashMap<i64, i64>,
}

/// What the other probes need from this turn's sample.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Query ids of sessions at work.
    pub query_ids: BTreeSet<i64>,
    /// Normalised texts that came with sessions without an id.
    pub texts: BTreeMap<i64, String>,
    /// Sessions that wait for somebody, and those they wait for.
    pub waiters: Vec<i32>,
    /// See `waiters`.
    pub blockers: Vec<i32>,
    /// Client backends in any state.
    pub clients: f64,
    /// Age of the oldest xmin any session holds.
    pub oldest_xmin: f64,
}

impl Ash {
    /// Reads the rows of the sessions probe into the frame. Signals are left out when the role may not see the
    /// sessions of others: a partial count would look like a quiet server.
    pub fn read(&mut self, rows: &[Row], at: UnixMs, sees_all: bool, frame: &mut Frame) -> Seen {
        let mut seen = Seen::default();
        let Some(first) = rows.first() else { return seen };
        let number = |column| get::<i64>(first, column).unwrap_or(0) as f64;
        seen.clients = number("clients");
        seen.oldest_xmin = number("oldest_xmin");
        let samples: Vec<_> = rows.iter().filter_map(|row| self.sample(row, at, &mut seen)).collect();
        if sees_all {
            self.count(&samples, frame);
            let values = [
                ("sessions", "sessions", seen.clients),
                ("idle_in_transaction_sessions", "sessions", number("idle_in_transaction")),
                ("blocked_sessions", "sessions", seen.waiters.len() as f64),
                ("oldest_transaction_seconds", "s", get::<f64>(first, "oldest_xact_ms").unwrap_or(0.0).max(0.0) / 1000.0),
            ];
            frame.values.extend(values.map(|(name, unit, value)| (name.to_owned(), unit, value)));
        }
        frame.sessions.extend(samples);
        seen
    }

    fn sample(&mut self, row: &Row, at: UnixMs, seen: &mut Seen) -> Option<SessionSample> {
        let pid: i32 = get(row, "pid")?;
        let mut query_id = get::<i64>(row, "query_id").unwrap_or(0);
        if query_id == 0
            && let Some(query) = get::<String>(row, "query").filter(|query| !query.trim().is_empty())
        {
            let (print, normal) = self.shape(&query);
            query_id = self.known_ids.get(&print).copied().unwrap_or(print);
            seen.texts.insert(query_id, normal);
        }
        let blocked_by: Vec<i32> = get(row, "blocked_by").unwrap_or_default();
        if !blocked_by.is_empty() {
            seen.waiters.push(pid);
            seen.blockers.extend(&blocked_by);
        }
        if query_id != 0 {
            seen.query_ids.insert(query_id);
        }
        Some(SessionSample {
            at,
            pid,
            backend_type: text(row, "backend_type"),
            state: text(row, "state"),
            wait_class: text(row, "wait_class"),
            wait_event: text(row, "wait_event"),
            query_id,
            xact_age_ms: age_ms(row, "xact_age_ms"),
            query_age_ms: age_ms(row, "query_age_ms"),
            state_age_ms: age_ms(row, "state_age_ms"),
            xmin_age: get(row, "xmin_age"),
            blocked_by,
            user: text(row, "user"),
            database: text(row, "database"),
            application: text(row, "application"),
            client: text(row, "client"),
        })
    }

    fn shape(&mut self, query: &str) -> (i64, String) {
        let mut hasher = DefaultHasher::new();
        query.hash(&mut hasher);
        if self.shapes.len() >= REMEMBERED {
            self.shapes.clear();
        }
        let shape = self.shapes.entry(hasher.finish()).or_insert_with(|| (fingerprint(query), normalise(query)));
        shape.clone()
    }

    fn count(&mut self, samples: &[SessionSample], frame: &mut Frame) {
        let active = |s: &&SessionSample| s.backend_type == "client backend" && s.state == "active";
        let mut by_class: BTreeMap<String, f64> = CLASSES.map(|class| (class.to_owned(), 0.0)).into();
        by_class.extend(self.classes.iter().map(|class| (class.clone(), 0.0)));
        for sample in samples.iter().filter(active) {
            let class = if sample.wait_class.is_empty() { "CPU" } else { &sample.wait_class };
            *by_class.entry(class.to_owned()).or_default() += 1.0;
        }
        frame.values.push(("active_sessions".into(), "sessions", by_class.values().sum()));
        for (class, sessions) in by_class {
            frame.values.push((format!("active_sessions{{wait_class=\"{class}\"}}"), "sessions", sessions));
            self.classes.insert(class);
        }
    }
}

/// Reads the rows of the locks probe.
pub(super) fn locks(rows: &[Row], at: UnixMs) -> Vec<LockSample> {
    let lock = |row: &Row| LockSample {
        at,
        pid: get(row, "pid").unwrap_or(0),
        lock_type: text(row, "lock_type"),
        relation: get(row, "relation"),
        mode: text(row, "mode"),
        granted: get(row, "granted").unwrap_or(false),
    };
    rows.iter().map(lock).collect()
}
