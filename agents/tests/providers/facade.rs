//! The local engine behind OpenAI's protocol: the openai provider is tried on a real model without a foreign server.

use std::sync::Arc;

use galen_agents::llm::openai::Dialect;
use galen_agents::llm::{EmbedRequest, GenerateRequest, LlmError, LocalProvider, Prompt, Provider, ScoreRequest};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::server::{Seen, Server, reply, send};

/// What the model is called there.
pub const NAME: &str = "local";
/// Fields of a request that every server knows.
const PLAIN: [&str; 9] =
    ["model", "messages", "temperature", "max_tokens", "stream", "stream_options", "logprobs", "top_logprobs", "response_format"];

/// Tokens that are no letter and begin as letters do: what a server without a grammar shows among the letters.
const WORDS: [&str; 3] = ["The", "And", "By"];

/// Serves `model` as a server of this dialect does: a grammar or a schema from where it looks for it, alternatives of the first token, as
/// many as it shows. It refuses fields that it does not know, so that nothing comes by the way of another dialect.
pub async fn serve(model: Arc<LocalProvider>, dialect: Dialect) -> Server {
    Server::start(move |request, stream| answer(Arc::clone(&model), dialect, request, stream)).await
}

/// Fields that a server of this dialect knows beside the plain ones.
fn own_fields(dialect: Dialect) -> &'static [&'static str] {
    match dialect {
        Dialect::Openai => &[],
        Dialect::LlamaCpp => &["grammar", "chat_template_kwargs"],
        Dialect::Vllm => &["structured_outputs", "chat_template_kwargs"],
        Dialect::Sglang => &["ebnf", "chat_template_kwargs"],
    }
}

fn check(dialect: Dialect, body: &Value) -> Result<(), LlmError> {
    let known = |field: &str| PLAIN.contains(&field) || own_fields(dialect).contains(&field);
    if let Some(field) = body.as_object().unwrap().keys().find(|field| !known(field.as_str())) {
        return Err(LlmError::Invalid(format!("no such field: {field}")));
    }
    let most = if dialect == Dialect::LlamaCpp { 1_000 } else { 20 };
    match body["top_logprobs"].as_u64() {
        Some(asked) if asked > most => Err(LlmError::Invalid(format!("top_logprobs is {asked}, at most {most} are shown"))),
        _ => Ok(()),
    }
}

fn grammar(dialect: Dialect, body: &Value) -> Option<String> {
    let place = match dialect {
        Dialect::Openai => return None,
        Dialect::LlamaCpp => &body["grammar"],
        Dialect::Vllm => &body["structured_outputs"]["grammar"],
        Dialect::Sglang => &body["ebnf"],
    };
    place.as_str().map(str::to_owned)
}

fn schema(dialect: Dialect, body: &Value) -> Option<Value> {
    let format = &body["response_format"];
    match (dialect, format["type"].as_str()) {
        (Dialect::LlamaCpp, Some("json_object")) => format.get("schema").cloned(),
        (Dialect::Openai | Dialect::Vllm | Dialect::Sglang, Some("json_schema")) => format["json_schema"].get("schema").cloned(),
        _ => None,
    }
}

async fn answer(model: Arc<LocalProvider>, dialect: Dialect, request: Seen, mut stream: TcpStream) {
    if request.head.starts_with("GET /v1/models ") {
        return reply(&mut stream, "200 OK", "", json!({ "data": [{ "id": NAME }] }).to_string().as_bytes()).await;
    }
    let body = request.json();
    if request.head.starts_with("POST /v1/embeddings ") {
        let texts: Vec<String> = serde_json::from_value(body["input"].clone()).unwrap();
        assert!(texts.len() == 1 || dialect != Dialect::LlamaCpp, "one that mixes several up is asked for one at a time");
        let request = EmbedRequest { agent: "facade".into(), texts, ..EmbedRequest::default() };
        let answer = match model.embed(request).await {
            // Out of order, as the protocol allows.
            Ok(made) => json!({
                "data": made.vectors.iter().enumerate().rev().map(|(i, v)| json!({ "index": i, "embedding": v })).collect::<Vec<_>>(),
                "usage": { "prompt_tokens": made.usage.prompt_tokens },
            }),
            Err(error) => return reply(&mut stream, "400 Bad Request", "", refusal(&error).to_string().as_bytes()).await,
        };
        return reply(&mut stream, "200 OK", "Content-Type: application/json\r\n", answer.to_string().as_bytes()).await;
    }
    let done = match check(dialect, &body) {
        Err(refused) => Err(refused),
        Ok(()) if body["stream"] == true => text(&model, dialect, &body, &mut stream).await,
        Ok(()) => alternatives(&model, dialect, &body, &mut stream).await,
    };
    if let Err(error) = done {
        reply(&mut stream, "400 Bad Request", "", refusal(&error).to_string().as_bytes()).await;
    }
}

fn refusal(error: &LlmError) -> Value {
    match error {
        LlmError::TooLong { tokens, limit } => {
            let message = format!("the maximum context length is {limit}, you requested {tokens}");
            json!({ "error": { "message": message, "code": "context_length_exceeded" } })
        }
        other => json!({ "error": { "message": other.to_string(), "code": "bad" } }),
    }
}

fn prompt(body: &Value) -> Prompt {
    let of = |role: &str| {
        let messages = body["messages"].as_array().unwrap();
        messages.iter().find(|m| m["role"] == role).map(|m| m["content"].as_str().unwrap().to_owned()).unwrap_or_default()
    };
    Prompt::new(of("system"), of("user"))
}

async fn text(model: &LocalProvider, dialect: Dialect, body: &Value, stream: &mut TcpStream) -> Result<(), LlmError> {
    let request = GenerateRequest {
        agent: "facade".into(),
        prompt: prompt(body),
        grammar: grammar(dialect, body),
        schema: schema(dialect, body),
        max_tokens: u32::try_from(body["max_tokens"].as_u64().unwrap()).unwrap(),
        ..GenerateRequest::default()
    };
    let answer = tokio::select! {
        answer = model.generate(request) => answer?,
        // Nothing more is sent: whoever asked has gone away, on which servers stop.
        _ = stream.read_u8() => return Ok(()),
    };
    send(stream, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n").await;
    let mut events = String::new();
    for c in answer.text.chars() {
        events.push_str(&format!("data: {}\r\n\r\n", json!({ "choices": [{ "delta": { "content": c } }] })));
    }
    let reason = if answer.finished { "stop" } else { "length" };
    events.push_str(&format!("data: {}\n\n", json!({ "choices": [{ "delta": {}, "finish_reason": reason }] })));
    let usage = json!({
        "prompt_tokens": answer.usage.prompt_tokens + answer.usage.reused_tokens, "completion_tokens": answer.usage.generated_tokens,
        "prompt_tokens_details": { "cached_tokens": answer.usage.reused_tokens },
    });
    events.push_str(&format!("data: {}\n\ndata: [DONE]\n\n", json!({ "choices": [], "usage": usage })));
    // Seven bytes at a time: characters and lines are cut wherever it comes.
    for piece in events.as_bytes().chunks(7) {
        send(stream, piece).await;
    }
    Ok(())
}

/// The first tokens that a server of this dialect shows: those that the grammar allows, and without one any.
fn first_tokens(dialect: Dialect, body: &Value) -> Result<Vec<String>, LlmError> {
    if dialect == Dialect::Openai {
        return Ok(('A'..='Z').map(String::from).chain(WORDS.map(String::from)).collect());
    }
    let Some(text) = grammar(dialect, body) else { return Err(LlmError::Invalid("scores are asked for without a grammar".into())) };
    let no_choice = || LlmError::Invalid(format!("no choice of tokens: {text}"));
    let choice = text.strip_prefix("root ::= ").ok_or_else(no_choice)?;
    choice.split(" | ").map(|quoted| serde_json::from_str::<String>(quoted).map_err(|_| no_choice())).collect()
}

async fn alternatives(model: &LocalProvider, dialect: Dialect, body: &Value, stream: &mut TcpStream) -> Result<(), LlmError> {
    let tokens = first_tokens(dialect, body)?;
    let scores = model
        .score(ScoreRequest { agent: "facade".into(), prompt: prompt(body), options: tokens.clone(), ..ScoreRequest::default() })
        .await?;
    let mut top: Vec<(&String, &f64)> = tokens.iter().zip(&scores.logprobs).collect();
    top.sort_by(|a, b| b.1.total_cmp(a.1));
    top.truncate(usize::try_from(body["top_logprobs"].as_u64().unwrap()).unwrap());
    let said = top[0].0;
    let top: Vec<Value> = top.into_iter().map(|(token, logprob)| json!({ "token": token, "logprob": logprob })).collect();
    let usage = json!({ "prompt_tokens": scores.usage.prompt_tokens + scores.usage.reused_tokens, "completion_tokens": 1 });
    let choice = json!({ "message": { "content": said }, "logprobs": { "content": [{ "top_logprobs": top }] }, "finish_reason": "length" });
    let answer = json!({ "choices": [choice], "usage": usage });
    reply(stream, "200 OK", "Content-Type: application/json\r\n", answer.to_string().as_bytes()).await;
    Ok(())
}
