//! Reads the recordings and their manifest.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use galen_tools::capture::Capture;
use galen_tools::model::Window;
use galen_tools::sources::dbsherlock;

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
    /// The recording; its name says nothing.
    pub capture: Capture,
}

impl Recording {
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

/// Reads all recordings below a folder, in the manifest's order.
///
/// # Errors
/// One line that names the file that cannot be read, or a class that the data file does not know.
pub fn load(dir: &Path) -> Result<Vec<Recording>, String> {
    let at = dir.join("manifest.json");
    let fail = |what: &dyn std::fmt::Display| format!("{}: {what}", at.display());
    let text = std::fs::read_to_string(&at).map_err(|e| fail(&e))?;
    let manifest: Manifest = serde_json::from_str(&text).map_err(|e| fail(&e))?;
    let known = classes()?;
    manifest.cases.iter().enumerate().map(|(i, entry)| one(dir, i, entry, manifest.period_seconds * 1000, &known)).collect()
}

fn one(dir: &Path, index: usize, entry: &Entry, period: i64, known: &Classes) -> Result<Recording, String> {
    let path = dir.join(&entry.file);
    let fail = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    if std::fs::metadata(&path).map_err(|e| fail(&e))?.len() > MOST_BYTES {
        return Err(fail(&"too large for a recording"));
    }
    let bytes = std::fs::read(&path).map_err(|e| fail(&e))?;
    let capture = dbsherlock::import(&bytes, &format!("case-{:05}", index + 1)).map_err(|e| fail(&e))?;
    let start = capture.span().map_or(0, |s| s.start);
    let rows = entry.abnormal_rows.first().zip(entry.abnormal_rows.last());
    let (first, last) = rows.ok_or_else(|| fail(&"the manifest gives it no abnormal rows"))?;
    let single = entry.kind == "single";
    let dataset = if single { SINGLE } else { COMPOUND };
    let parts =
        if single { known.class.get(&entry.class).map(|_| vec![entry.class.clone()]) } else { known.compound.get(&entry.class).cloned() };
    let classes = parts.ok_or_else(|| fail(&format!("class {:?} is not known", entry.class)))?;
    let id = entry.file.trim_start_matches(&format!("{}/", entry.kind)).trim_end_matches(".gz").trim_end_matches(".csv").to_owned();
    let abnormal = Window { start: start + first * period, end: start + (last + 1) * period };
    Ok(Recording { half: half_of(dataset, &id), id, dataset, classes, abnormal, capture })
}
