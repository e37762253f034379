//! Capacity density: how many parameters a reference model would need for the same result, over those it has.
//!
//! After Xiao et al., "Densing Law of LLMs" (2024): (1) fit the loss of reference models on a task against their
//! parameters, `loss = a N^-b + c`; (2) fit the score against the loss with a sigmoid; (3) turn both round: the score (or
//! the loss) of a model gives its effective parameters; density is effective over actual. The paper fits the first
//! law over parameters and training data; here the data is not known, so `c` stands for what size does not buy.

use serde::{Deserialize, Serialize};

use super::numeric::mean;

/// Exponents tried, and how finely: the best of a grid is refined around itself.
const EXPONENTS: (f64, f64) = (0.01, 3.0);
/// Effective parameters above this multiple of the largest reference are no figure any more, and are said to be "beyond".
const BEYOND: f64 = 100.0;

/// One model's result on one capability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Name of the model.
    pub model: String,
    /// Parameters.
    pub parameters: f64,
    /// Mean negative log-probability of the right option, nats.
    pub loss: f64,
    /// Share of questions answered right, 0 to 1.
    pub score: f64,
}

/// `loss = a (N / unit)^-b + c`, falling with the parameters `N`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossLaw {
    /// What size buys at the unit, nats, above 0.
    pub a: f64,
    /// Exponent, above 0.
    pub b: f64,
    /// What size does not buy, nats, at least 0.
    pub c: f64,
    /// Parameters at which `a` is meant.
    pub unit: f64,
    /// Root of the mean squared error over the reference models, nats.
    pub error: f64,
}

impl LossLaw {
    /// The loss of a reference model of a size.
    pub fn loss(&self, parameters: f64) -> f64 {
        self.a * (parameters / self.unit).powf(-self.b) + self.c
    }

    /// The size of a reference model with a loss; none below what any size reaches.
    pub fn parameters(&self, loss: f64) -> Option<f64> {
        let ratio = (loss - self.c) / self.a;
        (ratio > 0.0).then(|| self.unit * ratio.powf(-1.0 / self.b)).filter(|n| n.is_finite())
    }
}

/// `score = floor + (1 - floor) / (1 + exp(slope (loss - middle)))`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScoreLaw {
    /// Score by chance.
    pub floor: f64,
    /// Steepness, above 0.
    pub slope: f64,
    /// Loss half-way between chance and everything right, nats.
    pub middle: f64,
}

impl ScoreLaw {
    /// The score at a loss.
    pub fn score(&self, loss: f64) -> f64 {
        self.floor + (1.0 - self.floor) / (1.0 + (self.slope * (loss - self.middle)).exp())
    }

    /// The loss at a score strictly between chance and 1.
    pub fn loss(&self, score: f64) -> Option<f64> {
        let share = (score - self.floor) / (1.0 - self.floor);
        (share > 0.0 && share < 1.0).then(|| self.middle + ((1.0 - share) / share).ln() / self.slope)
    }
}

/// Where a model stands against the references.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Density {
    /// Name of the model.
    pub model: String,
    /// Parameters a reference model would need for the same loss; none when no size reaches it.
    pub effective: Option<f64>,
    /// Effective over actual parameters.
    pub density: Option<f64>,
    /// Why there is no figure, or that it is extrapolated.
    pub note: String,
}

/// Fits the loss law by least squares under `a > 0`, `b > 0`, `c >= 0`.
///
/// # Errors
/// One line: fewer than two sizes, or a loss that does not fall with size, so that nothing can be turned round.
pub fn fit_loss(references: &[Measured]) -> Result<LossLaw, String> {
    let mut sizes: Vec<f64> = references.iter().map(|m| m.parameters).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    if sizes.len() < 2 || sizes.first().is_none_or(|n| *n <= 0.0) {
        return Err(format!("a law over sizes needs reference models of at least two sizes; there are {}", sizes.len()));
    }
    let unit = mean(&sizes.iter().map(|n| n.ln()).collect::<Vec<_>>()).exp();
    let at = |b: f64| line(references, unit, b);
    let (mut low, mut high) = EXPONENTS;
    let mut best = None;
    for _ in 0..6 {
        let step = (high / low).powf(1.0 / 60.0);
        let grid = (0..=60).map(|i| low * step.powi(i));
        best = grid.filter_map(at).min_by(|x, y| x.error.total_cmp(&y.error)).or(best);
        let Some(law) = best else { break };
        (low, high) = ((law.b / step).max(EXPONENTS.0), (law.b * step).min(EXPONENTS.1));
    }
    best.filter(|law| law.a > 1e-9).ok_or_else(|| {
        "the loss of the reference models does not fall with their size: density cannot be told from these questions".to_owned()
    })
}

/// The best `a` and `c` for an exponent: a line in `N^-b`, with `c` held at 0 where it would fall below.
fn line(references: &[Measured], unit: f64, b: f64) -> Option<LossLaw> {
    let x: Vec<f64> = references.iter().map(|m| (m.parameters / unit).powf(-b)).collect();
    let y: Vec<f64> = references.iter().map(|m| m.loss).collect();
    let (mx, my) = (mean(&x), mean(&y));
    let sxx: f64 = x.iter().map(|v| (v - mx).powi(2)).sum();
    let sxy: f64 = x.iter().zip(&y).map(|(v, w)| (v - mx) * (w - my)).sum();
    let (mut a, mut c) = (sxy / sxx, my - sxy / sxx * mx);
    if c < 0.0 {
        a = x.iter().zip(&y).map(|(v, w)| v * w).sum::<f64>() / x.iter().map(|v| v * v).sum::<f64>();
        c = 0.0;
    }
    let law = LossLaw { a, b, c, unit, error: 0.0 };
    let squares: Vec<f64> = references.iter().map(|m| (law.loss(m.parameters) - m.loss).powi(2)).collect();
    (a.is_finite() && a > 0.0).then(|| LossLaw { error: mean(&squares).sqrt(), ..law })
}

/// Fits the sigmoid through the logits of the scores between chance, which is `floor`, and 1.
///
/// # Errors
/// One line: fewer than two such scores, or scores that do not rise as the loss falls.
pub fn fit_score(references: &[Measured], floor: f64) -> Result<ScoreLaw, String> {
    if !references.iter().any(|m| m.score > floor) {
        return Err(format!("no reference model scores above chance, which is {floor}"));
    }
    let logit = |score: f64| {
        let share = (score - floor) / (1.0 - floor);
        (share > 0.0 && share < 1.0).then(|| (share / (1.0 - share)).ln())
    };
    let points: Vec<(f64, f64)> = references.iter().filter_map(|m| Some((m.loss, logit(m.score)?))).collect();
    let (mx, my) = (mean(&points.iter().map(|p| p.0).collect::<Vec<_>>()), mean(&points.iter().map(|p| p.1).collect::<Vec<_>>()));
    let sxx: f64 = points.iter().map(|p| (p.0 - mx).powi(2)).sum();
    let sxy: f64 = points.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum();
    if points.len() < 2 {
        return Err(format!("a law over scores needs two reference models between chance ({floor}) and 1; there is {}", points.len()));
    }
    if sxx < 1e-12 || sxy >= 0.0 {
        return Err("the scores of the reference models do not rise as their loss falls".to_owned());
    }
    let slope = -sxy / sxx;
    Ok(ScoreLaw { floor, slope, middle: mx + my / slope })
}

/// Density of one model from its loss. `references` are the parameters of the smallest and of the largest reference model.
pub fn density(law: &LossLaw, references: (f64, f64), model: &Measured) -> Density {
    let (smallest, largest) = references;
    let effective = law.parameters(model.loss).filter(|n| *n <= BEYOND * largest);
    let note = match effective {
        None => format!("better than {:.2} nats, which no reference below {BEYOND:.0} times the largest reaches", model.loss),
        Some(n) if n > largest => "extrapolated beyond the largest reference".to_owned(),
        Some(n) if n < smallest => "extrapolated below the smallest reference".to_owned(),
        Some(_) => String::new(),
    };
    Density { model: model.model.clone(), effective, density: effective.map(|n| n / model.parameters), note }
}

/// Density of one model from its score: that of the loss which the reference models have at this score.
pub fn density_by_score(law: &LossLaw, scores: &ScoreLaw, references: (f64, f64), model: &Measured) -> Density {
    match scores.loss(model.score) {
        Some(loss) => density(law, references, &Measured { loss, ..model.clone() }),
        None => {
            let note = if model.score < 1.0 { "not above chance" } else { "everything right" };
            Density { model: model.model.clone(), effective: None, density: None, note: note.to_owned() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::numeric::Random;

    const TRUTH: LossLaw = LossLaw { a: 0.8, b: 0.35, c: 0.4, unit: 1e9, error: 0.0 };
    const SIGMOID: ScoreLaw = ScoreLaw { floor: 0.25, slope: 3.0, middle: 1.1 };

    /// Models whose loss is that of a reference model `density` times their size.
    fn family(sizes: &[f64], density: f64, noise: f64, random: &mut Random) -> Vec<Measured> {
        let model = |n: &f64| {
            let loss = TRUTH.loss(n * density) + noise * (random.unit() - 0.5);
            Measured { model: format!("{n:.0}"), parameters: *n, loss, score: SIGMOID.score(loss) }
        };
        sizes.iter().map(model).collect()
    }

    const SIZES: [f64; 6] = [1.35e8, 2.7e8, 6.3e8, 1.8e9, 4e9, 8e9];
    const SPAN: (f64, f64) = (1.35e8, 8e9);

    #[test]
    fn known_densities_are_found_again() {
        let mut random = Random::new(1);
        let law = fit_loss(&family(&SIZES, 1.0, 0.0, &mut random)).unwrap();
        assert!(law.error < 1e-6 && (law.b - TRUTH.b).abs() < 1e-3 && (law.c - TRUTH.c).abs() < 1e-3, "{law:?}");
        for truth in [0.25, 0.5, 1.0, 2.0, 4.0] {
            for model in family(&[3e8, 1e9], truth, 0.0, &mut random) {
                let told = density(&law, SPAN, &model).density.unwrap();
                assert!((told / truth - 1.0).abs() < 0.01, "{truth}: {told}");
            }
        }
    }

    #[test]
    fn densities_survive_noise_and_come_from_the_score_as_well() {
        let mut random = Random::new(2);
        let references = family(&SIZES, 1.0, 0.02, &mut random);
        let (law, sigmoid) = (fit_loss(&references).unwrap(), fit_score(&references, 0.25).unwrap());
        for truth in [0.5, 2.0] {
            let model = &family(&[8e8], truth, 0.02, &mut random)[0];
            let told = density(&law, SPAN, model).density.unwrap();
            assert!((told / truth).ln().abs() < 0.35, "{truth}: {told}");
            let by_score = density_by_score(&law, &sigmoid, SPAN, model).density.unwrap();
            assert!((by_score / told).ln().abs() < 0.15, "{told} by loss, {by_score} by score");
        }
    }

    #[test]
    fn what_cannot_be_told_is_said() {
        let flat: Vec<Measured> = SIZES
            .iter()
            .enumerate()
            .map(|(i, n)| Measured { model: String::new(), parameters: *n, loss: 1.3 + 0.01 * i as f64, score: 0.25 })
            .collect();
        assert!(fit_loss(&flat).unwrap_err().contains("does not fall"));
        assert!(fit_loss(&flat[..1]).unwrap_err().contains("two sizes"));
        assert_eq!(fit_score(&flat, 0.25).unwrap_err(), "no reference model scores above chance, which is 0.25");
        let one = [Measured { score: 0.5, ..flat[0].clone() }, flat[1].clone()];
        assert!(fit_score(&one, 0.25).unwrap_err().ends_with("there is 1"));
        let falling = [Measured { score: 0.4, ..flat[0].clone() }, Measured { score: 0.6, ..flat[1].clone() }];
        assert!(fit_score(&falling, 0.25).unwrap_err().contains("do not rise"));
        let mut random = Random::new(1);
        let law = fit_loss(&family(&SIZES, 1.0, 0.0, &mut random)).unwrap();
        let beyond = density(&law, SPAN, &Measured { model: "m".into(), parameters: 1e9, loss: 0.1, score: 1.0 });
        assert!(beyond.density.is_none() && beyond.note.contains("no reference"), "{beyond:?}");
        for (score, why) in [(0.25, "not above chance"), (1.0, "everything right")] {
            let told = density_by_score(&law, &SIGMOID, SPAN, &Measured { model: "m".into(), parameters: 1e9, loss: 1.0, score });
            assert_eq!((told.density, told.note.as_str()), (None, why));
        }
    }

    #[test]
    fn sizes_outside_the_references_are_marked_on_both_sides() {
        let law = fit_loss(&family(&SIZES, 1.0, 0.0, &mut Random::new(1))).unwrap();
        for (size, marked) in [(1e8, "below the smallest"), (1e9, ""), (1e10, "beyond the largest")] {
            let note = density(&law, SPAN, &Measured { model: "m".into(), parameters: 1e9, loss: TRUTH.loss(size), score: 0.5 }).note;
            assert!(note.contains(marked) && note.is_empty() == marked.is_empty(), "{size}: {note}");
        }
    }
}
