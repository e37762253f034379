//! The strict task-scaling law: from the pass rates of smaller models to that of a larger one.
//!
//! Where loss falls with parameters as a power law, the pass rate of a task with a fixed answer follows
//! `rate = exp(-c N^-a)` (Hu et al., ICLR 2024), so `ln(-ln rate)` is a line in `ln N`. The line is fitted by least
//! squares, each point weighted by the inverse of its variance (delta method); with equal variances it is the plain one.

use serde::{Deserialize, Serialize};

use super::pass_until::PassRate;

/// A model's pass rate at its size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Name of the model.
    pub model: String,
    /// Parameters.
    pub parameters: f64,
    /// Its pass rate.
    pub pass: PassRate,
}

/// `rate = exp(-c N^-a)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Law {
    /// Exponent: above 0 when larger models pass more often.
    pub a: f64,
    /// Factor.
    pub c: f64,
}

impl Law {
    /// The rate at a size.
    pub fn rate(&self, parameters: f64) -> f64 {
        (-self.c * parameters.powf(-self.a)).exp()
    }
}

/// What the smaller models foretell of the largest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Law fitted on all but the largest.
    pub law: Law,
    /// Name of the largest model.
    pub model: String,
    /// Foretold rate.
    pub predicted: f64,
    /// Measured rate.
    pub measured: f64,
    /// `predicted - measured`.
    pub error: f64,
}

/// Fits the law.
///
/// # Errors
/// One line: fewer than two sizes with a rate strictly between 0 and 1 (others have no place on the line).
pub fn fit(points: &[Point]) -> Result<Law, String> {
    let usable: Vec<(f64, f64, f64)> = points
        .iter()
        .filter(|p| p.pass.rate > 0.0 && p.pass.rate < 1.0 && p.parameters > 0.0)
        .map(|p| (p.parameters.ln(), (-p.pass.rate.ln()).ln(), variance_of_ordinate(&p.pass)))
        .collect();
    let floor = usable.iter().map(|p| p.2).filter(|v| *v > 0.0).fold(f64::INFINITY, f64::min);
    let weight = |v: f64| if floor.is_finite() { 1.0 / v.max(floor) } else { 1.0 };
    let total: f64 = usable.iter().map(|p| weight(p.2)).sum();
    let (mx, my) = usable.iter().fold((0.0, 0.0), |(x, y), p| (x + weight(p.2) * p.0 / total, y + weight(p.2) * p.1 / total));
    let sxx: f64 = usable.iter().map(|p| weight(p.2) * (p.0 - mx).powi(2)).sum();
    if usable.len() < 2 || sxx < 1e-9 {
        return Err(format!("a line needs two sizes with pass rates between 0 and 1; there are {}", usable.len()));
    }
    let slope = usable.iter().map(|p| weight(p.2) * (p.0 - mx) * (p.1 - my)).sum::<f64>() / sxx;
    Ok(Law { a: -slope, c: (my - slope * mx).exp() })
}

/// Variance of `ln(-ln rate)`.
fn variance_of_ordinate(pass: &PassRate) -> f64 {
    let slope = pass.rate * pass.rate.ln();
    pass.variance / (slope * slope)
}

/// Fits on the models below the largest size and foretells the largest, the last of several of that size.
///
/// # Errors
/// As [`fit`], and when there are fewer than two smaller sizes.
pub fn predict_largest(points: &[Point]) -> Result<Prediction, String> {
    let mut sorted: Vec<&Point> = points.iter().collect();
    sorted.sort_by(|a, b| a.parameters.total_cmp(&b.parameters));
    let Some(largest) = sorted.last() else { return Err("a prediction needs models".to_owned()) };
    // What has the size that is foretold must not be learnt from.
    let smaller: Vec<Point> = sorted.iter().filter(|p| p.parameters < largest.parameters).map(|p| (*p).clone()).collect();
    let sizes = smaller.chunk_by(|a, b| a.parameters.to_bits() == b.parameters.to_bits()).count();
    if sizes < 2 {
        return Err(format!("a prediction needs models of two sizes below the largest; there are {sizes}"));
    }
    let law = fit(&smaller)?;
    let (predicted, measured) = (law.rate(largest.parameters), largest.pass.rate);
    Ok(Prediction { law, model: largest.model.clone(), predicted, measured, error: predicted - measured })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(parameters: f64, rate: f64) -> Point {
        let pass = PassRate { rate, variance: 0.0, low: rate, high: rate, censored: false };
        Point { model: format!("{parameters}"), parameters, pass }
    }

    #[test]
    fn a_law_is_found_again_and_foretells_the_largest() {
        let truth = Law { a: 0.3, c: 900.0 };
        let family: Vec<Point> = [1e7, 1e8, 1e9, 2e9].iter().map(|n| point(*n, truth.rate(*n))).collect();
        let found = fit(&family).unwrap();
        assert!((found.a - 0.3).abs() < 1e-9 && (found.c / 900.0 - 1.0).abs() < 1e-7, "{found:?}");
        let told = predict_largest(&family).unwrap();
        assert!(told.error.abs() < 1e-9 && told.model == "2000000000", "{told:?}");
        assert!(family[0].pass.rate < 0.001 && family[3].pass.rate > 0.2, "from nothing to something: {family:?}");
    }

    #[test]
    fn an_uncertain_point_counts_less() {
        let truth = Law { a: 0.3, c: 900.0 };
        let mut family: Vec<Point> = [1e7, 1e8, 1e9].iter().map(|n| point(*n, truth.rate(*n))).collect();
        for p in &mut family {
            p.pass.variance = 1e-12;
        }
        family.push(point(5e8, 0.9));
        family[3].pass.variance = 0.1;
        assert!((fit(&family).unwrap().a - 0.3).abs() < 0.01);
    }

    #[test]
    fn the_size_that_is_foretold_is_not_learnt_from() {
        let truth = Law { a: 0.3, c: 900.0 };
        let mut family: Vec<Point> = [1e7, 1e8, 2e9].iter().map(|n| point(*n, truth.rate(*n))).collect();
        let alone = predict_largest(&family).unwrap();
        family.insert(0, point(2e9, 0.99));
        assert!((predict_largest(&family).unwrap().predicted - alone.predicted).abs() < 1e-12);
        let twins = [point(1e8, 0.1), point(2e9, 0.2), point(2e9, 0.3)];
        assert!(predict_largest(&twins).unwrap_err().contains("there are 1"));
    }

    #[test]
    fn too_few_models_are_an_error() {
        assert!(predict_largest(&[point(1.0, 0.5), point(2.0, 0.6)]).unwrap_err().contains("there are 1"));
        assert!(fit(&[point(1.0, 0.0), point(2.0, 1.0)]).is_err());
    }
}
