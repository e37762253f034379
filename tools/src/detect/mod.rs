//! Detection: finds the anomalous window and the abnormal signals, in a capture or a live stream, by itself.

mod batch;
mod beside;
mod shift;
pub mod stats;
mod stream;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::model::{UnixMs, Window};

pub use batch::{LEAST_SAMPLES, detect, detect_since};
pub use shift::{differences, trending};
pub use stream::{Stream, Trigger};

/// Which way a signal moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Direction {
    Up,
    Down,
}

/// A signal that left its baseline, or its absolute limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Abnormal {
    /// Rendered name of the signal.
    pub signal: String,
    /// Unit of the values below.
    pub unit: String,
    /// Which way it went.
    pub direction: Direction,
    /// Median over the baseline window; absent where there is none.
    pub baseline: Option<f64>,
    /// Median over the anomalous window.
    pub observed: f64,
    /// The most extreme value in the anomalous window.
    pub peak: f64,
    /// Robust z score of `observed` (difference over floored MAD), at most 1000; negative when down.
    pub score: f64,
    /// When it left the baseline.
    pub began: UnixMs,
}

/// What the detector found in a capture.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// The anomalous window; absent when nothing is abnormal.
    pub window: Option<Window>,
    /// The stretch that serves as baseline; absent where the capture holds none.
    pub baseline: Option<Window>,
    /// Abnormal signals, the strongest first.
    pub abnormal: Vec<Abnormal>,
    /// Why the detector kept quiet, in one line, when it did.
    pub quiet: Option<String>,
    /// Where nothing is abnormal: signals that left their usual range for ten seconds or more, which was not enough for an incident,
    /// the strongest first. Their `baseline` is the median of all that was seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Abnormal>,
}

/// How to detect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetectOptions {
    /// Least length of a baseline, seconds, and of samples in it.
    pub warm_up_s: f64,
    /// An anomaly lasts at least this long, seconds.
    pub persistence_s: f64,
    /// Let signals that no table describes open an incident.
    pub unknown_trigger: bool,
}

impl Default for DetectOptions {
    fn default() -> Self {
        Self { warm_up_s: 10.0, persistence_s: 5.0, unknown_trigger: false }
    }
}
