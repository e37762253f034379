//! `galen learn`: signatures from labelled captures, never from those held back for testing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use galen_agents::evaluation::dbsherlock;
use galen_agents::evaluation::split::{Half, half_of_capture};
use galen_agents::signature::{Case, Signatures, learn_from, moved};
use galen_knowledge::catalog::Catalog;
use galen_tools::detect::{DetectOptions, detect};
use galen_tools::signals::SignalTable;
use galen_tools::store::file;

use super::{Global, replay};
use crate::failure::{Failure, LeftOut};
use crate::{engine, output};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen learn lab-captures/ -o signatures.toml
  galen learn monday.galen tuesday.galen --labels labels.toml
  galen learn /data/dbsherlock -o dbsherlock.toml
  galen replay incident.galen --signatures signatures.toml

A labels file holds lines `capture = \"class\"`: a cause id of the catalog, or a name of your own. A capture without
exactly one label teaches nothing. Half of all captures is held back for testing: the half that a benchmark's published
rule gives them where they were imported from one, else told by the file's name alone, in whatever folder it lies.
`galen bench run --half test` runs the same. Captures of that half are left out of folders and refused where they are named.")]
pub struct LearnArgs {
    /// Labelled captures, folders of them, or a folder of DBSherlock's recordings with its manifest
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// File to write [default: signatures.toml in the data folder, which every diagnosis uses]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Labels by name of the capture, for captures that carry none
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Most cases a class is learnt from
    #[arg(long, default_value_t = 1000)]
    k: usize,
}

/// What was read, and what was not learnt from.
#[derive(Default)]
struct Gathered {
    cases: Vec<Case>,
    sources: Vec<String>,
    read: usize,
    held_back: usize,
    unlabelled: usize,
    undetected: usize,
    left_out: LeftOut,
}

impl Gathered {
    fn count(&mut self, lesson: Result<Lesson, Failure>) {
        self.read += 1;
        match lesson {
            Ok(Lesson::Case(case, source)) => {
                self.cases.push(case);
                self.sources.push(source);
            }
            Ok(Lesson::HeldBack) => self.held_back += 1,
            Ok(Lesson::Unlabelled) => self.unlabelled += 1,
            Ok(Lesson::Undetected) => self.undetected += 1,
            Err(failure) => {
                output::tell(&format!("galen: {failure}"));
                self.left_out.add(&failure);
            }
        }
    }

    fn not_learnt_from(&self) -> String {
        let Self { held_back, unlabelled, undetected, left_out, .. } = self;
        let unread = if left_out.count > 0 { format!(", {} that cannot be read", left_out.count) } else { String::new() };
        format!("{held_back} held back for testing, {unlabelled} without a single label, {undetected} without an anomaly{unread}")
    }
}

/// What a capture teaches, or why it teaches nothing.
enum Lesson {
    /// A case, and where it comes from.
    Case(Case, String),
    HeldBack,
    Unlabelled,
    Undetected,
}

/// What tells a capture's class and effects.
struct Teacher {
    labels: BTreeMap<String, String>,
    catalog: Catalog,
    table: SignalTable,
}

/// `galen learn`. A capture that cannot be read costs a line and the exit code.
pub fn learn(global: &Global, args: &LearnArgs) -> Result<(), Failure> {
    let labels = args.labels.as_deref().map(read_labels).transpose()?.unwrap_or_default();
    let teacher = Teacher { labels, catalog: engine::builtin()?, table: SignalTable::builtin() };
    let mut gathered = Gathered::default();
    for path in &args.paths {
        if dbsherlock::is_dataset(path) {
            recordings(path, &teacher.table, &mut gathered)?;
        } else {
            captures(path, &teacher, &mut gathered)?;
        }
    }
    keep_first(&mut gathered.cases, args.k);
    if gathered.cases.is_empty() {
        return Err(Failure::input(format!("nothing to learn from: {}", gathered.not_learnt_from())));
    }
    gathered.sources.sort();
    gathered.sources.dedup();
    let learnt = learn_from(&gathered.cases, &format!("{}/learn", gathered.sources.join("+")));
    let out = match &args.out {
        Some(out) => out.clone(),
        None => global.load()?.data_dir.join(engine::SIGNATURES_FILE),
    };
    output::replace(&out, learnt.to_toml().map_err(Failure::fault)?.as_bytes())?;
    tell(global, &learnt, &gathered, &out);
    gathered.left_out.end(gathered.read, "captures could not be read")
}

fn read_labels(path: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let fail = |e: &dyn std::fmt::Display| Failure::input(format!("{}: {}", path.display(), e.to_string().trim().replace('\n', " ")));
    let text = std::fs::read_to_string(path).map_err(|e| fail(&e))?;
    toml::from_str(&text).map_err(|e| fail(&e))
}

/// The learn half of DBSherlock's recordings with one cause, by the published rule.
fn recordings(dir: &Path, table: &SignalTable, gathered: &mut Gathered) -> Result<(), Failure> {
    let (recordings, flaws) = dbsherlock::load(dir).map_err(Failure::input)?;
    flaws.into_iter().for_each(|flaw| gathered.count(Err(Failure::input(flaw.why))));
    for recording in recordings.iter().filter(|r| r.dataset == dbsherlock::SINGLE) {
        gathered.count(Ok(match recording.half {
            Half::Test => Lesson::HeldBack,
            Half::Learn => {
                dbsherlock::learnable(recording, table).map_or(Lesson::Undetected, |case| Lesson::Case(case, dbsherlock::SINGLE.to_owned()))
            }
        }));
    }
    Ok(())
}

fn captures(path: &Path, teacher: &Teacher, gathered: &mut Gathered) -> Result<(), Failure> {
    let named = !path.is_dir();
    for file in replay::expand(&[path.to_owned()])? {
        let lesson = teacher.lesson(&file).map_err(|failure| failure.of(&file));
        if named && matches!(lesson, Ok(Lesson::HeldBack)) {
            return Err(Failure::usage(format!("{} is in the test half, and what is tested is never learnt from", file.display())));
        }
        gathered.count(lesson);
    }
    Ok(())
}

impl Teacher {
    fn lesson(&self, path: &Path) -> Result<Lesson, Failure> {
        let capture = file::read(path)?;
        if half_of_capture(capture.manifest.half, path) == Half::Test {
            return Ok(Lesson::HeldBack);
        }
        let Some(class) = class_of(self.labels.get(&capture.manifest.name), &capture.manifest.labels) else {
            return Ok(Lesson::Unlabelled);
        };
        let found = detect(&capture, &self.table, &DetectOptions::default());
        let Some((window, baseline)) = found.window.zip(found.baseline) else { return Ok(Lesson::Undetected) };
        let causes = if self.catalog.get(&class).is_some() { vec![class.clone()] } else { dbsherlock::class_causes(&class) };
        let case = Case { class, causes, moved: moved(&capture, baseline, window, &self.table) };
        Ok(Lesson::Case(case, capture.manifest.origin))
    }
}

/// The one label of a capture; `healthy` is the absence of a cause.
fn class_of(given: Option<&String>, carried: &[String]) -> Option<String> {
    let label = match (given, carried) {
        (Some(label), _) => label,
        (None, [label]) => label,
        _ => return None,
    };
    (label != "healthy").then(|| label.clone())
}

/// Keeps the first `k` cases of each class.
fn keep_first(cases: &mut Vec<Case>, k: usize) {
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    cases.retain(|case| {
        let count = taken.entry(case.class.clone()).or_default();
        *count += 1;
        *count <= k
    });
}

fn tell(global: &Global, learnt: &Signatures, gathered: &Gathered, out: &Path) {
    for class in &learnt.class {
        output::line(&if global.json {
            json!({"class": class.name, "causes": class.causes, "cases": class.cases, "ratio": class.ratio}).to_string()
        } else {
            let [up, down] = class.ratio;
            format!(
                "{:<28} {:>3} cases  a match counts {up:.1}, a mismatch {down:.3}  {}",
                class.name,
                class.cases,
                class.causes.join(", ")
            )
        });
    }
    eprintln!(
        "{} classes from {} captures of the learn half written to {}; left out: {}",
        learnt.class.len(),
        gathered.cases.len(),
        out.display(),
        gathered.not_learnt_from()
    );
}
