//! Records a capture without a daemon.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::capture::{Capture, Missing, TARGET};
use crate::model::{UnixMs, Window};
use crate::probe::{ProbeCall, Prober};

use super::collector::Collector;
use super::config::PgConfig;
use super::error::{SourceError, SourceErrorKind};

/// While something is awaited, whether to go on is asked this often.
const ASK: Duration = Duration::from_millis(200);
/// While the target is away, one line a minute says so.
const SAY: Duration = Duration::from_secs(60);

/// Records for a while: one turn a second. `go_on` is asked after every turn, and several times a second while the
/// target is awaited, with the time elapsed; when it says no, the recording ends early with what there is. A target
/// that goes away is tried again until the end; the capture says when it was away.
///
/// # Errors
/// When the target cannot be reached at the beginning, or is lost or no longer waited for before anything was seen.
pub async fn record(config: PgConfig, duration: Duration, mut go_on: impl FnMut(Duration) -> bool) -> Result<Capture, SourceError> {
    let connecting = while_wanted(Collector::connect(config), || go_on(Duration::ZERO)).await;
    let mut collector = connecting.unwrap_or_else(|| Err(SourceError::new(SourceErrorKind::Lost, "stopped before anything was seen")))?;
    let mut capture = Capture { manifest: collector.manifest(), ..Capture::default() };
    let (began, first) = (Instant::now(), now_ms());
    let mut away: Option<Away> = None;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while began.elapsed() < duration {
        tick.tick().await;
        let Some(turn) = while_wanted(collector.turn(now_ms()), || go_on(began.elapsed())).await else { break };
        match turn {
            Ok(frame) => {
                capture.absorb(frame);
                if away.take().is_some() {
                    tracing::warn!("the target is back");
                }
            }
            Err(error) if capture.series.is_empty() => return Err(error),
            Err(error) => away.get_or_insert_with(Away::new).note(&error),
        }
        if !go_on(began.elapsed()) {
            break;
        }
    }
    if let Some(away) = away {
        capture.manifest.missing.push(away.gap());
    }
    capture.manifest.span = Some(Window { start: first, end: now_ms() });
    Ok(capture)
}

/// Awaits `work`; none when it is no longer wanted.
async fn while_wanted<T>(work: impl Future<Output = T>, mut wanted: impl FnMut() -> bool) -> Option<T> {
    tokio::pin!(work);
    loop {
        match tokio::time::timeout(ASK, &mut work).await {
            Ok(done) => return Some(done),
            Err(_) if wanted() => {}
            Err(_) => return None,
        }
    }
}

/// The target is away.
struct Away {
    since: UnixMs,
    said: Option<Instant>,
    why: String,
}

impl Away {
    fn new() -> Self {
        Self { since: now_ms(), said: None, why: String::new() }
    }

    /// Keeps the first reason; says it at once, and then once a minute.
    fn note(&mut self, error: &SourceError) {
        if self.why.is_empty() {
            self.why = error.to_string();
        }
        if self.said.is_none_or(|said| said.elapsed() >= SAY) {
            self.said = Some(Instant::now());
            tracing::warn!(why = self.why, "the target is away; the recording goes on");
        }
    }

    fn gap(self) -> Missing {
        let since = jiff::Timestamp::from_millisecond(self.since).map(|t| t.to_string()).unwrap_or_default();
        let gap = Missing::new(TARGET, format!("away since {since}: {}", self.why), "see the server's log; what was seen before is here");
        Missing { at: Some(now_ms()), ..gap }
    }
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
