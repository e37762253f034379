//! Reads D-Bot's specifications: one JSON object a line. The prose of a line is dropped here and goes nowhere.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use super::plan;

const CAUSES: &str = include_str!("../../../../examples/lab/dbot/causes.toml");
/// Longest line that is read, bytes.
const MOST_LINE: usize = 1 << 20;

/// One specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Number in the published list.
    pub id: u32,
    /// Kind of workload, the stem of a file of `examples/lab/dbot`.
    pub workload: String,
    /// Causes of the catalog that the labels stand for, in the labels' order.
    pub causes: Vec<String>,
    /// Size as published.
    pub size: Size,
}

/// Size of a workload; kinds without parameters leave it empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Clients at once.
    pub threads: Option<u32>,
    /// Text columns of the table.
    pub columns: Option<u32>,
    /// Rows of the table, or of one insert.
    pub rows: Option<u32>,
    /// Characters of a text column.
    pub column_size: Option<u32>,
    /// Tenths of the columns that get an index.
    pub indexes: Option<u32>,
}

#[derive(Deserialize)]
struct Line {
    id: u32,
    labels: Vec<String>,
    workload: String,
    #[serde(default)]
    params: Size,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Causes {
    labels: BTreeMap<String, String>,
}

/// Specifications in order of their ids, and one line about each that cannot be used. Fails only when the table of labels,
/// which is ours, does not parse.
pub fn read(text: &str) -> anyhow::Result<(Vec<Spec>, Vec<String>)> {
    let causes: Causes = toml::from_str(CAUSES).context("in causes.toml")?;
    let (mut specs, mut problems) = (Vec::new(), Vec::new());
    let mut seen: BTreeSet<u32> = BTreeSet::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match parse(line, &causes.labels) {
            Ok(spec) if !seen.insert(spec.id) => problems.push(format!("line {}: the id {} was there before", number + 1, spec.id)),
            Ok(spec) => specs.push(spec),
            Err(error) => problems.push(format!("line {}: {error:#}", number + 1)),
        }
    }
    specs.sort_by_key(|spec| spec.id);
    Ok((specs, problems))
}

fn parse(line: &str, causes: &BTreeMap<String, String>) -> anyhow::Result<Spec> {
    ensure!(line.len() <= MOST_LINE, "{} bytes are too long for a specification", line.len());
    let line: Line = serde_json::from_str(line)?;
    ensure!(!line.labels.is_empty(), "the specification {} has no label", line.id);
    let cause = |label: &String| match causes.get(label) {
        Some(cause) => Ok(cause.clone()),
        None => bail!("no cause stands for the label `{}`", label.escape_debug()),
    };
    let causes = line.labels.iter().map(cause).collect::<anyhow::Result<Vec<_>>>()?;
    let spec = Spec { id: line.id, workload: line.workload, causes, size: line.params };
    // What cannot be planned is told here, with its line, and not after an hour of recording.
    plan::plan(&spec, 2)?;
    Ok(spec)
}
