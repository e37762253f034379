//! One private server for many cases, and one case on it: tables, calm, incident, recording, and all gone again.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tokio_postgres::Client;

use galen_tools::capture::Capture;
use galen_tools::sources::pg::{self, Intervals, PgConfig};

use crate::lab::cluster::connect;
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
    /// a statement of the plan fails or the server is lost; the server is then best given up.
    pub async fn play(&self, plan: &Plan, phases: Phases) -> anyhow::Result<Capture> {
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
        let end = tokio::time::Instant::now() + phases.incident;
        let storm = tokio::time::timeout_at(end, self.storm(plan)).await;
        let mut capture = recorder.await.context("the recorder ended early")??;
        if let Ok(storm) = storm {
            storm?.stop().await;
        }
        steady.stop().await;
        freeze(&config, &mut capture).await?;
        self.all(&plan.teardown).await?;
        Ok(capture)
    }

    /// Stops the server and removes its folder.
    pub async fn close(self) {
        self.cluster.stop().await;
    }

    /// What goes wrong: the acts, then the clients.
    async fn storm(&self, plan: &Plan) -> anyhow::Result<Load> {
        let session = connect(&self.cluster.dsn_app()).await?;
        for step in &plan.acts {
            session.batch_execute(&step.sql).await.with_context(|| format!("at `{}`", step.sql))?;
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
