//! Which learnt classes explain an incident: its effects as a sum of signatures, none of which counts negatively.
//!
//! Effects and signatures are divided by the spread within the classes, each signature is scaled to length 1, and the weights
//! minimise the squared rest under weights >= 0 (Lawson and Hanson, "Solving Least Squares Problems", 1974, chapter 23; solved
//! by coordinate descent). An incident with several causes gets several weights without ever having been learnt as such.

use super::{Effects, Signatures};

/// Fewest signals that incident and signatures must share.
const LEAST_SIGNALS: usize = 5;
/// Rounds of coordinate descent, and the change at which it stops.
const ROUNDS: usize = 500;
const STILL: f64 = 1e-10;

/// How the learnt classes explain an incident.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Match {
    /// Share of each class in the explanation, 0..1, in the order of [`Signatures::class`]; they add up to 1.
    pub shares: Vec<f64>,
    /// Cosine between the incident and each class, -1..1: orders the classes that take no part in the explanation.
    pub likeness: Vec<f64>,
    /// Share of the incident that no class explains: 1 less the cosine between the incident and its explanation, 0..1.
    pub unexplained: f64,
    /// True when more is unexplained than in incidents of the learnt classes.
    pub novel: bool,
    /// Signals compared.
    pub signals: usize,
}

impl Match {
    /// Indices of the classes, the largest share first; without a share, the most alike first.
    pub fn ranking(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.shares.len()).collect();
        let by = |of: &[f64], a: usize, b: usize| of[b].total_cmp(&of[a]);
        order.sort_by(|a, b| by(&self.shares, *a, *b).then(by(&self.likeness, *a, *b)).then(a.cmp(b)));
        order
    }
}

impl Signatures {
    /// Explains an incident. `onset` when only its first seconds were seen. None where nothing was learnt, fewer than five
    /// signals are known on both sides, or nothing moved.
    pub fn explain(&self, incident: &Effects, onset: bool) -> Option<Match> {
        let half = usize::from(onset);
        let known: Vec<(&str, f64, f64)> =
            self.spread.iter().filter_map(|(name, spread)| Some((name.as_str(), *incident.get(name)?, spread[half]))).collect();
        if self.is_empty() || known.len() < LEAST_SIGNALS {
            return None;
        }
        let target: Vec<f64> = known.iter().map(|(_, effect, spread)| effect / spread.max(1e-6)).collect();
        let columns: Vec<Vec<f64>> = self
            .class
            .iter()
            .map(|class| {
                let effects = if onset { &class.onset } else { &class.effects };
                unit(known.iter().map(|(name, _, spread)| effects.get(*name).copied().unwrap_or(0.0) / spread.max(1e-6)).collect())
            })
            .collect();
        let length = dot(&target, &target).sqrt();
        if length < 1e-9 {
            return None;
        }
        let weights = weights(&columns, &target);
        let mut fit = vec![0.0; target.len()];
        for (column, weight) in columns.iter().zip(&weights) {
            fit.iter_mut().zip(column).for_each(|(f, c)| *f += weight * c);
        }
        let cosine = dot(&fit, &target) / (length * dot(&fit, &fit).sqrt()).max(1e-12);
        let unexplained = (1.0 - cosine).clamp(0.0, 1.0);
        let likeness = columns.iter().map(|c| dot(c, &target) / length).collect();
        let total: f64 = weights.iter().sum();
        let shares = weights.iter().map(|w| if total > 0.0 { w / total } else { 0.0 }).collect();
        let limit = if onset { self.novel_above_onset } else { self.novel_above };
        Some(Match { shares, likeness, unexplained, novel: unexplained > limit, signals: known.len() })
    }
}

/// Non-negative weights of unit columns that leave the least squared rest.
fn weights(columns: &[Vec<f64>], target: &[f64]) -> Vec<f64> {
    let gram: Vec<Vec<f64>> = columns.iter().map(|a| columns.iter().map(|b| dot(a, b)).collect()).collect();
    let wanted: Vec<f64> = columns.iter().map(|c| dot(c, target)).collect();
    let mut weights = vec![0.0; columns.len()];
    for _ in 0..ROUNDS {
        let mut moved = 0.0f64;
        for k in 0..weights.len() {
            if gram[k][k] < 1e-9 {
                continue;
            }
            let rest = wanted[k] - dot(&gram[k], &weights);
            let next = (weights[k] + rest / gram[k][k]).max(0.0);
            moved = moved.max((next - weights[k]).abs());
            weights[k] = next;
        }
        if moved < STILL {
            break;
        }
    }
    weights
}

fn unit(mut column: Vec<f64>) -> Vec<f64> {
    let length = dot(&column, &column).sqrt();
    if length > 1e-9 {
        column.iter_mut().for_each(|v| *v /= length);
    }
    column
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
