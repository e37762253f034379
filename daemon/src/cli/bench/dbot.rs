//! `galen bench dbot`: D-Bot's specifications, as `galen lab dbot` recorded them, scored by the paper's accuracy.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use tokio::runtime::Handle;

use galen_agents::driver::{Library, Options};
use galen_agents::evaluation::dbot::{self, Case, Outcome};
use galen_agents::evaluation::measured::{Measured, digest, scores};
use galen_agents::evaluation::record::Run;
use galen_tools::store::file;

use super::copies::{Copies, content};
use super::public::{Claimed, Read, Source};
use super::suite::{Which, agreed, sidecar};
use crate::cli::{Global, replay};
use crate::failure::Failure;
use crate::{engine, output, parallel};

/// Name that runs pin.
pub const SUITE: &str = "dbot";
/// Accuracy of D-Bot with GPT-4 in its paper, on cases with one cause and with several.
const PUBLISHED: (f64, f64) = (0.754, 0.655);

#[derive(Debug, Args)]
#[command(after_help = "Accuracy of a case is (right causes - 0.1 * wrong ones) / labels, 0 when negative, at most four causes
named. Beside it stands a method that knows no causes: it answers with the labels of most other cases
that have the same signal farthest from its baseline. The placebo is the same diagnosis scored by the
labels of each other case in turn, averaged: what any answer reaches by chance.

A capture with the same series as another is a copy of it, whatever it is called. A copy, and a capture whose
label is no cause or not that of NAME.answer.json beside it, cost a line and the exit code, and no score.

Examples:
  galen bench dbot quick/ --json
  galen bench dbot quick/ --out dbot.jsonl
  galen bench compare dbot.jsonl next/dbot.jsonl

RUN.jsonl is written whole when all is measured; the same command measures everything again and
writes the file anew. A file of another run (other captures, release, --part, texts that may be
cited) is refused.")]
pub struct BenchDbotArgs {
    /// Folder of captures that `galen lab dbot` recorded
    pub dir: PathBuf,
    /// Name of the part in the scores [default: the folder's name]
    #[arg(long)]
    pub part: Option<String>,
    /// Captures at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// File to write: JSON lines for `compare`, `report` and `verify`, a header with pins, then one line a case
    #[arg(long, value_name = "RUN.jsonl")]
    pub out: Option<PathBuf>,
    /// These captures of the folder alone
    #[arg(skip)]
    pub only: Option<BTreeSet<PathBuf>>,
}

/// Diagnoses a folder of recorded specifications and prints their scores.
pub async fn bench(global: &Global, args: &BenchDbotArgs) -> Result<(), Failure> {
    let library = Arc::new(engine::library(&global.load()?)?);
    // By its own name, however it is called from here.
    let place = args.dir.canonicalize().unwrap_or_else(|_| args.dir.clone());
    let folder = place.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let part = args.part.as_deref().unwrap_or(&folder);
    // Before the work, which takes a while.
    let parameters = [("part", part.to_owned())];
    let out = Claimed::of(args.out.as_deref(), &source(&args.dir, args.jobs, &parameters), &library, &options())?;
    let files = captures(&args.dir, args.only.as_ref())?;
    let read = cases(&args.dir, files, args.jobs, &library).await?;
    let told = dbot::outcomes(&read.cases);
    let run = run(&args.dir, &read, &told, part, args.jobs, &library);
    let written = out.map_or(Ok(()), |out| out.finish(&run));
    print(global, &told, &run.measured);
    written?;
    read.left_out.end(read.listed, "captures could not be scored")
}

/// Measures what a run measured again.
///
/// # Errors
/// Input: the folder cannot be read.
pub async fn again(global: &Global, dir: &Path, part: &str, jobs: u16) -> Result<Run, Failure> {
    let library = Arc::new(engine::library(&global.load()?)?);
    let read = cases(dir, captures(dir, None)?, jobs, &library).await?;
    Ok(run(dir, &read, &dbot::outcomes(&read.cases), part, jobs, &library))
}

fn run(dir: &Path, read: &Read<Case>, told: &[Outcome<'_>], part: &str, jobs: u16, library: &Library) -> Run {
    let inputs = read.cases.iter().map(|case| (case.id.clone(), case.sha256.as_str()));
    let header = source(dir, jobs, &[("part", part.to_owned())]).header(read, inputs, library, &options());
    read.run(header, dbot::measured(told, part))
}

fn source<'a>(dir: &'a Path, jobs: u16, parameters: &'a [(&'a str, String)]) -> Source<'a> {
    Source { suite: SUITE, path: dir, half: Which::All.word(), jobs, parameters }
}

fn options() -> Options {
    Options { replay: true, ..Options::default() }
}

/// The captures below a folder, those of `only` where some were chosen.
fn captures(dir: &Path, only: Option<&BTreeSet<PathBuf>>) -> Result<Vec<PathBuf>, Failure> {
    let mut files = replay::expand(&[dir.to_path_buf()])?;
    files.retain(|file| only.is_none_or(|only| only.contains(file)));
    Ok(files)
}

/// Diagnoses a folder's captures beside the task that awaits them, which hears signals meanwhile. When it is dropped, the
/// work ends after the captures at hand.
async fn cases(dir: &Path, files: Vec<PathBuf>, jobs: u16, library: &Arc<Library>) -> Result<Read<Case>, Failure> {
    let listener = Arc::new(());
    let (listening, dir, library) = (Arc::downgrade(&listener), dir.to_path_buf(), Arc::clone(library));
    let work = move || diagnosed(&dir, &files, jobs, &library, &|| listening.strong_count() > 0);
    let done = tokio::task::spawn_blocking(work).await;
    drop(listener);
    done.map_err(|e| Failure::fault(e.to_string()))?
}

/// The same on the calling thread, for as long as it is `awaited`.
fn diagnosed(dir: &Path, files: &[PathBuf], jobs: u16, library: &Library, awaited: &dyn Fn() -> bool) -> Result<Read<Case>, Failure> {
    let mut read = Read::new(SUITE, files.len());
    let runtime = Handle::current();
    let id = |path: &Path| path.strip_prefix(dir).unwrap_or(path).with_extension("").to_string_lossy().into_owned();
    let work = |path: &PathBuf| runtime.block_on(one(path, library));
    let mut copies = Copies::default();
    parallel::in_order(files, usize::from(jobs), work, |path, result| {
        if !awaited() {
            return Err(Failure::fault("nobody waits for the scores any more"));
        }
        match result {
            Ok((case, content)) => match copies.twin(content, &id(path)) {
                Some(why) => read.leave_out(&id(path), Failure::input(why).of(path)),
                None => read.cases.push(Case { id: id(path), ..case }),
            },
            Err(failure) => read.leave_out(&id(path), failure.of(path)),
        }
        Ok(())
    })?;
    Ok(read)
}

/// Diagnoses a capture whose label nothing contradicts; with what tells its content.
async fn one(path: &Path, library: &Library) -> Result<(Case, Option<String>), Failure> {
    let capture = file::read(path)?;
    if capture.manifest.labels.is_empty() {
        return Err(Failure::input(format!("{}: nobody has labelled it", path.display())));
    }
    let bytes = std::fs::read(path).map_err(|e| Failure::input(format!("{}: {e}", path.display())))?;
    let content = content(&capture);
    let case = Case { sha256: digest([bytes.as_slice()]), ..dbot::examine(capture, library, &options()).await };
    let told = sidecar(&path.with_extension("answer.json")).map_err(Failure::input)?.unwrap_or_default();
    let known = |id: &str| id == "healthy" || library.catalog.get(id).is_some();
    agreed(told, &case.labels, None, &known).map_err(|why| Failure::input(why).of(path))?;
    Ok((case, content))
}

fn print(global: &Global, told: &[Outcome<'_>], measured: &[Measured]) {
    if global.json {
        for Outcome { case, accuracy, .. } in told {
            output::line(&json!({"case": case.name, "labels": case.labels, "named": case.named, "accuracy": accuracy}).to_string());
        }
        for score in scores(measured) {
            output::line(&serde_json::to_string(&score).unwrap_or_default());
        }
        output::line(&serde_json::to_string(&dbot::means(told, |_| true)).unwrap_or_default());
        return;
    }
    for Outcome { case, accuracy, .. } in told {
        output::line(&format!("{:<12} {accuracy:.2}  {} <- {}", case.name, case.labels.join(", "), case.named.join(", ")));
    }
    let methods = ["accuracy", "baseline", "placebo"].map(|name| format!("{name:>9}")).join(" ");
    output::line(&format!("\n{:<44} {:>5} {methods} {:>6} {:>6}", "labels", "cases", "first", "wrong"));
    let row = |name: &str, means: dbot::Means| {
        let dbot::Means { cases, accuracy, baseline, placebo, first, wrong } = means;
        let placebo = placebo.map_or_else(|| "-".to_owned(), |p| format!("{p:.3}"));
        output::line(&format!("{name:<44} {cases:>5} {accuracy:>9.3} {baseline:>9.3} {placebo:>9} {first:>6.2} {wrong:>6.2}"));
    };
    for set in dbot::label_sets(told) {
        row(&set.join(", "), dbot::means(told, |labels| labels == set));
    }
    row("one cause", dbot::means(told, |labels| labels.len() == 1));
    row("several causes", dbot::means(told, |labels| labels.len() > 1));
    row("all", dbot::means(told, |_| true));
    output::line(&format!("published, GPT-4: {:.3} for one cause, {:.3} for several", PUBLISHED.0, PUBLISHED.1));
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use galen_agents::evaluation::record::Header;
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    /// Files that are no captures: each costs a line.
    fn folder(count: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for at in 0..count {
            std::fs::write(folder.path().join(format!("{at}.galen")), "no capture").unwrap();
        }
        folder
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().max_blocking_threads(1).build().unwrap()
    }

    #[test]
    fn a_signal_is_heard_while_captures_are_diagnosed() {
        let (folder, library) = (folder(2), Arc::new(Library::default()));
        runtime().block_on(async {
            // The only thread for such work is taken: no capture can be done before something else is looked at.
            let (free, taken) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || taken.recv());
            tokio::select! {
                biased;
                _ = cases(folder.path(), captures(folder.path(), None).unwrap(), 1, &library) => panic!("the captures held up everything else"),
                () = std::future::ready(()) => {}
            }
            drop(free);
            assert!(busy.await.unwrap().is_err());
        });
    }

    #[test]
    fn what_nobody_awaits_any_more_ends_between_two_captures() {
        let (folder, runtime) = (folder(5), runtime());
        let _inside = runtime.enter();
        let (asked, files) = (Cell::new(0), captures(folder.path(), None).unwrap());
        let until = |most: usize| {
            asked.set(0);
            diagnosed(folder.path(), &files, 1, &Library::default(), &|| {
                asked.set(asked.get() + 1);
                asked.get() <= most
            })
        };
        assert!(until(2).is_err());
        assert_eq!(asked.get(), 3, "the third is not told, and no other is waited for");
        let read = until(5).unwrap();
        assert_eq!((read.cases.len(), read.left_out.count), (0, 5));
    }

    #[test]
    fn what_was_not_chosen_is_not_scored_and_the_rest_is_named_where_it_lies() {
        let (folder, runtime) = (folder(3), runtime());
        let _inside = runtime.enter();
        let chosen = ["0.galen", "2.galen"].map(|name| folder.path().join(name));
        let files = captures(folder.path(), Some(&BTreeSet::from(chosen.clone()))).unwrap();
        assert_eq!(files, chosen);
        let read = diagnosed(folder.path(), &files, 1, &Library::default(), &|| true).unwrap();
        let told = read.run(Header::default(), Vec::new()).failed;
        let named = |at: usize| told[at].why.contains(&chosen[at].display().to_string());
        assert!(read.listed == 2 && told.len() == 2 && named(0) && named(1), "{told:?}");
    }
}
