//! Records many cases: finished ones are kept and skipped, a case that fails gets a fresh server and one more chance.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use futures_util::future::try_join_all;

use galen_tools::store::file;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::lab::answer::Done;
use crate::lab::binaries;
use crate::lab::folder::Folder;
use crate::lab::room::is_full;

use super::plan::{Plan, plan};
use super::spec::Spec;
use super::stage::{Phases, Played, Stage};

/// What to record.
#[derive(Debug, Clone)]
pub struct Request {
    /// Specifications, in this order.
    pub specs: Vec<Spec>,
    /// Servers at a time.
    pub jobs: usize,
    /// Length of a case.
    pub phases: Phases,
    /// CPUs to scale for.
    pub cpus: u32,
}

/// What became of a case.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was there already.
    Kept(PathBuf),
    /// It was recorded in so many seconds.
    Recorded(PathBuf, f64),
    /// Why it could not be recorded.
    Failed(String),
}

/// Name of a specification's case. It tells the number and nothing else: a report shows it.
pub fn name_of(spec: &Spec) -> String {
    format!("spec-{:04}", spec.id)
}

/// Records into the folder what it lacks and calls `tell` after each case. Fails when a finished case was recorded with
/// something else ([`Otherwise`](crate::lab::Otherwise); nothing is recorded then), or when the disk is full, of the folder or
/// under a server; any other failure of a case is an [`Outcome`], and the others go on.
pub async fn record(request: &Request, folder: &Folder, tell: impl Fn(&Spec, &Outcome)) -> anyhow::Result<()> {
    let finished = finished(request, folder)?;
    let open: Vec<&Spec> = request.specs.iter().filter(|spec| !finished.contains(&spec.id)).collect();
    for spec in request.specs.iter().filter(|spec| finished.contains(&spec.id)) {
        tell(spec, &Outcome::Kept(folder.capture(&name_of(spec))));
    }
    let next = AtomicUsize::new(0);
    let workers = (0..request.jobs.max(1)).map(|_| work(request, &open, folder, &next, &tell));
    try_join_all(workers).await?;
    Ok(())
}

/// Numbers of the specifications that are recorded already, as they would be now.
fn finished(request: &Request, folder: &Folder) -> anyhow::Result<BTreeSet<u32>> {
    let version = OnceCell::new();
    let version = || *version.get_or_init(|| binaries::version_num(&binaries::find_bin_dir(None).ok()?));
    let mut finished = BTreeSet::new();
    for spec in &request.specs {
        let name = name_of(spec);
        if file::read(&folder.capture(&name)).is_err() {
            continue;
        }
        let Some(answer) = folder.finished(&name) else {
            return Err(folder.otherwise(&name, "nothing beside it says how").into());
        };
        let mut asked = answer_of(spec, &plan(spec, request.cpus)?, request.phases);
        if let Some(version) = version() {
            asked["server_version_num"] = version.into();
        }
        folder.agrees(&name, &answer, &asked)?;
        finished.insert(spec.id);
    }
    Ok(finished)
}

/// What is right for a case, which `galen bench run` reads, and how it is made: another plan (the specification scaled to
/// this machine, with its statements, clients and seed) makes another case.
fn answer_of(spec: &Spec, plan: &Plan, phases: Phases) -> Value {
    let plan: String = Sha256::digest(format!("{plan:?}")).iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "causes": spec.causes, "specification": spec.id, "workload": spec.workload, "size": spec.size, "plan_sha256": plan,
        "phases": phases, "galen_version": env!("CARGO_PKG_VERSION"),
    })
}

async fn work(
    request: &Request,
    open: &[&Spec],
    folder: &Folder,
    next: &AtomicUsize,
    tell: &impl Fn(&Spec, &Outcome),
) -> anyhow::Result<()> {
    let mut stage = None;
    while let Some(spec) = open.get(next.fetch_add(1, Relaxed)) {
        let began = Instant::now();
        let outcome = match twice(async || attempt(request, spec, folder, &mut stage).await).await {
            Ok(path) => Outcome::Recorded(path, began.elapsed().as_secs_f64()),
            Err(error) if is_full(&error) => return Err(error.context("the disk is full; what was recorded is kept")),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        tell(spec, &outcome);
    }
    if let Some(stage) = stage {
        stage.close().await;
    }
    Ok(())
}

/// Tries once more after a failure, unless the disk is full: it still would be.
pub(super) async fn twice<T>(mut attempt: impl AsyncFnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    match attempt().await {
        Err(error) if !is_full(&error) => attempt().await,
        done => done,
    }
}

/// One case on the worker's server; a failure costs the server.
async fn attempt(request: &Request, spec: &Spec, folder: &Folder, stage: &mut Option<Stage>) -> anyhow::Result<PathBuf> {
    let plan = plan(spec, request.cpus)?;
    let server = match stage.take() {
        Some(server) => server,
        None => Stage::open().await?,
    };
    match server.play(&plan, request.phases).await {
        Ok(Played { mut capture, steady, incident }) => {
            *stage = Some(server);
            // For scoring alone: a diagnosis never reads the labels.
            capture.manifest.labels.clone_from(&spec.causes);
            let mut answer = answer_of(spec, &plan, request.phases);
            answer["server_version_num"] = capture.manifest.server_version_num.into();
            answer["sources"] = env!("SOURCES_DIGEST").into();
            answer["steady"] = serde_json::to_value(Done::from(steady))?;
            answer["fault"] = serde_json::to_value(Done::from(incident))?;
            folder.save(&name_of(spec), &capture, &answer)
        }
        Err(error) => {
            let error = server.blamed(error);
            server.close().await;
            Err(error)
        }
    }
}
