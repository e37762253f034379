//! The daemon: watches targets, takes alerts in, diagnoses one incident at a time, and answers at its doors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use galen_agents::driver::{Diagnosis, Library, Options, Progress, diagnose};
use galen_agents::llm::{Provider, Within};
use galen_agents::report::{Status, html, markdown};
use galen_tools::capture::{Capture, Missing, TARGET};
use galen_tools::detect::DetectOptions;
use galen_tools::model::{Alert, Window};
use galen_tools::probe::{Answering, ProbeAnswer, ProbeCall, Prober, Recorded};
use galen_tools::sources::pg::PgProber;
use galen_tools::store::{self, Incident, NewDiagnosis, Store};

use crate::config::Config;
use crate::failure::Failure;
use crate::state::{Counters, State, lock};
use crate::target::{now_ms, pg_config, watch};
use crate::{engine, http, rpc};

/// A capture reaches this far back before the first alert, at most the configured history.
const BEFORE_ALERT_MS: i64 = 300_000;
/// Seconds after the alert from which on first looks are taken, one a second, until a cause shows.
const FIRST_LOOK_S: u64 = 1;
/// An anomaly of this length, seconds, is enough for them: that there is one is known from the alert.
const FIRST_PERSISTENCE_S: f64 = 2.0;
/// Seconds from the alert within which the report must be there, with the model's share or without it.
const REPORT_S: f64 = 55.0;
/// The model always has this long, seconds: an old incident would else never be put to it.
const LEAST_MODEL_S: f64 = 20.0;

/// Runs until `shutdown`. `ready` is called with the address of the HTTP door once everything listens.
///
/// # Errors
/// Configuration, a store that cannot be opened, an address in use.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(Option<std::net::SocketAddr>),
) -> Result<(), Failure> {
    let data_dir = config.data_dir.clone();
    for folder in [data_dir.clone(), data_dir.join("captures"), data_dir.join("reports")] {
        std::fs::create_dir_all(&folder)
            .map_err(|e| Failure::config(format!("cannot create {}: {e}; set data_dir to a folder galen may write", folder.display())))?;
    }
    let store = Store::open(&data_dir)?;
    let recovered = store.recover_interrupted()?;
    let state = Arc::new(State::new(config, store));
    let library = Arc::new(engine::library(&state.config.data_dir)?);
    let mut tasks = JoinSet::new();
    let mut address = None;
    if state.config.http.enabled {
        let listener = tokio::net::TcpListener::bind(&state.config.http.listen)
            .await
            .map_err(|e| Failure::config(format!("cannot listen on {}: {e}; change http.listen", state.config.http.listen)))?;
        address = listener.local_addr().ok();
        let router = http::router(Arc::clone(&state));
        tasks.spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the http door closed");
            }
        });
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let socket = rpc_task(&state, stopped);
    for target in state.config.targets.clone() {
        let state = Arc::clone(&state);
        tasks.spawn(supervised(format!("target {}", target.name), move || watch(Arc::clone(&state), target.clone())));
    }
    {
        let state = Arc::clone(&state);
        let worker = Arc::new(Worker { library, provider: OnceCell::new() });
        tasks.spawn(supervised("diagnoses".to_owned(), move || diagnoses(Arc::clone(&state), Arc::clone(&worker))));
    }
    if recovered > 0 {
        tracing::info!(incidents = recovered, "picking up incidents that a crash left unfinished");
    }
    state.wake.notify_one();
    tracing::info!(targets = state.config.targets.len(), http = ?address, socket = %state.config.socket_path().display(), "ready");
    ready(address);
    let mut socket = socket;
    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        ended = &mut socket => ended.unwrap_or_else(|e| Err(Failure::fault(e.to_string()))),
    };
    tracing::info!("stopping");
    let _ = stop.send(true);
    if !socket.is_finished() {
        let _ = tokio::time::timeout(Duration::from_secs(2), socket).await;
    }
    tasks.shutdown().await;
    outcome
}

fn rpc_task(state: &Arc<State>, mut stopped: tokio::sync::watch::Receiver<bool>) -> tokio::task::JoinHandle<Result<(), Failure>> {
    let state = Arc::clone(state);
    let path = state.config.socket_path();
    tokio::spawn(async move {
        rpc::serve(state, &path, async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        })
        .await
    })
}

/// Runs a task again when it panics, with a growing pause.
async fn supervised<F: Future<Output = ()> + Send + 'static>(name: String, mut start: impl FnMut() -> F + Send + 'static) {
    let mut pause = Duration::from_secs(1);
    loop {
        let mut one = JoinSet::new();
        one.spawn(start());
        match one.join_next().await {
            Some(Err(error)) if error.is_panic() => tracing::error!(task = name, "a task failed and is started again"),
            _ => return,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(60));
    }
}

/// What the diagnosing task owns.
struct Worker {
    library: Arc<Library>,
    /// Started with the first diagnosis; its failure is remembered as a sentence.
    provider: OnceCell<Result<Arc<dyn Provider>, String>>,
}

/// The one permit: incidents are diagnosed one after the other.
async fn diagnoses(state: Arc<State>, worker: Arc<Worker>) {
    // Loading takes seconds: not when the first alert is there.
    worker.provider(&state.config).await;
    loop {
        match state.with_store(Store::claim_next_to_diagnose).await {
            Ok(Some(incident)) => handle(&state, &worker, incident).await,
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
    match examine(state, worker, &incident).await {
        Ok(path) => {
            Counters::count(&state.counters.diagnoses);
            tracing::info!(incident = id, report = %path.display(), "reported");
        }
        Err(failure) => {
            Counters::count(&state.counters.failures);
            tracing::error!(incident = id, error = %failure, "the diagnosis failed");
            let why = failure.to_string();
            let _ = state.with_store(move |s| s.set_state(id, store::State::Failed, Some(&why))).await;
        }
    }
}

/// From a claimed incident to a saved report; returns the path of its page.
async fn examine(state: &Arc<State>, worker: &Worker, incident: &Incident) -> Result<PathBuf, Failure> {
    let id = incident.id;
    let alerts = state.with_store(move |s| s.alerts_of(id)).await?;
    first_look(state, worker, incident, &alerts).await;
    settle(state, incident, state.config.incident.settle_s).await;
    let mut capture = freeze(state, incident, alerts);
    let file = incident.capture_path.clone();
    write_capture(&capture, &file).await?;
    state.with_store(move |s| s.set_state(id, store::State::Diagnosing, None)).await?;
    let started = Instant::now();
    let provider = worker.provider(&state.config).await;
    let live = live_prober(state, incident, &capture).await;
    let frozen = Recorded(&capture);
    let recording = Recording { inner: live.as_deref().unwrap_or(&frozen), answers: Mutex::default() };
    let progress = |step: Progress| note(state, incident, step);
    let passed = (now_ms() - incident.opened_at) as f64 / 1000.0;
    let patience = Duration::from_secs_f64((REPORT_S - passed).max(LEAST_MODEL_S));
    let options = Options::default();
    let (provider, trouble) = match provider {
        Some(Ok(provider)) => (Some(Arc::new(Within::new(Arc::clone(provider), patience)) as Arc<dyn Provider>), None),
        Some(Err(why)) => (None, Some(why.clone())),
        None => (None, None),
    };
    let mut diagnosis = diagnose(&capture, &worker.library, &recording, provider, &options, &progress).await;
    let wall_ms = started.elapsed().as_millis() as u64;
    diagnosis.report.bill.wall_ms = wall_ms;
    if diagnosis.report.model_note.is_none() {
        diagnosis.report.model_note = trouble.map(|why| format!("{why}; diagnosed without a model"));
    }
    let answers = std::mem::take(&mut *lock(&recording.answers));
    drop(recording);
    drop(live);
    capture.answers = answers;
    capture.manifest.diagnosed_in_ms = Some(wall_ms);
    write_capture(&capture, &file).await?;
    save(state, id, diagnosis).await
}

/// A finding within seconds: searches what is there already, without the model and without asking the target.
async fn first_look(state: &State, worker: &Worker, incident: &Incident, alerts: &[Alert]) {
    let detect = DetectOptions { persistence_s: FIRST_PERSISTENCE_S, ..DetectOptions::default() };
    let options = Options { detect, ..Options::default() };
    for seconds in FIRST_LOOK_S..state.config.incident.settle_s {
        settle(state, incident, seconds).await;
        let capture = freeze(state, incident, alerts.to_vec());
        let report = diagnose(&capture, &worker.library, &Recorded(&capture), None, &options, &|_| {}).await.report;
        if report.status == Status::Diagnosed
            && let Some(first) = report.root_causes.into_iter().next()
        {
            note(state, incident, Progress::Finding { cause: first.cause, probability: first.probability, summary: first.summary });
            return;
        }
    }
}

/// Waits until enough of the anomaly has been collected, while the collector goes on.
async fn settle(state: &State, incident: &Incident, seconds: u64) {
    let until = incident.opened_at + seconds as i64 * 1000;
    let wait = (until - now_ms()).clamp(0, 60_000);
    let reachable = state.targets.get(&incident.target).is_some_and(|t| lock(&t.down).is_none());
    if reachable {
        tokio::time::sleep(Duration::from_millis(wait as u64)).await;
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

async fn write_capture(capture: &Capture, path: &Path) -> Result<(), Failure> {
    let (copy, path) = (capture.clone(), path.to_owned());
    tokio::task::spawn_blocking(move || store::file::write(&copy, &path)).await.map_err(|e| Failure::fault(e.to_string()))??;
    Ok(())
}

/// A prober on the target's second connection; without it the diagnosis does with what was collected.
async fn live_prober(state: &State, incident: &Incident, capture: &Capture) -> Option<Box<dyn Prober>> {
    let target = state.config.targets.iter().find(|t| t.name == incident.target)?;
    match PgProber::connect(&pg_config(target), capture).await {
        Ok(prober) => Some(Box::new(prober)),
        Err(error) => {
            tracing::warn!(target = target.name, %error, "no on-demand probes for this diagnosis");
            None
        }
    }
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

/// Saves a diagnosis in the store and as files.
async fn save(state: &State, id: i64, diagnosis: Diagnosis) -> Result<PathBuf, Failure> {
    let folder = state.config.data_dir.join("reports");
    let page = folder.join(format!("{id}.html"));
    let report = diagnosis.report;
    let json = serde_json::to_string(&report).map_err(|e| Failure::fault(e.to_string()))?;
    let tree = serde_json::to_string(&diagnosis.tree).map_err(|e| Failure::fault(e.to_string()))?;
    let (text, html) = (markdown::render(&report), html::render(&report, &diagnosis.tree));
    let written = page.clone();
    let files =
        [(folder.join(format!("{id}.json")), json.clone()), (folder.join(format!("{id}.md")), text.clone()), (page.clone(), html.clone())];
    state
        .with_store(move |store| {
            let top = report.root_causes.first();
            store.save_diagnosis(
                id,
                &NewDiagnosis {
                    report_json: &json,
                    tree_json: &tree,
                    markdown: &text,
                    html: &html,
                    headline: &report.headline,
                    top_cause: top.map(|c| c.cause.as_str()),
                    probability: top.map(|c| c.probability),
                },
            )
        })
        .await?;
    // The store has it all: a file that cannot be written is a pity, not a failure.
    for (path, content) in files {
        if let Err(error) = std::fs::write(&path, content) {
            tracing::warn!(path = %path.display(), %error, "the report's file could not be written; it is in the store");
        }
    }
    Ok(written)
}

impl Worker {
    /// The provider, started once; none when no model is configured.
    async fn provider(&self, config: &Config) -> Option<&Result<Arc<dyn Provider>, String>> {
        if config.model.name == "none" {
            return None;
        }
        let start = || async {
            let dir = config.model.models_dir.as_deref();
            engine::start(&config.model.name, dir, config.model.threads, config.model.timeout_s).await.map_err(|error| {
                tracing::warn!(%error, "going on without a model");
                error.to_string()
            })
        };
        Some(self.provider.get_or_init(start).await)
    }
}

/// Passes calls on and keeps the answers, so that a replay of the capture sees them.
struct Recording<'p> {
    inner: &'p dyn Prober,
    answers: Mutex<BTreeMap<String, ProbeAnswer>>,
}

impl Prober for Recording<'_> {
    fn ask<'a>(&'a self, call: &'a ProbeCall) -> Answering<'a> {
        Box::pin(async move {
            let answer = self.inner.ask(call).await;
            lock(&self.answers).insert(call.key(), answer.clone());
            answer
        })
    }
}
