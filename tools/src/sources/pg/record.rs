//! Records a capture without a daemon.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::capture::Capture;
use crate::model::{UnixMs, Window};
use crate::probe::{ProbeCall, Prober};

use super::collector::Collector;
use super::config::PgConfig;
use super::error::SourceError;

/// Records for a while: one turn a second. `go_on` is asked after every turn with the time elapsed; when it says no,
/// the recording ends early with what there is.
///
/// # Errors
/// When the target cannot be reached at the beginning, or is lost before anything was seen.
pub async fn record(config: PgConfig, duration: Duration, mut go_on: impl FnMut(Duration) -> bool) -> Result<Capture, SourceError> {
    let mut collector = Collector::connect(config).await?;
    let mut capture = Capture { manifest: collector.manifest(), ..Capture::default() };
    let (began, first) = (Instant::now(), now_ms());
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while began.elapsed() < duration {
        tick.tick().await;
        match collector.turn(now_ms()).await {
            Ok(frame) => capture.absorb(frame),
            Err(error) if capture.series.is_empty() => return Err(error),
            Err(error) => tracing::warn!(%error, "a turn of the recording failed"),
        }
        if !go_on(began.elapsed()) {
            break;
        }
    }
    capture.manifest.span = Some(Window { start: first, end: now_ms() });
    Ok(capture)
}

/// Freezes the answers to on-demand probes, so that a replay sees what a live diagnosis would.
pub async fn freeze_answers(capture: &mut Capture, prober: &dyn Prober, calls: &[ProbeCall]) {
    for call in calls {
        let answer = prober.ask(call).await;
        capture.answers.insert(call.key(), answer);
    }
}

fn now_ms() -> UnixMs {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}
