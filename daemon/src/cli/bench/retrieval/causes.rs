//! Per cause of the catalog: is the right runbook among the first three, given only the signals of its captures?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use galen_agents::driver::Library;
use galen_agents::retrieve;
use galen_knowledge::chunk::KnowledgeChunk;
use galen_knowledge::index::{Index, Query};
use galen_tools::capture::Capture;
use galen_tools::detect::{DetectOptions, detect};
use galen_tools::store::file;

use super::super::suite::{Suite, answer};
use crate::cli::Global;
use crate::failure::Failure;
use crate::output;

/// Chunks about causes that count as found.
const FIRST: usize = 3;

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    captures: usize,
    by_signals: usize,
    by_all: usize,
}

/// Counts and prints, a line a cause.
pub fn check(global: &Global, library: &Library, index: &Index, paths: &[PathBuf], from_names: bool) -> Result<(), Failure> {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for path in paths {
        for case in Suite::open(path, from_names)?.cases {
            let mut capture = match file::read(&case.path) {
                Ok(capture) => capture,
                Err(error) => {
                    output::tell(&format!("galen: {error}"));
                    continue;
                }
            };
            let labels = std::mem::take(&mut capture.manifest.labels);
            let known = |id: &str| id == "healthy" || library.catalog.get(id).is_some();
            let right = match answer(&case, &labels, &known)
                .map(|answer| answer.causes)
                .or_else(|why| causes_beside(&case.path, &known).ok_or(why))
            {
                Ok(causes) => causes,
                Err(why) => {
                    output::tell(&format!("galen: {}: {why}", case.id));
                    continue;
                }
            };
            let detection = detect(&capture, &library.signals, &DetectOptions::default());
            let all = retrieve::query(&capture, &detection, &library.signals, &library.catalog);
            // Only the signals: no sessions, statements or events.
            let alone = Capture { series: std::mem::take(&mut capture.series), ..Capture::default() };
            let signals = retrieve::query(&alone, &detection, &library.signals, &library.catalog);
            let (signals, all) = (first(library, index, &signals), first(library, index, &all));
            if global.json {
                let titles = |chunks: &[&KnowledgeChunk]| chunks.iter().map(|chunk| chunk.title.clone()).collect::<Vec<_>>();
                let abnormal: Vec<&str> = detection.abnormal.iter().map(|a| a.signal.as_str()).collect();
                let line = json!({"suite": "captures", "capture": case.id, "causes": right, "abnormal": abnormal,
                    "first_by_signals": titles(&signals), "first_by_incident": titles(&all)});
                output::line(&line.to_string());
            }
            for cause in right.iter().filter(|c| *c != "healthy") {
                let among = |chunks: &[&KnowledgeChunk]| usize::from(chunks.iter().any(|chunk| chunk.causes.contains(cause)));
                let tally = tallies.entry(cause.clone()).or_default();
                tally.captures += 1;
                tally.by_signals += among(&signals);
                tally.by_all += among(&all);
            }
        }
    }
    let sum = |of: fn(&Tally) -> usize| tallies.values().map(of).sum::<usize>();
    for (cause, tally) in &tallies {
        tell(global, cause, *tally);
    }
    tell(global, "all", Tally { captures: sum(|t| t.captures), by_signals: sum(|t| t.by_signals), by_all: sum(|t| t.by_all) });
    let in_catalog = library.catalog.iter().count();
    output::tell(&format!("{} of {in_catalog} causes have captures here", tallies.len()));
    Ok(())
}

/// The causes of an answer file that says more, or in another form, than a suite's: recordings of the lab have such.
fn causes_beside(capture: &Path, known: &dyn Fn(&str) -> bool) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(capture.with_extension("answer.json")).ok().filter(|t| t.len() < 1 << 20)?;
    let answer: serde_json::Value = serde_json::from_str(&text).ok()?;
    let causes: Option<Vec<String>> = answer.get("causes")?.as_array()?.iter().map(|c| c.as_str().map(str::to_owned)).collect();
    causes.filter(|causes| !causes.is_empty() && causes.iter().all(|c| known(c)))
}

/// The first three chunks that speak of any cause.
fn first<'l>(library: &'l Library, index: &Index, query: &Query) -> Vec<&'l KnowledgeChunk> {
    let hits = index.search_with(query, 100, retrieve::WEIGHTS);
    hits.iter().filter_map(|hit| library.chunk(&hit.id)).filter(|chunk| !chunk.causes.is_empty()).take(FIRST).collect()
}

fn tell(global: &Global, cause: &str, tally: Tally) {
    output::line(&if global.json {
        json!({"suite": "causes", "cause": cause, "captures": tally.captures, "top3_by_signals": tally.by_signals, "top3_by_incident": tally.by_all}).to_string()
    } else {
        format!(
            "{cause:<28} {:>4} captures, runbook in the first {FIRST}: {:>4} by signals alone, {:>4} by the whole incident",
            tally.captures, tally.by_signals, tally.by_all
        )
    });
}
