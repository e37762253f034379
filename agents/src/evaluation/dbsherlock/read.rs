//! Reads the recordings and their manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;

use galen_tools::capture::Capture;
use galen_tools::model::Window;
use galen_tools::sources::dbsherlock;

use super::super::measured::digest;
use super::super::split::{Half, half_of};
use super::{COMPOUND, SINGLE};

/// Largest file read, bytes.
const MOST_BYTES: u64 = 64 << 20;

#[derive(Deserialize)]
struct Manifest {
    period_seconds: i64,
    cases: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    kind: String,
    class: String,
    file: String,
    abnormal_rows: Vec<i64>,
}

/// Classes and compounds, as the data file has them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Classes {
    class: BTreeMap<String, Vec<String>>,
    compound: BTreeMap<String, Vec<String>>,
}

/// A recorded incident and what is known of it.
#[derive(Debug, Clone)]
pub struct Recording {
    /// `cpu_saturation/01`: the file below its kind's folder, without endings.
    pub id: String,
    /// [`SINGLE`] or [`COMPOUND`].
    pub dataset: &'static str,
    /// Its half.
    pub half: Half,
    /// Classes that were injected.
    pub classes: Vec<String>,
    /// The stretch that the authors call abnormal.
    pub abnormal: Window,
    /// SHA-256 of the file and of what the manifest says is right about it.
    pub sha256: String,
    /// The recording; its name says nothing.
    pub capture: Capture,
}

/// An entry of the manifest that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// The file, as the manifest names it.
    pub file: String,
    /// The whole path, and why.
    pub why: String,
}

impl Recording {
    /// Its id among all recordings: `single/cpu_saturation/01`.
    pub fn case(&self) -> String {
        let kind = if self.dataset == SINGLE { "single" } else { "compound" };
        format!("{kind}/{}", self.id)
    }

    /// The recording cut where its anomaly begins.
    pub fn before(&self) -> Capture {
        let end = self.abnormal.start;
        let mut cut = self.capture.clone();
        for series in cut.series.values_mut() {
            let keep = series.times.partition_point(|t| *t < end);
            series.times.truncate(keep);
            series.values.truncate(keep);
        }
        cut.manifest.span = cut.manifest.span.map(|s| Window { end, ..s });
        cut
    }
}

fn classes() -> Result<Classes, String> {
    toml::from_str(include_str!("../../../evaluation/dbsherlock.toml")).map_err(|e| e.to_string())
}

/// Causes of the catalog that a class of the benchmark stands for, the first is named; none where it is no such class.
pub fn class_causes(class: &str) -> Vec<String> {
    classes().ok().and_then(|mut c| c.class.remove(class)).unwrap_or_default()
}

/// True for a folder that holds the benchmark.
pub fn is_dataset(dir: &Path) -> bool {
    std::fs::read_to_string(dir.join("manifest.json")).is_ok_and(|text| serde_json::from_str::<Manifest>(&text).is_ok())
}

/// The half that the published rule gives to a recording's file: SHA-256 over `dataset:case`, where the end of the path says
/// both (`single/CLASS/NUMBER.csv.gz`, or `compound/`). None for a file that lies elsewhere: it is no recording of the benchmark.
pub fn published_half(file: &Path) -> Option<Half> {
    let parts: Vec<_> = file.components().rev().take(3).collect();
    let [Component::Normal(name), Component::Normal(class), Component::Normal(kind)] = parts.as_slice() else { return None };
    let id = format!("{}/{}", class.to_str()?, bare(name.to_str()?));
    Some(half_of(dataset(kind.to_str()?)?, &id))
}

fn dataset(kind: &str) -> Option<&'static str> {
    match kind {
        "single" => Some(SINGLE),
        "compound" => Some(COMPOUND),
        _ => None,
    }
}

/// A file's name without the endings of a recording.
fn bare(name: &str) -> &str {
    name.trim_end_matches(".gz").trim_end_matches(".csv")
}

/// Reads all recordings below a folder, in the manifest's order; and says of each entry that cannot be used why.
///
/// # Errors
/// One line: the manifest cannot be read.
pub fn load(dir: &Path) -> Result<(Vec<Recording>, Vec<Flaw>), String> {
    let at = dir.join("manifest.json");
    let fail = |what: &dyn std::fmt::Display| format!("{}: {what}", at.display());
    let text = std::fs::read_to_string(&at).map_err(|e| fail(&e))?;
    let manifest: Manifest = serde_json::from_str(&text).map_err(|e| fail(&e))?;
    let known = classes()?;
    let (mut recordings, mut flaws, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (i, entry) in manifest.cases.iter().enumerate() {
        let read = one(dir, i, entry, manifest.period_seconds, &known);
        // A case that is there twice would count twice.
        let once = |r: Recording| if seen.insert(r.case()) { Ok(r) } else { Err("the manifest has this recording twice".to_owned()) };
        match read.and_then(once) {
            Ok(recording) => recordings.push(recording),
            Err(why) => flaws.push(Flaw { file: entry.file.clone(), why: format!("{}: {why}", dir.join(&entry.file).display()) }),
        }
    }
    Ok((recordings, flaws))
}

fn one(dir: &Path, index: usize, entry: &Entry, period_seconds: i64, known: &Classes) -> Result<Recording, String> {
    let path = dir.join(&entry.file);
    let dataset = dataset(&entry.kind).ok_or_else(|| format!("kind {:?} is neither single nor compound", entry.kind))?;
    let parts = match dataset {
        SINGLE => known.class.get(&entry.class).map(|_| vec![entry.class.clone()]),
        _ => known.compound.get(&entry.class).cloned(),
    };
    let classes = parts.ok_or_else(|| format!("class {:?} is not known", entry.class))?;
    if std::fs::metadata(&path).map_err(|e| e.to_string())?.len() > MOST_BYTES {
        return Err("too large for a recording".into());
    }
    let bytes = std::fs::read(&path).map_err(|e| e.to_string())?;
    let capture = dbsherlock::import(&bytes, &format!("case-{:05}", index + 1)).map_err(|e| e.to_string())?;
    let start = capture.span().map_or(0, |s| s.start);
    let rows = entry.abnormal_rows.first().zip(entry.abnormal_rows.last());
    let (first, last) = rows.ok_or("the manifest gives it no abnormal rows")?;
    let at = |row: i64| row.checked_mul(period_seconds.checked_mul(1000)?)?.checked_add(start);
    let window = at(*first).zip(last.checked_add(1).and_then(at)).filter(|(start, end)| start < end);
    let (start, end) = window.ok_or_else(|| format!("abnormal rows {first} to {last} are no stretch of time"))?;
    let id = bare(entry.file.trim_start_matches(&format!("{}/", entry.kind))).to_owned();
    let right = format!("{}\n{start}-{end}", classes.join("\n"));
    let sha256 = digest([bytes.as_slice(), right.as_bytes()]);
    Ok(Recording { half: half_of(dataset, &id), id, dataset, classes, abnormal: Window { start, end }, sha256, capture })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_path_says_the_published_half() {
        let half = |path: &str| published_half(Path::new(path));
        // `printf dbsherlock_single:cpu_saturation/01 | sha256sum`: 13.
        for path in ["single/cpu_saturation/01.csv.gz", "/data/dbsherlock/single/cpu_saturation/01.csv"] {
            assert_eq!(half(path), Some(Half::Test), "{path}");
        }
        assert_eq!(half("compound/cpu_saturation/01.csv"), Some(half_of(COMPOUND, "cpu_saturation/01")));
        for path in ["cpu_saturation/01.csv", "mine/cpu_saturation/01.csv", "single/../01.csv", "01.csv", "/"] {
            assert_eq!(half(path), None, "{path}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named_and_the_rest_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let entry = |kind: &str, class: &str, file: &str, rows: &[i64]| serde_json::json!({"kind": kind, "class": class, "file": file, "abnormal_rows": rows});
        let class = classes().unwrap().class.into_keys().next().unwrap();
        let cases = [
            entry("single", &class, "single/a/01.csv", &[1, 2]),
            entry("single", &class, "single/a/02.csv", &[1]),
            entry("single", "no such class", "single/a/01.csv", &[1]),
            entry("triple", &class, "single/a/01.csv", &[1]),
            entry("single", &class, "single/a/01.csv", &[]),
            entry("single", &class, "single/a/01.csv", &[i64::MAX]),
            entry("single", &class, "single/a/03.csv", &[1]),
            entry("single", &class, "single/a/01.csv", &[2]),
        ];
        std::fs::write(folder.path().join("manifest.json"), serde_json::json!({"period_seconds": 1, "cases": cases}).to_string()).unwrap();
        std::fs::create_dir_all(folder.path().join("single/a")).unwrap();
        std::fs::write(folder.path().join("single/a/01.csv"), "Epoch,x\n1,1\n2,2\n3,3\n4,4\n").unwrap();
        std::fs::write(folder.path().join("single/a/03.csv"), "Epoch,x\n1,one\n").unwrap();
        let (recordings, flaws) = load(folder.path()).unwrap();
        assert_eq!((recordings.len(), recordings[0].id.as_str(), recordings[0].half), (1, "a/01", half_of(SINGLE, "a/01")));
        assert_eq!(recordings[0].abnormal, Window { start: 2000, end: 4000 });
        assert_eq!(flaws.len(), 7);
        for (flaw, why) in flaws.iter().zip(["02.csv", "no such class", "triple", "no abnormal rows", "no stretch", "03.csv", "twice"]) {
            let whole = folder.path().join(&flaw.file).display().to_string();
            assert!(flaw.why.contains(why) && flaw.why.starts_with(&whole), "{flaw:?}");
        }
        let other = entry("single", &class, "single/a/01.csv", &[2]);
        std::fs::write(folder.path().join("manifest.json"), serde_json::json!({"period_seconds": 1, "cases": [other]}).to_string())
            .unwrap();
        let (again, _) = load(folder.path()).unwrap();
        assert_eq!((again[0].case(), recordings[0].case()), ("single/a/01".into(), "single/a/01".into()));
        assert_ne!(again[0].sha256, recordings[0].sha256, "what is right is part of what was read");
        assert!(load(&folder.path().join("single")).unwrap_err().contains("manifest.json"));
    }
}
