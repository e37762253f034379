//! The process dies or hangs while prompts are evaluated and while answers are on their way: the requests fail by their kind,
//! and the next one works.

use std::sync::Arc;
use std::time::Duration;

use galen_agents::llm::{GenerateRequest, LlmError, LocalConfig, LocalProvider, Prompt, Provider};
use nix::sys::signal::Signal;

use super::send;
use super::support::{config, evidence, generate, model, score};

/// What the process is at when the signal comes.
#[derive(Debug, Clone, Copy)]
enum At {
    /// A prompt that takes seconds.
    Prefill,
    /// Answers that take seconds.
    Decode,
}

/// Asks for three things at once and ends the process with a signal on the way. Returns the requests' errors.
async fn cell(provider: &Arc<LocalProvider>, signal: Signal, at: At) -> Vec<LlmError> {
    let request = match at {
        At::Prefill => GenerateRequest { prompt: Prompt::new(evidence(1_500), "o"), ..generate("", None, 400) },
        At::Decode => generate("Tell a long story.", Some("root ::= [a-z ]+"), 1_500),
    };
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let (provider, request) = (Arc::clone(provider), request.clone());
            tokio::spawn(async move { provider.generate(request).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(600)).await;
    send(provider, signal);
    if signal == Signal::SIGSEGV {
        // Rust's handler lets the first one pass that no bad access follows.
        tokio::time::sleep(Duration::from_millis(50)).await;
        send(provider, signal);
    }
    let mut errors = Vec::new();
    for task in tasks {
        errors.push(task.await.unwrap().expect_err("the process is gone"));
    }
    errors
}

async fn goes_on(provider: &LocalProvider, before: Option<u32>) {
    provider.score(score("s", "o", &["a", "b"])).await.unwrap();
    assert_ne!(provider.pid(), before);
}

#[tokio::test]
async fn a_death_fails_all_in_flight_and_the_next_request_works() {
    let Some(path) = model("smollm2-135m") else { return };
    let provider = Arc::new(LocalProvider::start(LocalConfig { exact: false, ..config(path) }).await.unwrap());
    for at in [At::Prefill, At::Decode] {
        for (signal, number) in [(Signal::SIGSEGV, 11), (Signal::SIGKILL, 9), (Signal::SIGABRT, 6)] {
            let before = provider.pid();
            for error in cell(&provider, signal, at).await {
                let LlmError::Crashed(why) = &error else { panic!("{signal} {at:?}: {error:?}") };
                assert!(why.contains(&format!("signal {number}")), "{signal} {at:?}: {why}");
            }
            goes_on(&provider, before).await;
        }
    }
    let metrics = provider.metrics().unwrap();
    assert_eq!((metrics.restarts, metrics.failed), (6, 18));
}

#[tokio::test]
async fn a_hang_is_out_of_time_and_the_next_request_works() {
    let Some(path) = model("smollm2-135m") else { return };
    let hang = async |at: At| {
        let mut config = LocalConfig { exact: false, ..config(path.clone()) };
        (config.request_timeout, config.drop_timeout) = (Duration::from_secs(5), Duration::from_secs(1));
        let provider = Arc::new(LocalProvider::start(config).await.unwrap());
        let before = provider.pid();
        let errors = cell(&provider, Signal::SIGSTOP, at).await;
        assert!(errors.iter().all(|e| *e == LlmError::Timeout(5_000)), "{at:?}: {errors:?}");
        goes_on(&provider, before).await;
    };
    tokio::join!(hang(At::Prefill), hang(At::Decode));
}
