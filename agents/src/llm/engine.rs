//! Scores options and generates text over the lanes. Runs only inside the model's own process.

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use super::lane::{Lane, LaneConfig, MOST_OPTIONS, Stop};
use super::offload::Offload;
use super::template::{Chat, Tokens};
use super::{GenerateRequest, Generated, LlmError, Prompt, ScoreRequest, Scores, Usage};

/// Prompts with a prefix up to this many tokens go to the short lane.
const SHORT_PREFIX: usize = 128;
/// Context of the short lane in tokens.
const SHORT_CONTEXT: u32 = 1_024;
/// Most option tokens evaluated together: each needs a row of logits as long as the vocabulary.
const GROUP_TOKENS: usize = 128;

/// A model ready to work. Prompts with a short prefix (a null prompt, say) have a lane of their own, so that they
/// never push the long prefix of a diagnosis out of the other.
#[derive(Debug)]
pub struct Engine<'m> {
    model: &'m LlamaModel,
    chat: Chat<'m>,
    long: Lane<'m>,
    short: Lane<'m>,
}

/// A grammar and the sampler that holds its state.
struct Grammar(LlamaSampler);

impl<'m> Engine<'m> {
    /// Makes the lanes; `context` is cut to what the model was trained for.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] when there is not enough memory or the template does not render.
    pub fn new(backend: &LlamaBackend, model: &'m LlamaModel, context: u32, threads: i32, offload: Offload) -> Result<Self, LlmError> {
        let context = context.min(model.n_ctx_train().max(256)).max(256);
        let long = Lane::new(backend, model, LaneConfig { context, chunk: 512, threads, offload })?;
        let short = LaneConfig { context: context.min(SHORT_CONTEXT), chunk: 256, threads, offload };
        Ok(Self { model, chat: Chat::new(model)?, long, short: Lane::new(backend, model, short)? })
    }

    /// Tokens that fit.
    pub fn limit(&self) -> usize {
        self.long.limit()
    }

    /// Scores the options: one mean log-probability per token each.
    ///
    /// # Errors
    /// [`LlmError::Invalid`] for fewer than two options or an empty one, [`LlmError::TooLong`].
    pub fn score(&mut self, request: &ScoreRequest, stop: Stop<'_>) -> Result<Scores, LlmError> {
        if request.options.len() < 2 {
            return Err(LlmError::Invalid("scoring needs at least two options".to_owned()));
        }
        let options: Vec<Vec<LlamaToken>> = request.options.iter().map(|o| self.chat.data(o)).collect();
        if let Some(empty) = options.iter().position(Vec::is_empty) {
            return Err(LlmError::Invalid(format!("option {empty} is empty")));
        }
        let longest = options.iter().map(Vec::len).max().unwrap_or(0);
        if longest > GROUP_TOKENS {
            return Err(LlmError::TooLong { tokens: longest as u64, limit: GROUP_TOKENS as u64 });
        }
        let several = options.iter().any(|o| o.len() > 1);
        let tokens = self.tokens(&request.prompt, if several { GROUP_TOKENS } else { 0 })?;
        let lane = self.lane(&tokens, GROUP_TOKENS);
        let mut usage = Usage::default();
        let scored = score_in(lane, &tokens, &options, &mut usage, stop);
        lane.release(scored.is_ok());
        let logprobs = scored?;
        if logprobs.iter().any(|p| !p.is_finite()) {
            return Err(LlmError::Crashed("the model gave no number".to_owned()));
        }
        Ok(Scores { logprobs, usage })
    }

    /// Generates greedily, under the grammar when there is one.
    ///
    /// # Errors
    /// [`LlmError::Invalid`] for a bad grammar or no tokens to generate, [`LlmError::TooLong`].
    pub fn generate(&mut self, request: &GenerateRequest, stop: Stop<'_>) -> Result<Generated, LlmError> {
        if request.max_tokens == 0 {
            return Err(LlmError::Invalid("max_tokens is 0".to_owned()));
        }
        let grammar = request.grammar.as_deref().map(|text| Grammar::new(self.model, text)).transpose()?;
        let tokens = self.tokens(&request.prompt, 1)?;
        let most = usize::try_from(request.max_tokens).unwrap_or(usize::MAX);
        let model = self.model;
        let lane = self.lane(&tokens, most);
        let mut usage = Usage::default();
        let done = generate_in(lane, model, &tokens, grammar, most, &mut usage, stop);
        lane.release(done.is_ok());
        let (bytes, finished) = done?;
        Ok(Generated { text: whole_text(bytes), finished, usage })
    }

    /// The prompt in tokens, if it fits with `room` more.
    fn tokens(&self, prompt: &Prompt, room: usize) -> Result<Tokens, LlmError> {
        let limit = self.long.limit();
        let bytes = prompt.shared.len().saturating_add(prompt.own.len());
        // No tokenizer makes fewer tokens than this of real text; a monstrous text is not worth tokenising.
        if bytes / 32 > limit {
            return Err(LlmError::TooLong { tokens: (bytes / 4) as u64, limit: limit as u64 });
        }
        let tokens = self.chat.tokens(prompt);
        let total = tokens.shared.len() + tokens.own.len();
        if tokens.own.is_empty() {
            return Err(LlmError::Invalid("the prompt is empty".to_owned()));
        }
        if total + room > limit {
            return Err(LlmError::TooLong { tokens: total as u64, limit: limit.saturating_sub(room) as u64 });
        }
        Ok(tokens)
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
    let first: Vec<LlamaToken> = options.iter().filter_map(|o| o.first().copied()).collect();
    let mut sums = log_softmax(lane.logits(row), &first);
    let prompt = tokens.shared.len() + tokens.own.len();
    for group in groups(options, GROUP_TOKENS.min(lane.chunk())) {
        let branches: Vec<&[LlamaToken]> = group.iter().filter_map(|i| options.get(*i)?.split_last().map(|(_, rest)| rest)).collect();
        lane.branches(&branches, prompt, stop)?;
        let mut row = 0;
        for i in group {
            let (Some(option), Some(sum)) = (options.get(i), sums.get_mut(i)) else {
                continue;
            };
            for next in option.iter().skip(1) {
                *sum += log_softmax(lane.logits(row), &[*next]).first().copied().unwrap_or(f64::NAN);
                row += 1;
                usage.prompt_tokens += 1;
            }
        }
    }
    Ok(sums.iter().zip(options).map(|(sum, option)| sum / option.len() as f64).collect())
}

/// Options of more than one token, in groups that fit one batch.
fn groups(options: &[Vec<LlamaToken>], most: usize) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut tokens = usize::MAX;
    for (i, option) in options.iter().enumerate().filter(|(_, o)| o.len() > 1) {
        let more = option.len() - 1;
        match groups.last_mut() {
            Some(group) if group.len() < MOST_OPTIONS && tokens.saturating_add(more) <= most => {
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

/// Natural logarithms of the softmax probabilities of some tokens: logit less the log-sum-exp of the row.
fn log_softmax(row: &[f32], tokens: &[LlamaToken]) -> Vec<f64> {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|x| f64::from(x - top).exp()).sum();
    let log_sum = f64::from(top) + sum.ln();
    let logit = |t: &LlamaToken| usize::try_from(t.0).ok().and_then(|i| row.get(i)).copied().map_or(f64::NAN, f64::from);
    tokens.iter().map(|t| logit(t) - log_sum).collect()
}

fn generate_in(
    lane: &mut Lane<'_>,
    model: &LlamaModel,
    tokens: &Tokens,
    mut grammar: Option<Grammar>,
    most: usize,
    usage: &mut Usage,
    stop: Stop<'_>,
) -> Result<(Vec<u8>, bool), LlmError> {
    let vocab = model.vocab();
    let mut row = lane.prompt(tokens, usage, stop)?;
    let prompt = tokens.shared.len() + tokens.own.len();
    let mut bytes = Vec::new();
    for made in 1..=most {
        let token = match &mut grammar {
            Some(grammar) => grammar.next(lane.logits(row))?,
            None => best(lane.logits(row)),
        };
        let Some(token) = token else {
            return Ok((bytes, false));
        };
        if vocab.is_eog(token) {
            return Ok((bytes, true));
        }
        usage.generated_tokens += 1;
        bytes.extend(vocab.token_to_piece(token, false, None));
        let position = prompt + made - 1;
        if made == most || position >= lane.limit() {
            break;
        }
        row = lane.append(token, position, stop)?;
    }
    Ok((bytes, false))
}

/// The likeliest token, the first of equals.
fn best(row: &[f32]) -> Option<LlamaToken> {
    let mut best: Option<(usize, f32)> = None;
    for (i, logit) in row.iter().enumerate() {
        if logit.is_finite() && best.is_none_or(|(_, top)| *logit > top) {
            best = Some((i, *logit));
        }
    }
    best.and_then(|(i, _)| i32::try_from(i).ok()).map(LlamaToken)
}

impl Grammar {
    fn new(model: &LlamaModel, text: &str) -> Result<Self, LlmError> {
        let refuse = |e: &dyn std::fmt::Display| LlmError::Invalid(format!("the grammar is not usable: {e}"));
        LlamaSampler::grammar(model, text, "root").map(Self).map_err(|e| refuse(&e))
    }

    /// The likeliest token that the grammar allows; none when it allows nothing.
    fn next(&mut self, row: &[f32]) -> Result<Option<LlamaToken>, LlmError> {
        let Some(favourite) = best(row) else {
            return Ok(None);
        };
        let data = |i: i32, logit: f32| LlamaTokenData::new(LlamaToken(i), logit, 0.0);
        // Most of the time the favourite is allowed, and asking for one token is far cheaper than for all.
        let token = match self.allowed(vec![data(favourite.0, 0.0)]) {
            Some(token) => Some(token),
            None => self.allowed((0_i32..).zip(row).map(|(i, logit)| data(i, *logit)).collect()),
        };
        if let Some(token) = token {
            self.0.try_accept(token).map_err(|e| LlmError::Invalid(format!("the grammar got stuck: {e}")))?;
        }
        Ok(token)
    }

    fn allowed(&mut self, candidates: Vec<LlamaTokenData>) -> Option<LlamaToken> {
        let mut array = LlamaTokenDataArray::new(candidates, false);
        array.apply_sampler(&mut self.0);
        let mut best: Option<&LlamaTokenData> = None;
        for candidate in array.data.iter().filter(|c| c.logit().is_finite()) {
            if best.is_none_or(|b| candidate.logit() > b.logit()) {
                best = Some(candidate);
            }
        }
        best.map(LlamaTokenData::id)
    }
}

/// Text of the bytes; a character cut in half at the end is left out.
fn whole_text(mut bytes: Vec<u8>) -> String {
    if let Err(e) = std::str::from_utf8(&bytes)
        && e.error_len().is_none()
    {
        bytes.truncate(e.valid_up_to());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_character_at_the_end_is_left_out() {
        assert_eq!(whole_text("grün".as_bytes().to_vec()), "grün");
        assert_eq!(whole_text("grü".as_bytes()[..3].to_vec()), "gr");
        assert_eq!(whole_text("日本".as_bytes()[..5].to_vec()), "日");
    }

    #[test]
    fn log_softmax_gives_probabilities() {
        let row = [1.0_f32, 2.0, 3.0, -50.0];
        let all: Vec<LlamaToken> = (0..4).map(LlamaToken).collect();
        let sum: f64 = log_softmax(&row, &all).iter().map(|p| p.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-9);
        assert!(log_softmax(&row, &[LlamaToken(9)])[0].is_nan());
    }

    #[test]
    fn groups_hold_every_long_option_once_and_stay_small() {
        let options: Vec<Vec<LlamaToken>> = (1..60).map(|n| vec![LlamaToken(0); n % 20 + 1]).collect();
        let groups = groups(&options, 64);
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
