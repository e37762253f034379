//! One llama.cpp context with one remembered prefix. A lane evaluates a prompt in fixed chunks into fixed places of
//! its cache, so that an answer is the same to the bit whether the prefix was remembered or not.

use std::num::NonZeroU32;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use super::adapters::Adapters;
use super::offload::Offload;
use super::template::Tokens;
use super::{LlmError, Usage};

/// Sequence of the remembered prefix.
const PREFIX: i32 = 0;
/// Sequence of the prompt at work.
const PROMPT: i32 = 1;
/// First sequence of the options.
const FIRST_OPTION: i32 = 2;
/// Sequences of a context.
const SEQUENCES: i32 = 16;

/// Options that can be evaluated together.
pub const MOST_OPTIONS: usize = (SEQUENCES - FIRST_OPTION) as usize;

/// Size and speed of a lane.
#[derive(Debug, Clone, Copy)]
pub struct LaneConfig {
    /// Tokens of the context.
    pub context: u32,
    /// Tokens evaluated at a time.
    pub chunk: u32,
    /// Threads.
    pub threads: i32,
    /// How keys and values are kept.
    pub offload: Offload,
}

/// A context, its batch, and what is remembered in it.
#[derive(Debug)]
pub struct Lane<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    chunk: usize,
    limit: usize,
    remembered: Vec<LlamaToken>,
}

/// Says whether nobody waits for the answer any more.
pub type Stop<'a> = &'a dyn Fn() -> bool;

impl<'m> Lane<'m> {
    /// Makes the context.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] when llama.cpp refuses, for lack of memory most of the time.
    pub fn new(backend: &LlamaBackend, model: &'m LlamaModel, config: LaneConfig) -> Result<Self, LlmError> {
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(config.context))
            .with_n_batch(config.chunk)
            .with_n_ubatch(config.chunk)
            .with_n_threads(config.threads)
            .with_n_threads_batch(config.threads)
            .with_n_seq_max(SEQUENCES as u32)
            .with_kv_unified(true);
        let context = model
            .new_context(backend, config.offload.context(params))
            .map_err(|e| LlmError::Unavailable(format!("no context of {} tokens: {e}", config.context)))?;
        let limit = context.n_ctx().min(config.context) as usize;
        let chunk = (context.n_batch().min(config.chunk) as usize).max(1);
        Ok(Self { context, batch: LlamaBatch::new(chunk, 1), chunk, limit, remembered: Vec::new() })
    }

    /// Tokens that fit.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Most tokens of one batch.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// Evaluates a prompt and returns the row of its last token's logits. Ends with [`Lane::release`].
    ///
    /// # Errors
    /// [`LlmError::Crashed`] when llama.cpp cannot decode, [`LlmError::Invalid`] when stopped.
    pub fn prompt(&mut self, tokens: &Tokens, usage: &mut Usage, stop: Stop<'_>) -> Result<i32, LlmError> {
        if self.remembered == tokens.shared {
            usage.reused_tokens += tokens.shared.len() as u64;
        } else {
            self.forget();
            self.feed(&tokens.shared, 0, PREFIX, &mut usage.prompt_tokens, stop)?;
            self.remembered.clone_from(&tokens.shared);
        }
        self.copy(PREFIX, PROMPT, tokens.shared.len())?;
        self.feed(&tokens.own, tokens.shared.len(), PROMPT, &mut usage.prompt_tokens, stop)
    }

    /// Appends one token to the prompt and returns the row of its logits.
    ///
    /// # Errors
    /// As [`Lane::prompt`].
    pub fn append(&mut self, token: LlamaToken, position: usize, stop: Stop<'_>) -> Result<i32, LlmError> {
        self.feed(&[token], position, PROMPT, &mut 0, stop)
    }

    /// Evaluates several continuations of the prompt in one batch. The rows of the logits lie in order.
    ///
    /// # Errors
    /// As [`Lane::prompt`].
    pub fn branches(&mut self, branches: &[&[LlamaToken]], prompt: usize, stop: Stop<'_>) -> Result<(), LlmError> {
        let sequences = || FIRST_OPTION..SEQUENCES;
        for (_, sequence) in branches.iter().zip(sequences()) {
            self.copy(PROMPT, sequence, prompt)?;
        }
        self.batch.clear();
        for (branch, sequence) in branches.iter().zip(sequences()) {
            for (i, token) in branch.iter().enumerate() {
                self.add(*token, prompt + i, sequence, true)?;
            }
        }
        self.decode(stop)?;
        for (_, sequence) in branches.iter().zip(sequences()) {
            self.remove(sequence)?;
        }
        Ok(())
    }

    /// The logits of a row of the last batch.
    pub fn logits(&self, row: i32) -> &[f32] {
        self.context.get_logits_ith(row)
    }

    /// Frees what a request used. After an error everything is forgotten, the prefix too.
    pub fn release(&mut self, whole: bool) {
        if !whole || self.remove(PROMPT).is_err() {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.remembered.clear();
        self.context.clear_kv_cache();
    }

    /// Changes to an adapter; what was remembered came of other weights.
    ///
    /// # Errors
    /// As [`Adapters::set`].
    pub fn adapt(&mut self, adapters: &mut Adapters, name: Option<&str>) -> Result<(), LlmError> {
        self.forget();
        adapters.set(name, &mut self.context)
    }

    /// Evaluates tokens, adds them to `evaluated` chunk by chunk, and returns the row of the last one's logits.
    fn feed(&mut self, tokens: &[LlamaToken], start: usize, sequence: i32, evaluated: &mut u64, stop: Stop<'_>) -> Result<i32, LlmError> {
        let mut at = start;
        for chunk in tokens.chunks(self.chunk) {
            self.batch.clear();
            for token in chunk {
                let last = at + 1 == start + tokens.len();
                self.add(*token, at, sequence, sequence == PROMPT && last)?;
                at += 1;
            }
            self.decode(stop)?;
            *evaluated += chunk.len() as u64;
        }
        Ok(self.batch.n_tokens() - 1)
    }

    fn add(&mut self, token: LlamaToken, position: usize, sequence: i32, logits: bool) -> Result<(), LlmError> {
        let position = i32::try_from(position).map_err(|e| broken(&e))?;
        self.batch.add(token, position, &[sequence], logits).map_err(|e| broken(&e))
    }

    fn decode(&mut self, stop: Stop<'_>) -> Result<(), LlmError> {
        if stop() {
            return Err(LlmError::Invalid("cancelled".to_owned()));
        }
        self.context.decode(&mut self.batch).map_err(|e| broken(&e))
    }

    fn copy(&mut self, from: i32, to: i32, length: usize) -> Result<(), LlmError> {
        if length == 0 {
            return Ok(());
        }
        let end = u32::try_from(length).map_err(|e| broken(&e))?;
        self.context.copy_kv_cache_seq(from, to, Some(0), Some(end)).map_err(|e| broken(&e))
    }

    fn remove(&mut self, sequence: i32) -> Result<(), LlmError> {
        let sequence = u32::try_from(sequence).map_err(|e| broken(&e))?;
        self.context.clear_kv_cache_seq(Some(sequence), None, None).map(|_| ()).map_err(|e| broken(&e))
    }
}

fn broken(error: &dyn std::fmt::Display) -> LlmError {
    LlmError::Crashed(format!("llama.cpp could not go on: {error}"))
}
