//! `galen bench dbsherlock`: the benchmark of recorded MySQL incidents, with its controls, in one command.

use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use galen_agents::driver::{Library, Options, diagnose};
use galen_agents::evaluation::dbsherlock::{
    CaseRow, Recording, Row, SINGLE, Stage, cases, class_causes, learnable, load, placebo_learnable, score,
};
use galen_agents::evaluation::split::Half;
use galen_agents::evaluation::{Capability, Score};
use galen_agents::signature::{Case, extend, learn_from};
use galen_knowledge::catalog::Catalog;
use galen_tools::capture::Capture;
use galen_tools::detect::{DetectOptions, detect};
use galen_tools::model::Window;
use galen_tools::probe::Recorded;
use galen_tools::signals::SignalTable;

use super::Global;
use crate::failure::{Failure, LeftOut};
use crate::output;

/// Options of the benchmark.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  galen bench dbsherlock /data/dbsherlock
  galen bench dbsherlock /data/dbsherlock --k 3 --json

DIR holds manifest.json and the recordings it names (CSV, perhaps gzipped). `test`: learnt from one half of the single
cases, tested on the other; the lowest bit of the first byte of SHA-256 over `dbsherlock_single:CLASS/NUMBER` decides. `leave_one_out`: each case tested with what all others teach; its own class then has one case
less. The placebo is the same method fed only rows from before the anomaly; of a window,
one of the right length anywhere.")]
pub struct DbsherlockArgs {
    /// Folder of the benchmark
    dir: PathBuf,
    /// Most cases a class is learnt from
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=1000))]
    k: u16,
    /// Print what became of each case instead; of the learn half alone, by signatures of the other cases in it
    #[arg(long)]
    cases: bool,
}

/// Runs the benchmark and prints one row a figure. A recording that cannot be used costs a line and the exit code.
pub async fn dbsherlock(global: &Global, args: &DbsherlockArgs) -> Result<(), Failure> {
    let (recordings, flaws) = load(&args.dir).map_err(Failure::input)?;
    let (listed, mut left_out) = (recordings.len() + flaws.len(), LeftOut::default());
    for flaw in flaws.into_iter().map(Failure::input) {
        output::tell(&format!("galen: {flaw}"));
        left_out.add(&flaw);
    }
    if recordings.is_empty() {
        return Err(Failure::input(format!("{}: none of the {listed} recordings in its manifest can be used", args.dir.display())));
    }
    if args.cases {
        for case in cases(&recordings, usize::from(args.k), &SignalTable::builtin()) {
            output::line(&if global.json {
                serde_json::to_string(&case).map_err(|e| Failure::fault(e.to_string()))?
            } else {
                case_line(&case)
            });
        }
        return left_out.end(listed, "recordings could not be used");
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_length(recordings.len() as u64);
    let table = SignalTable::builtin();
    let rows = score(&recordings, usize::from(args.k), &table, &|stage| {
        bar.set_message(if stage == Stage::Looked { "recordings" } else { "explanations" });
        if bar.position() == bar.length().unwrap_or(0) {
            bar.inc_length(1);
        }
        bar.inc(1);
    });
    bar.set_message("reports");
    let reports = reports(&recordings, table, &rows).await?;
    bar.finish_and_clear();
    if !global.json {
        output::line(&format!("{:<20} {:<40} {:>5} {:>7} {:>7} {:>8}", "task", "data set", "cases", "galen", "simple", "placebo"));
    }
    for row in rows.iter().chain(&reports) {
        output::line(&if global.json { serde_json::to_string(row).map_err(|e| Failure::fault(e.to_string()))? } else { line(row) });
    }
    if !global.json {
        notes();
    }
    left_out.end(listed, "recordings could not be used")
}

fn line(row: &Row) -> String {
    let Score { task, dataset, value, baseline, cases, .. } = &row.score;
    let placebo = row.placebo.map_or_else(|| "-".to_owned(), |p| format!("{p:.3}"));
    format!("{task:<20} {dataset:<40} {cases:>5} {value:>7.3} {baseline:>7.3} {placebo:>8}")
}

fn case_line(row: &CaseRow) -> String {
    let window = |w: Window| format!("{}-{}", w.start / 1000, w.end / 1000);
    let found = row.found.map_or("nothing".to_owned(), window);
    let [ours, simple] = row.iou;
    format!(
        "{:<40} {:>9} found {found:>9} IoU {ours:.2} (simple {simple:.2}); injected {}; named {}; simple {}",
        row.case,
        window(row.abnormal),
        row.injected.join(", "),
        row.named.join(", "),
        row.simple.join(", ")
    )
}

fn notes() {
    eprintln!(
        "iou: against the given windows. top1, top2, recall_at_3: after own detection. top1_5s: rows up to 5 s after the onset.\n\
         session_leak is no method of ours: it tells the class from levels before the anomaly alone.\n\
         report_top1: first root cause of the whole diagnosis; report_top1_unlearnt: the same without signatures.\n\
         placebo: fed only rows from before the anomaly; of iou: a window of the right length, mean over all places."
    );
}

/// The whole diagnosis with learnt signatures: is the first root cause the injected one? On the test half with signatures of
/// the learn half, and for each case with signatures of all others. The simple method is the one of the same protocol in `rows`.
async fn reports(recordings: &[Recording], signals: SignalTable, rows: &[Row]) -> Result<Vec<Row>, Failure> {
    let single: Vec<&Recording> = recordings.iter().filter(|r| r.dataset == SINGLE).collect();
    let lessons: Vec<_> = single.iter().map(|r| learnable(r, &signals)).collect();
    let placebos: Vec<_> = single.iter().map(|r| placebo_learnable(r, &signals)).collect();
    let catalog = Catalog::builtin().map_err(|e| Failure::fault(e.to_string()))?;
    let plain = Library { catalog, signals, ..Library::default() };
    let learn = |lessons: &[Option<Case>], may: &dyn Fn(usize) -> bool, source: &str| {
        let cases: Vec<_> = lessons.iter().enumerate().filter(|(i, _)| may(*i)).filter_map(|(_, case)| case.clone()).collect();
        let mut learnt = plain.clone();
        learnt.signatures = learn_from(&cases, source);
        extend(&mut learnt.catalog, &learnt.signatures);
        learnt
    };
    let of_half = |lessons: &[Option<Case>]| learn(lessons, &|i| single[i].half == Half::Learn, &format!("{SINGLE}/learn"));
    let (taught, misled) = (of_half(&lessons), of_half(&placebos));
    let (mut test, mut others) = (Tally::default(), Tally::default());
    for (at, recording) in single.iter().enumerate() {
        let unlearnt = right(recording, &recording.capture, &plain).await;
        let before = recording.before();
        // Without a window no signature is asked: what was learnt makes no difference.
        let quiet = detect(&before, &plain.signals, &DetectOptions::default()).window.is_none();
        let of_others = |lessons: &[Option<Case>]| learn(lessons, &|i| i != at, &format!("{SINGLE}/others"));
        let (taught_by_others, misled_by_others) = (of_others(&lessons), if quiet { plain.clone() } else { of_others(&placebos) });
        if recording.half == Half::Test {
            let placebo = right(recording, &before, &misled).await;
            test.count(right(recording, &recording.capture, &taught).await, unlearnt, placebo);
        }
        let placebo = right(recording, &before, &misled_by_others).await;
        others.count(right(recording, &recording.capture, &taught_by_others).await, unlearnt, placebo);
    }
    Ok([test.rows("test", rows), others.rows("leave_one_out", rows)].concat())
}

/// True when the first root cause of the report on a capture of the recording is one that the injected class stands for.
async fn right(recording: &Recording, capture: &Capture, library: &Library) -> bool {
    let wanted = recording.classes.first().map(|c| class_causes(c)).unwrap_or_default();
    let options = Options { replay: true, knowledge: false, ..Options::default() };
    let found = diagnose(capture, library, &Recorded(capture), None, &options, &|_| {}).await;
    found.report.root_causes.first().is_some_and(|c| wanted.contains(&c.cause))
}

/// Reports that were right: with signatures, without, and with those of the rows before the anomaly on these rows.
#[derive(Default)]
struct Tally {
    tested: usize,
    with: usize,
    without: usize,
    placebo: usize,
}

impl Tally {
    fn count(&mut self, with: bool, without: bool, placebo: bool) {
        self.tested += 1;
        self.with += usize::from(with);
        self.without += usize::from(without);
        self.placebo += usize::from(placebo);
    }

    fn rows(&self, set: &str, rows: &[Row]) -> Vec<Row> {
        let dataset = format!("{SINGLE}/{set}");
        let baseline = rows.iter().find(|r| r.score.task == "top1" && r.score.dataset == dataset).map_or(0.0, |r| r.score.baseline);
        let row = |task: &str, count: usize, placebo: Option<usize>, how: &str| {
            let share = |count: usize| count as f64 / self.tested.max(1) as f64;
            let (task, dataset) = (task.to_owned(), dataset.clone());
            let score = Score { capability: Capability::RootCause, task, dataset, value: share(count), baseline, cases: self.tested };
            Row { score, placebo: placebo.map(share), how: how.to_owned() }
        };
        let how = "first root cause of the report, with learnt signatures; simple: the nearest centroid of robust z scores, which always names a class";
        let unlearnt = "the same report without signatures: the catalog was made for PostgreSQL";
        vec![row("report_top1", self.with, Some(self.placebo), how), row("report_top1_unlearnt", self.without, None, unlearnt)]
    }
}
