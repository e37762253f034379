//! Pass rates of weak models: sample until `r` samples pass, so that a rate of 1e-4 is told from 0.
//!
//! A fixed number of samples gives 0 for every rate below its reciprocal. PassUntil (Hu et al., "Predicting Emergent
//! Abilities with Infinite Resolution Evaluation", ICLR 2024) samples each case until a number of passes is reached, so
//! that the relative error is about the same for every rate. The estimate here is the unbiased one, `(r - 1) / (n - 1)`
//! after `n` samples (Haldane 1945).
//!
//! A budget ends cases that do not get there. Of the sequences of passes and failures that end at the same point all
//! are equally likely, so the share of them that begins with a pass is an unbiased estimate of the rate under any such
//! stopping rule (Girshick, Mosteller, Savage 1946). At the budget `n` with `k < r` passes that share is `k / n`: the
//! mixture of both kinds of ends stays unbiased. The share that begins with two passes is unbiased for the square of the
//! rate, which gives the variance.

use serde::{Deserialize, Serialize};

use super::numeric::{Random, beta_quantile};

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Passes to wait for, at least 2.
    pub passes: u64,
    /// Most samples a case, at least as many as passes.
    pub budget: u64,
}

impl Rule {
    /// Checks the rule.
    ///
    /// # Errors
    /// One line: fewer than two passes, or a budget that cannot hold them.
    pub fn check(self) -> Result<Self, String> {
        match self {
            Self { passes: 0 | 1, .. } => Err("an unbiased estimate needs at least 2 passes".into()),
            Self { passes, budget } if budget < passes => Err(format!("a budget of {budget} samples cannot hold {passes} passes")),
            rule => Ok(rule),
        }
    }

    /// Draws samples until the rule says stop.
    pub fn run(self, mut sample: impl FnMut() -> bool) -> Tally {
        let mut tally = Tally { passes: 0, samples: 0 };
        while tally.passes < self.passes && tally.samples < self.budget {
            tally.samples += 1;
            tally.passes += u64::from(sample());
        }
        tally
    }
}

/// What sampling brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Samples that passed.
    pub passes: u64,
    /// Samples drawn.
    pub samples: u64,
}

/// A pass rate with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PassRate {
    /// Unbiased estimate of the rate, 0 to 1.
    pub rate: f64,
    /// Unbiased estimate of the estimate's variance.
    pub variance: f64,
    /// Lower end of the exact 95 % interval.
    pub low: f64,
    /// Upper end of the exact 95 % interval: above 0 also where no sample passed.
    pub high: f64,
    /// The budget ended it before the passes were reached.
    pub censored: bool,
}

/// The pass rate behind a tally that a rule ended. See the module for where the formulas come from; the interval
/// is Clopper and Pearson's, with the outcomes ordered by how much they speak for a high rate.
pub fn estimate(rule: Rule, tally: Tally) -> PassRate {
    let (n, k) = (tally.samples as f64, tally.passes as f64);
    if tally.samples == 0 {
        return PassRate { rate: 0.0, variance: 0.0, low: 0.0, high: 1.0, censored: true };
    }
    let censored = tally.passes < rule.passes;
    // Shares of the equally likely sequences that begin with one pass, and with two.
    let (rate, square) = match (censored, tally.samples) {
        (_, 1) => (k, k),
        (true, _) => (k / n, k * (k - 1.0) / (n * (n - 1.0))),
        (false, _) if tally.samples == tally.passes => (1.0, 1.0),
        (false, _) => ((k - 1.0) / (n - 1.0), (k - 1.0) * (k - 2.0) / ((n - 1.0) * (n - 2.0))),
    };
    let low = if tally.passes == 0 { 0.0 } else { beta_quantile(0.025, k, n - k + 1.0) };
    let high = match censored {
        _ if tally.passes == tally.samples => 1.0,
        true => beta_quantile(0.975, k + 1.0, n - k),
        false => beta_quantile(0.975, k, n - k),
    };
    PassRate { rate, variance: (rate * rate - square).max(0.0), low, high, censored }
}

/// The mean pass rate of several cases: mean of the estimates, its variance, a 95 % interval, and censored when any case is; none
/// without cases.
///
/// The estimated variance of a case without a pass, or with passes alone, is 0 and says nothing about its rate. Such a case
/// enters the ends of the interval with its exact bounds and the others with their estimates, and 1.96 standard deviations come
/// on top.
pub fn pooled(rates: &[PassRate]) -> Option<PassRate> {
    let n = rates.len() as f64;
    let first = rates.first()?;
    let mean = |of: fn(&PassRate) -> f64| rates.iter().map(of).sum::<f64>() / n;
    if rates.len() == 1 {
        return Some(*first);
    }
    let rate = mean(|r| r.rate);
    let variance = mean(|r| r.variance) / n;
    let spread = 1.959_964 * variance.sqrt();
    let low = mean(|r| if r.variance > 0.0 { r.rate } else { r.low }) - spread;
    let high = mean(|r| if r.variance > 0.0 { r.rate } else { r.high }) + spread;
    Some(PassRate { rate, variance, low: low.max(0.0), high: high.min(1.0), censored: rates.iter().any(|r| r.censored) })
}

/// Draws an option in proportion to `exp(logprob / temperature)`; the index drawn. Temperature 1 samples as the model
/// would answer.
pub fn draw(logprobs: &[f64], temperature: f64, random: &mut Random) -> usize {
    let shares = shares(logprobs, temperature);
    let mut left = random.unit();
    for (index, share) in shares.iter().enumerate() {
        left -= share;
        if left < 0.0 {
            return index;
        }
    }
    shares.len().saturating_sub(1)
}

/// The probabilities behind [`draw`].
pub fn shares(logprobs: &[f64], temperature: f64) -> Vec<f64> {
    let scaled: Vec<f64> = logprobs.iter().map(|l| l / temperature.max(1e-6)).collect();
    crate::llm::skill::softmax(&scaled)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every end of a rule with its exact probability at rate `p`.
    fn ends(rule: Rule, p: f64) -> Vec<(Tally, f64)> {
        let choose = |n: u64, k: u64| (0..k).fold(1.0, |c, j| c * (n - j) as f64 / (j + 1) as f64);
        let power = |n: u64, k: u64| p.powi(k as i32) * (1.0 - p).powi((n - k) as i32);
        let r = rule.passes;
        let reached = (r..=rule.budget).map(|n| (Tally { passes: r, samples: n }, choose(n - 1, r - 1) * power(n, r)));
        let capped = (0..r).map(|k| (Tally { passes: k, samples: rule.budget }, choose(rule.budget, k) * power(rule.budget, k)));
        reached.chain(capped).collect()
    }

    #[test]
    fn the_estimate_and_its_variance_are_unbiased_at_every_budget() {
        for (passes, budget) in [(2, 3), (2, 12), (3, 10), (5, 60)] {
            let rule = Rule { passes, budget }.check().unwrap();
            for p in [0.02, 0.3, 0.7, 0.97] {
                let ends = ends(rule, p);
                assert!((ends.iter().map(|e| e.1).sum::<f64>() - 1.0).abs() < 1e-9, "the ends are all there are");
                let expect = |of: &dyn Fn(PassRate) -> f64| ends.iter().map(|(t, w)| w * of(estimate(rule, *t))).sum::<f64>();
                let mean = expect(&|e| e.rate);
                assert!((mean - p).abs() < 1e-9, "{rule:?} {p}: {mean}");
                let (spread, told) = (expect(&|e| (e.rate - p).powi(2)), expect(&|e| e.variance));
                assert!((spread - told).abs() < 1e-9, "{rule:?} {p}: variance {spread}, told {told}");
                let covered: f64 =
                    ends.iter().filter(|(t, _)| (estimate(rule, *t).low..=estimate(rule, *t).high).contains(&p)).map(|e| e.1).sum();
                assert!(covered >= 0.95, "{rule:?} {p}: the interval holds it in {covered}");
            }
        }
    }

    /// Probability that the pooled interval of cases with these rates holds their mean.
    fn coverage(rule: Rule, rates: &[f64]) -> f64 {
        let told = |p: f64| ends(rule, p).into_iter().map(|(tally, weight)| (estimate(rule, tally), weight)).collect::<Vec<_>>();
        let mut joint: Vec<(Vec<PassRate>, f64)> = vec![(Vec::new(), 1.0)];
        for of_case in rates.iter().map(|p| told(*p)) {
            let with = |(before, weight): &(Vec<PassRate>, f64)| {
                of_case.iter().map(|(end, share)| ([before.as_slice(), &[*end]].concat(), weight * share)).collect::<Vec<_>>()
            };
            joint = joint.iter().flat_map(with).collect();
        }
        let truth = rates.iter().sum::<f64>() / rates.len() as f64;
        let held = |rates: &[PassRate]| pooled(rates).is_some_and(|told| (told.low..=told.high).contains(&truth));
        joint.iter().filter(|(rates, _)| held(rates)).map(|(_, weight)| weight).sum()
    }

    #[test]
    fn the_pooled_interval_holds_the_mean_where_cases_have_no_pass_or_nothing_else() {
        let of = |passes, budget, rates: &[f64]| {
            let share = coverage(Rule { passes, budget }, rates);
            assert!((0.95..=1.0 + 1e-9).contains(&share), "{passes} {budget} {rates:?}: {share}");
        };
        of(2, 30, &[0.01, 0.03, 0.06]);
        of(3, 20, &[0.5, 0.02]);
        of(5, 40, &[0.9, 0.03]);
        of(5, 60, &[0.02, 0.02]);
    }

    #[test]
    fn one_in_ten_thousand_is_told_from_never() {
        let rule = Rule { passes: 5, budget: 1_000_000 };
        let mut random = Random::new(3);
        let weak = estimate(rule, rule.run(|| random.unit() < 1e-4));
        assert!(!weak.censored && weak.low > 1e-5 && weak.high < 1e-3, "{weak:?}");
        assert!((weak.low..=weak.high).contains(&1e-4), "{weak:?}");
        let never = estimate(rule, rule.run(|| false));
        assert!(never.censored && never.rate == 0.0 && never.low == 0.0 && never.high < weak.low, "{never:?}");
        assert!((never.high - (1.0 - 0.025_f64.powf(1e-6))).abs() < 1e-9, "the exact bound of no pass in a million");
    }

    #[test]
    fn simulation_agrees_with_the_exact_distribution() {
        let rule = Rule { passes: 4, budget: 40 };
        let mut random = Random::new(11);
        let p = 0.08;
        let runs: Vec<PassRate> = (0..20_000).map(|_| estimate(rule, rule.run(|| random.unit() < p))).collect();
        let mean = runs.iter().map(|e| e.rate).sum::<f64>() / runs.len() as f64;
        let censored = runs.iter().filter(|e| e.censored).count() as f64 / runs.len() as f64;
        let exact: f64 = ends(rule, p).iter().filter(|(t, _)| t.passes < 4).map(|e| e.1).sum();
        assert!((mean - p).abs() < 0.001 && (censored - exact).abs() < 0.01, "{mean} {censored} {exact}");
    }

    #[test]
    fn rules_that_cannot_work_are_refused() {
        assert!(Rule { passes: 1, budget: 9 }.check().is_err());
        assert!(Rule { passes: 5, budget: 4 }.check().unwrap_err().contains("4 samples"));
        assert!(pooled(&[]).is_none());
    }

    #[test]
    fn options_are_drawn_by_their_probability_and_temperature() {
        let logs = [0.7_f64.ln(), 0.2_f64.ln(), 0.1_f64.ln()];
        let mut random = Random::new(5);
        let first = (0..20_000).filter(|_| draw(&logs, 1.0, &mut random) == 0).count() as f64 / 20_000.0;
        assert!((first - 0.7).abs() < 0.01, "{first}");
        assert!(shares(&logs, 0.25)[0] > 0.98 && shares(&logs, 100.0)[2] > 0.32);
    }
}
