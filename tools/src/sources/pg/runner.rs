//! Runs probes over one connection: prepares once, keeps time limits, counts what each costs, and leaves alone for a
//! while whatever failed or was slow.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use crate::capture::Missing;
use crate::model::{ProbeCost, UnixMs};

use super::connect::{FIRST_TIMEOUT_MS, Link};
use super::error::{SourceError, SourceErrorKind, reason};
use super::probes::Probe;

/// A failed probe rests this long first, then twice as long, ...
const FIRST_REST_MS: i64 = 2_000;
/// ... up to five minutes.
const LONGEST_REST_MS: i64 = 300_000;

/// One connection and the memory of how its probes fared.
pub(super) struct Runner {
    pub link: Link,
    pub version_num: i32,
    pub role: String,
    pub place: String,
    /// SQLSTATE of the error that ended the session, if there was one.
    pub last_words: Option<SqlState>,
    statements: HashMap<&'static str, Statement>,
    /// The session's `statement_timeout`, milliseconds.
    timeout_ms: u32,
    /// The last probe took more than a fifth of its limit.
    slow: bool,
    health: HashMap<&'static str, Health>,
    bill: BTreeMap<&'static str, ProbeCost>,
    missing: Vec<Missing>,
}

#[derive(Debug, Default)]
struct Health {
    due: UnixMs,
    rest_ms: i64,
}

impl Runner {
    pub fn new(link: Link, version_num: i32, role: String, place: String) -> Self {
        Self {
            link,
            version_num,
            role,
            place,
            last_words: None,
            statements: HashMap::new(),
            timeout_ms: FIRST_TIMEOUT_MS,
            slow: false,
            health: HashMap::new(),
            bill: BTreeMap::new(),
            missing: Vec::new(),
        }
    }

    /// Goes on over a new connection; bill and rests stay.
    pub fn relink(&mut self, link: Link, version_num: i32) {
        self.link = link;
        self.version_num = version_num;
        self.last_words = None;
        self.statements.clear();
        self.timeout_ms = FIRST_TIMEOUT_MS;
    }

    /// Brings a probe forward to `now`, unless it was put off for what it costs.
    pub fn sooner(&mut self, probe: &'static Probe, interval: Duration, now: UnixMs) {
        let health = self.health.entry(probe.name).or_default();
        if health.rest_ms == 0 && health.due - now <= interval.as_millis() as i64 {
            health.due = health.due.min(now);
        }
    }

    /// Runs a probe of a group if its time has come; `None` when not due, absent on this version, or failed.
    /// Only the loss of the connection is an error.
    pub async fn when_due(&mut self, probe: &'static Probe, interval: Duration, now: UnixMs) -> Result<Option<Vec<Row>>, SourceError> {
        let interval = interval.as_millis() as i64;
        let due = self.health.entry(probe.name).or_default().due;
        // Turns come a few milliseconds early or late; a second-interval must not become two.
        if now < due - (interval / 10).min(500) {
            return Ok(None);
        }
        let started = Instant::now();
        let rows = self.run(probe, &[], now).await?;
        if rows.is_some() {
            let health = self.health.entry(probe.name).or_default();
            health.due = if due == 0 || now - due > interval { now + interval } else { due + interval };
            // A server in trouble answers slowly: a probe takes at most a twentieth of the time if it is one of the
            // fast ones, a hundredth otherwise.
            let share = if probe.timeout_ms <= 500 { 20 } else { 100 };
            health.due = health.due.max(now + started.elapsed().as_millis() as i64 * share);
        }
        Ok(rows)
    }

    /// Runs a probe unless it rests after a failure.
    pub async fn run(
        &mut self,
        probe: &'static Probe,
        params: &[&(dyn ToSql + Sync)],
        now: UnixMs,
    ) -> Result<Option<Vec<Row>>, SourceError> {
        let health = self.health.entry(probe.name).or_default();
        if health.rest_ms > 0 && now < health.due {
            return Ok(None);
        }
        let Some(sql) = probe.sql(self.version_num) else { return Ok(None) };
        let started = Instant::now();
        let limit = Duration::from_millis(u64::from(probe.timeout_ms) + 3_000);
        let answer = tokio::time::timeout(limit, self.query(probe, sql, params)).await;
        self.slow = started.elapsed() > Duration::from_millis(u64::from(probe.timeout_ms) / 5);
        self.charge(probe.name, started.elapsed(), !matches!(answer, Ok(Ok(_))));
        match answer {
            Ok(Ok(rows)) => {
                self.health.entry(probe.name).or_default().rest_ms = 0;
                Ok(Some(rows))
            }
            Ok(Err(error)) => match lost(&error) {
                true => {
                    self.last_words = error.code().cloned();
                    Err(self.loss(&reason(&error)))
                }
                false => {
                    self.rest(probe.name, &error, now);
                    Ok(None)
                }
            },
            Err(_) => Err(self.loss(&format!("no answer to probe {} within {limit:?}", probe.name))),
        }
    }

    /// What the probes cost since this was last asked.
    pub fn take_bill(&mut self) -> Vec<ProbeCost> {
        std::mem::take(&mut self.bill).into_values().collect()
    }

    /// Gaps found since this was last asked.
    pub fn take_missing(&mut self) -> Vec<Missing> {
        std::mem::take(&mut self.missing)
    }

    /// Notes a gap.
    pub fn miss(&mut self, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) {
        self.missing.push(Missing::new(what, why, fix));
    }

    async fn query(&mut self, probe: &'static Probe, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, tokio_postgres::Error> {
        // Each change is a statement of the target's: while it answers quickly, a higher limit than the probe's own stays.
        let wanted = if self.slow { self.timeout_ms != probe.timeout_ms } else { self.timeout_ms < probe.timeout_ms };
        if wanted {
            self.link.client.batch_execute(&format!("SET statement_timeout = {}", probe.timeout_ms)).await?;
            self.timeout_ms = probe.timeout_ms;
        }
        let statement = match self.statements.get(probe.name) {
            Some(known) => known.clone(),
            None => {
                let fresh = self.link.client.prepare(sql).await?;
                self.statements.insert(probe.name, fresh.clone());
                fresh
            }
        };
        self.link.client.query(&statement, params).await
    }

    fn charge(&mut self, name: &'static str, took: Duration, failed: bool) {
        let cost = self.bill.entry(name).or_insert_with(|| ProbeCost { probe: name.into(), ..ProbeCost::default() });
        let ms = took.as_secs_f64() * 1000.0;
        cost.runs += 1;
        cost.failures += u64::from(failed);
        cost.total_ms += ms;
        cost.max_ms = cost.max_ms.max(ms);
    }

    fn rest(&mut self, name: &'static str, error: &tokio_postgres::Error, now: UnixMs) {
        self.statements.remove(name);
        let health = self.health.entry(name).or_default();
        health.rest_ms = (health.rest_ms * 2).clamp(FIRST_REST_MS, LONGEST_REST_MS);
        health.due = now + health.rest_ms;
        let first = health.rest_ms == FIRST_REST_MS;
        tracing::debug!(probe = name, rest_ms = health.rest_ms, error = %reason(error), "probe failed");
        if first {
            let gap = gap(name, error, &self.role);
            self.missing.push(gap);
        }
    }

    fn loss(&self, why: &str) -> SourceError {
        SourceError::new(SourceErrorKind::Lost, format!("{}: connection lost: {why}; galen reconnects by itself", self.place))
    }
}

/// True when the session is gone, not just the statement.
pub(super) fn lost(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT].contains(code),
        None => error.is_closed() || error.to_string().contains("communicating") || error.to_string().contains("closed"),
    }
}

/// What a failed probe leaves unseen, and what to do.
fn gap(name: &str, error: &tokio_postgres::Error, role: &str) -> Missing {
    let code = error.code();
    let (why, fix) = if code == Some(&SqlState::QUERY_CANCELED) {
        ("it took longer than its time limit".into(), "none needed: it is tried again later, and less often".into())
    } else if code == Some(&SqlState::LOCK_NOT_AVAILABLE) {
        ("it would have waited for a lock".into(), "none needed: it is tried again later".into())
    } else if name.starts_with("statement") && code == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) {
        let fix = "set shared_preload_libraries = 'pg_stat_statements' and restart the server";
        return Missing::new("pg_stat_statements", reason(error), fix);
    } else if code == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        (reason(error), format!("GRANT pg_monitor TO {role};"))
    } else {
        (reason(error), "see the server log; the probe is tried again later".into())
    };
    Missing::new(format!("probe {name}"), why, fix)
}
