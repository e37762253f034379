//! `galen lab record`: many scenarios as labelled captures, with a bar or lines that say how far it is.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{Shape, lab_failure, usage};
use crate::cli::Global;
use crate::failure::Failure;
use crate::lab::batch::{self, Case, Step};
use crate::lab::suite::Suite;
use crate::lab::{Folder, Otherwise, Parameters, Phase, Scenario, network};
use crate::output;

#[derive(Debug, Args)]
#[command(
    after_help = "Each case is NAME.galen, which `galen replay` reads, and NAME.answer.json, which no diagnosis opens. A case that is
there already is kept, so that an interrupted run goes on where it stopped; one that was recorded by another release, of the
scenario before it was edited, or with other parameters, phases or another server, is refused."
)]
pub struct RecordArgs {
    /// Suite of scenarios; see `galen lab list --suites`
    #[arg(long, value_name = "NAME|FILE.toml", required_unless_present = "scenarios")]
    suite: Option<String>,
    /// Scenario, or a .toml file of your own; may be given more than once
    #[arg(long = "scenario", value_name = "NAME|FILE.toml")]
    scenarios: Vec<String>,
    /// Folder for the captures
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Servers at a time, at most one a CPU [default: one for two CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// How often each scenario is recorded, each time with another seed
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    repeat: u64,
    #[command(flatten)]
    shape: Shape,
}

/// Records what the folder lacks; one line or a bar for each case.
pub async fn record(global: &Global, args: RecordArgs) -> Result<(), Failure> {
    let cases = cases(&args)?;
    // Asked for a server that is not here, nothing may pass for recorded on it.
    batch::server(args.shape.server_bin.as_deref()).map_err(usage)?;
    let folder = Folder::open(&args.out).map_err(usage)?;
    if batch::narrows_network(&folder, &cases) {
        network::enter().map_err(lab_failure)?;
    }
    // Asked of the process: while it began anew the folder was free, and another may have recorded what narrows.
    if network::entered() {
        output::tell("this batch has a network of its own; cases that narrow it come last, one server at a time");
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let (jobs, fewer) = at_a_time(args.jobs.map(usize::from), batch::most_jobs(), cpus);
    if let Some(fewer) = fewer {
        output::tell(&fewer);
    }
    let board = Board::new(global.json, &cases, jobs);
    let outcome = batch::run(&folder, &cases, jobs, args.shape.server_bin, &|step| board.show(&step)).await;
    board.bar.finish_and_clear();
    let outcome = outcome.map_err(|error| if error.is::<Otherwise>() { usage(error) } else { Failure::fault(format!("{error:#}")) })?;
    let batch::Outcome { recorded, kept, failed } = &outcome;
    output::tell(&format!("{recorded} recorded, {kept} kept, {failed} failed in {}", folder.path().display()));
    match outcome.failed {
        0 => Ok(()),
        failed => Err(Failure::target(format!("{failed} of {} cases could not be recorded; each is named above", cases.len()))),
    }
}

/// Servers at a time: as many as are asked for, at most one a CPU or what the memory carries; what to say where they are fewer.
fn at_a_time(asked: Option<usize>, most: usize, cpus: usize) -> (usize, Option<String>) {
    let Some(asked) = asked else { return (most, None) };
    let jobs = asked.min(most.max(cpus));
    let fewer = || format!("more servers than CPUs say nothing about a fault: {jobs} at a time, not {asked}");
    (jobs, (jobs < asked).then(fewer))
}

fn cases(args: &RecordArgs) -> Result<Vec<Case>, Failure> {
    let mut wanted = match &args.suite {
        Some(name) => Suite::load(name).and_then(|suite| suite.expand()).map_err(usage)?,
        None => Vec::new(),
    };
    for name in &args.scenarios {
        wanted.push((Scenario::load(name).map_err(usage)?, Parameters::new()));
    }
    let mut cases = Vec::new();
    for round in 0..args.repeat {
        for (scenario, parameters) in &wanted {
            let run = args.shape.run(parameters.clone(), args.shape.seed.wrapping_add(round));
            cases.push(Case { name: run.case(&scenario.fault.name), scenario: scenario.clone(), run });
        }
    }
    if let Some(twice) = cases.iter().enumerate().find(|(at, case)| cases[..*at].iter().any(|other| other.name == case.name)) {
        return Err(Failure::usage(format!("the case {} is asked for twice: name each scenario once, or use --repeat", twice.1.name)));
    }
    Ok(cases)
}

/// Progress of a batch: a bar with the time left on a terminal, a line for each case elsewhere.
struct Board {
    json: bool,
    bar: ProgressBar,
    began: Instant,
    state: RefCell<State>,
    jobs: usize,
}

#[derive(Default)]
struct State {
    left: usize,
    recorded: u32,
    busy: Vec<(String, Phase)>,
    /// Seconds that a case is expected to take.
    each: f64,
}

impl Board {
    fn new(json: bool, cases: &[Case], jobs: usize) -> Board {
        let bar = ProgressBar::new(cases.len() as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        // Until one is done: its phases, and a quarter of a minute for server and tables.
        let each = cases.iter().map(|case| case.run.phases.total().as_secs_f64() + 15.0).sum::<f64>() / cases.len().max(1) as f64;
        let state = State { left: cases.len(), each, ..State::default() };
        Board { json, bar, began: Instant::now(), state: RefCell::new(state), jobs }
    }

    fn show(&self, step: &Step<'_>) {
        let mut state = self.state.borrow_mut();
        let (case, event) = match step {
            Step::Phase(case, phase) => {
                state.busy.retain(|(name, _)| name != case);
                state.busy.push(((*case).to_owned(), *phase));
                drop(state);
                return self.message();
            }
            Step::Kept(case) => (*case, json!({"case": case, "state": "kept"})),
            Step::Saved(case, took) => {
                let took = took.as_secs_f64();
                state.recorded += 1;
                let weight = 1.0 / f64::from(state.recorded);
                state.each += (took - state.each) * weight;
                (*case, json!({"case": case, "state": "recorded", "seconds": took.round()}))
            }
            Step::Failed(case, why) => (*case, json!({"case": case, "state": "failed", "error": why})),
        };
        state.left = state.left.saturating_sub(1);
        state.busy.retain(|(name, _)| name != case);
        drop(state);
        self.bar.inc(1);
        let why = event["error"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
        let line = format!(
            "[{:>4} s] {case}: {}{why}; {}",
            self.began.elapsed().as_secs(),
            event["state"].as_str().unwrap_or_default(),
            self.remaining()
        );
        if self.json {
            output::progress(&event.to_string());
        }
        if self.bar.is_hidden() {
            output::tell(&line)
        } else {
            self.bar.println(line)
        }
        self.message();
    }

    fn message(&self) {
        let busy: Vec<String> = self.state.borrow().busy.iter().map(|(name, phase)| format!("{name}: {}", phase.words())).collect();
        self.bar.set_message(format!("{}; {}", self.remaining(), busy.join(", ")));
    }

    fn remaining(&self) -> String {
        let state = self.state.borrow();
        let seconds = state.each * (state.left as f64 / self.jobs as f64).ceil();
        match seconds {
            s if s < 90.0 => format!("about {s:.0} s left"),
            s => format!("about {:.0} min left", s / 60.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_servers_than_asked_for_are_told() {
        assert_eq!(at_a_time(None, 1, 2), (1, None));
        assert_eq!(at_a_time(Some(2), 1, 2), (2, None));
        let (jobs, fewer) = at_a_time(Some(64), 1, 2);
        assert!(jobs == 2 && fewer.is_some_and(|line| line.contains("2 at a time, not 64")));
    }
}
