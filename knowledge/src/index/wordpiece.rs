//! WordPiece: text to the tokens of a BERT vocabulary, as the uncased models were trained with.

use std::collections::HashMap;

use super::analysis::is_han;

/// Longest word that is cut, in characters; a longer one is unknown.
const MOST_WORD: usize = 100;

/// A vocabulary: tokens by their place in the list.
#[derive(Debug, Clone, Default)]
pub struct Vocabulary {
    ids: HashMap<Box<str>, u32>,
    unknown: u32,
}

impl Vocabulary {
    /// From tokens in order of their ids.
    pub fn new<'t>(tokens: impl Iterator<Item = &'t str>) -> Self {
        let ids: HashMap<Box<str>, u32> = tokens.zip(0u32..).map(|(token, id)| (token.into(), id)).collect();
        let unknown = ids.get("[UNK]").copied().unwrap_or(0);
        Self { ids, unknown }
    }

    /// Id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True without tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// At most `most` token ids of a text, without the special ones.
    pub fn encode(&self, text: &str, most: usize) -> Vec<u32> {
        let mut out = Vec::new();
        let mut word = String::new();
        for c in text.chars() {
            if out.len() >= most {
                break;
            }
            if c.is_alphanumeric() && !is_han(c) {
                word.extend(c.to_lowercase().map(plain));
                continue;
            }
            self.word(&word, &mut out);
            word.clear();
            // A Han character or a mark of punctuation is a word of its own.
            if !c.is_whitespace() && !c.is_control() {
                self.word(c.encode_utf8(&mut [0; 4]), &mut out);
            }
        }
        self.word(&word, &mut out);
        out.truncate(most);
        out
    }

    /// Cuts a word into the longest pieces from the left; a word that does not cut is unknown.
    fn word(&self, word: &str, out: &mut Vec<u32>) {
        if word.is_empty() {
            return;
        }
        let before = out.len();
        let mut start = 0;
        let mut piece = String::new();
        if word.chars().count() > MOST_WORD {
            out.push(self.unknown);
            return;
        }
        while start < word.len() {
            let ends = word[start..].char_indices().map(|(at, c)| start + at + c.len_utf8()).rev();
            let mut found = None;
            for end in ends {
                piece.clear();
                if start > 0 {
                    piece.push_str("##");
                }
                piece.push_str(&word[start..end]);
                if let Some(id) = self.id(&piece) {
                    found = Some((id, end));
                    break;
                }
            }
            let Some((id, end)) = found else {
                out.truncate(before);
                out.push(self.unknown);
                return;
            };
            out.push(id);
            start = end;
        }
    }
}

/// Latin letters without their accents, as the vocabulary has them.
fn plain(c: char) -> char {
    match c {
        'à' | 'á' | 'â' | 'ã' | 'ä' | 'å' => 'a',
        'ç' => 'c',
        'è' | 'é' | 'ê' | 'ë' => 'e',
        'ì' | 'í' | 'î' | 'ï' => 'i',
        'ñ' => 'n',
        'ò' | 'ó' | 'ô' | 'õ' | 'ö' => 'o',
        'ù' | 'ú' | 'û' | 'ü' => 'u',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_into_the_longest_pieces() {
        let vocabulary = Vocabulary::new(["[UNK]", "vacuum", "##ing", "auto", "##vacuum", "_", "锁", "un"].into_iter());
        assert_eq!(vocabulary.encode("Vacuuming autovacuum", 9), [1, 2, 3, 4]);
        assert_eq!(vocabulary.encode("auto_vacuum锁 zzz", 9), [3, 5, 1, 6, 0]);
        assert_eq!(vocabulary.encode("vacuum vacuum vacuum", 2), [1, 1]);
        assert_eq!(vocabulary.encode(&"v".repeat(300), 9), [0]);
    }
}
