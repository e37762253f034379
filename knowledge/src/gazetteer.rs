//! The names PostgreSQL has: settings, statistics views and their columns, wait events, SQLSTATEs, found in a text.
//!
//! The list is data (`knowledge/gazetteer/names.tsv`), written by `scripts/gazetteer.sh` from live servers and the manual.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

static NAMES: &str = include_str!("../gazetteer/names.tsv");

/// What a name is the name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NameKind {
    /// A setting (GUC).
    Setting,
    /// A statistics view or one like it.
    View,
    /// A column of one.
    Column,
    /// A wait event.
    WaitEvent,
    /// An error code.
    SqlState,
}

/// A name with what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// What it names.
    pub kind: NameKind,
    /// As it is written: `work_mem`, `pg_stat_activity`, `wait_event`, `DataFileRead`, `40P01`.
    pub name: &'static str,
    /// The setting's category, the column's view, the wait event's type, the name of the error condition.
    pub of: &'static str,
    /// What it means, in the server's words; may be empty.
    pub about: &'static str,
}

/// All names, by word.
pub struct Gazetteer {
    names: Vec<Name>,
    /// Names by their lower-case word, and error codes by their condition.
    by_word: HashMap<String, Vec<usize>>,
}

/// The names of the shipped list.
pub fn builtin() -> &'static Gazetteer {
    static GAZETTEER: LazyLock<Gazetteer> = LazyLock::new(|| Gazetteer::parse(NAMES));
    &GAZETTEER
}

impl Gazetteer {
    fn parse(text: &'static str) -> Self {
        let names: Vec<Name> = text.lines().filter_map(name).collect();
        let mut by_word: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, name) in names.iter().enumerate() {
            by_word.entry(name.name.to_ascii_lowercase()).or_default().push(at);
            if name.kind == NameKind::SqlState {
                by_word.entry(name.of.to_owned()).or_default().push(at);
            }
        }
        Self { names, by_word }
    }

    /// All names, by kind.
    pub fn iter(&self) -> impl Iterator<Item = &Name> {
        self.names.iter()
    }

    /// The names that stand in a text as words, each once, by kind and name; a column that several views have is named
    /// once, with its first view, unless the text says which (`pg_stat_activity.state`).
    ///
    /// Names that are ordinary words too (`port`, `relation`, `state`, 22000) count only where the text tells them from
    /// those: in backquotes, with their view or type before them, or beside the word SQLSTATE.
    pub fn find(&self, text: &str) -> Vec<Name> {
        let mut found = BTreeSet::new();
        let mut codes: Option<bool> = None;
        let (mut before, mut before_end) = ("", 0);
        for (start, word) in words(text) {
            if let Some(at) = self.by_word.get(lower(word).as_ref()) {
                let gap = text.get(before_end..start).unwrap_or_default();
                let quoted = text[..start].ends_with('`') && text[start + word.len()..].starts_with('`');
                let owner = matches!(gap, "." | ":" | "/" | " / ").then_some(before);
                let fits = |name: &&Name| match name.kind {
                    NameKind::SqlState if word.bytes().all(|b| b.is_ascii_digit()) => *codes.get_or_insert_with(|| speaks_of_codes(text)),
                    NameKind::SqlState => word == name.name || word == name.of,
                    NameKind::WaitEvent if owner == Some(name.of) => true,
                    // Their types have names of their own, and `Timeout` or `Extension` is a word.
                    NameKind::WaitEvent => word == name.name && (distinct(word) || quoted),
                    NameKind::Column => owner == Some(name.of) || distinct(word) || quoted,
                    NameKind::Setting | NameKind::View => distinct(word) || quoted,
                };
                let mut names: Vec<&Name> = at.iter().filter_map(|at| self.names.get(*at)).filter(fits).collect();
                if let Some(exact) = names.iter().find(|n| owner == Some(n.of)).copied() {
                    names = vec![exact];
                } else if let Some(column) = names.iter().position(|n| n.kind == NameKind::Column) {
                    let first = names.remove(column);
                    names.retain(|n| n.kind != NameKind::Column);
                    names.push(first);
                }
                found.extend(names);
            }
            (before, before_end) = (word, start + word.len());
        }
        found.into_iter().copied().collect()
    }
}

fn name(line: &'static str) -> Option<Name> {
    let mut fields = line.split('\t');
    let kind = match fields.next()? {
        "setting" => NameKind::Setting,
        "view" => NameKind::View,
        "column" => NameKind::Column,
        "wait" => NameKind::WaitEvent,
        "sqlstate" => NameKind::SqlState,
        _ => return None,
    };
    Some(Name { kind, name: fields.next()?, of: fields.next()?, about: fields.next().unwrap_or_default() })
}

/// Words with their places: letters, digits and `_`.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = text.get(at..)?;
        let start = at + rest.find(word)?;
        let rest = &text[start..];
        let end = start + rest.find(|c| !word(c)).unwrap_or(rest.len());
        at = end;
        Some((start, &text[start..end]))
    })
}

fn lower(word: &str) -> std::borrow::Cow<'_, str> {
    if word.bytes().any(|b| b.is_ascii_uppercase()) { word.to_ascii_lowercase().into() } else { word.into() }
}

/// A name that no prose has: with `_`, or with capitals inside.
fn distinct(word: &str) -> bool {
    word.contains('_') || word.bytes().skip(1).any(|b| b.is_ascii_uppercase()) && word.bytes().any(|b| b.is_ascii_lowercase())
}

fn speaks_of_codes(text: &str) -> bool {
    ["SQLSTATE", "sqlstate", "SqlState", "error code", "Error Code", "ERRCODE", "错误码", "错误代码"].iter().any(|sign| text.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(NameKind, &'static str)> {
        builtin().find(text).iter().map(|n| (n.kind, n.name)).collect()
    }

    #[test]
    fn the_list_is_whole() {
        let count = |kind| builtin().iter().filter(|n| n.kind == kind).count();
        assert!(count(NameKind::Setting) > 300 && count(NameKind::View) > 30 && count(NameKind::Column) > 250);
        assert!(count(NameKind::WaitEvent) > 200 && count(NameKind::SqlState) > 230);
    }

    #[test]
    fn names_are_found_and_words_are_not() {
        assert_eq!(
            found("Raise WORK_MEM; see wait_event = DataFileRead in pg_stat_activity."),
            [
                (NameKind::Setting, "work_mem"),
                (NameKind::View, "pg_stat_activity"),
                (NameKind::Column, "wait_event"),
                (NameKind::WaitEvent, "DataFileRead")
            ]
        );
        assert_eq!(found("The port of a relation in this state: timeout after 22000 ms, an extension."), []);
        assert_eq!(found("Lock:relation, then `port`"), [(NameKind::Setting, "port"), (NameKind::WaitEvent, "relation")]);
        assert_eq!(builtin().find("pg_stat_activity.state")[1].of, "pg_stat_activity");
        assert_eq!(found("错误码 53300 与 40P01"), [(NameKind::SqlState, "40P01"), (NameKind::SqlState, "53300")]);
        assert_eq!(found("raises deadlock_detected"), [(NameKind::SqlState, "40P01")]);
    }
}
