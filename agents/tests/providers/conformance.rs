//! What every provider must do, whatever runs the model behind it.

use std::time::Duration;

use galen_agents::llm::{GenerateRequest, LlmError, Provider};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::support::{embed, evidence, generate, score};

/// Longest answer to any of these.
const LONG: Duration = Duration::from_secs(120);

/// What differs between providers by their nature.
#[derive(Debug, Clone, Copy)]
pub struct Expect {
    /// Whether a prompt of 4,000 tokens is above the context.
    pub bounded: bool,
    /// Whether a dropped request may be asked of the next one, too.
    pub live: bool,
}

/// Runs the suite. Panics with what is wrong.
pub async fn suite(provider: &dyn Provider, expect: Expect) {
    assert!(!provider.identity().name.is_empty() && provider.identity().sha256.len() == 64);
    scores(provider).await;
    texts(provider).await;
    schemas(provider).await;
    vectors(provider, expect).await;
    refusals(provider, expect).await;
    together(provider).await;
    if expect.live {
        abandoned(provider).await;
    }
}

async fn scores(provider: &dyn Provider) {
    let ask = |options: &[&str]| {
        provider.score(score(
            "You are a careful assistant.",
            "Question: what is 2 + 2?\nA. 4\nB. a tree\nC. 5\nAnswer with the letter of the best option only.",
            options,
        ))
    };
    let first = timeout(LONG, ask(&["A", "B", "C"])).await.unwrap().unwrap();
    assert_eq!(first.logprobs.len(), 3);
    assert!(first.logprobs.iter().all(|p| p.is_finite() && *p <= 0.0), "{first:?}");
    assert!(first.usage.prompt_tokens + first.usage.reused_tokens > 10, "{first:?}");
    let again = ask(&["A", "B", "C"]).await.unwrap();
    assert_eq!(first.logprobs, again.logprobs, "the same question has the same answer");
    let turned = ask(&["C", "A", "B"]).await.unwrap();
    for (a, b) in [(0, 1), (1, 2), (2, 0)] {
        assert!((first.logprobs[a] - turned.logprobs[b]).abs() < 0.02, "the order of options is kept: {first:?} {turned:?}");
    }
    let longer = provider.score(score("s", "Which cause fits?", &["lock contention", "a full disk"])).await.unwrap();
    assert!(longer.logprobs.len() == 2 && longer.logprobs.iter().all(|p| p.is_finite()), "{longer:?}");
}

async fn texts(provider: &dyn Provider) {
    let choice = r#"root ::= "supports" | "refutes" | "größe ↑""#;
    let answer = timeout(LONG, provider.generate(generate("Does the evidence support it?", Some(choice), 30))).await.unwrap().unwrap();
    assert!(["supports", "refutes", "größe ↑"].contains(&answer.text.as_str()), "{answer:?}");
    assert!(answer.finished && answer.usage.generated_tokens > 0, "{answer:?}");
    let cut = provider.generate(generate("Go on.", Some("root ::= [a-z ]+"), 3)).await.unwrap();
    assert!(!cut.finished && cut.usage.generated_tokens <= 4, "{cut:?}");
    assert!(cut.text.chars().all(|c| c == ' ' || c.is_ascii_lowercase()), "{cut:?}");
    let free = provider.generate(generate("Say hello.", None, 12)).await.unwrap();
    assert!(!free.text.is_empty() && !free.text.contains("<|im_"), "{free:?}");
}

async fn schemas(provider: &dyn Provider) {
    let schema = json!({
        "type": "object",
        "properties": { "verdict": { "enum": ["supports", "refutes"] }, "share": { "type": "integer", "minimum": 0, "maximum": 100 } },
        "required": ["verdict", "share"], "additionalProperties": false,
    });
    let ask = |schema: Value, grammar| GenerateRequest { schema: Some(schema), ..generate("Does the evidence support it?", grammar, 40) };
    let answer = timeout(LONG, provider.generate(ask(schema.clone(), None))).await.unwrap().unwrap();
    let read: Value = serde_json::from_str(&answer.text).unwrap();
    assert!(answer.finished && read.as_object().unwrap().len() == 2, "{answer:?}");
    assert!(["supports", "refutes"].contains(&read["verdict"].as_str().unwrap()) && read["share"].as_u64().unwrap() <= 100, "{answer:?}");
    for bad in [ask(json!({ "type": "nonsense" }), None), ask(json!(7), None), ask(schema, Some("root ::= \"a\""))] {
        let refused = provider.generate(bad).await;
        assert!(matches!(refused, Err(LlmError::Invalid(_))), "{refused:?}");
    }
}

async fn vectors(provider: &dyn Provider, expect: Expect) {
    let texts =
        ["Sessions wait for a lock on a row.", "Many sessions are waiting for a row lock.", "Der Himmel ist blau und die Katze schläft."];
    let made = timeout(LONG, provider.embed(embed(&texts))).await.unwrap().unwrap();
    let product = |a: usize, b: usize| made.vectors[a].iter().zip(&made.vectors[b]).map(|(x, y)| x * y).sum::<f32>();
    assert!(made.vectors.len() == 3 && (0..3).all(|i| (product(i, i) - 1.0).abs() < 1e-3), "{:?}", made.usage);
    assert!(product(0, 1) > product(0, 2) + 0.05, "{} {}", product(0, 1), product(0, 2));
    assert!(made.usage.prompt_tokens > 15, "{:?}", made.usage);
    let alone = provider.embed(embed(&texts[1..2])).await.unwrap();
    assert!(alone.vectors[0].iter().zip(&made.vectors[1]).all(|(a, b)| (a - b).abs() < 1e-4), "a vector depends on its text alone");
    assert!(provider.embed(embed(&[])).await.unwrap().vectors.is_empty());
    let empty = provider.embed(embed(&["x", " "])).await;
    assert!(matches!(empty, Err(LlmError::Invalid(_))), "{empty:?}");
    if expect.bounded {
        let long = provider.embed(embed(&[&"lock ".repeat(5_000)])).await;
        // llama-cpp-python cuts it instead, and answers more than is taken.
        assert!(matches!(long, Err(LlmError::TooLong { .. } | LlmError::Server(_))), "{long:?}");
    }
}

async fn refusals(provider: &dyn Provider, expect: Expect) {
    for options in [&["only"][..], &["", "x"], &[]] {
        let refused = provider.score(score("s", "o", options)).await;
        assert!(matches!(refused, Err(LlmError::Invalid(_))), "{refused:?}");
    }
    let nothing = provider.generate(generate("x", None, 0)).await;
    assert!(matches!(nothing, Err(LlmError::Invalid(_))), "{nothing:?}");
    let bad = provider.generate(generate("x", Some("root ::= ( nonsense"), 5)).await;
    assert!(matches!(bad, Err(LlmError::Invalid(_))), "{bad:?}");
    if expect.bounded {
        let long = provider.score(score(&evidence(4_000), "o", &["A", "B"])).await;
        assert!(matches!(long, Err(LlmError::TooLong { tokens, limit }) if tokens > limit && limit > 0), "{long:?}");
    }
}

async fn together(provider: &dyn Provider) {
    let ask = |i: usize| {
        let grammar = format!("root ::= \"answer {i}\"");
        async move { provider.generate(generate(&format!("Number {i}?"), Some(&grammar), 20)).await.unwrap().text }
    };
    let (a, b, c, d) = tokio::join!(ask(1), ask(2), ask(3), ask(4));
    assert_eq!([a, b, c, d], ["answer 1", "answer 2", "answer 3", "answer 4"]);
}

async fn abandoned(provider: &dyn Provider) {
    let story = provider.generate(generate("Tell a story.", Some("root ::= [a-z ]+"), 1_500));
    assert!(timeout(Duration::from_millis(200), story).await.is_err(), "1,500 tokens take longer");
    let next = timeout(LONG, provider.score(score("s", "o", &["A", "B"]))).await.unwrap();
    assert!(next.is_ok(), "{next:?}");
}
