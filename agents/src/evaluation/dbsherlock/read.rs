//! Reads the recordings and their manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;

use galen_tools::capture::Capture;
use galen_tools::model::Window;
use galen_tools::sources::dbsherlock;

use super::super::measured::digest;
use super::super::split::{Half, content_sha256, half_of};
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
    /// SHA-256 of its series, as [`content_sha256`] tells it: the same for copies of it under other names.
    pub content: String,
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

/// Reads all recordings below a folder, in the manifest's order; and says of each entry that cannot be used why. Of copies of one
/// recording one is used, that of the test half where there is one; none is where the manifest says different things of them.
///
/// # Errors
/// One line: the manifest cannot be read.
pub fn load(dir: &Path) -> Result<(Vec<Recording>, Vec<Flaw>), String> {
    let at = dir.join("manifest.json");
    let fail = |what: &dyn std::fmt::Display| format!("{}: {what}", at.display());
    let text = std::fs::read_to_string(&at).map_err(|e| fail(&e))?;
    let manifest: Manifest = serde_json::from_str(&text).map_err(|e| fail(&e))?;
    let known = classes()?;
    let (mut read, mut seen) = (Vec::new(), BTreeSet::new());
    for (i, entry) in manifest.cases.iter().enumerate() {
        // A case that is there twice would count twice.
        let once = |r: Recording| if seen.insert(r.case()) { Ok(r) } else { Err("the manifest has this recording twice".to_owned()) };
        read.push(one(dir, i, entry, manifest.period_seconds, &known).and_then(once));
    }
    leave_out_copies(&mut read);
    let (mut recordings, mut flaws) = (Vec::new(), Vec::new());
    for (entry, read) in manifest.cases.iter().zip(read) {
        match read {
            Ok(recording) => recordings.push(recording),
            Err(why) => flaws.push(Flaw { file: entry.file.clone(), why: format!("{}: {why}", dir.join(&entry.file).display()) }),
        }
    }
    Ok((recordings, flaws))
}

/// A recording that lies there under two names would be learnt from and tested, or count twice.
fn leave_out_copies(read: &mut [Result<Recording, String>]) {
    let mut found: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, recording) in read.iter().enumerate() {
        // What has no data is known by nothing that counts.
        if let Ok(recording) = recording
            && !recording.capture.series.is_empty()
        {
            found.entry(recording.content.clone()).or_default().push(at);
        }
    }
    for copies in found.into_values().filter(|copies| copies.len() > 1) {
        let all: Vec<&Recording> = copies.iter().filter_map(|at| read.get(*at)?.as_ref().ok()).collect();
        let alike = all.windows(2).all(|pair| (&pair[0].classes, pair[0].abnormal) == (&pair[1].classes, pair[1].abnormal));
        let Some(kept) = all.iter().find(|r| r.half == Half::Test).or_else(|| all.first()) else { continue };
        let kept = kept.case();
        let cases: Vec<String> = all.iter().map(|r| r.case()).collect();
        for (at, case) in copies.iter().zip(&cases) {
            let other = cases.iter().find(|other| *other != case).unwrap_or(case);
            if !alike {
                read[*at] = Err(format!("mislabelled: the same recording as {other}, of which the manifest says something else"));
            } else if *case != kept {
                read[*at] = Err(format!("the same recording as {kept}"));
            }
        }
    }
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
    // Its span ends a second after its last row.
    if capture.span().is_none_or(|span| start < span.start || at(*last).is_none_or(|last| last >= span.end)) {
        return Err(format!("abnormal rows {first} to {last} lie outside its rows"));
    }
    let id = bare(entry.file.trim_start_matches(&format!("{}/", entry.kind))).to_owned();
    let right = format!("{}\n{start}-{end}", classes.join("\n"));
    let sha256 = digest([bytes.as_slice(), right.as_bytes()]);
    let (half, content) = (half_of(dataset, &id), content_sha256(&capture.series));
    Ok(Recording { id, dataset, half, classes, abnormal: Window { start, end }, sha256, content, capture })
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

    /// A folder of recordings of one single class: the numbers and rows of the files, and what the manifest calls abnormal.
    fn folder(files: &[(&str, &str, [i64; 2])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let known: Vec<String> = classes().unwrap().class.into_keys().collect();
        let mut cases = Vec::new();
        std::fs::create_dir_all(folder.path().join("single/a")).unwrap();
        for (number, rows, abnormal) in files {
            let file = format!("single/a/{}.csv", &number[..2]);
            std::fs::write(folder.path().join(&file), format!("Epoch,x\n{rows}")).unwrap();
            let class = &known[usize::from(number.ends_with('*'))];
            cases.push(serde_json::json!({"kind": "single", "class": class, "file": file, "abnormal_rows": abnormal}));
        }
        std::fs::write(folder.path().join("manifest.json"), serde_json::json!({"period_seconds": 1, "cases": cases}).to_string()).unwrap();
        folder
    }

    #[test]
    fn abnormal_rows_outside_the_recording_are_named() {
        let (four, three) = ("1,1\n2,2\n3,3\n4,4\n", "1,5\n2,6\n3,7\n");
        let folder = folder(&[("01", four, [2, 3]), ("02", three, [2, 3]), ("03", "1,8\n2,9\n", [-1, 0]), ("04", "1,3\n2,1\n", [2, 2])]);
        let (recordings, flaws) = load(folder.path()).unwrap();
        let ids: Vec<&str> = recordings.iter().map(|r| r.id.as_str()).collect();
        assert_eq!((ids, recordings[0].abnormal), (vec!["a/01"], Window { start: 3000, end: 5000 }));
        for (flaw, why) in flaws.iter().zip(["2 to 3 lie outside", "-1 to 0 lie outside", "2 to 2 lie outside"]) {
            assert!(flaw.why.contains(why), "{flaw:?}");
        }
        assert_eq!(flaws.len(), 3);
    }

    #[test]
    fn copies_of_a_recording_count_once_and_are_never_on_both_sides() {
        let half = |number: usize| half_of(SINGLE, &format!("a/{number:02}"));
        let of = |wanted: Half| (1..99).filter(|n| half(*n) == wanted).map(|n| format!("{n:02}")).collect::<Vec<_>>();
        let (learn, test) = (of(Half::Learn), of(Half::Test));
        let (rows, own) = ("1,1\n2,2\n3,3\n", "1,4\n2,2\n3,3\n");
        let at = |number: &String, rows: &'static str| (number.clone(), rows, [1, 2]);
        let loaded = |files: Vec<(String, &str, [i64; 2])>| {
            let files: Vec<_> = files.iter().map(|(number, rows, abnormal)| (number.as_str(), *rows, *abnormal)).collect();
            let (recordings, flaws) = load(folder(&files).path()).unwrap();
            (recordings.into_iter().map(|r| r.id).collect::<Vec<_>>(), flaws)
        };
        // The one that is tested stays, wherever it stands.
        let (ids, flaws) = loaded(vec![at(&learn[0], rows), at(&learn[1], own), at(&test[0], rows), at(&learn[2], rows)]);
        assert_eq!(ids, [format!("a/{}", learn[1]), format!("a/{}", test[0])]);
        let same = format!("the same recording as single/a/{}", test[0]);
        assert!(flaws.len() == 2 && flaws.iter().all(|flaw| flaw.why.ends_with(&same)), "{flaws:?}");
        // Else the first.
        let (ids, flaws) = loaded(vec![at(&learn[0], rows), at(&learn[1], rows)]);
        assert_eq!((ids, flaws.len()), (vec![format!("a/{}", learn[0])], 1));
        // None where what is right contradicts itself: another class, or another stretch.
        for (second, abnormal) in [(format!("{}*", learn[1]), [1, 2]), (learn[1].clone(), [0, 1])] {
            let (ids, flaws) = loaded(vec![at(&learn[0], rows), (second, rows, abnormal), at(&learn[2], own)]);
            assert_eq!(ids, [format!("a/{}", learn[2])]);
            assert!(flaws.len() == 2 && flaws.iter().all(|flaw| flaw.why.contains("mislabelled: the same recording as")), "{flaws:?}");
            assert!(flaws[0].why.contains(&format!("single/a/{}", learn[1])), "{flaws:?}");
        }
    }
}
