//! RDS incidents: folders of answers of AWS's APIs, for `galen import rds` and `galen bench rds`.

use std::path::{Path, PathBuf};

use serde_json::json;

use galen_agents::driver::{Library, Options, diagnose};
use galen_agents::evaluation::Score;
use galen_agents::evaluation::rds::{Answer, Case, Rules, Verdict, baseline, scores, verdicts};
use galen_tools::capture::Capture;
use galen_tools::probe::Recorded;
use galen_tools::sources::rds;

use super::Global;
use crate::failure::{Failure, LeftOut};
use crate::{engine, output};

/// Most files of one incident, and most bytes of all of them.
const MOST_FILES: usize = 2_000;
const MOST_BYTES: u64 = 64 << 20;
/// Most folders below an input, and how deep they may lie.
const MOST_FOLDERS: usize = 10_000;
const MOST_DEPTH: usize = 8;

/// Folders at or below `root` that hold JSON files, in order of path; each is an incident. Links are not followed.
pub fn incidents(root: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut open = vec![(root.to_owned(), 0)];
    let mut seen = 0;
    while let Some((folder, depth)) = open.pop() {
        seen += 1;
        if seen > MOST_FOLDERS || depth > MOST_DEPTH {
            return Err(Failure::input(format!("{}: more than {MOST_FOLDERS} folders, or deeper than {MOST_DEPTH}", root.display())));
        }
        if !answers(&folder)?.is_empty() {
            found.push(folder.clone());
        }
        for entry in entries(&folder)? {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push((entry.path(), depth + 1));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<std::fs::DirEntry>, Failure> {
    let fail = |e: std::io::Error| Failure::input(format!("{}: {e}", folder.display()));
    std::fs::read_dir(folder).map_err(fail)?.collect::<Result<_, _>>().map_err(fail)
}

/// The JSON files of a folder in order of name. Nothing else in it is opened: an answer key may lie there.
fn answers(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let json = |e: &std::fs::DirEntry| e.file_type().is_ok_and(|k| k.is_file()) && e.path().extension().is_some_and(|x| x == "json");
    let mut files: Vec<PathBuf> = entries(folder)?.iter().filter(|e| json(e)).map(std::fs::DirEntry::path).collect();
    files.sort();
    Ok(files)
}

/// Reads the incident in a folder as a capture called `name`.
pub fn read(folder: &Path, name: &str) -> Result<Capture, Failure> {
    let files = answers(folder)?;
    if files.is_empty() || files.len() > MOST_FILES {
        return Err(Failure::input(format!("{}: {} JSON files; an incident has 1 to {MOST_FILES}", folder.display(), files.len())));
    }
    let (mut read, mut total) = (Vec::new(), 0);
    for file in files {
        let fail = |e: std::io::Error| Failure::input(format!("{}: {e}", file.display()));
        total += std::fs::metadata(&file).map_err(fail)?.len();
        if total > MOST_BYTES {
            return Err(Failure::input(format!("{}: more than {MOST_BYTES} bytes of answers", folder.display())));
        }
        let bytes = std::fs::read(&file).map_err(fail)?;
        read.push((file.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes));
    }
    rds::import(&read, name).map_err(|e| Failure::input(format!("{}: {e}", folder.display())))
}

/// `galen bench rds`: imports, diagnoses and scores every scenario below a folder by its own `answer.yml`, which only the
/// scoring opens. A scenario that cannot be read costs a line and the exit code.
pub async fn bench(global: &Global, root: &Path) -> Result<Vec<Score>, Failure> {
    let library = engine::library(&global.load()?.data_dir)?;
    let folders = incidents(root)?;
    let (mut cases, mut left_out) = (Vec::new(), LeftOut::default());
    for (at, folder) in folders.iter().enumerate() {
        match scenario(folder, at, &library).await {
            Ok(case) => cases.push(case),
            Err(failure) => {
                output::tell(&format!("galen: {failure}"));
                left_out.add(&failure);
            }
        }
    }
    if folders.is_empty() {
        return Err(Failure::input(format!("{} holds no folder with JSON files", root.display())));
    }
    let told = verdicts(&cases);
    let measured = scores(&cases, &told);
    print(global, &told, &measured)?;
    left_out.end(folders.len(), "scenarios could not be scored")?;
    Ok(measured)
}

/// Diagnoses one scenario, and only then opens its key.
async fn scenario(folder: &Path, at: usize, library: &Library) -> Result<Case, Failure> {
    let options = Options { replay: true, ..Options::default() };
    let capture = read(folder, &format!("case-{:05}", at + 1))?;
    let diagnosis = diagnose(&capture, library, &Recorded(&capture), None, &options, &|_| {}).await;
    let key = folder.join("answer.yml");
    let fail = |e: &dyn std::fmt::Display| Failure::input(format!("{}: {e}", key.display()));
    let rules = Rules::parse(&std::fs::read_to_string(&key).map_err(|e| fail(&e))?).map_err(|e| fail(&e))?;
    let scenario = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Case { scenario, rules, answer: Answer::of(&diagnosis.report), baseline: baseline(&capture) })
}

fn print(global: &Global, told: &[Verdict], measured: &[Score]) -> Result<(), Failure> {
    for verdict in told {
        if global.json {
            output::line(&serde_json::to_string(verdict).map_err(|e| Failure::fault(e.to_string()))?);
            continue;
        }
        let word = |pass: bool| if pass { "pass" } else { "FAIL" };
        output::line(&format!(
            "{} {}: {}; baseline {} ({})",
            word(verdict.pass),
            verdict.scenario,
            verdict.causes.join(", "),
            word(verdict.baseline_pass),
            verdict.baseline_cause
        ));
        verdict.broken.iter().for_each(|rule| output::line(&format!("     {rule}")));
    }
    let pass = |of: &dyn Fn(&Verdict) -> bool| told.iter().filter(|v| of(v)).count();
    let (passed, trivial, category) = (pass(&|v| v.pass), pass(&|v| v.baseline_pass), pass(&|v| v.baseline_category));
    let (control, pairs) = (told.iter().map(|v| v.others_pass).sum::<usize>(), told.len() * told.len().saturating_sub(1));
    if global.json {
        let summary = json!({"suite": "rds", "cases": told.len(), "passed": passed, "baseline_passed": trivial,
            "baseline_category": category, "control_passed": control, "control_pairs": pairs});
        output::line(&summary.to_string());
        measured.iter().filter_map(|s| serde_json::to_string(s).ok()).for_each(|s| output::line(&s));
    } else {
        output::line(&format!(
            "{passed} of {} pass; baseline (signal with the largest robust z): {trivial}, right category {category}; control (reports of other scenarios): {control} of {pairs} pairs pass",
            told.len()
        ));
    }
    Ok(())
}
