//! Texts as vectors, with the model that answers: its hidden states, pooled over a text. A context of its own, made when
//! the first text comes, so that those who never ask pay nothing.

use std::num::NonZeroU32;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{LlamaContextParams, LlamaPoolingType};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;

use super::{LlmError, Usage};

/// Longest text in tokens.
const LONGEST: u32 = 512;
/// What a file calls the pooling of a reranker: a number for a pair of texts, no vector.
const RANK: &str = "4";

/// Makes vectors.
pub struct Embedder<'m> {
    backend: &'m LlamaBackend,
    model: &'m LlamaModel,
    threads: i32,
    ready: Option<(LlamaContext<'m>, LlamaBatch<'static>)>,
}

impl<'m> Embedder<'m> {
    /// One that has no context yet.
    pub fn new(backend: &'m LlamaBackend, model: &'m LlamaModel, threads: i32) -> Self {
        Self { backend, model, threads, ready: None }
    }

    /// A vector of length 1 for a text, evaluated alone, so that it depends on nothing else.
    ///
    /// # Errors
    /// [`LlmError::Invalid`] for an empty text, [`LlmError::TooLong`] for one of more than 512 tokens,
    /// [`LlmError::Unavailable`] when there is no memory for a context. [`LlmError::Invalid`] also for a reranker.
    pub fn embed(&mut self, text: &str, usage: &mut Usage) -> Result<Vec<f32>, LlmError> {
        if text.trim().is_empty() {
            return Err(LlmError::Invalid("a text to embed is empty".to_owned()));
        }
        let limit = LONGEST.min(self.model.n_ctx_train()) as usize;
        // No tokenizer makes fewer tokens than this of real text.
        let tokens = if text.len() / 32 > limit { Vec::new() } else { self.model.vocab().tokenize(text.as_bytes(), true, false) };
        if tokens.is_empty() || tokens.len() > limit {
            return Err(LlmError::TooLong { tokens: tokens.len().max(text.len() / 4) as u64, limit: limit as u64 });
        }
        let (context, batch) = self.ready()?;
        let broken = |e: &dyn std::fmt::Display| LlmError::Crashed(format!("llama.cpp could not go on: {e}"));
        context.clear_kv_cache();
        batch.clear();
        batch.add_sequence(&tokens, 0, true).map_err(|e| broken(&e))?;
        context.decode(batch).map_err(|e| broken(&e))?;
        usage.prompt_tokens += tokens.len() as u64;
        unit(context.embeddings_seq_ith(0).map_err(|e| broken(&e))?)
    }

    /// The context belongs to weights that are not the same any more.
    pub fn forget(&mut self) {
        self.ready = None;
    }

    /// The context, for an adapter to be set on.
    pub fn ready(&mut self) -> Result<&mut (LlamaContext<'m>, LlamaBatch<'static>), LlmError> {
        if self.ready.is_none() {
            let architecture = self.model.meta_val_str("general.architecture").unwrap_or_default();
            let pooling = self.model.meta_val_str(&format!("{architecture}.pooling_type")).unwrap_or_default();
            if pooling == RANK {
                return Err(LlmError::Invalid("this model ranks texts (a reranker); it makes no vectors".to_owned()));
            }
            let pooled = !matches!(pooling.as_str(), "" | "0");
            let params = LlamaContextParams::default()
                .with_n_ctx(NonZeroU32::new(LONGEST))
                .with_n_batch(LONGEST)
                .with_n_ubatch(LONGEST)
                .with_n_threads(self.threads)
                .with_n_threads_batch(self.threads)
                .with_embeddings(true)
                .with_pooling_type(if pooled { LlamaPoolingType::Unspecified } else { LlamaPoolingType::Mean });
            let context = self.model.new_context(self.backend, params);
            let context = context.map_err(|e| LlmError::Unavailable(format!("no context for vectors: {e}")))?;
            self.ready = Some((context, LlamaBatch::new(LONGEST as usize, 1)));
        }
        self.ready.as_mut().ok_or_else(|| LlmError::Unavailable("no context for vectors".to_owned()))
    }
}

/// The vector with length 1.
///
/// # Errors
/// [`LlmError::Crashed`] when it has no length.
pub fn unit(vector: &[f32]) -> Result<Vec<f32>, LlmError> {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if !(length.is_finite() && length > 0.0) {
        return Err(LlmError::Crashed("the model gave no number".to_owned()));
    }
    Ok(vector.iter().map(|x| (f64::from(*x) / length) as f32).collect())
}
