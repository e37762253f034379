//! From a claimed incident to a saved report. Incidents are collected side by side and diagnosed when it is their turn.

mod kept;
mod started;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use galen_agents::driver::{Diagnosis, Options, Progress, diagnose};
use galen_agents::llm::{OfIncident, Provider, Within};
use galen_agents::report::Status;
use galen_tools::capture::{Capture, Missing, TARGET};
use galen_tools::detect::DetectOptions;
use galen_tools::model::{Alert, Window};
use galen_tools::probe::{Prober, Recorded};
use galen_tools::sources::pg::PgProber;
use galen_tools::store::{self, Incident, Store};

use crate::config::Config;
use crate::engine;
use crate::failure::Failure;
use crate::living::Living;
use crate::recording::Recording;
use crate::state::{Counters, State, lock};
use crate::target::{now_ms, pg_config};
use crate::turns::{self, Turns};
use kept::{insist, passing, save, write_capture};
use started::Started;

/// Incidents claimed at a time: under way, or waiting for that.
const MOST_CLAIMED: usize = 128;
/// Incidents under way at a time; each holds its capture in memory.
const MOST_AT_ONCE: usize = 16;
/// Of one target: it leaves room to others.
const MOST_OF_TARGET: usize = MOST_AT_ONCE / 2;
/// Pause after a failed start of the model, before an incident is the occasion for another.
const START_AGAIN: Duration = Duration::from_secs(60);
/// A capture reaches this far back before the first alert, at most the configured history.
const BEFORE_ALERT_MS: i64 = 300_000;
/// Seconds after the alert from which on first looks are taken, one a second, until a cause shows.
const FIRST_LOOK_S: u64 = 1;
/// An anomaly of this length, seconds, is enough for them: that there is one is known from the alert.
const FIRST_PERSISTENCE_S: f64 = 2.0;
/// Seconds that a target must have been watched beyond the detector's warm-up.
const WARMER_S: u64 = 10;
/// Longest wait for the connection that answers on-demand probes.
const CONNECT: Duration = Duration::from_secs(5);

/// What diagnoses share.
pub struct Worker {
    library: Arc<Living>,
    model: Started<Arc<dyn Provider>>,
    turns: Turns,
}

/// Loads the configured model; `/metrics` shows its work from then on.
async fn load(state: Arc<State>) -> Result<Arc<dyn Provider>, String> {
    match engine::configured(&state.config.model).await {
        Ok(provider) => {
            let _ = state.model.set(Arc::clone(&provider));
            Ok(provider)
        }
        Err(error) => {
            tracing::warn!(%error, again_after_s = START_AGAIN.as_secs(), "going on without a model; its start is tried again later");
            Err(error.to_string())
        }
    }
}

/// Claims incidents, the oldest first, and sees each through.
pub async fn diagnoses(state: Arc<State>, worker: Arc<Worker>) {
    // Loading takes seconds: not when the first alert is there, and alerts do not wait for it.
    drop(worker.start(&state));
    claims(&state, &worker).await;
}

async fn claims(state: &Arc<State>, worker: &Arc<Worker>) {
    let (claimed, slots) = (Arc::new(Semaphore::new(MOST_CLAIMED)), Arc::new(Semaphore::new(MOST_AT_ONCE)));
    let mut of_targets: BTreeMap<String, Arc<Semaphore>> = BTreeMap::new();
    let mut under_way = JoinSet::new();
    loop {
        while under_way.try_join_next().is_some() {}
        let Ok(claim) = Arc::clone(&claimed).acquire_owned().await else { return };
        match state.with_store(Store::claim_next_to_diagnose).await {
            Ok(Some(incident)) => {
                let (state, worker, slots) = (Arc::clone(state), Arc::clone(worker), Arc::clone(&slots));
                let of_target = of_targets.entry(incident.target.clone()).or_insert_with(|| Arc::new(Semaphore::new(MOST_OF_TARGET)));
                let of_target = Arc::clone(of_target);
                under_way.spawn(async move {
                    let _claim = claim;
                    // The target's first: who waits for it takes no slot from another's.
                    let _of_target = of_target.acquire_owned().await;
                    let _slot = slots.acquire_owned().await;
                    handle(&state, &worker, incident).await;
                });
            }
            Ok(None) => {
                let _ = tokio::time::timeout(Duration::from_secs(10), state.wake.notified()).await;
            }
            Err(error) => {
                tracing::error!(%error, "the store cannot be read");
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
    }
}

async fn handle(state: &Arc<State>, worker: &Worker, incident: Incident) {
    let id = incident.id;
    tracing::info!(incident = id, target = incident.target, "diagnosing");
    let examined = AssertUnwindSafe(examine(state, worker, &incident)).catch_unwind().await;
    match examined.unwrap_or_else(|_| Err(Failure::fault("a fault of ours; the log says where"))) {
        Ok(path) => {
            Counters::count(&state.counters.diagnoses);
            tracing::info!(incident = id, report = %path.display(), "reported");
        }
        Err(failure) => {
            Counters::count(&state.counters.failures);
            tracing::error!(incident = id, error = %failure, "the diagnosis failed");
            let why = Arc::new(failure.to_string());
            let fail = || {
                let why = Arc::clone(&why);
                state.with_store(move |s| s.set_state(id, store::State::Failed, Some(&why)))
            };
            let _ = insist(state, id, fail).await;
        }
    }
}

/// From a claimed incident to a saved report; returns the path of its page. What only the disk keeps it from is tried
/// until it works: the alert was acknowledged.
async fn examine(state: &Arc<State>, worker: &Worker, incident: &Incident) -> Result<PathBuf, Failure> {
    let id = incident.id;
    // Where the model's last start failed, it is tried again while the incident is collected.
    drop(worker.start(state));
    let alerts = insist(state, id, || state.with_store(move |s| s.alerts_of(id))).await?;
    first_look(state, worker, incident, &alerts).await;
    settle(state, incident, state.config.incident.settle_s).await;
    warm_up(state, incident).await;
    let mut capture = freeze(state, incident, alerts);
    let file = &incident.capture_path;
    // Kept before anything else may go wrong; without it the report comes all the same.
    passing(id, write_capture(&capture, file).await)?;
    let mut diagnosis = examine_in_turn(state, worker, incident, &mut capture).await;
    let written = passing(id, write_capture(&capture, file).await)?;
    diagnosis.report.bill.wall_ms = capture.manifest.diagnosed_in_ms.unwrap_or_default();
    let page = save(state, id, diagnosis).await?;
    if written.is_none() {
        insist(state, id, || write_capture(&capture, file)).await?;
    }
    Ok(page)
}

/// The diagnosis proper, once it is this incident's turn. Leaves the target's answers in the capture.
async fn examine_in_turn(state: &Arc<State>, worker: &Worker, incident: &Incident, capture: &mut Capture) -> Diagnosis {
    let id = incident.id;
    let passed = || (now_ms() - incident.opened_at) as f64 / 1000.0;
    let provider = worker.provider(state, turns::patience_to_start(passed())).await;
    let turn = worker.turns.wait(&incident.target).await;
    let started = Instant::now();
    if let Err(error) = state.with_store(move |s| s.set_state(id, store::State::Diagnosing, None)).await {
        tracing::warn!(incident = id, %error, "its state could not be noted");
    }
    let live = live_prober(state, incident, capture).await;
    let frozen = Recorded(capture);
    let recording = Recording::new(live.as_deref().unwrap_or(&frozen));
    let progress = |step: Progress| note(state, incident, step);
    let left = || Duration::from_secs_f64(turn.patience(passed()));
    // Where there are adapters one diagnosis at a time has the model, and its adapter stays until the next one begins.
    let adapted = match &provider {
        Some(Ok(provider)) => {
            let changed = tokio::time::timeout(left(), adapt(&state.config, &incident.target, provider.as_ref()));
            changed.await.unwrap_or_else(|_| Err("the model's adapter could not be changed in time".to_owned()))
        }
        _ => Ok(()),
    };
    let (provider, trouble) = match provider {
        Some(Ok(_)) if adapted.is_err() => (None, adapted.err()),
        Some(Ok(provider)) => {
            let within = Within::new(Arc::new(OfIncident::new(provider, incident.id.to_string())), left());
            (Some(Arc::new(within) as Arc<dyn Provider>), None)
        }
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    let library = worker.library.current().await;
    let mut diagnosis = diagnose(capture, &library, &recording, provider, &Options::default(), &progress).await;
    if diagnosis.report.model_note.is_none() {
        diagnosis.report.model_note = trouble.map(|why| format!("{why}; diagnosed without a model"));
    }
    capture.answers = recording.take();
    capture.manifest.diagnosed_in_ms = Some(started.elapsed().as_millis() as u64);
    diagnosis
}

/// Changes the model to the adapter of a target, or back to itself.
async fn adapt(config: &Config, target: &str, provider: &dyn Provider) -> Result<(), String> {
    if config.model.adapters.is_empty() {
        return Ok(());
    }
    provider.reset();
    let wanted = config.targets.iter().find(|t| t.name == target).and_then(|t| t.adapter.as_deref());
    let name = wanted.unwrap_or("none");
    provider.adapt(wanted).await.map_err(|error| format!("the adapter `{name}` cannot be used: {error}"))?;
    tracing::info!(target_name = target, adapter = name, "the model diagnoses with this adapter");
    Ok(())
}

/// A finding within seconds: searches what is there already, without the model and without asking the target.
async fn first_look(state: &State, worker: &Worker, incident: &Incident, alerts: &[Alert]) {
    let detect = DetectOptions { persistence_s: FIRST_PERSISTENCE_S, ..DetectOptions::default() };
    let options = Options { detect, ..Options::default() };
    let last = state.config.incident.settle_s.saturating_sub(1);
    let passed = u64::try_from((now_ms() - incident.opened_at) / 1000).unwrap_or(0);
    let library = worker.library.current().await;
    // Of an old incident everything is there: one look.
    for seconds in passed.clamp(FIRST_LOOK_S, last.max(FIRST_LOOK_S))..=last {
        settle(state, incident, seconds).await;
        let capture = freeze(state, incident, alerts.to_vec());
        let report = diagnose(&capture, &library, &Recorded(&capture), None, &options, &|_| {}).await.report;
        if report.status == Status::Diagnosed
            && let Some(first) = report.root_causes.into_iter().next()
        {
            note(state, incident, Progress::Finding { cause: first.cause, probability: first.probability, summary: first.summary });
            return;
        }
        if !reachable(state, incident) {
            return;
        }
    }
}

fn reachable(state: &State, incident: &Incident) -> bool {
    state.targets.get(&incident.target).is_some_and(|t| lock(&t.down).is_none())
}

/// Waits until enough of the anomaly has been collected, while the collector goes on.
async fn settle(state: &State, incident: &Incident, seconds: u64) {
    let until = incident.opened_at + seconds as i64 * 1000;
    let wait = (until - now_ms()).clamp(0, 60_000);
    if reachable(state, incident) {
        tokio::time::sleep(Duration::from_millis(wait as u64)).await;
    }
}

/// Waits, where the daemon has only just begun to watch, until enough was seen to say anything: an alert's own time often lies
/// before the daemon's start. Of a target that has shown nothing yet, nothing is expected.
async fn warm_up(state: &State, incident: &Incident) {
    let Some(target) = state.targets.get(&incident.target) else { return };
    let enough = DetectOptions::default().warm_up_s as u64 + WARMER_S;
    let seen = || {
        let history = lock(&target.history);
        history.series.values().filter_map(|s| Some(s.times.last()? - s.times.first()?)).max()
    };
    for _ in 0..enough {
        if seen().is_none_or(|ms| ms >= enough as i64 * 1000) || !reachable(state, incident) {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The slice of history that belongs to the incident, frozen.
fn freeze(state: &State, incident: &Incident, alerts: Vec<Alert>) -> Capture {
    let Some(target) = state.targets.get(&incident.target) else { return Capture::default() };
    let reach = BEFORE_ALERT_MS.min(state.config.incident.history_s as i64 * 1000);
    let mut capture = lock(&target.history).since(incident.opened_at - reach);
    capture.alerts = alerts;
    capture.manifest.name = format!("incident-{}", incident.id);
    capture.manifest.target.clone_from(&incident.target);
    if capture.manifest.origin.is_empty() {
        capture.manifest.origin = "live".into();
        capture.manifest.format = galen_tools::capture::FORMAT;
    }
    let times = capture.series.values().filter_map(|s| Some((*s.times.first()?, *s.times.last()?)));
    capture.manifest.span = times.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).map(|(start, end)| Window { start, end: end + 1 });
    if let Some(why) = lock(&target.down).clone() {
        let fix = "see why it cannot be reached; the report rests on what was collected before";
        capture.manifest.missing.push(Missing::new(TARGET, why, fix));
    }
    capture
}

/// A prober on the target's second connection; without it the diagnosis does with what was collected.
async fn live_prober(state: &State, incident: &Incident, capture: &Capture) -> Option<Box<dyn Prober>> {
    let target = state.config.targets.iter().find(|t| t.name == incident.target)?;
    if !reachable(state, incident) {
        return None;
    }
    // Others wait for their turn meanwhile.
    let why = match tokio::time::timeout(CONNECT, PgProber::connect(&pg_config(target), capture)).await {
        Ok(Ok(prober)) => return Some(Box::new(prober)),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no connection within {} s", CONNECT.as_secs()),
    };
    tracing::warn!(target = target.name, why, "no on-demand probes for this diagnosis");
    None
}

/// Keeps the first finding and logs it.
fn note(state: &State, incident: &Incident, step: Progress) {
    if let Progress::Finding { cause, probability, summary } = &step {
        let seconds = (now_ms() - incident.opened_at) as f64 / 1000.0;
        let mut findings = lock(&state.first_findings);
        findings.entry(incident.id).or_insert_with(|| {
            tracing::info!(incident = incident.id, cause, probability, seconds, summary, "first finding");
            (cause.clone(), seconds)
        });
        if findings.len() > 1000 {
            findings.pop_first();
        }
    }
}

impl Worker {
    /// Nothing is loaded yet.
    pub fn new(library: Arc<Living>, config: &Config) -> Self {
        Self { library, model: Started::new(START_AGAIN), turns: Turns::new(!config.model.adapters.is_empty()) }
    }

    /// The model, started where that was not done yet or failed some time ago; none when no model is configured.
    fn start(&self, state: &Arc<State>) -> Option<JoinHandle<Result<Arc<dyn Provider>, String>>> {
        if state.config.model.name == "none" {
            return None;
        }
        let state = Arc::clone(state);
        Some(self.model.begin(move || load(state)))
    }

    /// The model, or why there is none after at most so many seconds; none when no model is configured.
    async fn provider(&self, state: &Arc<State>, patience_s: f64) -> Option<Result<Arc<dyn Provider>, String>> {
        let started = tokio::time::timeout(Duration::from_secs_f64(patience_s), self.start(state)?).await;
        Some(match started {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err("a fault of ours ended the model's start; the log says where".to_owned()),
            Err(_) => Err("the model was still being started".to_owned()),
        })
    }
}
