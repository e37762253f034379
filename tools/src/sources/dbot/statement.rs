//! A statement of a recorded workload: its text without literals, a stable id, and the index it creates, if any.

use pg_query::NodeEnum;
use pg_query::protobuf::{IndexStmt, Node};
use sha2::{Digest, Sha256};

/// Longer texts are not handed to the parser, only stripped of literals.
const MAX_PARSED: usize = 16 << 10;
/// The stored text is cut here, in characters.
const MAX_STORED: usize = 4000;
/// Brackets and operators: each can nest an expression one level deeper.
const DEEPENING: &str = "([+-*/|@:~!#%&^<>=?`";
/// More of them than this could exhaust the parser's stack.
const MAX_DEPTH: usize = 1000;

/// See the file's first line.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::sources) struct Statement {
    /// Fingerprint of the parsed statement, or hash of the text where it does not parse; never 0.
    pub id: i64,
    /// One line, no literals, no comments.
    pub text: String,
    /// What a CREATE INDEX makes.
    pub creates: Option<CreatedIndex>,
}

/// The index that a CREATE INDEX makes.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::sources) struct CreatedIndex {
    pub name: String,
    pub table: String,
    pub columns: Vec<String>,
    pub unique: bool,
}

impl Statement {
    /// Reads a text that may be anything.
    pub fn read(sql: &str) -> Statement {
        let plain = scan(sql, Literals::Keep);
        let simple = plain.len() <= MAX_PARSED && plain.matches(|c: char| DEEPENING.contains(c)).count() <= MAX_DEPTH;
        let parsed = simple.then(|| pg_query::normalize(&plain).ok()).flatten();
        let fingerprint = parsed.as_ref().and_then(|_| pg_query::fingerprint(&plain, 0, 0).ok());
        // Normalisation leaves the literals of utility statements: strip whatever is left.
        let text: String = scan(parsed.as_deref().unwrap_or(&plain), Literals::Drop).chars().take(MAX_STORED).collect();
        let hash = fingerprint.map_or_else(|| hash_of(&text), |known| known.value);
        // 0 means unknown.
        let id = hash.max(1).cast_signed();
        Statement { id, creates: parsed.and_then(|_| created_index(&plain)), text }
    }
}

fn hash_of(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

fn created_index(sql: &str) -> Option<CreatedIndex> {
    let head = sql.get(..32.min(sql.len())).unwrap_or_default().to_ascii_lowercase();
    if !(head.starts_with("create index") || head.starts_with("create unique index")) {
        return None;
    }
    let parsed = pg_query::parse(sql, 0).ok()?;
    let statement = parsed.protobuf.stmts.into_iter().next()?.stmt?.node?;
    let NodeEnum::IndexStmt(index) = statement else {
        return None;
    };
    index_of(&index)
}

fn index_of(index: &IndexStmt) -> Option<CreatedIndex> {
    let relation = index.relation.as_ref()?;
    // The text says no more: unqualified names are taken for those of the default schema.
    let schema = if relation.schemaname.is_empty() { "public" } else { &relation.schemaname };
    let columns: Vec<String> = index.index_params.iter().map(column_of).collect();
    // The server's own rule for an index without a name.
    let given = if index.idxname.is_empty() { format!("{}_{}_idx", relation.relname, columns.join("_")) } else { index.idxname.clone() };
    Some(CreatedIndex { name: format!("{schema}.{given}"), table: format!("{schema}.{}", relation.relname), columns, unique: index.unique })
}

fn column_of(node: &Node) -> String {
    match &node.node {
        Some(NodeEnum::IndexElem(column)) if !column.name.is_empty() => column.name.clone(),
        _ => "expr".into(),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Literals {
    Keep,
    Drop,
}

/// Removes comments and control characters, folds white space, and keeps or replaces literals by `?`. Works on any
/// text, also where it is no SQL: an unclosed string or comment reaches to the end.
fn scan(sql: &str, literals: Literals) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let (length, kind) = token(rest, out.chars().next_back());
        let (token, tail) = rest.split_at(length.clamp(first.len_utf8(), rest.len()));
        rest = tail;
        match kind {
            Token::Space if out.is_empty() || out.ends_with(' ') => {}
            Token::Space => out.push(' '),
            Token::Literal if literals == Literals::Drop => out.push('?'),
            Token::Literal | Token::Other => out.extend(token.chars().filter(|c| !c.is_control())),
        }
    }
    out.trim_end_matches([' ', ';']).to_owned()
}

enum Token {
    Space,
    Literal,
    Other,
}

/// Length in bytes and kind of the token that a text begins with.
fn token(rest: &str, before: Option<char>) -> (usize, Token) {
    let in_word = before.is_some_and(is_word);
    let first = rest.chars().next().unwrap_or(' ');
    match first {
        _ if first.is_whitespace() || first.is_control() => (first.len_utf8(), Token::Space),
        '-' if rest.starts_with("--") => (rest.find('\n').unwrap_or(rest.len()), Token::Space),
        '/' if rest.starts_with("/*") => (comment(rest), Token::Space),
        '\'' => (quoted(rest, '\'', matches!(before, Some('e' | 'E'))), Token::Literal),
        '"' => (quoted(rest, '"', false), Token::Other),
        '$' if !in_word => dollar(rest),
        '0'..='9' if !in_word => (number(rest), Token::Literal),
        _ if is_word(first) => (rest.find(|c| !is_word(c)).unwrap_or(rest.len()), Token::Other),
        _ => (first.len_utf8(), Token::Other),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Length of a quoted token; a doubled quote (or, with escapes, one after a backslash) does not end it.
fn quoted(rest: &str, quote: char, escapes: bool) -> usize {
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if escapes && c == '\\' {
            chars.next();
        } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return at + c.len_utf8();
        }
    }
    rest.len()
}

/// Comments nest.
fn comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match rest.get(at..at + 2) {
            Some("/*") => (depth, at) = (depth + 1, at + 2),
            Some("*/") if depth == 1 => return at + 2,
            Some("*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

/// `$1` is a parameter, `$tag$ ... $tag$` a string.
fn dollar(rest: &str) -> (usize, Token) {
    let body = &rest[1..];
    let digits = body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len());
    if digits > 0 {
        return (1 + digits, Token::Other);
    }
    let name = body.find(|c| !is_word(c)).unwrap_or(body.len());
    if !body[name..].starts_with('$') {
        return (1, Token::Other);
    }
    let tag = &rest[..name + 2];
    let inside = &rest[tag.len()..];
    (inside.find(tag).map_or(rest.len(), |end| tag.len() * 2 + end), Token::Literal)
}

/// Digits, fraction, exponent, hexadecimal: whatever belongs to one number.
fn number(rest: &str) -> usize {
    rest.find(|c| !(is_word(c) || c == '.')).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_same_statement_with_other_literals_has_the_same_id_and_text() {
        let one = Statement::read("SELECT * FROM t1 WHERE a = 5 AND b LIKE '%secret''s%' -- note 7\n;");
        let two = Statement::read("SELECT * FROM t1 WHERE a = 17 AND b LIKE 'x'");
        assert_eq!(one, two);
        assert_eq!(one.text, "SELECT * FROM t1 WHERE a = $1 AND b LIKE $2");
    }

    #[test]
    fn a_text_that_does_not_parse_still_loses_its_literals() {
        let odd = Statement::read("UPDATE t1 SET c = (SELECT x ... , 'pin 1234', $q$ it's $q$, E'a\\'b', 4.5e3 WHERE id =M;");
        assert_eq!(odd.text, "UPDATE t1 SET c = (SELECT x ... , ?, ?, E?, ? WHERE id =M");
        assert_eq!(odd.id, Statement::read("UPDATE t1 SET c = (SELECT x ... , 'p', $a$b$a$, E'', 1 WHERE id =M").id);
        assert!(odd.creates.is_none());
    }

    #[test]
    fn utility_statements_keep_no_literal_either() {
        let text = Statement::read("CREATE ROLE r LOGIN PASSWORD 'hunter2'").text;
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_created_index_is_read_from_the_parse_not_the_text() {
        let index = Statement::read("/* x */ create  unique index on s.t (a, lower(b)) where c > 'z';").creates.unwrap();
        assert_eq!((index.table.as_str(), index.unique), ("s.t", true));
        assert_eq!((index.columns, index.name.as_str()), (vec!["a".to_owned(), "expr".to_owned()], "s.t_a_expr_idx"));
        assert!(Statement::read("SELECT 'create index i on t(a)'").creates.is_none());
    }

    #[test]
    fn monstrous_statements_do_not_overflow_the_stack() {
        for (open, inner, close) in [
            ("(", "1", ")"),
            ("1+", "1", ""),
            ("(SELECT ", "1", ")"),
            ("a AND ", "b", ""),
            ("NOT ", "b", ""),
            ("@ ", "1", ""),
            ("ARRAY[", "1", "]"),
            ("CASE WHEN a THEN ", "1", " END"),
            ("", "x", "::a"),
            ("", "x", " IS NULL"),
        ] {
            for n in [900, 2000, 50_000] {
                let sql = format!("SELECT {}{inner}{}", open.repeat(n), close.repeat(n));
                assert!(Statement::read(&sql).text.starts_with("SELECT"));
                let index = format!("CREATE INDEX i ON t (({}{inner}{}))", open.repeat(n), close.repeat(n));
                assert!(Statement::read(&index).text.starts_with("CREATE INDEX"));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_gives_one_line_without_quotes(sql in "(\\PC|['\"$*/\\\\-]|\n|\0|[0-9]| ){0,60}") {
            let read = Statement::read(&sql);
            prop_assert!(read.id != 0);
            prop_assert!(!read.text.contains(['\n', '\0']));
            prop_assert!(read.text.matches('"').count() > 0 || !read.text.contains('\''), "{}", read.text);
        }
    }
}
