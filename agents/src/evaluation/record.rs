//! The file of a run: JSON lines, first a header that pins everything, then one line a case.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use galen_tools::model::{Culprit, CulpritKind, Window};

use super::faithfulness::Grounding;
use super::measured::Measured;
use super::split::Half;
use crate::driver::Options;
use crate::report::{Bill, Status};

/// Version of a file of diagnosed cases.
pub const FORMAT: u32 = 1;
/// Version of a file that holds figures of a public benchmark: releases that know only the first refuse it by its number.
pub const MEASURED_FORMAT: u32 = 2;

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// First line.
    Run(Box<Header>),
    /// A finished case.
    Case(Box<CaseLine>),
    /// A case that could not be read or is not usable, and why.
    Failed(FailedCase),
    /// A figure of a public benchmark; only in files of [`MEASURED_FORMAT`].
    Measured(Box<Measured>),
}

/// A case that could not be read or is not usable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FailedCase {
    /// Data set; empty in files of early releases.
    #[serde(default)]
    pub dataset: String,
    /// Id of the case.
    pub case: String,
    /// Why, in one line.
    pub why: String,
}

/// All that is needed to compute the run again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`] or [`MEASURED_FORMAT`].
    pub format: u32,
    /// What changes the results.
    pub pins: Pins,
    /// Where it was measured: speed depends on it, results do not.
    pub machine: Machine,
    /// Folder or file of the suite, as given.
    pub suite_path: String,
    /// Captures that were diagnosed at a time: one where a model took part.
    pub jobs: u16,
    /// Cases in the chosen half.
    pub cases: usize,
    /// Figures of a public benchmark that follow: they are written at once, so that fewer are a damaged file.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub figures: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// What changes results: two runs with the same pins give the same reports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pins {
    /// Version of Galen.
    pub galen_version: String,
    /// Digest of the sources that it was built from; empty in files of early releases.
    #[serde(default)]
    pub sources: String,
    /// Name of the suite.
    pub suite: String,
    /// SHA-256 over the suite's definition: cases with the digests of captures and answers.
    pub suite_sha256: String,
    /// `learn`, `test` or `all`; [`BY_DATASET`] where the data sets of the figures say it.
    pub half: String,
    /// SHA-256 over the cause catalog, in order of id.
    pub catalog_sha256: String,
    /// SHA-256 over the knowledge chunks.
    pub knowledge_sha256: String,
    /// SHA-256 over the signal table.
    pub signals_sha256: String,
    /// SHA-256 over the measured skill of models.
    pub skill_sha256: String,
    /// SHA-256 over the learnt signatures; empty in files of early releases.
    #[serde(default)]
    pub signatures_sha256: String,
    /// The model, if one takes part.
    pub model: Option<ModelPin>,
    /// Options of the diagnoses, with the seed.
    pub options: Option<Options>,
    /// What a public benchmark was asked for beside, by the name of the option.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

/// The half of a run whose data sets each name their own half or protocol.
pub const BY_DATASET: &str = "by data set";

/// A model file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelPin {
    /// Name in the registry.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// Where a run was measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Logical CPUs.
    pub cpus: usize,
    /// What the kernel calls them.
    pub cpu: String,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Operating system and processor.
    pub platform: String,
}

/// What is right for a case. Read from the sidecar `NAME.answer.json`, or from the labels alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// Root causes, the most important first; `healthy` alone when nothing is wrong.
    pub causes: Vec<String>,
    /// What a diagnosis should point at.
    pub culprits: Vec<Expected>,
    /// When it was wrong.
    pub window: Option<Window>,
    /// The case in the same folder that this one is a variant of, with something missing or added.
    pub variant_of: Option<String>,
    /// What was changed: `missing_metrics`, `noise`, `red_herring`, ...
    pub tags: Vec<String>,
}

/// Something a diagnosis should point at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// What kind of thing.
    pub kind: CulpritKind,
    /// Part of its id or text, case ignored.
    pub pattern: String,
}

impl Expected {
    /// True when a culprit is meant.
    pub fn fits(&self, culprit: &Culprit) -> bool {
        let wanted = self.pattern.to_lowercase();
        culprit.kind == self.kind && (culprit.id.to_lowercase().contains(&wanted) || culprit.text.to_lowercase().contains(&wanted))
    }
}

/// What a diagnosis made of a case.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CaseLine {
    /// Id of the case: path below the data set's folder, without the ending.
    pub case: String,
    /// Data set.
    pub dataset: String,
    /// Half that the case is in.
    pub half: Option<Half>,
    /// SHA-256 of the capture file.
    pub capture_sha256: String,
    /// What is right.
    pub answer: Answer,
    /// The file's name was to say what is right, had nothing else done so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub label_from_name: bool,
    /// The file beside the capture said what is right.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub label_from_answer: bool,
    /// How the diagnosis ended.
    pub status: Status,
    /// Root causes named, most probable first.
    pub named: Vec<Named>,
    /// Interval that the report speaks of.
    pub window: Option<Window>,
    /// Interval that the capture covers.
    pub span: Option<Window>,
    /// Whether the claims rest on evidence that says so.
    pub grounding: Grounding,
    /// Knowledge chunks cited, and how many of them speak of a right cause.
    pub knowledge: Cited,
    /// The report's bill.
    pub bill: Bill,
    /// Milliseconds that the diagnosis took in this run.
    pub wall_ms: f64,
    /// SHA-256 of the report's JSON: the line that `galen replay --json` prints, without its end.
    pub report_sha256: String,
    /// What happened to the model, when something did.
    pub model_note: Option<String>,
}

/// A cause as named.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Named {
    /// Cause id.
    pub cause: String,
    /// Probability.
    pub probability: f64,
    /// What it points at.
    pub culprits: Vec<Culprit>,
    /// Its remedies.
    pub remedies: super::remedy::Remedies,
}

/// Knowledge of a report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cited {
    /// Chunks cited.
    pub chunks: u32,
    /// Of these about a right cause.
    pub right: u32,
    /// Chunks that the library holds.
    pub library: u32,
    /// Of these about a right cause.
    pub library_right: u32,
}

/// A run as read back.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Run {
    /// The header.
    pub header: Header,
    /// Finished cases in the order of the file.
    pub cases: Vec<CaseLine>,
    /// Figures of a public benchmark in the order of the file.
    pub measured: Vec<Measured>,
    /// Cases that failed and were not finished later, the last word of each.
    pub failed: Vec<FailedCase>,
    /// Bytes of whole lines: what lies behind was cut off.
    pub whole: usize,
}

impl Run {
    /// Reads a run. A last line without its end was being written when the run died: it is not counted.
    ///
    /// # Errors
    /// One line with the number of the line that is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut run = Self::default();
        let (mut finished, mut figures) = (HashSet::new(), HashSet::new());
        // By data set and id, with the place of the line.
        let mut failed: BTreeMap<(String, String), (usize, FailedCase)> = BTreeMap::new();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        for (number, line) in text[..whole].lines().enumerate() {
            let at = |why: String| format!("line {}: {why}", number + 1);
            let line: Line = serde_json::from_str(line).map_err(|e| at(format!("not a line of a run: {e}")))?;
            match (number, line) {
                (0, Line::Run(header)) if header.format > MEASURED_FORMAT => {
                    return Err(at(format!("written in format {}, this Galen reads up to {MEASURED_FORMAT}", header.format)));
                }
                (0, Line::Run(header)) => run.header = *header,
                (0, _) => return Err(at("a run begins with its header".into())),
                (_, Line::Run(_)) => return Err(at("a second header".into())),
                (_, Line::Case(case)) => {
                    let key = (case.dataset.clone(), case.case.clone());
                    failed.remove(&key);
                    // Early releases did not say of which data set.
                    failed.remove(&(String::new(), case.case.clone()));
                    if !finished.insert(key) {
                        return Err(at(format!("case {} stands there twice", case.case)));
                    }
                    run.cases.push(*case);
                }
                (_, Line::Failed(case)) => {
                    failed.insert((case.dataset.clone(), case.case.clone()), (number, case));
                }
                (_, Line::Measured(_)) if run.header.format < MEASURED_FORMAT => {
                    return Err(at(format!("a figure in a file of format {}", run.header.format)));
                }
                (_, Line::Measured(line)) => {
                    line.check().map_err(&at)?;
                    if !figures.insert((line.capability, line.task.clone(), line.dataset.clone(), line.case.clone())) {
                        return Err(at(format!("{} stands there twice", line.name())));
                    }
                    run.measured.push(*line);
                }
            }
        }
        let mut failed: Vec<_> = failed.into_values().collect();
        failed.sort_by_key(|(number, _)| *number);
        run.failed = failed.into_iter().map(|(_, case)| case).collect();
        if whole == 0 {
            return Err("it holds no whole line".into());
        }
        if run.measured.len() != run.header.figures {
            return Err(format!("it holds {} of its {} figures: it was cut off or altered", run.measured.len(), run.header.figures));
        }
        run.whole = whole;
        Ok(run)
    }

    /// The lines of its file.
    pub fn lines(&self) -> impl Iterator<Item = Line> + '_ {
        let header = std::iter::once(Line::Run(Box::new(self.header.clone())));
        let cases = self.cases.iter().map(|case| Line::Case(Box::new(case.clone())));
        let measured = self.measured.iter().map(|line| Line::Measured(Box::new(line.clone())));
        header.chain(cases).chain(measured).chain(self.failed.iter().cloned().map(Line::Failed))
    }

    /// Cases that say something: diagnosed ones, and those that a public benchmark measured.
    pub fn case_count(&self) -> usize {
        let measured: HashSet<&str> = self.measured.iter().filter_map(|line| line.case.as_deref()).collect();
        self.cases.len() + measured.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::Capability;
    use crate::evaluation::measured::Figure;

    fn text(lines: &[Line]) -> String {
        lines.iter().map(|l| serde_json::to_string(l).unwrap() + "\n").collect()
    }

    fn case(id: &str) -> Line {
        Line::Case(Box::new(CaseLine { case: id.into(), ..CaseLine::default() }))
    }

    fn failed(dataset: &str, id: &str) -> Line {
        Line::Failed(FailedCase { dataset: dataset.into(), case: id.into(), why: "cut off".into() })
    }

    #[test]
    fn a_case_that_fails_is_forgotten_when_it_is_finished_and_not_when_its_namesake_is() {
        let header = Line::Run(Box::new(Header { format: FORMAT, ..Header::default() }));
        let of = |dataset: &str| Line::Case(Box::new(CaseLine { case: "x".into(), dataset: dataset.into(), ..CaseLine::default() }));
        let mut lines = vec![header, failed("b", "x"), failed("a", "x"), failed("b", "x"), of("b")];
        let run = Run::parse(&text(&lines)).unwrap();
        assert_eq!(run.failed.iter().map(|f| f.dataset.as_str()).collect::<Vec<_>>(), ["a"]);
        lines.push(of("a"));
        assert_eq!(Run::parse(&text(&lines)).unwrap().failed, []);
        let early = text(&lines[..1]) + "{\"line\":\"failed\",\"case\":\"x\",\"why\":\"w\"}\n";
        assert_eq!(Run::parse(&early).unwrap().failed.len(), 1);
        assert_eq!(Run::parse(&(early + &text(&[of("a")]))).unwrap().failed, []);
    }

    #[test]
    fn a_run_is_read_back_without_what_was_cut_off() {
        let header = Line::Run(Box::new(Header { format: FORMAT, ..Header::default() }));
        let failed = failed("", "b");
        let whole = text(&[header.clone(), case("a"), failed]);
        let run = Run::parse(&format!("{whole}{{\"line\":\"ca")).unwrap();
        assert_eq!((run.cases.len(), run.failed.len(), run.whole), (1, 1, whole.len()));
        // A failed case that was finished later is finished.
        let run = Run::parse(&format!("{whole}{}", text(&[case("b")]))).unwrap();
        assert_eq!((run.cases.len(), run.failed.len()), (2, 0));
    }

    #[test]
    fn what_is_no_run_says_where() {
        let header = Line::Run(Box::new(Header { format: FORMAT, ..Header::default() }));
        assert!(Run::parse("").is_err());
        assert!(Run::parse(&text(&[case("a")])).unwrap_err().contains("begins with its header"));
        assert!(Run::parse(&text(&[header.clone(), case("a"), case("a")])).unwrap_err().starts_with("line 3: case a"));
        let newer = Line::Run(Box::new(Header { format: MEASURED_FORMAT + 1, ..Header::default() }));
        assert!(Run::parse(&text(&[newer])).unwrap_err().contains("reads up to"));
        assert!(Run::parse(&format!("{}nonsense\n", text(&[header]))).unwrap_err().starts_with("line 2"));
    }

    #[test]
    fn figures_are_read_back_to_the_bit_and_only_whole() {
        let top1 = Figure { capability: Capability::RootCause, task: "top1", dataset: "d/test" };
        let mut run =
            Run { measured: vec![top1.of_case("a", "1", [1.0 / 3.0, 0.1 + 0.2]), top1.of_case("b", "2", [0.0, 1.0])], ..Run::default() };
        run.measured[0].placebo = Some(0.7 / 3.0);
        run.header = Header { format: MEASURED_FORMAT, cases: 2, figures: 2, ..Header::default() };
        run.failed = vec![FailedCase { dataset: "d".into(), case: "c".into(), why: "cut off".into() }];
        let whole = text(&run.lines().collect::<Vec<_>>());
        run.whole = whole.len();
        assert_eq!(Run::parse(&whole).unwrap(), run);
        assert_eq!((run.case_count(), whole.matches("aside").count()), (2, 0));
        let wrong = |change: &dyn Fn(&mut Run)| {
            let mut other = run.clone();
            change(&mut other);
            Run::parse(&text(&other.lines().collect::<Vec<_>>())).unwrap_err()
        };
        assert!(wrong(&|r| drop(r.measured.pop())).contains("1 of its 2 figures"));
        assert!(Run::parse(&whole[..whole.len() * 2 / 3]).unwrap_err().contains("of its 2 figures"), "a cut file is no whole one");
        assert!(wrong(&|r| r.header.format = FORMAT).starts_with("line 2: a figure in a file of format 1"));
        assert!(wrong(&|r| r.measured[1].case = Some("a".into())).starts_with("line 3: top1 of d/test, a stands there twice"));
        assert!(wrong(&|r| r.measured[1].value = 1.5).starts_with("line 3: top1 of d/test, b: 1.5 is not between 0 and 1"));
    }
}
