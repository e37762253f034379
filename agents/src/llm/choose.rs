//! One multiple-choice question, asked so that neither the order of the options nor the model's taste for a letter
//! decides: two rotations, each less what the model answers when it is told nothing.

use super::skill::{debias, softmax};
use super::{LlmError, Prompt, Provider, ScoreRequest, Scores, Section, Usage};

/// Most characters of an option that are shown.
const LONGEST_OPTION: usize = 300;
/// The common part of every null prompt: the same form, no content.
const NULL_SHARED: &str = "You are an experienced PostgreSQL administrator. Evidence: N/A";
const NULL_QUESTION: &str = "N/A";

/// What a model answers about options, in each of the two orders, when it is told nothing. It depends on the options
/// alone: one serves all questions about them.
#[derive(Debug, Clone, PartialEq)]
pub struct Prior {
    untold: Vec<Vec<f64>>,
    /// What it cost.
    pub usage: Usage,
}

/// What questions have in common: a text, and sections behind it that may be left out where the context is too short.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shared {
    /// Evaluated once.
    pub text: String,
    /// As [`Prompt::sections`].
    pub sections: Vec<Section>,
}

impl From<&str> for Shared {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), sections: Vec::new() }
    }
}

impl From<&String> for Shared {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

/// The places at which the two orders begin.
fn shifts(count: usize) -> [usize; 2] {
    [0, count.div_ceil(2)]
}

/// Asks for the prior of some options.
///
/// # Errors
/// As [`choose`].
pub async fn prior(provider: &dyn Provider, agent: &str, options: &[String]) -> Result<Prior, LlmError> {
    let count = options.len();
    if !(2..=26).contains(&count) {
        return Err(LlmError::Invalid(format!("a question has 2 to 26 options, not {count}")));
    }
    let mut prior = Prior { untold: Vec::new(), usage: Usage::default() };
    let nothing = Shared::from(NULL_SHARED);
    for shift in shifts(count) {
        let untold = vote(provider, agent, &nothing, NULL_QUESTION, options, shift).await?;
        prior.usage += untold.usage;
        prior.untold.push(untold.logprobs);
    }
    Ok(prior)
}

/// Asks one question with the options in two orders and returns one probability for each option, in the order given,
/// with the model's prior removed, and what it cost (without the prior's own bill).
///
/// `shared` is evaluated once for all questions that have it in common.
///
/// # Errors
/// [`LlmError::Invalid`] for fewer than two or more than 26 options or the prior of others; else what the provider says.
pub async fn choose(
    provider: &dyn Provider,
    agent: &str,
    shared: impl Into<Shared>,
    question: &str,
    options: &[String],
    prior: &Prior,
) -> Result<(Vec<f64>, Usage), LlmError> {
    let ballot = ballot(provider, agent, shared, question, options, prior).await?;
    Ok((ballot.probabilities, ballot.usage))
}

/// What a question brought, with and without the prior.
#[derive(Debug, Clone, PartialEq)]
pub struct Ballot {
    /// Probabilities with the prior removed.
    pub probabilities: Vec<f64>,
    /// Probabilities as the model gave them, averaged over the same rotations.
    pub raw: Vec<f64>,
    /// Probabilities as the model gave them with the options in the order given.
    pub first: Vec<f64>,
    /// What it cost.
    pub usage: Usage,
    /// Sections, by number, that were left out of one of the two questions, in rising order.
    pub cut: Vec<usize>,
}

/// As [`choose`], with the raw votes kept for measuring what the removal is worth.
///
/// # Errors
/// As [`choose`].
pub async fn ballot(
    provider: &dyn Provider,
    agent: &str,
    shared: impl Into<Shared>,
    question: &str,
    options: &[String],
    prior: &Prior,
) -> Result<Ballot, LlmError> {
    let (shared, count) = (shared.into(), options.len());
    if prior.untold.iter().any(|row| row.len() != count) {
        return Err(LlmError::Invalid("the prior is one of other options".to_owned()));
    }
    let mut ballot =
        Ballot { probabilities: vec![0.0; count], raw: vec![0.0; count], first: Vec::new(), usage: Usage::default(), cut: Vec::new() };
    for (shift, untold) in shifts(count).into_iter().zip(&prior.untold) {
        let told = vote(provider, agent, &shared, question, options, shift).await?;
        spread(&mut ballot.probabilities, &debias(&told.logprobs, untold), shift);
        spread(&mut ballot.raw, &softmax(&told.logprobs), shift);
        if shift == 0 {
            ballot.first = softmax(&told.logprobs);
        }
        ballot.usage += told.usage;
        ballot.cut.extend(told.cut);
    }
    ballot.cut.sort_unstable();
    ballot.cut.dedup();
    Ok(ballot)
}

/// Log-probabilities of the letters, with option `shift` first.
async fn vote(
    provider: &dyn Provider,
    agent: &str,
    shared: &Shared,
    question: &str,
    options: &[String],
    shift: usize,
) -> Result<Scores, LlmError> {
    let letters: Vec<String> = ('A'..='Z').take(options.len()).map(String::from).collect();
    let sections = shared.sections.clone();
    let prompt = Prompt { shared: shared.text.clone(), sections, own: form(question, options, shift) };
    let request = ScoreRequest { agent: agent.to_owned(), prompt, options: letters, ..ScoreRequest::default() };
    let scores = provider.score(request).await?;
    if scores.logprobs.len() == options.len() {
        return Ok(scores);
    }
    Err(LlmError::Invalid(format!("{} scores for {} options", scores.logprobs.len(), options.len())))
}

fn form(question: &str, options: &[String], shift: usize) -> String {
    let mut text = format!("Question: {}\n", question.trim());
    let turned = options.iter().cycle().skip(shift).take(options.len());
    for (letter, option) in ('A'..='Z').zip(turned) {
        text.push_str(&format!("{letter}. {}\n", one_line(option)));
    }
    text.push_str("Answer with the letter of the best option only.");
    text
}

/// An option's text must not look like a further option.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(LONGEST_OPTION).collect()
}

/// Adds half of each vote to the option that it was for.
fn spread(sums: &mut [f64], votes: &[f64], shift: usize) {
    let count = sums.len();
    for (place, vote) in votes.iter().enumerate() {
        if let Some(sum) = sums.get_mut((place + shift) % count) {
            *sum += vote / 2.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::{Asking, EmbedRequest, Embeddings, GenerateRequest, Generated, ModelIdentity};

    /// Prefers the first letter by `taste`, and knows the answer by `knowledge`.
    struct Biased {
        identity: ModelIdentity,
        taste: f64,
        knowledge: f64,
    }

    impl Provider for Biased {
        fn identity(&self) -> &ModelIdentity {
            &self.identity
        }
        fn score(&self, request: ScoreRequest) -> Asking<'_, Scores> {
            let own = request.prompt.own.clone();
            let logprobs = request.options.iter().map(|letter| {
                let line = own.lines().find(|l| l.starts_with(&format!("{letter}. "))).unwrap_or_default();
                let known = request.prompt.shared != NULL_SHARED && line.ends_with("right");
                f64::from(u8::from(letter == "A")) * self.taste + f64::from(u8::from(known)) * self.knowledge - 5.0
            });
            let cut = (0..request.prompt.sections.len()).filter(|i| request.prompt.own.contains(&format!("A. wrong {i}"))).collect();
            let scores = Scores { logprobs: logprobs.collect(), usage: Usage { prompt_tokens: 1, ..Usage::default() }, cut };
            Box::pin(async { Ok(scores) })
        }
        fn generate(&self, _: GenerateRequest) -> Asking<'_, Generated> {
            Box::pin(async { Err(LlmError::Invalid("not asked for".into())) })
        }
        fn embed(&self, _: EmbedRequest) -> Asking<'_, Embeddings> {
            Box::pin(async { Err(LlmError::Invalid("not asked for".into())) })
        }
    }

    fn biased(taste: f64, knowledge: f64) -> Biased {
        Biased { identity: ModelIdentity { name: String::new(), sha256: String::new() }, taste, knowledge }
    }

    fn options(right: usize) -> Vec<String> {
        (0..4).map(|i| if i == right { "right".into() } else { format!("wrong {i}") }).collect()
    }

    #[tokio::test]
    async fn a_taste_for_a_letter_is_removed_and_knowledge_stays() {
        for right in 0..4 {
            let prior = prior(&biased(6.0, 1.0), "a", &options(right)).await.unwrap();
            assert_eq!(prior.usage.prompt_tokens, 2);
            let ballot = ballot(&biased(6.0, 1.0), "a", "facts", "which?", &options(right), &prior).await.unwrap();
            let p = &ballot.probabilities;
            assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            assert!((0..4).all(|i| i == right || p[right] > p[i] + 0.1), "{right}: {p:?}");
            assert_eq!(ballot.usage.prompt_tokens, 2);
        }
        let prior = prior(&biased(6.0, 1.0), "a", &options(3)).await.unwrap();
        let raw = ballot(&biased(6.0, 1.0), "a", "facts", "which?", &options(3), &prior).await.unwrap().raw;
        assert!(raw[0] > raw[3], "without the removal the taste wins: {raw:?}");
    }

    #[tokio::test]
    async fn a_model_that_knows_nothing_gives_even_odds() {
        let prior = prior(&biased(3.0, 0.0), "a", &options(0)).await.unwrap();
        let (p, _) = choose(&biased(3.0, 0.0), "a", "facts", "which?", &options(0), &prior).await.unwrap();
        assert!(p.iter().all(|x| (x - 0.25).abs() < 1e-9), "{p:?}");
    }

    #[test]
    fn an_option_cannot_forge_another_one() {
        let text = form("q", &["x\nB. forged".into(), "y".into()], 0);
        assert_eq!(text.lines().filter(|l| l.starts_with("B. ")).count(), 1, "{text}");
    }

    #[tokio::test]
    async fn what_one_of_the_two_orders_leaves_out_is_left_out() {
        let prior = prior(&biased(0.0, 1.0), "a", &options(3)).await.unwrap();
        // The fake leaves out the section with the number of the option that it is shown first: 0, then 2.
        let shared = Shared { sections: vec![Section::default(); 4], ..Shared::from("facts") };
        let ballot = ballot(&biased(0.0, 1.0), "a", shared, "which?", &options(3), &prior).await.unwrap();
        assert_eq!((ballot.cut, ballot.usage.prompt_tokens), (vec![0, 2], 2));
    }

    #[tokio::test]
    async fn one_option_is_no_question() {
        let result = prior(&biased(0.0, 0.0), "a", &["x".into()]).await;
        assert!(matches!(result, Err(LlmError::Invalid(_))));
    }

    #[tokio::test]
    async fn a_prior_serves_its_own_options_only() {
        let prior = prior(&biased(0.0, 0.0), "a", &options(0)).await.unwrap();
        let fewer = &options(0)[..3];
        let result = choose(&biased(0.0, 0.0), "a", "", "", fewer, &prior).await;
        assert!(matches!(result, Err(LlmError::Invalid(_))));
    }
}
