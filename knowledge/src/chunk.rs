//! Knowledge chunks: pieces of documents that explain a cause, each with its way back to the source.

use serde::{Deserialize, Serialize};

/// A piece of a document, linked to causes and signals.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct KnowledgeChunk {
    /// Stable id: hash of source and content.
    pub id: String,
    /// Title of the section.
    pub title: String,
    /// Cause ids it speaks of.
    pub causes: Vec<String>,
    /// Text of the section.
    pub content: String,
    /// Signals it names.
    pub signals: Vec<String>,
    /// What it says to do, in order.
    #[serde(default)]
    pub steps: Vec<String>,
    /// Language of the text.
    #[serde(default)]
    pub language: Language,
    /// Where it stands.
    pub source: Source,
}

/// The place a chunk was read from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// File name.
    pub file: String,
    /// Headings from the document's title down.
    pub section: Vec<String>,
    /// Page in a paged document, from 1.
    #[serde(default)]
    pub page: Option<u32>,
    /// Byte offset of the section in the file; in formats without readable bytes, in the text that was read from it.
    pub offset: usize,
}

/// Languages that are analysed in their own way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// English, and whatever is not Chinese.
    #[default]
    En,
    /// Chinese.
    Zh,
}

impl Language {
    /// The language of a text: Chinese where at least a tenth of its letters are Han characters (names of settings and
    /// SQL are Latin in Chinese texts too).
    pub fn of(text: &str) -> Self {
        let han = |c: &char| matches!(c, '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{2fa1f}');
        let (letters, chinese) =
            text.chars().filter(|c| c.is_alphabetic()).fold((0usize, 0usize), |(all, zh), c| (all + 1, zh + usize::from(han(&c))));
        if chinese * 10 >= letters.max(1) { Self::Zh } else { Self::En }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chinese_text_with_names_of_settings_is_chinese() {
        assert_eq!(Language::of("当 work_mem 太小时，排序会写入临时文件 temp_bytes_rate"), Language::Zh);
        assert_eq!(Language::of("Sorts write temporary files (临时)  when work_mem is too small for them"), Language::En);
        assert_eq!(Language::of("12 + 30"), Language::En);
    }
}
