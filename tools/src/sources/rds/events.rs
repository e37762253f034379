//! RDS events: the kind of each, told from its message, and the numbers that stand in it.

use regex::Captures;
use serde_json::Value;

use super::answer::Answers;
use super::field::{clean, get, label, list, text, time};
use super::table::{EventRule, Table};
use super::{ImportError, MAX_ITEMS, flaw};
use crate::capture::Capture;
use crate::model::{Event, Series, Setting, UnixMs, Window};

/// Longest message kept, characters.
const MOST_TEXT: usize = 600;

/// Numbers of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Values {
    /// Connections in use and allowed.
    pub connections: Option<(f64, f64)>,
    /// Lag of a replica, seconds.
    pub lag_s: Option<f64>,
    /// Free storage, bytes.
    pub free: Option<f64>,
    /// Allocated storage, bytes.
    pub total: Option<f64>,
    /// Seconds between checkpoints.
    pub interval_s: Option<f64>,
}

/// Reads an answer of DescribeEvents.
pub fn read(json: &Value, table: &Table, into: &mut Answers) -> Result<(), ImportError> {
    let events = get(json, "Events").and_then(Value::as_array).ok_or_else(|| flaw("Events is no list"))?;
    if events.len() > MAX_ITEMS {
        return Err(flaw(format!("{} events, above the limit of {MAX_ITEMS}", events.len())));
    }
    into.has_events = true;
    for event in events {
        let message = text(event, "Message").ok_or_else(|| flaw("an event has no Message"))?;
        let date = get(event, "Date").ok_or_else(|| flaw("an event has no Date"))?;
        let at = time(date).ok_or_else(|| flaw(format!("an event's Date {date} is no time")))?;
        let message = clean(without_statements(message), MOST_TEXT);
        let rule = table.events.iter().find(|r| r.pattern.is_match(&message));
        let kind = rule.map_or_else(|| category(event), |r| r.kind.clone());
        let values = rule.map(|r| values(r, &message)).unwrap_or_default();
        let object = text(event, "SourceIdentifier").map(label).unwrap_or_default();
        into.events.push((Event { at, source: "rds".into(), kind, object, text: message }, values));
    }
    Ok(())
}

/// A line of the server's log may quote a statement with its literals: it ends before that.
fn without_statements(message: &str) -> &str {
    let end = ["STATEMENT:", "DETAIL:", "QUERY:"].iter().filter_map(|mark| message.find(mark)).min();
    &message[..end.unwrap_or(message.len())]
}

/// The first category in snake case, for messages that no rule knows.
fn category(event: &Value) -> String {
    let first = list(event, "EventCategories").first().and_then(Value::as_str).unwrap_or("notice");
    let word: String = first.chars().take(40).map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    format!("other_{word}")
}

fn values(rule: &EventRule, message: &str) -> Values {
    let Some(found) = rule.values.as_ref().and_then(|v| v.captures(message)) else { return Values::default() };
    let number = |name: &str| found.name(name)?.as_str().parse::<f64>().ok().filter(|n| n.is_finite());
    let minutes = found.name("lag_unit").is_some_and(|u| u.as_str().starts_with(['m', 'M']));
    Values {
        connections: number("used").zip(number("limit")),
        lag_s: number("lag").map(|lag| if minutes { lag * 60.0 } else { lag }),
        free: size(&found, "free").or_else(|| size(&found, "free2")),
        total: size(&found, "total"),
        interval_s: number("interval_s"),
    }
}

/// `0.8 GB` in bytes.
fn size(found: &Captures<'_>, name: &str) -> Option<f64> {
    let text = found.name(name)?.as_str();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim();
    let power = match text[digits.len()..].trim().chars().next()?.to_ascii_lowercase() {
        'k' => 1,
        'm' => 2,
        'g' => 3,
        _ => 4,
    };
    digits.parse::<f64>().ok().map(|n| n * 1024f64.powi(power))
}

/// Puts the events into a capture in order of time; their numbers become signals, and a limit a setting.
pub fn place(answers: &Answers, span: Window, capture: &mut Capture) {
    let mut events: Vec<&(Event, Values)> = answers.events.iter().collect();
    events.sort_by_key(|(event, _)| event.at);
    for (event, values) in events {
        capture.events.push(event.clone());
        if let Some((_, limit)) = values.connections.filter(|(_, limit)| *limit >= 1.0) {
            let setting = Setting { value: limit.to_string(), unit: String::new(), source: "an RDS event".into() };
            capture.settings.insert("max_connections".into(), setting);
        }
        push(capture, "replica_lag_reported_seconds", "s", event.at, values.lag_s);
        push(capture, "storage_reported_free_bytes", "bytes", event.at, values.free);
        push(capture, "storage_total_bytes", "bytes", event.at, values.total);
        push(capture, "checkpoint_reported_interval_s", "s", event.at, values.interval_s);
    }
    used_share(answers, span, capture);
}

fn push(capture: &mut Capture, signal: &str, unit: &str, at: UnixMs, value: Option<f64>) {
    if let Some(value) = value {
        let series = capture.series.entry(signal.to_owned()).or_insert_with(|| Series { unit: unit.to_owned(), ..Series::default() });
        series.push(at, value);
    }
}

/// Connections over their limit, where the limit is known: by a parameter group, else by an event.
fn used_share(answers: &Answers, span: Window, capture: &mut Capture) {
    let limit = answers.settings.get("max_connections").or_else(|| capture.settings.get("max_connections"));
    let limit = limit.and_then(|s| s.value.parse::<f64>().ok()).filter(|l| *l >= 1.0);
    let (Some(limit), Some(sessions)) = (limit, capture.series.get("sessions")) else { return };
    let mut share = Series { unit: "ratio".into(), ..Series::default() };
    let inside = sessions.times.iter().zip(&sessions.values).filter(|(at, _)| span.contains(**at));
    inside.for_each(|(at, used)| share.push(*at, used / limit));
    capture.series.insert("connections_used_ratio".into(), share);
}
