//! Calibration: whether a cause named with probability 0.8 is right four times out of five.

use serde::{Deserialize, Serialize};

use super::numeric::mean;
use super::record::Run;
use super::tasks::first_right;

/// Bins of the reliability diagram.
const BINS: usize = 10;

/// How the probability of the first cause goes with its being right.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Cases in which a cause was named.
    pub cases: usize,
    /// Mean squared difference of probability and outcome (Brier 1950): 0 is perfect, 0.25 is a constant 0.5.
    pub brier: f64,
    /// Brier score of the constant that is right on average: what knowing only the accuracy reaches.
    pub brier_of_base_rate: f64,
    /// Expected calibration error: mean over bins of |mean probability - share right|, weighted by cases.
    pub ece: f64,
    /// Bins with cases in them.
    pub bins: Vec<Bin>,
}

/// A bin of the reliability diagram.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Lower end, included.
    pub from: f64,
    /// Cases.
    pub cases: usize,
    /// Mean probability.
    pub probability: f64,
    /// Share that was right.
    pub right: f64,
}

/// The calibration of a run; `healthy` counts as a cause.
pub fn calibration(run: &Run) -> Calibration {
    let pairs: Vec<(f64, f64)> =
        run.cases.iter().filter_map(|c| Some((c.named.first()?.probability, f64::from(u8::from(first_right(c)))))).collect();
    of_pairs(&pairs)
}

/// The calibration of pairs of a probability and an outcome of 0 or 1.
pub fn of_pairs(pairs: &[(f64, f64)]) -> Calibration {
    let column = |of: &dyn Fn(&(f64, f64)) -> f64| mean(&pairs.iter().map(of).collect::<Vec<_>>());
    let rate = column(&|p| p.1);
    let mut bins: Vec<Bin> = Vec::new();
    for index in 0..BINS {
        let inside: Vec<&(f64, f64)> = pairs.iter().filter(|p| ((p.0 * BINS as f64) as usize).min(BINS - 1) == index).collect();
        if !inside.is_empty() {
            bins.push(Bin {
                from: index as f64 / BINS as f64,
                cases: inside.len(),
                probability: mean(&inside.iter().map(|p| p.0).collect::<Vec<_>>()),
                right: mean(&inside.iter().map(|p| p.1).collect::<Vec<_>>()),
            });
        }
    }
    let share = |b: &Bin| b.cases as f64 / pairs.len().max(1) as f64;
    Calibration {
        cases: pairs.len(),
        brier: column(&|p| (p.0 - p.1).powi(2)),
        brier_of_base_rate: rate * (1.0 - rate),
        ece: bins.iter().map(|b| share(b) * (b.probability - b.right).abs()).sum::<f64>()
            // An empty sum is -0.
            + 0.0,
        bins,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_that_keeps_its_word_has_no_error() {
        let pairs: Vec<(f64, f64)> = (0..10).map(|i| (0.8, f64::from(u8::from(i < 8)))).collect();
        let told = of_pairs(&pairs);
        assert!(told.ece < 1e-12 && (told.brier - 0.16).abs() < 1e-12 && (told.brier_of_base_rate - 0.16).abs() < 1e-12, "{told:?}");
    }

    #[test]
    fn overconfidence_shows_in_its_bin() {
        let pairs = [(0.95, 1.0), (0.95, 0.0), (1.0, 0.0), (0.15, 0.0)];
        let told = of_pairs(&pairs);
        assert_eq!(told.bins.len(), 2);
        let top = &told.bins[1];
        assert_eq!(top.cases, 3);
        assert!((top.probability - 2.9 / 3.0).abs() < 1e-12 && (top.right - 1.0 / 3.0).abs() < 1e-12);
        let ece = 0.25 * 0.15 + 0.75 * (2.9 / 3.0 - 1.0 / 3.0);
        assert!((told.ece - ece).abs() < 1e-12, "{told:?}");
        assert_eq!(of_pairs(&[]), Calibration::default());
    }
}
