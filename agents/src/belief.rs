//! Belief in a hypothesis: log-odds, and what a test is expected to teach.

use galen_knowledge::cause::{Test, Verdict};

/// Probability of a cause as log-odds, kept inside 0.001 .. 0.99: no finite evidence makes a cause certain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Belief {
    logit: f64,
}

impl Belief {
    /// Belief from a prior probability in (0, 1).
    pub fn prior(probability: f64) -> Self {
        Self { logit: (probability / (1.0 - probability)).ln() }.clamped()
    }

    /// Bayes' rule in odds form: posterior odds = prior odds x likelihood ratio.
    pub fn update(self, ratio: f64) -> Self {
        Self { logit: self.logit + ratio.ln() }.clamped()
    }

    /// Current probability.
    pub fn probability(self) -> f64 {
        1.0 / (1.0 + (-self.logit).exp())
    }

    fn clamped(self) -> Self {
        Self { logit: self.logit.clamp(-6.9, 4.6) }
    }
}

/// The likelihood ratio of an outcome of a test.
pub fn ratio_of(test: &Test, verdict: Verdict) -> f64 {
    match verdict {
        Verdict::Supported => test.ratio[0],
        Verdict::Refuted => test.ratio[1],
        Verdict::Inconclusive => 1.0,
    }
}

/// Entropy of a yes/no question with this probability, in bits.
pub fn entropy(p: f64) -> f64 {
    let term = |q: f64| if q <= 0.0 { 0.0 } else { -q * q.log2() };
    term(p) + term(1.0 - p)
}

/// Expected entropy reduction of a test at belief `p`, in bits. From the two likelihood ratios
/// r+ = P(+|c)/P(+|not c) and r- = P(-|c)/P(-|not c) follow P(+|not c) = (1 - r-)/(r+ - r-) and P(+|c) = r+ P(+|not c).
pub fn expected_gain(p: f64, test: &Test) -> f64 {
    let [up, down] = test.ratio;
    if up - down < 1e-9 {
        return 0.0;
    }
    let down = down.min(0.999);
    let false_alarm = (1.0 - down) / (up - down).max(1e-9);
    let hit = (up * false_alarm).min(1.0);
    let positive = p * hit + (1.0 - p) * false_alarm;
    let after = |ratio: f64| {
        let odds = p / (1.0 - p) * ratio;
        odds / (1.0 + odds)
    };
    (entropy(p) - positive * entropy(after(up)) - (1.0 - positive) * entropy(after(down))).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_with(ratio: [f64; 2]) -> Test {
        Test {
            id: "t".into(),
            tool: "x".into(),
            with: vec![],
            supports: "true".into(),
            refutes: None,
            ratio,
            essential: false,
            says: String::new(),
            denies: None,
        }
    }

    #[test]
    fn bayes_rule_in_odds_form() {
        let belief = Belief::prior(0.2).update(4.0);
        assert!((belief.probability() - 0.5).abs() < 1e-9);
        assert!(Belief::prior(0.5).update(1e30).probability() < 0.991);
    }

    #[test]
    fn a_sharper_test_teaches_more_and_a_blunt_one_nothing() {
        assert_eq!(expected_gain(0.3, &test_with([1.0, 1.0])), 0.0);
        let blunt = expected_gain(0.3, &test_with([2.0, 0.5]));
        let sharp = expected_gain(0.3, &test_with([20.0, 0.05]));
        assert!(sharp > blunt && blunt > 0.0);
        assert!(sharp <= entropy(0.3) + 1e-9);
    }
}
