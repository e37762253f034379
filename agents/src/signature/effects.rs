//! Effects: how each signal of a capture moved from the baseline into the anomaly, on a scale that needs no unit.

use std::collections::BTreeMap;

use galen_tools::capture::Capture;
use galen_tools::detect::{differences, trending};
use galen_tools::model::{Series, Window};
use galen_tools::signals::SignalTable;

/// The first seconds of an anomaly have a pattern of their own.
pub const ONSET_S: f64 = 5.0;
/// Fewest samples of a baseline and of an anomaly.
const LEAST: (usize, usize) = (5, 2);

/// Effects by rendered name of the signal: Cliff's delta, from -1 (every value of the anomaly lies below every value of the
/// baseline) over 0 (no difference) to 1. A signal that never changes has none.
pub type Effects = BTreeMap<String, f64>;

/// Effects of a whole anomaly and of its first seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Moved {
    /// Over the whole window.
    pub whole: Effects,
    /// Over its first [`ONSET_S`] seconds.
    pub onset: Effects,
}

/// Effects over a window and over its first seconds against a baseline.
pub fn moved(capture: &Capture, baseline: Window, window: Window, table: &SignalTable) -> Moved {
    let onset = first_seconds(window);
    Moved { whole: effects(capture, baseline, window, table), onset: effects(capture, baseline, onset, table) }
}

/// The first [`ONSET_S`] seconds of a window.
pub fn first_seconds(window: Window) -> Window {
    Window { end: window.end.min(window.start + (ONSET_S * 1000.0) as i64), ..window }
}

/// Effects over a window against a baseline. Nothing outside these two is read.
pub fn effects(capture: &Capture, baseline: Window, window: Window, table: &SignalTable) -> Effects {
    let mut sheet = Sheet::default();
    let effect = |(name, series): (&String, &Series)| {
        let spec = table.lookup(name);
        let margin = if spec.name.is_empty() { 0.0 } else { spec.min_effect };
        Some((name.clone(), sheet.delta(series.within(baseline), series.within(window), margin)?))
    };
    capture.series.iter().filter_map(effect).collect()
}

/// Memory that is reused from signal to signal.
#[derive(Default)]
struct Sheet {
    both: Vec<f64>,
    base: Vec<f64>,
}

impl Sheet {
    /// Cliff's delta (Cliff, "Dominance statistics: ordinal analyses to answer ordinal questions", 1993): the share of pairs in
    /// which the anomaly is higher less the share in which it is lower. Pairs closer than `margin` are ties: changes that nobody
    /// cares about. Counters are compared by their differences.
    fn delta(&mut self, base: &[f64], inside: &[f64], margin: f64) -> Option<f64> {
        if base.len() < LEAST.0 || inside.len() < LEAST.1 {
            return None;
        }
        self.both.clear();
        self.both.extend_from_slice(base);
        self.both.extend_from_slice(inside);
        let first = self.both[0];
        if self.both.iter().all(|v| *v == first) {
            return None;
        }
        let counter = trending(&self.both);
        if counter {
            differences(&mut self.both);
        }
        let (before, during) = self.both.split_at(base.len());
        self.base.clear();
        self.base.extend_from_slice(before);
        self.base.sort_unstable_by(f64::total_cmp);
        // A difference a second is not in the unit of the margin.
        let margin = if counter { 0.0 } else { margin };
        let balance = |value: &f64| {
            let below = self.base.partition_point(|b| *b < value - margin);
            let above = self.base.len() - self.base.partition_point(|b| *b <= value + margin);
            below as f64 - above as f64
        };
        Some(during.iter().map(balance).sum::<f64>() / (self.base.len() * during.len()) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(base: &[f64], inside: &[f64], margin: f64) -> Option<f64> {
        Sheet::default().delta(base, inside, margin)
    }

    #[test]
    fn the_effect_is_a_share_of_pairs() {
        let base = [1.0, 5.0, 2.0, 4.0, 3.0];
        assert_eq!(delta(&base, &[9.0, 8.0, 9.0], 0.0), Some(1.0));
        assert_eq!(delta(&base, &[0.0, -3.0], 0.0), Some(-1.0));
        assert_eq!(delta(&base, &[3.0, 3.0], 0.0), Some(0.0));
        assert_eq!(delta(&base, &[5.5, 4.9, 5.2], 10.0), Some(0.0), "within the margin nobody cares");
        assert_eq!(delta(&base, &[1.0], 0.0), None, "one sample proves nothing");
        assert_eq!(delta(&[7.0; 9], &[7.0; 4], 0.0), None);
    }

    #[test]
    fn a_counter_is_judged_by_its_pace() {
        let base: Vec<f64> = (0..30).map(|i| f64::from(i * 10 + i % 2)).collect();
        let steady: Vec<f64> = (30..40).map(|i| f64::from(i * 10 + i % 2)).collect();
        let faster: Vec<f64> = (1..11).map(|i| f64::from(291 + i * 40 + i % 2)).collect();
        assert!(delta(&base, &steady, 0.0).unwrap().abs() < 0.3);
        assert_eq!(delta(&base, &faster, 0.0), Some(1.0));
    }
}
