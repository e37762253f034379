//! Answers questions from an incident's evidence and nothing else. No model is needed: what is asked for is found by
//! intent and by words, and every sentence keeps its evidence ids.

use std::collections::BTreeSet;

use galen_agents::report::{Claim, Report};
use jiff::Timestamp;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Sentences, each with evidence.
    pub sentences: Vec<Claim>,
    /// False when the evidence does not answer the question.
    pub answered: bool,
}

/// Most sentences of an answer.
const MOST: usize = 6;
const STOP: &[&str] = &[
    "a",
    "an",
    "and",
    "are",
    "as",
    "at",
    "be",
    "been",
    "but",
    "by",
    "can",
    "could",
    "did",
    "do",
    "does",
    "for",
    "from",
    "had",
    "has",
    "have",
    "how",
    "i",
    "in",
    "is",
    "it",
    "its",
    "me",
    "my",
    "of",
    "on",
    "or",
    "our",
    "please",
    "so",
    "tell",
    "that",
    "the",
    "their",
    "then",
    "there",
    "this",
    "to",
    "us",
    "was",
    "we",
    "were",
    "what",
    "when",
    "which",
    "who",
    "why",
    "will",
    "with",
    "you",
    "database",
    "db",
    "postgres",
    "postgresql",
    "since",
];

/// What a question is after: words that show it.
const INTENTS: &[(Intent, &[&str])] = &[
    (
        Intent::Remedy,
        &[
            "fix",
            "remedy",
            "solve",
            "mend",
            "repair",
            "stop it",
            "should we do",
            "should i do",
            "what to do",
            "do about",
            "undo",
            "rollback",
            "help",
        ],
    ),
    (Intent::RuledOut, &["ruled out", "rule out", "not the", "isn't it", "is it not", "why not", "could it be", "excluded"]),
    (Intent::Since, &["since when", "when did", "when was", "how long", "what time", "begin", "began", "start"]),
    (Intent::Cost, &["cost", "how bad", "impact", "how much", "severe"]),
    (Intent::Sure, &["how sure", "certain", "confiden", "probab", "likely"]),
    (
        Intent::Culprit,
        &[
            "who",
            "which query",
            "which statement",
            "which table",
            "which session",
            "which index",
            "culprit",
            "blam",
            "pid",
            "which setting",
        ],
    ),
    (Intent::Cause, &["why", "cause", "reason", "wrong", "slow", "happen", "problem", "issue", "stuck", "hang"]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intent {
    Remedy,
    RuledOut,
    Since,
    Cost,
    Sure,
    Culprit,
    Cause,
}

/// The report that answers a question.
#[derive(Debug, Clone, PartialEq)]
pub struct Picked<'r> {
    /// Number of its incident.
    pub id: i64,
    /// The report.
    pub report: &'r Report,
    /// Says so when it is of another time than the one asked about.
    pub note: Option<String>,
}

/// An incident that begins within this time after the moment asked about is taken to be meant.
const FOLLOWS_S: i64 = 1_800;

/// The report a question is about. A time of day in it means today's, or yesterday's while it is yet to come, in UTC as
/// in the reports: the incident whose window covers it, else the next one that began soon after it. Where none does, and
/// where no time is named, the first, with a note in the one case. `reports` are in order, newest first.
pub fn pick<'r>(question: &str, reports: &'r [(i64, Report)], now: Timestamp) -> Option<Picked<'r>> {
    let (id, report) = reports.first()?;
    let newest = |note| Some(Picked { id: *id, report, note });
    let Some(asked) = clock(question) else { return newest(None) };
    let now = now.as_second();
    let today = now - now.rem_euclid(DAY_S) + i64::from(asked) * 60;
    let asked_at = if today > now { today - DAY_S } else { today };
    // Seconds from the moment asked about to the incident; the minute asked about is meant as a whole.
    let distance = |report: &Report| {
        let second = |text: &str| text.parse::<Timestamp>().ok().map(Timestamp::as_second);
        let (from, to) = (second(&report.window.start)?, second(&report.window.end)?);
        let ahead = (from - asked_at - 59).max(0);
        (to >= asked_at && ahead <= FOLLOWS_S).then_some(ahead)
    };
    let meant = reports.iter().filter_map(|(id, r)| Some((distance(r)?, *id, r))).min_by_key(|(ahead, id, _)| (*ahead, -*id));
    match meant {
        Some((_, id, report)) => Some(Picked { id, report, note: None }),
        None => newest(Some(format!(
            "No incident covers {:02}:{:02} UTC or begins soon after it; this is the newest, incident {id} of {}.",
            asked / 60,
            asked % 60,
            report.window.words()
        ))),
    }
}

/// Seconds of a day.
const DAY_S: i64 = 86_400;

/// Minutes since midnight of the first `HH:MM` in a text.
fn clock(text: &str) -> Option<u32> {
    text.split(|c: char| !(c.is_ascii_digit() || c == ':')).find_map(|word| {
        let (hours, minutes) = word.split_once(':')?;
        let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.get(..2)?.parse().ok()?);
        (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
    })
}

/// Answers a question from a report.
pub fn answer(question: &str, report: &Report) -> Answer {
    let lower = question.to_lowercase();
    let words = stems(&lower);
    let named = report.ruled_out.iter().any(|r| mentions(&words, &r.cause));
    let intents: Vec<Intent> = INTENTS.iter().filter(|(_, signs)| signs.iter().any(|s| has(&lower, s))).map(|(i, _)| *i).collect();
    let mut found = Vec::new();
    if named && !intents.contains(&Intent::Remedy) {
        found.extend(ruled_out(report, &words));
    } else if let Some(intent) = intents.first() {
        found.extend(by_intent(*intent, report, &words));
    }
    if found.is_empty() {
        found = by_words(report, &words);
    }
    found.retain(|c| !c.evidence.is_empty());
    found.dedup();
    found.truncate(MOST);
    if found.is_empty() {
        let holds: Vec<&str> = report.evidence.iter().map(|e| e.observation.tool.as_str()).take(8).collect();
        let text = format!("The evidence does not answer that; it holds: {}.", holds.join(", "));
        let evidence = report.evidence.iter().map(|e| e.id.clone()).take(8).collect();
        return Answer { sentences: vec![Claim { text, evidence }], answered: false };
    }
    Answer { sentences: found, answered: true }
}

/// A sign stands at the beginning of a word: `who` is not in `whole` only by luck of the list.
fn has(text: &str, sign: &str) -> bool {
    let padded = format!(" {}", text.replace(|c: char| !(c.is_alphanumeric() || c == '\''), " "));
    let stem = padded.contains(&format!(" {sign}"));
    stem && (sign.len() > 3 || padded.contains(&format!(" {sign} ")))
}

fn by_intent(intent: Intent, report: &Report, words: &BTreeSet<String>) -> Vec<Claim> {
    let causes = report.root_causes.iter();
    match intent {
        Intent::Cause => causes
            .flat_map(|c| {
                let main =
                    Claim { text: format!("{} ({:.0} %): {}", c.title, c.probability * 100.0, c.summary), evidence: c.evidence.clone() };
                std::iter::once(main).chain(c.claims.iter().take(3).cloned())
            })
            .collect(),
        Intent::Since => causes
            .filter_map(|c| Some(Claim { text: format!("{} since {}.", c.title, c.since.as_ref()?), evidence: first_or(&c.evidence) }))
            .collect(),
        Intent::Cost => {
            let cost = report.summary.iter().filter(|c| c.text.contains("database time") || c.text.contains("active at a time"));
            cost.cloned().collect()
        }
        Intent::Sure => causes
            .map(|c| Claim {
                text: format!("{}: {:.0} %, from {} supporting tests.", c.title, c.probability * 100.0, c.claims.len()),
                evidence: c.evidence.clone(),
            })
            .collect(),
        Intent::Culprit => causes
            .flat_map(|c| c.culprits.iter().map(move |culprit| (c, culprit)))
            .map(|(c, culprit)| {
                let kind = format!("{:?}", culprit.kind).to_lowercase();
                Claim { text: format!("{kind} {}: {}", culprit.id, culprit.text), evidence: c.evidence.clone() }
            })
            .collect(),
        Intent::Remedy => causes
            .flat_map(|c| c.remedies.iter().map(move |r| (c, r)))
            .map(|(c, r)| Claim {
                text: format!("{}: {} Lock: {} Undo: {} Effect: {}", r.title, r.sql, r.lock, r.rollback, r.effect),
                evidence: c.evidence.clone(),
            })
            .collect(),
        Intent::RuledOut => ruled_out(report, words),
    }
}

fn ruled_out(report: &Report, words: &BTreeSet<String>) -> Vec<Claim> {
    let claim = |r: &galen_agents::report::RuledOut| Claim {
        text: format!("{} was ruled out ({:.1} %): {}", r.cause, r.probability * 100.0, r.reason),
        evidence: r.evidence.clone(),
    };
    let asked: Vec<Claim> = report.ruled_out.iter().filter(|r| mentions(words, &r.cause)).map(claim).collect();
    if asked.is_empty() { report.ruled_out.iter().take(4).map(claim).collect() } else { asked }
}

/// Sentences and evidence lines that share most words with the question.
fn by_words(report: &Report, words: &BTreeSet<String>) -> Vec<Claim> {
    let summary = report.summary.iter().cloned();
    let claims = report.root_causes.iter().flat_map(|c| c.claims.iter().cloned());
    let lines = report
        .evidence
        .iter()
        .flat_map(|e| e.lines.iter().map(|l| Claim { text: format!("{}: {l}", e.observation.tool), evidence: vec![e.id.clone()] }));
    let mut scored: Vec<(usize, Claim)> = summary
        .chain(claims)
        .chain(lines)
        .map(|claim| (stems(&claim.text.to_lowercase()).intersection(words).count(), claim))
        .filter(|(score, _)| *score >= if words.len() > 2 { 2 } else { 1 })
        .collect();
    scored.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    scored.into_iter().map(|(_, claim)| claim).collect()
}

/// True when the question names a cause: all words of its id.
fn mentions(words: &BTreeSet<String>, cause: &str) -> bool {
    cause.split('_').all(|part| words.contains(&stem(part)))
}

fn first_or(evidence: &[String]) -> Vec<String> {
    evidence.iter().take(2).cloned().collect()
}

fn stems(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| w.len() > 1 && !STOP.contains(w)).map(stem).collect()
}

/// Cuts plain English endings: `indexes`, `indexing` and `index` meet.
fn stem(word: &str) -> String {
    let cut =
        ["ings", "ing", "edly", "ed", "ies", "es", "s", "ly"].iter().find_map(|end| word.strip_suffix(end).filter(|stem| stem.len() >= 3));
    cut.unwrap_or(word).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use galen_agents::report::{Remedy, RootCause, RuledOut, Span};

    fn report(start: &str, end: &str) -> Report {
        let e = vec!["E2".to_owned()];
        Report {
            window: Span { start: start.into(), end: end.into() },
            root_causes: vec![RootCause {
                cause: "missing_index".into(),
                title: "Missing index".into(),
                probability: 0.97,
                summary: "Statement 42 scans all of public.orders.".into(),
                since: Some(start.into()),
                claims: vec![Claim { text: "Sequential scans read 410,000 rows/s.".into(), evidence: e.clone() }],
                evidence: e.clone(),
                remedies: vec![Remedy {
                    title: "Create it".into(),
                    sql: "CREATE INDEX CONCURRENTLY ON orders (customer_id);".into(),
                    ..Remedy::default()
                }],
                ..RootCause::default()
            }],
            ruled_out: vec![RuledOut {
                cause: "deadlocks".into(),
                probability: 0.001,
                reason: "No deadlock was seen.".into(),
                evidence: vec!["E5".into()],
            }],
            ..Report::default()
        }
    }

    #[test]
    fn questions_are_answered_by_intent_with_evidence() {
        let r = report("2026-01-01T14:05:00Z", "2026-01-01T14:06:00Z");
        let first = |q: &str| answer(q, &r).sentences[0].clone();
        assert!(first("why is checkout slow since 14:05?").text.contains("Missing index (97 %)"));
        assert!(first("How do we fix it?").text.contains("CREATE INDEX CONCURRENTLY"));
        assert!(first("could it be deadlocks?").text.starts_with("deadlocks was ruled out"));
        assert_eq!(first("could it be deadlocks?").evidence, ["E5"]);
        assert!(first("since when?").text.contains("14:05"));
    }

    #[test]
    fn what_the_evidence_does_not_hold_is_not_answered() {
        let r = report("2026-01-01T14:05:00Z", "2026-01-01T14:06:00Z");
        assert!(!answer("quel temps fait-il demain?", &r).answered);
    }

    #[test]
    fn a_time_picks_the_incident_that_covers_it() {
        let reports =
            [(2, report("2026-01-01T16:00:00Z", "2026-01-01T16:02:00Z")), (1, report("2026-01-01T14:04:00Z", "2026-01-01T14:06:00Z"))];
        let now: Timestamp = "2026-01-01T18:00:00Z".parse().unwrap();
        let picked = |question: &str| pick(question, &reports, now).unwrap();
        assert_eq!((picked("why was it slow at 14:05?").id, picked("why was it slow at 14:05?").note), (1, None));
        assert_eq!((picked("since 13:50?").id, picked("since 16:02?").id), (1, 2), "soon after, and in its last minute");
        assert_eq!((picked("why is it slow?").id, picked("why is it slow?").note), (2, None));
        for other in ["since 15:00?", "since 09:00?", "since 23:00?"] {
            let picked = picked(other);
            let note = picked.note.unwrap();
            assert!(picked.id == 2 && note.contains("incident 2 of 2026-01-01, 16:00:00 to 16:02:00 UTC"), "{note}");
        }
        let tomorrow: Timestamp = "2026-01-02T18:00:00Z".parse().unwrap();
        assert!(pick("since 14:05?", &reports, tomorrow).unwrap().note.is_some(), "that was yesterday");
        assert!(pick("why?", &[], now).is_none());
    }
}
