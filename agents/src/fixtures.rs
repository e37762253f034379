//! What several tests need: signals that left their baseline.

use galen_tools::detect::{Abnormal, Direction};

/// A rate that rose from nothing.
pub fn rising(signal: &str) -> Abnormal {
    Abnormal {
        signal: signal.into(),
        unit: "1/s".into(),
        direction: Direction::Up,
        baseline: Some(0.0),
        observed: 1.0,
        peak: 2.0,
        score: 10.0,
        began: 0,
    }
}
