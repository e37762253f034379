//! Copies: captures with the same series are one recording, whatever they are called, and are scored once.

use std::collections::HashMap;

use galen_agents::evaluation::split::{content_sha256, json_sha256};
use galen_tools::capture::Capture;

/// What tells a recording from all others: the digest of its series, by which `galen learn` tells copies too. None of a
/// capture without series, which is known by nothing that counts.
pub fn content(capture: &Capture) -> Option<String> {
    (!capture.series.is_empty()).then(|| content_sha256(&capture.series))
}

/// What tells an incident from all others where its events, statements and settings count too: the digest of all that a capture
/// holds beside its manifest.
pub fn whole(capture: &Capture) -> String {
    let Capture {
        manifest: _,
        series,
        sessions,
        locks,
        statements,
        texts,
        tables,
        indexes,
        settings,
        holders,
        events,
        alerts,
        answers,
        bill,
    } = capture;
    json_sha256(&(series, sessions, locks, statements, texts, tables, indexes, settings, holders, events, alerts, answers, bill))
}

/// The recordings seen so far, each with the name of the first capture of it.
#[derive(Debug, Default)]
pub struct Copies(HashMap<String, String>);

impl Copies {
    /// Why a capture is not used beside those before it; none where it is the first of its content, as [`content`] or [`whole`] tells
    /// it.
    pub fn twin(&mut self, content: Option<String>, name: &str) -> Option<String> {
        let content = content?;
        if let Some(first) = self.0.get(&content) {
            return Some(format!("the same recording as {first}"));
        }
        self.0.insert(content, name.to_owned());
        None
    }
}

#[cfg(test)]
pub mod tests {
    use galen_tools::capture::{FORMAT, Manifest};
    use galen_tools::model::{Event, Series};

    use super::*;

    /// A capture of one sample.
    pub fn capture(name: &str, value: f64) -> Capture {
        let series = Series { times: vec![1], values: vec![value], ..Series::default() };
        let manifest = Manifest { format: FORMAT, name: name.to_owned(), ..Manifest::default() };
        Capture { manifest, series: [("s".to_owned(), series)].into(), ..Capture::default() }
    }

    #[test]
    fn copies_are_told_by_their_series_alone() {
        let mut copies = Copies::default();
        let mut twin = |of: &Capture| copies.twin(content(of), &of.manifest.name);
        let mut labelled = capture("b", 1.0);
        labelled.manifest.labels = vec!["deadlocks".into()];
        assert_eq!((twin(&capture("a", 1.0)), twin(&capture("c", 2.0))), (None, None));
        assert_eq!(twin(&labelled).as_deref(), Some("the same recording as a"));
        assert_eq!(twin(&capture("d", 2.0)).as_deref(), Some("the same recording as c"));
        let empty = Capture::default();
        assert_eq!((twin(&empty), twin(&empty)), (None, None), "nothing is known of what has no series");
        let with = |event: &str| Capture { events: vec![Event { text: event.into(), ..Event::default() }], ..capture("e", 1.0) };
        assert_eq!(content(&with("failover")), content(&with("restart")));
        assert_ne!(whole(&with("failover")), whole(&with("restart")));
        assert_eq!(whole(&labelled), whole(&capture("a", 1.0)), "the manifest does not count");
    }
}
