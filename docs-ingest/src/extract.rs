//! Sections to knowledge: which causes and signals a piece speaks of, what it says to do.
//!
//! [`Extractor`] is what does it. [`Rules`] goes by structure and names; another one may ask a model, and is then given
//! what the rules found as the choices that it may confirm or refuse.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use galen_knowledge::catalog::Catalog;
use galen_knowledge::chunk::{KnowledgeChunk, Language, Source};
use galen_knowledge::gazetteer::{self, Name, NameKind};
use sha2::{Digest, Sha256};

use crate::document::Document;
use crate::section::{self, Piece};

/// A name that so many causes share says nothing about one of them.
const MOST_SHARING: usize = 3;
/// Most causes that one piece is linked to by names.
const MOST_LINKED: usize = 3;
/// Most steps kept of a piece.
const MOST_STEPS: usize = 30;

/// Turns a document into knowledge.
pub trait Extractor: Send + Sync {
    /// The chunks of a document, in its order. `file` is the name that they carry as their source.
    fn extract(&self, file: &str, document: &Document) -> Vec<KnowledgeChunk>;

    /// Names what it does: documents taken in by another version are read again.
    fn version(&self) -> String;
}

/// Extraction by structure and by names.
pub struct Rules {
    causes: Vec<Known>,
    signals: Vec<Signal>,
    /// Causes by a name that is peculiar to them.
    by_name: HashMap<(NameKind, &'static str), Vec<usize>>,
    version: String,
}

struct Known {
    id: String,
    /// Its id and title as headings would have them.
    titles: Vec<String>,
}

struct Signal {
    name: String,
    /// The column it is derived from, as people write it.
    stem: Option<String>,
}

impl Rules {
    /// Rules over a catalog; `signals` are the names of all signals.
    pub fn new(catalog: &Catalog, signals: &[&str]) -> Self {
        let mut by_name: HashMap<(NameKind, &'static str), Vec<usize>> = HashMap::new();
        let mut causes = Vec::new();
        let mut digest = Sha256::new();
        for (at, cause) in catalog.iter().enumerate() {
            let text = serde_json::to_string(cause).unwrap_or_default();
            digest.update(&text);
            for name in gazetteer::builtin().find(&text).iter().filter(|name| telling(name)) {
                by_name.entry((name.kind, name.name)).or_default().push(at);
            }
            let titles = [cause.id.replace('_', " "), plain(&cause.title)];
            causes.push(Known { id: cause.id.clone(), titles: titles.into() });
        }
        by_name.retain(|_, causes| causes.len() <= MOST_SHARING);
        let columns: BTreeSet<&str> = gazetteer::builtin().iter().filter(|n| n.kind == NameKind::Column).map(|n| n.name).collect();
        let signals: Vec<Signal> = signals
            .iter()
            .map(|name| {
                digest.update(name);
                let stem =
                    ["_per_s", "_rate", "_ratio"].iter().find_map(|end| name.strip_suffix(end)).filter(|stem| columns.contains(stem));
                Signal { name: (*name).to_owned(), stem: stem.map(str::to_owned) }
            })
            .collect();
        // The first number grows with the rules themselves.
        let version = format!("rules-1-{}", hex(&digest.finalize()[..6]));
        Self { causes, signals, by_name, version }
    }

    fn chunk(&self, file: &str, piece: Piece, ordinal: usize) -> KnowledgeChunk {
        let headings = piece.path.join("\n");
        let title = piece.path.last().cloned().unwrap_or_else(|| file.rsplit('/').next().unwrap_or(file).to_owned());
        let steps = if piece.steps.is_empty() && says_what_to_do(&title) { piece.items } else { piece.steps };
        KnowledgeChunk {
            id: id_of(file, &piece.path, &piece.text, ordinal),
            causes: self.causes(&headings, &piece.text),
            signals: self.signals(&piece.text),
            steps: steps.into_iter().take(MOST_STEPS).collect(),
            language: Language::of(&piece.text),
            source: Source { file: file.to_owned(), section: piece.path, page: piece.page, offset: piece.offset },
            title,
            content: piece.text,
        }
    }

    /// Whether the headings of a section name causes: nothing is left to judge then.
    pub fn named(&self, section: &[String]) -> bool {
        !self.by_heading(&section.join("\n")).is_empty()
    }

    fn by_heading(&self, headings: &str) -> Vec<String> {
        let words: BTreeSet<&str> = words(headings).collect();
        let lines: Vec<String> = headings.lines().map(plain).collect();
        let named = |cause: &&Known| words.contains(cause.id.as_str()) || lines.iter().any(|line| cause.titles.contains(line));
        self.causes.iter().filter(named).map(|cause| cause.id.clone()).collect()
    }

    /// Causes that a heading names, by id or in words; else those whose peculiar names the text has, the most first.
    fn causes(&self, headings: &str, text: &str) -> Vec<String> {
        let by_heading = self.by_heading(headings);
        if !by_heading.is_empty() {
            return by_heading;
        }
        let last = headings.lines().last().unwrap_or_default();
        let titled: BTreeSet<Name> =
            gazetteer::builtin().find(&format!("{last} `{}`", last.split([' ', '(']).next().unwrap_or_default())).into_iter().collect();
        let mut score: BTreeMap<usize, usize> = BTreeMap::new();
        for name in gazetteer::builtin().find(text).iter().filter(|name| !titled.contains(*name)) {
            for cause in self.by_name.get(&(name.kind, name.name)).into_iter().flatten() {
                *score.entry(*cause).or_default() += 1;
            }
        }
        // A name in the heading is what the section is about.
        for name in &titled {
            for cause in self.by_name.get(&(name.kind, name.name)).into_iter().flatten() {
                *score.entry(*cause).or_default() += 2;
            }
        }
        let mut ranked: Vec<(usize, usize)> = score.into_iter().filter(|(_, score)| *score >= 2).collect();
        ranked.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        ranked.into_iter().take(MOST_LINKED).filter_map(|(at, _)| self.causes.get(at)).map(|cause| cause.id.clone()).collect()
    }

    /// Signals that the text names, or whose column it names.
    fn signals(&self, text: &str) -> Vec<String> {
        let words: BTreeSet<&str> = words(text).collect();
        let named = |s: &&Signal| words.contains(s.name.as_str()) || s.stem.as_ref().is_some_and(|stem| words.contains(stem.as_str()));
        self.signals.iter().filter(named).map(|s| s.name.clone()).collect()
    }
}

impl Extractor for Rules {
    fn extract(&self, file: &str, document: &Document) -> Vec<KnowledgeChunk> {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let pieces = section::cut(document);
        let chunks = pieces.into_iter().map(|piece| {
            // The same text twice under the same headings is told apart by its turn.
            let turn = seen.entry(id_of(file, &piece.path, &piece.text, 0)).or_default();
            let chunk = self.chunk(file, piece, *turn);
            *turn += 1;
            chunk
        });
        chunks.collect()
    }

    fn version(&self) -> String {
        self.version.clone()
    }
}

/// Names that can tell a cause: columns of other views are too common in the SQL of remedies.
fn telling(name: &Name) -> bool {
    matches!(name.kind, NameKind::Setting | NameKind::WaitEvent | NameKind::SqlState | NameKind::View)
}

fn says_what_to_do(title: &str) -> bool {
    const SIGNS: &[&str] = &[
        "fix",
        "remed",
        "resol",
        "mitigat",
        "how to",
        "what to do",
        "procedure",
        "steps",
        "recover",
        "workaround",
        "处理",
        "解决",
        "修复",
        "步骤",
        "操作",
        "措施",
        "优化",
    ];
    let title = title.to_lowercase();
    SIGNS.iter().any(|sign| title.contains(sign))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|w| !w.is_empty())
}

/// A heading without its number, its case and its marks.
fn plain(heading: &str) -> String {
    let text = heading.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.' || c.is_whitespace());
    let text = text.split(['(', '（']).next().unwrap_or(text);
    crate::document::squeeze(&text.to_lowercase().replace(['_', '-', '`', '*'], " "))
}

fn id_of(file: &str, path: &[String], text: &str, ordinal: usize) -> String {
    let mut digest = Sha256::new();
    for part in std::iter::once(file).chain(path.iter().map(String::as_str)).chain([text]) {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.update((ordinal as u64).to_le_bytes());
    hex(&digest.finalize()[..8])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{markdown, plain};

    fn rules() -> Rules {
        Rules::new(&Catalog::builtin().unwrap(), &["tup_returned_per_s", "temp_bytes_rate"])
    }

    fn extract(text: &str) -> Vec<KnowledgeChunk> {
        rules().extract("r.md", &markdown::read(text).unwrap())
    }

    #[test]
    fn sections_keep_their_path_their_causes_and_their_place() {
        let text = "preface\n# Runbook\n\n## Missing index (`missing_index`)\n\nRows read, see `tup_returned_per_s`.\n\n### Fix\n\nCreate it.\n\n## Empty\n";
        let chunks = extract(text);
        assert_eq!(chunks.len(), 3);
        assert_eq!(chunks[1].causes, ["missing_index"]);
        assert_eq!(chunks[1].signals, ["tup_returned_per_s"]);
        assert_eq!(chunks[2].source.section, ["Runbook", "Missing index (missing_index)", "Fix"]);
        assert_eq!(chunks[2].causes, ["missing_index"], "a subsection belongs to the cause of its parent");
        assert!(text[chunks[2].source.offset..].starts_with("Create it."));
    }

    #[test]
    fn names_lead_to_causes_and_columns_to_signals() {
        let chunks = extract(
            "# work_mem (integer)\n\nSorts beyond it spill; log_temp_files shows them, temp_bytes counts.\n\n# Other\n\nNothing of ours.\n",
        );
        assert!(chunks[0].causes.contains(&"work_mem_spill".to_owned()), "{:?}", chunks[0].causes);
        assert_eq!(chunks[0].signals, ["temp_bytes_rate"]);
        assert!(chunks[1].causes.is_empty() && chunks[1].signals.is_empty());
    }

    #[test]
    fn a_chinese_runbook_gives_steps_in_its_own_language() {
        let text = "一、死锁 deadlocks\n会话互相等待，服务器终止其中一个。\n二、处理步骤\n1、查看日志\n2、统一加锁顺序\n";
        let chunks = rules().extract("r.txt", &plain::read(text).unwrap());
        assert_eq!(chunks[0].causes, ["deadlocks"]);
        assert!(chunks.iter().all(|c| c.language == Language::Zh));
        assert_eq!(chunks[1].steps, ["查看日志", "统一加锁顺序"]);
    }

    #[test]
    fn ids_are_stable_and_each_its_own() {
        let body = "The same text twice under the same heading, and long enough to stand alone. ".repeat(3);
        let text = format!("# A\n\n{body}\n\n# A\n\n{body}\n");
        let (first, again) = (extract(&text), extract(&text));
        assert_eq!(first, again);
        assert_ne!(first[0].id, first[1].id);
    }
}
