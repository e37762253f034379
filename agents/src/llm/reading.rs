//! A request in tokens, and tokens as text: what both ways of working ask of a model's vocabulary and template.

use std::ops::Not;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use super::batched::{GROUP_TOKENS, Next, Pick};
use super::template::{Chat, Tokens};
use super::{GenerateRequest, LlmError, Prompt, ScoreRequest, grammar, schema};

/// Logits compared at a time.
const LANES: usize = 16;
/// Tokens asked about together once the favourite is forbidden.
const FEW: usize = 64;

/// Reads requests for a model.
#[derive(Debug)]
pub struct Reader<'m> {
    model: &'m LlamaModel,
    chat: Chat<'m>,
    limit: usize,
    /// Whether it goes on with a text, and not only turns one into a vector.
    writes: bool,
}

/// Greedy choice, under a grammar when there is one.
pub struct Greedy<'m> {
    model: &'m LlamaModel,
    grammar: Option<LlamaSampler>,
}

impl<'m> Reader<'m> {
    /// A reader of prompts up to `limit` tokens.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] when the template does not render.
    pub fn new(model: &'m LlamaModel, limit: usize) -> Result<Self, LlmError> {
        Ok(Self { model, chat: Chat::new(model)?, limit, writes: writes(model) })
    }

    /// The prompt and the options of a request to score.
    ///
    /// # Errors
    /// [`LlmError::Invalid`] for fewer than two options or an empty one, [`LlmError::TooLong`].
    pub fn score(&self, request: &ScoreRequest) -> Result<(Tokens, Vec<Vec<LlamaToken>>), LlmError> {
        self.writes()?;
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
        Ok((self.fitted(&request.prompt, if several { GROUP_TOKENS } else { 0 })?, options))
    }

    /// The prompt of a request for text, who chooses its tokens, and how many at most.
    ///
    /// # Errors
    /// [`LlmError::Invalid`] for a bad grammar or schema or no tokens to generate, [`LlmError::TooLong`].
    pub fn generate(&self, request: &GenerateRequest) -> Result<(Tokens, Greedy<'m>, usize), LlmError> {
        self.writes()?;
        if request.max_tokens == 0 {
            return Err(LlmError::Invalid("max_tokens is 0".to_owned()));
        }
        let refuse = |e: &dyn std::fmt::Display| LlmError::Invalid(format!("the grammar is not usable: {e}"));
        let text = match (&request.grammar, &request.schema) {
            (Some(_), Some(_)) => return Err(LlmError::Invalid("an answer obeys a grammar or a schema, not both".to_owned())),
            (None, Some(schema)) => Some(schema::grammar(schema)?),
            (grammar, None) => grammar.clone(),
        };
        text.as_deref().map_or(Ok(()), |text| grammar::readable(text).map(drop)).map_err(|e| refuse(&e))?;
        let grammar = text.as_deref().map(|text| LlamaSampler::grammar(self.model, text, "root"));
        let grammar = grammar.transpose().map_err(|e| refuse(&e))?;
        let most = usize::try_from(request.max_tokens).unwrap_or(usize::MAX);
        // Sections make way for the whole answer, as far as that is not longer than half of the context.
        let room = if request.prompt.sections.is_empty() { 1 } else { most.min(self.limit / 2).max(1) };
        let tokens = match self.fitted(&request.prompt, room) {
            // Without any section as one that never had some.
            Err(LlmError::TooLong { .. }) if room > 1 => self.fitted(&request.prompt, 1)?,
            fitted => fitted?,
        };
        Ok((tokens, Greedy { model: self.model, grammar }, most))
    }

    fn writes(&self) -> Result<(), LlmError> {
        if self.writes {
            Ok(())
        } else {
            Err(LlmError::Invalid("this model only turns texts into vectors or ranks; it answers nothing".to_owned()))
        }
    }

    /// Text of tokens; a character cut in half at the end is left out.
    pub fn text(&self, tokens: &[LlamaToken]) -> String {
        let vocab = self.model.vocab();
        whole_text(tokens.iter().flat_map(|t| vocab.token_to_piece(*t, false, None)).collect())
    }

    /// The prompt in tokens, without the sections that leave no place for `room` more.
    fn fitted(&self, prompt: &Prompt, room: usize) -> Result<Tokens, LlmError> {
        let (tokens, cut) = prompt.fitted(|plain| self.tokens(plain, room))?;
        Ok(Tokens { cut, ..tokens })
    }

    /// The prompt in tokens, if it fits with `room` more.
    fn tokens(&self, prompt: &Prompt, room: usize) -> Result<Tokens, LlmError> {
        let limit = self.limit;
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
}

impl Pick for Greedy<'_> {
    fn next(&mut self, logits: &[f32]) -> Result<Next, LlmError> {
        let token = match &mut self.grammar {
            Some(grammar) => under(grammar, logits)?,
            None => best(logits),
        };
        Ok(match token {
            None => Next::Nothing,
            Some(token) if self.model.vocab().is_eog(token) => Next::End,
            Some(token) => Next::Token(token.0),
        })
    }
}

/// The likeliest token that the grammar allows; none when it allows nothing.
fn under(grammar: &mut LlamaSampler, row: &[f32]) -> Result<Option<LlamaToken>, LlmError> {
    let Some(favourite) = best(row) else {
        return Ok(None);
    };
    let data = |i: i32, logit: f32| LlamaTokenData::new(LlamaToken(i), logit, 0.0);
    // Most of the time the favourite is allowed, else one of the next; asking for a few is far cheaper than for all.
    let token = allowed(grammar, vec![data(favourite.0, 0.0)])
        .or_else(|| allowed(grammar, likeliest(row, FEW).into_iter().map(|(i, logit)| data(i, logit)).collect()))
        .or_else(|| allowed(grammar, (0_i32..).zip(row).map(|(i, logit)| data(i, *logit)).collect()));
    if let Some(token) = token {
        grammar.try_accept(token).map_err(|e| LlmError::Invalid(format!("the grammar got stuck: {e}")))?;
    }
    Ok(token)
}

fn allowed(grammar: &mut LlamaSampler, candidates: Vec<LlamaTokenData>) -> Option<LlamaToken> {
    let mut array = LlamaTokenDataArray::new(candidates, false);
    array.apply_sampler(grammar);
    let mut best: Option<&LlamaTokenData> = None;
    for candidate in array.data.iter().filter(|c| c.logit().is_finite()) {
        if best.is_none_or(|b| candidate.logit() > b.logit()) {
            best = Some(candidate);
        }
    }
    best.map(LlamaTokenData::id)
}

/// Whether a model goes on with a text. llama.cpp gives the others no cache, and logits that mean nothing.
fn writes(model: &LlamaModel) -> bool {
    let architecture = model.meta_val_str("general.architecture").unwrap_or_default();
    let has = |key: &str| model.meta_val_str(&format!("{architecture}.{key}"));
    // Encoders, and models that fill in a whole text at once, by their names in llama.cpp.
    let other = ["bert", "t5", "dream", "llada", "rnd1"].iter().any(|name| architecture.contains(name));
    !other && has("attention.causal").is_ok_and(|causal| causal == "false").not() && has("pooling_type").is_err()
}

/// The likeliest token, the first of equals.
fn best(row: &[f32]) -> Option<LlamaToken> {
    // Lanes that do not wait for each other, and no branch: the compiler takes many at a time.
    let mut tops = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (top, x) in tops.iter_mut().zip(chunk) {
            *top = if *x > *top && *x < f32::INFINITY { *x } else { *top };
        }
    }
    let finite = |x: &&f32| x.is_finite();
    let top = tops.iter().chain(rest).filter(finite).copied().reduce(f32::max)?;
    let before = chunks.iter().position(|chunk| chunk.contains(&top)).unwrap_or(chunks.len()) * LANES;
    let place = before + row.get(before..)?.iter().position(|x| *x == top)?;
    i32::try_from(place).ok().map(LlamaToken)
}

/// The likeliest tokens with their logits in the order of the vocabulary; of equals the first.
fn likeliest(row: &[f32], most: usize) -> Vec<(i32, f32)> {
    let mut tops: Vec<(i32, f32)> = Vec::with_capacity(most + 1);
    let mut least = f32::NEG_INFINITY;
    for (i, logit) in (0_i32..).zip(row).filter(|(_, x)| x.is_finite()) {
        if *logit > least || tops.len() < most {
            tops.insert(tops.partition_point(|(_, x)| x >= logit), (i, *logit));
            tops.truncate(most);
            least = tops.last().map_or(least, |(_, x)| *x);
        }
    }
    tops.sort_unstable_by_key(|(i, _)| *i);
    tops
}

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
    fn the_likeliest_tokens_are_those_that_sorting_gives() {
        let row: Vec<f32> = (0..500_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as f32).chain([f32::NAN, f32::INFINITY]).collect();
        let mut all: Vec<(i32, f32)> = (0..).zip(row.iter().copied()).filter(|(_, x)| x.is_finite()).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        for most in [1, 7, 64, 600] {
            let mut first = all.clone();
            first.truncate(most);
            first.sort_unstable_by_key(|(i, _)| *i);
            assert_eq!(likeliest(&row, most), first);
        }
    }

    #[test]
    fn the_best_token_is_the_first_of_the_likeliest_and_a_number() {
        assert_eq!(best(&[1.0, f32::NAN, 3.0, 3.0, f32::NEG_INFINITY]), Some(LlamaToken(2)));
        assert_eq!(best(&[f32::NAN, f32::NEG_INFINITY]), None);
        assert_eq!(best(&[]), None);
        for at in 0..70 {
            let mut row: Vec<f32> = (0..70).map(|i| -(i as f32)).collect();
            (row[at], row[69 - at / 2]) = (5.0, 5.0);
            row[(at + 7) % 70] = f32::INFINITY;
            let first = row.iter().position(|x| *x == 5.0).and_then(|i| i32::try_from(i).ok());
            assert_eq!(best(&row).map(|t| t.0), first, "{at}");
        }
    }
}
