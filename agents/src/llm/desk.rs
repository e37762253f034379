//! Between the process's messages and the batching engine: requests become tokens, and tokens become answers.

use std::collections::HashMap;
use std::time::Instant;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use super::adapters::Adapters;
use super::batched::{Batched, Counts, Outcome, Request, Sizes, Work};
use super::cells::{Cells, sharing, token_bytes};
use super::offload::Offload;
use super::protocol::{Output, Task, Times};
use super::reading::Reader;
use super::template::Tokens;
use super::{Generated, LlmError, Scores, Usage};

/// Cells of the cache for each token of the longest request: room for several requests and for prefixes.
pub const CELLS: u32 = 2;
/// Rows of a batch. On a processor larger ones are not faster, and answers on the way wait longer.
const BATCH: u32 = 512;
/// Requests that may wait.
const QUEUE: usize = 1_024;
/// Most bytes of prefixes outside the cache: what the longest request takes, between these.
const HOST_BYTES: usize = 128 << 20;
const MOST_HOST_BYTES: usize = 1 << 30;
/// Cells that may lie idle beside what runs. 6,144 of them made a step of SmolLM2 last 9.3 ms instead of 7.0.
const IDLE: usize = 512;

/// A model that works on all requests at once.
pub struct Desk<'m> {
    reader: Reader<'m>,
    // Work holds what chooses tokens, which looks into the model.
    engine: Batched<Cells<'m>, super::reading::Greedy<'m>>,
    /// Requests that are none, with when they were asked.
    refused: HashMap<u64, (Instant, LlmError)>,
    /// Sections that were left out of the prompts of requests at work.
    cuts: HashMap<u64, Vec<usize>>,
}

/// An answer, as it goes out.
pub type Answer = (u64, Result<Output, LlmError>, Usage, Times);

impl<'m> Desk<'m> {
    /// Makes the context; `context` is the longest request and is cut to what the model was trained for.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] when there is not enough memory or the template does not render.
    pub fn new(backend: &LlamaBackend, model: &'m LlamaModel, context: u32, threads: i32, offload: Offload) -> Result<Self, LlmError> {
        let context = context.min(model.n_ctx_train().max(256)).max(256);
        let cells = Cells::new(backend, model, (context * CELLS, BATCH), threads, offload)?;
        let (all, batch) = cells.sizes();
        let limit = (context as usize).min(all);
        let sizes = Sizes {
            cells: all,
            limit,
            batch,
            queue: QUEUE,
            host_bytes: limit.saturating_mul(token_bytes(model)).clamp(HOST_BYTES, MOST_HOST_BYTES),
            idle: IDLE,
        };
        let engine = Batched::new(cells, sizes, sharing(model));
        Ok(Self { reader: Reader::new(model, limit)?, engine, refused: HashMap::new(), cuts: HashMap::new() })
    }

    /// Tokens of one request that fit.
    pub fn limit(&self) -> usize {
        self.engine.limit()
    }

    /// Takes a request in that came then.
    pub fn take(&mut self, id: u64, task: &Task, since: Instant) {
        let incident = task.asker().incident;
        let read = match task {
            Task::Score(request) => self
                .reader
                .score(request)
                .map(|(tokens, options)| (tokens, Work::Score(options.iter().map(|o| o.iter().map(|t| t.0).collect()).collect()))),
            Task::Generate(request) => self.reader.generate(request).map(|(tokens, pick, most)| (tokens, Work::Generate(most, pick))),
            Task::Embed(_) | Task::Adapt(_) => Err(LlmError::Invalid("not work for a batch".to_owned())),
        };
        match read {
            Ok((Tokens { shared, own, cut }, work)) => {
                if !cut.is_empty() {
                    self.cuts.insert(id, cut);
                }
                let tokens = shared.iter().chain(&own).map(|t| t.0).collect();
                self.engine.submit(Request { id, since, incident, tokens, shared: shared.len(), work });
            }
            Err(error) => drop(self.refused.insert(id, (since, error))),
        }
    }

    /// Changes to an adapter, or to none. Nothing may be at work.
    ///
    /// # Errors
    /// As [`Adapters::set`].
    pub fn adapt(&mut self, adapters: &mut Adapters, name: Option<&str>) -> Result<(), LlmError> {
        self.engine.forget().adapt(adapters, name)
    }

    /// Nobody waits for this one any more.
    pub fn cancel(&mut self, id: u64) {
        self.engine.cancel(id);
    }

    /// Whether there is nothing to do.
    pub fn idle(&self) -> bool {
        self.engine.idle() && self.refused.is_empty()
    }

    /// As [`Batched::tried`].
    pub fn tried(&self) -> bool {
        self.engine.tried()
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.engine.counts()
    }

    /// Evaluates a batch; returns what is answered. `began` hears of each request that starts to run.
    pub fn step(&mut self, began: &mut dyn FnMut(u64)) -> Vec<Answer> {
        let refused = self.refused.drain().map(|(id, (since, error))| {
            let times = Times { queued_us: micros(since.elapsed()), ran_us: 0 };
            (id, Err(error), Usage::default(), times)
        });
        let mut answers: Vec<Answer> = refused.collect();
        for done in self.engine.step(began) {
            let times = Times { queued_us: micros(done.queued), ran_us: micros(done.ran) };
            let cut = self.cuts.remove(&done.id).unwrap_or_default();
            let result = done.result.and_then(|outcome| match outcome {
                Outcome::Scores(logprobs) => Scores::checked(logprobs, done.usage, cut).map(Output::Scores),
                Outcome::Tokens(tokens, finished) => {
                    let tokens: Vec<LlamaToken> = tokens.into_iter().map(LlamaToken).collect();
                    Ok(Output::Generated(Generated { text: self.reader.text(&tokens), finished, usage: done.usage, cut }))
                }
            });
            answers.push((done.id, result, done.usage, times));
        }
        answers
    }
}

fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
