//! Learns signatures from labelled effects, and measures by leaving cases out how far they can be trusted.

use std::collections::{BTreeMap, BTreeSet};

use super::consult::{EXPLAINS, EXPLAINS_NOT};
use super::effects::{Effects, Moved};
use super::{FORMAT, Match, Signature, Signatures};

/// A labelled incident.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Case {
    /// Class: a cause id or a name of the user's own.
    pub class: String,
    /// Causes of the catalog that the class stands for, the first is named.
    pub causes: Vec<String>,
    /// What its signals did.
    pub moved: Moved,
}

/// Limit on what may stay unexplained where too few cases were learnt to measure one.
const UNMEASURED: f64 = 0.25;

/// Learns signatures from cases; `source` says where they come from.
///
/// A class' effect on a signal is the mean over its cases, where a case in which the signal never changes counts as 0. The spread
/// of a signal is the deviation within classes, pooled over classes as in linear discriminant analysis, plus its median over all
/// signals: the shrinkage of Tusher, Tibshirani and Chu ("Significance analysis of microarrays", 2001) and of nearest shrunken
/// centroids (Tibshirani et al., 2002), without which a signal that happens to be still in k cases would outweigh all others.
///
/// Each case is then explained by signatures learnt without it (likelihood ratios; a class of few cases leans on what was measured
/// over all classes) and without its whole class (what novelty looks like). The limit of novelty separates the two best
/// (Youden's index).
pub fn learn(cases: &[Case], source: &str) -> Signatures {
    let mut learnt = estimate(&cases.iter().collect::<Vec<_>>());
    learnt.source = source.to_owned();
    let outcomes: Vec<Outcome> = cases.iter().enumerate().map(|(i, case)| leave_out(cases, i, case)).collect();
    for class in &mut learnt.class {
        class.ratio = ratio(&outcomes, &class.name);
    }
    learnt.novel_above = limit(&outcomes, |o| (o.known, o.strange));
    learnt.novel_above_onset = limit(&outcomes, |o| (o.known_onset, o.strange_onset));
    learnt
}

/// Means and spreads alone: what [`learn`] gives, without ratios and limits.
pub fn estimate(cases: &[&Case]) -> Signatures {
    let mut classes: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
    for case in cases {
        classes.entry(&case.class).or_default().push(case);
    }
    let names: BTreeSet<&String> = cases.iter().flat_map(|c| c.moved.whole.keys().chain(c.moved.onset.keys())).collect();
    let means = |pick: fn(&Moved) -> &Effects, of: &[&Case]| -> Effects {
        names.iter().map(|n| ((*n).clone(), round(mean(of, pick, n)))).filter(|(_, e)| *e != 0.0).collect()
    };
    let whole = spreads(&classes, &names, |m| &m.whole);
    let onset = spreads(&classes, &names, |m| &m.onset);
    let spread = names.iter().zip(whole.into_iter().zip(onset)).map(|(n, (w, o))| ((*n).clone(), [round(w), round(o)])).collect();
    let class = classes
        .iter()
        .map(|(name, of)| Signature {
            name: (*name).to_owned(),
            causes: of[0].causes.clone(),
            cases: of.len(),
            ratio: [1.0, 1.0],
            effects: means(|m| &m.whole, of),
            onset: means(|m| &m.onset, of),
        })
        .collect();
    Signatures {
        format: FORMAT,
        galen_version: env!("CARGO_PKG_VERSION").to_owned(),
        source: String::new(),
        novel_above: UNMEASURED,
        novel_above_onset: UNMEASURED,
        spread,
        class,
    }
}

fn value(case: &Case, pick: fn(&Moved) -> &Effects, name: &str) -> f64 {
    pick(&case.moved).get(name).copied().unwrap_or(0.0)
}

fn mean(of: &[&Case], pick: fn(&Moved) -> &Effects, name: &str) -> f64 {
    of.iter().map(|c| value(c, pick, name)).sum::<f64>() / of.len().max(1) as f64
}

/// Spread within classes of each signal, its median over the signals added.
fn spreads(classes: &BTreeMap<&str, Vec<&Case>>, names: &BTreeSet<&String>, pick: fn(&Moved) -> &Effects) -> Vec<f64> {
    let cases: usize = classes.values().map(Vec::len).sum();
    let freedom = cases.saturating_sub(classes.len()).max(1) as f64;
    let mut within: Vec<f64> = Vec::with_capacity(names.len());
    for name in names {
        let squares = classes.values().map(|of| {
            let centre = mean(of, pick, name);
            of.iter().map(|c| (value(c, pick, name) - centre).powi(2)).sum::<f64>()
        });
        within.push((squares.sum::<f64>() / freedom).sqrt());
    }
    // One case a class has no spread: then all signals weigh the same.
    let typical = galen_tools::detect::stats::median(&mut within.clone()).filter(|m| *m > 0.0).unwrap_or(0.1);
    within.iter().map(|w| w + typical).collect()
}

/// What came of explaining a case by what was learnt without it.
struct Outcome {
    class: String,
    /// Share of each class by name, and whether it was found strange by the provisional limit.
    shares: Option<BTreeMap<String, f64>>,
    known: Option<f64>,
    known_onset: Option<f64>,
    strange: Option<f64>,
    strange_onset: Option<f64>,
}

fn leave_out(cases: &[Case], index: usize, case: &Case) -> Outcome {
    let others: Vec<&Case> = cases.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, c)| c).collect();
    let rivals: Vec<&Case> = others.iter().copied().filter(|c| c.class != case.class).collect();
    let has_kin = rivals.len() < others.len();
    let (with, without) = (estimate(&others), estimate(&rivals));
    let rest = |of: &Signatures, onset: bool| {
        let effects = if onset { &case.moved.onset } else { &case.moved.whole };
        of.explain(effects, onset)
    };
    let by_name = |found: &Match| with.class.iter().zip(&found.shares).map(|(c, s)| (c.name.clone(), *s)).collect();
    let kin = has_kin.then(|| rest(&with, false)).flatten();
    Outcome {
        class: case.class.clone(),
        shares: kin.as_ref().map(by_name),
        known: kin.map(|m| m.unexplained),
        known_onset: has_kin.then(|| rest(&with, true)).flatten().map(|m| m.unexplained),
        strange: rest(&without, false).map(|m| m.unexplained),
        strange_onset: rest(&without, true).map(|m| m.unexplained),
    }
}

/// Likelihood ratios of a match and of a mismatch of a class: P(outcome | class) / P(outcome | another class). Each share counts
/// one case more, with the outcome of all classes together (empirical Bayes), in which half a case is added to each side.
fn ratio(outcomes: &[Outcome], class: &str) -> [f64; 2] {
    let up = |s: f64| s >= EXPLAINS;
    let down = |s: f64| s < EXPLAINS_NOT;
    let ratio = |hit: &dyn Fn(f64) -> bool| share(outcomes, Some(class), true, hit) / share(outcomes, Some(class), false, hit);
    [round(ratio(&up).clamp(1.0, 1e4)), round(ratio(&down).clamp(0.001, 1.0))]
}

/// Share of the outcomes for which a class' part in the explanation meets a condition: of the cases of that class (`own`) or
/// of all others; without a class, over the pairs of case and class.
fn share(outcomes: &[Outcome], class: Option<&str>, own: bool, hit: &dyn Fn(f64) -> bool) -> f64 {
    let (mut hits, mut all) = (0.0, 0.0);
    for (outcome, shares) in outcomes.iter().filter_map(|o| Some((o, o.shares.as_ref()?))) {
        let counted = shares.iter().filter(|(name, _)| class.is_none_or(|c| c == name.as_str()) && (outcome.class == **name) == own);
        for (_, share) in counted {
            all += 1.0;
            hits += f64::from(u8::from(hit(*share)));
        }
    }
    match class {
        Some(_) => (hits + share(outcomes, None, own, hit)) / (all + 1.0),
        None => (hits + 0.5) / (all + 1.0),
    }
}

/// The limit that separates what known cases leave unexplained from what strange ones leave, by Youden's index; half way
/// between the two neighbours where it lies between cases.
fn limit(outcomes: &[Outcome], pick: impl Fn(&Outcome) -> (Option<f64>, Option<f64>)) -> f64 {
    let known: Vec<f64> = outcomes.iter().filter_map(|o| pick(o).0).collect();
    let strange: Vec<f64> = outcomes.iter().filter_map(|o| pick(o).1).collect();
    if known.len() < 3 || strange.len() < 3 {
        return UNMEASURED;
    }
    let mut all: Vec<f64> = known.iter().chain(&strange).copied().collect();
    all.sort_by(f64::total_cmp);
    let below = |values: &[f64], at: f64| values.iter().filter(|v| **v <= at).count() as f64 / values.len() as f64;
    let mut best = (f64::NEG_INFINITY, UNMEASURED);
    for pair in all.windows(2) {
        let at = (pair[0] + pair[1]) / 2.0;
        let youden = below(&known, at) - below(&strange, at);
        if youden > best.0 + 1e-12 {
            best = (youden, at);
        }
    }
    round(best.1)
}

/// Four decimals: the file stays readable and the same on all machines.
fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4 + 0.0
}
