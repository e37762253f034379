//! Simple methods to compare with: a robust z detector and a nearest centroid. What they reach is what the data give away.

use std::collections::{BTreeMap, BTreeSet};

use galen_tools::capture::Capture;
use galen_tools::detect::stats::median;
use galen_tools::model::{Series, Window};

/// Values by signal.
pub(super) type Levels = BTreeMap<String, f64>;

/// Robust z scores beyond this count as ten.
const MOST_Z: f64 = 10.0;
/// Seconds after them that serve the simple detector as baseline.
const START: usize = 15;
/// Seconds over which it smooths.
const SMOOTH: usize = 5;
/// Seconds at the start that every method leaves out: the load generator warms up.
const WARM_UP: usize = 10;
/// Seconds in line that do not end a stretch.
const GAP: i64 = 3;

/// Median and 1.4826 MAD, floored at a fiftieth of the level.
fn usual(values: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = values.to_vec();
    let level = median(&mut sorted)?;
    let mut away: Vec<f64> = values.iter().map(|v| (v - level).abs()).collect();
    Some((level, (1.4826 * median(&mut away)?).max(0.02 * level.abs()).max(1e-6)))
}

/// Robust z score of each signal's median over a window against a baseline, at most 10 either way.
pub(super) fn robust_z(capture: &Capture, baseline: Window, window: Window) -> Levels {
    let z = |series: &Series| {
        let (level, spread) = usual(series.within(baseline))?;
        let inside = median(&mut series.within(window).to_vec())?;
        Some(((inside - level) / spread).clamp(-MOST_Z, MOST_Z))
    };
    capture.series.iter().filter_map(|(name, series)| Some((name.clone(), z(series)?))).collect()
}

/// Mean of each signal over a window.
pub(super) fn levels(capture: &Capture, window: Window) -> Levels {
    let mean = |series: &Series| {
        let values = series.within(window);
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    capture.series.iter().filter_map(|(name, series)| Some((name.clone(), mean(series)?))).collect()
}

/// The longest stretch whose mean robust z score, over all signals and smoothed over five seconds, is above half way from
/// what it is at the start to its 90th percentile. The start serves as baseline; counters that only grow are taken as
/// differences. Of the variants tried on all recordings this is the best one: the comparison is not made easy. Its bar
/// hangs on the recording alone, so it always names a stretch, except of one shorter than [`WARM_UP`] and [`START`] together or
/// one in which nothing moves.
pub(super) fn simple_window(capture: &Capture) -> Option<Window> {
    let span = capture.span()?;
    // One that is cut before its first row has none.
    let steps = usize::try_from((span.end - span.start) / 1000).ok()?;
    let mut total = vec![0.0; steps];
    for series in capture.series.values() {
        let values = levelled(&series.values);
        let Some((level, spread)) = values.get(WARM_UP..WARM_UP + START).and_then(usual) else { continue };
        for (time, value) in series.times.iter().zip(&values) {
            let at = ((time - span.start) / 1000) as usize;
            if let Some(sum) = total.get_mut(at).filter(|_| at >= WARM_UP) {
                *sum += ((value - level).abs() / spread).min(MOST_Z);
            }
        }
    }
    let half = SMOOTH / 2;
    let smooth: Vec<f64> =
        (0..steps).map(|at| median(&mut total[at.saturating_sub(half)..(at + half + 1).min(steps)].to_vec()).unwrap_or(0.0)).collect();
    let mut sorted = smooth.get(WARM_UP..)?.to_vec();
    sorted.sort_by(f64::total_cmp);
    let high = *sorted.get(sorted.len() * 9 / 10)?;
    let low = median(&mut smooth.get(WARM_UP..WARM_UP + START)?.to_vec())?;
    let limit = (low + high) / 2.0;
    let mut best: Option<(i64, i64)> = None;
    let mut run: Option<(i64, i64)> = None;
    for at in (0..steps as i64).filter(|at| smooth[*at as usize] > limit) {
        let (first, _) = run.filter(|(_, last)| at - last <= GAP + 1).unwrap_or((at, at));
        run = Some((first, at));
        if best.is_none_or(|(from, to)| at - first > to - from) {
            best = run;
        }
    }
    best.map(|(from, to)| Window { start: span.start + from * 1000, end: span.start + (to + 1) * 1000 })
}

/// Intersection over union of two windows.
pub(super) fn overlap(found: Option<Window>, truth: Window) -> f64 {
    let Some(found) = found else { return 0.0 };
    let shared = (found.end.min(truth.end) - found.start.max(truth.start)).max(0) as f64;
    shared / (found.end.max(truth.end) - found.start.min(truth.start)).max(1) as f64
}

/// The placebo of the overlap: what a window of the right length reaches at a place that nothing chose, as the mean over all
/// places in the recording, a second apart; in one that claims to be very long, at 100,000 places.
pub(super) fn anywhere(span: Window, truth: Window) -> f64 {
    let length = truth.end - truth.start;
    let last = (span.end - length).max(span.start);
    let step = usize::try_from((last - span.start) / 100_000).unwrap_or(usize::MAX).max(1000);
    let reached = (span.start..=last).step_by(step).map(|start| overlap(Some(Window { start, end: start + length }), truth));
    let (sum, count) = reached.fold((0.0, 0_u32), |(sum, count), one| (sum + one, count + 1));
    sum / f64::from(count.max(1))
}

/// The values, or their differences where they only grow.
fn levelled(values: &[f64]) -> Vec<f64> {
    let grows = values.windows(2).filter(|pair| pair[1] >= pair[0]).count() as f64;
    if grows > 0.95 * values.len() as f64 && values.last() > values.first() {
        std::iter::once(0.0).chain(values.windows(2).map(|pair| pair[1] - pair[0])).collect()
    } else {
        values.to_vec()
    }
}

/// Classes by distance of their centroid, the nearest first, each with its distance. `scaled` divides each signal by its
/// deviation over all learnt cases, for values with units.
pub(super) fn nearest(learnt: &[(&str, &Levels)], tested: &Levels, scaled: bool) -> Vec<(String, f64)> {
    let names: BTreeSet<&String> = learnt.iter().flat_map(|(_, l)| l.keys()).collect();
    let mut classes: BTreeMap<&str, Vec<&Levels>> = BTreeMap::new();
    for (class, levels) in learnt {
        classes.entry(class).or_default().push(levels);
    }
    let at = |levels: &Levels, name: &String| levels.get(name).copied().unwrap_or(0.0);
    let mut distance: BTreeMap<&str, f64> = BTreeMap::new();
    for name in names {
        let all: Vec<f64> = learnt.iter().map(|(_, l)| at(l, name)).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let deviation = (all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64).sqrt();
        let unit = if scaled { deviation.max(1e-9) } else { 1.0 };
        for (class, of) in &classes {
            let centre = of.iter().map(|l| at(l, name)).sum::<f64>() / of.len() as f64;
            *distance.entry(class).or_default() += ((at(tested, name) - centre) / unit).powi(2);
        }
    }
    let mut ranked: Vec<(String, f64)> = distance.into_iter().map(|(c, d)| (c.to_owned(), d.sqrt())).collect();
    ranked.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simple_detector_names_a_stretch_of_whatever_is_long_enough() {
        let noise = |seconds: i64| {
            let mut series = Series::default();
            (0..seconds).for_each(|s| series.push(s * 1000, (s * 7_919 % 1_000) as f64));
            Capture { series: BTreeMap::from([("x".to_owned(), series)]), ..Capture::default() }
        };
        assert_eq!([24, 26, 60].map(|seconds| simple_window(&noise(seconds)).is_some()), [false, true, true]);
        let mut cut = noise(60);
        cut.manifest.span = Some(Window { start: 0, end: -5000 });
        assert_eq!(simple_window(&cut), None);
    }

    #[test]
    fn a_window_anywhere_overlaps_by_chance_alone() {
        let window = |start: i64, end: i64| Window { start: start * 1000, end: end * 1000 };
        assert_eq!(overlap(Some(window(10, 20)), window(15, 25)), 5.0 / 15.0);
        assert_eq!((overlap(None, window(0, 9)), overlap(Some(window(0, 5)), window(5, 9))), (0.0, 0.0));
        // Two seconds of four: at five places of which three touch, 1/3, 1, 1/3 in the middle.
        assert!((anywhere(window(0, 6), window(2, 4)) - (1.0 + 2.0 / 3.0) / 5.0).abs() < 1e-12);
        assert_eq!(anywhere(window(0, 6), window(0, 6)), 1.0, "where the incident fills the recording, any window is right");
    }
}
