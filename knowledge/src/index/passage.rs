//! The passage of a text that answers a query best, with the words to highlight.

use std::collections::{HashMap, HashSet};

use super::analysis;

/// Length aimed at, bytes.
const LENGTH: usize = 320;
/// Bytes of a text that are looked at.
const MOST_BYTES: usize = 64 << 10;

/// A piece of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Passage {
    /// The text on one line.
    pub text: String,
    /// Byte ranges of `text` that match the query, ascending, without overlap.
    pub marks: Vec<(usize, usize)>,
}

/// The passage of about 320 bytes that holds most of the terms' weight, the earliest of different ones that are equal. Terms weigh what
/// `weight` says of them.
pub fn passage(text: &str, terms: &[String], weight: &dyn Fn(&str) -> f32) -> Passage {
    let end = (0..=text.len().min(MOST_BYTES)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    // White space runs become one blank first, so that marks count in what is shown.
    let flat = text[..end].split_whitespace().collect::<Vec<_>>().join(" ");
    let wanted: HashMap<&str, f32> = terms.iter().map(|t| (t.as_str(), weight(t))).collect();
    let hits: Vec<(usize, usize, String)> =
        analysis::tokens(&flat).into_iter().filter(|t| wanted.contains_key(t.term.as_str())).map(|t| (t.from, t.to, t.term)).collect();
    // Score, start, and where the first match is.
    let mut best = (0.0f32, 0usize, 0usize);
    for start in std::iter::once(0).chain(sentence_starts(&flat)) {
        let mut seen = HashSet::new();
        let from = hits.partition_point(|hit| hit.0 < start);
        let inside = hits[from..].iter().take_while(|hit| hit.1 <= start + LENGTH);
        let score: f32 = inside.filter(|hit| seen.insert(hit.2.as_str())).filter_map(|hit| wanted.get(hit.2.as_str())).sum();
        let first = hits.get(from).map_or(usize::MAX, |hit| hit.0);
        // Of the starts that show the same matches, the last: the sentence of the first match.
        if score > best.0 + 1e-6 || (score > 1e-6 && score > best.0 - 1e-6 && start <= best.2) {
            best = (score, start, first);
        }
    }
    cut(&flat, best.1, &hits)
}

/// Offsets after the end of a sentence.
fn sentence_starts(text: &str) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '.' | '!' | '?' | ';' | ':' => {
                if let Some((_, ' ')) = chars.peek() {
                    starts.push(at + 2);
                }
            }
            '。' | '；' | '！' | '？' => starts.push(at + c.len_utf8()),
            _ => {}
        }
    }
    starts.retain(|start| *start < text.len());
    starts
}

fn cut(text: &str, start: usize, hits: &[(usize, usize, String)]) -> Passage {
    let limit = (start + LENGTH).min(text.len());
    let end = if limit == text.len() {
        limit
    } else {
        // At a word's end where there is one.
        let at = (start..=limit).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(start);
        text[start..at].rfind(' ').filter(|cut| *cut > LENGTH / 2).map_or(at, |cut| start + cut)
    };
    let mut shown = if start > 0 { "... ".to_owned() } else { String::new() };
    let shift = shown.len();
    shown.push_str(&text[start..end]);
    if end < text.len() {
        shown.push_str(" ...");
    }
    let mut marks: Vec<(usize, usize)> = Vec::new();
    for (from, to, _) in hits.iter().filter(|hit| hit.0 >= start && hit.1 <= end) {
        let (from, to) = (from - start + shift, to - start + shift);
        match marks.last_mut() {
            Some(last) if from < last.1 => last.1 = last.1.max(to),
            _ => marks.push((from, to)),
        }
    }
    Passage { text: shown, marks }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_passage_with_most_of_the_query_is_shown_and_marked() {
        let filler = "Nothing of interest stands here. ".repeat(40);
        let text = format!("{filler}Sorts that exceed work_mem\nwrite temporary files. {filler}");
        let terms: Vec<String> = ["sort", "work_mem", "temporari"].map(str::to_owned).to_vec();
        let found = passage(&text, &terms, &|_| 1.0);
        assert!(found.text.starts_with("... Sorts that exceed work_mem write"), "{}", found.text);
        let marked: Vec<&str> = found.marks.iter().map(|(from, to)| &found.text[*from..*to]).collect();
        assert_eq!(marked, ["Sorts", "work_mem", "temporary"]);
    }

    #[test]
    fn any_text_gives_a_passage_with_valid_marks() {
        for text in ["", "。", "长事务。持有锁", "a。锁锁锁锁 b", &"锁".repeat(5000), &"é".repeat(400)] {
            let found = passage(text, &["锁".to_owned(), "a".to_owned()], &|_| 1.0);
            assert!(found.marks.iter().all(|(from, to)| found.text.get(*from..*to).is_some()), "{text}");
            assert!(found.text.len() <= LENGTH + 16);
        }
    }
}
