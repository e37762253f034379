//! Small readers of JSON: a key in AWS's spelling or in snake case, a time, a number, a text made harmless.

use serde_json::Value;

use crate::model::UnixMs;

/// Start of the year 2200, milliseconds.
const LATEST: i64 = 7_258_118_400_000;

/// The value under a key of AWS (`MetricDataResults`), or under the same key in snake case (`metric_data_results`).
pub fn get<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    let found = value.get(key).or_else(|| value.get(snake(key)))?;
    (!found.is_null()).then_some(found)
}

fn snake(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 4);
    let mut lower_before = false;
    for c in key.chars() {
        if c.is_ascii_uppercase() && lower_before {
            out.push('_');
        }
        lower_before = c.is_ascii_lowercase() || c.is_ascii_digit();
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// A text under a key.
pub fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    get(value, key)?.as_str()
}

/// A list under a key; empty when there is none.
pub fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    get(value, key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A time: RFC 3339 text, or seconds since 1970 as the APIs write them.
pub fn time(value: &Value) -> Option<UnixMs> {
    let at = match value {
        Value::String(text) => text.trim().parse::<jiff::Timestamp>().ok()?.as_millisecond(),
        // The cast saturates; the range is checked below.
        Value::Number(seconds) => (seconds.as_f64()? * 1000.0).round() as i64,
        _ => return None,
    };
    (0..LATEST).contains(&at).then_some(at)
}

/// One line without control characters and direction overrides, at most so many characters.
pub fn clean(text: &str, most: usize) -> String {
    let harmless = text.chars().filter(|c| !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}'));
    let line: String = harmless.map(|c| if c.is_control() { ' ' } else { c }).take(most).collect();
    line.trim().to_owned()
}

/// A name that can stand as a label of a signal.
pub fn label(text: &str) -> String {
    clean(text, 100).replace(['"', '\\', '{', '}'], "'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_both_spellings_and_times_in_all_forms() {
        let value: Value = serde_json::json!({"MetricDataResults": [1], "db_load": 2, "status_code": "x", "DBInstances": 3});
        assert_eq!(list(&value, "MetricDataResults").len(), 1);
        assert_eq!((text(&value, "StatusCode"), snake("DBInstanceIdentifier").as_str()), (Some("x"), "dbinstance_identifier"));
        for time in [serde_json::json!("1970-01-01T00:01:00Z"), serde_json::json!("1970-01-01T01:01:00+01:00"), serde_json::json!(60.0)] {
            assert_eq!(super::time(&time), Some(60_000), "{time}");
        }
        for time in [serde_json::json!("yesterday"), serde_json::json!(-1), serde_json::json!(1e300), serde_json::json!([])] {
            assert_eq!(super::time(&time), None, "{time}");
        }
        assert_eq!(clean("a\u{1b}[31m\u{202e}b\n", 10), "a [31mb");
    }
}
