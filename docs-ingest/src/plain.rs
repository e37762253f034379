//! Plain text: paragraphs at blank lines, headings by how people write them, English and Chinese.

use crate::document::{Blocks, Document, Kind, is_han};
use crate::error::ReadError;

/// Longest line that can be a heading, in characters.
const MOST_HEADING: usize = 80;
/// Numerals of Chinese headings.
const NUMERALS: &str = "一二三四五六七八九十百零〇0123456789";

/// Reads a text. Offsets are those of the text.
///
/// # Errors
/// `Empty` without text, `TooLarge` past the bounds of a document.
pub fn read(text: &str) -> Result<Document, ReadError> {
    let mut out = Blocks::default();
    let mut paragraph = String::new();
    let (mut offset, mut start) = (0, 0);
    let mut lines = text.split_inclusive('\n').peekable();
    let mut after_blank = true;
    while let Some(raw) = lines.next() {
        let line = raw.trim();
        let next = lines.peek().map_or("", |l| l.trim());
        let level = heading(line, next, after_blank);
        let item = item(line);
        if line.is_empty() || level.is_some() || item.is_some() {
            out.push(Kind::Paragraph, &std::mem::take(&mut paragraph), start, None);
        }
        if let Some(level) = level {
            out.push(Kind::Heading(level), line.trim_start_matches('#').trim(), offset, None);
            if underline(next).is_some() {
                offset += raw.len();
                offset += lines.next().map_or(0, str::len);
                after_blank = true;
                continue;
            }
        } else if let Some((ordered, rest)) = item {
            out.push(Kind::Item { depth: 1, ordered }, rest, offset, None);
        } else if !line.is_empty() && underline(line).is_none() {
            if paragraph.is_empty() {
                start = offset;
            }
            join(&mut paragraph, line);
            // Chinese texts have a paragraph a line: a line that ends a sentence ends it.
            if line.ends_with(['。', '！', '？', '：']) {
                out.push(Kind::Paragraph, &std::mem::take(&mut paragraph), start, None);
            }
        }
        after_blank = line.is_empty() || level.is_some();
        offset += raw.len();
        if out.overflowed() {
            break;
        }
    }
    out.push(Kind::Paragraph, &paragraph, start, None);
    out.finish()
}

/// Adds a line to a paragraph: with a blank, but not between Chinese characters.
pub(crate) fn join(paragraph: &mut String, line: &str) {
    let glued = paragraph.chars().next_back().is_none_or(is_han) && line.chars().next().is_some_and(is_han);
    if !paragraph.is_empty() && !glued {
        paragraph.push(' ');
    }
    paragraph.push_str(line);
}

/// Level of a line that is a heading.
fn heading(line: &str, next: &str, after_blank: bool) -> Option<u8> {
    let length = line.chars().count();
    if !(2..=MOST_HEADING).contains(&length) || underline(line).is_some() {
        return None;
    }
    if let Some(level) = underline(next) {
        return Some(level);
    }
    if line.ends_with(['.', '。', '；', ';', ',', '，', '：', ':', '!', '！']) {
        return None;
    }
    if let Some(level) = chinese(line) {
        return Some(level);
    }
    if !after_blank || !next.is_empty() && length > 60 {
        return None;
    }
    if let Some(depth) = numbered(line) {
        return (next.is_empty() || depth > 1).then_some(depth);
    }
    let letters = line.chars().filter(|c| c.is_alphabetic()).count();
    let capitals = letters > 3 && line.chars().all(|c| !c.is_lowercase() && !is_han(c)) && letters * 2 > length;
    let chapter = ["Chapter ", "CHAPTER ", "Part ", "Appendix "].iter().any(|word| line.starts_with(word));
    (capitals || chapter).then_some(1)
}

/// `====` and `----` under a heading.
fn underline(line: &str) -> Option<u8> {
    let first = line.chars().next().filter(|c| "=-~*".contains(*c))?;
    (line.len() >= 3 && line.chars().all(|c| c == first)).then_some(if first == '=' { 1 } else { 2 })
}

/// `第三章`, `三、`, `（三）`.
fn chinese(line: &str) -> Option<u8> {
    let numeral = |c: char| NUMERALS.contains(c);
    if let Some(rest) = line.strip_prefix('第') {
        let rest = rest.trim_start_matches(numeral);
        return match rest.chars().next()? {
            '章' | '篇' | '部' => Some(1),
            '节' => Some(2),
            _ => None,
        };
    }
    if let Some(rest) = line.strip_prefix('（') {
        let after = rest.trim_start_matches(numeral);
        return (after.len() < rest.len() && after.starts_with('）')).then_some(3);
    }
    let after = line.trim_start_matches(numeral);
    (after.len() < line.len() && line.chars().next().is_some_and(is_han) && after.starts_with('、')).then_some(2)
}

/// Depth of `2.1 Title`.
fn numbered(line: &str) -> Option<u8> {
    let (number, title) = line.split_once([' ', '\t'])?;
    // `1. Look` is an item more often than a chapter.
    if number.ends_with('.') && number.matches('.').count() == 1 {
        return None;
    }
    let parts: Vec<&str> = number.trim_end_matches('.').split('.').collect();
    let right = parts.iter().all(|p| !p.is_empty() && p.len() < 4 && p.bytes().all(|b| b.is_ascii_digit()));
    let titled = title.trim().chars().next().is_some_and(|c| c.is_uppercase() || is_han(c));
    (right && titled && parts.len() < 6).then_some(parts.len() as u8)
}

/// An item of a list, without its mark; numbered ones are told.
pub(crate) fn item(line: &str) -> Option<(bool, &str)> {
    for mark in ["- ", "* ", "+ ", "• ", "– ", "· ", "● ", "■ ", "•", "●"] {
        if let Some(rest) = line.strip_prefix(mark) {
            return Some((false, rest.trim()));
        }
    }
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = line.len() - rest.len();
    let after = rest.strip_prefix([')', '.', '、', '．', '）'])?;
    let spaced = after.starts_with(' ') || rest.starts_with(['、', '．', '）']) || after.chars().next().is_some_and(is_han);
    ((1..=2).contains(&digits) && spaced).then(|| (true, after.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &str) -> Vec<(Kind, String)> {
        read(text).unwrap().blocks.into_iter().map(|b| (b.kind, b.text)).collect()
    }

    #[test]
    fn an_english_text_has_headings_items_and_paragraphs() {
        let text = "Vacuum guide\n============\n\nDead rows pile up\nover time.\n\n2.1 Wraparound\n\n1. look\n2) freeze\n- and wait\n\nLOCK WAITS\n\nDone.\n";
        let expected = [
            (Kind::Heading(1), "Vacuum guide"),
            (Kind::Paragraph, "Dead rows pile up over time."),
            (Kind::Heading(2), "2.1 Wraparound"),
            (Kind::Item { depth: 1, ordered: true }, "look"),
            (Kind::Item { depth: 1, ordered: true }, "freeze"),
            (Kind::Item { depth: 1, ordered: false }, "and wait"),
            (Kind::Heading(1), "LOCK WAITS"),
            (Kind::Paragraph, "Done."),
        ];
        assert_eq!(blocks(text), expected.map(|(k, t)| (k, t.to_owned())));
        assert_eq!(&text[read(text).unwrap().blocks[1].offset..][..9], "Dead rows");
    }

    #[test]
    fn a_chinese_text_is_read_by_its_own_habits() {
        let text = "第一章 锁等待\n长事务持有锁，\n其他会话被阻塞。\n第二段在这里。\n一、处理步骤\n1、找到阻塞者\n2、终止会话\n（二）预防\n设置超时。\n";
        let expected = [
            (Kind::Heading(1), "第一章 锁等待"),
            (Kind::Paragraph, "长事务持有锁，其他会话被阻塞。"),
            (Kind::Paragraph, "第二段在这里。"),
            (Kind::Heading(2), "一、处理步骤"),
            (Kind::Item { depth: 1, ordered: true }, "找到阻塞者"),
            (Kind::Item { depth: 1, ordered: true }, "终止会话"),
            (Kind::Heading(3), "（二）预防"),
            (Kind::Paragraph, "设置超时。"),
        ];
        assert_eq!(blocks(text), expected.map(|(k, t)| (k, t.to_owned())));
    }
}
