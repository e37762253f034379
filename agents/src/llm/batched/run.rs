//! One request at work: its prompt, then its answer token by token or its options, a group of them at a time.

use std::time::{Duration, Instant};

use super::radix::{NodeId, Seq, Sharing, Token};
use super::{BRANCHES, Backend, GROUP_TOKENS, LlmError, Next, Outcome, Pick, Row, Usage, Waiting, Work};

/// Where a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Its prompt is being evaluated.
    Prompt,
    /// This token of its answer is to be evaluated.
    Answer(Token),
    /// These options are to be evaluated.
    Options(Vec<usize>),
}

/// A running request.
pub struct Run<P> {
    pub id: u64,
    pub incident: String,
    pub seq: Seq,
    pub tokens: Vec<Token>,
    pub shared: usize,
    /// Tokens in its sequence.
    pub length: usize,
    /// Node of the tree that it builds on and keeps.
    pub tip: NodeId,
    /// Cells of its own, at most.
    pub reserved: usize,
    pub stage: Stage,
    pub usage: Usage,
    pub queued: Duration,
    pub began: Instant,
    work: Work<P>,
    /// Most tokens that fit behind the prompt.
    room: usize,
    made: Vec<Token>,
    sums: Vec<f64>,
    /// Groups of options that are not evaluated yet, the next one last.
    groups: Vec<Vec<usize>>,
    /// Options at work in the batch that ends the prompt, and how many rows of the prompt are before them.
    joined: Option<(Vec<usize>, usize)>,
    branches: Vec<Seq>,
    /// Row of each evaluated token of each option at work, counted from its first row.
    places: Vec<Vec<usize>>,
    /// Lengths at which the prompt is put into the tree, in falling order.
    marks: Vec<usize>,
    /// Tokens of its sequence whose cells are the tree's.
    pub in_tree: usize,
}

impl<P: Pick> Run<P> {
    /// A run whose first `reuse` tokens are there already.
    pub fn new(waiting: Waiting<P>, seq: Seq, tip: NodeId, reuse: usize, reserved: usize) -> Self {
        let request = waiting.request;
        let mut groups = match &request.work {
            Work::Score(options) => groups(options, BRANCHES, GROUP_TOKENS),
            Work::Generate(..) => Vec::new(),
        };
        groups.reverse();
        let length = request.tokens.len();
        let usage = Usage { prompt_tokens: (length - reuse) as u64, reused_tokens: reuse as u64, generated_tokens: 0 };
        Self {
            id: request.id,
            incident: request.incident,
            seq,
            shared: request.shared.min(length),
            tokens: request.tokens,
            length: reuse,
            tip,
            reserved,
            stage: Stage::Prompt,
            usage,
            queued: request.since.elapsed(),
            began: Instant::now(),
            work: request.work,
            room: reserved + reuse - length,
            made: Vec::new(),
            sums: Vec::new(),
            groups,
            joined: None,
            branches: Vec::new(),
            places: Vec::new(),
            marks: Vec::new(),
            in_tree: reuse,
        }
    }

    /// Tokens that it has cost so far: of a prompt that is not done, those that were evaluated.
    pub fn spent(&self) -> Usage {
        let left = if self.stage == Stage::Prompt { self.tokens.len() - self.length } else { 0 };
        Usage { prompt_tokens: self.usage.prompt_tokens.saturating_sub(left as u64), ..self.usage }
    }

    /// Cells that are its alone, about: without the options at work.
    pub fn private(&self) -> usize {
        self.length - self.in_tree
    }

    /// Asks for the prompt's first `length` tokens to be put into the tree once they are evaluated.
    pub fn keep_at(&mut self, length: usize) {
        if length > self.in_tree && !self.marks.contains(&length) {
            self.marks.push(length);
            self.marks.sort_unstable_by(|a, b| b.cmp(a));
        }
    }

    /// The next such length that is reached.
    pub fn due(&mut self) -> Option<usize> {
        let mark = self.marks.last().copied().filter(|mark| *mark <= self.length)?;
        self.marks.pop();
        Some(mark)
    }

    /// Rows of the prompt, as many as fit.
    pub fn prompt_rows(&mut self, most: usize, sharing: Sharing, rows: &mut Vec<Row>) {
        let mut end = self.tokens.len().min(self.length + most);
        if sharing == Sharing::Whole && self.length < self.shared {
            end = end.min(self.shared);
        }
        for position in self.length..end {
            let Some(token) = self.tokens.get(position).copied() else { break };
            rows.push(Row { token, position, seq: self.seq, also: Vec::new(), logits: position + 1 == self.tokens.len() });
        }
        self.length = end;
    }

    /// Tokens of the options at work, at most.
    pub fn group_tokens(&self) -> usize {
        match (&self.work, &self.stage) {
            (Work::Score(options), Stage::Options(group)) => group_tokens(options, group),
            _ => 0,
        }
    }

    /// Rows of the options at work, each in a sequence of its own.
    pub fn branch<B: Backend>(
        &mut self,
        backend: &mut B,
        free: &mut Vec<Seq>,
        sharing: Sharing,
        rows: &mut Vec<Row>,
    ) -> Result<(), LlmError> {
        let Stage::Options(group) = self.stage.clone() else { return Ok(()) };
        for _ in &group {
            let seq = self.open(free)?;
            backend.copy(self.seq, seq, 0, self.length)?;
        }
        self.option_rows(&group, sharing, rows);
        Ok(())
    }

    /// Where the rows from `start` on end the prompt, puts the first options behind them, if these are at most `most_options` of
    /// `most_rows` rows: a batch of both is cheaper than one of each. `before` of the prompt's tokens were there already.
    /// Returns how many options are at work.
    pub fn join<B: Backend>(
        &mut self,
        backend: &mut B,
        free: &mut Vec<Seq>,
        (start, before): (usize, usize),
        (most_options, most_rows): (usize, usize),
        rows: &mut Vec<Row>,
    ) -> Result<usize, LlmError> {
        let (Work::Score(options), true) = (&self.work, self.length == self.tokens.len()) else { return Ok(0) };
        let fits = |group: &&Vec<usize>| group.len() <= most_options && group_tokens(options, group) <= most_rows;
        let Some(group) = self.groups.last().filter(fits).cloned() else { return Ok(0) };
        self.groups.pop();
        for _ in &group {
            let seq = self.open(free)?;
            backend.copy(self.seq, seq, 0, before)?;
        }
        for row in &mut rows[start..] {
            row.also.extend(&self.branches);
        }
        let count = group.len();
        let own = rows.len() - start;
        self.option_rows(&group, Sharing::Any, rows);
        self.joined = Some((group, own));
        Ok(count)
    }

    /// Takes a sequence for an option.
    fn open(&mut self, free: &mut Vec<Seq>) -> Result<Seq, LlmError> {
        let Some(seq) = free.pop() else { return Err(LlmError::Crashed("no sequence is free".to_owned())) };
        self.branches.push(seq);
        Ok(seq)
    }

    /// Rows of options behind the prompt, which their sequences hold. What several begin with is one row of all of them.
    fn option_rows(&mut self, group: &[usize], sharing: Sharing, rows: &mut Vec<Row>) {
        let Work::Score(options) = &self.work else { return };
        let first = rows.len();
        self.places.clear();
        for (option, seq) in group.iter().filter_map(|i| options.get(*i)).zip(self.branches.iter().copied()) {
            let mut places: Vec<usize> = Vec::with_capacity(option.len());
            let but_last = option.split_last().map_or(&[][..], |(_, rest)| rest);
            for (depth, token) in but_last.iter().enumerate() {
                // The row of an option before that is the same up to this token; a state that runs cannot be in two.
                let same = |other: &&Vec<usize>| other.get(..depth) == Some(&places[..]);
                let rows_there = self.places.iter().filter(same).filter_map(|other| other.get(depth).copied());
                let twin = rows_there.filter(|_| sharing != Sharing::None).find(|at| rows[first + at].token == *token);
                match twin {
                    Some(at) => rows[first + at].also.push(seq),
                    None => rows.push(Row { token: *token, position: self.length + depth, seq, also: Vec::new(), logits: true }),
                }
                places.push(twin.unwrap_or(rows.len() - 1 - first));
            }
            self.places.push(places);
        }
    }

    /// Gives the options' sequences back.
    pub fn end_branches<B: Backend>(&mut self, backend: &mut B, free: &mut Vec<Seq>) -> Result<(), LlmError> {
        for seq in self.branches.drain(..) {
            backend.remove(seq, 0, usize::MAX)?;
            free.push(seq);
        }
        Ok(())
    }

    /// Reads what the batch brought in the rows from `start` to before `end`. Returns the outcome when there is one. The
    /// options' sequences are not needed any more then.
    ///
    /// # Errors
    /// The request's own; the engine is well.
    pub fn read<B: Backend>(&mut self, backend: &B, start: usize, end: usize) -> Result<Option<Outcome>, LlmError> {
        match self.stage.clone() {
            Stage::Prompt if self.length < self.tokens.len() => Ok(None),
            Stage::Prompt => {
                let joined = self.joined.take();
                let options_at = joined.as_ref().map_or(end, |(_, own)| start + own);
                let outcome = self.first(backend.logits(options_at - 1))?;
                let Some((group, _)) = joined else { return Ok(outcome.or_else(|| self.next_group())) };
                self.read_group(backend, group, options_at, end);
                Ok(self.next_group())
            }
            Stage::Answer(_) => {
                self.length += 1;
                self.answer(backend.logits(start))
            }
            Stage::Options(group) => {
                self.read_group(backend, group, start, end);
                Ok(self.next_group())
            }
        }
    }

    /// Adds up what the rows from `start` to before `end` say of some options.
    fn read_group<B: Backend>(&mut self, backend: &B, group: Vec<usize>, start: usize, end: usize) {
        let Work::Score(options) = &self.work else { return };
        // Once a row: it goes over the whole vocabulary, and options share rows.
        let log_sums: Vec<f64> = (start..end).map(|row| log_sum(backend.logits(row))).collect();
        for (i, places) in group.into_iter().zip(&self.places) {
            for (next, row) in options.get(i).into_iter().flat_map(|o| o.iter().skip(1)).zip(places) {
                if let (Some(sum), Some(log_sum)) = (self.sums.get_mut(i), log_sums.get(*row)) {
                    *sum += logit(backend.logits(start + row), *next) - log_sum;
                }
            }
        }
        self.usage.prompt_tokens += (end - start) as u64;
    }

    /// What the prompt's last row says: the first token of an answer, or of each option.
    fn first(&mut self, logits: &[f32]) -> Result<Option<Outcome>, LlmError> {
        let Work::Score(options) = &self.work else { return self.answer(logits) };
        let first: Vec<Token> = options.iter().filter_map(|o| o.first().copied()).collect();
        self.sums = log_softmax(logits, &first);
        Ok(None)
    }

    fn next_group(&mut self) -> Option<Outcome> {
        let Work::Score(options) = &self.work else { return None };
        if let Some(group) = self.groups.pop() {
            self.stage = Stage::Options(group);
            return None;
        }
        Some(Outcome::Scores(self.sums.iter().zip(options).map(|(sum, option)| sum / option.len() as f64).collect()))
    }

    fn answer(&mut self, logits: &[f32]) -> Result<Option<Outcome>, LlmError> {
        let Work::Generate(most, pick) = &mut self.work else { return Ok(None) };
        match pick.next(logits)? {
            Next::End => Ok(Some(Outcome::Tokens(std::mem::take(&mut self.made), true))),
            Next::Nothing => Err(stuck(self.made.len())),
            Next::Token(token) => {
                self.usage.generated_tokens += 1;
                self.made.push(token);
                if self.made.len() >= *most || self.made.len() >= self.room {
                    return Ok(Some(Outcome::Tokens(std::mem::take(&mut self.made), false)));
                }
                self.stage = Stage::Answer(token);
                Ok(None)
            }
        }
    }
}

/// The end of an answer whose grammar has none.
pub fn stuck(made: usize) -> LlmError {
    LlmError::Invalid(format!("the grammar allows nothing after {made} tokens, not even the end"))
}

/// Options of more than one token, in groups that fit one batch.
pub fn groups<T>(options: &[Vec<T>], most_options: usize, most_tokens: usize) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut tokens = usize::MAX;
    for (i, option) in options.iter().enumerate().filter(|(_, o)| o.len() > 1) {
        let more = option.len() - 1;
        match groups.last_mut() {
            Some(group) if group.len() < most_options && tokens.saturating_add(more) <= most_tokens => {
                group.push(i);
                tokens += more;
            }
            _ => {
                groups.push(vec![i]);
                tokens = more;
            }
        }
    }
    groups
}

/// Tokens of a group that are evaluated: all but each option's last.
pub fn group_tokens(options: &[Vec<Token>], group: &[usize]) -> usize {
    group.iter().filter_map(|i| options.get(*i)).map(|o| o.len().saturating_sub(1)).sum()
}

/// Natural logarithms of the softmax probabilities of some tokens: logit less the log-sum-exp of the row.
pub fn log_softmax(row: &[f32], tokens: &[Token]) -> Vec<f64> {
    let log_sum = log_sum(row);
    tokens.iter().map(|t| logit(row, *t) - log_sum).collect()
}

fn log_sum(row: &[f32]) -> f64 {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|x| f64::from(x - top).exp()).sum();
    f64::from(top) + sum.ln()
}

fn logit(row: &[f32], token: Token) -> f64 {
    usize::try_from(token).ok().and_then(|i| row.get(i)).copied().map_or(f64::NAN, f64::from)
}
