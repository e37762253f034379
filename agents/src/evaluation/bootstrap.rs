//! Confidence intervals for the difference of two runs over the same cases: a paired bootstrap, seeded.
//!
//! Cases are drawn with replacement and each keeps both of its results, so that hard and easy cases do not count
//! as noise. The interval is BCa, bias-corrected and accelerated (Efron 1987): the percentiles are moved by the median
//! bias of the resampled means and by the skewness that a jackknife shows; for a mean without skew it is the percentile
//! interval.

use serde::{Deserialize, Serialize};

use super::numeric::{Random, mean, normal_cdf, normal_quantile};

/// Resamples.
pub const RESAMPLES: usize = 4_000;
/// Confidence of the intervals.
pub const CONFIDENCE: f64 = 0.95;

/// A mean with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Mean of the values.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// True when 0 lies outside: the difference is not chance at this confidence.
    pub fn excludes_zero(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// The BCa interval of the mean of `values` (differences of pairs, for a comparison); none for no values.
pub fn interval(values: &[f64], seed: u64) -> Option<Interval> {
    let observed = mean(values);
    let first = *values.first()?;
    if values.iter().all(|v| v.to_bits() == first.to_bits()) {
        return Some(Interval { mean: first, low: first, high: first });
    }
    let mut random = Random::new(seed);
    let n = values.len();
    let mut means: Vec<f64> = (0..RESAMPLES).map(|_| (0..n).map(|_| values[random.below(n)]).sum::<f64>() / n as f64).collect();
    means.sort_by(f64::total_cmp);
    // Ties count half: means of few cases repeat.
    let below = means.iter().filter(|m| **m < observed).count() as f64 + 0.5 * means.iter().filter(|m| **m == observed).count() as f64;
    let bias = normal_quantile((below / RESAMPLES as f64).clamp(1e-4, 1.0 - 1e-4));
    let skew = acceleration(values, observed);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let at = |share: f64| {
        let z = bias + normal_quantile(share);
        let moved = normal_cdf(bias + z / (1.0 - skew * z));
        means[((moved * RESAMPLES as f64) as usize).min(RESAMPLES - 1)]
    };
    Some(Interval { mean: observed, low: at(tail), high: at(1.0 - tail) })
}

/// The acceleration of a mean: a sixth of the skewness of its jackknife values.
fn acceleration(values: &[f64], observed: f64) -> f64 {
    let (squares, cubes) = values.iter().fold((0.0, 0.0), |(s, c), v| {
        let d = v - observed;
        (s + d * d, c + d * d * d)
    });
    let scale = 6.0 * f64::powf(squares, 1.5);
    if scale > 0.0 { cubes / scale } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_runs_differ_by_nothing() {
        assert_eq!(interval(&[0.0; 20], 7), Some(Interval { mean: 0.0, low: 0.0, high: 0.0 }));
        assert_eq!(interval(&[], 7), None);
    }

    #[test]
    fn intervals_hold_the_truth_about_as_often_as_they_say() {
        let mut random = Random::new(3);
        let held = |n: usize, random: &mut Random| {
            let trials = 300;
            let inside = (0..trials).filter(|i| {
                // Exponential: skewed, mean 1.
                let values: Vec<f64> = (0..n).map(|_| -(1.0 - random.unit()).ln()).collect();
                interval(&values, *i).is_some_and(|x| x.low <= 1.0 && 1.0 <= x.high)
            });
            inside.count() as f64 / f64::from(300)
        };
        let share = held(40, &mut random);
        assert!((0.90..=0.985).contains(&share), "{share}");
    }

    #[test]
    fn a_clear_difference_excludes_zero_and_the_seed_repeats() {
        let values: Vec<f64> = (0..30).map(|i| 0.5 + f64::from(i % 5) * 0.1).collect();
        let found = interval(&values, 1).unwrap();
        assert!(found.excludes_zero() && found.low < found.mean && found.mean < found.high);
        assert_eq!(interval(&values, 1), interval(&values, 1));
        assert!(!interval(&[1.0, -1.0, 1.0, -1.0, 0.5, -0.5], 1).unwrap().excludes_zero());
    }
}
