//! JSON schemas as grammars: what does not obey the schema cannot be generated. llama.cpp does the translation.

use serde_json::Value;

use super::LlmError;

/// Largest schema in bytes, and deepest nesting: the translation is recursive.
const LARGEST: usize = 64 << 10;
const DEEPEST: usize = 64;

/// Whether a schema is one that may be translated; also before it is sent to a process, whose reader has a limit of its own.
///
/// # Errors
/// [`LlmError::Invalid`] for what is no schema, or too large a one.
pub fn check(schema: &Value) -> Result<(), LlmError> {
    checked(schema).map(drop)
}

/// The grammar (GBNF) of the JSON texts that obey a schema. Properties come in the order of their names.
///
/// # Errors
/// [`LlmError::Invalid`] for what is no schema, or too large a one.
pub fn grammar(schema: &Value) -> Result<String, LlmError> {
    llama_cpp_2::json_schema_to_grammar(&checked(schema)?).map_err(|e| refuse(&e.to_string()))
}

/// The schema as text.
fn checked(schema: &Value) -> Result<String, LlmError> {
    if !schema.is_object() {
        return Err(refuse("it is no object"));
    }
    if deeper(schema, DEEPEST) {
        return Err(refuse("it is nested too deeply"));
    }
    let text = schema.to_string();
    if text.len() > LARGEST {
        return Err(refuse("it is too large"));
    }
    Ok(text)
}

fn refuse(why: &str) -> LlmError {
    LlmError::Invalid(format!("the schema is not usable: {why}"))
}

/// Whether it is nested deeper than `most` levels.
fn deeper(value: &Value, most: usize) -> bool {
    let mut inside: Box<dyn Iterator<Item = &Value>> = match value {
        Value::Array(list) => Box::new(list.iter()),
        Value::Object(map) => Box::new(map.values()),
        _ => return false,
    };
    most == 0 || inside.any(|value| deeper(value, most - 1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::grammar::{Fit, Grammar};
    use super::*;

    #[test]
    fn only_texts_that_obey_the_schema_fit_the_grammar() {
        let schema = json!({
            "type": "object",
            "properties": {
                "verdict": { "enum": ["supports", "refutes"] },
                "share": { "type": "integer", "minimum": 0, "maximum": 100 },
                "why": { "type": "array", "items": { "type": "string", "maxLength": 10 }, "maxItems": 2 },
            },
            "required": ["verdict", "share", "why"], "additionalProperties": false,
        });
        let grammar = Grammar::parse(&grammar(&schema).unwrap()).unwrap();
        assert_eq!(grammar.fit(r#"{"share": 70, "verdict": "supports", "why": ["E1", "E2"]}"#), Fit::Whole);
        assert_eq!(grammar.fit(r#"{"share": 70, "verd"#), Fit::Beginning);
        for wrong in [
            r#"{"share": 70, "verdict": "perhaps", "why": []}"#,
            r#"{"share": 101, "verdict": "refutes", "why": []}"#,
            r#"{"share": 1, "verdict": "refutes", "why": ["a","b","c"]}"#,
            r#"{"share": 1, "verdict": "refutes", "why": ["much too long"]}"#,
            r#"{"share": 1}"#,
            "supports",
        ] {
            assert_eq!(grammar.fit(wrong), Fit::None, "{wrong}");
        }
    }

    #[test]
    fn what_is_no_schema_is_refused_in_one_line() {
        let mut deep = json!({});
        for _ in 0..100 {
            deep = json!({ "type": "array", "items": deep });
        }
        let large = json!({ "enum": vec!["x".repeat(100); 1_000] });
        for bad in [json!("string"), json!({ "type": 7 }), json!({ "$ref": "#/nowhere" }), json!({ "type": "nonsense" }), deep, large] {
            let refused = grammar(&bad);
            assert!(matches!(&refused, Err(LlmError::Invalid(why)) if !why.contains('\n')), "{bad:.60}: {refused:?}");
        }
    }
}
