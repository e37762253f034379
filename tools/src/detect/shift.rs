//! Detection where no table says what is usual: the stretch that differs most from everything else, in many signals at once.
//!
//! Each signal is replaced by the ranks of its values, so that spikes and units do not matter. For a stretch [a, b) the share of
//! a signal's variance that lies between inside and outside is R2 (the square of the point-biserial correlation); the stretch
//! with the largest sum of R2 squared wins. This is the scan for an epidemic change (Levin and Kline, "The cusum test of
//! homogeneity with an application in spontaneous abortion epidemiology", 1985; Olshen et al., "Circular binary segmentation",
//! 2004) made multivariate and robust. Squaring prefers few signals that shift cleanly to many that drift a little.

/// Shortest anomaly and shortest baseline, seconds.
const LEAST: usize = 5;
/// A signal witnesses a shift when this share of its variance lies between inside and outside: a strong effect.
pub(super) const WITNESS: f64 = 0.3;
/// And when steps times that share, which is about chi-squared with one degree of freedom where nothing happens, is beyond what
/// the best of all stretches reaches by chance in signals that remember their last values.
const CHANCE: f64 = 20.0;
/// A shift counts when at least this share of the signals that change at all witness it; healthy stretches have a third of that.
const WITNESSES: f64 = 0.1;
/// Most steps that are scanned; longer captures are scanned on a coarser grid.
const MOST_STEPS: usize = 256;
/// Throughput has not come back when a second after the stretch is slower than one before it in three of four pairs.
const SLOWER: f64 = 0.75;

/// A stretch that differs, on the grid of the values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shift {
    /// First step that counts as baseline.
    pub skip: usize,
    /// First step inside.
    pub from: usize,
    /// First step after.
    pub to: usize,
    /// Share of the variance between inside and the baseline before it, for each grid that was given.
    pub strength: Vec<f64>,
    /// Whether enough signals witness it to call it an incident.
    pub certain: bool,
}

/// Finds the stretch that differs most. `grids` holds one value a step for each signal, NaN where there is none; the first
/// `skip` steps, in which a recording warms up, are neither baseline nor anomaly. `throughput` is the index of the signal that
/// counts work done: an incident lasts until it has come back. None where the grids are too short or constant.
pub(super) fn find(grids: &[&[f64]], skip: usize, throughput: Option<usize>) -> Option<Shift> {
    let steps = grids.first()?.len();
    let usable = steps.checked_sub(skip)?;
    if usable < 4 * LEAST {
        return None;
    }
    let width = usable.div_ceil(MOST_STEPS);
    let ranked = Ranked::of(grids, skip, width);
    let (from, to) = ranked.best()?;
    let (from, mut to) = (skip + from * width, (skip + to * width).min(steps));
    let strength: Vec<f64> = grids.iter().map(|grid| between(&grid[skip..from], &grid[from..to])).collect();
    let least = witness(to - skip);
    let witnesses = strength.iter().filter(|r2| **r2 >= least).count();
    let moving = grids.iter().filter(|grid| grid[skip..].windows(2).any(|w| w[0] != w[1])).count();
    let certain = witnesses >= 2 && witnesses as f64 >= WITNESSES * moving as f64;
    if let Some(work) = throughput.and_then(|i| grids.get(i))
        && steps - to >= LEAST
        && slower(&work[skip..from], &work[to..])
    {
        to = steps;
    }
    Some(Shift { skip, from, to, strength, certain })
}

/// The least share of variance that makes a witness over so many steps.
fn witness(steps: usize) -> f64 {
    WITNESS.max(CHANCE / steps.max(1) as f64)
}

/// True for a counter: it changes often and (almost) always the same way, so that only its differences tell anything.
pub fn trending(values: &[f64]) -> bool {
    let (mut up, mut down) = (0usize, 0usize);
    for pair in values.windows(2) {
        up += usize::from(pair[1] > pair[0]);
        down += usize::from(pair[1] < pair[0]);
    }
    (up + down) * 10 >= values.len() && up.min(down) * 20 <= up + down
}

/// Lanes in which the scan adds.
const LANES: usize = 8;

/// Running sums of standardised ranks: `sums[step][signal]`, in single precision, in which twice as many fit a register: the
/// ranks of a few hundred values need no more.
struct Ranked {
    sums: Vec<f32>,
    lanes: usize,
    steps: usize,
}

impl Ranked {
    fn of(grids: &[&[f64]], skip: usize, width: usize) -> Self {
        let mut order: Vec<(i64, u32)> = Vec::new();
        let mut columns: Vec<Vec<f64>> = Vec::new();
        for grid in grids {
            let mut values: Vec<f64> = grid[skip..].chunks(width).map(middle).collect();
            if trending(&values) {
                differences(&mut values);
            }
            if standardise(&mut values, &mut order) {
                columns.push(values);
            }
        }
        let steps = (grids.first().map_or(0, |g| g.len()) - skip).div_ceil(width);
        let lanes = columns.len().div_ceil(LANES) * LANES;
        let mut sums = vec![0.0; (steps + 1) * lanes];
        for (lane, column) in columns.iter().enumerate() {
            let mut sum = 0.0;
            for (step, rank) in column.iter().enumerate().take(steps) {
                sum += rank;
                sums[(step + 1) * lanes + lane] = sum as f32;
            }
        }
        Self { sums, lanes, steps }
    }

    /// The stretch with the largest sum of squared R2: first on every second or third step, then around the winner.
    fn best(&self) -> Option<(usize, usize)> {
        let stride = (self.steps / 64).max(1);
        let mut best = (0.0, 0, 0);
        for from in (LEAST..=self.steps.saturating_sub(LEAST)).step_by(stride) {
            let inner = (from + LEAST..=self.steps).step_by(stride).chain([self.steps]);
            inner.for_each(|to| self.consider(from, to, &mut best));
        }
        let (_, near_from, near_to) = best;
        for from in near_from.saturating_sub(stride).max(LEAST)..=near_from + stride {
            for to in (near_to.saturating_sub(stride)).max(from + LEAST)..=(near_to + stride).min(self.steps) {
                self.consider(from, to, &mut best);
            }
        }
        (best.0 > 0.0).then_some((best.1, best.2))
    }

    fn consider(&self, from: usize, to: usize, best: &mut (f64, usize, usize)) {
        let (inside, outside) = ((to - from) as f64, (self.steps - (to - from)) as f64);
        let at = |step: usize| &self.sums[step * self.lanes..(step + 1) * self.lanes];
        let mut lanes = [0.0f32; LANES];
        for (b, a) in at(to).chunks_exact(LANES).zip(at(from).chunks_exact(LANES)) {
            for (lane, sum) in lanes.iter_mut().enumerate() {
                let square = (b[lane] - a[lane]) * (b[lane] - a[lane]);
                *sum += square * square;
            }
        }
        let worth = lanes.iter().map(|sum| f64::from(*sum)).sum::<f64>() / (inside * outside).powi(2);
        if worth > best.0 {
            *best = (worth, from, to);
        }
    }
}

/// Median of a few values, NaN where there are none.
fn middle(values: &[f64]) -> f64 {
    if let [one] = values {
        return *one;
    }
    let mut known: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
    super::stats::median(&mut known).unwrap_or(f64::NAN)
}

/// Differences between neighbours, in place; the first repeats the second.
pub fn differences(values: &mut [f64]) {
    for at in (1..values.len()).rev() {
        values[at] -= values[at - 1];
    }
    if values.len() > 1 {
        values[0] = values[1];
    }
}

/// An integer that orders as [`f64::total_cmp`] does: sorting it needs no look at the values.
fn key(value: f64) -> i64 {
    let bits = value.to_bits().cast_signed();
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

/// Ranks (ties share the mean rank, missing values stand in the middle) with mean 0 and deviation 1; false when constant.
fn standardise(values: &mut [f64], order: &mut Vec<(i64, u32)>) -> bool {
    order.clear();
    order.extend(values.iter().enumerate().filter(|(_, v)| !v.is_nan()).map(|(i, v)| (key(*v), i as u32)));
    order.sort_unstable();
    let known = order.len();
    let centre = known as f64 / 2.0 - 0.5;
    let (mut at, mut squares) = (0, 0.0);
    let mut ranks = vec![0.0; values.len()];
    while at < known {
        let value = values[order[at].1 as usize];
        let end = at + order[at..].iter().take_while(|(_, i)| values[*i as usize] == value).count().max(1);
        let rank = (at + end - 1) as f64 / 2.0 - centre;
        for (_, i) in &order[at..end] {
            ranks[*i as usize] = rank;
        }
        squares += rank * rank * (end - at) as f64;
        at = end;
    }
    if squares <= 0.0 {
        return false;
    }
    let deviation = (squares / values.len() as f64).sqrt();
    values.iter_mut().zip(ranks).for_each(|(value, rank)| *value = rank / deviation);
    true
}

/// Share of the ranks' variance between two samples, 0..1.
fn between(outside: &[f64], inside: &[f64]) -> f64 {
    let mut all: Vec<f64> = outside.iter().chain(inside).copied().collect();
    if trending(&all) {
        differences(&mut all);
    }
    if !standardise(&mut all, &mut Vec::new()) {
        return 0.0;
    }
    let sum: f64 = all[outside.len()..].iter().sum();
    sum * sum / (inside.len() as f64 * outside.len() as f64).max(1.0)
}

/// Mann and Whitney's probability that a value after is below one before, against [`SLOWER`].
fn slower(before: &[f64], after: &[f64]) -> bool {
    let mut wins = 0.0;
    let mut pairs = 0.0;
    for b in before.iter().filter(|v| !v.is_nan()) {
        for a in after.iter().filter(|v| !v.is_nan()) {
            wins += if a < b { 1.0 } else { 0.5 * f64::from(u8::from(a == b)) };
            pairs += 1.0;
        }
    }
    pairs > 0.0 && wins / pairs >= SLOWER
}
