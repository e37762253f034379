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
    let columns: Vec<Column> = grids.iter().map(|grid| Column::of(grid[skip..].chunks(width).map(middle).collect())).collect();
    let (from, to) = Ranked::of(&columns, usable.div_ceil(width)).best()?;
    let (from, mut to) = (skip + from * width, (skip + to * width).min(steps));
    let strength: Vec<f64> = grids.iter().zip(&columns).map(|(grid, column)| column.between(&grid[skip..to], from - skip, width)).collect();
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

/// The values of a signal, or the differences of a counter, and the order in which they rise.
struct Column {
    values: Vec<f64>,
    trends: bool,
    /// Steps of the known values, the smallest first.
    order: Vec<u32>,
}

impl Column {
    fn of(mut values: Vec<f64>) -> Self {
        let trends = trending(&values);
        if trends {
            differences(&mut values);
        }
        let mut keys: Vec<(i64, u32)> = values.iter().enumerate().filter(|(_, v)| !v.is_nan()).map(|(i, v)| (key(*v), i as u32)).collect();
        keys.sort_unstable();
        Self { values, trends, order: keys.into_iter().map(|(_, i)| i).collect() }
    }

    /// Calls `each` with the rank and the steps of every group of equal values among the first `steps` steps. Ranks are counted
    /// from the middle, ties share the mean rank; missing values have none, which is the middle.
    fn ranks(&self, steps: usize, mut each: impl FnMut(f64, &[u32])) {
        let within: Vec<u32> = self.order.iter().copied().filter(|i| (*i as usize) < steps).collect();
        let centre = within.len() as f64 / 2.0 - 0.5;
        let mut at = 0;
        for ties in within.chunk_by(|a, b| self.values[*a as usize] == self.values[*b as usize]) {
            each((2 * at + ties.len() - 1) as f64 / 2.0 - centre, ties);
            at += ties.len();
        }
    }

    /// Ranks with mean 0 and deviation 1; none when the values are constant.
    fn standardised(&self) -> Option<Vec<f64>> {
        let mut ranks = vec![0.0; self.values.len()];
        let mut squares = 0.0;
        self.ranks(self.values.len(), |rank, steps| {
            steps.iter().for_each(|i| ranks[*i as usize] = rank);
            squares += rank * rank * steps.len() as f64;
        });
        let deviation = (squares / self.values.len() as f64).sqrt();
        ranks.iter_mut().for_each(|rank| *rank /= deviation);
        (squares > 0.0).then_some(ranks)
    }

    /// Share of the variance of the ranks of `grid`, 0..1, that lies between the steps before and from `from` on. The order
    /// that is known already serves again, unless the grid was thinned out or is a counter only up to here.
    fn between(&self, grid: &[f64], from: usize, width: usize) -> f64 {
        if width > 1 || trending(grid) != self.trends {
            return Self::of(grid.to_vec()).between(grid, from, 1);
        }
        let (mut sum, mut squares) = (0.0, 0.0);
        self.ranks(grid.len(), |rank, steps| {
            sum += rank * steps.iter().filter(|i| **i as usize >= from).count() as f64;
            squares += rank * rank * steps.len() as f64;
        });
        let (outside, inside) = (from as f64, (grid.len() - from) as f64);
        if squares > 0.0 { sum * sum * grid.len() as f64 / squares / (inside * outside).max(1.0) } else { 0.0 }
    }
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
    fn of(columns: &[Column], steps: usize) -> Self {
        let running = |ranks: Vec<f64>| {
            let mut sum = 0.0;
            let next = ranks.into_iter().map(|rank| {
                sum += rank;
                sum as f32
            });
            std::iter::once(0.0).chain(next).collect()
        };
        Self { sums: columns.iter().filter_map(Column::standardised).map(running).collect(), steps }
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
