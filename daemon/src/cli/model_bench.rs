//! `galen model bench`: how fast the engine is with a model, through the same process and messages as a diagnosis.

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use futures_util::future::join_all;
use serde_json::json;

use galen_agents::llm::registry::Registry;
use galen_agents::llm::{GenerateRequest, Generated, LlmError, LocalConfig, LocalProvider, Prompt, Provider, ScoreRequest, Usage};

use super::Global;
use crate::config::Config;
use crate::failure::Failure;
use crate::{engine, output};

/// Requests of the comparison with separate calls.
const REQUESTS: usize = 24;
/// Tokens that these have in common, of each one's own, and generated.
const SHARED: usize = 800;
const OWN: usize = 60;
const GENERATED: u32 = 24;
/// Rounds of what is measured several times; medians count.
const ROUNDS: usize = 7;
/// Tokens generated to measure the rate.
const ANSWER: u32 = 64;
/// A grammar that forbids nothing.
const ANYTHING: &str = "root ::= [^\\x00]*";

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Name in the registry
    #[arg(long, default_value = "smollm2-135m")]
    model: String,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: u16,
    /// Measure these parts alone
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Rates, Part::Grammars, Part::Options, Part::Prefix])]
    parts: Vec<Part>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Tokens a second of prompts and answers
    Rates,
    /// What a grammar and a schema cost a token
    Grammars,
    /// Eight options against one
    Options,
    /// Requests with a common beginning against separate calls
    Prefix,
}

struct Bench {
    config: LocalConfig,
    provider: Arc<LocalProvider>,
    /// Tokens of one line of [`text`], times 100.
    line: usize,
}

/// Lines that no two calls with different `seed` begin alike.
fn text(seed: usize, lines: usize) -> String {
    (0..lines).map(|i| format!("{}: {} sessions wait for a lock\n", seed * 1_000 + i, (seed * 31 + i * 7) % 90 + 10)).collect()
}

/// What an answer is held to.
enum Held<'a> {
    Free,
    Grammar(&'a str),
    Schema(&'a serde_json::Value),
}

/// An answer that no model would give by itself: numbers in an object, until the tokens end.
fn schema() -> serde_json::Value {
    let finding = json!({ "type": "object", "properties": { "line": { "type": "integer" }, "verdict": { "enum": ["supports", "refutes"] } },
        "required": ["line", "verdict"], "additionalProperties": false });
    json!({ "type": "object", "properties": { "findings": { "type": "array", "items": finding, "minItems": 40 } },
        "required": ["findings"], "additionalProperties": false })
}

fn generate(shared: &str, own: &str, max_tokens: u32, held: &Held<'_>) -> GenerateRequest {
    let prompt = Prompt::new(shared, format!("{own}Write a long story about this."));
    let (grammar, schema) = match held {
        Held::Free => (None, None),
        Held::Grammar(text) => (Some((*text).to_owned()), None),
        Held::Schema(schema) => (None, Some((*schema).clone())),
    };
    GenerateRequest { agent: "bench".into(), prompt, grammar, schema, max_tokens, ..GenerateRequest::default() }
}

impl Bench {
    fn words(&self, seed: usize, tokens: usize) -> String {
        text(seed, (tokens * 100 / self.line).max(1))
    }

    async fn timed(&self, requests: Vec<GenerateRequest>) -> Result<(f64, Usage), LlmError> {
        let began = Instant::now();
        let answers = join_all(requests.into_iter().map(|r| self.provider.generate(r))).await;
        let seconds = began.elapsed().as_secs_f64();
        let mut sum = Usage::default();
        for Generated { usage, .. } in answers.into_iter().collect::<Result<Vec<_>, _>>()? {
            sum.prompt_tokens += usage.prompt_tokens;
            sum.reused_tokens += usage.reused_tokens;
            sum.generated_tokens += usage.generated_tokens;
        }
        Ok((seconds, sum))
    }

    /// Tokens a second of `many` answers at once, their prompts apart, the time of one token of one of them, and the mean
    /// length of these prompts in tokens.
    async fn decode(&self, many: usize, held: &Held<'_>) -> Result<(f64, f64, u64), LlmError> {
        let ask = |max| (0..many).map(|i| generate("Tell stories.", &text(500 + i, 1), max, held)).collect::<Vec<_>>();
        self.timed(ask(1)).await?;
        let (short, _) = self.timed(ask(1)).await?;
        let (long, usage) = self.timed(ask(ANSWER)).await?;
        let tokens = usage.generated_tokens.saturating_sub(many as u64).max(1) as f64;
        let seconds = (long - short).max(1e-9);
        let prompt = (usage.prompt_tokens + usage.reused_tokens) / many as u64;
        Ok((tokens / seconds, seconds / (tokens / many as f64), prompt))
    }

    /// Seconds to score options behind a known prefix and an own part that is new.
    async fn score(&self, options: &[String], seed: usize) -> Result<f64, LlmError> {
        let options = options.to_vec();
        let prompt = Prompt::new(self.words(1, SHARED), self.words(seed, OWN));
        let began = Instant::now();
        self.provider.score(ScoreRequest { agent: "bench".into(), prompt, options, ..ScoreRequest::default() }).await?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// How much longer eight options take than evaluating the same prompt for one token: medians of nine pairs.
    async fn eight_over_one(&self, option: impl Fn(usize) -> String, seed: usize) -> Result<f64, LlmError> {
        let options: Vec<String> = (0..8).map(option).collect();
        self.score(&options, seed).await?;
        let (mut one, mut eight) = (Vec::new(), Vec::new());
        for i in 1..10 {
            let request = generate(&self.words(1, SHARED), &self.words(seed + 2 * i, OWN), 1, &Held::Free);
            one.push(self.timed(vec![request]).await?.0);
            eight.push(self.score(&options, seed + 2 * i + 1).await?);
        }
        Ok(median(eight) / median(one))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Figures by name, in the order measured.
type Figures = serde_json::Map<String, serde_json::Value>;

fn said(what: &str) {
    output::tell(&format!("measuring: {what}"));
}

async fn measure(args: &BenchArgs, configured: &Config, path: std::path::PathBuf) -> Result<Figures, LlmError> {
    said("loading");
    let config = engine::settings(&engine::named(configured, &args.model, args.threads, 900), path, false).await?;
    let mut bench = Bench { provider: Arc::new(LocalProvider::start(config.clone()).await?), config, line: 1_000 };
    let (_, hundred) = bench.timed(vec![generate(&text(900, 100), "", 1, &Held::Free)]).await?;
    bench.line = usize::try_from(hundred.prompt_tokens).unwrap_or(1_000);
    let mut figures = Figures::new();
    let mut put = |part: serde_json::Value| figures.extend(part.as_object().cloned().into_iter().flatten());
    put(json!({ "model": args.model, "threads": args.threads, "load_ms": bench.provider.load_ms() }));
    for part in [Part::Rates, Part::Grammars, Part::Options, Part::Prefix] {
        if args.parts.contains(&part) {
            put(match part {
                Part::Rates => bench.rates().await?,
                Part::Grammars => bench.grammars().await?,
                Part::Options => bench.options().await?,
                Part::Prefix => bench.prefix().await?,
            });
        }
    }
    Ok(figures)
}

impl Bench {
    async fn rates(&self) -> Result<serde_json::Value, LlmError> {
        said("prompts");
        let mut prefill = Vec::new();
        for i in 0..ROUNDS {
            let (seconds, usage) = self.timed(vec![generate(&self.words(901 + i, SHARED), "", 1, &Held::Free)]).await?;
            prefill.push(usage.prompt_tokens as f64 / seconds);
        }
        said("answers");
        let own_work = || self.provider.metrics().unwrap_or_default().own_work();
        let (mut steps, mut own_ms) = (0, 0.0);
        let (mut alone, mut at_once, mut prompt) = (Vec::new(), Vec::new(), 0);
        for _ in 0..ROUNDS {
            let (before, before_ms) = own_work();
            alone.push(self.decode(1, &Held::Free).await?.0);
            let (after, after_ms) = own_work();
            (steps, own_ms) = (steps + after - before, own_ms + after_ms - before_ms);
            let (rate, _, length) = self.decode(8, &Held::Free).await?;
            at_once.push(rate);
            prompt = length;
        }
        Ok(json!({
            "prefill_tps": median(prefill),
            "decode_tps": median(alone),
            "batch8_tps": median(at_once),
            "answer_prompt_tokens": prompt,
            "engine_ms_per_token": own_ms / steps.max(1) as f64,
        }))
    }

    async fn grammars(&self) -> Result<serde_json::Value, LlmError> {
        said("grammars");
        let schema = schema();
        let (mut anything, mut held) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let plain = self.decode(1, &Held::Free).await?.1;
            // Everything is allowed: what a grammar costs, not what it forbids.
            anything.push((self.decode(1, &Held::Grammar(ANYTHING)).await?.1 - plain) * 1e6);
            // What is likeliest is often forbidden: then the next ones are tried.
            held.push((self.decode(1, &Held::Schema(&schema)).await?.1 - plain) * 1e6);
        }
        Ok(json!({ "grammar_us_per_token": median(anything), "schema_us_per_token": median(held) }))
    }

    async fn options(&self) -> Result<serde_json::Value, LlmError> {
        said("options");
        let letters = self.eight_over_one(|i| char::from(b'A' + i as u8).to_string(), 300).await?;
        let phrase = |i: usize| format!("cause {i} of this");
        let phrases = self.eight_over_one(phrase, 350).await?;
        // At least two are scored; equal ones share all their rows, and cost what one does.
        let (one, eight): (Vec<String>, Vec<String>) = (vec![phrase(0); 2], (0..8).map(phrase).collect());
        let (mut of_one, mut of_eight) = (Vec::new(), Vec::new());
        for i in 0..ROUNDS {
            of_one.push(self.score(&one, 400 + 2 * i).await?);
            of_eight.push(self.score(&eight, 401 + 2 * i).await?);
        }
        Ok(json!({
            "letters_8_over_prompt": letters,
            "phrases_8_over_prompt": phrases,
            "phrases_8_over_1": median(of_eight) / median(of_one),
        }))
    }

    async fn prefix(&self) -> Result<serde_json::Value, LlmError> {
        // Separate calls: one after the other, each with another beginning, in a process of its own that keeps nothing of one for the next.
        let config = LocalConfig { exact: true, ..self.config.clone() };
        let alone = Bench { provider: Arc::new(LocalProvider::start(config.clone()).await?), config, line: self.line };
        let mut apart = (0.0, Usage::default());
        for i in 0..REQUESTS {
            if i % 6 == 0 {
                said(&format!("separate calls, {i} of {REQUESTS} done"));
            }
            let (seconds, usage) = alone.timed(vec![self.about(1_000 + i, 2_000 + i)]).await?;
            apart.0 += seconds;
            apart.1.prompt_tokens += usage.prompt_tokens;
            apart.1.generated_tokens += usage.generated_tokens;
        }
        drop(alone);
        said(&format!("{REQUESTS} requests with a common beginning"));
        let (seconds, usage) = self.timed((0..REQUESTS).map(|i| self.about(3_000, 4_000 + i)).collect()).await?;
        Ok(json!({
            "prefix_tokens_ratio": usage.prompt_tokens as f64 / apart.1.prompt_tokens.max(1) as f64,
            "prefix_wall_speedup": apart.0 / seconds,
            "prefix_seconds": [apart.0, seconds],
            "prefix_generated": [apart.1.generated_tokens, usage.generated_tokens],
        }))
    }

    /// A request of that comparison; a grammar goes with it, as with most that agents ask.
    fn about(&self, shared: usize, own: usize) -> GenerateRequest {
        generate(&self.words(shared, SHARED), &self.words(own, OWN), GENERATED, &Held::Grammar(ANYTHING))
    }
}

/// `galen model bench`.
pub async fn bench(global: &Global, args: BenchArgs) -> Result<(), Failure> {
    let failed = |e: LlmError| Failure::model(e.to_string());
    let folder = global.models_dir()?;
    let path = Registry::load(&folder).and_then(|registry| Ok(registry.chat(&args.model)?.path(&folder))).map_err(failed)?;
    let figures = measure(&args, &global.load()?, path).await.map_err(failed)?;
    if global.json {
        output::line(&serde_json::Value::Object(figures).to_string());
        return Ok(());
    }
    for (name, value) in &figures {
        let value = value.as_f64().map_or_else(|| value.to_string(), |v| format!("{v:.3}"));
        output::line(&format!("{name:<22} {value}"));
    }
    Ok(())
}
