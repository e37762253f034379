//! What is searched for: words, and the exact names of signals, settings, views, wait events and error codes.

use super::analysis;

/// Most terms and names of a query that are used.
const MOST: usize = 48;
/// Longest text that is analysed, bytes.
const MOST_BYTES: usize = 8192;

/// A query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    text: String,
    names: Vec<String>,
}

impl Query {
    /// A query for what a person typed: names in it are recognised. Text past 8 kB is left out.
    pub fn of(text: &str) -> Self {
        let mut query = Self::default();
        query.add_text(text);
        query
    }

    /// Adds words, and the names among them.
    pub fn add_text(&mut self, text: &str) {
        let room = MOST_BYTES.saturating_sub(self.text.len());
        let end = (0..=text.len().min(room)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        for name in analysis::names(&text[..end]) {
            self.add_name(&name);
        }
        self.text.push(' ');
        self.text.push_str(&text[..end]);
    }

    /// Adds an exact name. A signal's labels are names of their own: `active_sessions{wait_class="Lock"}` adds two.
    pub fn add_name(&mut self, name: &str) {
        for part in name.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|p| p.len() > 1 && *p != "wait_class") {
            let part = part.to_lowercase();
            if self.names.len() < MOST && !self.names.contains(&part) {
                self.names.push(part);
            }
        }
    }

    /// The words, for embeddings.
    pub fn text(&self) -> &str {
        self.text.trim()
    }

    /// The names, lowercase, each once.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Terms of the words and names, each once.
    pub fn terms(&self) -> Vec<String> {
        let mut seen = std::collections::HashSet::new();
        let words = analysis::tokens(&self.text).into_iter().map(|t| t.term);
        words.chain(self.names.iter().cloned()).filter(|t| seen.insert(t.clone())).take(MOST).collect()
    }

    /// True when there is nothing to search for.
    pub fn is_empty(&self) -> bool {
        self.text.trim().is_empty() && self.names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognised_and_counted_once() {
        let mut query = Query::of("Why does work_mem spill? work_mem again, DataFileRead");
        query.add_name("active_sessions{wait_class=\"Lock\"}");
        assert_eq!(query.names(), ["work_mem", "datafileread", "active_sessions", "lock"]);
        let terms = query.terms();
        assert_eq!(terms.iter().filter(|t| *t == "work_mem").count(), 1);
        assert!(terms.contains(&"spill".to_owned()));
    }

    #[test]
    fn a_huge_query_is_bounded() {
        let mut query = Query::of(&"词a_b1_c ".repeat(100_000));
        for n in 0..1000 {
            query.add_name(&format!("name_{n}"));
        }
        assert!(query.text().len() <= MOST_BYTES && query.names().len() <= MOST && query.terms().len() <= MOST);
    }
}
