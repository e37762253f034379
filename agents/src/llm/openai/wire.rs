//! What goes over the wire: requests, answers, refusals. No type of it leaves this folder.

use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::embedder::unit;
use super::super::grammar::Grammar;
use super::super::{Embeddings, Generated, LlmError, Prompt, Usage};
use super::score::Letters;
use super::{Dialect, OpenAiConfig};

/// Most characters of a server's message that are passed on.
const LONGEST_SAID: usize = 300;
/// Most tokens that one answer may claim: servers that do not know have been seen to send the largest number there is.
const MOST_TOKENS: u64 = 1 << 32;
/// Alternatives of a token that most servers show at most.
const ALTERNATIVES: u32 = 20;
/// Alternatives to ask for where there is no such limit.
const MANY_ALTERNATIVES: u32 = 256;

/// A request for a chat completion.
#[derive(Debug, Serialize)]
pub struct Request<'a> {
    model: &'a str,
    messages: Vec<Message<'a>>,
    temperature: f32,
    max_tokens: u32,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<u32>,
    #[serde(flatten)]
    extra: serde_json::Map<String, Value>,
}

#[derive(Debug, Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

/// How an answer is held to a grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Constraint {
    /// Not at all by the server; what comes is checked.
    None,
    /// By the field of this dialect.
    Grammar(Dialect, String),
    /// By a JSON schema around a choice of texts.
    Choice(Vec<String>),
    /// By the JSON schema that was asked for, in this dialect.
    Schema(Dialect, Value),
}

impl Constraint {
    /// The strictest that a server of this dialect takes.
    pub fn of(dialect: Dialect, text: &str, grammar: &Grammar) -> Self {
        match dialect {
            Dialect::Openai => grammar.choices().map_or(Self::None, Self::Choice),
            other => Self::Grammar(other, text.to_owned()),
        }
    }

    fn fields(&self) -> serde_json::Map<String, Value> {
        let fields = match self {
            Self::None | Self::Grammar(Dialect::Openai, _) => json!({}),
            Self::Grammar(Dialect::LlamaCpp, text) => json!({ "grammar": text }),
            Self::Grammar(Dialect::Vllm, text) => json!({ "structured_outputs": { "grammar": text } }),
            Self::Grammar(Dialect::Sglang, text) => json!({ "ebnf": text }),
            // llama.cpp's server takes the other form too, the Python one this form only.
            Self::Schema(Dialect::LlamaCpp, schema) => json!({ "response_format": { "type": "json_object", "schema": schema } }),
            Self::Schema(_, schema) => json!({ "response_format": { "type": "json_schema", "json_schema": {
                "name": "answer", "strict": true, "schema": schema,
            } } }),
            Self::Choice(choices) => json!({ "response_format": { "type": "json_schema", "json_schema": {
                "name": "choice", "strict": true,
                "schema": { "type": "object", "properties": { "answer": { "type": "string", "enum": choices } },
                            "required": ["answer"], "additionalProperties": false },
            } } }),
        };
        fields.as_object().cloned().unwrap_or_default()
    }
}

impl<'a> Request<'a> {
    /// A request for text, as a stream.
    ///
    /// # Errors
    /// [`LlmError::Invalid`] for an empty prompt.
    pub fn generate(config: &'a OpenAiConfig, prompt: &'a Prompt, max_tokens: u32, constraint: Constraint) -> Result<Self, LlmError> {
        let mut request = Self::new(config, prompt, max_tokens)?;
        request.stream = true;
        request.stream_options = Some(json!({ "include_usage": true }));
        if let Constraint::Choice(choices) = &constraint {
            // The JSON around the choice costs tokens too.
            let longest = choices.iter().map(String::len).max().unwrap_or(0);
            request.max_tokens = max_tokens.max(u32::try_from(longest).unwrap_or(u32::MAX).saturating_add(20));
        }
        request.extra.extend(constraint.fields());
        Ok(request)
    }

    /// The same request for an answer in one piece.
    pub fn unstreamed(self) -> Self {
        Self { stream: false, stream_options: None, ..self }
    }

    /// A request for the likeliest first tokens.
    ///
    /// # Errors
    /// [`LlmError::Invalid`] for an empty prompt.
    pub fn score(config: &'a OpenAiConfig, letters: &'a Letters) -> Result<Self, LlmError> {
        let mut request = Self::new(config, &letters.prompt, 1)?;
        request.logprobs = Some(true);
        request.top_logprobs = Some(if config.dialect == Dialect::LlamaCpp { MANY_ALTERNATIVES } else { ALTERNATIVES });
        if config.dialect != Dialect::Openai {
            let quoted: Vec<String> = letters.labels.iter().map(|l| format!("{l:?}")).collect();
            request.extra.extend(Constraint::Grammar(config.dialect, format!("root ::= {}", quoted.join(" | "))).fields());
        }
        Ok(request)
    }

    fn new(config: &'a OpenAiConfig, prompt: &'a Prompt, max_tokens: u32) -> Result<Self, LlmError> {
        if prompt.shared.is_empty() && prompt.own.is_empty() {
            return Err(LlmError::Invalid("the prompt is empty".to_owned()));
        }
        let mut messages = vec![Message { role: "user", content: &prompt.own }];
        if !prompt.shared.is_empty() {
            messages.insert(0, Message { role: "system", content: &prompt.shared });
        }
        let mut extra = serde_json::Map::new();
        // Servers that render templates themselves take this; the plain protocol refuses what it does not know.
        if config.dialect != Dialect::Openai {
            extra.insert("chat_template_kwargs".to_owned(), json!({ "enable_thinking": false }));
        }
        Ok(Self {
            model: &config.model,
            messages,
            temperature: 0.0,
            max_tokens,
            stream: false,
            stream_options: None,
            logprobs: None,
            top_logprobs: None,
            extra,
        })
    }
}

/// A request for vectors.
#[derive(Debug, Serialize)]
pub struct EmbeddingRequest<'a> {
    pub model: &'a str,
    pub input: &'a [String],
    pub encoding_format: &'static str,
}

/// Vectors, in any order.
#[derive(Debug, Deserialize)]
pub struct EmbeddingAnswer {
    pub data: Vec<Embedded>,
    #[serde(default)]
    pub usage: Option<Counted>,
}

#[derive(Debug, Deserialize)]
pub struct Embedded {
    pub index: usize,
    embedding: Pooled,
}

/// A text's vector, or one for each of its tokens: what servers of llama.cpp give where the model has no pooling of its own.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Pooled {
    Text(Vec<f32>),
    Tokens(Vec<Vec<f32>>),
}

impl Pooled {
    /// The vector of the text: the mean over its tokens, as the embedded engine does. None when they differ in length.
    fn vector(self) -> Option<Vec<f32>> {
        match self {
            Self::Text(vector) => Some(vector),
            Self::Tokens(tokens) => {
                let mut sum = vec![0.0; tokens.first()?.len()];
                for token in tokens {
                    if token.len() != sum.len() {
                        return None;
                    }
                    sum.iter_mut().zip(token).for_each(|(sum, value)| *sum += value);
                }
                Some(sum)
            }
        }
    }
}

/// The vectors in the order asked, each of length 1.
///
/// # Errors
/// [`LlmError::Server`] when one is missing, of another length than the first, or holds no numbers.
pub fn vectors_of(mut answer: EmbeddingAnswer, texts: usize) -> Result<Embeddings, LlmError> {
    answer.data.sort_by_key(|e| e.index);
    let (answered, usage) = (answer.data.len(), answer.usage.as_ref().map(Counted::usage).unwrap_or_default());
    let in_order = answer.data.iter().enumerate().all(|(i, e)| e.index == i);
    let vectors: Vec<Vec<f32>> = answer.data.into_iter().filter_map(|e| e.embedding.vector()).collect();
    let width = vectors.first().map_or(0, Vec::len);
    if vectors.len() != texts || width == 0 || !in_order || vectors.iter().any(|v| v.len() != width) {
        return Err(LlmError::Server(format!("it answered {answered} vectors for {texts} texts, or not of one length")));
    }
    let vectors = vectors.iter().map(|vector| unit(vector)).collect::<Result<_, _>>();
    let vectors = vectors.map_err(|_| LlmError::Server("a vector that it answered has no length".to_owned()))?;
    Ok(Embeddings { vectors, usage })
}

/// The server's models.
#[derive(Debug, Deserialize)]
pub struct Models {
    pub data: Vec<NamedModel>,
}

#[derive(Debug, Deserialize)]
pub struct NamedModel {
    pub id: String,
}

/// An answer that is not a stream.
#[derive(Debug, Deserialize)]
pub struct Answer {
    pub choices: Vec<Choice>,
    #[serde(default)]
    pub usage: Option<Counted>,
}

#[derive(Debug, Deserialize)]
pub struct Choice {
    #[serde(default)]
    pub message: Option<Said>,
    #[serde(default)]
    pub logprobs: Option<Logprobs>,
    #[serde(default)]
    pub finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub struct Said {
    #[serde(default)]
    pub content: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Logprobs {
    #[serde(default)]
    pub content: Option<Vec<TokenLogprobs>>,
}

#[derive(Debug, Deserialize)]
pub struct TokenLogprobs {
    #[serde(default)]
    pub top_logprobs: Vec<TokenLogprob>,
}

#[derive(Debug, Deserialize)]
pub struct TokenLogprob {
    pub token: String,
    pub logprob: f64,
}

/// A part of a stream.
#[derive(Debug, Deserialize)]
pub struct Chunk {
    #[serde(default)]
    pub choices: Vec<ChunkChoice>,
    #[serde(default)]
    pub usage: Option<Counted>,
    #[serde(default)]
    pub error: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub struct ChunkChoice {
    #[serde(default)]
    pub delta: Said,
    #[serde(default)]
    pub finish_reason: Option<String>,
}

/// Tokens as servers count them.
#[derive(Debug, Default, Deserialize)]
pub struct Counted {
    #[serde(default)]
    pub prompt_tokens: u64,
    #[serde(default)]
    pub completion_tokens: u64,
    #[serde(default)]
    pub prompt_tokens_details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
pub struct Details {
    #[serde(default)]
    pub cached_tokens: Option<u64>,
}

impl Counted {
    /// In our words: what was evaluated and what was remembered.
    pub fn usage(&self) -> Usage {
        // What nobody can have evaluated was not counted.
        let plausible = |tokens: u64| if tokens > MOST_TOKENS { 0 } else { tokens };
        let prompt = plausible(self.prompt_tokens);
        let reused = self.prompt_tokens_details.as_ref().and_then(|d| d.cached_tokens).unwrap_or(0).min(prompt);
        Usage { prompt_tokens: prompt - reused, reused_tokens: reused, generated_tokens: plausible(self.completion_tokens) }
    }
}

/// The text of a whole answer.
///
/// # Errors
/// [`LlmError::Server`] when it has none.
pub fn text_of(answer: Answer) -> Result<Generated, LlmError> {
    let usage = answer.usage.as_ref().map(Counted::usage).unwrap_or_default();
    let choice = answer.choices.into_iter().next().ok_or_else(|| LlmError::Server("its answer has no choice".to_owned()))?;
    let finished = choice.finish_reason.as_deref() != Some("length");
    let text = choice.message.and_then(|m| m.content).unwrap_or_default();
    Ok(Generated { text, finished, usage, cut: Vec::new() })
}

/// The text inside `{"answer": ..}`.
///
/// # Errors
/// [`LlmError::Server`] when it is something else.
pub fn unwrap_choice(text: &str) -> Result<String, LlmError> {
    let value: Option<Value> = serde_json::from_str(text).ok();
    let inner = value.as_ref().and_then(|v| v.get("answer")).and_then(Value::as_str);
    inner.map(str::to_owned).ok_or_else(|| LlmError::Server("its answer does not follow the JSON schema that was sent".to_owned()))
}

/// What a refusal says, in one short line.
pub fn refusal(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let message = [&value["error"]["message"], &value["message"], &value["detail"], &value["error"]].into_iter().find_map(Value::as_str);
    let text = message.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    let text = plain(&text);
    if text.is_empty() { "it does not say why".to_owned() } else { text }
}

/// Text on one line, shortened.
pub fn plain(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).collect();
    line.chars().take(LONGEST_SAID).collect()
}

/// The error that a refusal is.
pub fn refused(status: StatusCode, body: &[u8], said: &str) -> LlmError {
    match status.as_u16() {
        401 | 403 => LlmError::Unavailable(format!("the model's server refuses the key ({status}): {said}")),
        404 => LlmError::Unavailable(format!("the model's server knows no such address or model: {said}")),
        300..=399 => LlmError::Unavailable(format!("the model's server sends to another address ({status}); write that one as base_url")),
        _ => too_long(body, said).unwrap_or_else(|| LlmError::Invalid(format!("the model's server answers {status}: {said}"))),
    }
}

/// A prompt that does not fit, with the numbers that the server names.
fn too_long(body: &[u8], said: &str) -> Option<LlmError> {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let error = &value["error"];
    if let (Some(tokens), Some(limit)) = (error["n_prompt_tokens"].as_u64(), error["n_ctx"].as_u64()) {
        return Some(LlmError::TooLong { tokens, limit });
    }
    let lower = said.to_lowercase();
    let named = error["code"].as_str() == Some("context_length_exceeded");
    let told = lower.contains("context") && ["length", "window", "size"].iter().any(|w| lower.contains(w));
    if !named && !told {
        return None;
    }
    let mut numbers = lower.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok()).filter(|n| *n > 1);
    let (limit, tokens) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Some(LlmError::TooLong { tokens: tokens.max(limit), limit: limit.min(tokens.max(limit)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_that_does_not_fit_is_told_with_its_numbers() {
        let bodies = [
            r#"{"error":{"message":"This model's maximum context length is 2048 tokens. However, you requested 3000 tokens","code":"context_length_exceeded"}}"#,
            r#"{"error":{"code":400,"message":"the request exceeds the available context size","n_prompt_tokens":3000,"n_ctx":2048}}"#,
        ];
        for body in bodies {
            let error = refused(StatusCode::BAD_REQUEST, body.as_bytes(), &refusal(body.as_bytes()));
            assert_eq!(error, LlmError::TooLong { tokens: 3000, limit: 2048 });
        }
        let other = refused(StatusCode::BAD_REQUEST, b"{}", "no");
        assert!(matches!(other, LlmError::Invalid(_)));
    }

    #[test]
    fn vectors_of_tokens_are_pooled_and_odd_ones_refused() {
        let of = |data: Value| vectors_of(serde_json::from_value(json!({ "data": data })).unwrap(), 2);
        let two = json!([{ "index": 1, "embedding": [0.0, 2.0] }, { "index": 0, "embedding": [[3.0, 1.0], [3.0, 7.0]] }]);
        assert_eq!(of(two).unwrap().vectors, [[0.6, 0.8], [0.0, 1.0]]);
        for odd in [
            json!([{ "index": 0, "embedding": [1.0] }]),
            json!([{ "index": 0, "embedding": [1.0] }, { "index": 1, "embedding": [1.0, 2.0] }]),
            json!([{ "index": 0, "embedding": [[1.0], [1.0, 2.0]] }, { "index": 1, "embedding": [1.0] }]),
            json!([{ "index": 0, "embedding": [] }, { "index": 1, "embedding": [] }]),
            json!([{ "index": 0, "embedding": [1.0] }, { "index": 0, "embedding": [1.0] }]),
        ] {
            assert!(matches!(of(odd.clone()), Err(LlmError::Server(_))), "{odd}");
        }
    }

    #[test]
    fn grammars_go_where_each_server_looks_for_them() {
        let grammar = Grammar::parse(r#"root ::= "a" | "b""#).unwrap();
        let fields = |dialect| Value::Object(Constraint::of(dialect, "G", &grammar).fields());
        assert_eq!(fields(Dialect::LlamaCpp), json!({ "grammar": "G" }));
        assert_eq!(fields(Dialect::Vllm), json!({ "structured_outputs": { "grammar": "G" } }));
        assert_eq!(fields(Dialect::Sglang), json!({ "ebnf": "G" }));
        let schema = fields(Dialect::Openai);
        assert_eq!(schema["response_format"]["json_schema"]["schema"]["properties"]["answer"]["enum"], json!(["a", "b"]));
        let asked = |dialect| Constraint::Schema(dialect, json!({ "type": "string" })).fields();
        assert_eq!(asked(Dialect::Vllm)["response_format"]["json_schema"]["schema"], json!({ "type": "string" }));
        assert_eq!(asked(Dialect::LlamaCpp)["response_format"], json!({ "type": "json_object", "schema": { "type": "string" } }));
        let open = Grammar::parse("root ::= [a-z]+").unwrap();
        assert_eq!(Constraint::of(Dialect::Openai, "G", &open), Constraint::None);
    }

    #[test]
    fn tokens_that_the_server_remembered_are_not_counted_as_evaluated() {
        let counted: Counted =
            serde_json::from_str(r#"{"prompt_tokens":10,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":7}}"#).unwrap();
        assert_eq!(counted.usage(), Usage { prompt_tokens: 3, reused_tokens: 7, generated_tokens: 2 });
    }
}
