//! The choice of a part of the specifications: proportional over strata of workload and causes, the same every time.

use std::collections::BTreeMap;

use super::spec::Spec;

/// Least number of cases of a stratum in a part.
const LEAST: usize = 2;

/// Specifications by workload and causes.
pub fn strata(specs: &[Spec]) -> BTreeMap<(String, Vec<String>), Vec<&Spec>> {
    let mut strata: BTreeMap<_, Vec<&Spec>> = BTreeMap::new();
    for spec in specs {
        strata.entry((spec.workload.clone(), spec.causes.clone())).or_default().push(spec);
    }
    strata
}

/// Ids of `count` specifications: each stratum in proportion (largest remainders), at least two where it has them, spread
/// evenly over its ids.
pub fn stratified(specs: &[Spec], count: usize) -> Vec<u32> {
    let strata: Vec<Vec<&Spec>> = strata(specs).into_values().collect();
    let all = specs.len().max(1);
    let exact = |stratum: &Vec<&Spec>| stratum.len() as f64 * count as f64 / all as f64;
    let mut shares: Vec<usize> = strata.iter().map(|s| (exact(s) as usize).max(LEAST).min(s.len())).collect();
    let mut order: Vec<usize> = (0..strata.len()).collect();
    order.sort_by(|a, b| exact(&strata[*b]).fract().total_cmp(&exact(&strata[*a]).fract()).then(a.cmp(b)));
    for at in order.into_iter().cycle().take(count * strata.len().max(1)) {
        if shares.iter().sum::<usize>() >= count {
            break;
        }
        shares[at] = (shares[at] + 1).min(strata[at].len());
    }
    // Small strata got more than their proportion: the largest give it.
    while shares.iter().sum::<usize>() > count {
        match shares.iter_mut().filter(|share| **share > LEAST).max() {
            Some(largest) => *largest -= 1,
            None => break,
        }
    }
    let mut ids: Vec<u32> = Vec::new();
    for (stratum, share) in strata.iter().zip(shares) {
        // The middle of each of `share` equal stretches.
        ids.extend((0..share).map(|i| stratum[(2 * i + 1) * stratum.len() / (2 * share)].id));
    }
    ids.sort_unstable();
    ids
}
