//! What a model is asked, and which sections of it are left out when it is longer than the context.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::LlmError;

/// A prompt in two parts. `shared` is the same for many requests of one diagnosis and is evaluated once;
/// a provider evaluates `shared` and `own` as separate batches always, so that results do not depend on what is cached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// System text and common context (plain text; the provider applies the model's chat template).
    pub shared: String,
    /// What follows `shared` in the same part, in this order, and may be left out where the context is too short.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sections: Vec<Section>,
    /// What this request adds: the user's turn goes on with this.
    pub own: String,
}

/// A piece of a prompt that is there as a whole or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// The lowest is left out first; of equals, the later.
    pub priority: u32,
    /// The text, with the line ends around it.
    pub text: String,
}

impl Prompt {
    /// A prompt without sections.
    pub fn new(shared: impl Into<String>, own: impl Into<String>) -> Self {
        Self { shared: shared.into(), sections: Vec::new(), own: own.into() }
    }

    /// Sections by number, in the order in which they are left out.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.sections.len()).collect();
        order.sort_by_key(|i| (self.sections.get(*i).map(|s| s.priority), Reverse(*i)));
        order
    }

    /// The prompt as plain text, less the first `count` sections to be left out, and the numbers of these in rising order.
    pub(crate) fn without(&self, count: usize) -> (Self, Vec<usize>) {
        let mut cut: Vec<usize> = self.order().into_iter().take(count).collect();
        cut.sort_unstable();
        let mut shared = self.shared.clone();
        for (_, section) in self.sections.iter().enumerate().filter(|(i, _)| cut.binary_search(i).is_err()) {
            shared.push_str(&section.text);
        }
        (Self::new(shared, self.own.clone()), cut)
    }

    /// What `read` makes of the prompt with as few sections left out as it takes, and the numbers of these.
    ///
    /// # Errors
    /// What `read` says; [`LlmError::TooLong`] when the prompt does not fit without any section either.
    pub(super) fn fitted<T>(&self, mut read: impl FnMut(&Self) -> Result<T, LlmError>) -> Result<(T, Vec<usize>), LlmError> {
        match read(&self.without(0).0) {
            Err(LlmError::TooLong { .. }) if !self.sections.is_empty() => {}
            whole => return whole.map(|whole| (whole, Vec::new())),
        }
        let (mut too_few, mut enough) = (0, self.sections.len());
        let mut best = read(&self.without(enough).0)?;
        while enough - too_few > 1 {
            let half = too_few.midpoint(enough);
            match read(&self.without(half).0) {
                Ok(fits) => (best, enough) = (fits, half),
                Err(LlmError::TooLong { .. }) => too_few = half,
                Err(other) => return Err(other),
            }
        }
        Ok((best, self.without(enough).1))
    }

    /// How many sections to leave out next, where only the model's server can count: with `count` of them left out it found
    /// `tokens`, and `limit` fit. At least one more.
    pub(super) fn further(&self, count: usize, tokens: u64, limit: u64) -> usize {
        let (kept, _) = self.without(count);
        let bytes = (kept.shared.len() + kept.own.len()) as f64;
        let excess = bytes * tokens.saturating_sub(limit) as f64 / tokens.max(1) as f64;
        let (mut count, mut left_out) = (count, 0.0);
        for i in self.order().into_iter().skip(count) {
            count += 1;
            left_out += self.sections.get(i).map_or(0, |s| s.text.len()) as f64;
            if left_out >= excess {
                break;
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt() -> Prompt {
        let sections = [(1, "a"), (0, "bb"), (2, "c"), (1, "d"), (0, "e")].map(|(priority, text)| Section { priority, text: text.into() });
        Prompt { sections: sections.to_vec(), ..Prompt::new("s:", "?") }
    }

    /// A context of so many letters.
    fn fit(limit: usize) -> Result<(String, Vec<usize>), LlmError> {
        prompt().fitted(|p| {
            let text = format!("{}{}", p.shared, p.own);
            if text.len() <= limit { Ok(text) } else { Err(LlmError::TooLong { tokens: text.len() as u64, limit: limit as u64 }) }
        })
    }

    #[test]
    fn whole_sections_go_the_lowest_and_latest_first_and_no_more_than_must() {
        let expected = ["s:abbcde?", "s:abbcd?", "s:acd?", "s:acd?", "s:ac?", "s:c?", "s:?"];
        for (limit, text) in (3..=9).rev().zip(expected) {
            assert_eq!(fit(limit).unwrap().0, text, "{limit}");
        }
        assert_eq!(fit(5).unwrap().1, [1, 3, 4]);
        assert_eq!(fit(2), Err(LlmError::TooLong { tokens: 3, limit: 2 }));
        assert_eq!(prompt().fitted(|_| Err::<(), _>(LlmError::Invalid("x".into()))), Err(LlmError::Invalid("x".into())));
    }

    #[test]
    fn where_a_server_counts_the_excess_is_guessed_by_length() {
        // Nine letters are 90 tokens: 20 too many are two letters, the last section and the one before it.
        assert_eq!(prompt().further(0, 90, 70), 2);
        assert_eq!(prompt().further(0, 90, 89), 1);
        assert_eq!(prompt().further(2, 60, 55), 3);
        // A server that names no numbers loses one section at a time.
        assert_eq!(prompt().further(3, 0, 0), 4);
        assert_eq!(prompt().further(0, 90, 0), 5);
    }

    #[test]
    fn a_prompt_without_sections_is_written_as_before() {
        let json = r#"{"shared":"s","own":"o"}"#;
        assert_eq!(serde_json::to_string(&Prompt::new("s", "o")).unwrap(), json);
        assert_eq!(serde_json::from_str::<Prompt>(json).unwrap(), Prompt::new("s", "o"));
        let whole = prompt();
        assert_eq!(serde_json::from_str::<Prompt>(&serde_json::to_string(&whole).unwrap()).unwrap(), whole);
    }
}
