//! Events of a managed service (failover, restart, maintenance, backup, storage): which belong to the incident, and which
//! were over before it began.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::fmt::strtime;

use crate::capture::Capture;
use crate::model::{Event, UnixMs, Window};
use crate::observe::facts::FactSheet;
use crate::observe::{Observation, Scene};

/// An episode that ended this long before the onset may still be its cause (cold caches, clients that reconnect).
const GRACE_MS: i64 = 10 * 60_000;
/// A step that nothing ends is taken to last this long.
const OPEN_MS: i64 = 30 * 60_000;
/// Steps of one episode lie at most this far apart.
const MOST_APART_MS: i64 = 2 * 3_600_000;
/// Most past episodes told.
const MOST_TOLD: usize = 6;

/// Kinds of episodes with the words for people.
const EPISODES: &[(&str, &str)] = &[
    ("failover", "failover"),
    ("promotion", "promotion of a read replica"),
    ("restart", "restart"),
    ("maintenance", "maintenance"),
    ("backup", "backup"),
];

/// Something that took from `start` to `end`.
#[derive(Debug, Clone, PartialEq)]
struct Episode {
    kind: &'static str,
    words: &'static str,
    object: String,
    start: UnixMs,
    end: UnixMs,
    /// Its end was reported.
    finished: bool,
}

/// Who reported the events; none where nobody could have.
pub fn reporter(capture: &Capture) -> Option<&'static str> {
    let absent = capture.manifest.missing.iter().any(|gap| gap.what == "RDS events");
    (capture.manifest.origin == "rds" && !absent).then_some("RDS events")
}

/// Steps of the same kind and object, one after the other, are one episode.
fn episodes(events: &[Event]) -> Vec<Episode> {
    let mut found: Vec<Episode> = Vec::new();
    for event in events.iter().filter(|e| e.source == "rds") {
        let Some((stem, step)) = event.kind.rsplit_once('_') else { continue };
        let Some((kind, words)) = EPISODES.iter().find(|(kind, _)| *kind == stem) else { continue };
        if step == "announced" {
            continue;
        }
        let finished = step == "finished";
        let open = |e: &&mut Episode| e.kind == *kind && e.object == event.object && !e.finished && event.at - e.end <= MOST_APART_MS;
        match found.iter_mut().rev().find(open) {
            Some(episode) => (episode.end, episode.finished) = (event.at, finished),
            None => found.push(Episode { kind, words, object: event.object.clone(), start: event.at, end: event.at, finished }),
        }
    }
    found
}

/// `events`.
pub fn events(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("events", scene);
    let Some(source) = reporter(capture) else { return sheet.finish("no events of a managed service are in the capture") };
    let window = crate::observe::facts::window(scene);
    let onset = window.start;
    // Where load falls away, what the detector calls abnormal may be the time before: whatever lies in the recording counts.
    let recorded = capture.span().map_or(window.end, |span| span.end.max(window.end));
    sheet.put("source", source).put("events", capture.events.len()).put("onset_at", clock(onset));
    let mut past: Vec<String> = Vec::new();
    let mut now: BTreeMap<&str, Episode> = BTreeMap::new();
    let mut past_of: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for episode in episodes(&capture.events) {
        let end = if episode.finished { episode.end } else { episode.end + OPEN_MS };
        if end < onset - GRACE_MS && scene.detection.baseline.is_some() {
            let told = history(&episode, onset);
            past_of.entry(episode.kind).or_default().push(told.clone());
            past.push(told);
        } else if episode.start < recorded && end >= onset - GRACE_MS {
            now.insert(episode.kind, episode);
        }
    }
    for (kind, _) in EPISODES {
        sheet.put(&format!("{kind}_now"), now.contains_key(kind));
        if let Some(episode) = now.get(kind) {
            sheet.put(&format!("{kind}_text"), current(episode));
        }
        if let Some(told) = past_of.get(kind) {
            sheet.put(&format!("past_{kind}"), told.join("; "));
        }
    }
    past.truncate(MOST_TOLD);
    sheet.put("past", (!past.is_empty()).then_some(past));
    let failures: Vec<&Event> = capture.events.iter().filter(|e| is_failure(&e.kind) && e.at >= onset - GRACE_MS).collect();
    sheet.put("failures", failures.len());
    sheet.put("first_failure", failures.first().map(|e| told(e)));
    sheet.put("kinds", kinds(&capture.events));
    sheet.finish("")
}

fn is_failure(kind: &str) -> bool {
    [
        "storage_full",
        "storage_low",
        "failover",
        "restart",
        "replication_stopped",
        "replication_lag",
        "connections_near_limit",
        "out_of_memory",
    ]
    .iter()
    .any(|k| kind.starts_with(k))
}

/// Kinds of all events in order of time, each once, with its first time.
fn kinds(events: &[Event]) -> Option<String> {
    let mut seen: Vec<(&str, UnixMs)> = Vec::new();
    for event in events {
        let words = event.kind.strip_prefix("other_").unwrap_or(&event.kind);
        if !seen.iter().any(|(kind, _)| *kind == words) {
            seen.push((words, event.at));
        }
    }
    let told: Vec<String> = seen.iter().take(8).map(|(kind, at)| format!("{} ({})", kind.replace('_', " "), clock(*at))).collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// `the failover of 08:10:47 UTC was complete at 08:11:58 UTC, 4 h 49 min before the onset`.
fn history(episode: &Episode, onset: UnixMs) -> String {
    let object = if episode.object.is_empty() { String::new() } else { format!(" of {}", episode.object) };
    let before = distance(onset - episode.end);
    match (episode.finished, episode.start == episode.end) {
        (true, false) => {
            format!(
                "the {}{object} from {} to {} was complete {before} before the onset",
                episode.words,
                clock(episode.start),
                clock(episode.end)
            )
        }
        (true, true) => format!("the {}{object} was complete at {}, {before} before the onset", episode.words, clock(episode.end)),
        _ => format!("the {}{object} was last reported at {}, {before} before the onset", episode.words, clock(episode.end)),
    }
}

fn current(episode: &Episode) -> String {
    let until = if episode.finished { format!("until {}", clock(episode.end)) } else { "not reported as finished".to_owned() };
    format!("{} of {} from {}, {until}", episode.words, episode.object, clock(episode.start))
}

/// `"DB instance ran out of storage space" at 03:08:44 UTC`.
pub fn told(event: &Event) -> String {
    format!("\"{}\" at {}", event.text.trim_end_matches('.'), clock(event.at))
}

/// Events of a kind that belong to the incident, in order: from a grace period before it to the end of the window.
pub fn of_kind<'c>(capture: &'c Capture, kind: &str, window: Window) -> Vec<&'c Event> {
    let near = |e: &&Event| e.at >= window.start - GRACE_MS && e.at < window.end + GRACE_MS;
    capture.events.iter().filter(|e| e.kind == kind).filter(near).collect()
}

/// `14:05:03 UTC`.
pub fn clock(at: UnixMs) -> String {
    Timestamp::from_millisecond(at).ok().and_then(|t| strtime::format("%H:%M:%S UTC", t).ok()).unwrap_or_default()
}

fn distance(ms: i64) -> String {
    let minutes = ms / 60_000;
    match minutes {
        m if m >= 48 * 60 => format!("{} days", m / 1440),
        m if m >= 120 => format!("{} h {} min", m / 60, m % 60),
        m => format!("{m} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(minute: i64, kind: &str, object: &str) -> Event {
        Event { at: minute * 60_000, source: "rds".into(), kind: kind.into(), object: object.into(), text: "x".into() }
    }

    #[test]
    fn steps_of_one_object_are_one_episode() {
        let found = episodes(&[
            event(0, "maintenance_announced", "a"),
            event(5, "failover_started", "a"),
            event(6, "failover_progress", "a"),
            event(6, "failover_started", "b"),
            event(7, "failover_finished", "a"),
            event(300, "failover_started", "a"),
        ]);
        let told: Vec<_> = found.iter().map(|e| (e.object.as_str(), e.start / 60_000, e.end / 60_000, e.finished)).collect();
        assert_eq!(told, [("a", 5, 7, true), ("b", 6, 6, false), ("a", 300, 300, false)]);
        assert_eq!(
            history(&found[0], 600 * 60_000),
            "the failover of a from 00:05:00 UTC to 00:07:00 UTC was complete 9 h 53 min before the onset"
        );
    }
}
