//! Detection in a capture: which stretch is anomalous, against which baseline, and which signals show it.
//!
//! Every signal is scored against the median and floored MAD of a candidate baseline, scores are added up on a grid
//! of one second, and the anomalous window is the interval of maximal sum above a threshold (Bentley's maximal
//! subarray). The candidate baseline that explains the capture best wins: an anomaly may cover most of it.
//! A recording of signals alone, most of them in no table, is left to `shift.rs`, which needs to know nothing of them.

use crate::capture::Capture;
use crate::model::{Series, UnixMs, Window};
use crate::signals::{SignalSpec, SignalTable};

use super::beside::with_beside;
use super::shift::{self, Shift};
use super::stats::{Usual, beyond_limit, median, weight};
use super::{Abnormal, DetectOptions, Detection, Direction};

/// One step of the grid, milliseconds.
pub(super) const STEP: i64 = 1000;
/// See [`SignalSpec::grave`].
const MINUTE_MS: i64 = 60_000;
/// Sum of weights below which a second counts as quiet.
const THRESHOLD: f64 = 0.45;
/// Most that signals count which may not open an incident, where none speaks that may.
const ALONE: f64 = 0.15;
/// A signal with fewer samples is not judged.
pub const LEAST_SAMPLES: usize = 4;
/// A sampling period from which on samples are taken for averages, milliseconds.
const COARSE: f64 = 20_000.0;
/// An anomaly shows in its signals a sample or two after it began: so much before the window is in neither, milliseconds.
const MARGIN_MS: i64 = 3_000;
/// Longest capture looked at, grid steps (a day); older samples are left out.
const MOST_STEPS: i64 = 86_400;

/// The signal that counts work done.
pub(super) const THROUGHPUT: &str = "tps";
/// Sessions on a processor, as looking at sessions shows them.
const ON_CPU: &str = "active_sessions{wait_class=\"CPU\"}";
/// Families that rise with the work done, and are no harm by themselves.
const WORK: [&str; 2] = ["reads", "writes"];

pub(super) struct Signal<'a> {
    pub(super) name: &'a str,
    pub(super) series: &'a Series,
    pub(super) spec: &'a SignalSpec,
    /// May open an incident by itself.
    pub(super) triggers: bool,
    /// Values on the grid; NaN where there is no data.
    pub(super) grid: Vec<f64>,
    /// Stretch of the grid in which too many of what should hardly ever happen were counted within a minute.
    grave: Option<(usize, usize)>,
}

impl Signal<'_> {
    fn beyond(&self, at: usize, value: f64) -> bool {
        beyond_limit(value, self.spec) || self.grave.is_some_and(|(from, to)| (from..to).contains(&at))
    }
}

/// Finds the anomalous window of a capture and the abnormal signals in it.
pub fn detect(capture: &Capture, table: &SignalTable, options: &DetectOptions) -> Detection {
    let Some(span) = capture.span().filter(|s| s.end > s.start) else { return quiet("the capture holds no samples") };
    let start = span.start.max(span.end - MOST_STEPS * STEP);
    let steps = ((span.end - start + STEP - 1) / STEP) as usize;
    let signals = signals(capture, table, options, start, steps);
    if signals.is_empty() {
        return quiet("no signal has enough samples");
    }
    let warm_up = (options.warm_up_s.max(1.0) as usize).min(steps);
    // Where statements or sessions were recorded, they say more than signals that nobody knows.
    let signals_alone = capture.statements.is_empty() && capture.sessions.is_empty();
    if signals_alone && signals.iter().filter(|s| s.spec.name.is_empty()).count() * 2 > signals.len() {
        let grids: Vec<&[f64]> = signals.iter().map(|s| s.grid.as_slice()).collect();
        let work = signals.iter().position(|s| s.name == THROUGHPUT);
        return match shift::find(&grids, warm_up, work) {
            Some(found) => conclude_shift(&signals, &found, start, options),
            None => quiet("too short to tell one stretch from the rest"),
        };
    }
    let coarse = coarse_period(&signals);
    let cpus = capture.manifest.cpus;
    let found = candidates(steps, warm_up, coarse).into_iter().filter_map(|baseline| best_window(&signals, baseline, steps));
    let (lost, forward): (Vec<_>, Vec<_>) = found.partition(|found| backwards(&signals, found, (warm_up, steps), cpus));
    let lost = lost.into_iter().next().map(|found| (found.from, found.to));
    let told = |detection| with_beside(detection, &signals, lost, (start, steps));
    let Some(first) = forward.into_iter().max_by(|a, b| a.worth.total_cmp(&b.worth)) else {
        return told(by_limits(&signals, start, steps, options));
    };
    // Second pass: everything before the window is baseline.
    let baseline = if first.from >= warm_up { (0, first.from) } else { first.baseline };
    let mut found = best_window(&signals, baseline, steps).unwrap_or(first);
    if let Some(period) = coarse {
        // A sample stands for its whole period: a window that begins or ends inside one takes all of it.
        found.from -= found.from % period;
        // The median of three lags one or two steps behind.
        found.to = found.to.saturating_sub(2).next_multiple_of(period).clamp(found.from + 1, steps);
        if found.baseline.0 < found.from {
            found.baseline.1 = found.baseline.1.min(found.from);
        }
    }
    let margin = if coarse.is_some() { 0 } else { MARGIN_MS };
    let options = match coarse {
        // A single sample out of line is no anomaly.
        Some(period) => &DetectOptions { persistence_s: options.persistence_s.max(2.0 * period as f64 - 1.0), ..options.clone() },
        None => options,
    };
    told(conclude(&signals, &found, (start, margin), cpus, options))
}

/// Judges what is abnormal from a moment on, where somebody who watched longer (the live detector) has seen an anomaly
/// begin. Nothing abnormal in the median of that stretch is an answer too: bursts come and go.
pub fn detect_since(capture: &Capture, table: &SignalTable, options: &DetectOptions, began: UnixMs) -> Detection {
    let Some(span) = capture.span().filter(|s| s.end > s.start) else { return quiet("the capture holds no samples") };
    let start = span.start.max(span.end - MOST_STEPS * STEP);
    let steps = ((span.end - start + STEP - 1) / STEP) as usize;
    let from = (((began - start) / STEP).max(0) as usize).min(steps - 1);
    let signals = signals(capture, table, options, start, steps);
    let mut scratch = Vec::new();
    let mut abnormal: Vec<Abnormal> =
        signals.iter().filter_map(|s| abnormal(s, usual(s, (0, from), &mut scratch), (from, steps), start)).collect();
    abnormal.sort_by(|a, b| b.score.abs().total_cmp(&a.score.abs()).then(a.signal.cmp(&b.signal)));
    let at = start + from as i64 * STEP;
    let began = abnormal.iter().map(|a| a.began).fold(at, i64::min);
    let baseline = before(Window { start, end: at }, began, MARGIN_MS, options);
    Detection {
        window: Some(Window { start: at, end: start + steps as i64 * STEP }),
        baseline: (baseline.seconds() >= 5.0).then_some(baseline),
        abnormal,
        ..Detection::default()
    }
}

fn quiet(why: &str) -> Detection {
    Detection { quiet: Some(why.to_owned()), ..Detection::default() }
}

fn signals<'a>(capture: &'a Capture, table: &'a SignalTable, options: &DetectOptions, start: UnixMs, steps: usize) -> Vec<Signal<'a>> {
    let mut gaps = Vec::new();
    let build = |(name, series): (&'a String, &'a Series)| {
        let spec = table.lookup(name);
        let grave = spec.grave.and_then(|least| grave(series, least, start, steps));
        let triggers = if spec.name.is_empty() { options.unknown_trigger } else { spec.triggers || grave.is_some() };
        Signal { name, series, grid: on_grid(series, start, steps, &mut gaps), spec, triggers, grave }
    };
    capture.series.iter().filter(|(_, s)| s.values.len() >= LEAST_SAMPLES).map(build).collect()
}

/// From the first sample to the last of those with `least` occurrences within a minute, in steps of the grid. The series is a
/// rate: what a sample counts is its value times the time since the sample before.
fn grave(series: &Series, least: f64, start: UnixMs, steps: usize) -> Option<(usize, usize)> {
    let counts: Vec<(UnixMs, UnixMs, f64)> = series
        .times
        .windows(2)
        .zip(series.values.iter().skip(1))
        .map(|(times, rate)| (times[0], times[1], rate * (times[1] - times[0]) as f64 / 1000.0))
        .filter(|(_, _, count)| *count > 0.0)
        .collect();
    let (mut from, mut sum) = (0, 0.0);
    let mut found: Option<(UnixMs, UnixMs)> = None;
    for (_, end, count) in &counts {
        sum += count;
        while counts[from].1 + MINUTE_MS <= *end {
            sum -= counts[from].2;
            from += 1;
        }
        if sum >= least - 1e-6 {
            found = Some((found.map_or(counts[from].0, |(first, _)| first), *end));
        }
    }
    let step = |at: UnixMs| (((at - start) / STEP).max(0) as usize).min(steps);
    found.map(|(first, last)| (step(first), step(last))).filter(|(first, last)| first < last)
}

/// Holds each value until the next sample, at most three of the series' own periods: then data is missing.
fn on_grid(series: &Series, start: UnixMs, steps: usize, gaps: &mut Vec<f64>) -> Vec<f64> {
    let mut grid = vec![f64::NAN; steps];
    // Whole seconds one after the other, which most recordings are, lie in their places already.
    let seconds = |times: &[UnixMs]| times.windows(2).all(|w| w[1] - w[0] == STEP);
    if let Some(first) = series.times.first().filter(|t| **t >= start && (**t - start) % STEP == 0 && seconds(&series.times)) {
        let from = (((first - start) / STEP) as usize).min(steps);
        let places = &mut grid[from..];
        let known = places.len().min(series.values.len());
        places[..known].copy_from_slice(&series.values[..known]);
        return grid;
    }
    let period = period(series, gaps).unwrap_or(STEP as f64);
    let hold = period * 3.0;
    let last = if period >= COARSE { period as i64 } else { STEP };
    for (i, (time, value)) in series.times.iter().zip(&series.values).enumerate() {
        let next = series.times.get(i + 1).copied().unwrap_or(*time + last);
        let until = (*time + hold as i64).min(next.max(*time + 1));
        let from = ((*time - start) / STEP).max(0) as usize;
        let to = (((until - start) + STEP - 1) / STEP).clamp(0, steps as i64) as usize;
        for slot in grid.iter_mut().take(to).skip(from) {
            *slot = *value;
        }
    }
    grid
}

/// Median time between samples, milliseconds; `gaps` is reused between calls. Most series are sampled evenly.
fn period(series: &Series, gaps: &mut Vec<f64>) -> Option<f64> {
    let mut between = series.times.windows(2).map(|w| w[1] - w[0]);
    let first = between.next()?;
    if between.clone().all(|gap| gap == first) {
        return Some(first as f64);
    }
    gaps.clear();
    gaps.extend(std::iter::once(first).chain(between).map(|gap| gap as f64));
    median(gaps)
}

/// Period of the signals in grid steps, when the finest of them is sampled seldom.
fn coarse_period(signals: &[Signal<'_>]) -> Option<usize> {
    let mut gaps = Vec::new();
    let finest = signals.iter().filter_map(|s| period(s.series, &mut gaps)).reduce(f64::min)?;
    (finest >= COARSE).then_some((finest / STEP as f64) as usize)
}

/// Baselines to try: prefixes, suffixes and the whole.
fn candidates(steps: usize, warm_up: usize, coarse: Option<usize>) -> Vec<(usize, usize)> {
    let mut list: Vec<(usize, usize)> = Vec::new();
    // Samples of a minute or so are averages already: one or two of them may be all that came before.
    list.extend(coarse.into_iter().flat_map(|period| [(0, period), (0, 2 * period)]).filter(|(_, to)| to + 5 <= steps && *to >= warm_up));
    for share in [0.15, 0.25, 0.4, 0.6, 0.8] {
        let length = ((steps as f64 * share) as usize).max(warm_up);
        if length + 5 <= steps {
            list.push((0, length));
        }
    }
    let tail = (steps as f64 * 0.3) as usize;
    if tail >= warm_up {
        list.push((steps - tail, steps));
    }
    list.push((0, steps));
    list.dedup();
    list
}

struct Found {
    baseline: (usize, usize),
    from: usize,
    to: usize,
    worth: f64,
}

/// The interval of maximal excess outside a baseline, and how well it explains the capture.
fn best_window(signals: &[Signal<'_>], baseline: (usize, usize), steps: usize) -> Option<Found> {
    let total = score(signals, baseline, steps);
    let (mut best, mut from, mut sum, mut begin) = (0.0, 0, 0.0, 0);
    let mut to = 0;
    for (at, s) in total.iter().enumerate() {
        let gain = (s - THRESHOLD).min(2.0);
        if sum <= 0.0 {
            (sum, begin) = (0.0, at);
        }
        sum += gain;
        if sum > best {
            (best, from, to) = (sum, begin, at + 1);
        }
    }
    if best <= 0.0 {
        return None;
    }
    let outside: f64 = total.iter().enumerate().filter(|(i, _)| *i < from || *i >= to).map(|(_, s)| (s - THRESHOLD).clamp(0.0, 2.0)).sum();
    // A baseline after the fact is second choice: what came before is what is usual.
    let late = if baseline.0 > 0 || baseline.1 == steps { 0.75 } else { 1.0 };
    Some(Found { baseline, from, to, worth: (best - outside) * late })
}

/// Whether a window is a loss of throughput read backwards: no calm lies before it, and all that sets it apart from what came after is
/// that more work was done.
fn backwards(signals: &[Signal<'_>], found: &Found, (warm_up, steps): (usize, usize), cpus: Option<u32>) -> bool {
    // A baseline that overlaps the window is what came after it, where that is longer.
    let after = if found.baseline.0 < found.to { (found.to, steps) } else { found.baseline };
    if found.from >= warm_up || after.1 - after.0 < warm_up {
        return false;
    }
    let (mut values, mut scratch) = (Vec::new(), Vec::new());
    let mut rose = |signal: &Signal<'_>| {
        known(&signal.grid[found.from..found.to], &mut values);
        let now = median(&mut values).zip(usual(signal, after, &mut scratch));
        let grave = signal.grave.is_some_and(|(from, to)| from < found.to && found.from < to);
        grave || now.is_some_and(|(now, usual)| beyond_limit(now, signal.spec) || usual.score(now, signal.spec) >= 4.0)
    };
    let (work, others): (Vec<_>, Vec<_>) = signals.iter().filter(|signal| signal.triggers).partition(|signal| signal.name == THROUGHPUT);
    work.into_iter().any(&mut rose)
        && !others.into_iter().filter(|s| !WORK.contains(&s.spec.family.as_str())).any(rose)
        && crowded(signals, (found.from, found.to), after, cpus).is_none()
}

/// Sum of the signals' weights on the grid. Signals that may not open an incident support those that may, and on their own
/// stay far below the threshold: a neighbour's traffic must not stretch the window over the calm.
fn score(signals: &[Signal<'_>], baseline: (usize, usize), steps: usize) -> Vec<f64> {
    let (mut total, mut context) = (vec![0.0; steps], vec![0.0; steps]);
    let mut scratch = Vec::new();
    for signal in signals {
        let usual = usual(signal, baseline, &mut scratch);
        let sums = if signal.triggers { &mut total } else { &mut context };
        let mut previous = [0.0f64, 0.0];
        for (at, (value, sum)) in signal.grid.iter().zip(sums).enumerate() {
            let now = if value.is_nan() {
                0.0
            } else {
                let score = usual.map_or(0.0, |u| u.score(*value, signal.spec));
                weight(score, signal.beyond(at, *value), signal.triggers)
            };
            // Median of three: a single sample out of line is no anomaly.
            let [older, old] = previous;
            *sum += older.min(old).max(older.max(old).min(now));
            previous = [previous[1], now];
        }
    }
    total.iter().zip(context).map(|(own, context)| own + context.min(own + ALONE)).collect()
}

pub(super) fn usual(signal: &Signal<'_>, baseline: (usize, usize), scratch: &mut Vec<f64>) -> Option<Usual> {
    known(&signal.grid[baseline.0..baseline.1], scratch);
    if scratch.len() < 5 { None } else { Usual::of(scratch, signal.spec) }
}

/// Copies the values that are there.
fn known(grid: &[f64], values: &mut Vec<f64>) {
    values.clear();
    values.reserve(grid.len());
    values.extend(grid.iter().filter(|v| !v.is_nan()));
}

/// A baseline that keeps a margin from where the incident that follows it began, where it is long enough for that: one look
/// at an incident among calm ones would be most of what sessions did before.
fn before(baseline: Window, began: UnixMs, margin: i64, options: &DetectOptions) -> Window {
    let end = baseline.end.min(began - margin);
    let enough = end - baseline.start >= (options.warm_up_s * 1000.0) as i64;
    if baseline.start < began && enough { Window { end, ..baseline } } else { baseline }
}

fn conclude(
    signals: &[Signal<'_>],
    found: &Found,
    (start, margin): (UnixMs, i64),
    cpus: Option<u32>,
    options: &DetectOptions,
) -> Detection {
    let window = Window { start: start + found.from as i64 * STEP, end: start + found.to as i64 * STEP };
    let baseline = Window { start: start + found.baseline.0 as i64 * STEP, end: start + found.baseline.1 as i64 * STEP };
    let overlaps = baseline.start < window.end && window.start < baseline.end;
    let baseline = match (overlaps, baseline.start < window.start) {
        (true, true) => Window { end: window.start, ..baseline },
        (true, false) => Window { start: window.end, ..baseline },
        _ => baseline,
    };
    let mut scratch = Vec::new();
    let mut abnormal: Vec<Abnormal> = signals
        .iter()
        .filter_map(|signal| abnormal(signal, usual(signal, found.baseline, &mut scratch), (found.from, found.to), start))
        .collect();
    abnormal.sort_by(|a, b| b.score.abs().total_cmp(&a.score.abs()).then(a.signal.cmp(&b.signal)));
    if window.seconds() < options.persistence_s {
        return quiet(&format!("the strongest deviation lasted only {:.0} s", window.seconds()));
    }
    // What was out of line before the window is no usual time either.
    let began = abnormal.iter().map(|a| a.began).fold(window.start, i64::min);
    let baseline = before(baseline, began, margin, options);
    let triggers = |a: &&Abnormal| signals.iter().any(|s| s.name == a.signal && s.triggers);
    let family = |a: &Abnormal| signals.iter().find(|s| s.name == a.signal).map(|s| s.spec.family.as_str());
    let strong = abnormal.iter().filter(triggers).any(|a| a.score.abs() >= 10.0);
    let mut families: std::collections::BTreeSet<_> = abnormal.iter().filter(triggers).map(family).collect();
    if !strong && !families.is_empty() {
        families.extend(crowded(signals, (found.from, found.to), found.baseline, cpus).map(Some));
    }
    if !strong && families.len() < 2 {
        return quiet(&match abnormal.iter().find(triggers) {
            Some(only) => format!("{} left its usual range, which is not enough for an incident", only.signal),
            None => "no signal that may open an incident stayed out of its usual range".to_owned(),
        });
    }
    Detection { window: Some(window), baseline: (baseline.seconds() >= 5.0).then_some(baseline), abnormal, ..Detection::default() }
}

/// A further witness where as many sessions are on a processor as there are processors, and at most half as many were before: its
/// family. Where others take their part of the processors, what PostgreSQL gets of them says too little; who wants one is seen all
/// the same.
fn crowded<'s>(signals: &[Signal<'s>], window: (usize, usize), baseline: (usize, usize), cpus: Option<u32>) -> Option<&'s str> {
    let cpus = f64::from(cpus.filter(|cpus| *cpus > 0)?);
    let on_cpu = signals.iter().find(|s| s.name == ON_CPU)?;
    let mut values = Vec::new();
    let mut usual = |(from, to): (usize, usize)| {
        known(&on_cpu.grid[from..to], &mut values);
        median(&mut values)
    };
    let rose = usual(window)? >= cpus && usual(baseline)? <= cpus / 2.0;
    rose.then_some(on_cpu.spec.family.as_str())
}

/// The stretch that differs most from the rest, where enough signals say so.
fn conclude_shift(signals: &[Signal<'_>], found: &Shift, start: UnixMs, options: &DetectOptions) -> Detection {
    let at = |step: usize| start + step as i64 * STEP;
    let window = Window { start: at(found.from), end: at(found.to) };
    if !found.certain || window.seconds() < options.persistence_s {
        return quiet("no stretch differs from the rest in enough signals");
    }
    let mut scratch = Vec::new();
    let inside = (found.from, found.to);
    let mut abnormal: Vec<(f64, Abnormal)> = signals
        .iter()
        .zip(&found.strength)
        .filter(|(_, strength)| **strength >= shift::WITNESS)
        .filter_map(|(signal, strength)| {
            let usual = usual(signal, (found.skip, found.from), &mut scratch);
            Some((*strength, moved(signal, usual, inside, start, 0.0)?))
        })
        .collect();
    abnormal.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.signal.cmp(&b.1.signal)));
    let abnormal = abnormal.into_iter().map(|(_, a)| a).collect();
    let baseline = Window { start: at(found.skip), end: window.start };
    Detection { window: Some(window), baseline: Some(baseline), abnormal, ..Detection::default() }
}

fn abnormal(signal: &Signal<'_>, usual: Option<Usual>, window: (usize, usize), start: UnixMs) -> Option<Abnormal> {
    moved(signal, usual, window, start, 4.0)
}

/// A signal that moved by at least `least` spreads, or beyond its limit.
pub(super) fn moved(signal: &Signal<'_>, usual: Option<Usual>, window: (usize, usize), start: UnixMs, least: f64) -> Option<Abnormal> {
    let spec = signal.spec;
    let mut inside = Vec::new();
    known(&signal.grid[window.0..window.1], &mut inside);
    let grave = signal.grave.filter(|(from, to)| *from < window.1 && window.0 < *to);
    // What comes in bursts has a median of 0.
    let observed = if grave.is_some() { inside.iter().sum::<f64>() / inside.len().max(1) as f64 } else { median(&mut inside)? };
    let by_limit = grave.is_some() || beyond_limit(observed, spec);
    let score = usual.map_or(0.0, |u| u.score(observed, spec));
    if score.abs() < least && !by_limit {
        return None;
    }
    let above = usual.is_some_and(|u| observed >= u.level);
    let up = if least > 0.0 { score > 0.0 || (score == 0.0 && spec.bad != crate::signals::Bad::Down) } else { above };
    let peak = inside.iter().copied().reduce(|a, b| if up { a.max(b) } else { a.min(b) })?;
    let out = |(at, v): (usize, &f64)| signal.beyond(at + window.0, *v) || usual.is_some_and(|u| u.score(*v, spec).abs() >= 4.0);
    let mut first = signal.grid[window.0..window.1].iter().enumerate().position(out).unwrap_or(0) + window.0;
    // The window begins where signals together say so; one of them may have been out of line for a while by then.
    let strays = |value: f64| usual.is_some_and(|u| if up { u.score(value, spec) >= 4.0 } else { u.score(value, spec) <= -4.0 });
    if signal.triggers && least > 0.0 && first == window.0 {
        first -= signal.grid[..first].iter().rev().take_while(|value| strays(**value)).count();
    }
    Some(Abnormal {
        signal: signal.name.to_owned(),
        unit: signal.series.unit.clone(),
        direction: if up { Direction::Up } else { Direction::Down },
        baseline: usual.map(|u| u.level),
        observed,
        peak,
        score: if (score == 0.0 && least > 0.0) || (grave.is_some() && score.abs() < 10.0) { 10.0 } else { score },
        began: start + first as i64 * STEP,
    })
}

/// Nothing stands out against any baseline: a capture that is abnormal throughout shows by limits alone.
fn by_limits(signals: &[Signal<'_>], start: UnixMs, steps: usize, options: &DetectOptions) -> Detection {
    let abnormal: Vec<Abnormal> = signals.iter().filter_map(|s| abnormal(s, None, (0, steps), start)).collect();
    if abnormal.is_empty() || (steps as f64) < options.persistence_s {
        return quiet("no signal left its usual range");
    }
    Detection { window: Some(Window { start, end: start + steps as i64 * STEP }), baseline: None, abnormal, ..Detection::default() }
}
