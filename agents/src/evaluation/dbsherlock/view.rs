//! What the methods may see of a recording: effects over our own window, over the given one, and before the anomaly.

use galen_tools::capture::Capture;
use galen_tools::detect::{DetectOptions, Detection, detect};
use galen_tools::model::Window;
use galen_tools::signals::SignalTable;

use crate::signature::{Case, Moved, moved};

use super::control::{Levels, levels, robust_z};
use super::read::{Recording, class_causes};

/// Seconds at the start in which the load generator warms up: those that the detector leaves out.
const WARM_UP_MS: i64 = 10_000;
/// Share of the rows before an anomaly that serve the placebo as baseline; the rest plays the anomaly.
const PLACEBO_BASELINE: f64 = 0.6;

/// One recording through all windows.
pub(super) struct View<'r> {
    pub recording: &'r Recording,
    pub detection: Detection,
    /// Over the window that the detector found; empty where it found none.
    pub own: Moved,
    /// Over the window that the authors give.
    pub given: Moved,
    /// Over the rows before the given window alone.
    pub placebo: Moved,
    /// Robust z scores over our own window, of the centroid baseline; and over its first seconds.
    pub own_z: Levels,
    pub onset_z: Levels,
    pub given_onset_z: Levels,
    /// Mean levels before the anomaly: what tells recording sessions apart.
    pub before: Levels,
}

impl<'r> View<'r> {
    pub fn of(recording: &'r Recording, table: &SignalTable) -> Self {
        let capture = &recording.capture;
        let detection = detect(capture, table, &DetectOptions::default());
        let own = detection.window.zip(detection.baseline);
        let start = capture.span().map_or(0, |s| s.start) + WARM_UP_MS;
        let before = Window { start, end: recording.abnormal.start };
        let first = crate::signature::effects::first_seconds;
        Self {
            own: own.map(|(window, baseline)| moved(capture, baseline, window, table)).unwrap_or_default(),
            given: moved(capture, before, recording.abnormal, table),
            placebo: placebo(recording, table),
            own_z: own.map(|(window, baseline)| robust_z(capture, baseline, window)).unwrap_or_default(),
            onset_z: own.map(|(window, baseline)| robust_z(capture, baseline, first(window))).unwrap_or_default(),
            given_onset_z: robust_z(capture, before, first(recording.abnormal)),
            before: levels(capture, before),
            detection,
            recording,
        }
    }

    pub fn class(&self) -> &str {
        self.recording.classes.first().map_or("", String::as_str)
    }

    pub fn case(&self, pick: for<'a, 'b> fn(&'a View<'b>) -> &'a Moved) -> Case {
        Case { class: self.class().to_owned(), causes: class_causes(self.class()), moved: pick(self).clone() }
    }
}

/// A recording as a case to learn from: its own class, and effects over the window that the detector finds. None where the
/// detector finds nothing, or where several causes were injected.
pub fn learnable(recording: &Recording, table: &SignalTable) -> Option<Case> {
    let [class] = recording.classes.as_slice() else { return None };
    let moved = of_capture(&recording.capture, table)?;
    Some(Case { class: class.clone(), causes: class_causes(class), moved })
}

/// The same of the rows before the anomaly alone: what may be learnt from them is what the recording sessions give away.
pub fn placebo_learnable(recording: &Recording, table: &SignalTable) -> Option<Case> {
    let [class] = recording.classes.as_slice() else { return None };
    Some(Case { class: class.clone(), causes: class_causes(class), moved: placebo(recording, table) })
}

/// Effects between two parts of the rows before the anomaly.
fn placebo(recording: &Recording, table: &SignalTable) -> Moved {
    let start = recording.capture.span().map_or(0, |s| s.start) + WARM_UP_MS;
    let before = Window { start, end: recording.abnormal.start };
    let cut = start + ((before.end - start) as f64 * PLACEBO_BASELINE) as i64;
    moved(&recording.capture, Window { end: cut, ..before }, Window { start: cut, ..before }, table)
}

fn of_capture(capture: &Capture, table: &SignalTable) -> Option<Moved> {
    let detection = detect(capture, table, &DetectOptions::default());
    let (window, baseline) = detection.window.zip(detection.baseline)?;
    Some(moved(capture, baseline, window, table))
}
