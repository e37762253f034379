//! Answers questions from an incident's evidence and nothing else. No model is needed: what is asked for is found by
//! intent and by words, and every sentence keeps its evidence ids.

use std::collections::BTreeSet;

use galen_agents::report::{Claim, Report};

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

/// The report a question is about: the one whose window covers a time in the question, or is nearest to it; else the
/// first (the newest). `reports` are in order, newest first.
pub fn pick<'r>(question: &str, reports: &'r [(i64, Report)]) -> Option<(i64, &'r Report)> {
    let newest = reports.first().map(|(id, r)| (*id, r));
    let Some(asked) = clock(question) else { return newest };
    let minute = |text: &str| {
        let time = text.get(11..16)?;
        clock(time)
    };
    let distance = |report: &Report| {
        let (from, to) = (minute(&report.window.start)?, minute(&report.window.end)?);
        Some(if from <= asked && asked <= to { 0 } else { from.abs_diff(asked).min(to.abs_diff(asked)) })
    };
    reports
        .iter()
        .filter_map(|(id, r)| Some((distance(r)?, *id, r)))
        .min_by_key(|(d, id, _)| (*d, -*id))
        .map(|(_, id, r)| (id, r))
        .or(newest)
}

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
        assert_eq!(pick("why was it slow at 14:05?", &reports).map(|(id, _)| id), Some(1));
        assert_eq!(pick("why is it slow?", &reports).map(|(id, _)| id), Some(2));
        assert!(pick("why?", &[]).is_none());
    }
}
