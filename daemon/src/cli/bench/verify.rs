//! `galen bench verify`: the cases of a run diagnosed again, the reports must be the same bytes, and what the run says of them what they
//! say; a public benchmark measured again, its figures must be the same.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use galen_agents::evaluation::compare::{self, differing_pins};
use galen_agents::evaluation::record::{CaseLine, FailedCase, Header, Run};

use super::resume::Wanted;
use super::run::{Worker, at_a_time, one, read_text};
use super::suite::{Case, Suite, Which};
use super::{pins, public};
use crate::cli::Global;
use crate::failure::Failure;
use crate::{engine, output, parallel};

#[derive(Debug, Args)]
#[command(after_help = "A run with a model asks that model again, one capture at a time. Each case that does not come out the same costs a
line, and so does each pin that differs. A case that the run has left out is tried again: it must fail again, or be a copy. A file
that lacks cases of its suite was cut off or altered, or has not finished.

Ends with 0 when all comes out the same, with 70 when something does not although every pin is the same, with 5 when pins
differ as well or cases are lacking, with 6 when the model is not there.")]
pub struct VerifyArgs {
    /// Run to verify
    run: PathBuf,
    /// Suite or folder of the public benchmark, where it has moved since
    #[arg(long)]
    suite: Option<PathBuf>,
    /// Captures at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
}

/// Replays a run.
pub async fn verify(global: &Global, args: VerifyArgs) -> Result<(), Failure> {
    let (run, text) = read_text(&args.run)?;
    let header = &run.header;
    let place = args.suite.clone().unwrap_or_else(|| PathBuf::from(&header.suite_path));
    if !run.measured.is_empty() {
        let now = public::again(global, &run, &place, args.jobs).await?;
        let (key, what) = ("figures", "figures are the same");
        let (same, differing) = public::differing(&run, &now);
        let pins = differing_pins(&run, &now);
        return tell(global, &Verified { key, what, count: run.measured.len(), same, lacking: 0, pins, differing });
    }
    let library = engine::library(&global.load()?)?;
    let options = header.pins.options.clone().unwrap_or_default();
    let model = header.pins.model.as_ref().map(|m| m.name.clone());
    let provider = match &model {
        Some(name) => Some(engine::chosen(&global.load()?, name, 2, 120).await?),
        None => None,
    };
    // Whether file names were labels does not change a report: both ways are tried to find the pinned definition.
    let open = |labels_from_names: bool| -> Result<Suite, Failure> {
        let mut suite = Suite::open(&place, labels_from_names)?;
        suite.keep(which(header));
        rename(&mut suite, &run);
        Ok(suite)
    };
    let mut suite = open(false)?;
    if suite.sha256() != header.pins.suite_sha256 {
        let named = open(true)?;
        // Of a suite that has changed since, the lines say it.
        let said = !run.cases.is_empty() && run.cases.iter().all(|line| line.label_from_name);
        suite = if said || named.sha256() == header.pins.suite_sha256 { named } else { suite };
    }
    let pinned = model.as_deref().zip(provider.as_deref());
    let now = Run {
        header: Header { pins: pins::pins(suite.asked(&header.pins.half), &library, pinned, &options), ..Header::default() },
        ..Run::default()
    };
    let changed = differing_pins(&run, &now);
    let worker = Worker { runtime: Handle::current(), library, provider, options };
    let jobs = usize::from(at_a_time(args.jobs, worker.provider.is_some()));
    let known = |id: &str| id == "healthy" || worker.library.catalog.get(id).is_some();
    let beside = Beside {
        run: &run,
        pinned: now.header.pins.suite_sha256 == header.pins.suite_sha256,
        written: if now.header.pins.sources == header.pins.sources { Vec::new() } else { written(&text) },
        // Each capture is read to find the copies, which matter only where a case was left out.
        suite: match run.failed.is_empty() {
            true => suite.cases.into_iter().map(|case| (case, None)).collect(),
            false => suite.without_twins(jobs, &known)?,
        },
    };
    let lacking = beside.lacking();
    let mut differing = beside.cases(&worker, jobs)?;
    let (key, what, count) = ("cases", "reports are the same bytes", run.cases.len());
    let same = count - differing.len();
    differing.extend(beside.failures(&worker, jobs)?);
    tell(global, &Verified { key, what, count, same, lacking, pins: changed, differing })
}

fn which(header: &Header) -> Which {
    match header.pins.half.as_str() {
        "learn" => Which::Learn,
        "test" => Which::Test,
        _ => Which::All,
    }
}

/// A folder that has another name now holds the same cases: where run and suite have one data set each, it is called as in the run.
fn rename(suite: &mut Suite, run: &Run) {
    fn single<'n>(mut names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
        let first = names.next()?;
        names.all(|name| name == first).then_some(first)
    }
    let now = single(suite.cases.iter().map(|case| case.dataset.as_str())).map(str::to_owned);
    let then = match run.cases.is_empty() {
        true => single(run.failed.iter().map(|case| case.dataset.as_str()).filter(|name| !name.is_empty())),
        false => single(run.cases.iter().map(|case| case.dataset.as_str())),
    };
    let Some((now, then)) = now.zip(then) else { return };
    // A suite that is a folder is called as its only data set.
    if suite.name == now && run.header.pins.suite == then {
        then.clone_into(&mut suite.name);
    }
    suite.cases.iter_mut().for_each(|case| then.clone_into(&mut case.dataset));
}

/// Data set and id.
type Key<'a> = (&'a str, &'a str);

fn of_case(case: &Case) -> Key<'_> {
    (&case.dataset, &case.id)
}

fn of_line(line: &CaseLine) -> Key<'_> {
    (&line.dataset, &line.case)
}

fn of_failed(failed: &FailedCase) -> Key<'_> {
    (&failed.dataset, &failed.case)
}

/// The case lines as they stand in the file, in its order.
fn written(text: &str) -> Vec<Value> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["line"] == "case").collect()
}

/// A run beside the suite that it speaks of.
struct Beside<'r> {
    run: &'r Run,
    suite: Vec<Wanted>,
    /// The suite is the one that the run pins.
    pinned: bool,
    /// The run's case lines as they stand in the file; none where this build wrote them, which leaves no key out.
    written: Vec<Value>,
}

impl Beside<'_> {
    /// How many cases the run should speak of and does not.
    fn lacking(&self) -> usize {
        let lines = self.run.cases.iter().map(of_line);
        let spoken_of: HashSet<Key<'_>> = lines.chain(self.run.failed.iter().map(of_failed)).collect();
        if !self.pinned {
            // A suite that has changed since says nothing about which there were.
            return self.run.header.cases.saturating_sub(spoken_of.len());
        }
        // Early releases did not say of which data set a case failed.
        let there = |case: &Case| spoken_of.contains(&of_case(case)) || spoken_of.contains(&("", case.id.as_str()));
        self.suite.iter().filter(|(case, _)| !there(case)).count()
    }

    fn by_key(&self) -> HashMap<Key<'_>, &Wanted> {
        self.suite.iter().map(|wanted| (of_case(&wanted.0), wanted)).collect()
    }

    /// Diagnoses every finished case again; one line for each that is not the same.
    fn cases(&self, worker: &Worker, jobs: usize) -> Result<Vec<String>, Failure> {
        let suite = self.by_key();
        let lines = self.run.cases.iter().enumerate();
        let pairs: Vec<(usize, &CaseLine, Option<&Case>)> =
            lines.map(|(at, line)| (at, line, suite.get(&of_line(line)).map(|wanted| &wanted.0))).collect();
        let mut differing = Vec::new();
        parallel::in_order(
            &pairs,
            jobs,
            |(at, known, case)| Ok(self.check(known, self.written.get(*at), *case, worker)),
            |(_, known, _), why: Result<Option<String>, Failure>| {
                let why = why.unwrap_or_else(|failure| Some(failure.to_string()));
                differing.extend(why.map(|why| format!("{}: {why}", known.case)));
                Ok(())
            },
        )?;
        Ok(differing)
    }

    /// Why a case is not the same; none when it is.
    fn check(&self, known: &CaseLine, written: Option<&Value>, case: Option<&Case>, worker: &Worker) -> Option<String> {
        let Some(case) = case else { return Some("its capture is gone".into()) };
        if case.sha256.as_deref() != Some(known.capture_sha256.as_str()) {
            return Some("its capture was changed".into());
        }
        // Whether file names are labels is for the line to say where the suite has changed since, and does not tell.
        let label_from_name = if self.pinned { case.label_from_name } else { known.label_from_name };
        let now = match one(&Case { label_from_name, ..case.clone() }, worker) {
            Ok(now) => now,
            Err(why) => return Some(why),
        };
        if now.report_sha256 != known.report_sha256 {
            return Some("its report differs".into());
        }
        let otherwise = otherwise(known, now, written);
        (!otherwise.is_empty()).then(|| format!("its report is the same, what the run says of it is not: {}", otherwise.join(", ")))
    }

    /// Tries again what the run says failed; one line for each case that does not fail.
    fn failures(&self, worker: &Worker, jobs: usize) -> Result<Vec<String>, Failure> {
        let suite = self.by_key();
        let finished: HashSet<Key<'_>> = self.run.cases.iter().map(of_line).collect();
        let mut pairs: Vec<(&FailedCase, Option<&Wanted>)> = Vec::new();
        for failed in &self.run.failed {
            let open = |(case, _): &&Wanted| case.id == failed.case && !finished.contains(&of_case(case));
            let meant: Vec<&Wanted> = match failed.dataset.is_empty() {
                // Early releases did not say of which data set: no case of this id that is not finished may be diagnosed.
                true => self.suite.iter().filter(open).collect(),
                false => suite.get(&of_failed(failed)).copied().into_iter().collect(),
            };
            pairs.extend(meant.is_empty().then_some((failed, None)));
            pairs.extend(meant.into_iter().map(|wanted| (failed, Some(wanted))));
        }
        let mut differing = Vec::new();
        let again = |wanted: Option<&Wanted>| match wanted {
            None => Ok("its capture is gone"),
            Some((_, Some(twin))) => Err(Failure::input(twin)),
            Some((case, None)) => one(case, worker).map(|_| "it can be diagnosed").map_err(Failure::input),
        };
        parallel::in_order(
            &pairs,
            jobs,
            |(_, wanted)| again(*wanted),
            |(failed, _), why: Result<&'static str, Failure>| {
                // One that fails again is as the run says.
                differing.extend(why.ok().map(|why| format!("{}: {why}", failed.case)));
                Ok(())
            },
        )?;
        Ok(differing)
    }
}

/// Keys of what a run says of a case and would not say now, but for the time that the diagnosis took.
fn otherwise(known: &CaseLine, now: CaseLine, written: Option<&Value>) -> Vec<String> {
    let now = CaseLine { wall_ms: known.wall_ms, ..now };
    let value = |line: &CaseLine| {
        let mut value = serde_json::to_value(line).unwrap_or_default();
        if let Some(written) = written {
            keep_written(&mut value, written);
        }
        value
    };
    let differing = compare::differing(&value(known), &value(&now));
    differing.iter().filter_map(|told| Some(told.split_once(": ")?.0.to_owned())).collect()
}

/// Takes out the keys that are not in the file: an early release that lacked them says nothing by it.
fn keep_written(value: &mut Value, written: &Value) {
    match (value, written) {
        (Value::Object(fields), Value::Object(written)) => {
            fields.retain(|key, _| written.contains_key(key));
            for (key, field) in fields.iter_mut() {
                keep_written(field, &written[key]);
            }
        }
        (Value::Array(items), Value::Array(written)) => {
            items.iter_mut().zip(written).for_each(|(item, written)| keep_written(item, written))
        }
        _ => {}
    }
}

/// How a verification ended.
struct Verified {
    /// What was compared, in JSON and for people.
    key: &'static str,
    what: &'static str,
    /// How many are in the run, and how many came out the same.
    count: usize,
    same: usize,
    /// Cases that the run should speak of and does not.
    lacking: usize,
    pins: Vec<String>,
    /// One line for each that did not.
    differing: Vec<String>,
}

fn tell(global: &Global, told: &Verified) -> Result<(), Failure> {
    let Verified { key, what, count, same, lacking, pins, differing } = told;
    if global.json {
        output::line(&json!({*key: count, "lacking": lacking, "pins": pins, "differing": differing}).to_string());
    } else {
        pins.iter().for_each(|pin| output::line(&format!("pin differs: {pin}")));
        differing.iter().for_each(|case| output::line(case));
        output::line(&format!("{same} of {count} {what}"));
    }
    let mut failed = Vec::new();
    if !differing.is_empty() {
        let pinned = if pins.is_empty() { " although every pin is the same" } else { "; so do the pins named above" };
        failed.push(format!("{} of them differ{pinned}", differing.len()));
    }
    if *lacking > 0 {
        failed.push(format!("{lacking} cases of the suite are not in the run: it was cut off or altered, or has not finished"));
    }
    match failed.join("; ") {
        none if none.is_empty() => Ok(()),
        failed if pins.is_empty() && !differing.is_empty() => Err(Failure::fault(failed)),
        failed => Err(Failure::input(failed)),
    }
}

#[cfg(test)]
mod tests {
    use galen_agents::evaluation::split::Half;

    use super::*;

    fn suite(name: &str, datasets: &[&str]) -> Suite {
        let case = |dataset: &&str| Case {
            id: "x".into(),
            dataset: (*dataset).to_owned(),
            half: Half::Learn,
            path: "x.galen".into(),
            sha256: Some("1".into()),
            answer: Ok(None),
            label_from_name: false,
        };
        Suite { name: name.into(), cases: datasets.iter().map(case).collect() }
    }

    #[test]
    fn a_key_that_another_build_did_not_write_is_not_compared() {
        let known = CaseLine::default();
        let mut now = CaseLine { label_from_answer: true, ..CaseLine::default() };
        now.answer.tags.push("noise".into());
        assert_eq!(otherwise(&known, now.clone(), None), ["answer.tags", "label_from_answer"]);
        let mut written = serde_json::to_value(&known).unwrap();
        assert_eq!(otherwise(&known, now.clone(), Some(&written)), ["answer.tags"]);
        written["answer"].as_object_mut().unwrap().remove("tags");
        assert!(otherwise(&known, now.clone(), Some(&written)).is_empty());
        written["label_from_answer"] = false.into();
        assert_eq!(otherwise(&known, now, Some(&written)), ["label_from_answer"]);
    }

    #[test]
    fn a_failure_of_what_the_suite_does_not_have_stands_for_no_case() {
        let failed = |dataset: &str, case: &str| FailedCase { dataset: dataset.into(), case: case.into(), why: "cut off".into() };
        let lacking = |pinned: bool, failed: &[FailedCase]| {
            let header = Header { cases: 2, ..Header::default() };
            let run = Run { header, failed: failed.to_vec(), ..Run::default() };
            let suite = suite("mine", &["shop", "queue"]).cases.into_iter().map(|case| (case, None)).collect();
            Beside { run: &run, suite, pinned, written: Vec::new() }.lacking()
        };
        assert_eq!(lacking(true, &[failed("shop", "x"), failed("shop", "ghost")]), 1);
        assert_eq!(lacking(true, &[failed("shop", "x"), failed("queue", "x")]), 0);
        assert_eq!(lacking(true, &[failed("", "x")]), 0, "of an early release, whose data sets both may have it");
        assert_eq!(lacking(false, &[failed("shop", "x")]), 1);
    }

    #[test]
    fn a_folder_that_was_renamed_holds_the_cases_of_the_run() {
        let mut run = Run { cases: vec![CaseLine { case: "x".into(), dataset: "shop".into(), ..CaseLine::default() }], ..Run::default() };
        run.header.pins.suite = "shop".into();
        let renamed = |mut suite: Suite, run: &Run| {
            rename(&mut suite, run);
            suite
        };
        let was = suite("shop", &["shop"]);
        let now = renamed(suite("moved", &["moved"]), &run);
        assert_eq!((now.name.as_str(), now.cases[0].dataset.as_str(), now.sha256()), ("shop", "shop", was.sha256()));
        // A suite file has a name of its own, and of several data sets each has its own.
        assert_eq!(renamed(suite("mine", &["moved"]), &run).name, "mine");
        assert_eq!(renamed(suite("mine", &["shop", "moved"]), &run).cases[1].dataset, "moved");
        run.cases.push(CaseLine { dataset: "queue".into(), ..CaseLine::default() });
        assert_eq!(renamed(suite("moved", &["moved"]), &run).cases[0].dataset, "moved");
    }
}
