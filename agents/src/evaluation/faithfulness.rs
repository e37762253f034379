//! Faithfulness: each sentence of a report cites evidence that exists, and its numbers are found in that evidence.
//!
//! Checked from outside, over the finished report: the sentences were made from facts by templates or a model, and here
//! each number is traced back to a fact of the observations that the sentence cites, at the precision in which it is
//! printed and in the unit that follows it. The placebo is the same check against other evidence of the same
//! report: what numbers match by accident.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::report::{Evidence, Report};

/// Examples kept a report.
const MOST_FAULTS: usize = 5;

/// What the claims of a report rest on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grounding {
    /// Sentences with a claim.
    pub claims: u32,
    /// Of these grounded: evidence cited, all of it exists, every number found in it.
    pub grounded: u32,
    /// Sentences with numbers.
    pub with_numbers: u32,
    /// Of these grounded.
    pub numbers_grounded: u32,
    /// Of the sentences with numbers, those whose numbers stand in other evidence just as well.
    pub placebo: u32,
    /// What is wrong with some of the others.
    pub faults: Vec<String>,
}

/// Checks every sentence of a report that makes a claim: summary, claims of causes, what was ruled out, consequences.
pub fn check(report: &Report) -> Grounding {
    let mut grounding = Grounding::default();
    for (text, ids) in sentences(report) {
        grounding.claims += 1;
        let numbers = numbers(text);
        let fault = fault(report, ids, &numbers);
        if !numbers.is_empty() {
            grounding.with_numbers += 1;
            grounding.numbers_grounded += u32::from(fault.is_none());
            grounding.placebo += u32::from(elsewhere(report, ids, &numbers));
        }
        match fault {
            None => grounding.grounded += 1,
            Some(why) if grounding.faults.len() < MOST_FAULTS => grounding.faults.push(format!("{why}: {text}")),
            Some(_) => {}
        }
    }
    grounding
}

fn sentences(report: &Report) -> Vec<(&str, &[String])> {
    let claims = report.summary.iter().chain(report.root_causes.iter().flat_map(|c| &c.claims));
    let mut all: Vec<(&str, &[String])> = claims.map(|c| (c.text.as_str(), c.evidence.as_slice())).collect();
    all.extend(report.ruled_out.iter().map(|r| (r.reason.as_str(), r.evidence.as_slice())));
    all.extend(report.consequences.iter().map(|c| (c.reason.as_str(), c.evidence.as_slice())));
    all
}

fn fault(report: &Report, ids: &[String], numbers: &[Number]) -> Option<String> {
    if ids.is_empty() {
        return Some("no evidence".into());
    }
    let known = |id: &&String| report.evidence.iter().any(|e| e.id == **id) || report.knowledge.iter().any(|k| k.id == **id);
    if let Some(unknown) = ids.iter().find(|id| !known(id)) {
        return Some(format!("{unknown} is not there"));
    }
    let cited: Vec<&Evidence> = report.evidence.iter().filter(|e| ids.contains(&e.id)).collect();
    let foreign = numbers.iter().find(|n| !cited.iter().any(|e| holds(e, n)));
    foreign.map(|n| format!("{} is not in {}", n.text, ids.join(",")))
}

/// True when the next evidence that is not cited holds all the numbers as well.
fn elsewhere(report: &Report, ids: &[String], numbers: &[Number]) -> bool {
    let cited = report.evidence.iter().position(|e| ids.contains(&e.id)).unwrap_or(0);
    let others = report.evidence.iter().cycle().skip(cited + 1).take(report.evidence.len());
    let placebo: Vec<&Evidence> = others.filter(|e| !ids.contains(&e.id)).take(ids.len().max(1)).collect();
    numbers.iter().all(|n| placebo.iter().any(|e| holds(e, n)))
}

/// A number as printed.
#[derive(Debug, Clone, PartialEq)]
struct Number {
    text: String,
    value: f64,
    /// Half a unit of the last digit.
    error: f64,
    /// The word that follows.
    unit: String,
}

/// Numbers of a sentence. A digit inside a name (`work_mem2`, `E3`, `14:05`) is part of the name.
fn numbers(text: &str) -> Vec<Number> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let unit_of = |next: Option<&&str>| next.map(|w| w.trim_end_matches(['.', ',', ';', ':', ')']).to_owned()).unwrap_or_default();
    words.iter().enumerate().filter_map(|(i, word)| number(word, unit_of(words.get(i + 1)))).collect()
}

fn number(word: &str, next: String) -> Option<Number> {
    let word = word.trim_matches(['.', ',', ';', ':', '(', ')', '\'', '"']);
    let (digits, unit) = match word.split_once('/') {
        Some((digits, rest)) => (digits, format!("/{rest}")),
        None => (word, next),
    };
    let (digits, unit) = match digits.strip_suffix('%') {
        Some(bare) => (bare, "%".to_owned()),
        None => (digits, unit),
    };
    let plain = digits.replace(',', "");
    let value: f64 = plain.parse().ok().filter(|_| plain.starts_with(|c: char| c.is_ascii_digit() || c == '-'))?;
    let decimals = plain.split_once('.').map_or(0, |(_, d)| d.len());
    Some(Number { text: word.to_owned(), value, error: 0.5 * 10f64.powi(-(decimals as i32)) * 1.000_001, unit })
}

/// What one of a unit is in the units of facts (bytes, shares, seconds or milliseconds).
fn scales(unit: &str) -> &'static [f64] {
    match unit.split('/').next().unwrap_or_default() {
        "%" => &[0.01],
        "kB" => &[1024.0, 1.0],
        "MB" => &[1_048_576.0, 1.0],
        "GB" => &[1_073_741_824.0, 1.0],
        "TB" => &[1_099_511_627_776.0, 1.0],
        "ms" => &[1.0, 0.001],
        "s" | "seconds" => &[1.0, 1000.0],
        _ => &[1.0],
    }
}

/// True when an observation holds the number: in a fact, in a text or digest line, or as the ratio of a fact to
/// its own baseline.
fn holds(evidence: &Evidence, number: &Number) -> bool {
    let facts = &evidence.observation.facts;
    let fits = |fact: f64| scales(&number.unit).iter().any(|scale| (fact / scale - number.value).abs() <= number.error);
    let spans = |fact: f64| in_minutes(fact, number);
    let value_fits = |fact: f64| fits(fact) || spans(fact);
    let ratio = |name: &String, fact: f64| {
        let base = facts.get(&format!("{name}_base")).and_then(Value::as_f64).filter(|b| *b > 0.0);
        number.unit == "times" && base.is_some_and(|b| (fact / b - number.value).abs() <= number.error)
    };
    facts
        .iter()
        .any(|(name, value)| any_number(value, &value_fits) || value.as_f64().is_some_and(|f| ratio(name, f)) || stands(value, number))
        || evidence.lines.iter().any(|line| written(line, number))
        || evidence.observation.culprits.iter().any(|c| written(&c.id, number) || written(&c.text, number))
}

/// `5 min 20 s` and `2 h 5 min` of a fact in seconds or milliseconds.
fn in_minutes(fact: f64, number: &Number) -> bool {
    [fact, fact / 1000.0].iter().any(|seconds| match number.unit.as_str() {
        "min" => [(seconds / 60.0).floor(), ((seconds % 3600.0) / 60.0).round()].contains(&number.value),
        "h" => (seconds / 3600.0).floor() == number.value,
        "s" => *seconds >= 120.0 && (seconds % 60.0).round() == number.value,
        _ => false,
    })
}

fn any_number(value: &Value, fits: &dyn Fn(f64) -> bool) -> bool {
    match value {
        Value::Number(n) => n.as_f64().is_some_and(fits),
        Value::Array(items) => items.iter().any(|v| any_number(v, fits)) || fits(items.len() as f64),
        Value::Object(map) => map.values().any(|v| any_number(v, fits)),
        _ => false,
    }
}

/// The number as a word of a text fact.
fn stands(value: &Value, number: &Number) -> bool {
    match value {
        Value::String(text) => written(text, number),
        Value::Array(items) => items.iter().any(|v| stands(v, number)),
        Value::Object(map) => map.values().any(|v| stands(v, number)),
        _ => false,
    }
}

fn written(text: &str, number: &Number) -> bool {
    numbers(text).iter().any(|n| (n.value - number.value).abs() <= number.error && n.unit == number.unit)
        || text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | ',' | '-'))).any(|word| word == number.text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Claim, RuledOut};
    use galen_tools::observe::Observation;
    use serde_json::json;

    fn evidence(id: &str, facts: Value) -> Evidence {
        let facts = facts.as_object().unwrap().clone().into_iter().collect();
        Evidence { id: id.into(), lines: vec![], observation: Observation { facts, ..Observation::default() } }
    }

    fn report(text: &str, ids: &[&str]) -> Report {
        Report {
            summary: vec![Claim { text: text.into(), evidence: ids.iter().map(|i| (*i).into()).collect() }],
            evidence: vec![
                evidence(
                    "E1",
                    json!({"rows_per_s": 410_000.4, "rows_per_s_base": 10_000.0, "lock_share": 0.425, "note": "pid 812", "query_id": "-3776040238679806254"}),
                ),
                evidence("E2", json!({"wal_bytes_per_s": 1_572_864.0, "age_s": 320.0, "mean_ms": 4.25, "tables": ["a", "b"]})),
            ],
            ..Report::default()
        }
    }

    #[test]
    fn numbers_are_traced_at_their_precision_and_unit() {
        for (text, id) in [
            ("Scans read 410,000 rows/s, 41 times the baseline.", "E1"),
            ("Locks take 42.5 % of the time of pid 812.", "E1"),
            ("Statement -3776040238679806254 takes them.", "E1"),
            ("It writes 1.5 MB/s of WAL.", "E2"),
            ("It is open for 5 min 20 s.", "E2"),
            ("A call takes 4.25 ms in 2 tables.", "E2"),
            ("Nothing of E3 or work_mem2 at 14:05 is a number.", "E1"),
        ] {
            let told = check(&report(text, &[id]));
            assert_eq!((told.claims, told.grounded), (1, 1), "{text}: {:?}", told.faults);
        }
    }

    #[test]
    fn invented_numbers_and_missing_evidence_are_found() {
        for (text, ids, why) in [
            ("Scans read 420,000 rows/s.", vec!["E1"], "420,000 is not in E1"),
            ("Locks take 44 % of the time.", vec!["E1"], "44 is not in E1"),
            ("Scans read 410,000 rows/s.", vec!["E2"], "is not in E2"),
            ("Scans read rows.", vec!["E9"], "E9 is not there"),
            ("Scans read rows.", vec![], "no evidence"),
        ] {
            let told = check(&report(text, &ids));
            assert_eq!(told.grounded, 0, "{text}");
            assert!(told.faults[0].contains(why), "{:?}", told.faults);
        }
    }

    #[test]
    fn the_placebo_shows_what_matches_by_accident() {
        let mut both = report("Scans read 410,000 rows/s.", &["E1"]);
        assert_eq!(check(&both).placebo, 0);
        both.evidence[1].observation.facts.insert("also".into(), 410_000.into());
        both.ruled_out.push(RuledOut { reason: "Only 4.25 ms a call.".into(), evidence: vec!["E2".into()], ..RuledOut::default() });
        let told = check(&both);
        assert_eq!((told.claims, told.with_numbers, told.placebo), (2, 2, 1));
    }
}
