//! The process dies or hangs while prompts are evaluated and while answers are on their way: the requests fail by their kind,
//! and the next one works.

use std::sync::Arc;
use std::time::{Duration, Instant};

use galen_agents::llm::{GenerateRequest, LlmError, LocalConfig, LocalProvider, Prompt, Provider};
use nix::sys::resource::{Resource, setrlimit};
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

/// Requests that are asked at once.
const AT_ONCE: u64 = 3;
/// Clock ticks after which the process is at a prompt that takes seconds: a fifth of a second.
const INTO_PROMPT: u64 = 20;
/// Most time until the process is at what it shall die at, with room for a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

fn story(most: u32) -> GenerateRequest {
    generate("Tell a long story.", Some("root ::= [a-z ]+"), most)
}

/// Processor time of the provider's process so far, in clock ticks, a hundred a second.
fn ticks(provider: &LocalProvider) -> u64 {
    let stat = provider.pid().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(11)?.parse().ok()).unwrap_or(0)
}

/// Waits for a condition.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the process has all requests and is at this.
async fn reached(provider: &LocalProvider, at: At) {
    until("the process has all requests", || provider.metrics().unwrap().open == AT_ONCE).await;
    match at {
        // Until a step has ended nothing is told of it; only its time shows that the process works.
        At::Prefill => {
            let end = ticks(provider) + INTO_PROMPT;
            until("the prompt is being evaluated", || ticks(provider) >= end).await;
        }
        // Who asks the same after them has a first token when all of them have one.
        At::Decode => {
            let first = tokio::time::timeout(PATIENCE, provider.generate(story(1))).await;
            first.expect("a first token was generated in time").expect("a first token");
            assert_eq!(provider.metrics().unwrap().counts().running, AT_ONCE, "all answers are on their way");
        }
    }
}

/// Asks for three things at once and ends the process with a signal on the way. Returns the requests' errors.
async fn cell(provider: &Arc<LocalProvider>, signal: Signal, at: At) -> Vec<LlmError> {
    let request = match at {
        At::Prefill => GenerateRequest { prompt: Prompt::new(evidence(1_500), "o"), ..generate("", None, 400) },
        // The cache has room for all of them at once.
        At::Decode => story(1_000),
    };
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (provider, request) = (Arc::clone(provider), request.clone());
            tokio::spawn(async move { provider.generate(request).await })
        })
        .collect();
    reached(provider, at).await;
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

/// Whether the process was ended for its silence.
fn hung(error: &LlmError) -> bool {
    matches!(error, LlmError::Crashed(why) if why.contains("hung"))
}

async fn goes_on(provider: &LocalProvider, before: Option<u32>) {
    provider.score(score("s", "o", &["a", "b"])).await.unwrap();
    assert_ne!(provider.pid(), before);
}

#[tokio::test]
async fn a_death_fails_all_in_flight_and_the_next_request_works() {
    let Some(path) = model("smollm2-135m") else { return };
    // Processes inherit it: what dies leaves no core file here.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
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
        // It may have told of a step before: then it is found by its silence.
        let expected = |e: &LlmError| *e == LlmError::Timeout(5_000) || hung(e);
        assert!(errors.iter().all(expected), "{at:?}: {errors:?}");
        goes_on(&provider, before).await;
    };
    tokio::join!(hang(At::Prefill), hang(At::Decode));
}

#[tokio::test]
async fn a_process_that_has_told_of_steps_is_found_by_its_silence() {
    let Some(path) = model("smollm2-135m") else { return };
    let config = LocalConfig { exact: false, drop_timeout: Duration::from_secs(3), ..config(path) };
    let provider = Arc::new(LocalProvider::start(config).await.unwrap());
    // A batch that is more than half full: from now on it tells of them.
    provider.score(score(&evidence(360), "o", &["a", "b"])).await.unwrap();
    let before = provider.pid();
    // Twelve times as long as that batch, or three seconds; the requests themselves have two minutes.
    let errors = cell(&provider, Signal::SIGSTOP, At::Decode).await;
    assert!(errors.iter().all(hung), "{errors:?}");
    goes_on(&provider, before).await;
}
