//! One turn of collection: whatever probes are due, over one connection, merged into a frame.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use crate::capture::{FORMAT, Frame, Manifest, Missing};
use crate::model::{Event, UnixMs};
use crate::sources::host::Host;

use super::ash::{self, Ash, Seen};
use super::catalog::Catalog;
use super::config::{Intervals, PgConfig};
use super::connect::{self, Facts, looks_local, place};
use super::error::{SourceError, SourceErrorKind};
use super::probes;
use super::rates::Rates;
use super::row::{get, text};
use super::runner::Runner;
use super::server::{self, Role};
use super::statements::Statements;
use super::text::fingerprint;
use super::texts::Texts;

/// After a loss, waits at least this long before the next try, doubling to a minute.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// pg_stat_statements reads its whole file of texts to answer for one: at most this often, milliseconds.
const TEXTS_MS: i64 = 2_500;

/// Reads one target. Call [`Collector::turn`] once a second.
pub struct Collector {
    config: PgConfig,
    runner: Runner,
    facts: Facts,
    host: Option<Host>,
    size: (Option<u32>, Option<f64>),
    ash: Ash,
    catalog: Catalog,
    statements: Statements,
    texts: Texts,
    texts_due: UnixMs,
    rates: Rates,
    max_connections: Option<f64>,
    oldest_holder: f64,
    role: Role,
    missing: Vec<Missing>,
    lost: Option<Loss>,
    retry_at: Instant,
    retry_after: Duration,
    /// Until then statements and tables are read as often as in a recording.
    attentive_until: UnixMs,
}

/// The connection is lost.
struct Loss {
    since: UnixMs,
    crashed: bool,
}

impl Collector {
    /// Connects and finds out what can be seen.
    ///
    /// # Errors
    /// One line with place and advice; its kind tells whether to try again.
    pub async fn connect(config: PgConfig) -> Result<Self, SourceError> {
        let (link, facts) = connect::open(&config).await?;
        let pg = config.dsn.parse()?;
        let mut runner = Runner::new(link, facts.version_num, facts.role.clone(), place(&pg));
        if let Err(why) = connect::see_statements(&runner.link, &facts).await {
            runner.miss("pg_stat_statements", why, format!("GRANT USAGE ON the extension's schema TO {}", facts.role));
        }
        let host = looks_local(&pg).then(|| postmaster(&facts)).flatten().map(|pid| {
            // A data directory that this process may not enter still lies on a volume: ask its nearest readable parent.
            Host::new(Some(pid), facts.data_directory.as_deref().map(PathBuf::from).and_then(readable))
        });
        let size = host.as_ref().map_or((None, None), Host::size);
        let mut collector = Self {
            config,
            runner,
            facts,
            host,
            size,
            ash: Ash::default(),
            catalog: Catalog::default(),
            statements: Statements::default(),
            texts: Texts::default(),
            texts_due: 0,
            rates: Rates::default(),
            max_connections: None,
            oldest_holder: 0.0,
            role: Role::default(),
            missing: Vec::new(),
            lost: None,
            retry_at: Instant::now(),
            retry_after: FIRST_RETRY,
            attentive_until: 0,
        };
        collector.note_gaps();
        Ok(collector)
    }

    /// Does whatever is due at `now_ms` and returns what it saw.
    ///
    /// # Errors
    /// Lost or Unreachable while the target is away; the next call tries again, with backoff.
    pub async fn turn(&mut self, now_ms: UnixMs) -> Result<Frame, SourceError> {
        let mut frame = Frame { at: now_ms, ..Frame::default() };
        if self.lost.is_some() {
            self.reconnect(now_ms, &mut frame).await?;
        }
        let result = self.probe(now_ms, &mut frame).await;
        if let Err(error) = result {
            let crash = Some(SqlState::CRASH_SHUTDOWN);
            let crashed = self.runner.last_words == crash || self.runner.link.epitaph().await == crash;
            self.lost = Some(Loss { since: now_ms, crashed });
            self.retry_at = Instant::now() + self.retry_after;
            return Err(error);
        }
        frame.bill = self.runner.take_bill();
        self.missing.extend(self.runner.take_missing());
        frame.missing = std::mem::take(&mut self.missing);
        Ok(frame)
    }

    /// Something is going on: reads statements, tables and indexes now, and often until `until`. Probes that were
    /// slowed down because they cost too much stay slow.
    pub fn attend(&mut self, now: UnixMs, until: UnixMs) {
        if now >= self.attentive_until {
            let every = &self.config.intervals;
            // Indexes too: a list from before the incident still shows the one that was dropped.
            for (probe, interval) in
                [(&probes::STATEMENTS, every.statements), (&probes::TABLES, every.tables), (&probes::INDEXES, every.indexes)]
            {
                self.runner.sooner(probe, interval, now);
            }
        }
        self.attentive_until = self.attentive_until.max(until);
    }

    /// Head of a capture of this target.
    pub fn manifest(&self) -> Manifest {
        Manifest {
            format: FORMAT,
            galen_version: env!("CARGO_PKG_VERSION").to_owned(),
            origin: "live".to_owned(),
            target: self.config.name.clone(),
            server_version_num: self.facts.version_num,
            cpus: self.size.0,
            memory_bytes: self.size.1,
            missing: Vec::new(),
            ..Manifest::default()
        }
    }

    async fn probe(&mut self, now: UnixMs, frame: &mut Frame) -> Result<(), SourceError> {
        let every = match now < self.attentive_until {
            true => self.config.intervals.at_most(&Intervals::attentive()),
            false => self.config.intervals.clone(),
        };
        if let Some(rows) = self.runner.when_due(&probes::SESSIONS, every.sessions, now).await? {
            let seen = self.ash.read(&rows, now, self.sees_all(), frame);
            self.sessions(seen, now, frame).await?;
        }
        if let Some(rows) = self.runner.when_due(&probes::DATABASE, every.database, now).await?
            && let Some(row) = rows.first()
        {
            server::database(row, &mut self.rates, frame);
        }
        if let Some(host) = &mut self.host {
            host.read(now, frame);
        }
        if let Some(rows) = self.runner.when_due(&probes::SERVER, every.server, now).await?
            && let Some(row) = rows.first()
        {
            server::server(row, &mut self.rates, frame);
            self.max_connections = get(row, "max_connections");
        }
        if let Some(rows) = self.runner.when_due(&probes::HOLDERS, every.server, now).await? {
            self.oldest_holder = server::holders(&rows, now, frame);
        }
        if let Some(rows) = self.runner.when_due(&probes::ROLE, every.server, now).await?
            && let Some(row) = rows.first()
        {
            self.follow_role(Role::read(row), now, frame);
        }
        self.statements(&every, now, frame).await?;
        self.relations(&every, now, frame).await?;
        self.learn_texts(now, frame).await
    }

    async fn sessions(&mut self, seen: Seen, now: UnixMs, frame: &mut Frame) -> Result<(), SourceError> {
        if self.sees_all() {
            self.session_limits(&seen, frame);
        }
        for (id, text) in seen.texts {
            self.texts.settle(id, text, &mut frame.texts);
        }
        self.texts.want(seen.query_ids.iter().copied());
        if !seen.waiters.is_empty() {
            let (waiters, blockers) = (seen.waiters, seen.blockers);
            if let Some(rows) = self.runner.run(&probes::LOCKS, &[&waiters, &blockers], now).await? {
                frame.locks = ash::locks(&rows, now);
            }
        }
        Ok(())
    }

    /// True when the sessions of all roles can be seen: else a count of them would look like a quiet server.
    fn sees_all(&self) -> bool {
        self.facts.reads_stats || self.facts.superuser
    }

    fn session_limits(&self, seen: &Seen, frame: &mut Frame) {
        frame.values.push(("oldest_xmin_age".into(), "transactions", seen.oldest_xmin.max(self.oldest_holder)));
        if let Some(limit) = self.max_connections.filter(|l| *l > 0.0) {
            frame.values.push(("connections_used_ratio".into(), "ratio", seen.clients / limit));
        }
    }

    async fn statements(&mut self, every: &super::config::Intervals, now: UnixMs, frame: &mut Frame) -> Result<(), SourceError> {
        if self.facts.statements_schema.is_none() {
            return Ok(());
        }
        if let Some(rows) = self.runner.when_due(&probes::STATEMENTS, every.statements, now).await? {
            let known: BTreeSet<i64> = self.texts.known.clone();
            let wanted = self.statements.read(&rows, now, &known, frame);
            self.texts.want(wanted);
        }
        Ok(())
    }

    async fn relations(&mut self, every: &super::config::Intervals, now: UnixMs, frame: &mut Frame) -> Result<(), SourceError> {
        if let Some(rows) = self.runner.when_due(&probes::SIZES, every.sizes, now).await? {
            self.catalog.read_sizes(&rows, frame);
        }
        if let Some(rows) = self.runner.when_due(&probes::TABLES, every.tables, now).await? {
            self.catalog.read_tables(&rows, now, frame);
        }
        if let Some(rows) = self.runner.when_due(&probes::INDEXES, every.indexes, now).await? {
            let unknown = self.catalog.unknown_indexes(&rows);
            if !unknown.is_empty()
                && let Some(definitions) = self.runner.run(&probes::INDEX_DEFINITIONS, &[&unknown], now).await?
            {
                self.catalog.read_definitions(&definitions);
            }
            self.catalog.read_indexes(&rows, now, frame);
        }
        if let Some(rows) = self.runner.when_due(&probes::SETTINGS, every.settings, now).await? {
            self.catalog.read_settings(&rows, now, frame);
        }
        Ok(())
    }

    /// Asks for the texts of statements newly seen: of pg_stat_statements first, of the running sessions else.
    async fn learn_texts(&mut self, now: UnixMs, frame: &mut Frame) -> Result<(), SourceError> {
        if now < self.texts_due {
            return Ok(());
        }
        let mut ids = self.texts.next();
        if ids.is_empty() {
            return Ok(());
        }
        self.texts_due = now + TEXTS_MS;
        if self.facts.statements_schema.is_some()
            && let Some(rows) = self.runner.run(&probes::STATEMENT_TEXTS, &[&ids], now).await?
        {
            for row in &rows {
                let (id, query) = (get::<i64>(row, "query_id").unwrap_or(0), text(row, "query"));
                let own = (query.contains(probes::MARK) && get(row, "own").unwrap_or(false)) || probes::is_probe(&query);
                self.learn(id, &query, own, frame);
                ids.retain(|known| *known != id);
            }
        }
        if !ids.is_empty()
            && self.facts.version_num >= 140_000
            && let Some(rows) = self.runner.run(&probes::SESSION_TEXTS, &[&ids], now).await?
        {
            for row in &rows {
                self.learn(get::<i64>(row, "query_id").unwrap_or(0), &text(row, "query"), false, frame);
            }
        }
        Ok(())
    }

    /// `own` is a statement of Galen: it is left out. The mark alone does not make one, since anybody can write it.
    fn learn(&mut self, id: i64, query: &str, own: bool, frame: &mut Frame) {
        if query.starts_with("<insufficient privilege>") {
            return;
        }
        if own {
            self.statements.own.insert(id);
            frame.statements.retain(|sample| sample.query_id != id);
            self.texts.settle(id, String::new(), &mut frame.texts);
            return;
        }
        if !self.facts.computes_query_ids {
            // Sessions without an id are known by this print: it leads them to their counters.
            self.ash.known_ids.insert(fingerprint(query), id);
        }
        self.texts.learn(id, query, &mut frame.texts);
    }

    async fn reconnect(&mut self, now: UnixMs, frame: &mut Frame) -> Result<(), SourceError> {
        if Instant::now() < self.retry_at {
            return Err(SourceError::new(
                SourceErrorKind::Lost,
                format!("{}: connection lost; galen reconnects by itself", self.runner.place),
            ));
        }
        self.retry_after = (self.retry_after * 2).min(Duration::from_secs(60));
        self.retry_at = Instant::now() + self.retry_after;
        let (link, facts) = connect::open(&self.config).await?;
        self.runner.relink(link, facts.version_num);
        let _ = connect::see_statements(&self.runner.link, &facts).await;
        self.rates.clear();
        self.statements.clear();
        let loss = self.lost.take().unwrap_or(Loss { since: now, crashed: false });
        let away = format!("not seen for {:.0} s", (now - loss.since) as f64 / 1000.0);
        let restarted = (facts.started_ms - self.facts.started_ms).abs() > 1_000.0;
        // After a crash of one process the postmaster lives on, with the start time it had.
        if restarted || loss.crashed {
            let what = if restarted { "the server was restarted" } else { "a server process crashed and the server recovered" };
            frame.events.push(Event {
                at: now,
                source: "catalog".into(),
                kind: "restart".into(),
                object: self.config.name.clone(),
                text: format!("{what}; {away}"),
            });
        }
        let gap = Missing::new("connection", format!("it was lost: {away}"), "see the server's log");
        self.missing.push(Missing { at: Some(now), ..gap });
        if let Some(host) = &mut self.host {
            *host = Host::new(postmaster(&facts), facts.data_directory.as_deref().map(PathBuf::from).and_then(readable));
        }
        self.facts = facts;
        self.retry_after = FIRST_RETRY;
        Ok(())
    }

    /// Notes that the node changed its role, or that another node has it.
    fn follow_role(&mut self, role: Role, now: UnixMs, frame: &mut Frame) {
        if let Some(text) = role.moved_since(self.role) {
            let (source, kind, object) = ("catalog".into(), "role_changed".into(), self.config.name.clone());
            frame.events.push(Event { at: now, source, kind, object, text });
        }
        self.role.follow(role);
    }

    /// What the role or the server does not let Galen see, with what to do.
    fn note_gaps(&mut self) {
        let role = self.facts.role.clone();
        if self.facts.statements_schema.is_none() {
            self.missing.push(Missing::new(
                "pg_stat_statements",
                "the extension is not installed in this database: statements are known only while they run",
                "add it to shared_preload_libraries, restart, then CREATE EXTENSION pg_stat_statements;",
            ));
        }
        if !self.sees_all() {
            self.missing.push(Missing::new(
                "pg_monitor",
                format!("role {role} may not see the sessions and statements of others"),
                format!("GRANT pg_monitor TO {role};"),
            ));
        }
        if self.facts.version_num >= 140_000 && !self.facts.computes_query_ids {
            self.missing.push(Missing::new(
                "query ids of sessions",
                "compute_query_id is off",
                "ALTER SYSTEM SET compute_query_id = 'on'; SELECT pg_reload_conf();",
            ));
        }
        if self.host.is_none() {
            self.missing.push(Missing::new(
                "host",
                "the server does not run on this machine, or its processes cannot be seen",
                "run galen on the database host, or feed it node_exporter's metrics",
            ));
        }
    }
}

/// The postmaster's process id: parent of our backend, when it is a process of this host.
fn postmaster(facts: &Facts) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", facts.pid)).ok()?;
    let command = stat.split_once('(')?.1.split_once(')')?.0.to_owned();
    let parent: i32 = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().nth(1)?.parse().ok()?;
    command.starts_with("postgres").then_some(parent)
}

fn readable(mut path: PathBuf) -> Option<PathBuf> {
    while std::fs::metadata(&path).is_err() {
        if !path.pop() {
            return None;
        }
    }
    Some(path)
}
