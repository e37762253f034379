//! Which statement texts are wanted, which are known, and when to stop asking.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::text::normalise;

/// Ids asked for in one turn.
const AT_ONCE: usize = 20;
/// Times an id is asked for before Galen gives up.
const TRIES: u8 = 5;
/// Texts remembered as known; beyond that the memory starts anew.
const REMEMBERED: usize = 20_000;
/// Longest text kept, bytes.
const LONGEST: usize = 16_384;

/// The book of texts.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// Ids whose text has been delivered.
    pub known: BTreeSet<i64>,
    wanted: HashMap<i64, u8>,
}

impl Texts {
    /// Puts ids on the list of wanted texts.
    pub fn want(&mut self, ids: impl IntoIterator<Item = i64>) {
        for id in ids {
            if id != 0 && !self.known.contains(&id) && self.wanted.len() < REMEMBERED {
                self.wanted.entry(id).or_insert(0);
            }
        }
    }

    /// The ids to ask for now.
    pub fn next(&mut self) -> Vec<i64> {
        let mut open: Vec<_> = self.wanted.iter_mut().filter(|(_, tries)| **tries < TRIES).collect();
        open.sort_by_key(|(_, tries)| **tries);
        open.truncate(AT_ONCE);
        open.into_iter()
            .map(|(id, tries)| {
                *tries += 1;
                *id
            })
            .collect()
    }

    /// Normalises a text that the server gave and adds it to `texts`.
    pub fn learn(&mut self, id: i64, raw: &str, texts: &mut BTreeMap<i64, String>) {
        self.settle(id, normalise(raw), texts);
    }

    /// Adds a text that is already normalised.
    pub fn settle(&mut self, id: i64, mut text: String, texts: &mut BTreeMap<i64, String>) {
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.wanted.remove(&id);
        if self.known.insert(id) && !text.is_empty() {
            text.truncate(text.floor_char_boundary(LONGEST));
            texts.insert(id, text);
        }
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn texts_are_asked_for_a_few_at_a_time_and_not_for_ever() {
        let mut book = Texts::default();
        let mut texts = BTreeMap::new();
        book.want(1..=50);
        assert_eq!(book.next().len(), AT_ONCE);
        for id in 1..=49 {
            book.learn(id, "SELECT 1", &mut texts);
        }
        book.want(1..=50);
        let asked = (0..20).filter(|_| book.next() == [50]).count();
        assert!(asked > 0 && asked <= usize::from(TRIES), "{asked}");
        assert_eq!(texts[&1], "SELECT $1");
    }
}
