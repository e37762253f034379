//! `galen replay`: recorded incidents, offline, the same bytes every time.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Handle;

use galen_agents::driver::{Diagnosis, Options, diagnose};
use galen_agents::report::{html, terminal};
use galen_tools::probe::Recorded;
use galen_tools::store::file;

use super::Global;
use crate::failure::{Failure, LeftOut};
use crate::{engine, output, parallel};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen replay incident.galen
  galen replay captures/ --json --jobs 2 > reports.jsonl
  galen replay incident.galen --signatures learnt.toml
  galen replay incident.galen --model qwen2.5-coder-1.5b --html pages/")]
pub struct ReplayArgs {
    /// Captures, or folders of captures
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// Language model to use
    #[arg(long, conflicts_with = "no_model")]
    model: Option<String>,
    /// Seconds until a request to the model is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=3600))]
    model_timeout: u64,
    /// Go without a language model (the default)
    #[arg(long)]
    no_model: bool,
    /// Cite no knowledge
    #[arg(long)]
    no_knowledge: bool,
    /// Captures at a time; one where a model takes part
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Write each report as a page into this folder
    #[arg(long, value_name = "DIR")]
    html: Option<PathBuf>,
    /// Learnt signatures to use instead of those in the data folder
    #[arg(long, value_name = "FILE")]
    signatures: Option<PathBuf>,
    /// Seed for choices that break ties
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

/// Replays all captures in order; what cannot be read costs one line each and the exit code.
pub async fn replay(global: &Global, args: ReplayArgs) -> Result<(), Failure> {
    let files = expand(&args.paths)?;
    let mut library = engine::library(&global.load()?)?;
    if let Some(file) = &args.signatures {
        library = engine::with_signatures(library, file)?;
    }
    let provider = match &args.model {
        Some(name) => Some(engine::chosen(&global.load()?, name, 2, args.model_timeout).await?),
        None => None,
    };
    if let Some(dir) = &args.html {
        std::fs::create_dir_all(dir).map_err(|e| Failure::write(dir, &e))?;
    }
    let options = Options { seed: args.seed, knowledge: !args.no_knowledge, replay: true, ..Options::default() };
    let bar = ProgressBar::new(files.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec} {eta} left") {
        bar.set_style(style);
    }
    let (jobs, fewer) = at_a_time(args.jobs, provider.is_some());
    if let Some(fewer) = fewer {
        output::tell(&fewer);
    }
    let (runtime, single) = (Handle::current(), files.len() == 1);
    let work = |path: &PathBuf| {
        let capture = file::read(path)?;
        let diagnosis = runtime.block_on(diagnose(&capture, &library, &Recorded(&capture), provider.clone(), &options, &|_| {}));
        rendered(global, args.html.is_some(), &diagnosis)
    };
    let mut left_out = LeftOut::default();
    let mut pages = Pages::default();
    parallel::in_order(&files, jobs, work, |path, result| {
        bar.inc(1);
        match result {
            Ok((text, page)) => {
                if let Some((dir, page)) = args.html.as_ref().zip(page) {
                    let file = dir.join(pages.name(path));
                    output::replace(&file, page.as_bytes())?;
                }
                bar.suspend(|| output::text(&text));
            }
            Err(failure) if single => return Err(failure),
            Err(failure) => {
                let failure = failure.of(path);
                left_out.add(&failure);
                bar.suspend(|| output::tell(&format!("galen: {failure}")));
            }
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    left_out.end(files.len(), "captures could not be read")
}

/// Captures at a time, and what to say where they are fewer than asked for. A model answers in the order it is asked; one
/// capture at a time keeps its answers the same.
fn at_a_time(asked: u16, with_model: bool) -> (usize, Option<String>) {
    if !with_model {
        return (usize::from(asked), None);
    }
    let fewer = || format!("with a model one capture is diagnosed at a time, so that its answers stay the same: not {asked}");
    (1, (asked > 1).then(fewer))
}

/// What is printed of a diagnosis, and its page where one is wanted.
fn rendered(global: &Global, paged: bool, diagnosis: &Diagnosis) -> Result<(String, Option<String>), Failure> {
    let page = paged.then(|| html::render(&diagnosis.report, &diagnosis.tree));
    if global.json {
        let json = serde_json::to_string(&diagnosis.report).map_err(|e| Failure::fault(e.to_string()))?;
        return Ok((json + "\n", page));
    }
    Ok((terminal::render(&diagnosis.report, output::colours(), output::width()), page))
}

/// Names of pages: the captures', with a number where folders hold captures of the same name.
#[derive(Default)]
struct Pages {
    taken: HashSet<OsString>,
    /// The number to go on with, by name.
    next: HashMap<OsString, usize>,
}

impl Pages {
    fn name(&mut self, capture: &Path) -> OsString {
        let stem = capture.file_stem().unwrap_or_default().to_owned();
        let next = self.next.entry(stem.clone()).or_insert(1);
        loop {
            let mut name = stem.clone();
            if *next > 1 {
                name.push(format!("-{next}"));
            }
            name.push(".html");
            *next += 1;
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }
}

/// Files as given, folders as all `*.galen` below them in order of name. Symbolic links to folders are not followed.
pub fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let before = files.len();
        let mut open = vec![path.clone()];
        let mut found = Vec::new();
        while let Some(folder) = open.pop() {
            let entries = std::fs::read_dir(&folder).map_err(|e| Failure::input(format!("{}: {e}", folder.display())))?;
            for entry in entries.filter_map(Result::ok) {
                let kind = entry.file_type().ok();
                if kind.is_some_and(|k| k.is_dir()) {
                    open.push(entry.path());
                } else if entry.path().extension().is_some_and(|e| e == "galen") {
                    found.push(entry.path());
                }
            }
        }
        found.sort();
        files.extend(found);
        if files.len() == before {
            return Err(Failure::input(format!("{} holds no *.galen file", path.display())));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_takes_captures_one_by_one_and_who_asked_for_more_is_told() {
        assert_eq!(at_a_time(4, false), (4, None));
        assert_eq!(at_a_time(1, true), (1, None));
        let (jobs, fewer) = at_a_time(4, true);
        assert!(jobs == 1 && fewer.is_some_and(|line| line.ends_with("not 4")));
    }

    #[test]
    fn no_page_takes_the_name_of_another() {
        let mut pages = Pages::default();
        let named = ["a/x.galen", "b/x.galen", "c/x-2.galen", "d/x.galen", "e/y.galen"].map(|path| pages.name(Path::new(path)));
        assert_eq!(named, ["x.html", "x-2.html", "x-2-2.html", "x-3.html", "y.html"]);
    }
}
