//! The task of one target: collects once a second, keeps the rolling history, and reports what the detector sees.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::MissedTickBehavior;

use galen_tools::capture::Capture;
use galen_tools::detect::{self, DetectOptions, Stream, Trigger};
use galen_tools::model::{Alert, UnixMs};
use galen_tools::observe::{Scene, statements::advice};
use galen_tools::probe::Recorded;
use galen_tools::signals::SignalTable;
use galen_tools::sources::pg::{self, Collector, Intervals, PgConfig, PgProber, SourceError};

use crate::config::Target;
use crate::state::{State, lock};

/// Longest pause between two tries to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Milliseconds since 1970.
pub fn now_ms() -> UnixMs {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Asks, while the target is still there, for the answers that a diagnosis of this capture would ask for.
///
/// # Errors
/// The target cannot be reached; the capture is as before.
pub async fn freeze(config: &PgConfig, capture: &mut Capture) -> Result<(), SourceError> {
    let detection = detect::detect(capture, &SignalTable::builtin(), &DetectOptions::default());
    let calls = advice::calls(&Scene { capture, detection: &detection, prober: &Recorded(capture) });
    let prober = PgProber::connect(config, capture).await?;
    pg::freeze_answers(capture, &prober, &calls).await;
    Ok(())
}

/// How a configured target is reached.
pub fn pg_config(target: &Target) -> PgConfig {
    PgConfig {
        allow_superuser: target.allow_superuser,
        intervals: if target.brisk { Intervals::brisk() } else { Intervals::default() },
        ..PgConfig::new(target.name.clone(), target.dsn.expose())
    }
}

/// Watches a target until the task is dropped. A target that is away is tried again for ever.
pub async fn watch(state: Arc<State>, target: Target) {
    let mut pause = Duration::from_secs(1);
    loop {
        match Collector::connect(pg_config(&target)).await {
            Ok(collector) => {
                pause = Duration::from_secs(1);
                mark(&state, &target.name, None);
                collect(&state, &target, collector).await;
            }
            Err(error) => mark(&state, &target.name, Some(error.to_string())),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// While a target is away the log says so this often, milliseconds.
const SAY_MS: i64 = 60_000;

/// Notes whether the target can be reached; one log line per change, and one a minute while it is away.
fn mark(state: &State, name: &str, down: Option<String>) {
    let Some(target) = state.targets.get(name) else { return };
    let mut known = lock(&target.down);
    let (now, said) = (now_ms(), target.down_said.load(Ordering::Relaxed));
    if down.is_some() && (known.is_none() || now - said >= SAY_MS) {
        target.down_said.store(now, Ordering::Relaxed);
    }
    match (&*known, &down) {
        (None, Some(why)) => tracing::warn!(target = name, why, "target is down"),
        (Some(_), Some(why)) if now - said >= SAY_MS => tracing::warn!(target = name, why, "target is still down"),
        (Some(_), None) => tracing::info!(target = name, "target is back"),
        _ => {}
    }
    *known = down;
}

/// Turns once a second while the connection holds; returns when the collector gives up.
async fn collect(state: &Arc<State>, target: &Target, mut collector: Collector) {
    let detector = DetectOptions { warm_up_s: state.config.detector.warm_up_s, ..DetectOptions::default() };
    let mut stream = Stream::new(SignalTable::builtin(), detector);
    let Some(known) = state.targets.get(&target.name) else { return };
    let manifest = collector.manifest();
    {
        let mut history = lock(&known.history);
        let missing = std::mem::take(&mut history.manifest.missing);
        history.manifest = manifest;
        history.manifest.missing = missing;
    }
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0;
    loop {
        tick.tick().await;
        let (now, attend_until) = (now_ms(), known.attend_until.load(Ordering::Relaxed));
        if now < attend_until {
            collector.attend(now, attend_until);
        }
        match collector.turn(now).await {
            Ok(frame) => {
                failures = 0;
                mark(state, &target.name, None);
                state.counters.turns.fetch_add(1, Ordering::Relaxed);
                let trigger = if state.config.detector.enabled { stream.push(&frame) } else { None };
                {
                    let mut history = lock(&known.history);
                    let oldest = frame.at - state.config.incident.history_s as i64 * 1000;
                    history.absorb(frame);
                    history.trim(oldest);
                }
                if let Some(trigger) = trigger {
                    raise(state, &target.name, trigger).await;
                }
            }
            Err(error) => {
                failures += 1;
                mark(state, &target.name, Some(error.to_string()));
                if failures > 120 {
                    return;
                }
            }
        }
    }
}

/// A trigger of the detector becomes an alert like any other.
async fn raise(state: &Arc<State>, target: &str, trigger: Trigger) {
    let strongest: Vec<&str> = trigger.signals.iter().take(3).map(|s| s.signal.as_str()).collect();
    let alert = Alert {
        fingerprint: format!("detector-{target}-{}", trigger.began),
        name: "AnomalyDetected".into(),
        status: "firing".into(),
        source: "detector".into(),
        starts_at: trigger.began,
        ends_at: None,
        labels: [("target".to_owned(), target.to_owned())].into(),
        summary: format!("{} signals left their baseline: {}", trigger.signals.len(), strongest.join(", ")),
    };
    tracing::info!(target, summary = alert.summary, "anomaly");
    if let Err(error) = state.intake(vec![alert], target).await {
        tracing::error!(target, %error, "an anomaly could not be stored");
    }
}

#[cfg(test)]
mod tests;
