//! The local engine behind OpenAI's protocol: the openai provider is tried on a real model without a foreign server.

use std::sync::Arc;

use galen_agents::llm::{EmbedRequest, GenerateRequest, LlmError, LocalProvider, Prompt, Provider, ScoreRequest};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::server::{Seen, Server, reply, send};

/// What the model is called there.
pub const NAME: &str = "local";

/// Serves `model` as llama.cpp's servers do: a grammar in `grammar`, alternatives of the first token.
pub async fn serve(model: LocalProvider) -> Server {
    let model = Arc::new(model);
    Server::start(move |request, stream| answer(Arc::clone(&model), request, stream)).await
}

async fn answer(model: Arc<LocalProvider>, request: Seen, mut stream: TcpStream) {
    if request.head.starts_with("GET /v1/models ") {
        return reply(&mut stream, "200 OK", "", json!({ "data": [{ "id": NAME }] }).to_string().as_bytes()).await;
    }
    let body = request.json();
    if request.head.starts_with("POST /v1/embeddings ") {
        let texts = serde_json::from_value(body["input"].clone()).unwrap();
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
    let done = if body["stream"] == true { text(&model, &body, &mut stream).await } else { alternatives(&model, &body, &mut stream).await };
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

async fn text(model: &LocalProvider, body: &Value, stream: &mut TcpStream) -> Result<(), LlmError> {
    let format = &body["response_format"];
    let request = GenerateRequest {
        agent: "facade".into(),
        prompt: prompt(body),
        grammar: body["grammar"].as_str().map(str::to_owned),
        // In the one form or the other.
        schema: format.get("schema").or_else(|| format["json_schema"].get("schema")).cloned(),
        max_tokens: u32::try_from(body["max_tokens"].as_u64().unwrap()).unwrap(),
        ..GenerateRequest::default()
    };
    let answer = model.generate(request).await?;
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

async fn alternatives(model: &LocalProvider, body: &Value, stream: &mut TcpStream) -> Result<(), LlmError> {
    let letters: Vec<String> = ('A'..='Z').map(String::from).collect();
    let scores = model
        .score(ScoreRequest { agent: "facade".into(), prompt: prompt(body), options: letters.clone(), ..ScoreRequest::default() })
        .await?;
    let top: Vec<Value> =
        letters.iter().zip(&scores.logprobs).map(|(token, logprob)| json!({ "token": token, "logprob": logprob })).collect();
    let usage = json!({ "prompt_tokens": scores.usage.prompt_tokens + scores.usage.reused_tokens, "completion_tokens": 1 });
    let choice = json!({ "message": { "content": "A" }, "logprobs": { "content": [{ "top_logprobs": top }] }, "finish_reason": "length" });
    let answer = json!({ "choices": [choice], "usage": usage });
    reply(stream, "200 OK", "Content-Type: application/json\r\n", answer.to_string().as_bytes()).await;
    Ok(())
}
