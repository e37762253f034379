//! What became of each case that may be looked at: those of the learn half, so that whoever improves a method does not tune it
//! to the cases that it is judged by.

use serde::{Deserialize, Serialize};

use galen_tools::model::Window;
use galen_tools::signals::SignalTable;

use super::control::{overlap, simple_window};
use super::read::Recording;
use super::score::Fold;
use super::view::View;
use super::{COMPOUND, SINGLE};
use crate::evaluation::split::Half;

/// Most classes that are told of a case.
const MOST: usize = 3;

/// One case: what was injected when, and what was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseRow {
    /// Data set.
    pub dataset: String,
    /// The file below its kind's folder.
    pub case: String,
    /// Classes that were injected.
    pub injected: Vec<String>,
    /// The three classes that explain most, by signatures of all other single cases.
    pub named: Vec<String>,
    /// What the nearest centroid of robust z scores names.
    pub simple: Vec<String>,
    /// The stretch that the authors call abnormal.
    pub abnormal: Window,
    /// The one that was found.
    pub found: Option<Window>,
    /// Overlap of the two, and of the simple detector's window.
    pub iou: [f64; 2],
}

/// The cases of the learn half, in the manifest's order.
pub fn cases(recordings: &[Recording], k: usize, table: &SignalTable) -> Vec<CaseRow> {
    let views: Vec<View<'_>> = recordings.iter().filter(|r| r.half == Half::Learn).map(|r| View::of(r, table)).collect();
    let single: Vec<&View<'_>> = views.iter().filter(|v| v.recording.dataset == SINGLE).collect();
    let all: Vec<&View<'_>> = views.iter().filter(|v| [SINGLE, COMPOUND].contains(&v.recording.dataset)).collect();
    let row = |tested: &View<'_>| {
        let fold = Fold::without(tested, &single, k);
        let recording = tested.recording;
        let first = |ranked: Vec<String>| ranked.into_iter().take(MOST).collect();
        CaseRow {
            dataset: recording.dataset.to_owned(),
            case: recording.id.clone(),
            injected: recording.classes.clone(),
            named: first(fold.explain(|v| &v.own, false, None).ranked),
            simple: first(fold.centroid(|v| &v.own_z, |v| &v.own_z, false, None).ranked),
            abnormal: recording.abnormal,
            found: tested.detection.window,
            iou: [tested.detection.window, simple_window(&recording.capture)].map(|found| overlap(found, recording.abnormal)),
        }
    };
    all.into_iter().map(row).collect()
}
