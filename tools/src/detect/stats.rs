//! Robust statistics: median and median absolute deviation with a floor under the spread.

use crate::signals::{Bad, SignalSpec};

/// Median of values, none when there are none. Reorders the slice.
pub fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    let even = values.len().is_multiple_of(2);
    let (below, at, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *at;
    let lower = if even { below.iter().copied().fold(f64::NEG_INFINITY, f64::max) } else { upper };
    Some((lower + upper) / 2.0)
}

/// Where a signal usually is, and how far it usually strays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usual {
    /// Median.
    pub level: f64,
    /// Spread: 1.4826 MAD, not below the floors.
    pub spread: f64,
}

impl Usual {
    /// Statistics of a baseline's values, which are lost: their distances from the median take their place.
    pub fn of(values: &mut [f64], spec: &SignalSpec) -> Option<Self> {
        let level = median(values)?;
        values.iter_mut().for_each(|v| *v = (*v - level).abs());
        let mad = median(values)?;
        let spread = (1.4826 * mad).max(spec.floor).max(spec.relative_floor * level.abs());
        Some(Self { level, spread })
    }

    /// Robust z score, at most 1000 either way; 0 when the change is too small to matter or the good way.
    pub fn score(&self, value: f64, spec: &SignalSpec) -> f64 {
        let change = value - self.level;
        let harmless = match spec.bad {
            Bad::Up => change < 0.0,
            Bad::Down => change > 0.0,
            Bad::Both => false,
        };
        if harmless || change.abs() < spec.min_effect { 0.0 } else { (change / self.spread).clamp(-1000.0, 1000.0) }
    }
}

/// True when the value is abnormal by itself.
pub fn beyond_limit(value: f64, spec: &SignalSpec) -> bool {
    spec.limit.is_some_and(|limit| if spec.bad == Bad::Down { value <= limit } else { value >= limit })
}

/// How much a score of one signal counts: nothing up to 4, fully from 12 on; signals that may not trigger count less.
pub fn weight(score: f64, limit: bool, triggers: bool) -> f64 {
    let excess = if limit { 1.0 } else { ((score.abs() - 4.0) / 8.0).clamp(0.0, 1.0) };
    excess * if triggers { 1.0 } else { 0.3 }
}
