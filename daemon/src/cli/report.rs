//! `galen report`: what changed between two reports.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use galen_agents::report::Report;
use galen_agents::report::diff::{Change, diff};

use super::Global;
use crate::failure::Failure;
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
the name of their capture.")]
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
    let (old, mut new) = (read(before)?, read(after)?);
    let (mut same, mut changed) = (0, 0);
    for (name, report) in &old {
        // Two single reports are compared whatever their captures are called.
        let key = if old.len() == 1 && new.len() == 1 { new.keys().next().cloned().unwrap_or_default() } else { name.clone() };
        let Some(other) = new.remove(&key) else {
            alone(global, name, before);
            continue;
        };
        let changes = diff(report, &other);
        match changes.is_empty() {
            true => same += 1,
            false => changed += 1,
        }
        show(global, name, &changes);
    }
    for name in new.keys() {
        alone(global, name, after);
    }
    if !global.json {
        output::line(&format!("{changed} differ, {same} say the same"));
    }
    Ok(())
}

/// Reports by the name of their capture.
fn read(path: &Path) -> Result<BTreeMap<String, Report>, Failure> {
    let fail = |e: &dyn std::fmt::Display| Failure::input(format!("{}: {e}", path.display()));
    let size = std::fs::metadata(path).map_err(|e| fail(&e))?.len();
    if size > MOST_BYTES {
        return Err(fail(&format!("{size} bytes is more than the {MOST_BYTES} that are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| fail(&e))?;
    let mut reports = BTreeMap::new();
    for (at, report) in serde_json::Deserializer::from_str(&text).into_iter::<Report>().enumerate() {
        let report = report.map_err(|e| fail(&format!("object {} is no report: {e}; make one with `galen replay --json`", at + 1)))?;
        let name = report.capture.clone();
        if reports.insert(name.clone(), report).is_some() {
            return Err(fail(&format!("two reports of capture {name:?}: nobody can tell which to compare")));
        }
    }
    if reports.is_empty() { Err(fail(&"holds no report; make one with `galen replay --json`")) } else { Ok(reports) }
}

fn alone(global: &Global, name: &str, path: &Path) {
    if global.json {
        output::line(&json!({"capture": name, "only_in": path}).to_string());
    } else {
        output::line(&format!("{}: only in {}", output::plain(name), path.display()));
    }
}

fn show(global: &Global, name: &str, changes: &[Change]) {
    if global.json {
        output::line(&json!({"capture": name, "changes": changes}).to_string());
    } else if !changes.is_empty() {
        output::line(&output::plain(name));
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
