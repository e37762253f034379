//! `galen learn`: signatures from labelled captures, never from those held back for testing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use galen_agents::evaluation::dbsherlock;
use galen_agents::evaluation::split::{Half, half_of};
use galen_agents::signature::{Case, Signatures, learn_from, moved};
use galen_knowledge::catalog::Catalog;
use galen_tools::detect::{DetectOptions, detect};
use galen_tools::signals::SignalTable;
use galen_tools::store::file;

use super::{Global, replay};
use crate::failure::Failure;
use crate::{engine, output};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen learn lab-captures/ -o signatures.toml
  galen learn monday.galen tuesday.galen --labels labels.toml
  galen learn /data/dbsherlock -o dbsherlock.toml
  galen replay incident.galen --signatures signatures.toml

A labels file holds lines `capture = \"class\"`: a cause id of the catalog, or a name of your own. A capture without
exactly one label teaches nothing. Half of every data set is held back for testing, told by the name of the set and of the
capture alone: captures of that half are left out of folders and refused where they are named.")]
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
    /// Name of the data set, which decides on the halves [default: where a capture comes from, such as `live`]
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Most cases a class is learnt from
    #[arg(long, default_value_t = 1000)]
    k: usize,
}

/// What was read, and what was not learnt from.
#[derive(Default)]
struct Gathered {
    cases: Vec<Case>,
    sources: Vec<String>,
    held_back: usize,
    unlabelled: usize,
    undetected: usize,
}

/// `galen learn`.
pub fn learn(global: &Global, args: &LearnArgs) -> Result<(), Failure> {
    let labels = args.labels.as_deref().map(read_labels).transpose()?.unwrap_or_default();
    let table = SignalTable::builtin();
    let catalog = Catalog::builtin().map_err(|e| Failure::fault(e.to_string()))?;
    let mut gathered = Gathered::default();
    for path in &args.paths {
        if dbsherlock::is_dataset(path) {
            recordings(path, &table, &mut gathered)?;
        } else {
            captures(path, args, &labels, &catalog, &table, &mut gathered)?;
        }
    }
    keep_first(&mut gathered.cases, args.k);
    if gathered.cases.is_empty() {
        return Err(Failure::input(format!(
            "nothing to learn from: {} captures are held back for testing, {} have no single label, in {} nothing abnormal is found",
            gathered.held_back, gathered.unlabelled, gathered.undetected
        )));
    }
    gathered.sources.sort();
    gathered.sources.dedup();
    let learnt = learn_from(&gathered.cases, &format!("{}/learn", gathered.sources.join("+")));
    let out = match &args.out {
        Some(out) => out.clone(),
        None => global.load()?.data_dir.join(engine::SIGNATURES_FILE),
    };
    write(&learnt, &out)?;
    tell(global, &learnt, &gathered, &out);
    Ok(())
}

fn read_labels(path: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let fail = |e: &dyn std::fmt::Display| Failure::input(format!("{}: {}", path.display(), e.to_string().trim().replace('\n', " ")));
    let text = std::fs::read_to_string(path).map_err(|e| fail(&e))?;
    toml::from_str(&text).map_err(|e| fail(&e))
}

/// The learn half of DBSherlock's recordings with one cause.
fn recordings(dir: &Path, table: &SignalTable, gathered: &mut Gathered) -> Result<(), Failure> {
    for recording in dbsherlock::load(dir).map_err(Failure::input)? {
        if recording.dataset != dbsherlock::SINGLE {
            continue;
        }
        if recording.half == Half::Test {
            gathered.held_back += 1;
            continue;
        }
        match dbsherlock::learnable(&recording, table) {
            Some(case) => gathered.cases.push(case),
            None => gathered.undetected += 1,
        }
    }
    gathered.sources.push(dbsherlock::SINGLE.to_owned());
    Ok(())
}

fn captures(
    path: &Path,
    args: &LearnArgs,
    labels: &BTreeMap<String, String>,
    catalog: &Catalog,
    table: &SignalTable,
    gathered: &mut Gathered,
) -> Result<(), Failure> {
    let named = !path.is_dir();
    for path in replay::expand(&[path.to_owned()])? {
        let capture = file::read(&path)?;
        let name = &capture.manifest.name;
        let dataset = args.dataset.clone().unwrap_or_else(|| capture.manifest.origin.clone());
        if half_of(&dataset, name) == Half::Test {
            if named {
                return Err(Failure::usage(format!(
                    "{} is held back: capture {name:?} is in the test half of data set {dataset:?}, and what is tested is never learnt from",
                    path.display()
                )));
            }
            gathered.held_back += 1;
            continue;
        }
        let Some(class) = class_of(labels.get(name), &capture.manifest.labels) else {
            gathered.unlabelled += 1;
            continue;
        };
        let found = detect(&capture, table, &DetectOptions::default());
        let Some((window, baseline)) = found.window.zip(found.baseline) else {
            gathered.undetected += 1;
            continue;
        };
        let causes = if catalog.get(&class).is_some() { vec![class.clone()] } else { dbsherlock::class_causes(&class) };
        gathered.cases.push(Case { class, causes, moved: moved(&capture, baseline, window, table) });
        gathered.sources.push(dataset);
    }
    Ok(())
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

fn write(learnt: &Signatures, out: &Path) -> Result<(), Failure> {
    let text = learnt.to_toml().map_err(Failure::fault)?;
    let fail = |e: std::io::Error| Failure::write(out, &e);
    if let Some(folder) = out.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(fail)?;
    }
    let draft = out.with_extension("new");
    std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, out)).map_err(fail)
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
        "{} classes from {} captures of the learn half written to {}; left out: {} held back, {} without a single label, {} without an anomaly",
        learnt.class.len(),
        gathered.cases.len(),
        out.display(),
        gathered.held_back,
        gathered.unlabelled,
        gathered.undetected
    );
}
