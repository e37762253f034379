//! One run of a scenario: load that warms up, a calm stretch, the fault, and the time after it.

use std::time::Duration;

use super::cluster::Cluster;
use super::fault::Parameters;
use super::load::{Load, LoadReport};
use super::scenario::Scenario;

/// How long each phase lasts.
#[derive(Debug, Clone, Copy)]
pub struct Phases {
    /// Caches fill, statistics settle.
    pub warmup: Duration,
    /// Nothing is wrong.
    pub baseline: Duration,
    /// The fault is at work; its setup counts as part of this.
    pub anomaly: Duration,
    /// The fault is out again.
    pub recovery: Duration,
}

/// A phase that has just begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The tables are made and filled.
    Setup,
    /// See [`Phases`].
    Warmup,
    /// See [`Phases`].
    Baseline,
    /// See [`Phases`].
    Anomaly,
    /// See [`Phases`].
    Recovery,
    /// The load has stopped.
    Done,
}

/// What the clients of a run did.
#[derive(Debug, Clone, Default)]
pub struct RunReport {
    /// The steady load, over all phases.
    pub steady: LoadReport,
}

/// Goes through all phases and calls `on_phase` as each begins. Dropping the future ends all load.
pub async fn run(
    cluster: &Cluster,
    scenario: &Scenario,
    parameters: &Parameters,
    phases: Phases,
    on_phase: impl Fn(Phase),
) -> anyhow::Result<RunReport> {
    scenario.fault.script(parameters)?;
    on_phase(Phase::Setup);
    scenario.prepare(cluster).await?;
    let steady = Load::start(&cluster.dsn_shop(), &scenario.baseline)?;
    on_phase(Phase::Warmup);
    tokio::time::sleep(phases.warmup).await;
    on_phase(Phase::Baseline);
    tokio::time::sleep(phases.baseline).await;
    on_phase(Phase::Anomaly);
    let end = tokio::time::Instant::now() + phases.anomaly;
    let fault = scenario.fault.inject(cluster, parameters).await?;
    tokio::time::sleep_until(end).await;
    on_phase(Phase::Recovery);
    fault.stop().await?;
    tokio::time::sleep(phases.recovery).await;
    let steady = steady.stop().await;
    on_phase(Phase::Done);
    Ok(RunReport { steady })
}
