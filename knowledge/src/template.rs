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
    } else if seconds < 7200.0 {
        format!("{} min {} s", (seconds / 60.0).floor(), (seconds % 60.0).round())
    } else {
        format!("{} h {} min", (seconds / 3600.0).floor(), ((seconds % 3600.0) / 60.0).round())
    }
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
        assert_eq!(millis(320_000.0), "5 min 20 s");
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
