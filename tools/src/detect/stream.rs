//! Detection in a live stream: a rolling baseline for each signal, frozen while something is abnormal.

use std::collections::{BTreeMap, VecDeque};

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
}

/// A detector for one target. Fires once an episode.
pub struct Stream {
    table: SignalTable,
    options: DetectOptions,
    signals: BTreeMap<String, Rolling>,
    started: Option<UnixMs>,
    run: u32,
    began: UnixMs,
    last_abnormal: UnixMs,
    firing: bool,
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
            scratch: Vec::new(),
        }
    }

    /// Takes one turn of a collector. Returns a trigger once, when an episode is certain: three abnormal turns
    /// in a row after the warm-up.
    pub fn push(&mut self, frame: &Frame) -> Option<Trigger> {
        let started = *self.started.get_or_insert(frame.at);
        let mut total = 0.0;
        for (name, unit, value) in &frame.values {
            total += self.take(name, unit, *value, frame.at);
        }
        // Slow signals speak for as long as their own period lasts.
        let present: std::collections::BTreeSet<&str> = frame.values.iter().map(|(n, _, _)| n.as_str()).collect();
        total += self
            .signals
            .iter()
            .filter(|(n, r)| !present.contains(n.as_str()) && r.held_until >= frame.at)
            .map(|(_, r)| r.held)
            .sum::<f64>();
        let warm = (frame.at - started) as f64 >= self.options.warm_up_s * 1000.0;
        if total < THRESHOLD || !warm {
            self.run = 0;
            self.firing &= frame.at - self.last_abnormal < CLEAR_MS;
            return None;
        }
        self.last_abnormal = frame.at;
        self.run += 1;
        if self.run == 1 {
            self.began = frame.at;
        }
        if self.run < 3 || self.firing {
            return None;
        }
        self.firing = true;
        let mut signals: Vec<Abnormal> = self.signals.values().filter_map(|r| r.last_abnormal.clone()).collect();
        signals.sort_by(|a, b| b.score.abs().total_cmp(&a.score.abs()).then(a.signal.cmp(&b.signal)));
        Some(Trigger { at: frame.at, began: self.began, signals })
    }

    /// True when no episode is on.
    pub fn cleared(&self) -> bool {
        !self.firing
    }

    /// Scores one value and lets it into the baseline when nothing is wrong. Returns its weight.
    fn take(&mut self, name: &str, unit: &str, value: f64, at: UnixMs) -> f64 {
        if !value.is_finite() {
            return 0.0;
        }
        let spec = self.table.lookup(name);
        if !self.signals.contains_key(name) {
            self.signals.insert(name.to_owned(), Rolling::default());
        }
        let Some(rolling) = self.signals.get_mut(name) else { return 0.0 };
        let period = if rolling.last_at > 0 { at - rolling.last_at } else { 1000 };
        rolling.last_at = at;
        let old = rolling.values.len().saturating_sub(MARGIN);
        let baseline: Vec<f64> = rolling.values.iter().take(old).copied().collect();
        let usual = if baseline.len() >= 5 { Usual::of(&baseline, spec, &mut self.scratch) } else { None };
        let score = usual.map_or(0.0, |u| u.score(value, spec));
        let limit = beyond_limit(value, spec);
        let counts = weight(score, limit, spec.triggers);
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
        counts
    }
}
