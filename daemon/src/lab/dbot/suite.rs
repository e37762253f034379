//! Records many cases: finished ones are kept and skipped, a case that fails gets a fresh server and one more chance.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use futures_util::future::try_join_all;

use galen_tools::store::file;

use crate::lab::folder::{Folder, is_full};

use super::plan::plan;
use super::spec::Spec;
use super::stage::{Phases, Stage};

/// What to record.
#[derive(Debug, Clone)]
pub struct Request {
    /// Specifications, in this order.
    pub specs: Vec<Spec>,
    /// Folder of the captures.
    pub out: PathBuf,
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

/// File of a specification's capture. The name tells the number and nothing else: a report shows it.
pub fn path_of(out: &Path, spec: &Spec) -> PathBuf {
    out.join(format!("spec-{:04}.galen", spec.id))
}

/// Records what is missing and calls `tell` after each case. Fails when the folder cannot be written, when another run writes
/// to it, or when the disk is full; any other failure of a case is an [`Outcome`], and the others go on.
pub async fn record(request: &Request, tell: impl Fn(&Spec, &Outcome)) -> anyhow::Result<()> {
    let _folder = Folder::open(&request.out)?;
    let next = AtomicUsize::new(0);
    let workers = (0..request.jobs.max(1)).map(|_| work(request, &next, &tell));
    try_join_all(workers).await?;
    Ok(())
}

async fn work(request: &Request, next: &AtomicUsize, tell: &impl Fn(&Spec, &Outcome)) -> anyhow::Result<()> {
    let mut stage = None;
    while let Some(spec) = request.specs.get(next.fetch_add(1, Relaxed)) {
        let path = path_of(&request.out, spec);
        if file::read(&path).is_ok() {
            tell(spec, &Outcome::Kept(path));
            continue;
        }
        let began = Instant::now();
        let mut outcome = attempt(request, spec, &path, &mut stage).await;
        if outcome.is_err() {
            outcome = attempt(request, spec, &path, &mut stage).await;
        }
        let outcome = match outcome {
            Ok(()) => Outcome::Recorded(path, began.elapsed().as_secs_f64()),
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

/// One case on the worker's server; a failure costs the server.
async fn attempt(request: &Request, spec: &Spec, path: &Path, stage: &mut Option<Stage>) -> anyhow::Result<()> {
    let plan = plan(spec, request.cpus)?;
    let server = match stage.take() {
        Some(server) => server,
        None => Stage::open().await?,
    };
    match server.play(&plan, request.phases).await {
        Ok(mut capture) => {
            *stage = Some(server);
            // For scoring alone: a diagnosis never reads the labels.
            capture.manifest.labels.clone_from(&spec.causes);
            file::write(&capture, path)?;
            Ok(())
        }
        Err(error) => {
            server.close().await;
            Err(error)
        }
    }
}
