//! One private server for many cases, and one case on it: tables, calm, incident, recording, and all gone again.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use tokio_postgres::Client;

use galen_tools::capture::Capture;
use galen_tools::sources::pg::{self, Intervals, PgConfig};

use crate::lab::cluster::connect;
use crate::lab::load::LoadReport;
use crate::lab::{Cluster, ClusterOptions, Load};
use crate::target::freeze;

use super::plan::{self, Plan};

/// How long each phase of a case lasts.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Phases {
    /// The steady clients run and nobody looks.
    pub warmup: Duration,
    /// Nothing is wrong; recorded.
    pub calm: Duration,
    /// The specification at work; recorded.
    pub incident: Duration,
}

impl Default for Phases {
    fn default() -> Self {
        Self { warmup: Duration::from_secs(2), calm: Duration::from_secs(14), incident: Duration::from_secs(22) }
    }
}

/// Settings of a server that has memory for what the specifications do; everything else as the lab has it.
const SETTINGS: &[(&str, &str)] =
    &[("shared_buffers", "256MB"), ("work_mem", "64MB"), ("max_wal_size", "1GB"), ("max_parallel_maintenance_workers", "0")];

/// A case that was played.
pub struct Played {
    /// What was recorded, without labels.
    pub capture: Capture,
    /// What the steady clients did.
    pub steady: LoadReport,
    /// What the incident's session and clients did.
    pub incident: LoadReport,
}

/// A running server with the neighbour's tables.
pub struct Stage {
    cluster: Cluster,
    admin: Client,
}

impl Stage {
    /// Starts a server. Fails with one line that says what to do.
    pub async fn open() -> anyhow::Result<Stage> {
        let settings = SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let cluster = Cluster::start(ClusterOptions { settings, ..ClusterOptions::default() }).await?;
        let admin = cluster.admin().await?;
        let stage = Stage { cluster, admin };
        stage.all(&plan::foundation()?).await?;
        Ok(stage)
    }

    /// Goes through a case and returns what was recorded, with the answers to the probes a diagnosis would send. Fails when
    /// a statement of the plan fails, the incident did not happen, most of it or of the steady load failed, the disk under the
    /// server has no room or the server is lost; the server is then best given up.
    pub async fn play(&self, plan: &Plan, phases: Phases) -> anyhow::Result<Played> {
        self.all(&plan.setup).await?;
        // Nothing of an earlier case is left in what the server counts, and none of its pages waits to be written.
        self.admin.batch_execute("SELECT pg_stat_statements_reset()").await?;
        self.admin.batch_execute("CHECKPOINT").await?;
        let steady = Load::start(&self.cluster.dsn_app(), &plan.steady, plan.seed)?;
        tokio::time::sleep(phases.warmup + plan.settle).await;
        let mut config = PgConfig::new("shop", self.cluster.dsn_galen());
        config.intervals = Intervals::brisk();
        let recorder = tokio::spawn(pg::record(config.clone(), phases.calm + phases.incident, |_| true));
        tokio::time::sleep(phases.calm).await;
        let usual = steady.report();
        if let Err(error) = usual.had_room().and_then(|()| usual.was_steady()) {
            recorder.abort();
            return Err(error);
        }
        let end = tokio::time::Instant::now() + phases.incident;
        let acts = Acts::default();
        let storm = tokio::time::timeout_at(end, self.storm(plan, &acts)).await;
        let mut capture = recorder.await.context("the recorder ended early")??;
        let clients = match storm {
            Ok(clients) => Some(clients?.stop().await),
            Err(_) => None,
        };
        let incident = acts.and_clients(plan, clients)?;
        let steady = steady.stop().await;
        steady.had_room()?;
        freeze(&config, &mut capture).await?;
        self.all(&plan.teardown).await?;
        Ok(Played { capture, steady, incident })
    }

    /// Why a case failed on this server; a disk without room under it is named.
    pub fn blamed(&self, error: anyhow::Error) -> anyhow::Error {
        self.cluster.blamed(error)
    }

    /// Stops the server and removes its folder.
    pub async fn close(self) {
        self.cluster.stop().await;
    }

    /// What goes wrong: the acts, each counted, then the clients.
    async fn storm(&self, plan: &Plan, acts: &Acts) -> anyhow::Result<Load> {
        let session = connect(&self.cluster.dsn_app()).await?;
        for step in &plan.acts {
            acts.begun.set(acts.begun.get() + 1);
            session.batch_execute(&step.sql).await.with_context(|| format!("at `{}`", step.sql))?;
            acts.done.set(acts.done.get() + 1);
            tokio::time::sleep(Duration::from_millis(step.pause_ms)).await;
        }
        Load::start(&self.cluster.dsn_app(), &plan.clients, plan.seed)
    }

    async fn all(&self, statements: &[String]) -> anyhow::Result<()> {
        let session = connect(&self.cluster.dsn_app()).await?;
        for sql in statements {
            session.batch_execute(sql).await.with_context(|| format!("at `{}`", sql.chars().take(200).collect::<String>()))?;
        }
        Ok(())
    }
}

/// Acts of an incident that were begun, and those that ended.
#[derive(Default)]
struct Acts {
    begun: Cell<u64>,
    done: Cell<u64>,
}

impl Acts {
    /// What the whole incident did; the clients are absent when the acts were not done with at its end. Fails where the
    /// incident did not happen or most of it failed: the label would be a lie.
    fn and_clients(&self, plan: &Plan, clients: Option<LoadReport>) -> anyhow::Result<LoadReport> {
        let (begun, done) = (self.begun.get(), self.done.get());
        if !plan.clients.is_empty() {
            let late = || format!("the incident's clients never started: {done} of {} statements before them were done", plan.acts.len());
            let clients = clients.as_ref().with_context(late)?;
            clients.had_room()?;
            clients.was_sent()?;
            clients.mostly_ran()?;
        }
        let mut report = clients.unwrap_or_default();
        report.sent += begun;
        report.statements += done;
        ensure!(report.sent > 0, "no statement of the incident was sent; record it again when the machine is less busy");
        Ok(report)
    }
}
