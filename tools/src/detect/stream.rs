//! Detection in a live stream: a rolling baseline for each signal, frozen while something is abnormal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::capture::Frame;
use crate::model::UnixMs;
use crate::signals::SignalTable;

use super::stats::{Usual, beyond_limit, weight};
use super::{Abnormal, DetectOptions, Direction};

/// Values a rolling baseline keeps.
const MEMORY: usize = 120;
/// The newest values are not yet baseline: a slow onset must not teach itself.
const MARGIN: usize = 4;
/// Sum of weights at which a turn is abnormal.
const THRESHOLD: f64 = 0.6;
/// An episode ends after this long without an abnormal turn, milliseconds.
const CLEAR_MS: i64 = 20_000;
/// Families of signals that join an episode within this time belong to it, milliseconds: trouble spreads. One that joins
/// later is another anomaly.
const SPREADS_MS: i64 = 30_000;
/// What has lasted this long is the new usual, milliseconds.
const RELEARN_MS: i64 = 600_000;

/// The stream left its baseline.
#[derive(Debug, Clone, PartialEq)]
pub struct Trigger {
    /// When it was noticed.
    pub at: UnixMs,
    /// First abnormal turn of the episode.
    pub began: UnixMs,
    /// Abnormal signals, strongest first.
    pub signals: Vec<Abnormal>,
}

#[derive(Default)]
struct Rolling {
    values: VecDeque<f64>,
    last_abnormal: Option<Abnormal>,
    held: f64,
    held_until: UnixMs,
    last_at: UnixMs,
    /// Of what should hardly ever happen: how many, and when, within a minute.
    counted: VecDeque<(UnixMs, f64)>,
}

impl Rolling {
    /// True when more than a few were counted within a minute.
    fn grave(&mut self, least: f64, at: UnixMs, count: f64) -> bool {
        self.counted.retain(|(then, _)| *then + 60_000 > at);
        if count > 0.0 {
            self.counted.push_back((at, count));
        }
        self.counted.iter().map(|(_, count)| count).sum::<f64>() >= least - 1e-6
    }
}

/// A detector for one target. Fires once an episode, and again when signals of another family leave their baseline while
/// it lasts.
pub struct Stream {
    table: SignalTable,
    options: DetectOptions,
    signals: BTreeMap<String, Rolling>,
    started: Option<UnixMs>,
    run: u32,
    began: UnixMs,
    last_abnormal: UnixMs,
    firing: bool,
    fired_at: UnixMs,
    /// Families of signals that the episode has shown.
    episode: BTreeSet<String>,
    fresh_run: u32,
    fresh_began: UnixMs,
    scratch: Vec<f64>,
}

impl Stream {
    /// A detector that has seen nothing.
    pub fn new(table: SignalTable, options: DetectOptions) -> Self {
        Self {
            table,
            options,
            signals: BTreeMap::new(),
            started: None,
            run: 0,
            began: 0,
            last_abnormal: 0,
            firing: false,
            fired_at: 0,
            episode: BTreeSet::new(),
            fresh_run: 0,
            fresh_began: 0,
            scratch: Vec::new(),
        }
    }

    /// Takes one turn of a collector. Returns a trigger once, when an episode is certain: three abnormal turns
    /// in a row after the warm-up.
    pub fn push(&mut self, frame: &Frame) -> Option<Trigger> {
        let started = *self.started.get_or_insert(frame.at);
        for (name, unit, value) in &frame.values {
            self.take(name, unit, *value, frame.at);
        }
        let (total, fresh) = self.weigh(frame);
        let warm = (frame.at - started) as f64 >= self.options.warm_up_s * 1000.0;
        if total < THRESHOLD || !warm {
            (self.run, self.fresh_run) = (0, 0);
            self.firing &= frame.at - self.last_abnormal < CLEAR_MS;
            return None;
        }
        self.last_abnormal = frame.at;
        if self.firing {
            return self.go_on(frame.at, fresh);
        }
        self.run += 1;
        if self.run == 1 {
            self.began = frame.at;
        }
        if self.run < 3 {
            return None;
        }
        (self.firing, self.fired_at, self.fresh_run) = (true, frame.at, 0);
        self.episode.clear();
        Some(Trigger { at: frame.at, began: self.began, signals: self.joining() })
    }

    /// Sum of the weights of all signals now, and of those whose family is new to the episode. Slow signals speak for as
    /// long as their own period lasts.
    fn weigh(&self, frame: &Frame) -> (f64, f64) {
        let (mut total, mut fresh) = (0.0, 0.0);
        for (name, rolling) in &self.signals {
            if rolling.held > 0.0 && rolling.held_until >= frame.at {
                total += rolling.held;
                fresh += if self.episode.contains(&self.table.lookup(name).family) { 0.0 } else { rolling.held };
            }
        }
        (total, fresh)
    }

    /// A turn while an episode lasts.
    fn go_on(&mut self, at: UnixMs, fresh: f64) -> Option<Trigger> {
        if at - self.fired_at < SPREADS_MS {
            self.joining();
            return None;
        }
        if at - self.fired_at >= RELEARN_MS {
            self.fired_at = at;
            self.signals.values_mut().filter(|r| r.last_abnormal.is_some()).for_each(|r| r.values.clear());
            return None;
        }
        self.fresh_run = if fresh >= THRESHOLD { self.fresh_run + 1 } else { 0 };
        if self.fresh_run == 1 {
            self.fresh_began = at;
        }
        if self.fresh_run < 3 {
            return None;
        }
        self.fresh_run = 0;
        Some(Trigger { at, began: self.fresh_began, signals: self.joining() })
    }

    /// Abnormal signals of families that the episode has not shown yet, strongest first; from now on it has.
    fn joining(&mut self) -> Vec<Abnormal> {
        let abnormal = self.signals.values().filter_map(|r| r.last_abnormal.clone());
        let mut signals: Vec<Abnormal> = abnormal.filter(|a| !self.episode.contains(&self.table.lookup(&a.signal).family)).collect();
        signals.sort_by(|a, b| b.score.abs().total_cmp(&a.score.abs()).then(a.signal.cmp(&b.signal)));
        self.episode.extend(signals.iter().map(|a| self.table.lookup(&a.signal).family.clone()));
        signals
    }

    /// True when no episode is on.
    pub fn cleared(&self) -> bool {
        !self.firing
    }

    /// Scores one value and lets it into the baseline when nothing is wrong.
    fn take(&mut self, name: &str, unit: &str, value: f64, at: UnixMs) {
        if !value.is_finite() {
            return;
        }
        let spec = self.table.lookup(name);
        if !self.signals.contains_key(name) {
            self.signals.insert(name.to_owned(), Rolling::default());
        }
        let Some(rolling) = self.signals.get_mut(name) else { return };
        let period = if rolling.last_at > 0 { at - rolling.last_at } else { 1000 };
        rolling.last_at = at;
        let old = rolling.values.len().saturating_sub(MARGIN);
        self.scratch.clear();
        self.scratch.extend(rolling.values.iter().take(old));
        let usual = if old >= 5 { Usual::of(&mut self.scratch, spec) } else { None };
        let score = usual.map_or(0.0, |u| u.score(value, spec));
        let limit = beyond_limit(value, spec);
        let grave = spec.grave.is_some_and(|least| rolling.grave(least, at, value * period as f64 / 1000.0));
        let counts = weight(score, limit || grave, spec.triggers || grave);
        rolling.last_abnormal = (counts > 0.0).then(|| Abnormal {
            signal: name.to_owned(),
            unit: unit.to_owned(),
            direction: if score < 0.0 { Direction::Down } else { Direction::Up },
            baseline: usual.map(|u| u.level),
            observed: value,
            peak: value,
            score: if score == 0.0 { 10.0 } else { score },
            began: at,
        });
        (rolling.held, rolling.held_until) = (counts, at + period);
        if counts == 0.0 && !self.firing && self.run == 0 {
            rolling.values.push_back(value);
            if rolling.values.len() > MEMORY {
                rolling.values.pop_front();
            }
        }
    }
}
