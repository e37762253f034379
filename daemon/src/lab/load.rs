//! Load: clients that run weighted statements against the lab, one connection each, until they are told to stop.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::TryStreamExt;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, Config, NoTls, Statement};

use super::room;
use super::statement::{Dice, Step, Template};

/// A group of clients that do the same work.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientSpec {
    /// `application_name`.
    pub name: String,
    /// How many clients, one connection each.
    pub count: u32,
    /// Least and most milliseconds of thought after each turn.
    #[serde(default)]
    pub think_ms: (i64, i64),
    /// Turns per second and client; a late client catches up at most two seconds. Without it, turns follow each other.
    #[serde(default)]
    pub per_second: Option<f64>,
    /// Opens a new connection for each turn.
    #[serde(default)]
    pub reconnect: bool,
    /// What they do.
    pub work: Vec<Work>,
}

/// One kind of turn.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// How often, relative to the client's other work.
    #[serde(default = "one")]
    pub weight: u32,
    /// Steps; more than one make a transaction.
    pub sql: Vec<String>,
}

fn one() -> u32 {
    1
}

/// What some load did, counted at the clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Statements that were sent, the running one of each client included.
    pub sent: u64,
    /// Statements that succeeded.
    pub statements: u64,
    /// Statements and connections that failed.
    pub errors: u64,
    /// Those of them that were connections which could not be opened.
    pub unconnected: u64,
    /// Those of them that failed because the server's disk has no room.
    pub full: u64,
    /// Rows read by the clients.
    pub rows: u64,
    /// Text of the last error.
    pub last_error: Option<String>,
}

impl LoadReport {
    /// Fails where the disk under the server had no room, with an error that [`is_full`](room::is_full) knows: what was
    /// seen is then a full disk, whatever was injected. Not to be asked of a server whose volume is meant to be filled.
    pub fn had_room(&self) -> anyhow::Result<()> {
        match self.full {
            0 => Ok(()),
            full => Err(room::full(format!("{full} statements failed because the disk under the server has no room{}", self.last()))),
        }
    }

    /// Fails where more than half of what the clients tried failed: of clients that are not meant to fail.
    pub fn mostly_ran(&self) -> anyhow::Result<()> {
        // A statement that runs to the end was sent, and neither failed nor succeeded; a connection that failed was never sent.
        let all = (self.sent + self.unconnected).max(self.errors + self.statements);
        let (failed, last) = (self.errors, self.last());
        ensure!(failed <= all / 2, "{failed} of {all} statements of the incident failed{last}: it hardly happened");
        Ok(())
    }

    /// Fails where a fault's clients sent nothing: on a machine that is overloaded the label would be a lie.
    pub fn was_sent(&self) -> anyhow::Result<()> {
        let last = self.last();
        ensure!(self.sent > 0, "the fault's clients did not get to send a statement{last}; record it again when the machine is less busy");
        Ok(())
    }

    /// Fails where more than half of what the steady clients tried failed, or nothing was answered: there was no ordinary day to compare with.
    pub fn was_steady(&self) -> anyhow::Result<()> {
        let (failed, all, last) = (self.errors, self.errors + self.statements, self.last());
        let went_on = failed <= self.statements && (self.statements > 0 || self.sent == 0);
        ensure!(went_on, "{failed} of {all} statements of the steady load failed{last}: there was no ordinary day");
        Ok(())
    }

    fn last(&self) -> String {
        self.last_error.as_deref().map(|error| format!(" (the last: {error})")).unwrap_or_default()
    }
}

/// Running clients. Dropping it ends them without waiting; `stop` also cancels what they run.
pub struct Load {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    sent: AtomicU64,
    statements: AtomicU64,
    errors: AtomicU64,
    unconnected: AtomicU64,
    full: AtomicU64,
    rows: AtomicU64,
    last_error: Mutex<Option<String>>,
}

/// Longest wait for the server to answer a cancel request or a goodbye.
const FAREWELL: Duration = Duration::from_secs(2);
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
const MOST_BACKLOG: Duration = Duration::from_secs(2);

impl Load {
    /// Starts all clients; the same seed lets each throw the same dice. Fails when a step is malformed or the connection string cannot be read.
    pub fn start(dsn: &str, specs: &[ClientSpec], seed: u64) -> anyhow::Result<Load> {
        let (stop, listener) = watch::channel(false);
        let counters = Arc::new(Counters::default());
        let mut tasks = JoinSet::new();
        for spec in specs {
            let plan = Arc::new(Plan::new(dsn, spec)?);
            for number in 0..spec.count {
                let own = seed.rotate_left(17) ^ ((tasks.len() as u64) << 32 | u64::from(number));
                let player = Player { plan: plan.clone(), counters: counters.clone(), dice: Dice::new(own), due: Instant::now() };
                tasks.spawn(player.play(listener.clone()));
            }
        }
        Ok(Load { stop, tasks, counters })
    }

    /// Counts so far.
    pub fn report(&self) -> LoadReport {
        LoadReport {
            sent: self.counters.sent.load(Relaxed),
            statements: self.counters.statements.load(Relaxed),
            errors: self.counters.errors.load(Relaxed),
            unconnected: self.counters.unconnected.load(Relaxed),
            full: self.counters.full.load(Relaxed),
            rows: self.counters.rows.load(Relaxed),
            last_error: self.counters.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Cancels what is running, closes all connections and counts up. Takes a few seconds at most.
    pub async fn stop(mut self) -> LoadReport {
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
        self.report()
    }
}

impl Counters {
    fn failed(&self, error: String) {
        self.errors.fetch_add(1, Relaxed);
        self.full.fetch_add(u64::from(room::says_full(&error)), Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// A spec whose steps have been read.
struct Plan {
    config: Config,
    spec: ClientSpec,
    turns: Vec<(u32, Vec<Step>)>,
    total_weight: i64,
}

impl Plan {
    fn new(dsn: &str, spec: &ClientSpec) -> anyhow::Result<Plan> {
        let mut config: Config = dsn.parse().context("cannot read the connection string")?;
        config.application_name(&spec.name).connect_timeout(Duration::from_secs(5));
        let steps = |work: &Work| work.sql.iter().map(|text| Step::parse(text)).collect::<anyhow::Result<Vec<_>>>();
        let turns = spec.work.iter().map(|work| Ok((work.weight, steps(work)?))).collect::<anyhow::Result<Vec<_>>>()?;
        let total_weight = turns.iter().map(|(weight, _)| i64::from(*weight)).sum();
        ensure!(total_weight > 0, "client `{}` has no work with a weight above zero", spec.name);
        Ok(Plan { config, spec: spec.clone(), turns, total_weight })
    }

    fn pick(&self, dice: &mut Dice) -> usize {
        let mut left = dice.between(1, self.total_weight);
        for (number, (weight, _)) in self.turns.iter().enumerate() {
            left -= i64::from(*weight);
            if left <= 0 {
                return number;
            }
        }
        0
    }
}

/// One client.
struct Player {
    plan: Arc<Plan>,
    counters: Arc<Counters>,
    dice: Dice,
    due: Instant,
}

/// A connection and what has been prepared on it, by turn and step.
struct Session {
    client: Client,
    prepared: Vec<Vec<Option<Statement>>>,
}

impl Player {
    async fn play(mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let lost = self.visit(&mut stop).await;
            if let Err(error) = lost {
                self.counters.failed(error);
                tokio::select! { () = sleep(RECONNECT_PAUSE) => {}, _ = stop.changed() => {} }
            }
        }
    }

    /// One connection from open to close; an error when it could not be opened or was lost.
    async fn visit(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), String> {
        let plan = self.plan.clone();
        let opened = tokio::select! {
            opened = plan.config.connect(NoTls) => opened,
            _ = stop.changed() => return Ok(()),
        };
        let (client, connection) = opened.map_err(|error| {
            self.counters.unconnected.fetch_add(1, Relaxed);
            said(&error)
        })?;
        let mut connection = tokio::spawn(connection);
        let prepared = plan.turns.iter().map(|(_, steps)| vec![None; steps.len()]).collect();
        let mut session = Session { client, prepared };
        let (outcome, stopped) = tokio::select! {
            outcome = self.turns(&mut session) => (outcome, false),
            _ = stop.changed() => (Ok(()), true),
        };
        if stopped {
            let _ = timeout(FAREWELL, session.client.cancel_token().cancel_query(NoTls)).await;
        }
        drop(session);
        if timeout(FAREWELL, &mut connection).await.is_err() {
            connection.abort();
        }
        outcome
    }

    async fn turns(&mut self, session: &mut Session) -> Result<(), String> {
        loop {
            let number = self.plan.pick(&mut self.dice);
            let outcome = self.turn(session, number).await;
            if session.client.is_closed() {
                return Err(outcome.err().unwrap_or_else(|| "the connection was closed".into()));
            }
            if let Err(error) = outcome {
                self.counters.failed(error);
            }
            self.rest().await;
            if self.plan.spec.reconnect {
                return Ok(());
            }
        }
    }

    async fn turn(&mut self, session: &mut Session, number: usize) -> Result<(), String> {
        let plan = self.plan.clone();
        let Some((_, steps)) = plan.turns.get(number) else {
            return Ok(());
        };
        let transaction = steps.len() > 1;
        if transaction {
            session.client.batch_execute("BEGIN").await.map_err(|error| said(&error))?;
        }
        let outcome = self.steps(session, number, steps).await;
        if transaction {
            let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
            session.client.batch_execute(end).await.map_err(|error| said(&error))?;
        }
        outcome
    }

    async fn steps(&mut self, session: &mut Session, turn: usize, steps: &[Step]) -> Result<(), String> {
        for (number, step) in steps.iter().enumerate() {
            match step {
                Step::Pause(low, high) => sleep(self.dice.millis(*low, *high)).await,
                Step::Statement(template) => {
                    let rows = self.statement(session, (turn, number), template).await?;
                    self.counters.rows.fetch_add(rows, Relaxed);
                    self.counters.statements.fetch_add(1, Relaxed);
                }
            }
        }
        Ok(())
    }

    /// Runs one statement and really reads its rows; returns how many there were.
    async fn statement(&mut self, session: &mut Session, at: (usize, usize), template: &Template) -> Result<u64, String> {
        let known = session.prepared[at.0][at.1].clone();
        let statement = match known {
            Some(statement) => statement,
            None => session.client.prepare(&template.sql).await.map_err(|error| said(&error))?,
        };
        session.prepared[at.0][at.1] = Some(statement.clone());
        let values = template.values(statement.params(), &mut self.dice).map_err(|error| error.to_string())?;
        self.counters.sent.fetch_add(1, Relaxed);
        let rows = session.client.query_raw(&statement, values).await.map_err(|error| said(&error))?;
        let mut rows = pin!(rows);
        let mut count = 0;
        while rows.try_next().await.map_err(|error| said(&error))?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    async fn rest(&mut self) {
        let (low, high) = self.plan.spec.think_ms;
        if high > 0 {
            sleep(self.dice.millis(low, high)).await;
        }
        if let Some(rate) = self.plan.spec.per_second.filter(|rate| *rate > 0.001) {
            self.due += Duration::from_secs_f64(1.0 / rate);
            if let Some(oldest) = Instant::now().checked_sub(MOST_BACKLOG) {
                self.due = self.due.max(oldest);
            }
            tokio::time::sleep_until(self.due).await;
        }
    }
}

/// The server's own message where there is one: "db error" alone helps nobody.
fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{}: {}", db.code().code(), db.message()),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_sent_nothing_and_a_steady_load_that_mostly_failed_are_told() {
        let last_error = Some("53300: too many".to_owned());
        let report =
            |sent, statements, errors| LoadReport { sent, statements, errors, last_error: last_error.clone(), ..LoadReport::default() };
        report(1, 0, 1).was_sent().unwrap();
        let error = report(0, 0, 4).was_sent().unwrap_err().to_string();
        assert!(error.contains("did not get to send") && error.contains("53300"), "{error}");
        report(10, 5, 5).was_steady().unwrap();
        report(0, 0, 0).was_steady().unwrap();
        assert!(report(4, 0, 0).was_steady().is_err(), "nothing was answered");
        let error = report(10, 5, 6).was_steady().unwrap_err().to_string();
        assert!(error.contains("6 of 11") && error.contains("53300"), "{error}");
        report(10, 5, 5).mostly_ran().unwrap();
        // Those that run all the time, of which one could not connect at first; and one that never could.
        let unconnected = |sent, errors| LoadReport { unconnected: errors, ..report(sent, 0, errors) };
        unconnected(3, 1).mostly_ran().unwrap();
        unconnected(1, 1).mostly_ran().unwrap();
        assert!(report(1, 0, 1).mostly_ran().is_err() && unconnected(0, 1).mostly_ran().is_err());
        let error = report(10, 0, 10).mostly_ran().unwrap_err().to_string();
        assert!(error.contains("10 of 10") && error.contains("53300"), "{error}");
        assert!(report(10, 4, 6).mostly_ran().is_err());
    }
}
