//! What is counted and logged of each request, also of those of which nothing came. Processes of the tests' own say what a real
//! one says seldom.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use galen_agents::llm::{LlmError, LocalConfig, LocalProvider, OfIncident, Provider, ScoreRequest};
use nix::sys::signal::Signal;
use tracing::Level;

use super::support::{config, evidence, generate, score, tiny};
use super::{log, send};

/// A process that is a shell script. It is asked in vain whenever the script ends.
fn script(model: PathBuf, text: &str) -> LocalConfig {
    let text = format!("ready() {{ echo '{{\"ready\":{{\"load_ms\":1,\"context\":64}}}}'; }}\n{text}");
    LocalConfig { exe: "/bin/sh".into(), exe_arguments: vec!["-c".into(), text, "worker".into()], ..config(model) }
}

fn asking(agent: &str) -> ScoreRequest {
    ScoreRequest { agent: agent.into(), ..score("s", "o", &["a", "b"]) }
}

#[tokio::test]
async fn each_request_is_an_event_with_who_asked_and_what_it_cost() {
    log::keep();
    let Some(path) = tiny("tiny-moe") else { return };
    let provider = Arc::new(LocalProvider::start(LocalConfig { exact: false, ..config(path) }).await.unwrap());
    let voice = OfIncident::new(Arc::clone(&provider) as Arc<dyn Provider>, "i-4711");
    let asked = ScoreRequest { branch: "lock_contention".into(), prompt: score(&evidence(60), "o", &[]).prompt, ..asking("traced") };
    let first = voice.score(asked.clone()).await.unwrap().usage;
    let again = voice.score(ScoreRequest { branch: String::new(), ..asked.clone() }).await.unwrap().usage;
    let refused = voice.score(ScoreRequest { options: vec!["alone".into()], ..asked }).await;
    assert!(refused.is_err() && again.reused_tokens > 100);

    let lines = log::lines("agent", "traced");
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (line, usage, branch) in [(&lines[0], first, "lock_contention"), (&lines[1], again, "")] {
        assert_eq!((line.level, line.of("message")), (Some(Level::DEBUG), "model request"));
        assert_eq!((line.of("incident"), line.of("branch"), line.of("error")), ("i-4711", branch, ""));
        let tokens = [usage.prompt_tokens, usage.reused_tokens, usage.generated_tokens].map(|n| n.to_string());
        assert_eq!([line.of("prefilled"), line.of("reused"), line.of("generated")], tokens);
        assert!(line.of("queue_ms").parse::<u64>().is_ok() && line.of("run_ms").parse::<u64>().is_ok(), "{line:?}");
    }
    assert!(lines[2].of("error").contains("at least two options"), "{lines:?}");

    let metrics = provider.metrics().unwrap();
    let branches = metrics.branches("i-4711").unwrap();
    assert_eq!((branches["lock_contention"], branches[""]), (first, again));
    assert!(metrics.branches("").is_none());
    assert_eq!((metrics.answered, metrics.failed, metrics.dropped, metrics.open), (2, 1, 0, 0));
}

#[tokio::test]
async fn the_last_words_of_a_dead_process_are_in_the_log() {
    log::keep();
    let Some(path) = tiny("tiny-moe") else { return };
    for (how, text) in [
        ("exit code 9", "ready; read line; echo 'GGML_ASSERT(asked) failed' >&2; exit 9"),
        ("exit code 11", "ready; echo 'GGML_ASSERT(idle) failed' >&2; exit 11"),
    ] {
        let provider = LocalProvider::start(script(path.clone(), text)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Err(LlmError::Crashed(why)) = provider.score(asking("test")).await else { panic!("{how}") };
        assert!(why.contains("GGML_ASSERT"), "{why}");
        let lines = log::lines("how", how);
        let told = lines.iter().all(|line| line.level == Some(Level::WARN) && line.of("stderr").contains("GGML_ASSERT"));
        assert!(!lines.is_empty() && told, "{lines:?}");
    }
}

#[tokio::test]
async fn requests_that_the_process_never_answers_are_counted_as_failed() {
    let Some(path) = tiny("tiny-moe") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("started");
    // It dies of the first request, and cannot be started again.
    let text = format!("if [ -e {0} ]; then exit 5; fi; : > {0}; ready; read line; exit 10", mark.display());
    let provider = LocalProvider::start(script(path.clone(), &text)).await.unwrap();
    assert!(matches!(provider.score(asking("a")).await, Err(LlmError::Crashed(_))));
    for failed in 2..=4 {
        let refused = provider.score(asking("a")).await;
        assert!(matches!(refused, Err(LlmError::Unavailable(_))), "{refused:?}");
        let metrics = provider.metrics().unwrap();
        assert_eq!((metrics.failed, metrics.answered), (failed, 0), "{refused:?}");
        assert_eq!((metrics.up, metrics.given_up), (Some(false), failed >= 3), "{refused:?}");
    }
    provider.reset();
    assert!(!provider.metrics().unwrap().given_up);
    // It listens and says nothing: out of time, and when it does not confirm that either, it is ended.
    let mut silent = script(path, "ready; while read line; do :; done");
    (silent.request_timeout, silent.drop_timeout) = (Duration::from_millis(200), Duration::from_millis(100));
    let provider = LocalProvider::start(silent).await.unwrap();
    let first = provider.pid();
    assert_eq!(provider.score(asking("a")).await, Err(LlmError::Timeout(200)));
    assert_eq!(provider.metrics().unwrap().failed, 1);
    assert_eq!(provider.score(asking("a")).await, Err(LlmError::Timeout(200)));
    let metrics = provider.metrics().unwrap();
    assert_eq!((metrics.failed, metrics.restarts), (2, 1));
    assert_ne!(provider.pid(), first);
}

#[tokio::test]
async fn silence_is_a_hang_where_a_process_that_tells_of_steps_has_something_to_do() {
    let Some(path) = tiny("tiny-moe") else { return };
    let said = r#"{"answer":{"id":1,"result":{"Err":{"Invalid":"no"}},"usage":{"prompt_tokens":0,"reused_tokens":0,"generated_tokens":0},"times":{"queued_us":0,"ran_us":0},"counts":null}}"#;
    let step = r#"{"step":{"counts":{"batches":3,"cells":9}}}"#;
    let mut telling = script(path, &format!("ready; read line; echo '{step}'; echo '{said}'; while read line; do :; done"));
    (telling.request_timeout, telling.drop_timeout) = (Duration::from_secs(120), Duration::from_secs(1));
    let provider = LocalProvider::start(telling).await.unwrap();
    let first = provider.pid();
    assert_eq!(provider.score(asking("a")).await, Err(LlmError::Invalid("no".into())));
    let counts = provider.metrics().unwrap().counts();
    assert_eq!((counts.batches, counts.cells), (3, 9), "the sign of life told them");
    // With nothing to do it says nothing either.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(first.is_some() && provider.pid() == first);
    // Long before the request is out of time.
    let Err(LlmError::Crashed(why)) = provider.score(asking("a")).await else { panic!("not taken for hung") };
    assert!(why.contains("hung") && provider.metrics().unwrap().up == Some(false), "{why}");
}

#[tokio::test]
async fn after_a_death_no_other_model_answers_in_its_name() {
    let (Some(path), Some(other)) = (tiny("tiny-moe"), tiny("tiny-minicpm")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("mine.gguf");
    std::fs::copy(&path, &place).unwrap();
    let provider = LocalProvider::start(script(place.clone(), "ready; read line; exit 1")).await.unwrap();
    let fate = async || provider.score(asking("a")).await.unwrap_err();
    // The same file under the same name, only newer, is the same model.
    for _ in 0..2 {
        assert!(matches!(fate().await, LlmError::Crashed(_)));
        std::fs::copy(&path, &place).unwrap();
    }
    std::fs::copy(&other, &place).unwrap();
    let why = fate().await.to_string();
    assert!(why.contains("another model"), "{why}");
}

#[tokio::test]
async fn what_an_abandoned_request_cost_is_counted_when_the_process_says_so() {
    let Some(path) = tiny("tiny-moe") else { return };
    let said = r#"{"answer":{"id":1,"result":{"Err":{"Invalid":"cancelled"}},"usage":{"prompt_tokens":70,"reused_tokens":5,"generated_tokens":3},"times":{"queued_us":0,"ran_us":0},"counts":null}}"#;
    let text = format!("ready; read line; echo '{{\"began\":{{\"id\":1}}}}'; read line; echo '{said}'; while read line; do :; done");
    let provider = LocalProvider::start(script(path, &text)).await.unwrap();
    let asked = provider.score(ScoreRequest { branch: "h1".into(), ..asking("left") });
    assert!(tokio::time::timeout(Duration::from_millis(200), asked).await.is_err());
    for _ in 0..100 {
        if provider.metrics().unwrap().agents.contains_key("left") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let metrics = provider.metrics().unwrap();
    let cost = metrics.branches("").unwrap()["h1"];
    assert_eq!((cost.prompt_tokens, cost.reused_tokens, cost.generated_tokens), (70, 5, 3));
    assert_eq!((metrics.dropped, metrics.failed, metrics.answered), (1, 0, 0));
}

#[tokio::test]
async fn a_death_while_nothing_is_asked_is_seen_when_it_happens() {
    let Some(path) = tiny("tiny-moe") else { return };
    let said = r#"{"answer":{"id":1,"result":{"Err":{"Invalid":"no"}},"usage":{"prompt_tokens":0,"reused_tokens":0,"generated_tokens":0},"times":{"queued_us":0,"ran_us":0},"counts":{"batches":5,"cells":7,"cells_limit":64}}}"#;
    let text = format!("ready; read line; echo '{said}'; while read line; do :; done");
    let provider = LocalProvider::start(script(path, &text)).await.unwrap();
    assert_eq!(provider.score(asking("a")).await, Err(LlmError::Invalid("no".into())));
    let counts = provider.metrics().unwrap().counts();
    assert_eq!((counts.batches, counts.cells, counts.cells_limit), (5, 7, 64));
    send(&provider, Signal::SIGKILL);
    for _ in 0..500 {
        if provider.pid().is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (metrics, pid) = (provider.metrics().unwrap(), provider.pid());
    let counts = metrics.counts();
    // Nothing is in a cache that is gone; what was done stays counted, and nothing is started before somebody asks.
    assert_eq!((pid, counts.batches, counts.cells, counts.cells_limit, metrics.restarts), (None, 5, 0, 0, 0));
}

/// Ten thousand requests with real cells, each of an incident of its own: answered, refused in each way, abandoned at each moment.
#[tokio::test]
async fn ten_thousand_requests_leave_nothing_behind() {
    // With prefixes shared in any length, and as a whole only.
    for (name, rounds) in [("tiny-minicpm", 95), ("tiny-window", 5)] {
        let Some(path) = tiny(name) else { return };
        let provider = Arc::new(LocalProvider::start(LocalConfig { exact: false, ..config(path) }).await.unwrap());
        let mut cells = Vec::new();
        for round in 0..rounds {
            let tasks: Vec<_> = (0..100_u64)
                .map(|i| {
                    let provider = OfIncident::new(Arc::clone(&provider) as Arc<dyn Provider>, format!("{round}-{i}"));
                    // The same twenty prompts in each way.
                    let own = format!("Question {}?", i % 20);
                    tokio::spawn(async move {
                        let shared = evidence(60);
                        match i / 20 {
                            0 => drop(provider.score(score(&shared, &own, &["the and", "the other", "x"])).await.unwrap()),
                            1 => drop(provider.generate(generate(&own, Some("root ::= [a-z ]+"), 5)).await.unwrap()),
                            2 => assert!(provider.score(score(&shared, &own, &["alone"])).await.is_err()),
                            3 => {
                                let stuck = provider.generate(generate(&own, Some(r#"root ::= "a" [^\x00-\UFFFFFFFF]"#), 9)).await;
                                assert!(matches!(stuck, Err(LlmError::Invalid(_))), "{stuck:?}");
                            }
                            _ => {
                                let story = provider.generate(generate(&own, Some("root ::= [a-z ]+"), 1_500));
                                let _ = tokio::time::timeout(Duration::from_millis(3 * (i % 20)), story).await;
                            }
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            // Sent only when all that was abandoned is confirmed.
            provider.score(score("s", "o", &["a", "b"])).await.unwrap();
            let mut metrics = provider.metrics().unwrap();
            for _ in 0..100 {
                if metrics.open == 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                metrics = provider.metrics().unwrap();
            }
            let counts = metrics.counts();
            assert_eq!((counts.running, counts.waiting, metrics.restarts), (0, 0, 0), "{name} {round}: {counts:?}");
            assert!(metrics.open == 0 && metrics.dropped > 0 && metrics.failed >= 40, "{name} {round}: {metrics:?}");
            cells.push(counts.cells);
        }
        // What the cache keeps of the same few prompts: how much depends on what was abandoned when, and does not grow.
        assert!(cells.iter().all(|now| (100..1_000).contains(now)), "{name}: {cells:?}");
    }
}
