//! The check on a model's prose: a sentence stays only when it says what a claim with evidence already says.
//!
//! A weak model invents numbers, names and relations fluently. So its sentence must be a paraphrase of one claim:
//! every number and identifier stands in that claim (or in the evidence it cites), no negation and no direction
//! is turned round, and hardly any content word comes from elsewhere. What passes inherits the claim's evidence.

use std::collections::BTreeSet;

use crate::report::Claim;

/// Why a sentence was withheld.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Withheld {
    /// It resembles no claim.
    Unsupported,
    /// It holds a number or an identifier that its claim does not.
    Foreign(String),
    /// It negates or reverses its claim.
    Reversed,
    /// It leaves out a name of its claim: a relation, a setting, a signal, the id of a statement.
    Vague(String),
}

/// Words that carry no fact of their own.
const GLUE: &[&str] = &[
    "a",
    "an",
    "and",
    "are",
    "as",
    "at",
    "because",
    "been",
    "being",
    "but",
    "by",
    "caused",
    "causes",
    "causing",
    "database",
    "due",
    "during",
    "for",
    "from",
    "had",
    "has",
    "have",
    "in",
    "is",
    "it",
    "its",
    "main",
    "of",
    "on",
    "one",
    "or",
    "postgresql",
    "problem",
    "query",
    "root",
    "cause",
    "since",
    "so",
    "statement",
    "table",
    "that",
    "the",
    "their",
    "there",
    "these",
    "this",
    "to",
    "was",
    "were",
    "which",
    "while",
    "with",
    "issue",
];
const NEGATIONS: &[&str] = &["no", "not", "never", "without", "none", "neither", "nor", "cannot", "n't", "healthy"];
const RISING: &[&str] = &["rose", "rise", "rises", "rising", "increase", "increased", "increases", "more", "higher", "grew", "grows", "up"];
const FALLING: &[&str] =
    &["fell", "fall", "falls", "falling", "decrease", "decreased", "decreases", "less", "lower", "dropped", "shrank", "down", "fewer"];

/// Checks one sentence against the claims of a report. Returns the sentence as a claim with evidence, or why not.
///
/// # Errors
/// The reason for which it is withheld.
pub fn check(sentence: &str, claims: &[Claim], evidence_text: impl Fn(&str) -> String) -> Result<Claim, Withheld> {
    let words = words(sentence);
    let content: BTreeSet<&str> = words.iter().map(String::as_str).filter(|w| !GLUE.contains(w)).collect();
    let best = claims.iter().map(|claim| (overlap(&content, &claim.text), claim)).max_by(|a, b| a.0.total_cmp(&b.0));
    let Some((share, claim)) = best else { return Err(Withheld::Unsupported) };
    if content.len() < 3 || share < 0.7 {
        return Err(Withheld::Unsupported);
    }
    let mut known: BTreeSet<String> = self::words(&claim.text).into_iter().collect();
    for id in &claim.evidence {
        known.extend(self::words(&evidence_text(id)));
        known.insert(id.to_lowercase());
    }
    if let Some(foreign) = content.iter().find(|w| is_fact(w) && !known.contains(**w)) {
        return Err(Withheld::Foreign((*foreign).to_owned()));
    }
    let claimed: BTreeSet<String> = self::words(&claim.text).into_iter().collect();
    for family in [NEGATIONS, RISING, FALLING] {
        let said = content.iter().any(|w| family.contains(w));
        let meant = family.iter().any(|w| claimed.contains(*w));
        if said != meant {
            return Err(Withheld::Reversed);
        }
    }
    if let Some(lost) = claimed.iter().find(|w| is_name(w) && !content.contains(w.as_str())) {
        return Err(Withheld::Vague(lost.clone()));
    }
    Ok(Claim { text: sentence.trim().to_owned(), evidence: claim.evidence.clone() })
}

/// Splits prose into sentences; a dot inside a number or a name does not end one.
pub fn sentences(prose: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut current = String::new();
    let mut chars = prose.chars().peekable();
    while let Some(c) = chars.next() {
        current.push(if c.is_control() { ' ' } else { c });
        let ends = matches!(c, '.' | '!' | '?') && chars.peek().is_none_or(|next| next.is_whitespace());
        if ends || c == '\n' {
            out.push(std::mem::take(&mut current));
        }
    }
    out.push(current);
    out.into_iter().map(|s| s.trim().to_owned()).filter(|s| s.ends_with(['.', '!', '?']) && s.len() > 10).collect()
}

fn overlap(content: &BTreeSet<&str>, claim: &str) -> f64 {
    let claim: BTreeSet<String> = words(claim).into_iter().collect();
    let shared = content.iter().filter(|w| claim.contains(**w)).count();
    shared as f64 / content.len().max(1) as f64
}

/// A number, or a name with a digit, dot or underscore: something that must not be invented.
fn is_fact(word: &str) -> bool {
    word.contains(|c: char| c.is_ascii_digit() || c == '_' || c == '.')
}

/// What identifies something: a name with a dot or an underscore, or a number as long as a statement's id.
fn is_name(word: &str) -> bool {
    let letters = word.contains(char::is_alphabetic);
    (letters && word.contains(['.', '_'])) || (!letters && word.chars().filter(char::is_ascii_digit).count() > 8)
}

/// Lowercase words; numbers and dotted or underscored names stay whole, thousands separators go.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | ',' | '\'' | '-')))
        .map(|w| w.trim_matches(['.', ',', '\'', '-']).replace(',', "").to_lowercase())
        .filter(|w| !w.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Vec<Claim> {
        vec![
            Claim {
                text: "Sequential scans read 410,000 rows/s of public.orders, 41.2 times the baseline.".into(),
                evidence: vec!["E3".into()],
            },
            Claim { text: "Row-lock queues behind many short transactions are not seen.".into(), evidence: vec!["E4".into()] },
        ]
    }

    fn verdict(sentence: &str) -> Result<Claim, Withheld> {
        check(sentence, &claims(), |_| "table public.orders; 812,345 rows".into())
    }

    #[test]
    fn a_paraphrase_keeps_the_evidence_of_its_claim() {
        let claim = verdict("The sequential scans of public.orders read 410,000 rows/s, 41.2 times the baseline.").unwrap();
        assert_eq!(claim.evidence, ["E3"]);
    }

    #[test]
    fn invented_numbers_names_and_negations_are_withheld() {
        let scans = "Sequential scans read 410,000 rows/s of public.orders";
        assert_eq!(verdict(&format!("{scans}, 99 times the baseline.")), Err(Withheld::Foreign("99".into())));
        assert_eq!(verdict("Sequential scans read 410,000 rows/s of public.customers."), Err(Withheld::Foreign("public.customers".into())));
        assert_eq!(verdict("Sequential scans read not 410,000 rows/s of public.orders."), Err(Withheld::Reversed));
        assert_eq!(verdict("Row-lock queues behind many short transactions are seen."), Err(Withheld::Reversed));
        assert_eq!(verdict("Sequential scans read 410,000 rows/s, 41.2 times the baseline."), Err(Withheld::Vague("public.orders".into())));
        assert_eq!(verdict("You should drop the users table and restart the server now."), Err(Withheld::Unsupported));
    }

    #[test]
    fn sentences_keep_numbers_and_names_whole() {
        let split = sentences("It took 4.2 s on public.orders. Then it ended.\nfragment without an end");
        assert_eq!(split, ["It took 4.2 s on public.orders.", "Then it ended."]);
    }
}
