//! llama.cpp under the batching engine: one context, one cache for all sequences. Thin: it decides nothing.

use std::num::NonZeroU32;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::context::session::{LlamaStateSeqFlags, SeqState};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use super::LlmError;
use super::adapters::Adapters;
use super::batched::{BRANCHES, Backend, Row, Seq, Sharing, sequences};
use super::offload::{Cache, Offload};
use super::prefault::{LARGE, at_most};

/// A context and its batch.
#[derive(Debug)]
pub struct Cells<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
}

impl<'m> Cells<'m> {
    /// Makes the context.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] when llama.cpp refuses, for lack of memory most of the time.
    pub fn new(
        backend: &LlamaBackend,
        model: &'m LlamaModel,
        (cells, batch): (u32, u32),
        threads: i32,
        offload: Offload,
    ) -> Result<Self, LlmError> {
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(cells))
            .with_n_batch(batch)
            .with_n_ubatch(batch)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_n_seq_max(u32::try_from(sequences(sharing(model))).unwrap_or(u32::MAX))
            .with_kv_unified(true);
        let context = at_most(filled(model, cells, offload), || model.new_context(backend, offload.context(params)))
            .map_err(|e| LlmError::Unavailable(format!("no context of {cells} tokens: {e}")))?;
        Ok(Self { context, batch: LlamaBatch::new(batch as usize, BRANCHES as i32 + 1) })
    }

    /// Tokens that fit, and rows of a batch.
    pub fn sizes(&self) -> (usize, usize) {
        (self.context.n_ctx() as usize, self.context.n_batch() as usize)
    }
}

impl Cells<'_> {
    /// Changes to an adapter; the cells are of other weights then.
    ///
    /// # Errors
    /// As [`Adapters::set`].
    pub fn adapt(&mut self, adapters: &mut Adapters, name: Option<&str>) -> Result<(), LlmError> {
        adapters.set(name, &mut self.context)
    }
}

/// Bytes of a token in the cache, about: keys and values of 16 bits.
pub fn token_bytes(model: &LlamaModel) -> usize {
    let head = usize::try_from(model.n_embd()).unwrap_or(0) / (model.n_head().max(1) as usize);
    let architecture = model.meta_val_str("general.architecture").unwrap_or_default();
    let stated = |key: &str| model.meta_val_str(&format!("{architecture}.attention.{key}")).ok()?.trim().parse::<usize>().ok();
    let (key, value) = (stated("key_length").unwrap_or(head), stated("value_length").unwrap_or(head));
    2 * (model.n_layer() as usize).saturating_mul(model.n_head_kv() as usize).saturating_mul(key.saturating_add(value))
}

/// Bytes that llama.cpp fills with zeros while it makes the context, at most, in allocations that are large: a row of logits for each
/// sequence, and the cache. What it allocates then, for the steps of a computation, it does not touch. 0 where the cache's type is not
/// the one that this reckons with.
fn filled(model: &LlamaModel, cells: u32, offload: Offload) -> usize {
    // What is smaller is not taken ahead, and would be taken of what is not filled.
    let large = |bytes: usize| if bytes < LARGE { 0 } else { bytes };
    let logits = sequences(sharing(model)).saturating_mul(usize::try_from(model.n_vocab()).unwrap_or(0)).saturating_mul(size_of::<f32>());
    let cache = token_bytes(model).saturating_mul(cells as usize);
    if offload.cache == Cache::F16 { large(logits).saturating_add(large(cache)) } else { 0 }
}

/// How far this model's prefixes may be shared.
pub fn sharing(model: &LlamaModel) -> Sharing {
    if model.is_recurrent() || model.is_hybrid() {
        return Sharing::None;
    }
    let architecture = model.meta_val_str("general.architecture").unwrap_or_default();
    let window = model.meta_val_str(&format!("{architecture}.attention.sliding_window"));
    let window = window.ok().and_then(|w| w.trim().parse::<u64>().ok()).unwrap_or(0);
    if windowed(&architecture, window) { Sharing::Whole } else { Sharing::Any }
}

/// Whether layers of a model see a sliding window only, when its file says that the window has so many tokens (0: nothing).
/// As llama-cpp-sys-2 0.1.161 has it.
fn windowed(architecture: &str, window: u64) -> bool {
    match architecture {
        // These have a window even where the file does not say how long it is.
        "llama4" | "gemma2" | "exaone4" => true,
        // Its files say how long, and llama.cpp does without (llama_model_phi3::load_arch_hparams).
        "phi3" => false,
        _ => window > 0,
    }
}

impl Backend for Cells<'_> {
    type State = SeqState;

    fn copy(&mut self, from: Seq, to: Seq, start: usize, end: usize) -> Result<(), LlmError> {
        if start == end {
            return Ok(());
        }
        self.context.copy_kv_cache_seq(from, to, Some(small(start)?), Some(small(end)?)).map_err(|e| broken(&e))
    }

    fn remove(&mut self, seq: Seq, start: usize, end: usize) -> Result<(), LlmError> {
        let seq = u32::try_from(seq).map_err(|e| broken(&e))?;
        let end = if end == usize::MAX { None } else { Some(small(end)?) };
        match self.context.clear_kv_cache_seq(Some(seq), Some(small(start)?), end) {
            Ok(true) => Ok(()),
            Ok(false) => Err(broken(&"a part of a sequence cannot be removed")),
            Err(e) => Err(broken(&e)),
        }
    }

    fn decode(&mut self, rows: &[Row]) -> Result<(), LlmError> {
        self.batch.clear();
        let mut seqs = Vec::with_capacity(BRANCHES + 1);
        for row in rows {
            let position = i32::try_from(row.position).map_err(|e| broken(&e))?;
            seqs.clear();
            seqs.push(row.seq);
            seqs.extend(&row.also);
            self.batch.add(LlamaToken(row.token), position, &seqs, row.logits).map_err(|e| broken(&e))?;
        }
        self.context.decode(&mut self.batch).map_err(|e| broken(&e))
    }

    fn logits(&self, row: usize) -> &[f32] {
        i32::try_from(row).map_or(&[], |row| self.context.get_logits_ith(row))
    }

    fn save(&mut self, seq: Seq) -> Result<(SeqState, usize), LlmError> {
        let state = self.context.state_seq_get(seq, LlamaStateSeqFlags::empty()).map_err(|e| broken(&e))?;
        let bytes = state.byte_len();
        Ok((state, bytes))
    }

    fn restore(&mut self, state: &SeqState, seq: Seq) -> Result<(), LlmError> {
        self.context.state_seq_set(state, seq).map_err(|e| broken(&e))
    }

    fn clear(&mut self) {
        self.context.clear_kv_cache();
    }
}

fn small(number: usize) -> Result<u32, LlmError> {
    u32::try_from(number).map_err(|e| broken(&e))
}

fn broken(error: &dyn std::fmt::Display) -> LlmError {
    LlmError::Crashed(format!("llama.cpp could not go on: {error}"))
}

#[cfg(test)]
mod tests {
    use super::windowed;

    #[test]
    fn a_window_is_what_llama_cpp_makes_of_the_file() {
        assert!(windowed("gemma3", 512) && windowed("gpt-oss", 128));
        assert!(windowed("gemma2", 0), "without a word in the file");
        assert!(!windowed("phi3", 2_047), "it is switched off");
        assert!(!windowed("llama", 0) && !windowed("qwen2", 0));
    }
}
