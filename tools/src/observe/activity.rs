//! Load by statement and wait where nobody sampled sessions: averages that a managed service keeps (Performance Insights),
//! as labelled signals. What sessions show and what these signals show is the same measure: sessions active at a time.

use std::collections::BTreeMap;

use crate::capture::Capture;
use crate::model::{Series, Window};

/// Sessions active at a time in one statement and one wait.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Statement.
    pub query_id: i64,
    /// `CPU`, or class and event such as `IO:DataFileRead`.
    pub event: String,
    /// Sessions at a time.
    pub sessions: f64,
}

/// True where sessions were sampled, or at least may have been: nobody said that they were not.
pub fn sampled(capture: &Capture) -> bool {
    !capture.sessions.is_empty() || !capture.manifest.missing.iter().any(|gap| gap.what == "sessions")
}

/// Who measured the load, where it was not Galen.
pub fn source(capture: &Capture) -> Option<&'static str> {
    (capture.manifest.origin == "rds" && capture.series.keys().any(|k| k.starts_with("statement_load{") || k.starts_with("wait_load{")))
        .then_some("Performance Insights")
}

/// Load by statement and wait over the window of an incident.
pub fn by_statement(capture: &Capture, window: Window) -> Vec<Load> {
    of(capture, "statement_load", |s| level(s, window))
}

/// Load by statement and wait over a baseline: only what was followed over time.
pub fn before(capture: &Capture, baseline: Option<Window>) -> Vec<Load> {
    let Some(baseline) = baseline else { return Vec::new() };
    of(capture, "statement_load", |s| if s.times.len() > 1 { level(s, baseline) } else { None })
}

/// Load by wait over the window of an incident: of all statements, also those outside the top list.
pub fn by_wait(capture: &Capture, window: Window) -> BTreeMap<String, f64> {
    sum_by_event(capture, |s| level(s, window))
}

/// Load by wait over a baseline.
pub fn by_wait_before(capture: &Capture, baseline: Window) -> BTreeMap<String, f64> {
    sum_by_event(capture, |s| if s.times.len() > 1 { level(s, baseline) } else { None })
}

fn sum_by_event(capture: &Capture, level: impl Fn(&Series) -> Option<f64>) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for (labels, series) in labelled(capture, "wait_load") {
        if let Some((wait, load)) = labels.get("wait").zip(level(series)) {
            *sums.entry((*wait).to_owned()).or_insert(0.0) += load;
        }
    }
    if sums.is_empty() {
        for load in of(capture, "statement_load", level) {
            *sums.entry(load.event).or_insert(0.0) += load.sessions;
        }
    }
    sums
}

/// Sessions at a time by a label of a signal: `user_load` by `user`, `client_load` by `client`.
pub fn by_label(capture: &Capture, signal: &str, label: &str, window: Window) -> BTreeMap<String, f64> {
    let of = |(labels, series): (BTreeMap<&str, &str>, &Series)| Some(((*labels.get(label)?).to_owned(), level(series, window)?));
    labelled(capture, signal).filter_map(of).collect()
}

/// Calls per second of a statement, where they are known.
pub fn calls_per_s(capture: &Capture, query_id: i64, window: Window) -> Option<f64> {
    level(capture.series.get(&format!("statement_calls_per_s{{query_id=\"{query_id}\"}}"))?, window)
}

fn of(capture: &Capture, signal: &str, level: impl Fn(&Series) -> Option<f64>) -> Vec<Load> {
    let load = |(labels, series): (BTreeMap<&str, &str>, &Series)| {
        let query_id = labels.get("query_id")?.parse().ok()?;
        let sessions = level(series)?;
        Some(Load { query_id, event: (*labels.get("wait")?).to_owned(), sessions })
    };
    labelled(capture, signal).filter_map(load).collect()
}

/// Mean over a window. A single value is an average over the whole recording, and so of the incident in it.
fn level(series: &Series, window: Window) -> Option<f64> {
    if let [only] = series.values.as_slice() {
        return Some(*only);
    }
    let values = series.within(window);
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Series of a signal with their labels. Values of labels hold no quotes.
fn labelled<'c>(capture: &'c Capture, signal: &str) -> impl Iterator<Item = (BTreeMap<&'c str, &'c str>, &'c Series)> {
    let prefix = format!("{signal}{{");
    let from = capture.series.range(prefix.clone()..);
    from.take_while(move |(name, _)| name.starts_with(&prefix)).map(|(name, series)| (labels(name), series))
}

fn labels(name: &str) -> BTreeMap<&str, &str> {
    let inside = name.split_once('{').map(|(_, rest)| rest.trim_end_matches('}')).unwrap_or_default();
    let mut found = BTreeMap::new();
    let mut rest = inside;
    while let Some((label, tail)) = rest.split_once("=\"") {
        let Some((value, tail)) = tail.split_once('"') else { break };
        found.insert(label.trim_start_matches(','), value);
        rest = tail;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(loads: &[(&str, &[(i64, f64)])]) -> Capture {
        let series = |points: &[(i64, f64)]| Series {
            unit: "sessions".into(),
            times: points.iter().map(|p| p.0).collect(),
            values: points.iter().map(|p| p.1).collect(),
        };
        Capture { series: loads.iter().map(|(name, points)| ((*name).to_owned(), series(points))).collect(), ..Capture::default() }
    }

    #[test]
    fn an_average_over_all_speaks_of_the_incident_and_never_of_the_time_before() {
        let (before, incident) = (Window { start: 0, end: 60 }, Window { start: 60, end: 120 });
        let name = r#"statement_load{query_id="-7",wait="IO:WALWrite"}"#;
        let average = capture(&[(name, &[(0, 3.0)])]);
        assert_eq!(by_statement(&average, incident), [Load { query_id: -7, event: "IO:WALWrite".into(), sessions: 3.0 }]);
        assert!(super::before(&average, Some(before)).is_empty());
        let followed = capture(&[(name, &[(0, 1.0), (60, 5.0)])]);
        assert_eq!((by_statement(&followed, incident)[0].sessions, super::before(&followed, Some(before))[0].sessions), (5.0, 1.0));
        assert_eq!(by_wait(&followed, incident)["IO:WALWrite"], 5.0, "waits are summed over statements where no total is given");
    }

    #[test]
    fn labels_may_hold_commas_and_braces() {
        assert_eq!(labels(r#"user_load{user="a,b}",x="1"}"#), BTreeMap::from([("user", "a,b}"), ("x", "1")]));
    }
}
