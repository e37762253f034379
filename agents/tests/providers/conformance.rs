//! What every provider must do, whatever runs the model behind it.

use std::time::Duration;

use galen_agents::llm::{GenerateRequest, LlmError, Prompt, Provider, ScoreRequest, Scores, Section};
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
    /// Whether it counts tokens itself, so that no more sections are left out than must be.
    pub counts: bool,
    /// Whether an answer can be held to any grammar; else to a choice of texts only, and what comes is checked.
    pub grammars: bool,
    /// How far two answers to one question may be apart, nats; 0 where they are the same to the bit.
    pub tolerance: f64,
    /// Whether a dropped request may be asked of the next one, too.
    pub live: bool,
}

/// Runs the suite. Panics with what is wrong.
pub async fn suite(provider: &dyn Provider, expect: Expect) {
    assert!(!provider.identity().name.is_empty() && provider.identity().sha256.len() == 64);
    scores(provider, expect).await;
    sections(provider, expect).await;
    texts(provider, expect).await;
    schemas(provider).await;
    vectors(provider, expect).await;
    refusals(provider, expect).await;
    together(provider).await;
    if expect.live {
        abandoned(provider).await;
    }
}

/// Whether two answers are one, as far as the provider can say.
fn same(a: &Scores, b: &Scores, tolerance: f64) -> bool {
    a.logprobs.len() == b.logprobs.len() && a.logprobs.iter().zip(&b.logprobs).all(|(a, b)| (a - b).abs() <= tolerance)
}

async fn scores(provider: &dyn Provider, expect: Expect) {
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
    assert!(same(&first, &again, expect.tolerance), "the same question has the same answer: {first:?} {again:?}");
    let turned = ask(&["C", "A", "B"]).await.unwrap();
    for (a, b) in [(0, 1), (1, 2), (2, 0)] {
        assert!(
            (first.logprobs[a] - turned.logprobs[b]).abs() < expect.tolerance.max(0.02),
            "the order of options is kept: {first:?} {turned:?}"
        );
    }
    let longer = provider.score(score("s", "Which cause fits?", &["lock contention", "a full disk"])).await.unwrap();
    assert!(longer.logprobs.len() == 2 && longer.logprobs.iter().all(|p| p.is_finite()), "{longer:?}");
}

/// More evidence than there is room for: whole sections are left out, the lowest and latest first, and the answer says which.
async fn sections(provider: &dyn Provider, expect: Expect) {
    if !expect.bounded {
        return;
    }
    let priority = |i: usize| [2, 0, 1][i % 3];
    let text = |i: usize| format!("\nPart {i}:{}", evidence(200).split_once(':').unwrap().1);
    let all: Vec<Section> = (0..20).map(|i| Section { priority: priority(i), text: text(i) }).collect();
    let mut order: Vec<usize> = (0..20).collect();
    order.sort_by_key(|i| (priority(*i), std::cmp::Reverse(*i)));
    let ask = |sections: Vec<Section>| {
        let prompt = Prompt { sections, ..Prompt::new("You judge evidence.", "Is it the locks?\nA. yes\nB. no") };
        ScoreRequest { prompt, ..score("", "", &["A", "B"]) }
    };
    let kept = |cut: &[usize]| all.iter().enumerate().filter(|(i, _)| !cut.contains(i)).map(|(_, s)| s.clone()).collect::<Vec<_>>();

    let scored = timeout(LONG, provider.score(ask(all.clone()))).await.unwrap().unwrap();
    let count = scored.cut.len();
    let mut expected = order[..count].to_vec();
    expected.sort_unstable();
    assert!(count > 0 && count < 20 && scored.cut == expected, "{:?}", scored.cut);
    // What is left is whole: the same question with just that as plain text.
    let text: String = kept(&scored.cut).iter().map(|s| s.text.as_str()).collect();
    let mut by_hand = ask(Vec::new());
    by_hand.prompt.shared += &text;
    let plain = provider.score(by_hand).await.unwrap();
    assert!(plain.cut.is_empty() && same(&scored, &plain, expect.tolerance), "{scored:?} {plain:?}");
    if expect.counts {
        let one_more: Vec<usize> = scored.cut.iter().copied().filter(|i| *i != order[count - 1]).collect();
        let mut by_hand = ask(Vec::new());
        by_hand.prompt.shared += &kept(&one_more).iter().map(|s| s.text.as_str()).collect::<String>();
        let long = provider.score(by_hand).await;
        assert!(matches!(long, Err(LlmError::TooLong { .. })), "{long:?}");
    }
    let whole = provider.score(ask(all[..2].to_vec())).await.unwrap();
    assert_eq!(whole.cut, [0; 0], "what fits is shown");
    let prompt = ask(all.clone()).prompt;
    let grammar = if expect.grammars { "root ::= [a-z ]+" } else { r#"root ::= "yes" | "no""# };
    let told = provider.generate(GenerateRequest { prompt, ..generate("", Some(grammar), 4) }).await.unwrap();
    assert!(told.cut.len() >= count && told.usage.generated_tokens > 0, "{told:?}");
    // A question that is too long itself has nothing to leave out.
    let mut long = ask(all.clone());
    long.prompt.own = evidence(4_000);
    let long = provider.score(long).await;
    assert!(matches!(long, Err(LlmError::TooLong { .. })), "{long:?}");
}

async fn texts(provider: &dyn Provider, expect: Expect) {
    let choice = r#"root ::= "supports" | "refutes" | "größe ↑""#;
    let answer = timeout(LONG, provider.generate(generate("Does the evidence support it?", Some(choice), 30))).await.unwrap().unwrap();
    assert!(["supports", "refutes", "größe ↑"].contains(&answer.text.as_str()), "{answer:?}");
    assert!(answer.finished && answer.usage.generated_tokens > 0, "{answer:?}");
    match provider.generate(generate("Go on.", Some("root ::= [a-z ]+"), 3)).await {
        Ok(cut) => {
            assert!(!cut.finished && cut.usage.generated_tokens <= 4, "{cut:?}");
            assert!(cut.text.chars().all(|c| c == ' ' || c.is_ascii_lowercase()), "{cut:?}");
        }
        Err(LlmError::Server(why)) if !expect.grammars => assert!(why.contains("does not obey the grammar"), "{why}"),
        Err(other) => panic!("{other:?}"),
    }
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
    // Deeper than a JSON reader goes: refused before it is sent to one.
    let deep = (0..200).fold(json!({}), |inner, _| json!({ "type": "array", "items": inner }));
    for bad in [ask(json!({ "type": "nonsense" }), None), ask(json!(7), None), ask(deep, None), ask(schema, Some("root ::= \"a\""))] {
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
