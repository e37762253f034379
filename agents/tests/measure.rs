//! Measures, on request, how often a model is right on easy questions and how fast it is:
//! `cargo test --release -p galen-agents --test measure -- --ignored --nocapture`. No timing fails a test.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside of #[test] functions
#![allow(dead_code)] // the support module serves other tests too

mod support;

use std::time::Instant;

use galen_agents::llm::skill::{SkillStat, likelihood_ratio};
use galen_agents::llm::{LocalProvider, Provider, ballot, choose, prior};
use support::{config, evidence, generate, model, score};

/// Evidence, the right option, three wrong ones.
const QUESTIONS: [(&str, &str, [&str; 3]); 10] = [
    (
        "E1: 41 sessions wait on Lock:transactionid. E2: all of them are blocked by pid 812, whose UPDATE began 300 s ago.",
        "one long transaction holds a row lock that the others wait for",
        ["the disk is full", "planner statistics are stale", "a replica lags behind"],
    ),
    (
        "E1: seq_scan on orders rose by 12,000. E2: each scan reads 9 million rows and returns one. E3: orders has no index on customer_id.",
        "an index is missing on orders.customer_id",
        ["too many connections are open", "WAL archiving fails", "two transactions deadlock"],
    ),
    (
        "E1: FATAL: sorry, too many clients already. E2: 100 of max_connections 100 are used. E3: 93 of them are idle.",
        "connections are exhausted because a pool leaks",
        ["the table is bloated", "checkpoints come too often", "work_mem is too small for the sorts"],
    ),
    (
        "E1: n_dead_tup of events is 40 million, n_live_tup 2 million. E2: last_autovacuum was 9 days ago. E3: the table grew from 1 GB to 21 GB.",
        "dead rows bloat the table because vacuum does not keep up",
        ["an index is missing", "the network drops packets", "the password is wrong"],
    ),
    (
        "E1: temp_bytes rose by 80 GB in ten minutes. E2: plans show Sort Method: external merge Disk. E3: work_mem is 4 MB.",
        "sorts spill to disk because work_mem is too small",
        ["row locks block the sessions", "an unused replication slot keeps WAL", "the server crashed and recovered"],
    ),
    (
        "E1: LOG: checkpoints are occurring too frequently (9 seconds apart). E2: checkpoints_req rose by 60, checkpoints_timed by 0. E3: max_wal_size is 64 MB.",
        "checkpoints come too often because max_wal_size is too small",
        ["connections leak", "statistics are stale", "a foreign key has no index"],
    ),
    (
        "E1: replay_lag of standby1 rose from 0.1 s to 240 s. E2: its replay is at 100 % of one core. E3: the primary writes 90 MB/s of WAL.",
        "the replica cannot keep up with the WAL of the primary",
        ["autovacuum is turned off", "a query lacks a join condition", "shared_buffers is too small"],
    ),
    (
        "E1: slot old_consumer is inactive since 6 days. E2: it retains 210 GB of WAL. E3: the volume of pg_wal is 96 % full.",
        "an unused replication slot keeps WAL from being removed",
        ["sessions deadlock", "JIT compilation is slow", "many clients update the same row"],
    ),
    (
        "E1: ERROR: deadlock detected, 55 times in five minutes. E2: Process 71 waits for ShareLock on transaction 9; blocked by 72. Process 72 is blocked by 71.",
        "transactions lock the same rows in different order",
        ["the disk is slow", "an index is unused", "connections are opened too often"],
    ),
    (
        "E1: pid 4410 is idle in transaction since 3 hours. E2: its backend_xmin is the oldest. E3: vacuum removes no rows: dead but not yet removable.",
        "an idle transaction holds back vacuum",
        ["the CPU is saturated by sorts", "an index is missing", "WAL cannot be archived"],
    ),
];

#[derive(Default)]
struct Tally {
    asked: u32,
    raw_first: u32,
    raw: u32,
    debiased: u32,
}

#[tokio::test]
#[ignore = "measures for minutes"]
async fn skill_and_speed() {
    for name in ["smollm2-135m", "qwen2.5-coder-1.5b"] {
        let Some(path) = model(name) else { return };
        let mut config = config(path);
        config.context = 4_096;
        config.threads = 2;
        let provider = LocalProvider::start(config).await.unwrap();
        speed(name, &provider).await;
        let tally = skill(&provider).await;
        let stat = SkillStat { asked: tally.asked, right: tally.debiased, options: 4 };
        println!(
            "{name}: of {}: right with one order and no removal {}, with two orders {}, with the prior removed {}; likelihood ratio {:.2}",
            tally.asked,
            tally.raw_first,
            tally.raw,
            tally.debiased,
            likelihood_ratio(&stat)
        );
        assert_eq!(tally.asked, 10);
    }
}

async fn speed(name: &str, provider: &LocalProvider) {
    let shared = evidence(800);
    let began = Instant::now();
    let cold = provider.score(score(&shared, "Warm?", &["yes", "no"])).await.unwrap();
    let prefill = cold.usage.prompt_tokens as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    let text = provider.generate(generate("Tell a story.", Some("root ::= [a-z ]+"), 60)).await.unwrap();
    let decode = text.usage.generated_tokens as f64 / began.elapsed().as_secs_f64();
    let options: Vec<String> = ["lock contention", "a full disk", "bloat", "a lagging replica"].map(String::from).to_vec();
    let told_nothing = prior(provider, "m", &options).await.unwrap();
    let fresh = evidence(810) + "E99: nothing else.";
    let began = Instant::now();
    let (_, first) = choose(provider, "m", &fresh, "Which cause fits best?", &options, &told_nothing).await.unwrap();
    let cold_choice = began.elapsed();
    let began = Instant::now();
    let (_, next) = choose(provider, "m", &fresh, "Which cause fits worst?", &options, &told_nothing).await.unwrap();
    println!(
        "{name}: load {} ms, prompt {prefill:.0} tokens/s, generated {decode:.0} tokens/s, choose of 4 over {} shared tokens: first {:.2} s ({first:?}), next {:.2} s ({next:?})",
        provider.load_ms(),
        next.reused_tokens / 2,
        cold_choice.as_secs_f64(),
        began.elapsed().as_secs_f64(),
    );
}

async fn skill(provider: &LocalProvider) -> Tally {
    let mut tally = Tally::default();
    for (i, (facts, right, wrong)) in QUESTIONS.iter().enumerate() {
        let place = i % 4;
        let mut options: Vec<String> = wrong.iter().map(|w| (*w).to_owned()).collect();
        options.insert(place, (*right).to_owned());
        let shared = format!("You are an experienced PostgreSQL administrator. Evidence:\n{facts}");
        let question = "Which root cause explains the evidence best?";
        let told_nothing = prior(provider, "measure", &options).await.unwrap();
        let ballot = ballot(provider, "measure", &shared, question, &options, &told_nothing).await.unwrap();
        println!("  {i}: right {place} raw {:.2?} debiased {:.2?}", ballot.raw, ballot.probabilities);
        tally.asked += 1;
        tally.raw_first += u32::from(top(&ballot.first) == place);
        tally.raw += u32::from(top(&ballot.raw) == place);
        tally.debiased += u32::from(top(&ballot.probabilities) == place);
    }
    tally
}

fn top(p: &[f64]) -> usize {
    (0..p.len()).max_by(|a, b| p[*a].total_cmp(&p[*b])).unwrap_or(0)
}
