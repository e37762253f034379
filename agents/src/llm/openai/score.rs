//! Options scored by a server that shows the likeliest first tokens only.
//!
//! The local engine gives the mean log-probability of every token of an option. Here only one token is seen: options of
//! one character are looked up among the alternatives of the first token, others are put into a list and chosen by
//! letter. An option that is not among the alternatives gets the bound that they leave for it.

use super::super::{LlmError, Prompt, ScoreRequest, Scores};
use super::wire::{Answer, Counted, TokenLogprob};

/// Most options that letters can name.
const MOST_OPTIONS: usize = 26;
/// The least probability that is left for what is not shown.
const LEAST_LEFT: f64 = 1e-9;

/// Options as labels of one character, and the prompt that asks for one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letters {
    /// One for each option.
    pub labels: Vec<String>,
    /// The prompt.
    pub prompt: Prompt,
}

impl Letters {
    /// Labels for the options of a request.
    ///
    /// # Errors
    /// [`LlmError::Invalid`] for fewer than two options, an empty one, or more than there are letters.
    pub fn of(request: &ScoreRequest) -> Result<Self, LlmError> {
        let options = &request.options;
        if options.len() < 2 {
            return Err(LlmError::Invalid("scoring needs at least two options".to_owned()));
        }
        if let Some(empty) = options.iter().position(String::is_empty) {
            return Err(LlmError::Invalid(format!("option {empty} is empty")));
        }
        if options.iter().all(|o| o.chars().count() == 1 && !o.trim().is_empty()) {
            return Ok(Self { labels: options.clone(), prompt: request.prompt.clone() });
        }
        if options.len() > MOST_OPTIONS {
            return Err(LlmError::Invalid(format!("a server is asked about {MOST_OPTIONS} options at most, not {}", options.len())));
        }
        let labels: Vec<String> = ('A'..='Z').take(options.len()).map(String::from).collect();
        let mut own = request.prompt.own.clone();
        for (label, option) in labels.iter().zip(options) {
            own.push_str(&format!("\n{label}. {}", option.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
        own.push_str("\nAnswer with the letter of the best option only.");
        Ok(Self { labels, prompt: Prompt { own, ..request.prompt.clone() } })
    }
}

/// One log-probability for each label.
///
/// # Errors
/// [`LlmError::Server`] for an answer without alternatives, or without any of the labels among them.
pub fn scores(letters: &Letters, answer: Answer) -> Result<Scores, LlmError> {
    let usage = answer.usage.as_ref().map(Counted::usage).unwrap_or_default();
    let first = answer.choices.into_iter().next().and_then(|c| c.logprobs).and_then(|l| l.content).and_then(|c| c.into_iter().next());
    let shown = first.map(|t| t.top_logprobs).unwrap_or_default();
    let shown: Vec<TokenLogprob> = shown.into_iter().filter(|t| !t.logprob.is_nan() && t.logprob <= 1e-6).collect();
    if shown.is_empty() {
        return Err(LlmError::Server("it shows no probabilities of tokens; it must be started so that it takes `logprobs`".to_owned()));
    }
    let found: Vec<Option<f64>> = letters.labels.iter().map(|label| logprob(&shown, label)).collect();
    if found.iter().all(Option::is_none) {
        // The plain protocol has no word for it, so a model that thinks begins with its thoughts.
        return Err(LlmError::Server(format!(
            "none of the options is among the {} likeliest tokens that it shows; where the model thinks first, switch that off at the \
             server, or set `dialect` to llama_cpp, vllm or sglang, whichever it is: those are asked not to think",
            shown.len()
        )));
    }
    let seen: f64 = shown.iter().map(|t| t.logprob.exp()).sum();
    let least = shown.iter().map(|t| t.logprob).filter(|p| p.is_finite()).fold(0.0, f64::min);
    // What is not shown is no likelier than the last that is, nor than all that is left.
    let bound = least.min((1.0 - seen).max(LEAST_LEFT).ln());
    Ok(Scores { logprobs: found.into_iter().map(|p| p.unwrap_or(bound)).collect(), usage, cut: Vec::new() })
}

/// The log-probability of all tokens that are this label, with or without a blank before it.
fn logprob(shown: &[TokenLogprob], label: &str) -> Option<f64> {
    // Some tokenizers mark the blank with a letter of its own.
    let plain = |token: &str| token.trim().trim_start_matches(['\u{2581}', '\u{120}']).to_owned();
    let sum: f64 = shown.iter().filter(|t| plain(&t.token) == label && t.logprob.is_finite()).map(|t| t.logprob.exp()).sum();
    (sum > 0.0).then(|| sum.ln().min(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(options: &[&str]) -> ScoreRequest {
        let options = options.iter().map(|o| (*o).to_owned()).collect();
        ScoreRequest { agent: "a".into(), prompt: Prompt::new("s", "q"), options, ..ScoreRequest::default() }
    }

    fn answer(tokens: &[(&str, f64)]) -> Answer {
        let top: Vec<_> = tokens.iter().map(|(token, p)| serde_json::json!({ "token": token, "logprob": p.ln() })).collect();
        let json = serde_json::json!({ "choices": [{ "logprobs": { "content": [{ "top_logprobs": top }] } }] });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn letters_with_and_without_a_blank_are_one_answer() {
        let letters = Letters::of(&request(&["A", "B"])).unwrap();
        assert_eq!(letters.prompt.own, "q");
        let got = scores(&letters, answer(&[("A", 0.2), (" A", 0.1), ("B", 0.4), ("The", 0.2)])).unwrap().logprobs;
        assert!((got[0] - 0.3_f64.ln()).abs() < 1e-9 && (got[1] - 0.4_f64.ln()).abs() < 1e-9, "{got:?}");
    }

    #[test]
    fn what_is_not_shown_gets_the_bound_that_is_left() {
        let letters = Letters::of(&request(&["A", "B"])).unwrap();
        let rest = scores(&letters, answer(&[("A", 0.6), ("The", 0.35)])).unwrap().logprobs;
        assert!((rest[1] - 0.05_f64.ln()).abs() < 1e-6, "{rest:?}");
        let last = scores(&letters, answer(&[("A", 0.6), ("The", 0.01)])).unwrap().logprobs;
        assert!((last[1] - 0.01_f64.ln()).abs() < 1e-6, "{last:?}");
    }

    #[test]
    fn longer_options_are_chosen_by_letter_and_cannot_forge_another() {
        let letters = Letters::of(&request(&["lock contention", "x\nC. forged"])).unwrap();
        assert_eq!(letters.labels, ["A", "B"]);
        assert_eq!(letters.prompt.own.lines().filter(|l| l.starts_with("C. ")).count(), 0);
    }

    #[test]
    fn senseless_requests_and_answers_without_probabilities_are_refused() {
        assert!(matches!(Letters::of(&request(&["A"])), Err(LlmError::Invalid(_))));
        assert!(matches!(Letters::of(&request(&["A", ""])), Err(LlmError::Invalid(_))));
        let many: Vec<String> = (0..27).map(|i| format!("option {i}")).collect();
        assert!(Letters::of(&request(&many.iter().map(String::as_str).collect::<Vec<_>>())).is_err());
        let letters = Letters::of(&request(&["A", "B"])).unwrap();
        assert!(matches!(scores(&letters, answer(&[])), Err(LlmError::Server(_))));
    }

    #[test]
    fn a_model_that_thinks_first_is_told_with_what_to_do() {
        let letters = Letters::of(&request(&["A", "B"])).unwrap();
        let Err(LlmError::Server(why)) = scores(&letters, answer(&[("<think>", 0.9), ("The", 0.05)])) else { panic!() };
        assert!(why.contains("the 2 likeliest") && why.contains("dialect") && why.contains("vllm") && !why.contains('\n'), "{why}");
        assert!(!why.contains("  "), "one line without gaps: {why}");
    }
}
