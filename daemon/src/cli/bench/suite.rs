//! A suite: labelled captures in data sets, each case with its answer, its half and the digest of its file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use galen_agents::evaluation::record::Answer;
use galen_agents::evaluation::split::{Half, half_of_capture};
use galen_tools::store::file::{self, manifest};

use super::copies::{Copies, content};
use super::pins::Asked;
use super::resume::Wanted;
use crate::cli::replay;
use crate::failure::Failure;
use crate::parallel;

/// Largest answer file, bytes.
const MOST_ANSWER: u64 = 1 << 20;

/// A case of a suite, before its capture is read.
#[derive(Debug, Clone)]
pub struct Case {
    /// Path below the data set's folder, without the ending.
    pub id: String,
    /// Data set.
    pub dataset: String,
    /// Half that it is in.
    pub half: Half,
    /// The capture.
    pub path: PathBuf,
    /// SHA-256 of the capture's file; none when it cannot be read.
    pub sha256: Option<String>,
    /// What the sidecar says is right; none without one. What is wrong with it, when it cannot be read.
    pub answer: Result<Option<Answer>, String>,
    /// The file's name is its cause.
    pub label_from_name: bool,
}

/// A suite of cases.
#[derive(Debug, Clone, Default)]
pub struct Suite {
    /// Name: the folder's, or the one in the suite file.
    pub name: String,
    /// Cases in order of data set and id.
    pub cases: Vec<Case>,
}

/// Which cases are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    /// What may be learnt from
    Learn,
    /// What is held back
    Test,
    /// Both halves
    All,
}

impl Which {
    /// `learn`, `test` or `all`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Learn => "learn",
            Self::Test => "test",
            Self::All => "all",
        }
    }

    fn holds(self, half: Half) -> bool {
        match self {
            Self::All => true,
            Self::Learn => half == Half::Learn,
            Self::Test => half == Half::Test,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SuiteFile {
    name: String,
    dataset: Vec<DatasetEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DatasetEntry {
    name: String,
    path: PathBuf,
    #[serde(default)]
    labels_from_names: bool,
}

impl Suite {
    /// Opens a folder of captures as one data set, or a suite file (TOML: `name`, and a `[[dataset]]` with `name` and
    /// `path` each).
    ///
    /// # Errors
    /// Input: a path that is not there, a suite file that does not parse or in which two cases of one data set have one id, a
    /// folder without captures.
    pub fn open(path: &Path, labels_from_names: bool) -> Result<Self, Failure> {
        let name = |p: &Path| p.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() || path.extension().is_some_and(|e| e == "galen") {
            // `captures/.` and `captures` are one data set.
            let whole = path.canonicalize().map_err(|e| Failure::input(format!("{}: {e}", path.display())))?;
            let folder = if path.is_dir() { whole } else { whole.parent().map(Path::to_path_buf).unwrap_or_default() };
            let cases = dataset(&name(&folder), path, labels_from_names)?;
            return Ok(Self { name: name(&folder), cases });
        }
        let fail = |e: &dyn std::fmt::Display| Failure::input(format!("{}: {e}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|e| fail(&e))?;
        let file: SuiteFile = toml::from_str(&text).map_err(|e| fail(&format!("not a suite: {}", e.message())))?;
        let mut suite = Self { name: file.name, cases: Vec::new() };
        for entry in file.dataset {
            // Paths of a suite file are relative to it.
            let at = path.parent().unwrap_or(Path::new(".")).join(&entry.path);
            suite.cases.extend(dataset(&entry.name, &at, labels_from_names || entry.labels_from_names)?);
        }
        match twice(&suite.cases) {
            Some(Case { dataset, id, .. }) => {
                Err(fail(&format!("the data set {dataset} holds the case {id} twice; give each [[dataset]] a name of its own")))
            }
            None => Ok(suite),
        }
    }

    /// Keeps the cases of a half.
    pub fn keep(&mut self, which: Which) {
        self.cases.retain(|c| which.holds(c.half));
    }

    /// What a run of it pins.
    pub fn asked<'a>(&'a self, half: &'a str) -> Asked<'a> {
        Asked { suite: &self.name, sha256: self.sha256(), half }
    }

    /// SHA-256 over cases, captures and answers: two suites with the same digest ask the same.
    pub fn sha256(&self) -> String {
        let mut hasher = Sha256::new();
        for case in &self.cases {
            let answer = case.answer.as_ref().ok().and_then(|a| serde_json::to_string(a).ok()).unwrap_or_default();
            let capture = case.sha256.as_deref().unwrap_or("-");
            hasher.update(format!("{}\n{}\n{capture}\n{answer}\n{}\n", case.dataset, case.id, case.label_from_name));
        }
        hex(&hasher.finalize())
    }

    /// The cases; those that are copies of an earlier one say so. Captures are read for it, `jobs` at a time; one that cannot
    /// be read is known by its file alone, and one whose label cannot be used (`known` says of a cause id whether it is one) hides
    /// no other.
    ///
    /// # Errors
    /// A fault: no thread can be started.
    pub fn without_twins(self, jobs: usize, known: &(dyn Fn(&str) -> bool + Sync)) -> Result<Vec<Wanted>, Failure> {
        let (mut copies, mut twins) = (Copies::default(), Vec::with_capacity(self.cases.len()));
        let bar = ProgressBar::new(self.cases.len() as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} looked through for copies, {eta} left") {
            bar.set_style(style);
        }
        let read = |case: &Case| {
            let Ok(capture) = file::read(&case.path) else { return Ok(case.sha256.clone()) };
            let usable = answer(case, &capture.manifest.labels, known).is_ok();
            Ok(if usable { content(&capture).or_else(|| case.sha256.clone()) } else { None })
        };
        parallel::in_order(&self.cases, jobs, read, |case, content: Result<Option<String>, Failure>| {
            bar.inc(1);
            twins.push(copies.twin(content.ok().flatten(), &format!("{}/{}", case.dataset, case.id)));
            Ok(())
        })?;
        bar.finish_and_clear();
        Ok(self.cases.into_iter().zip(twins).collect())
    }
}

/// A case that is there twice: a run tells its cases apart by data set and id.
fn twice(cases: &[Case]) -> Option<&Case> {
    let mut known: HashSet<(&str, &str)> = HashSet::new();
    cases.iter().find(|case| !known.insert((case.dataset.as_str(), case.id.as_str())))
}

fn dataset(name: &str, path: &Path, label_from_name: bool) -> Result<Vec<Case>, Failure> {
    let root = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    let files = replay::expand(&[path.to_path_buf()])?;
    let case = |file: &PathBuf| {
        let id = file.strip_prefix(root).unwrap_or(file).with_extension("").to_string_lossy().into_owned();
        let bytes = std::fs::read(file).ok();
        let stated = bytes.as_deref().and_then(|bytes| manifest(bytes).ok()?.half);
        Case {
            half: half_of_capture(stated, file),
            dataset: name.to_owned(),
            sha256: bytes.map(|bytes| hex(&Sha256::digest(bytes))),
            answer: sidecar(&file.with_extension("answer.json")),
            path: file.clone(),
            label_from_name,
            id,
        }
    };
    Ok(files.iter().map(case).collect())
}

/// The answer in a file beside a capture; none without the file.
///
/// # Errors
/// One line with the path: it cannot be read, or is no answer.
pub fn sidecar(path: &Path) -> Result<Option<Answer>, String> {
    if !path.exists() {
        return Ok(None);
    }
    let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    if std::fs::metadata(path).map_err(|e| fail(&e))?.len() > MOST_ANSWER {
        return Err(fail(&"too large for an answer"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| fail(&e))?;
    serde_json::from_str(&text).map(Some).map_err(|e| fail(&e))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What is right for a case: the sidecar's causes, else the capture's labels, else the file's name where that was
/// asked for.
///
/// # Errors
/// One line: no label at all, a label that is no cause id, `healthy` beside another, or two sources that disagree.
pub fn answer(case: &Case, labels: &[String], known: &dyn Fn(&str) -> bool) -> Result<Answer, String> {
    let name = || case.path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let told = case.answer.clone()?.unwrap_or_default();
    if told.causes.is_empty() && labels.is_empty() && !case.label_from_name {
        return Err("it carries no label; where file names are causes, say --labels-from-names".into());
    }
    agreed(told, labels, case.label_from_name.then(name), known)
}

/// What an answer and the labels of its capture agree on, else the cause that the file is named after.
///
/// # Errors
/// As [`answer`].
pub fn agreed(mut answer: Answer, labels: &[String], name: Option<String>, known: &dyn Fn(&str) -> bool) -> Result<Answer, String> {
    let mut sorted = (answer.causes.clone(), labels.to_vec());
    sorted.0.sort();
    sorted.1.sort();
    if answer.causes.is_empty() {
        answer.causes = labels.to_vec();
    } else if !labels.is_empty() && sorted.0 != sorted.1 {
        return Err(format!("mislabelled: its answer says {}, the capture {}", answer.causes.join(", "), labels.join(", ")));
    }
    if answer.causes.is_empty() {
        answer.causes.extend(name);
    }
    if answer.causes.is_empty() {
        return Err("it carries no label".into());
    }
    if let Some(wrong) = answer.causes.iter().find(|c| !known(c)) {
        return Err(format!("mislabelled: `{wrong}` is no cause id"));
    }
    if answer.causes.len() > 1 && answer.causes.iter().any(|c| c == "healthy") {
        return Err("mislabelled: healthy and something else at once".into());
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(answer: Option<Answer>) -> Case {
        Case {
            id: "x".into(),
            dataset: "d".into(),
            half: Half::Learn,
            path: "deadlocks.galen".into(),
            sha256: None,
            answer: Ok(answer),
            label_from_name: false,
        }
    }

    #[test]
    fn labels_come_from_one_place_and_are_cause_ids() {
        let known = |c: &str| ["deadlocks", "poor_join", "healthy"].contains(&c);
        let owned = |causes: &[&str]| causes.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let told = |causes: &[&str]| Some(Answer { causes: owned(causes), ..Answer::default() });
        assert_eq!(answer(&case(None), &owned(&["poor_join"]), &known).unwrap().causes, ["poor_join"]);
        assert_eq!(answer(&case(told(&["deadlocks", "poor_join"])), &owned(&["poor_join", "deadlocks"]), &known).unwrap().causes.len(), 2);
        let mut named = case(None);
        assert!(answer(&named, &[], &known).unwrap_err().contains("--labels-from-names"));
        assert_eq!(agreed(Answer::default(), &[], None, &known).unwrap_err(), "it carries no label", "not each command has that option");
        named.label_from_name = true;
        assert_eq!(answer(&named, &[], &known).unwrap().causes, ["deadlocks"]);
        for (sidecar, labels, why) in [
            (told(&["deadlocks"]), owned(&["poor_join"]), "the capture poor_join"),
            (None, owned(&["slow_disk"]), "`slow_disk` is no cause id"),
            (None, owned(&["healthy", "deadlocks"]), "healthy and something else"),
        ] {
            assert!(answer(&case(sidecar), &labels, &known).unwrap_err().contains(why), "{why}");
        }
    }

    #[test]
    fn a_suite_file_whose_run_could_not_tell_two_cases_apart_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for place in ["a", "b"] {
            std::fs::create_dir(folder.path().join(place)).unwrap();
            std::fs::write(folder.path().join(place).join("x.galen"), place).unwrap();
        }
        let open = |second: &str| {
            let file = folder.path().join("suite.toml");
            let entry = |name: &str, path: &str| format!("[[dataset]]\nname = {name:?}\npath = {path:?}\n");
            std::fs::write(&file, format!("name = \"s\"\n{}{}", entry("shop", "a"), entry(second, "b"))).unwrap();
            Suite::open(&file, false)
        };
        let failure = open("shop").unwrap_err();
        assert!(failure.code == 5 && failure.message.contains("the data set shop holds the case x twice"), "{failure}");
        assert_eq!(open("queue").unwrap().cases.len(), 2);
    }

    #[test]
    fn two_imports_of_one_recording_are_one_case_and_what_cannot_be_read_is_known_by_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).with_extension("galen");
        for (name, value) in [("a", 1.0), ("b", 1.0), ("c", 2.0)] {
            write(&at(name), value, &["deadlocks"]);
        }
        assert_ne!(std::fs::read(at("a")).unwrap(), std::fs::read(at("b")).unwrap(), "each holds its own name");
        for (name, text) in [("x", "no capture"), ("y", "no capture"), ("z", "none either")] {
            std::fs::write(at(name), text).unwrap();
        }
        assert_eq!(
            twins(folder.path()),
            [("b".to_owned(), "the same recording as d/a".to_owned()), ("y".to_owned(), "the same recording as d/x".to_owned())]
        );
    }

    #[test]
    fn a_copy_whose_label_cannot_be_used_hides_none_that_can() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).with_extension("galen");
        for (name, labels) in
            [("a", vec![]), ("b", vec!["deadlocks"]), ("c", vec!["slow_disk"]), ("d", vec!["deadlocks"]), ("e", vec!["deadlocks"])]
        {
            write(&at(name), 1.0, &labels);
        }
        assert_eq!(twins(folder.path()).iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["d", "e"], "b is scored");
        std::fs::write(at("b").with_extension("answer.json"), "{").unwrap();
        assert_eq!(twins(folder.path()), [("e".to_owned(), "the same recording as d/d".to_owned())]);
    }

    fn write(at: &Path, value: f64, labels: &[&str]) {
        let name = at.file_stem().unwrap().to_string_lossy();
        let mut capture = super::super::copies::tests::capture(&name, value);
        capture.manifest.labels = labels.iter().map(|label| (*label).to_owned()).collect();
        file::write(&capture, at).unwrap();
    }

    /// The copies in a folder, as the data set `d`: the id of each, and why it is not scored.
    fn twins(folder: &Path) -> Vec<(String, String)> {
        let suite = Suite { name: "s".into(), cases: dataset("d", folder, false).unwrap() };
        let wanted = suite.without_twins(2, &|id: &str| id == "deadlocks").unwrap();
        wanted.into_iter().filter_map(|(case, twin)| Some((case.id, twin?))).collect()
    }
}
