//! One run of a scenario: load that warms up, a calm stretch, the fault, and the time after it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use galen_tools::capture::Capture;
use galen_tools::model::{UnixMs, Window};
use galen_tools::sources::pg::{Intervals, PgConfig, record as watch};
use serde::{Deserialize, Serialize};

use super::answer::Answer;
use super::cluster::Cluster;
use super::fault::{RunningFault, Steady};
use super::load::LoadReport;
use super::scenario::Scenario;
use super::script::Parameters;
use crate::output;
use crate::target::{freeze, now_ms};

/// How long each phase lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// Caches fill, statistics settle.
    pub warmup: Duration,
    /// Nothing is wrong.
    pub baseline: Duration,
    /// The fault is at work; its setup counts as part of this.
    pub anomaly: Duration,
    /// The fault is out again; not recorded.
    pub recovery: Duration,
}

impl Default for Phases {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self { warmup: s(5), baseline: s(45), anomaly: s(25), recovery: s(0) }
    }
}

impl Phases {
    /// Seconds that a run takes beside starting the server and filling the tables.
    pub fn total(&self) -> Duration {
        self.warmup + self.baseline + self.anomaly + self.recovery
    }
}

/// A phase that has just begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The server is made and started.
    Start,
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

impl Phase {
    /// What goes on, for people.
    pub fn words(self) -> &'static str {
        match self {
            Phase::Start => "starting a server",
            Phase::Setup => "filling the tables",
            Phase::Warmup => "warming up",
            Phase::Baseline => "watching the ordinary day",
            Phase::Anomaly => "fault at work",
            Phase::Recovery => "taking the fault out",
            Phase::Done => "done",
        }
    }
}

/// What to run and how.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Values for parameters of the fault.
    pub parameters: Parameters,
    /// Lengths of the phases.
    pub phases: Phases,
    /// Which random numbers the clients throw.
    pub seed: u64,
}

impl Run {
    /// Stem of the files of this run of a scenario: its name, the parameters that were given, the seed.
    pub fn case(&self, scenario: &str) -> String {
        let values: String = self.parameters.iter().map(|(name, value)| format!("-{name}{value}")).collect();
        format!("{scenario}{values}-{}", self.seed).replace('.', "-")
    }

    /// The same run of a scenario that another one includes: `NAME.PARAMETER` is its `PARAMETER`, the others are not its own.
    pub fn of_part(&self, scenario: &str) -> Run {
        let prefix = format!("{scenario}.");
        let own = |(name, value): (&String, &i64)| Some((name.strip_prefix(&prefix)?.to_owned(), *value));
        Run { parameters: self.parameters.iter().filter_map(own).collect(), ..self.clone() }
    }
}

/// What was seen of a run, and what was true of it.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// From the beginning of the calm stretch to the end of the fault, labelled with the causes.
    pub capture: Capture,
    /// The truth, for scoring: a diagnosis never sees it.
    pub answer: Answer,
}

/// Runs a scenario on this cluster while the collector of `galen record` watches with the least-privileged role.
/// `on_phase` is called as each phase begins. Dropping the future ends all load.
///
/// # Errors
/// A parameter the fault does not have, SQL that the server refuses, a server that is lost for good, clients of the fault that
/// sent nothing, a steady load that mostly failed before it, a disk without room under a server whose volume is not to be filled.
pub async fn record(cluster: &Cluster, scenario: &Scenario, run: &Run, on_phase: impl Fn(Phase)) -> anyhow::Result<Recorded> {
    let phases = run.phases;
    let script = scenario.fault.script(&run.parameters)?;
    let (has_clients, fills_volume) = (!script.clients.is_empty(), script.server.volume_mb > 0);
    on_phase(Phase::Setup);
    scenario.prepare(cluster).await?;
    let steady = scenario.start_steady(cluster, &run.parameters, run.seed).await?;
    on_phase(Phase::Warmup);
    tokio::time::sleep(phases.warmup).await;
    on_phase(Phase::Baseline);
    let config = PgConfig { intervals: Intervals::brisk(), ..PgConfig::new(&scenario.schema.name, cluster.dsn_galen()) };
    let over = AtomicBool::new(false);
    let longest = phases.baseline + phases.anomaly + Duration::from_secs(300);
    let watching = watch(config.clone(), longest, |_| !over.load(Relaxed));
    let incident = async {
        let outcome = incident(cluster, scenario, run, &steady, &on_phase).await;
        over.store(true, Relaxed);
        outcome
    };
    let (capture, incident) = tokio::join!(watching, incident);
    let (fault, window) = incident?;
    let mut capture = capture?;
    capture.manifest.labels.clone_from(&scenario.fault.causes);
    if let Err(error) = freeze(&config, &mut capture).await {
        tracing::warn!(%error, "plans were not recorded");
    }
    on_phase(Phase::Recovery);
    let mut during = LoadReport::default();
    if let Some(fault) = fault {
        let (report, teardown) = fault.take_out(cluster).await;
        if let Err(error) = teardown {
            // What was seen is good all the same; the server goes, or is tidied by whoever handed it over.
            output::tell(&format!("galen: {}: {error:#}", scenario.fault.name));
        }
        if !fills_volume {
            report.had_room()?;
        }
        if has_clients {
            report.was_sent()?;
        }
        during = report;
    }
    tokio::time::sleep(phases.recovery).await;
    let before = steady.stop().await;
    if !fills_volume {
        before.had_room()?;
    }
    on_phase(Phase::Done);
    let answer = Answer::new(scenario, run, window, capture.manifest.server_version_num, (before, during));
    Ok(Recorded { capture, answer })
}

/// The calm stretch and the fault; returns the fault still at work, and when that was.
async fn incident(
    cluster: &Cluster,
    scenario: &Scenario,
    run: &Run,
    steady: &Steady,
    on_phase: &impl Fn(Phase),
) -> anyhow::Result<(Option<RunningFault>, Option<Window>)> {
    tokio::time::sleep(run.phases.baseline).await;
    let calm = steady.report();
    if scenario.fault.script(&run.parameters)?.server.volume_mb == 0 {
        calm.had_room()?;
    }
    // What the fault itself makes fail is no flaw.
    calm.was_steady()?;
    on_phase(Phase::Anomaly);
    let end = tokio::time::Instant::now() + run.phases.anomaly;
    let began: UnixMs = now_ms();
    let fault = scenario.fault.inject(cluster, &run.parameters, run.seed).await?;
    tokio::time::sleep_until(end).await;
    let healthy = scenario.fault.causes.iter().all(|cause| cause == "healthy");
    Ok((Some(fault), (!healthy).then(|| Window { start: began, end: now_ms() })))
}
