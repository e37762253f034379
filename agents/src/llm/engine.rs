//! The exact way of working: one request at a time over the lanes, so that an answer is a function of the request
//! alone, to the bit. Runs only inside the model's own process.

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use super::adapters::Adapters;
use super::batched::{GROUP_TOKENS, Next, Pick, groups, log_softmax, stuck};
use super::lane::{Lane, LaneConfig, MOST_OPTIONS, Stop};
use super::offload::Offload;
use super::reading::{Greedy, Reader};
use super::template::Tokens;
use super::{GenerateRequest, Generated, LlmError, ScoreRequest, Scores, Usage};

/// Prompts with a prefix up to this many tokens go to the short lane.
const SHORT_PREFIX: usize = 128;
/// Context of the short lane in tokens.
pub(super) const SHORT_CONTEXT: u32 = 1_024;
/// Tokens that it evaluates at a time.
pub(super) const SHORT_CHUNK: u32 = 256;

/// A model ready to work. Prompts with a short prefix (a null prompt, say) have a lane of their own, so that they
/// never push the long prefix of a diagnosis out of the other.
#[derive(Debug)]
pub struct Engine<'m> {
    reader: Reader<'m>,
    long: Lane<'m>,
    short: Lane<'m>,
}

impl<'m> Engine<'m> {
    /// Makes the lanes; `context` is cut to what the model was trained for.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] when there is not enough memory or the template does not render.
    pub fn new(backend: &LlamaBackend, model: &'m LlamaModel, context: u32, threads: i32, offload: Offload) -> Result<Self, LlmError> {
        let context = context.min(model.n_ctx_train().max(256)).max(256);
        let long = Lane::new(backend, model, LaneConfig { context, chunk: 512, threads, offload })?;
        let short = LaneConfig { context: context.min(SHORT_CONTEXT), chunk: SHORT_CHUNK, threads, offload };
        Ok(Self { reader: Reader::new(model, long.limit())?, long, short: Lane::new(backend, model, short)? })
    }

    /// Tokens that fit.
    pub fn limit(&self) -> usize {
        self.long.limit()
    }

    /// Scores the options: one mean log-probability per token each. `usage` is counted also where nothing comes of it.
    ///
    /// # Errors
    /// As [`Reader::score`]; [`LlmError::Crashed`] when llama.cpp cannot go on.
    pub fn score(&mut self, request: &ScoreRequest, usage: &mut Usage, stop: Stop<'_>) -> Result<Scores, LlmError> {
        let (tokens, options) = self.reader.score(request)?;
        let lane = self.lane(&tokens, GROUP_TOKENS);
        let scored = score_in(lane, &tokens, &options, usage, stop);
        lane.release(scored.is_ok());
        Scores::checked(scored?, *usage, tokens.cut)
    }

    /// Generates greedily, under the grammar when there is one.
    ///
    /// # Errors
    /// As [`Reader::generate`]; [`LlmError::Invalid`] when the grammar allows nothing; [`LlmError::Crashed`] when llama.cpp
    /// cannot go on.
    pub fn generate(&mut self, request: &GenerateRequest, usage: &mut Usage, stop: Stop<'_>) -> Result<Generated, LlmError> {
        let (tokens, pick, most) = self.reader.generate(request)?;
        let lane = self.lane(&tokens, most);
        let done = generate_in(lane, pick, &tokens, most, usage, stop);
        lane.release(done.is_ok());
        let (made, finished) = done?;
        Ok(Generated { text: self.reader.text(&made), finished, usage: *usage, cut: tokens.cut })
    }

    /// Changes to an adapter, or to none.
    ///
    /// # Errors
    /// As [`Adapters::set`].
    pub fn adapt(&mut self, adapters: &mut Adapters, name: Option<&str>) -> Result<(), LlmError> {
        self.long.adapt(adapters, name)?;
        self.short.adapt(adapters, name)
    }

    /// The lane is a function of the request alone, so that answers do not depend on what came before.
    fn lane(&mut self, tokens: &Tokens, room: usize) -> &mut Lane<'m> {
        let total = (tokens.shared.len() + tokens.own.len()).saturating_add(room);
        let short = tokens.shared.len() <= SHORT_PREFIX && total <= self.short.limit();
        if short { &mut self.short } else { &mut self.long }
    }
}

fn score_in(
    lane: &mut Lane<'_>,
    tokens: &Tokens,
    options: &[Vec<LlamaToken>],
    usage: &mut Usage,
    stop: Stop<'_>,
) -> Result<Vec<f64>, LlmError> {
    let row = lane.prompt(tokens, usage, stop)?;
    let first: Vec<i32> = options.iter().filter_map(|o| o.first().map(|t| t.0)).collect();
    let mut sums = log_softmax(lane.logits(row), &first);
    let prompt = tokens.shared.len() + tokens.own.len();
    for group in groups(options, MOST_OPTIONS, GROUP_TOKENS.min(lane.chunk())) {
        let branches: Vec<&[LlamaToken]> = group.iter().filter_map(|i| options.get(*i)?.split_last().map(|(_, rest)| rest)).collect();
        lane.branches(&branches, prompt, stop)?;
        let mut row = 0;
        for i in group {
            let (Some(option), Some(sum)) = (options.get(i), sums.get_mut(i)) else {
                continue;
            };
            for next in option.iter().skip(1) {
                *sum += log_softmax(lane.logits(row), &[next.0]).first().copied().unwrap_or(f64::NAN);
                row += 1;
                usage.prompt_tokens += 1;
            }
        }
    }
    Ok(sums.iter().zip(options).map(|(sum, option)| sum / option.len() as f64).collect())
}

fn generate_in(
    lane: &mut Lane<'_>,
    mut pick: Greedy<'_>,
    tokens: &Tokens,
    most: usize,
    usage: &mut Usage,
    stop: Stop<'_>,
) -> Result<(Vec<LlamaToken>, bool), LlmError> {
    let mut row = lane.prompt(tokens, usage, stop)?;
    let prompt = tokens.shared.len() + tokens.own.len();
    let mut made = Vec::new();
    loop {
        let token = match pick.next(lane.logits(row))? {
            Next::Token(token) => LlamaToken(token),
            Next::End => return Ok((made, true)),
            Next::Nothing => return Err(stuck(made.len())),
        };
        usage.generated_tokens += 1;
        let position = prompt + made.len();
        made.push(token);
        if made.len() == most || position >= lane.limit() {
            return Ok((made, false));
        }
        row = lane.append(token, position, stop)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_softmax_gives_probabilities() {
        let row = [1.0_f32, 2.0, 3.0, -50.0];
        let sum: f64 = log_softmax(&row, &[0, 1, 2, 3]).iter().map(|p| p.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-9);
        assert!(log_softmax(&row, &[9])[0].is_nan());
    }

    #[test]
    fn groups_hold_every_long_option_once_and_stay_small() {
        let options: Vec<Vec<LlamaToken>> = (1..60).map(|n| vec![LlamaToken(0); n % 20 + 1]).collect();
        let groups = groups(&options, MOST_OPTIONS, 64);
        let mut seen: Vec<usize> = groups.iter().flatten().copied().collect();
        seen.sort_unstable();
        let long: Vec<usize> = (0..options.len()).filter(|i| options[*i].len() > 1).collect();
        assert_eq!(seen, long);
        for group in groups {
            assert!(group.len() <= MOST_OPTIONS);
            assert!(group.iter().map(|i| options[*i].len() - 1).sum::<usize>() <= 64);
        }
    }
}
