//! The providers through the one suite, and the openai provider against servers that misbehave.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use galen_agents::llm::openai::{Dialect, Key};
use galen_agents::llm::recorded::{RecordedProvider, Recorder};
use galen_agents::llm::{LlmError, LocalConfig, LocalProvider, OpenAiConfig, OpenAiProvider, Patience, Provider, Section};
use serde_json::json;

use super::conformance::{Expect, suite};
use super::facade;
use super::server::{Server, reply, send};
use super::support::{self, evidence, generate, in_full, model, score, start};

/// What the embedded engine must do.
const OURS: Expect = Expect { bounded: true, counts: true, grammars: true, tolerance: 0.0, live: true };
/// Tokens of its context here: prompts that are too long need not be very long.
const CONTEXT: u32 = 1_024;

fn short(path: PathBuf) -> LocalConfig {
    LocalConfig { context: CONTEXT, ..support::config(path) }
}

fn config(server: &Server) -> OpenAiConfig {
    let ms = Duration::from_millis;
    let mut config = OpenAiConfig::new(&server.url("v1"), "local");
    config.dialect = Dialect::LlamaCpp;
    config.request_timeout = Duration::from_secs(5);
    config.patience = Patience { attempts: 3, first_pause: ms(10), longest_pause: ms(2_000), stall: ms(400), connect: ms(500) };
    config
}

async fn provider(server: &Server) -> OpenAiProvider {
    OpenAiProvider::new(config(server)).unwrap()
}

#[tokio::test]
async fn the_local_engine_and_its_recording_pass_one_suite() {
    let Some(path) = model("smollm2-135m") else { return };
    let recorder = Recorder::new(Arc::new(LocalProvider::start(short(path)).await.unwrap()));
    suite(&recorder, OURS).await;
    let answered = recorder.metrics().unwrap().answered;
    assert!(answered > 10, "the engine behind the recorder counts: {answered}");
    let replay = RecordedProvider::new(recorder.recording());
    suite(&replay, Expect { live: false, ..OURS }).await;
    assert_eq!(replay.unasked(), 1, "all but the score after the abandoned text");
    assert!(replay.ended().is_err());
    assert!(matches!(replay.score(score("s", "never asked", &["A", "B"])).await, Err(LlmError::Invalid(_))));
    let (live, again) = (recorder.metrics().unwrap().agents["test"], replay.metrics().unwrap().agents["test"]);
    assert!(again.prompt_tokens > 1_000 && again.prompt_tokens <= live.prompt_tokens, "{live:?} {again:?}");
}

#[tokio::test]
async fn a_server_of_each_dialect_passes_the_suite() {
    let Some(path) = model("smollm2-135m") else { return };
    let local = Arc::new(LocalProvider::start(short(path)).await.unwrap());
    for dialect in [Dialect::LlamaCpp, Dialect::Openai, Dialect::Vllm, Dialect::Sglang] {
        eprintln!("dialect {dialect:?}");
        let server = facade::serve(Arc::clone(&local), dialect).await;
        let mut patient = OpenAiConfig { dialect, ..config(&server) };
        patient.request_timeout = Duration::from_secs(120);
        patient.patience.stall = Duration::from_secs(120);
        let remote = OpenAiProvider::connect(patient).await.unwrap();
        suite(&remote, Expect { counts: false, grammars: dialect != Dialect::Openai, ..OURS }).await;
        let metrics = remote.metrics().unwrap();
        assert!(metrics.answered > 10 && metrics.failed > 3 && metrics.dropped == 1, "{metrics:?}");
        let tokens = metrics.agents["test"];
        assert!(tokens.prompt_tokens > 1_000 && tokens.generated_tokens > 20, "{metrics:?}");
    }
}

/// The batched way, in full precision: the shape of a batch then changes next to nothing.
#[tokio::test]
async fn the_batching_engine_passes_the_suite() {
    let Some(path) = model("smollm2-135m") else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = LocalConfig { exact: false, context: CONTEXT, ..in_full(&path, folder.path()) };
    let provider = LocalProvider::start(config).await.unwrap();
    suite(&provider, Expect { tolerance: 0.001, ..OURS }).await;
}

/// A server that is not ours: `make test-openai` starts one and says where.
#[tokio::test]
#[ignore = "needs a server: make test-openai"]
async fn a_foreign_server_passes_the_suite() {
    let url = std::env::var("GALEN_OPENAI_URL").expect("GALEN_OPENAI_URL");
    let model = std::env::var("GALEN_OPENAI_MODEL").expect("GALEN_OPENAI_MODEL");
    let mut config = OpenAiConfig::new(&url, &model);
    config.dialect = Dialect::LlamaCpp;
    config.request_timeout = Duration::from_secs(120);
    let provider = OpenAiProvider::connect(config.clone()).await.unwrap();
    let began = Instant::now();
    suite(&provider, Expect { counts: false, tolerance: 0.05, ..OURS }).await;
    println!("the suite took {:.1} s", began.elapsed().as_secs_f64());
    config.model = "no such model".into();
    let unknown = OpenAiProvider::connect(config).await.unwrap_err().to_string();
    assert!(unknown.contains("has no model") && unknown.contains(&model), "{unknown}");
    // Its letters against those of the local engine on the same file: the templates and the model must be the same.
    let Some(local) = start().await else { return };
    let question = "Question: what is 2 + 2?\nA. 4\nB. a tree\nAnswer with the letter of the best option only.";
    let ask = || score("You are a careful assistant.", question, &["A", "B"]);
    let (theirs, ours) = (provider.score(ask()).await.unwrap().logprobs, local.score(ask()).await.unwrap().logprobs);
    println!("log-probabilities there {theirs:?} and here {ours:?}");
    let apart = (theirs[0] - theirs[1]) - (ours[0] - ours[1]);
    assert!(apart.abs() < 0.3, "{theirs:?} {ours:?}");
}

#[tokio::test]
async fn a_busy_server_is_asked_again_when_it_says_and_not_for_ever() {
    let ok = json!({ "choices": [{ "message": { "content": "hello" }, "finish_reason": "stop" }], "usage": { "prompt_tokens": 3, "completion_tokens": 1 } });
    let server = Server::start(move |request, mut stream| {
        let ok = ok.to_string();
        async move {
            match request.number {
                0 => reply(&mut stream, "429 Too Many Requests", "Retry-After: 1\r\n", b"{\"error\":{\"message\":\"slow down\"}}").await,
                1 => reply(&mut stream, "502 Bad Gateway", "", b"<html>").await,
                _ => reply(&mut stream, "200 OK", "Content-Type: application/json\r\n", ok.as_bytes()).await,
            }
        }
    })
    .await;
    let began = Instant::now();
    let answer = provider(&server).await.generate(generate("x", None, 5)).await.unwrap();
    assert_eq!((answer.text.as_str(), answer.usage.prompt_tokens), ("hello", 3));
    assert!(began.elapsed() >= Duration::from_secs(1));

    let always = Server::start(|_, mut stream| async move { reply(&mut stream, "503 Service Unavailable", "", b"").await }).await;
    let result = provider(&always).await.generate(generate("x", None, 5)).await;
    let Err(LlmError::Server(why)) = result else { panic!("{result:?}") };
    assert!(why.contains("503") && always.seen().len() == 3, "{why}");
    // A pause that would end after the deadline is not waited for.
    let later =
        Server::start(|_, mut stream| async move { reply(&mut stream, "429 Too Many Requests", "Retry-After: 2\r\n", b"").await }).await;
    let mut hurried = config(&later);
    hurried.request_timeout = Duration::from_millis(900);
    let began = Instant::now();
    assert!(OpenAiProvider::new(hurried).unwrap().generate(generate("x", None, 5)).await.is_err());
    assert!(began.elapsed() < Duration::from_millis(800), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_waits_for_its_turn_here_is_counted_as_queued() {
    let usage = json!({ "prompt_tokens": 3, "completion_tokens": 1 });
    let ok = json!({ "choices": [{ "message": { "content": "hello" }, "finish_reason": "stop" }], "usage": usage });
    let server = Server::start(move |_, mut stream| {
        let ok = ok.to_string();
        async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            reply(&mut stream, "200 OK", "Content-Type: application/json\r\n", ok.as_bytes()).await;
        }
    })
    .await;
    let mut patient = config(&server);
    (patient.request_timeout, patient.patience.stall) = (Duration::from_secs(60), Duration::from_secs(60));
    let provider = Arc::new(OpenAiProvider::new(patient).unwrap());
    // Sixteen are asked at once, four wait for one of them.
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let provider = Arc::clone(&provider);
            tokio::spawn(async move { provider.generate(generate("x", None, 5)).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let metrics = provider.metrics().unwrap();
    assert!(metrics.answered == 20 && metrics.queued_us >= 4 * 200_000, "{metrics:?}");
    assert!(metrics.ran_us >= 20 * 300_000, "{metrics:?}");
    // So is what does not wait for it.
    let busy = (0..16).map(|_| {
        let provider = Arc::clone(&provider);
        tokio::spawn(async move { provider.generate(generate("x", None, 5)).await })
    });
    let busy: Vec<_> = busy.collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(tokio::time::timeout(Duration::from_millis(150), provider.generate(generate("x", None, 5))).await.is_err());
    let after = provider.metrics().unwrap();
    assert!(after.dropped == 1 && after.queued_us >= metrics.queued_us + 100_000, "{after:?}");
    for task in busy {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn broken_streams_are_typed_errors_and_nothing_hangs() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    let part = |text: &str| format!("data: {}\n\n", json!({ "choices": [{ "delta": { "content": text } }] }));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("garbage", b"data: {\"choices\": [}\n\n".to_vec()),
        ("a page", b"<html><body>proxy</body></html>\n".to_vec()),
        ("half a character", [part("a").into_bytes(), b"data: {\"choices\":[{\"delta\":{\"content\":\"\xc3\"}}]}\n\n".to_vec()].concat()),
        ("half a line", [part("a").into_bytes(), b"data: {\"cho".to_vec()].concat()),
        ("no end", part("a").into_bytes()),
        ("nothing", Vec::new()),
        ("an error", b"data: {\"error\":{\"message\":\"no memory\"}}\n\n".to_vec()),
        ("no lines", vec![b'x'; 3 << 20]),
        ("too much", part(&"y".repeat(1_000)).repeat(400).into_bytes()),
    ];
    for (name, body) in cases {
        let bytes = [head.as_bytes().to_vec(), body].concat();
        let server = Server::start(move |_, mut stream| {
            let bytes = bytes.clone();
            async move { send(&mut stream, &bytes).await }
        })
        .await;
        let began = Instant::now();
        let result = provider(&server).await.generate(generate("x", None, 5)).await;
        assert!(matches!(result, Err(LlmError::Server(_))), "{name}: {result:?}");
        if name == "nothing" {
            assert_eq!(server.seen().len(), 6, "a server that is starting is asked again, each time with and without a stream");
        }
        assert!(began.elapsed() < Duration::from_secs(3), "{name}");
    }
}

#[tokio::test]
async fn counts_that_nobody_can_have_counted_break_no_books() {
    let server = Server::start(|_, mut stream| async move {
        let usage =
            json!({ "prompt_tokens": u64::MAX, "completion_tokens": u64::MAX, "prompt_tokens_details": { "cached_tokens": u64::MAX } });
        let ok = json!({ "choices": [{ "message": { "content": "hello" }, "finish_reason": "stop" }], "usage": usage });
        reply(&mut stream, "200 OK", "Content-Type: application/json\r\n", ok.to_string().as_bytes()).await;
    })
    .await;
    let provider = provider(&server).await;
    for _ in 0..2 {
        assert_eq!(provider.generate(generate("x", None, 5)).await.unwrap().text, "hello");
    }
    let metrics = provider.metrics().unwrap();
    assert!(metrics.answered == 2 && metrics.prometheus().contains("cache_hit_ratio"), "{metrics:?}");
}

#[tokio::test]
async fn a_refusal_that_a_stream_swallows_is_heard_in_one_piece() {
    let server = Server::start(|request, mut stream| async move {
        let body = request.json();
        let long = body["messages"][0]["content"].as_str().unwrap().len() > 1_500;
        let refusal = json!({ "error": { "code": "context_length_exceeded",
            "message": "This model's maximum context length is 512 tokens, however you requested 900 tokens" } });
        let part = json!({ "choices": [{ "delta": { "content": "short" }, "finish_reason": "stop" }] });
        let events = format!("data: {part}\n\ndata: [DONE]\n\n");
        if body["stream"] == true && long {
            send(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 0\r\n\r\n").await;
            // Closed only when the next request may be on its way over it.
            tokio::time::sleep(Duration::from_millis(50)).await;
        } else if body["stream"] == true {
            reply(&mut stream, "200 OK", "Content-Type: text/event-stream\r\n", events.as_bytes()).await;
        } else {
            assert!(long, "what a stream answers is not asked for twice");
            reply(&mut stream, "400 Bad Request", "Content-Type: application/json\r\n", refusal.to_string().as_bytes()).await;
        }
    })
    .await;
    let provider = provider(&server).await;
    let mut request = generate("Is it the locks?", None, 5);
    request.prompt.sections =
        vec![Section { text: "lock wait ".repeat(100), priority: 2 }, Section { text: "vacuum ".repeat(150), priority: 1 }];
    let answer = provider.generate(request.clone()).await.unwrap();
    assert_eq!((answer.text.as_str(), answer.cut), ("short", vec![1]));
    request.prompt.shared = evidence(2_000);
    let refused = provider.generate(request).await;
    assert!(matches!(refused, Err(LlmError::TooLong { tokens: 900, limit: 512 })), "{refused:?}");
}

#[tokio::test]
async fn a_silent_server_is_left_after_the_deadline_and_an_abandoned_request_is_closed() {
    let (closed, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(move |_, mut stream| {
        let closed = closed.clone();
        async move {
            send(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: wait\n\n").await;
            let mut rest = Vec::new();
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
            let _ = closed.send(());
        }
    })
    .await;
    let mut slow = config(&server);
    slow.patience.stall = Duration::from_secs(60);
    slow.request_timeout = Duration::from_millis(300);
    let result = OpenAiProvider::new(slow.clone()).unwrap().generate(generate("x", None, 5)).await;
    assert_eq!(result, Err(LlmError::Timeout(300)));
    ends.recv().await.unwrap();
    slow.request_timeout = Duration::from_secs(60);
    let patient = OpenAiProvider::new(slow).unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), patient.generate(generate("x", None, 5))).await.is_err());
    tokio::time::timeout(Duration::from_secs(5), ends.recv()).await.expect("the connection is closed").unwrap();
    // Silence before the deadline counts as a failure and is tried again.
    let result = provider(&server).await.generate(generate("x", None, 5)).await;
    assert!(matches!(result, Err(LlmError::Server(_))), "{result:?}");
}

#[tokio::test]
async fn refusals_say_what_to_change() {
    for (status, expected) in
        [("401 Unauthorized", "refuses the key"), ("404 Not Found", "no such address"), ("307 Temporary Redirect", "another address")]
    {
        let server = Server::start(move |_, mut stream| async move {
            reply(&mut stream, status, "Location: http://10.1.2.3/v1\r\n", b"{\"error\":{\"message\":\"no\"}}").await;
        })
        .await;
        let result = provider(&server).await.generate(generate("x", None, 5)).await;
        let Err(LlmError::Unavailable(why)) = result else { panic!("{status}: {result:?}") };
        assert!(why.contains(expected) && server.seen().len() == 1, "{why}");
    }
    let server =
        Server::start(|_, mut stream| async move { reply(&mut stream, "200 OK", "", b"{\"data\":[{\"id\":\"other\"}]}").await }).await;
    let error = OpenAiProvider::connect(config(&server)).await.unwrap_err().to_string();
    assert!(error.contains("no model 'local'") && error.contains("other"), "{error}");
    let address = server.url("v1");
    drop(server);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut away = OpenAiConfig::new(&address, "local");
    away.patience.first_pause = Duration::from_millis(5);
    assert!(matches!(OpenAiProvider::connect(away).await, Err(LlmError::Unavailable(_))));
}

#[tokio::test]
async fn a_server_that_ignores_the_grammar_or_shows_no_probabilities_is_found_out() {
    let server = Server::start(|request, mut stream| async move {
        let body = request.json();
        assert!(body["grammar"].is_string() && body["messages"][0]["role"] == "system");
        let ok = json!({ "choices": [{ "message": { "content": "As a language model" }, "finish_reason": "stop" }] });
        reply(&mut stream, "200 OK", "Content-Type: application/json\r\n", ok.to_string().as_bytes()).await;
    })
    .await;
    let mut config = config(&server);
    config.key = Some(Key::new("hunter2"));
    let provider = OpenAiProvider::new(config).unwrap();
    let result = provider.generate(generate("x", Some(r#"root ::= "yes" | "no""#), 5)).await;
    let Err(LlmError::Server(why)) = result else { panic!("{result:?}") };
    assert!(why.contains("grammar"), "{why}");
    let result = provider.score(score("s", "o", &["A", "B"])).await;
    let Err(LlmError::Server(why)) = result else { panic!("{result:?}") };
    assert!(why.contains("logprobs"), "{why}");
    assert_eq!(server.seen()[0].header("authorization").unwrap(), "Bearer hunter2");
    assert!(!format!("{provider:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_choice_goes_to_a_plain_server_as_a_json_schema() {
    let server = Server::start(|request, mut stream| async move {
        let body = request.json();
        assert_eq!(body["response_format"]["json_schema"]["schema"]["properties"]["answer"]["enum"], json!(["yes", "no"]));
        assert!(body.get("grammar").is_none() && body.get("chat_template_kwargs").is_none());
        let ok = json!({ "choices": [{ "message": { "content": "{\"answer\": \"no\"}" }, "finish_reason": "stop" }] });
        reply(&mut stream, "200 OK", "Content-Type: application/json\r\n", ok.to_string().as_bytes()).await;
    })
    .await;
    let mut plain = config(&server);
    plain.dialect = Dialect::Openai;
    let provider = OpenAiProvider::new(plain).unwrap();
    let answer = provider.generate(generate("x", Some(r#"root ::= "yes" | "no""#), 5)).await.unwrap();
    assert_eq!(answer.text, "no");
}
