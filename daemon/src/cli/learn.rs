//! `galen learn`: signatures from labelled captures, never from those held back for testing.

pub(super) mod taught;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use galen_agents::evaluation::dbsherlock;
use galen_agents::evaluation::split::{Half, content_sha256, half_of_capture};
use galen_agents::signature::{Case, Signatures, learn_from, moved};
use galen_knowledge::catalog::Catalog;
use galen_tools::capture::Capture;
use galen_tools::detect::{DetectOptions, detect};
use galen_tools::signals::SignalTable;
use galen_tools::store::file;

use super::{Global, replay};
use crate::failure::{Failure, LeftOut};
use crate::{engine, output};

use taught::Taught;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen learn lab-captures/ -o signatures.toml
  galen learn monday.galen tuesday.galen --labels labels.toml
  galen learn /data/dbsherlock -o dbsherlock.toml
  galen replay incident.galen --signatures signatures.toml

A labels file holds lines `capture = \"class\"`: a cause id of the catalog, or a name of your own. A name that captures of
two recordings have labels neither, and is refused; those that carry that one label, or are held back, do not count. A capture without exactly one label teaches nothing. Captures and
DBSherlock's recordings with the same series are copies of one recording, whatever they are called: they teach once, and
nothing where their labels contradict each other. Half of all captures is held back for testing: the half
that a benchmark's published rule or the recording's content gives them where they were imported, else told by the file's
name alone, in whatever folder it lies. What has a copy in that half is held back too.
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
    twins: usize,
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
            Ok(Lesson::Twin) => self.twins += 1,
            Ok(Lesson::Undetected) => self.undetected += 1,
            Err(failure) => {
                output::tell(&format!("galen: {failure}"));
                self.left_out.add(&failure);
            }
        }
    }

    fn not_learnt_from(&self) -> String {
        let Self { held_back, unlabelled, twins, undetected, left_out, .. } = self;
        let copies = if *twins > 0 { format!(", {twins} copies of others") } else { String::new() };
        let unread = if left_out.count > 0 { format!(", {} that cannot be read", left_out.count) } else { String::new() };
        format!("{held_back} held back for testing, {unlabelled} without a single label, {undetected} without an anomaly{copies}{unread}")
    }
}

/// What a capture teaches, or why it teaches nothing.
enum Lesson {
    /// A case, and where it comes from.
    Case(Case, String),
    HeldBack,
    Unlabelled,
    /// Another capture with the same series is held back or was learnt from.
    Twin,
    Undetected,
}

/// A recording that was read, and what it teaches if it has no copy.
struct Draft {
    file: PathBuf,
    /// As [`content_sha256`] tells it.
    content: String,
    lesson: Lesson,
}

/// What tells a capture's class and effects.
struct Teacher {
    labels: BTreeMap<String, String>,
    catalog: Catalog,
    table: SignalTable,
    taught: Taught,
    /// A file of each content that learns its label by its name alone, by that name.
    named: BTreeMap<String, BTreeMap<String, PathBuf>>,
}

/// `galen learn`. A capture that cannot be read costs a line and the exit code.
pub fn learn(global: &Global, args: &LearnArgs) -> Result<(), Failure> {
    let labels = args.labels.as_deref().map(read_labels).transpose()?.unwrap_or_default();
    let (catalog, table) = (engine::builtin()?, SignalTable::builtin());
    let mut teacher = Teacher { labels, catalog, table, taught: Taught::default(), named: BTreeMap::new() };
    let mut gathered = Gathered::default();
    let files = expanded(&args.paths)?;
    let mut unused: BTreeSet<String> = teacher.labels.keys().cloned().collect();
    // All are read before the first is learnt from: what teaches hangs on its copies too.
    let mut drafts = Vec::new();
    for (path, files) in &files {
        if dbsherlock::is_dataset(path) {
            drafts.extend(recordings(path, &mut teacher)?);
        }
        drafts.extend(read(path, files, &mut teacher, &mut unused)?);
    }
    if let Some(file) = &args.labels {
        unambiguous(&teacher.named).map_err(|failure| failure.of(file))?;
    }
    drafts.into_iter().for_each(|draft| gathered.count(draft.and_then(|draft| teacher.settle(draft))));
    if let (Some(first), Some(file)) = (unused.first(), &args.labels) {
        let (file, count) = (file.display(), unused.len());
        output::tell(&format!("galen: {file}: {count} labels are of no capture here, the first is of `{}`", first.escape_debug()));
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

/// A label tells one recording: those of two folders may have one name.
///
/// # Errors
/// Input: the first label that two recordings have the name of.
fn unambiguous(named: &BTreeMap<String, BTreeMap<String, PathBuf>>) -> Result<(), Failure> {
    for (name, files) in named {
        let mut files = files.values();
        if let (Some(one), Some(other)) = (files.next(), files.next()) {
            return Err(Failure::input(format!(
                "the label of `{}` fits two recordings, {} and {}; rename one of the files",
                name.escape_debug(),
                one.display(),
                other.display()
            )));
        }
    }
    Ok(())
}

/// DBSherlock's recordings with one cause, of which the learn half by the published rule teaches.
fn recordings(dir: &Path, teacher: &mut Teacher) -> Result<Vec<Result<Draft, Failure>>, Failure> {
    let (recordings, flaws) = dbsherlock::load(dir).map_err(Failure::input)?;
    let mut drafts: Vec<_> = flaws.into_iter().map(|flaw| Err(Failure::input(flaw.why))).collect();
    for recording in recordings {
        let lesson = match recording.half {
            Half::Test => Lesson::HeldBack,
            Half::Learn => dbsherlock::learnable(&recording, &teacher.table)
                .map_or(Lesson::Undetected, |case| Lesson::Case(case, dbsherlock::SINGLE.to_owned())),
        };
        teacher.note(&recording.content, &lesson, &[]);
        if recording.dataset == dbsherlock::SINGLE {
            drafts.push(Ok(Draft { file: dir.join(recording.case()), content: recording.content, lesson }));
        }
    }
    Ok(drafts)
}

/// The captures that each path stands for; none for a folder of DBSherlock's.
fn expanded(paths: &[PathBuf]) -> Result<Vec<(&Path, Vec<PathBuf>)>, Failure> {
    let files = |path: &PathBuf| if dbsherlock::is_dataset(path) { Ok(Vec::new()) } else { replay::expand(std::slice::from_ref(path)) };
    paths.iter().map(|path| Ok((path.as_path(), files(path)?))).collect()
}

/// Reads captures, one at a time; what is kept of each is small.
fn read(
    path: &Path,
    files: &[PathBuf],
    teacher: &mut Teacher,
    unused: &mut BTreeSet<String>,
) -> Result<Vec<Result<Draft, Failure>>, Failure> {
    let named = !path.is_dir();
    let mut drafts = Vec::with_capacity(files.len());
    for file in files {
        let draft = teacher.draft(file, unused).map_err(|failure| failure.of(file));
        if named && matches!(&draft, Ok(Draft { lesson: Lesson::HeldBack, .. })) {
            return Err(Failure::usage(format!("{} is in the test half, and what is tested is never learnt from", file.display())));
        }
        drafts.push(draft);
    }
    Ok(drafts)
}

impl Teacher {
    fn draft(&mut self, path: &Path, unused: &mut BTreeSet<String>) -> Result<Draft, Failure> {
        let capture = file::read(path)?;
        let (name, content) = (&capture.manifest.name, content_sha256(&capture.series));
        unused.remove(name);
        if let Some(given) = self.labels.get(name)
            && half_of_capture(capture.manifest.half, path) == Half::Learn
            && capture.manifest.labels != std::slice::from_ref(given)
        {
            self.named.entry(name.clone()).or_default().entry(content.clone()).or_insert_with(|| path.to_path_buf());
        }
        let lesson = self.lesson(&capture, path)?;
        let said = self.labels.get(name).map_or(capture.manifest.labels.as_slice(), std::slice::from_ref).to_vec();
        self.note(&content, &lesson, &said);
        Ok(Draft { file: path.to_path_buf(), content, lesson })
    }

    /// Takes note of what a recording is labelled with, `said` as it stands there: also one that teaches nothing contradicts its copies.
    fn note(&mut self, content: &str, lesson: &Lesson, said: &[String]) {
        match lesson {
            Lesson::HeldBack => self.taught.hold_back(content),
            // A class of DBSherlock's and the causes that it stands for are one label.
            Lesson::Case(case, _) if case.causes.is_empty() => self.taught.label(content, std::slice::from_ref(&case.class)),
            Lesson::Case(case, _) => self.taught.label(content, &case.causes),
            Lesson::Unlabelled if !said.is_empty() => self.taught.label(content, said),
            _ => {}
        }
    }

    /// What a recording teaches beside its copies, all of which have been read.
    fn settle(&mut self, draft: Draft) -> Result<Lesson, Failure> {
        let Draft { file, content, lesson } = draft;
        if !matches!(lesson, Lesson::Case(..)) {
            return Ok(lesson);
        }
        let teaches = self.taught.teaches(&content).map_err(|failure| failure.of(&file))?;
        Ok(if teaches { lesson } else { Lesson::Twin })
    }

    fn lesson(&self, capture: &Capture, path: &Path) -> Result<Lesson, Failure> {
        if half_of_capture(capture.manifest.half, path) == Half::Test {
            return Ok(Lesson::HeldBack);
        }
        let (given, carried) = (self.labels.get(&capture.manifest.name), &capture.manifest.labels);
        // A name of one's own may stand for what the capture says; another cause may not.
        let known = |label: &String| label == "healthy" || self.catalog.get(label).is_some();
        if let Some(given) = given.filter(|given| !carried.is_empty() && !carried.contains(given) && known(given)) {
            let (given, carried) = (given.escape_debug(), carried.join(", "));
            return Err(Failure::input(format!(
                "mislabelled: `{given}` in the file of labels, `{}` in the capture",
                carried.escape_debug()
            )));
        }
        let Some(class) = class_of(given, carried) else {
            return Ok(Lesson::Unlabelled);
        };
        let found = detect(capture, &self.table, &DetectOptions::default());
        let Some((window, baseline)) = found.window.zip(found.baseline) else { return Ok(Lesson::Undetected) };
        let causes = if self.catalog.get(&class).is_some() { vec![class.clone()] } else { dbsherlock::class_causes(&class) };
        let case = Case { class, causes, moved: moved(capture, baseline, window, &self.table) };
        Ok(Lesson::Case(case, capture.manifest.origin.clone()))
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
    output::tell(&format!(
        "{} classes from {} captures of the learn half written to {}; left out: {}",
        learnt.class.len(),
        gathered.cases.len(),
        out.display(),
        gathered.not_learnt_from()
    ));
}
