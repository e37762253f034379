//! Sentences of the catalog: minijinja templates over facts, with filters that print numbers for people.

use std::collections::HashMap;

use minijinja::value::{Serde, Value};
use minijinja::{Environment, UndefinedBehavior};

/// Renders the sentences of the catalog.
#[derive(Debug, Clone)]
pub struct Sentences {
    env: Environment<'static>,
    /// Names of the templates that are parsed already, by source. The name itself says nothing: an ending would set escaping.
    names: HashMap<String, String>,
}

impl Default for Sentences {
    fn default() -> Self {
        let mut env = Environment::new();
        // A sentence about a fact that is not there is not said at all.
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_fuel(Some(200_000));
        add_filters(&mut env);
        Self { env, names: HashMap::new() }
    }
}

impl Sentences {
    /// Renders one template over a serialisable context.
    ///
    /// # Errors
    /// One line, when the template does not parse or names a fact that is missing.
    pub fn render(&self, template: &str, context: impl serde::Serialize) -> Result<String, String> {
        self.render_value(template, Value::from(Serde(context)))
    }

    /// As [`Sentences::render`], over a value of the template engine that can be used again.
    ///
    /// # Errors
    /// As [`Sentences::render`].
    pub fn render_value(&self, template: &str, context: Value) -> Result<String, String> {
        let known = self.names.get(template).and_then(|name| self.env.get_template(name).ok());
        match known {
            Some(parsed) => parsed.render(context),
            None => self.env.render_str(template, context),
        }
        .map(agreed)
        .map_err(|e| e.to_string())
    }

    /// Parses a template once, for all its uses.
    pub fn prepare(&mut self, template: &str) {
        let name = format!("sentence {}", self.names.len());
        // One that does not parse fails where it is used.
        if !self.names.contains_key(template) && self.env.add_template_owned(name.clone(), template.to_owned()).is_ok() {
            self.names.insert(template.to_owned(), name);
        }
    }

    /// Checks that a template parses.
    ///
    /// # Errors
    /// One line from the template engine.
    pub fn check(&self, template: &str) -> Result<(), String> {
        self.env.template_from_str(template).map(|_| ()).map_err(|e| e.to_string())
    }
}

/// The filters that print values for people.
pub(crate) fn add_filters(env: &mut Environment<'static>) {
    env.add_filter("bytes", bytes);
    env.add_filter("pct", |n: f64| format!("{} %", number(n * 100.0)));
    env.add_filter("num", number);
    env.add_filter("ms", millis);
    env.add_filter("secs", |n: f64| millis(n * 1000.0));
    env.add_filter("times", times);
    env.add_filter("short", |text: String| short(&text, 120));
}

/// At most three significant digits, thousands grouped: `1,234,000`, `12.3`, `0.05`.
pub fn number(n: f64) -> String {
    let magnitude = n.abs();
    if magnitude >= 1000.0 {
        return group(n.round());
    }
    let text = match magnitude {
        m if m >= 100.0 => format!("{n:.0}"),
        m if m >= 10.0 => format!("{n:.1}"),
        m if m >= 0.095 => format!("{n:.2}"),
        _ => format!("{n:.3}"),
    };
    let trimmed = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if trimmed == "-0" { "0".to_owned() } else { trimmed.to_owned() }
}

fn group(n: f64) -> String {
    let digits = format!("{:.0}", n.abs());
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if n < 0.0 { format!("-{out}") } else { out }
}

/// A ratio as `41.2 times`. Facts cap ratios at 1000: from there on the true one may be larger.
fn times(n: f64) -> String {
    if n >= 1000.0 { "more than 1,000 times".to_owned() } else { format!("{} times", number(n)) }
}

/// Bytes in binary units: `512 kB`, `64 MB`, `1.5 GB`.
pub fn bytes(n: f64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB"];
    let mut value = n;
    let mut unit = 0;
    while value.abs() >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", number(value), units[unit])
}

/// Milliseconds as `4.2 ms`, `3.1 s`, `5 min 20 s`, `2 h 5 min`.
pub fn millis(n: f64) -> String {
    let seconds = n / 1000.0;
    if n.abs() < 1000.0 {
        format!("{} ms", number(n))
    } else if seconds < 120.0 {
        format!("{} s", number(seconds))
    } else if seconds.round() < 7200.0 {
        two(seconds.round(), "min", "s")
    } else {
        two((seconds / 60.0).round(), "h", "min")
    }
}

/// So many of a unit as sixties of the next: `5 min 20 s`, `30 min`.
fn two(n: f64, sixty: &str, unit: &str) -> String {
    let rest = n % 60.0;
    let whole = format!("{} {sixty}", (n / 60.0).floor());
    if rest < 0.5 { whole } else { format!("{whole} {rest:.0} {unit}") }
}

/// A title inside a sentence: its first letter small, unless it begins with an abbreviation.
pub fn inside(title: &str) -> String {
    let mut letters = title.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(title.chars().skip(1)).collect()
        }
        _ => title.to_owned(),
    }
}

/// What sentences count.
const COUNTED: &[(&str, &str)] = &[
    ("sessions", "session"),
    ("rows", "row"),
    ("transactions", "transaction"),
    ("connections", "connection"),
    ("statements", "statement"),
    ("indexes", "index"),
    ("processes", "process"),
    ("checkpoints", "checkpoint"),
    ("deadlocks", "deadlock"),
    ("attempts", "attempt"),
    ("commits", "commit"),
    ("calls", "call"),
    ("kinds", "kind"),
];

/// Makes what follows a lone 1 singular: `1 dead rows` becomes `1 dead row`, `1 sessions are` becomes `1 session is`.
fn agreed(text: String) -> String {
    if !text.contains("1 ") {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    // Words in which the noun of a 1 may still come: an adjective may stand before it.
    let (mut awaited, mut verb) = (0, false);
    for word in text.split_inclusive(' ') {
        let bare = word.trim_end();
        let (letters, tail) = bare.split_at(bare.find(|c: char| !c.is_alphabetic()).unwrap_or(bare.len()));
        let changed = match letters {
            "are" if verb => Some("is"),
            "were" if verb => Some("was"),
            noun if awaited > 0 => COUNTED.iter().find(|(many, _)| *many == noun).map(|(_, one)| *one),
            _ => None,
        };
        verb = awaited > 0 && changed.is_some() && tail.is_empty();
        awaited = match changed {
            None if bare.trim_start_matches(['(', '"']) == "1" => 2,
            None if awaited > 0 && tail.is_empty() => awaited - 1,
            _ => 0,
        };
        out.push_str(changed.unwrap_or(letters));
        out.push_str(&word[letters.len()..]);
    }
    out
}

/// Cuts a text on a character boundary and says so.
pub fn short(text: &str, most: usize) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if flat.chars().count() <= most {
        return flat;
    }
    flat.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(12.345), "12.3");
        assert_eq!(number(0.5), "0.5");
        assert_eq!(number(100.0), "100");
        assert_eq!(number(-0.0), "0");
        assert_eq!(bytes(67_108_864.0), "64 MB");
        assert_eq!(millis(4.25), "4.25 ms");
        for (ms, said) in [
            (320_000.0, "5 min 20 s"),
            (1_800_000.0, "30 min"),
            (179_900.0, "3 min"),
            (7_199_800.0, "2 h"),
            (7_500_000.0, "2 h 5 min"),
            (10_799_000.0, "3 h"),
        ] {
            assert_eq!(millis(ms), said);
        }
    }

    #[test]
    fn one_is_singular_and_abbreviations_stay_as_they_are() {
        for (text, said) in [
            ("It returns 1 rows a call.", "It returns 1 row a call."),
            ("1 sessions are active at a time, 0 before.", "1 session is active at a time, 0 before."),
            ("Only 1 transactions old (1 dead rows), at 1 commits/s.", "Only 1 transaction old (1 dead row), at 1 commit/s."),
            ("1.1 sessions, 11 rows, 1 of 120 connections are in use.", "1.1 sessions, 11 rows, 1 of 120 connections are in use."),
            ("Level 1, 3 rows", "Level 1, 3 rows"),
        ] {
            assert_eq!(agreed(text.to_owned()), said);
        }
        let titles = ["CPU contention", "DDL in the lock queue", "I/O contention", "Mass delete", "A query fetches", ""];
        let said = ["CPU contention", "DDL in the lock queue", "I/O contention", "mass delete", "a query fetches", ""];
        assert_eq!(titles.map(inside), said);
    }

    #[test]
    fn a_sentence_about_a_missing_fact_is_an_error() {
        let sentences = Sentences::default();
        let facts = serde_json::json!({"table": "public.orders", "ratio": 41.2});
        assert_eq!(sentences.render("{{ table }} {{ ratio|times }}", &facts).unwrap(), "public.orders 41.2 times");
        assert_eq!(times(1000.0), "more than 1,000 times");
        assert!(sentences.render("{{ nothing }}", &facts).is_err());
        assert!(sentences.render("{{ table", &facts).is_err());
    }
}
