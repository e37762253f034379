//! Text to terms: English words are stemmed, Chinese is segmented by jieba, names and codes are kept whole.
//!
//! One text may hold both languages, so each run of characters is analysed by what it is. Chunks and queries take the
//! same way.

use std::collections::HashSet;
use std::sync::LazyLock;

use jieba_rs::Jieba;
use rust_stemmers::{Algorithm, Stemmer};

/// Longest term kept, bytes: a longer one is no word.
const MOST_TERM: usize = 64;

/// Words that say nothing about what a text is about.
static STOP: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    "a an and any are as at be been but by can could do does for from had has have how i if in into is it its may more most my no not of \
     on one or our out should so some such than that the their them then there these they this to too up very was we were what when where \
     which while who why will with would you your"
        .split_whitespace()
        .collect()
});
static ENGLISH: LazyLock<Stemmer> = LazyLock::new(|| Stemmer::create(Algorithm::English));
static CHINESE: LazyLock<Jieba> = LazyLock::new(Jieba::new);

/// A term and the bytes of the text that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// First byte.
    pub from: usize,
    /// Byte after the last.
    pub to: usize,
    /// What is compared.
    pub term: String,
}

/// True for Han characters.
pub fn is_han(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{2fa1f}')
}

/// Terms of a text in order. `work_mem` gives itself and its parts, `DataFileRead` too; stop words give nothing.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut out = Vec::with_capacity(text.len() / 6);
    each_run(text, |from, run, han| {
        if han {
            chinese(from, run, &mut out);
        } else {
            english(from, run, &mut out);
        }
    });
    out
}

/// Names and codes of a text, lowercase, in order and as often as they stand there: words with underscores, wait events
/// and lock modes in camel case, SQLSTATEs, operating system signals.
pub fn names(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    each_run(text, |_, run, han| {
        if !han && run.len() <= MOST_TERM && is_name(run) {
            out.push(run.trim_matches('_').to_lowercase());
        }
    });
    out
}

/// True for what looks like a name or a code rather than a word.
pub fn is_name(word: &str) -> bool {
    let bare = word.trim_matches('_');
    (bare.len() > 3 && bare.contains('_'))
        || is_camel(bare)
        || is_sqlstate(bare)
        || (bare.len() > 4 && bare.starts_with("SIG") && bare.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()))
}

fn is_camel(word: &str) -> bool {
    let upper = word.chars().filter(char::is_ascii_uppercase).count();
    let lower = word.chars().filter(char::is_ascii_lowercase).count();
    word.len() >= 6 && word.starts_with(|c: char| c.is_ascii_uppercase()) && upper >= 2 && lower >= 2 && word.is_ascii()
}

/// Five characters of a class that PostgreSQL uses.
fn is_sqlstate(word: &str) -> bool {
    const CLASSES: &str =
        "01 02 03 08 09 0A 0B 0F 0L 0P 0Z 20 21 22 23 24 25 26 27 28 2B 2D 2F 34 38 39 3B 3D 3F 40 42 44 53 54 55 57 58 72 F0 HV P0 XX";
    word.len() == 5
        && word.chars().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase())
        && word.chars().any(|c| c.is_ascii_digit())
        && CLASSES.split(' ').any(|class| word.starts_with(class))
}

/// Calls `visit(offset, run, han)` for each run of word characters or of Han characters.
fn each_run<'t>(text: &'t str, mut visit: impl FnMut(usize, &'t str, bool)) {
    #[derive(PartialEq, Clone, Copy)]
    enum Kind {
        Gap,
        Word,
        Han,
    }
    let kind = |c: char| {
        if is_han(c) {
            Kind::Han
        } else if c == '_' || c.is_alphanumeric() {
            Kind::Word
        } else {
            Kind::Gap
        }
    };
    let (mut start, mut current) = (0, Kind::Gap);
    for (at, c) in text.char_indices() {
        let next = kind(c);
        if next != current {
            if current != Kind::Gap {
                visit(start, &text[start..at], current == Kind::Han);
            }
            (start, current) = (at, next);
        }
    }
    if current != Kind::Gap {
        visit(start, &text[start..], current == Kind::Han);
    }
}

fn english(from: usize, run: &str, out: &mut Vec<Token>) {
    let whole = run.trim_matches('_');
    if whole.is_empty() || whole.len() > MOST_TERM {
        return;
    }
    let to = from + run.len();
    let parts: Vec<&str> = if whole.contains('_') {
        whole.split('_').filter(|p| !p.is_empty()).collect()
    } else if is_camel(whole) {
        humps(whole)
    } else {
        Vec::new()
    };
    let mut push = |term: String| out.push(Token { from, to, term });
    let lower = whole.to_lowercase();
    if parts.len() > 1 {
        for part in parts.iter().map(|p| p.to_lowercase()).filter(|p| p.len() > 1 && !STOP.contains(p.as_str())) {
            push(ENGLISH.stem(&part).into_owned());
        }
        push(lower);
    } else if !STOP.contains(lower.as_str()) {
        push(ENGLISH.stem(&lower).into_owned());
    }
}

/// `DataFileRead` gives `Data`, `File`, `Read`; `WALWrite` gives `WAL`, `Write`.
fn humps(word: &str) -> Vec<&str> {
    let bytes = word.as_bytes();
    let mut cuts = vec![0];
    for at in 1..bytes.len() {
        let upper = bytes[at].is_ascii_uppercase();
        let after_lower = !bytes[at - 1].is_ascii_uppercase();
        let before_lower = bytes.get(at + 1).is_some_and(u8::is_ascii_lowercase);
        if upper && (after_lower || before_lower) {
            cuts.push(at);
        }
    }
    cuts.push(bytes.len());
    cuts.windows(2).filter_map(|pair| word.get(pair[0]..pair[1])).collect()
}

fn chinese(from: usize, run: &str, out: &mut Vec<Token>) {
    let words = CHINESE.cut_for_search(run, false);
    out.extend(words.iter().map(|t| Token { from: from + t.byte_start, to: from + t.byte_end, term: t.word.to_owned() }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(text: &str) -> Vec<String> {
        tokens(text).into_iter().map(|t| t.term).collect()
    }

    #[test]
    fn words_are_stemmed_and_names_kept_whole_beside_their_parts() {
        assert_eq!(terms("The sorts are spilling"), ["sort", "spill"]);
        assert_eq!(terms("work_mem, DataFileRead"), ["work", "mem", "work_mem", "data", "file", "read", "datafileread"]);
        assert_eq!(terms("WALWrite"), ["wal", "write", "walwrite"]);
        assert!(terms(&"x".repeat(200)).is_empty());
    }

    #[test]
    fn chinese_is_segmented_and_names_in_it_are_found() {
        let text = "当 work_mem 太小时，排序会写入临时文件";
        let found = terms(text);
        for word in ["排序", "临时", "文件", "work_mem"] {
            assert!(found.iter().any(|t| t == word), "{word} is not in {found:?}");
        }
        for token in tokens(text).iter().filter(|t| !t.term.is_ascii()) {
            assert_eq!(&text[token.from..token.to], token.term);
        }
    }

    #[test]
    fn names_and_codes_are_told_from_words_and_numbers() {
        assert_eq!(
            names("SQLSTATE 40P01 after 65536 bytes; pg_stat_activity shows BufferMapping, SIGKILL, a_b and fsync; 53300"),
            ["40p01", "pg_stat_activity", "buffermapping", "sigkill", "53300"]
        );
    }
}
