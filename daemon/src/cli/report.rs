//! `galen report`: what changed between two reports.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use galen_agents::report::Report;
use galen_agents::report::diff::{Change, diff};

use super::Global;
use crate::failure::{Failure, LeftOut};
use crate::output;

/// Largest file read, bytes.
const MOST_BYTES: u64 = 256 << 20;

#[derive(Debug, Args)]
pub struct ReportArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Tell what two runs say differently about the same captures
    #[command(after_help = "Examples:
  galen replay captures/ --no-model --json > before.jsonl
  galen replay captures/ --model qwen2.5-coder-1.5b --json > after.jsonl
  galen report diff before.jsonl after.jsonl

A file holds one report object a line, as `replay --json` prints it, or a single report. Reports are matched by
the name of their capture; where folders hold captures of one name, the first of that name with the first, and
so on. Where one file has more of a name than the other, nobody knows which belong together: all of them are
told to be in one file only. A last object that is cut off is left out, with a line and the exit code; what
comes before it is matched all the same.")]
    Diff {
        /// Reports of the first run
        before: PathBuf,
        /// Reports of the second run
        after: PathBuf,
    },
}

/// `galen report`.
pub fn report(global: &Global, args: &ReportArgs) -> Result<(), Failure> {
    let Action::Diff { before, after } = &args.action;
    let mut left_out = LeftOut::default();
    let (old, new) = (read(before, &mut left_out)?, read(after, &mut left_out)?);
    let all = old.reports.len() + new.reports.len() + left_out.count;
    // Two single reports are compared whatever their captures are called.
    let single = all == 2;
    let unpaired = unpaired(&old, &new);
    let (old, mut new) = (old.reports, new.reports);
    let (mut same, mut changed) = (0, 0);
    for (key, report) in &old {
        let other = match single {
            true => new.pop_first().map(|(_, other)| other),
            false if unpaired.contains(&key.0) => None,
            false => new.remove(key),
        };
        let Some(other) = other else {
            alone(global, key, before);
            continue;
        };
        let changes = diff(report, &other);
        match changes.is_empty() {
            true => same += 1,
            false => changed += 1,
        }
        show(global, key, &changes);
    }
    for key in new.keys() {
        alone(global, key, after);
    }
    if !global.json {
        output::line(&format!("{changed} differ, {same} say the same"));
    }
    left_out.end(all, "reports could not be compared")
}

/// The name of a capture, and which of the reports with that name: folders may hold captures of one name.
type Key = (String, usize);

/// The reports of a file.
struct Read {
    reports: BTreeMap<Key, Report>,
    /// The last one was cut off: what came after is not known.
    cut_off: bool,
}

impl Read {
    fn count(&self, name: &str) -> usize {
        self.reports.range((name.to_owned(), 0)..).take_while(|(key, _)| key.0 == name).count()
    }
}

/// Names that one file has more often than the other: the first of a name may then be missing, and each would be compared with
/// another's. Of a file that was cut off it is the last that are missing.
fn unpaired(old: &Read, new: &Read) -> BTreeSet<String> {
    let misled = |name: &str| match old.count(name).cmp(&new.count(name)) {
        Ordering::Less => !old.cut_off,
        Ordering::Equal => false,
        Ordering::Greater => !new.cut_off,
    };
    let repeated = old.reports.keys().chain(new.reports.keys()).filter(|(_, nth)| *nth == 2).map(|(name, _)| name);
    repeated.filter(|name| misled(name)).cloned().collect()
}

/// The reports of a file; a last one that is cut off is told and left out.
fn read(path: &Path, left_out: &mut LeftOut) -> Result<Read, Failure> {
    let fail = |e: &dyn std::fmt::Display| Failure::input(format!("{}: {e}", path.display()));
    let size = std::fs::metadata(path).map_err(|e| fail(&e))?.len();
    if size > MOST_BYTES {
        return Err(fail(&format!("{size} bytes is more than the {MOST_BYTES} that are read")));
    }
    // As bytes: what an interrupt cut off may end in half a letter.
    let bytes = std::fs::read(path).map_err(|e| fail(&e))?;
    let (mut reports, mut cut_off) = (BTreeMap::new(), false);
    let mut counts: HashMap<String, usize> = HashMap::new();
    for (at, report) in serde_json::Deserializer::from_slice(&bytes).into_iter::<Report>().enumerate() {
        let report = match report {
            Ok(report) => report,
            Err(error) if error.is_eof() && at > 0 => {
                let failure = fail(&format!("object {} is cut off", at + 1));
                output::tell(&format!("galen: {failure}"));
                left_out.add(&failure);
                cut_off = true;
                break;
            }
            Err(error) => return Err(fail(&format!("object {} is no report: {error}; make one with `galen replay --json`", at + 1))),
        };
        let nth = counts.entry(report.capture.clone()).or_default();
        *nth += 1;
        reports.insert((report.capture.clone(), *nth), report);
    }
    if reports.is_empty() { Err(fail(&"holds no report; make one with `galen replay --json`")) } else { Ok(Read { reports, cut_off }) }
}

fn alone(global: &Global, key: &Key, path: &Path) {
    if global.json {
        output::line(&object(key, "only_in", path.display().to_string()));
    } else {
        output::line(&format!("{}: only in {}", called(key), path.display()));
    }
}

/// The capture for people.
fn called((name, nth): &Key) -> String {
    let name = output::plain(name);
    if *nth > 1 { format!("{name} (number {nth} of that name)") } else { name }
}

/// A line of JSON about a capture; `nth` stands in it from the second of a name on.
fn object((name, nth): &Key, what: &str, value: impl Serialize) -> String {
    let mut object = json!({"capture": name, what: value});
    if *nth > 1 {
        object["nth"] = (*nth).into();
    }
    object.to_string()
}

fn show(global: &Global, key: &Key, changes: &[Change]) {
    if global.json {
        output::line(&object(key, "changes", changes));
    } else if !changes.is_empty() {
        output::line(&called(key));
        for change in changes {
            output::line(&format!("  {}", output::plain(&change.what)));
            for (sign, side) in [('-', &change.before), ('+', &change.after)] {
                if let Some(text) = side {
                    output::line(&format!("    {sign} {}", output::plain(text)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(capture: &str, headline: &str) -> String {
        let report = Report { capture: capture.into(), headline: headline.into(), ..Report::default() };
        serde_json::to_string(&report).unwrap() + "\n"
    }

    fn read_back(text: &[u8]) -> (Result<Read, Failure>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reports.jsonl");
        std::fs::write(&path, text).unwrap();
        let mut left_out = LeftOut::default();
        (read(&path, &mut left_out), left_out.count)
    }

    #[test]
    fn reports_of_one_name_are_told_apart_by_their_order() {
        let (reports, _) = read_back((line("x", "first") + &line("y", "other") + &line("x", "second")).as_bytes());
        let reports = reports.unwrap().reports;
        let told: Vec<_> = reports.iter().map(|((name, nth), report)| (name.as_str(), *nth, report.headline.as_str())).collect();
        assert_eq!(told, [("x", 1, "first"), ("x", 2, "second"), ("y", 1, "other")]);
        let lines: Vec<String> = reports.keys().map(|key| object(key, "changes", [0; 0])).collect();
        assert_eq!(lines[..2], [r#"{"capture":"x","changes":[]}"#, r#"{"capture":"x","changes":[],"nth":2}"#]);
        assert_eq!(called(&("x".to_owned(), 2)), "x (number 2 of that name)");
    }

    #[test]
    fn a_last_report_that_is_cut_off_is_left_out_and_no_other() {
        let (first, second) = (line("x", "first"), line("y", "größer"));
        let middle = second.find("ß").unwrap() + 1;
        for cut in [1, middle, second.len() - 2] {
            let (reports, left_out) = read_back(&[first.as_bytes(), &second.as_bytes()[..cut]].concat());
            let read = reports.unwrap();
            assert_eq!((read.reports.len(), read.cut_off, left_out), (1, true, 1), "after {cut} bytes");
            let (reports, _) = read_back(&second.as_bytes()[..cut]);
            assert!(reports.err().unwrap().message.contains("object 1 is no report"), "nothing is left to compare");
        }
        let (reports, _) = read_back(format!("{first}{{\"capture\": 3}}\n{first}").as_bytes());
        assert!(reports.err().unwrap().message.contains("object 2 is no report"));
    }

    #[test]
    fn of_a_name_that_one_file_has_more_often_none_is_paired_unless_the_other_was_cut_off() {
        let of = |names: &[&str], cut_off: bool| {
            let text: String = names.iter().map(|name| line(name, "")).collect();
            let read = read_back(text.as_bytes()).0.unwrap();
            Read { cut_off, ..read }
        };
        let (both, one) = (of(&["x", "y", "x"], false), of(&["x", "y"], false));
        let told = |old: &Read, new: &Read| unpaired(old, new).into_iter().collect::<Vec<_>>();
        assert_eq!((told(&both, &one), told(&one, &both)), (vec!["x".to_owned()], vec!["x".to_owned()]));
        assert!(told(&both, &of(&["x", "y"], true)).is_empty(), "the second was not written any more");
        assert_eq!(told(&of(&["x", "y", "x"], true), &one), ["x"], "what is there and what was cut off are of one file");
        assert_eq!((told(&both, &both), told(&one, &of(&["y"], false))), (Vec::new(), Vec::new()));
    }
}
