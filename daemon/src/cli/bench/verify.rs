//! `galen bench verify`: the cases of a run diagnosed again, the reports must be the same bytes; a public benchmark measured again, its
//! figures must be the same.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tokio::runtime::Handle;

use galen_agents::evaluation::compare::differing_pins;
use galen_agents::evaluation::record::{CaseLine, Header, Run};

use super::run::{Worker, at_a_time, read, see};
use super::suite::{Case, Suite, Which};
use super::{pins, public};
use crate::cli::Global;
use crate::failure::Failure;
use crate::{engine, output, parallel};

#[derive(Debug, Args)]
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
    let run = read(&args.run)?;
    let header = &run.header;
    let place = args.suite.clone().unwrap_or_else(|| PathBuf::from(&header.suite_path));
    if !run.measured.is_empty() {
        let now = public::again(global, &run, &place, args.jobs).await?;
        let (key, what) = ("figures", "figures are the same");
        let (same, differing) = public::differing(&run, &now);
        return tell(global, &Verified { key, what, count: run.measured.len(), same, pins: differing_pins(&run, &now), differing });
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
        suite = if named.sha256() == header.pins.suite_sha256 { named } else { suite };
    }
    let pinned = model.as_deref().zip(provider.as_deref());
    let now = Run {
        header: Header { pins: pins::pins(suite.asked(&header.pins.half), &library, pinned, &options), ..Header::default() },
        ..Run::default()
    };
    let changed = differing_pins(&run, &now);
    let worker = Worker { runtime: Handle::current(), library, provider, options };
    let jobs = at_a_time(args.jobs, worker.provider.is_some());
    let differing = again(&run, suite, &worker, usize::from(jobs))?;
    let (key, what, count) = ("cases", "reports are the same bytes", run.cases.len());
    tell(global, &Verified { key, what, count, same: count - differing.len(), pins: changed, differing })
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
    let Some((now, then)) = now.zip(single(run.cases.iter().map(|case| case.dataset.as_str()))) else { return };
    // A suite that is a folder is called as its only data set.
    if suite.name == now && run.header.pins.suite == then {
        then.clone_into(&mut suite.name);
    }
    suite.cases.iter_mut().for_each(|case| then.clone_into(&mut case.dataset));
}

/// Diagnoses every finished case again; one line for each that is not the same.
fn again(run: &Run, suite: Suite, worker: &Worker, jobs: usize) -> Result<Vec<String>, Failure> {
    let mut cases: BTreeMap<(String, String), Case> = suite.cases.into_iter().map(|c| ((c.dataset.clone(), c.id.clone()), c)).collect();
    let pairs: Vec<(CaseLine, Option<Case>)> =
        run.cases.iter().map(|c| (c.clone(), cases.remove(&(c.dataset.clone(), c.case.clone())))).collect();
    let work = |(known, case): &(CaseLine, Option<Case>)| Ok(check(known, case.as_ref(), worker));
    let mut differing = Vec::new();
    parallel::in_order(&pairs, jobs, work, |(known, _), why: Result<Option<String>, Failure>| {
        let why = why.unwrap_or_else(|failure| Some(failure.to_string()));
        differing.extend(why.map(|why| format!("{}: {why}", known.case)));
        Ok(())
    })?;
    Ok(differing)
}

/// Why a case is not the same; none when it is.
fn check(known: &CaseLine, case: Option<&Case>, worker: &Worker) -> Option<String> {
    let Some(case) = case else { return Some("its capture is gone".into()) };
    if case.sha256.as_deref() != Some(known.capture_sha256.as_str()) {
        return Some("its capture was changed".into());
    }
    match see(case, worker) {
        Err(why) => Some(why),
        Ok(seen) => (seen.sha256 != known.report_sha256).then(|| "its report differs".into()),
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
    pins: Vec<String>,
    /// One line for each that did not.
    differing: Vec<String>,
}

fn tell(global: &Global, told: &Verified) -> Result<(), Failure> {
    let Verified { key, what, count, same, pins, differing } = told;
    if global.json {
        output::line(&json!({*key: count, "pins": pins, "differing": differing}).to_string());
    } else {
        pins.iter().for_each(|pin| output::line(&format!("pin differs: {pin}")));
        differing.iter().for_each(|case| output::line(case));
        output::line(&format!("{same} of {count} {what}"));
    }
    let differ = format!("{} of them differ", differing.len());
    match (differing.is_empty(), pins.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => Err(Failure::fault(format!("{differ} although every pin is the same"))),
        (false, false) => Err(Failure::input(format!("{differ}; so do the pins named above"))),
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
