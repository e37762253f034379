//! Continuous batching: all requests that run share one context, each step evaluates one batch for all of them, and
//! what prompts have in common is evaluated once. Plain Rust over a [`Backend`]; llama.cpp is one, the tests have another.

mod admit;
mod queue;
mod radix;
mod run;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

pub use radix::{Seq, Sharing, Token};
pub use run::{groups, log_softmax, stuck};

use self::queue::Queue;
use self::radix::{NodeId, Place, Prefixes};
use self::run::{Run, Stage};
use super::{LlmError, Usage};

/// Requests that run at once.
const MOST_RUNNING: usize = 24;
/// Options of all requests that are evaluated in one step.
const MOST_BRANCHES: usize = 32;
/// Options of one request that are evaluated in one step: so many sequences a row may belong to.
pub const BRANCHES: usize = MOST_BRANCHES / 2;
/// Prefixes kept in the cache. Each is a sequence, and llama.cpp keeps a row of logits for each.
const MOST_NODES: usize = 64;
/// Sequences that a backend must have: where nothing is shared, none for prefixes (a running state costs memory for each).
pub fn sequences(sharing: Sharing) -> usize {
    MOST_RUNNING + MOST_BRANCHES + if sharing == Sharing::None { 0 } else { MOST_NODES }
}
/// Most option tokens of one request evaluated together: each needs a row of logits as long as the vocabulary.
pub const GROUP_TOKENS: usize = 128;
/// Waiting for another request's prefix pays from this many tokens.
const LEAST_WAIT: usize = 16;
/// Copying a prefix out to memory pays from this many tokens.
const LEAST_HOST: usize = 32;

/// One token to evaluate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The token.
    pub token: Token,
    /// Its position.
    pub position: usize,
    /// The sequence that it continues.
    pub seq: Seq,
    /// Others that it continues too: they hold the same tokens up to here.
    pub also: Vec<Seq>,
    /// Whether its logits are wanted.
    pub logits: bool,
}

/// What holds and evaluates sequences. Positions are half-open ranges.
pub trait Backend {
    /// A sequence's cells, copied out.
    type State;
    /// Marks the cells of a range of one sequence as those of another too.
    fn copy(&mut self, from: Seq, to: Seq, start: usize, end: usize) -> Result<(), LlmError>;
    /// Takes a range from a sequence; cells without a sequence are free.
    fn remove(&mut self, seq: Seq, start: usize, end: usize) -> Result<(), LlmError>;
    /// Evaluates rows, at most as many as a batch holds.
    fn decode(&mut self, rows: &[Row]) -> Result<(), LlmError>;
    /// Logits of a row of the last batch.
    fn logits(&self, row: usize) -> &[f32];
    /// Copies a sequence out, with its size in bytes.
    fn save(&mut self, seq: Seq) -> Result<(Self::State, usize), LlmError>;
    /// Copies it in again.
    fn restore(&mut self, state: &Self::State, seq: Seq) -> Result<(), LlmError>;
    /// Forgets everything.
    fn clear(&mut self);
}

/// What a model answers with next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// This token.
    Token(Token),
    /// The model has ended by itself.
    End,
    /// Nothing is allowed.
    Nothing,
}

/// Chooses a token from logits, and remembers it.
pub trait Pick {
    /// The next token.
    fn next(&mut self, logits: &[f32]) -> Result<Next, LlmError>;
}

/// What is wanted of a prompt.
pub enum Work<P> {
    /// Mean log-probability of each option; none is empty or longer than [`GROUP_TOKENS`].
    Score(Vec<Vec<Token>>),
    /// At most so many tokens.
    Generate(usize, P),
}

/// A request.
pub struct Request<P> {
    /// Its number.
    pub id: u64,
    /// When it was asked.
    pub since: Instant,
    /// Whose turn it uses.
    pub incident: String,
    /// The prompt.
    pub tokens: Vec<Token>,
    /// Tokens of the prompt that others are likely to have in common.
    pub shared: usize,
    /// What is wanted.
    pub work: Work<P>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// One mean log-probability per token for each option.
    Scores(Vec<f64>),
    /// The tokens, and whether the model ended by itself.
    Tokens(Vec<Token>, bool),
}

/// A request that is over.
#[derive(Debug)]
pub struct Done {
    /// Its number.
    pub id: u64,
    /// What came of it.
    pub result: Result<Outcome, LlmError>,
    /// Tokens that it cost.
    pub usage: Usage,
    /// How long it waited since it was asked.
    pub queued: Duration,
    /// How long it ran.
    pub ran: Duration,
}

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Cells of the cache.
    pub cells: usize,
    /// Most tokens of one request, prompt and answer.
    pub limit: usize,
    /// Most rows of a batch.
    pub batch: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// Most bytes of prefixes outside the cache.
    pub host_bytes: usize,
    /// Cells of prefixes that nothing builds on and that may stay in the cache while something runs.
    pub idle: usize,
}

/// What has happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Batches evaluated.
    pub batches: u64,
    /// Rows of these.
    pub rows: u64,
    /// Time in batches, microseconds.
    pub model_us: u64,
    /// Time in steps, batches included, microseconds.
    pub busy_us: u64,
    /// Prefixes copied out to memory.
    pub saved: u64,
    /// Prefixes copied in again.
    pub restored: u64,
    /// Prefixes evicted.
    pub evicted: u64,
    /// Requests that waited for another's prefix.
    pub waited: u64,
    /// Most rows of a batch.
    pub rows_limit: u64,
    /// Cells that hold something now.
    pub cells: u64,
    /// Cells there are.
    pub cells_limit: u64,
    /// Requests that wait now.
    pub waiting: u64,
    /// Requests that run now.
    pub running: u64,
}

/// The engine.
pub struct Batched<B: Backend, P> {
    backend: B,
    sizes: Sizes,
    sharing: Sharing,
    tree: Prefixes,
    queue: Queue<Waiting<P>>,
    running: Vec<Run<P>>,
    free: Vec<Seq>,
    /// Cells that running requests have or may come to need, apart from those of the tree.
    reserved: usize,
    host: HashMap<NodeId, (B::State, usize)>,
    host_bytes: usize,
    /// From this length on the memory for prefixes is too small for one.
    too_long: usize,
    done: Vec<Done>,
    counts: Counts,
    /// Rows of the largest batch so far.
    largest: usize,
}

struct Waiting<P> {
    request: Request<P>,
    /// Whether it has waited for another's prefix.
    held: bool,
}

impl<B: Backend, P: Pick> Batched<B, P> {
    /// An engine without requests.
    pub fn new(backend: B, sizes: Sizes, sharing: Sharing) -> Self {
        let free = (0..sequences(sharing)).rev().filter_map(|s| Seq::try_from(s).ok()).collect();
        Self {
            backend,
            sizes: Sizes { limit: sizes.limit.min(sizes.cells), ..sizes },
            sharing,
            tree: Prefixes::new(sharing),
            queue: Queue::new(sizes.queue),
            running: Vec::new(),
            free,
            reserved: 0,
            host: HashMap::new(),
            host_bytes: 0,
            too_long: usize::MAX,
            done: Vec::new(),
            counts: Counts { cells_limit: sizes.cells as u64, rows_limit: sizes.batch as u64, ..Counts::default() },
            largest: 0,
        }
    }

    /// Tokens of one request that fit.
    pub fn limit(&self) -> usize {
        self.sizes.limit
    }

    /// Takes a request in; its end comes out of [`Batched::step`].
    pub fn submit(&mut self, request: Request<P>) {
        let (id, since, total) = (request.id, request.since, request.tokens.len() + room(&request, self.sizes.limit));
        let refused = if request.tokens.is_empty() {
            LlmError::Invalid("the prompt is empty".to_owned())
        } else if total > self.sizes.limit {
            LlmError::TooLong { tokens: total as u64, limit: self.sizes.limit as u64 }
        } else {
            let incident = request.incident.clone();
            match self.queue.push(&incident, Waiting { request, held: false }) {
                Ok(()) => return,
                Err(_) => LlmError::Busy { waiting: self.queue.len() as u64 },
            }
        };
        let (queued, ran) = (since.elapsed(), Duration::ZERO);
        self.done.push(Done { id, result: Err(refused), usage: Usage::default(), queued, ran });
    }

    /// Nobody waits for this request any more.
    pub fn cancel(&mut self, id: u64) {
        let cancelled = || Err(LlmError::Invalid("cancelled".to_owned()));
        if let Some(waiting) = self.queue.remove(|w| w.request.id == id) {
            let queued = waiting.request.since.elapsed();
            self.done.push(Done { id, result: cancelled(), usage: Usage::default(), queued, ran: Duration::ZERO });
        } else if let Some(place) = self.running.iter().position(|r| r.id == id) {
            self.finish(place, cancelled());
        }
    }

    /// Whether nothing waits and nothing runs.
    pub fn idle(&self) -> bool {
        self.queue.len() == 0 && self.running.is_empty() && self.done.is_empty()
    }

    /// Whether a batch was at least half full, so that it is known about how long the longest step takes.
    pub fn tried(&self) -> bool {
        2 * self.largest >= self.sizes.batch
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        let cells = (self.tree.resident_tokens() + self.running.iter().map(Run::private).sum::<usize>()) as u64;
        Counts { cells, waiting: self.queue.len() as u64, running: self.running.len() as u64, ..self.counts }
    }

    /// Lets waiting requests in, evaluates one batch, and returns the requests that are over. `began` hears of each
    /// request that starts to run.
    pub fn step(&mut self, began: &mut dyn FnMut(u64)) -> Vec<Done> {
        let start = Instant::now();
        let worked = self.admit(began).and_then(|()| self.trim()).and_then(|()| self.evaluate());
        if let Err(error) = worked {
            self.fail(&error);
        }
        self.counts.busy_us += micros(start);
        std::mem::take(&mut self.done)
    }

    fn evaluate(&mut self) -> Result<(), LlmError> {
        let mut rows = Vec::with_capacity(self.sizes.batch);
        let mut parts = Vec::new();
        let mut branches = MOST_BRANCHES;
        // Each answer on the way has its row; options and prompts fill what is left of the batch.
        let mut answers = self.running.iter().filter(|r| matches!(r.stage, Stage::Answer(_))).count();
        for (place, run) in self.running.iter_mut().enumerate() {
            let start = rows.len();
            match &run.stage {
                Stage::Answer(token) => {
                    answers -= 1;
                    rows.push(Row { token: *token, position: run.length, seq: run.seq, also: Vec::new(), logits: true });
                }
                Stage::Options(group) if group.len() <= branches && rows.len() + answers + run.group_tokens() <= self.sizes.batch => {
                    branches -= group.len();
                    run.branch(&mut self.backend, &mut self.free, self.sharing, &mut rows)?;
                }
                _ => continue,
            }
            parts.push((place, start, rows.len()));
        }
        for place in self.prompts() {
            let Some(run) = self.running.get_mut(place) else { continue };
            let (start, before) = (rows.len(), run.length);
            run.prompt_rows(self.sizes.batch.saturating_sub(start), self.sharing, &mut rows);
            if rows.len() > start {
                if self.sharing != Sharing::None {
                    let room = (branches, self.sizes.batch - rows.len());
                    branches -= run.join(&mut self.backend, &mut self.free, (start, before), room, &mut rows)?;
                }
                parts.push((place, start, rows.len()));
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        self.backend.decode(&rows)?;
        self.counts.model_us += micros(start);
        self.counts.batches += 1;
        self.counts.rows += rows.len() as u64;
        self.largest = self.largest.max(rows.len());
        let mut over = Vec::new();
        for (place, start, end) in parts {
            let Some(run) = self.running.get_mut(place) else { continue };
            match run.read(&self.backend, start, end) {
                Ok(None) => {}
                Ok(Some(outcome)) => over.push((run.id, Ok(outcome))),
                Err(error) => over.push((run.id, Err(error))),
            }
            // Where this fails, nobody knows what the context holds.
            run.end_branches(&mut self.backend, &mut self.free)?;
        }
        for place in 0..self.running.len() {
            self.keep(place)?;
        }
        for (id, result) in over {
            if let Some(place) = self.running.iter().position(|r| r.id == id) {
                self.finish(place, result);
            }
        }
        Ok(())
    }

    /// Places of the prompts that are on their way. In every second batch those go first whose incident has had the fewest tokens read
    /// of what runs: a long prompt that came before fills all batches else, and a short one of another incident waits for it. In the
    /// batches between the oldest goes first, so that it comes to its end however many come after it.
    fn prompts(&self) -> Vec<usize> {
        let mut read: BTreeMap<&str, u64> = BTreeMap::new();
        for run in &self.running {
            *read.entry(run.incident.as_str()).or_default() += run.spent().prompt_tokens;
        }
        let fair = self.counts.batches.is_multiple_of(2);
        let prompt = |(place, run): (usize, &Run<P>)| {
            (run.stage == Stage::Prompt).then(|| (read.get(run.incident.as_str()).copied().filter(|_| fair), place))
        };
        let mut order: Vec<(Option<u64>, usize)> = self.running.iter().enumerate().filter_map(prompt).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, place)| place).collect()
    }

    fn finish(&mut self, place: usize, result: Result<Outcome, LlmError>) {
        let mut run = self.running.remove(place);
        let freed = run.end_branches(&mut self.backend, &mut self.free);
        let freed = freed.and_then(|()| self.backend.remove(run.seq, 0, usize::MAX));
        self.free.push(run.seq);
        self.reserved -= run.reserved;
        self.tree.unlock(run.tip);
        self.done.push(Done { id: run.id, result, usage: run.spent(), queued: run.queued, ran: run.began.elapsed() });
        if let Err(error) = freed {
            self.fail(&error);
        }
    }

    /// The context is in an unknown state: everything that runs fails, and everything is forgotten.
    fn fail(&mut self, error: &LlmError) {
        for run in self.running.drain(..) {
            let (queued, ran) = (run.queued, run.began.elapsed());
            self.done.push(Done { id: run.id, result: Err(error.clone()), usage: run.spent(), queued, ran });
        }
        self.backend.clear();
        self.tree = Prefixes::new(self.sharing);
        self.free = (0..sequences(self.sharing)).rev().filter_map(|s| Seq::try_from(s).ok()).collect();
        self.reserved = 0;
        self.host.clear();
        self.host_bytes = 0;
    }

    /// Forgets all prefixes, and what runs with them: the weights are about to change, or a test is over.
    pub fn forget(&mut self) -> &mut B {
        self.fail(&LlmError::Crashed("the engine's memory was emptied".to_owned()));
        &mut self.backend
    }

    fn place_of(&self, node: NodeId) -> Option<Seq> {
        match self.tree.where_is(node) {
            Some(Place::Resident(seq)) => Some(seq),
            _ => None,
        }
    }
}

fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Cells that a request needs beyond its prompt.
fn room<P>(request: &Request<P>, limit: usize) -> usize {
    match &request.work {
        // The last token of an answer is never evaluated, and an answer ends where the context does.
        Work::Generate(most, _) => (*most).min(limit.saturating_sub(request.tokens.len())).max(1),
        Work::Score(options) => {
            run::groups(options, BRANCHES, GROUP_TOKENS).iter().map(|g| run::group_tokens(options, g)).max().unwrap_or(0)
        }
    }
}
