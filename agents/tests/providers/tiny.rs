//! Architectures of which no small file is at hand: a mixture of experts and MiniCPM, tiny and random, through the whole
//! engine. `make test` makes the files (scripts/tiny-models.sh).

use std::path::{Path, PathBuf};

use galen_agents::llm::offload::{Cache, Offload};
use galen_agents::llm::plan::{Plan, Room};
use galen_agents::llm::{GenerateRequest, LlmError, LocalProvider, Provider, gguf, plan};
use serde_json::{Value, json};

use super::support::{config, embed, evidence, generate, score, tiny};

#[tokio::test]
async fn a_mixture_of_experts_and_a_minicpm_score_and_write_under_a_grammar() {
    for (name, architecture) in [("tiny-moe", "llama"), ("tiny-minicpm", "minicpm")] {
        let Some(path) = tiny(name) else { return };
        let header = gguf::read(&path).unwrap();
        assert_eq!((header.architecture(), header.quantisation().as_str()), (architecture, "F16"));
        let provider = LocalProvider::start(config(path)).await.unwrap();
        assert_eq!((provider.identity().name.as_str(), provider.identity().sha256.len()), (name, 64));
        let ask = || score(&evidence(200), "Which?", &["A", "B", "the and other"]);
        let first = provider.score(ask()).await.unwrap();
        let again = provider.score(ask()).await.unwrap();
        assert!(first.logprobs.iter().all(|p| p.is_finite() && *p < 0.0), "{first:?}");
        assert_eq!(first.logprobs, again.logprobs, "{name}");
        assert!(again.usage.reused_tokens > 100, "{name}: {:?}", again.usage);
        let answer = provider.generate(generate("x", Some(r#"root ::= "supports" | "refutes" | "größe ↑""#), 40)).await.unwrap();
        assert!(answer.finished && ["supports", "refutes", "größe ↑"].contains(&answer.text.as_str()), "{name}: {answer:?}");
        let free = provider.generate(generate("x", None, 8)).await.unwrap();
        assert!(free.usage.generated_tokens <= 8, "{name}: {free:?}");
    }
}

#[tokio::test]
async fn a_plan_is_passed_to_the_engine_and_changes_no_answer_without_a_gpu() {
    let Some(path) = tiny("tiny-moe") else { return };
    let plan = plan::plan(&gguf::read(&path).unwrap(), 300 << 20, 512);
    assert!(plan.whole && plan.layers == 2, "{plan:?}");
    let plain = LocalProvider::start(config(path.clone())).await.unwrap();
    let expected = plain.score(score("s", "Which?", &["A", "B"])).await.unwrap().logprobs;
    let with = async |offload: Offload| {
        let mut config = config(path.clone());
        config.exe_arguments.extend(offload.arguments());
        LocalProvider::start(config).await.unwrap().score(score("s", "Which?", &["A", "B"])).await.unwrap().logprobs
    };
    assert_eq!(with(plan.offload()).await, expected);
    assert_eq!(with(Offload { gpu_layers: Some(2), cpu_experts: 1, ..Offload::default() }).await, expected);
    let half = with(Offload { cache: Cache::Q8_0, flash_attention: Some(true), ..Offload::default() }).await;
    assert_ne!(half, expected, "eight bits are not sixteen");
    assert!(half.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 0.2), "{half:?} {expected:?}");
}

/// The plan of a file for one GPU with so many bytes.
fn planned(path: &Path, budget: u64, cache: Option<Cache>) -> Plan {
    let room = Room { budget, gpus: 1, context: 512, times: 1, exact: false, cache, flash_attention: true };
    plan::plan_for(&gguf::read(path).unwrap(), room)
}

async fn start(path: &Path, plan: &Plan) -> LocalProvider {
    let mut config = config(path.to_owned());
    config.exe_arguments.extend(plan.offload().arguments());
    LocalProvider::start(config).await.unwrap()
}

/// Vectors that differ by the text alone, and an object of JSON as asked for.
async fn makes_vectors_and_obeys_a_schema(provider: &LocalProvider, name: &str) {
    let vectors = provider.embed(embed(&["locks wait", "a slow disk", "locks wait"])).await.unwrap().vectors;
    assert_eq!((vectors.len(), vectors[0].len()), (3, 64), "{name}");
    assert!(vectors[0] == vectors[2] && vectors[0] != vectors[1], "{name}");
    assert!(vectors.iter().all(|v| (v.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-4), "{name}");
    let schema = json!({
        "type": "object",
        "properties": { "verdict": { "enum": ["supports", "refutes"] }, "sure": { "type": "boolean" } },
        "required": ["verdict", "sure"], "additionalProperties": false,
    });
    // A model that knows nothing writes blanks wherever they are allowed.
    let ask = GenerateRequest { schema: Some(schema), ..generate("Does the evidence support it?", None, 400) };
    let answer = provider.generate(ask).await.unwrap();
    let read: Value = serde_json::from_str(&answer.text).unwrap();
    assert!(answer.finished && read.as_object().unwrap().len() == 2 && read["sure"].is_boolean(), "{name}: {answer:?}");
    assert!(["supports", "refutes"].contains(&read["verdict"].as_str().unwrap()), "{name}: {answer:?}");
}

/// The budget is too small for the whole mixture, even with keys and values of eight bits: experts stay in main memory.
#[tokio::test]
async fn plans_with_experts_in_main_memory_answer_as_the_whole_one() {
    let Some(path) = tiny("tiny-moe") else { return };
    let whole = planned(&path, 300 << 20, None);
    let some = planned(&path, planned(&path, 300 << 20, Some(Cache::Q8_0)).vram - 1, None);
    let one = planned(&path, whole.vram - 1, Some(Cache::F16));
    assert!(whole.whole && whole.cache == Cache::F16, "{whole:?}");
    assert!(!some.whole && some.cpu_experts > 0 && some.gpu_layers == 3 && some.cache == Cache::F16, "{some:?}");
    assert!(!one.whole && one.cpu_experts == 1 && one.gpu_layers == 3, "{one:?}");
    let mut answers = Vec::new();
    for plan in [&whole, &some, &one] {
        let provider = start(&path, plan).await;
        let scores = provider.score(score(&evidence(100), "Which?", &["A", "B", "the and other"])).await.unwrap();
        answers.push(scores.logprobs);
        makes_vectors_and_obeys_a_schema(&provider, "tiny-moe").await;
    }
    assert!(answers[1] == answers[0] && answers[2] == answers[0], "{answers:?}");
}

#[tokio::test]
async fn a_minicpm_makes_vectors_and_obeys_a_schema() {
    let Some(path) = tiny("tiny-minicpm") else { return };
    let whole = planned(&path, 300 << 20, None);
    assert!(whole.whole && whole.cpu_experts == 0, "{whole:?}");
    makes_vectors_and_obeys_a_schema(&start(&path, &whole).await, "tiny-minicpm").await;
}

#[tokio::test]
async fn the_devices_of_this_machine_are_listed_by_the_models_process() {
    let exe = PathBuf::from(env!("CARGO_BIN_EXE_galen-llm-worker"));
    let found = galen_agents::llm::devices::list(&exe, &[]).await.unwrap();
    let cpu = found.iter().find(|d| d.kind == "cpu").expect("a processor");
    assert!(cpu.total > 1 << 28 && cpu.free <= cpu.total, "{cpu:?}");
    assert!(galen_agents::llm::devices::list(&PathBuf::from("/nonexistent"), &[]).await.is_err());
}

/// A sound file of an architecture that llama.cpp does not know: our check lets it pass, and what llama.cpp says is told.
#[tokio::test]
async fn an_unknown_architecture_is_unavailable_by_name() {
    let Some(path) = tiny("tiny-moe") else { return };
    let mut bytes = std::fs::read(&path).unwrap();
    let header = usize::try_from(gguf::read(&path).unwrap().data).unwrap();
    let names: Vec<usize> = (0..header - 5).filter(|at| &bytes[*at..at + 5] == b"llama").collect();
    for at in names {
        bytes[at..at + 5].copy_from_slice(b"zzama");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("unknown.gguf");
    std::fs::write(&file, bytes).unwrap();
    gguf::check(&file).unwrap();
    let refused = LocalProvider::start(config(file)).await.map(|_| ());
    let Err(LlmError::Unavailable(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("unknown.gguf does not load") && why.contains("unknown model architecture") && why.contains("zzama"), "{why}");
}

/// What has no cache, or was not made to go on with a text, would answer with numbers that mean nothing.
#[tokio::test]
async fn an_encoder_makes_vectors_a_reranker_none_and_neither_answers() {
    for (name, makes_vectors) in [("tiny-bert", true), ("tiny-reranker", false)] {
        let Some(path) = tiny(name) else { return };
        for exact in [true, false] {
            let mut config = config(path.clone());
            config.exact = exact;
            let provider = LocalProvider::start(config).await.unwrap();
            let refused = |why: &LlmError| matches!(why, LlmError::Invalid(why) if why.contains("answers nothing"));
            assert!(provider.score(score("s", "Which?", &["a", "b"])).await.is_err_and(|e| refused(&e)), "{name}");
            assert!(provider.generate(generate("x", None, 8)).await.is_err_and(|e| refused(&e)), "{name}");
            let vectors = provider.embed(embed(&["locks wait", "a slow disk", "locks wait"])).await.map(|e| e.vectors);
            if !makes_vectors {
                assert!(matches!(&vectors, Err(LlmError::Invalid(why)) if why.contains("reranker")), "{vectors:?}");
                continue;
            }
            let vectors = vectors.unwrap();
            assert_eq!((vectors.len(), vectors[0].len()), (3, 64));
            assert!(vectors[0] == vectors[2] && vectors[0] != vectors[1]);
            assert!(vectors.iter().all(|v| (v.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-4));
        }
    }
}

/// llama.cpp reads groups by recursion: so deep a grammar would end the process, and all that is at work with it.
#[tokio::test]
async fn a_grammar_nested_without_end_is_refused_and_the_model_goes_on() {
    let Some(path) = tiny("tiny-moe") else { return };
    let provider = LocalProvider::start(config(path)).await.unwrap();
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(20_000), ")".repeat(20_000));
    let refused = provider.generate(generate("x", Some(&deep), 8)).await;
    assert!(matches!(&refused, Err(LlmError::Invalid(why)) if why.contains("nested too deeply")), "{refused:?}");
    assert!(provider.generate(generate("x", Some("root ::= \"a\""), 8)).await.is_ok());
    assert_eq!(provider.metrics().unwrap().restarts, 0);
}
