//! What the model's process does beside scoring and generating: vectors, a text at a time, and changes of adapters.

use std::time::Instant;

use super::adapters::Adapters;
use super::embedder::Embedder;
use super::protocol::Output;
use super::{EmbedRequest, Embeddings, LlmError, Usage};

/// The model's other context, and the adapters of all of them.
pub struct Others<'m> {
    /// Makes vectors.
    pub embedder: Embedder<'m>,
    /// Those that were loaded.
    pub adapters: &'m mut Adapters,
    /// The one that is set.
    pub active: Option<String>,
}

/// A request for vectors at work.
pub struct Embedding {
    /// Its number.
    pub id: u64,
    /// When it came.
    pub since: Instant,
    /// When its first text was begun.
    pub began: Instant,
    /// What it has cost so far.
    pub usage: Usage,
    texts: Vec<String>,
    vectors: Vec<Vec<f32>>,
}

impl Embedding {
    /// One of which nothing is done yet.
    pub fn new(id: u64, since: Instant, request: EmbedRequest) -> Self {
        Self { id, since, began: Instant::now(), usage: Usage::default(), texts: request.texts, vectors: Vec::new() }
    }
}

impl Others<'_> {
    /// Changes to an adapter, also `of` the engine.
    ///
    /// # Errors
    /// As [`Adapters::check`] and [`Adapters::set`].
    pub fn adapt(&mut self, name: Option<&str>, of: impl FnOnce(&mut Adapters) -> Result<(), LlmError>) -> Result<(), LlmError> {
        self.adapters.check(name)?;
        if self.active.as_deref() == name {
            return Ok(());
        }
        self.embedder.forget();
        of(self.adapters)?;
        self.active = name.map(str::to_owned);
        Ok(())
    }

    /// Makes the vector of the next text. Returns what came of the request when that was the last.
    pub fn embed_next(&mut self, one: &mut Embedding) -> Option<Result<Output, LlmError>> {
        if let Some(text) = one.texts.get(one.vectors.len()) {
            match self.vector(text, &mut one.usage) {
                Ok(vector) => one.vectors.push(vector),
                Err(error) => return Some(Err(error)),
            }
        }
        let done = one.vectors.len() == one.texts.len();
        done.then(|| Ok(Output::Embeddings(Embeddings { vectors: std::mem::take(&mut one.vectors), usage: one.usage })))
    }

    /// Makes all vectors of a request.
    ///
    /// # Errors
    /// As [`Embedder::embed`]; [`LlmError::Invalid`] when stopped.
    pub fn embed(&mut self, request: &EmbedRequest, usage: &mut Usage, stop: &dyn Fn() -> bool) -> Result<Embeddings, LlmError> {
        let mut vectors = Vec::with_capacity(request.texts.len());
        for text in &request.texts {
            if stop() {
                return Err(LlmError::Invalid("cancelled".to_owned()));
            }
            vectors.push(self.vector(text, usage)?);
        }
        Ok(Embeddings { vectors, usage: *usage })
    }

    fn vector(&mut self, text: &str, usage: &mut Usage) -> Result<Vec<f32>, LlmError> {
        let (context, _) = self.embedder.ready()?;
        self.adapters.set(self.active.as_deref(), context)?;
        self.embedder.embed(text, usage)
    }
}
