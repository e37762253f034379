//! Confidence intervals for the difference of two runs over the same cases: a paired bootstrap, seeded.
//!
//! Cases are drawn with replacement and each keeps both of its results, so that hard and easy cases do not count
//! as noise. The interval is BCa, bias-corrected and accelerated (Efron 1987): the percentiles are moved by the median
//! bias of the resampled means and by the skewness that a jackknife shows; for a mean without skew it is the percentile
//! interval.
//!
//! Resampling values that are all the same shows no spread at all, however few they are. Their interval comes from the exact
//! binomial bound instead: with `n` of `n` cases at a value, at least `0.025^(1/n)` of all cases have it at this
//! confidence (Clopper, Pearson 1934), and the others may lie anywhere in the range.

use serde::{Deserialize, Serialize};

use super::numeric::{Random, mean, normal_cdf, normal_quantile};

/// Resamples.
pub const RESAMPLES: usize = 4_000;
/// Confidence of the intervals.
pub const CONFIDENCE: f64 = 0.95;
/// Pairs that must differ before a difference is called more than chance: signs of five pairs that all agree have a
/// two-sided probability of 0.0625, those of six of 0.03125.
pub const FEWEST_DIFFERING: usize = 6;
/// Values closer than this differ by rounding alone.
const SAME: f64 = 1e-9;

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
    /// True when 0 lies outside.
    pub fn excludes_zero(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// The interval of the mean difference of pairs, each between -1 and 1, and whether it is more than chance: the interval excludes 0
/// and enough pairs differ. None for no pairs; pairs that are all equal have an interval of width 0 and claim nothing.
pub fn difference(values: &[f64], seed: u64) -> Option<(Interval, bool)> {
    let differing = values.iter().filter(|v| v.abs() > SAME).count();
    if differing == 0 && !values.is_empty() {
        return Some((Interval { mean: 0.0, low: 0.0, high: 0.0 }, false));
    }
    let found = interval(values, (-1.0, 1.0), seed)?;
    Some((found, differing >= FEWEST_DIFFERING && found.excludes_zero()))
}

/// The interval of the mean of `values` that lie between the ends of `range`: BCa, or from the exact bound where all are the
/// same; none for no values.
pub fn interval(values: &[f64], range: (f64, f64), seed: u64) -> Option<Interval> {
    let observed = mean(values);
    let first = *values.first()?;
    if values.iter().all(|v| (v - first).abs() <= SAME) {
        let share = ((1.0 - CONFIDENCE) / 2.0).powf(1.0 / values.len() as f64);
        let with = |others: f64| share * first + (1.0 - share) * others;
        return Some(Interval { mean: observed, low: with(range.0), high: with(range.1) });
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
        assert_eq!(difference(&[0.0; 20], 7), Some((Interval { mean: 0.0, low: 0.0, high: 0.0 }, false)));
        assert_eq!((difference(&[], 7), interval(&[], (0.0, 1.0), 7)), (None, None));
    }

    #[test]
    fn a_few_cases_that_all_agree_claim_nothing() {
        for (cases, low) in [(1, -0.95), (3, -0.415), (5, -0.044)] {
            let (found, claimed) = difference(&vec![1.0; cases], 7).unwrap();
            assert!(!claimed && (found.mean, found.high) == (1.0, 1.0) && (found.low - low).abs() < 1e-3, "{cases}: {found:?}");
        }
        // Six signs that agree are the fewest that a sign test believes; the bound says the same.
        assert!(difference(&[1.0; 6], 7).unwrap().1 && difference(&[-1.0; 6], 7).unwrap().1);
        let (thirty, claimed) = difference(&[1.0; 30], 7).unwrap();
        assert!(claimed && (thirty.low - 0.769).abs() < 1e-3 && thirty.high == 1.0, "{thirty:?}");
        // A small difference may be outweighed by few cases that were not seen; rounding makes it no other.
        assert!(!difference(&[0.01; 30], 7).unwrap().1);
        assert!(!difference(&[0.9 - 0.8, 0.5 - 0.4, 0.3 - 0.2, 0.9 - 0.8, 0.5 - 0.4, 0.7 - 0.6], 7).unwrap().1);
        // Four pairs that differ are four, whatever stands beside them.
        let (found, claimed) = difference(&[0.0, 1.0, 1.0, 1.0, 1.0], 7).unwrap();
        assert!(found.excludes_zero() && !claimed, "{found:?}");
    }

    #[test]
    fn a_share_of_all_or_none_keeps_to_its_exact_bound() {
        let (all, none) = (interval(&[1.0; 9], (0.0, 1.0), 7).unwrap(), interval(&[0.0; 9], (0.0, 1.0), 7).unwrap());
        assert!((all.low - 0.025_f64.powf(1.0 / 9.0)).abs() < 1e-12 && all.high == 1.0, "{all:?}");
        assert!((none.high - (1.0 - all.low)).abs() < 1e-12 && none.low == 0.0, "{none:?}");
    }

    #[test]
    fn intervals_hold_the_truth_about_as_often_as_they_say() {
        let mut random = Random::new(3);
        let held = |n: usize, random: &mut Random| {
            let trials = 300;
            let inside = (0..trials).filter(|i| {
                // Exponential: skewed, mean 1.
                let values: Vec<f64> = (0..n).map(|_| -(1.0 - random.unit()).ln()).collect();
                interval(&values, (0.0, 20.0), *i).is_some_and(|x| x.low <= 1.0 && 1.0 <= x.high)
            });
            inside.count() as f64 / f64::from(300)
        };
        let share = held(40, &mut random);
        assert!((0.90..=0.985).contains(&share), "{share}");
    }

    #[test]
    fn a_clear_difference_excludes_zero_and_the_seed_repeats() {
        let values: Vec<f64> = (0..30).map(|i| 0.5 + f64::from(i % 5) * 0.1).collect();
        let (found, claimed) = difference(&values, 1).unwrap();
        assert!(claimed && found.low < found.mean && found.mean < found.high);
        assert_eq!(difference(&values, 1), difference(&values, 1));
        assert!(!difference(&[1.0, -1.0, 1.0, -1.0, 0.5, -0.5], 1).unwrap().1);
    }
}
