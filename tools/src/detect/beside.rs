//! What moved although no incident was seen: signals that may open none (a neighbour takes the CPUs of the host), and those that
//! may but did not go far enough, are still told of, for a quiet report must not say that nothing happened.

use std::collections::BTreeSet;

use super::batch::{STEP, Signal, THROUGHPUT, moved, usual};
use super::{Abnormal, Detection};
use crate::model::UnixMs;

/// Least length of what is told of, steps of the grid: a neighbour's burst is nobody's business.
const LEAST_STEPS: usize = 10;
/// And of samples in it.
const LEAST_SAMPLES: usize = 2;
/// Spreads from which on a value is out of line.
const OUT: f64 = 4.0;

/// Adds to a quiet detection which signals were out of line for long, the strongest first. A signal that was itself is not told of again for one of its labels.
/// After `busy`, a stretch that was dropped as nothing but more work than came after it, throughput fell, however it compares with the whole.
pub(super) fn with_beside(
    mut detection: Detection,
    signals: &[Signal<'_>],
    busy: Option<(usize, usize)>,
    (start, steps): (UnixMs, usize),
) -> Detection {
    if detection.window.is_some() {
        return detection;
    }
    let mut scratch = Vec::new();
    let known = signals.iter().filter(|signal| !signal.spec.name.is_empty());
    detection.beside = known.filter_map(|signal| longest(signal, start, steps, &mut scratch)).collect();
    let fell = busy.and_then(|busy| {
        let work = signals.iter().find(|signal| signal.name == THROUGHPUT)?;
        moved(work, usual(work, busy, &mut Vec::new()), (busy.1, steps), start, 0.0)
    });
    if let Some(fell) = fell {
        detection.quiet = Some("less work was done at the end than at the beginning, which is not enough for an incident".to_owned());
        detection.beside.retain(|stray| stray.signal != fell.signal);
        detection.beside.push(fell);
    }
    let whole: BTreeSet<String> = detection.beside.iter().map(|stray| stray.signal.clone()).collect();
    detection.beside.retain(|stray| stray.signal.split_once('{').is_none_or(|(name, _)| !whole.contains(name)));
    detection.beside.sort_by(|a, b| b.score.abs().total_cmp(&a.score.abs()).then(a.signal.cmp(&b.signal)));
    detection
}

/// The longest stretch in which a signal was out of line, against the median of all that was seen of it.
fn longest(signal: &Signal<'_>, start: UnixMs, steps: usize, scratch: &mut Vec<f64>) -> Option<Abnormal> {
    let usual = usual(signal, (0, steps), scratch)?;
    let out = |at: usize| signal.grid.get(at).is_some_and(|value| usual.score(*value, signal.spec).abs() >= OUT);
    let (mut best, mut from) = ((0, 0), 0);
    for at in 0..steps {
        // A single sample back in line ends nothing.
        let goes_on = out(at) || (at > from && out(at - 1) && out(at + 1));
        if !goes_on {
            from = at + 1;
        } else if at + 1 - from > best.1 - best.0 {
            best = (from, at + 1);
        }
    }
    // A sample that stands for a minute fills a stretch of its own.
    let within = |at: &&UnixMs| ((**at - start).div_euclid(STEP)) >= best.0 as i64 && (**at - start).div_euclid(STEP) < best.1 as i64;
    let samples = signal.series.times.iter().filter(within).count();
    if best.1 - best.0 < LEAST_STEPS || samples < LEAST_SAMPLES { None } else { moved(signal, Some(usual), best, start, OUT) }
}
