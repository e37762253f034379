//! Detection where no table says what is usual: the stretch that differs most from everything else, in many signals at once.
//!
//! Each signal is replaced by the ranks of its values, so that spikes and units do not matter. For a stretch [a, b) the share of
//! a signal's variance that lies between inside and outside is R2 (the square of the point-biserial correlation); the stretch
//! with the largest sum of R2 squared wins. This is the scan for an epidemic change (Levin and Kline, "The cusum test of
//! homogeneity with an application in spontaneous abortion epidemiology", 1985; Olshen et al., "Circular binary segmentation",
//! 2004) made multivariate and robust. Squaring prefers few signals that shift cleanly to many that drift a little.
//! Where several things go wrong and one of them ends first, the winner is the stretch in which all are at work: it is prolonged
//! by what follows where that, measured in the same way, is an incident of its own.

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
    let thin = |grid: &[f64]| if width == 1 { grid.to_vec() } else { grid.chunks(width).map(middle).collect() };
    let columns: Vec<Column> = grids.iter().map(|grid| Column::of(thin(&grid[skip..]))).collect();
    let (first, last) = Ranked::of(&columns, usable.div_ceil(width)).best()?;
    let (from, mut to) = (skip + first * width, (skip + last * width).min(steps));
    let mut ranks = Vec::new();
    let strength = grids.iter().zip(&columns).map(|(grid, column)| column.between(&grid[skip..to], from - skip, width, &mut ranks));
    let strength: Vec<f64> = strength.collect();
    let moving = grids.iter().filter(|grid| grid[skip..].windows(2).any(|w| w[0] != w[1])).count();
    let certain = enough(strength.iter().copied(), to - skip, moving);
    if certain {
        to = (skip + prolonged(&columns, (first, last), usable.div_ceil(width), moving) * width).min(steps);
    }
    if let Some(work) = throughput.and_then(|i| grids.get(i))
        && steps - to >= LEAST
        && slower(&work[skip..from], &work[to..])
    {
        to = steps;
    }
    Some(Shift { skip, from, to, strength, certain })
}

/// True when enough of the signals that move witness a shift over so many steps.
fn enough(strength: impl Iterator<Item = f64>, steps: usize, moving: usize) -> bool {
    let least = WITNESS.max(CHANCE / steps.max(1) as f64);
    let witnesses = strength.filter(|r2| *r2 >= least).count();
    witnesses >= 2 && witnesses as f64 >= WITNESSES * moving as f64
}

/// Where an incident ends that was found in the steps `from..to`: at the end of the stretch behind it that differs most from the
/// rest, when enough signals witness that this differs both from what was before and from all that is outside. Something that
/// goes on after the worst is over is still an incident; a slow way back to the usual differs from before alone.
fn prolonged(columns: &[Column], (from, to): (usize, usize), steps: usize, moving: usize) -> usize {
    let left = steps - (to - from);
    let rest: Vec<Column> = columns.iter().map(|column| column.without(from, to)).collect();
    let Some(end) = Ranked::of(&rest, left).best_from(from) else { return to };
    let mut ranks = Vec::new();
    let mut stands_out = |among: usize| enough(rest.iter().map(|column| column.share((from, end), among, &mut ranks)), among, moving);
    if stands_out(end) && stands_out(left) { to + (end - from) } else { to }
}

/// True for a counter: it changes often and (almost) always the same way, so that only its differences tell anything.
pub fn trending(values: &[f64]) -> bool {
    // Sums that need no check for overflow, so that the compiler makes vector instructions of the loop.
    let (mut up, mut down) = (0u64, 0u64);
    for (before, after) in values.iter().zip(values.iter().skip(1)) {
        up = up.wrapping_add(u64::from(after > before));
        down = down.wrapping_add(u64::from(after < before));
    }
    (up + down) * 10 >= values.len() as u64 && up.min(down) * 20 <= up + down
}

/// The values of a signal, or the differences of a counter, as classes: equal values share one, and classes rise with the values.
struct Column {
    trends: bool,
    /// Class of each step. Missing values are in a class of their own, the last.
    classes: Vec<u32>,
    /// How many classes hold known values.
    known: usize,
}

impl Column {
    fn of(mut values: Vec<f64>) -> Self {
        let trends = trending(&values);
        if trends {
            differences(&mut values);
        }
        let mut classes = vec![u32::MAX; values.len()];
        let (mut known, mut last) = (0, f64::NAN);
        for step in rising(&values) {
            if values[step] != last {
                (known, last) = (known + 1, values[step]);
            }
            classes[step] = known - 1;
        }
        classes.iter_mut().for_each(|class| *class = (*class).min(known));
        Self { trends, classes, known: known as usize }
    }

    /// Writes the rank of each class among the first `steps` steps to `ranks` and returns the sum of their squares over these
    /// steps. Ranks are counted from the middle, equal values share the mean rank; missing values have none, which is the middle.
    fn ranks(&self, steps: usize, ranks: &mut Vec<f64>) -> f64 {
        ranks.clear();
        ranks.resize(self.known + 1, 0.0);
        self.classes[..steps].iter().for_each(|class| ranks[*class as usize] += 1.0);
        ranks[self.known] = 0.0;
        let centre = ranks.iter().sum::<f64>() / 2.0 - 0.5;
        let (mut below, mut squares) = (0.0, 0.0);
        for rank in &mut ranks[..self.known] {
            let ties = *rank;
            *rank = below + (ties - 1.0) / 2.0 - centre;
            squares += *rank * *rank * ties;
            below += ties;
        }
        squares
    }

    /// Share of the variance of the ranks of `grid`, 0..1, that lies between the steps before and from `from` on. The classes
    /// that are known already serve again, unless the grid was thinned out or is a counter only up to here.
    fn between(&self, grid: &[f64], from: usize, width: usize, ranks: &mut Vec<f64>) -> f64 {
        if width > 1 || trending(grid) != self.trends {
            return Self::of(grid.to_vec()).between(grid, from, 1, ranks);
        }
        self.share((from, grid.len()), grid.len(), ranks)
    }

    /// Share of the variance of the ranks of the first `steps` steps, 0..1, that lies between the steps from `from` to `to` and
    /// the others.
    fn share(&self, (from, to): (usize, usize), steps: usize, ranks: &mut Vec<f64>) -> f64 {
        let squares = self.ranks(steps, ranks);
        let sum: f64 = self.classes[from..to].iter().map(|class| ranks[*class as usize]).sum();
        let (inside, outside) = ((to - from) as f64, (steps - (to - from)) as f64);
        if squares > 0.0 { sum * sum * steps as f64 / squares / (inside * outside).max(1.0) } else { 0.0 }
    }

    /// The column with the steps from `from` to `to` cut out.
    fn without(&self, from: usize, to: usize) -> Self {
        let classes = [&self.classes[..from], &self.classes[to..]].concat();
        Self { trends: self.trends, classes, known: self.known }
    }
}

/// Steps of the known values, the smallest value first. The upper bits of a value and its step share one word, which sorts twice
/// as fast as a pair of them; values that differ only in the bits that gave way to the step are put in order afterwards.
fn rising(values: &[f64]) -> impl Iterator<Item = usize> {
    let low = values.len().next_power_of_two() as u64 - 1;
    let known = |(_, value): &(usize, &f64)| !value.is_nan();
    let mut words = Vec::with_capacity(values.len());
    words.extend(values.iter().enumerate().filter(known).map(|(step, value)| key(*value) & !low | step as u64));
    words.sort_unstable();
    let step = move |word: &u64| (*word & low) as usize;
    for close in words.chunk_by_mut(|a, b| a ^ b <= low).filter(|close| close.len() > 1) {
        close.sort_unstable_by_key(|word| key(values[step(word)]));
    }
    words.into_iter().map(move |word| step(&word))
}

/// Running sums of standardised ranks, one row a signal, in single precision, in which twice as many fit a register: the
/// ranks of a few hundred values need no more.
struct Ranked {
    sums: Vec<Vec<f32>>,
    steps: usize,
}

/// The best stretch so far: its worth, its first step and the first step after it.
type Best = (f64, usize, usize);

impl Ranked {
    /// Ranks are divided by their deviation; signals that are constant have none and are left out.
    fn of(columns: &[Column], steps: usize) -> Self {
        let mut ranks = Vec::new();
        let running = |column: &Column| {
            let squares = column.ranks(steps, &mut ranks);
            let deviation = (squares / steps as f64).sqrt();
            ranks.iter_mut().for_each(|rank| *rank /= deviation);
            let mut sum = 0.0;
            let next = column.classes.iter().map(|class| {
                sum += ranks[*class as usize];
                sum as f32
            });
            (squares > 0.0).then(|| std::iter::once(0.0).chain(next).collect())
        };
        Self { sums: columns.iter().filter_map(running).collect(), steps }
    }

    /// The stretch with the largest sum of squared R2: first on every second or third step, then around the winner.
    fn best(&self) -> Option<(usize, usize)> {
        let stride = (self.steps / 64).max(1);
        let mut best = self.coarse(stride);
        let (_, near_from, near_to) = best;
        for from in near_from.saturating_sub(stride).max(LEAST)..=near_from + stride {
            for to in (near_to.saturating_sub(stride)).max(from + LEAST)..=(near_to + stride).min(self.steps) {
                let fourth = self.sums.iter().map(|sums| (sums[to] - sums[from]).powi(4)).sum();
                self.consider(from, to, fourth, &mut best);
            }
        }
        (best.0 > 0.0).then_some((best.1, best.2))
    }

    /// The end of the stretch with the largest sum of squared R2 among those that begin at `from`; none where there is no room for
    /// one and for something behind it.
    fn best_from(&self, from: usize) -> Option<usize> {
        let mut best = (0.0, 0, 0);
        for to in from + LEAST..=self.steps.saturating_sub(LEAST) {
            let fourth = self.sums.iter().map(|sums| (sums[to] - sums[from]).powi(4)).sum();
            self.consider(from, to, fourth, &mut best);
        }
        (best.0 > 0.0).then_some(best.2)
    }

    /// Every `stride`-th first step with every `stride`-th end from there on. All ends of a first step are added up side by
    /// side, signal by signal: a loop without a chain of additions, which the compiler turns into vector instructions.
    fn coarse(&self, stride: usize) -> Best {
        let mut best = (0.0, 0, 0);
        let begins: Vec<usize> = (LEAST..=self.steps.saturating_sub(LEAST)).step_by(stride).collect();
        let ends: Vec<usize> = (2 * LEAST..=self.steps).step_by(stride).chain([self.steps]).collect();
        let thin: Vec<Vec<f32>> = self.sums.iter().map(|sums| ends.iter().map(|to| sums[*to]).collect()).collect();
        let mut fourths = vec![0.0; ends.len()];
        for (at, from) in begins.into_iter().enumerate() {
            // The shortest stretch from here ends at the end of the same number, and the last end is good for all.
            let ends = &ends[at.min(ends.len() - 1)..];
            let fourths = &mut fourths[..ends.len()];
            fourths.fill(0.0);
            for (sums, thin) in self.sums.iter().zip(&thin) {
                let begin = sums[from];
                for (fourth, end) in fourths.iter_mut().zip(&thin[thin.len() - ends.len()..]) {
                    let square = (end - begin) * (end - begin);
                    *fourth += square * square;
                }
            }
            for (to, fourth) in ends.iter().zip(fourths) {
                self.consider(from, *to, *fourth, &mut best);
            }
        }
        best
    }

    /// `fourth`: sum over the signals of the fourth power of the sum of ranks inside.
    fn consider(&self, from: usize, to: usize, fourth: f32, best: &mut Best) {
        let (inside, outside) = ((to - from) as f64, (self.steps - (to - from)) as f64);
        let worth = f64::from(fourth) / (inside * outside).powi(2);
        if worth > best.0 {
            *best = (worth, from, to);
        }
    }
}

/// Median of a few values, NaN where there are none.
fn middle(values: &[f64]) -> f64 {
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

/// An integer that orders as [`f64::total_cmp`] does.
fn key(value: f64) -> u64 {
    let bits = value.to_bits();
    if value.is_sign_negative() { !bits } else { bits | 1 << 63 }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_differ_only_in_their_last_bits_are_put_in_order_too() {
        let near = |bits: u64| f64::from_bits(1e15f64.to_bits() + bits);
        let values = [near(3), -1.0, f64::NAN, near(1), 0.5, near(2), -0.0, near(3), f64::NEG_INFINITY, near(0), -2.5];
        let known: Vec<f64> = rising(&values).map(|step| values[step]).collect();
        assert_eq!(known, [f64::NEG_INFINITY, -2.5, -1.0, -0.0, 0.5, near(0), near(1), near(2), near(3), near(3)]);
    }

    #[test]
    fn equal_values_share_the_mean_rank_and_missing_ones_have_none() {
        let column = Column::of(vec![3.0, f64::NAN, 0.0, -0.0, 3.0, 1.0, 9.0, 2.0]);
        let mut ranks = Vec::new();
        let squares = column.ranks(8, &mut ranks);
        let of: Vec<f64> = column.classes.iter().map(|class| ranks[*class as usize]).collect();
        assert_eq!(of, [1.5, 0.0, -2.5, -2.5, 1.5, -1.0, 3.0, 0.0]);
        assert!((squares - of.iter().map(|rank| rank * rank).sum::<f64>()).abs() < 1e-9);
        // Among the first six only: 0, 0, 1, 3, 3 around the middle.
        column.ranks(6, &mut ranks);
        assert_eq!([2, 5, 0].map(|step| ranks[column.classes[step] as usize]), [-1.5, 0.0, 1.5]);
    }
}
