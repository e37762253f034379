//! Removes literals from SQL. No text of a target is stored, shown or sent to a model before it went through here.

use sha2::{Digest, Sha256};

/// The statement without literals and comments: `pg_query` replaces what it can parse by `$n`; whatever is left (and
/// everything in texts that do not parse, such as truncated ones) is replaced by `'?'` and `?` by a scanner.
pub fn normalise(sql: &str) -> String {
    match pg_query::normalize(sql) {
        // Numbers left in a plain statement are type modifiers and ordinals; in a utility statement they may be data.
        Ok(text) => scrub(&text, is_utility(sql), |_| "'?'".to_owned()),
        Err(_) => scrub(sql, true, |_| "'?'".to_owned()),
    }
}

/// A 64-bit id of the statement's shape, for servers that compute none. Never 0.
pub fn fingerprint(sql: &str) -> i64 {
    let value = match pg_query::fingerprint(sql, 0, 0) {
        Ok(print) => print.value as i64,
        Err(_) => {
            let shape = normalise(sql).split_whitespace().collect::<Vec<_>>().join(" ");
            short_hash(&shape) as i64
        }
    };
    if value == 0 { 1 } else { value }
}

/// A definition out of the catalog with its string literals replaced by two bytes of their hash, so that two
/// different predicates stay different and nothing of them can be read.
pub fn schema(definition: &str) -> String {
    scrub(definition, false, |literal| format!("'?{:04x}'", short_hash(literal) & 0xffff))
}

fn is_utility(sql: &str) -> bool {
    pg_query::is_utility_stmt(sql).map_or(true, |kinds| kinds.contains(&true))
}

fn short_hash(text: &str) -> u64 {
    Sha256::digest(text.as_bytes()).iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

/// Copies `sql` without comments, each string replaced by `string(literal)`, numbers by `?` where asked for.
/// What is not closed (a truncated text) counts as a literal up to the end.
fn scrub(sql: &str, numbers: bool, string: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '-' if rest.starts_with("--") => {
                out.push(' ');
                rest.find('\n').unwrap_or(rest.len())
            }
            '/' if rest.starts_with("/*") => {
                out.push(' ');
                comment_length(rest)
            }
            '\'' => {
                let length = quoted_length(rest, '\'', ends_in_escape_prefix(&out));
                out.push_str(&string(&rest[..length]));
                length
            }
            '"' => {
                let length = quoted_length(rest, '"', false);
                let closed = length > 1 && rest[..length].ends_with('"');
                out.push_str(if closed { &rest[..length] } else { "\"?\"" });
                length
            }
            '$' => match dollar_quoted_length(rest) {
                Some(length) => {
                    out.push_str(&string(&rest[..length]));
                    length
                }
                None => copy(&mut out, rest, 1 + leading(&rest[1..], |c| c.is_ascii_digit())),
            },
            c if c.is_ascii_digit() => {
                let length = leading(rest, |c| c.is_ascii_alphanumeric() || c == '.' || c == '_');
                if numbers {
                    out.push('?');
                    length
                } else {
                    copy(&mut out, rest, length)
                }
            }
            c if is_word(c) => copy(&mut out, rest, leading(rest, |c| is_word(c) || c == '$')),
            c => copy(&mut out, rest, c.len_utf8()),
        };
        rest = &rest[length..];
    }
    out.trim().trim_end_matches(';').trim_end().to_owned()
}

fn copy(out: &mut String, rest: &str, length: usize) -> usize {
    out.push_str(&rest[..length]);
    length
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()
}

/// Bytes of the leading characters that satisfy `like`.
fn leading(text: &str, like: impl Fn(char) -> bool) -> usize {
    text.find(|c| !like(c)).unwrap_or(text.len())
}

/// True after `E` alone: in the string that follows, a backslash escapes.
fn ends_in_escape_prefix(out: &str) -> bool {
    let mut back = out.chars().rev();
    matches!(back.next(), Some('e' | 'E')) && !back.next().is_some_and(is_word)
}

fn quoted_length(text: &str, quote: char, backslash: bool) -> usize {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && backslash {
            chars.next();
        } else if c == quote {
            match chars.peek() {
                Some((_, next)) if *next == quote => {
                    chars.next();
                }
                _ => return at + 1,
            }
        }
    }
    text.len()
}

fn comment_length(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(found) = text[at..].find(['/', '*']) {
        at += found;
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth.saturating_sub(1), at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Length of `$tag$...$tag$`, if a dollar quote begins here.
fn dollar_quoted_length(text: &str) -> Option<usize> {
    let tag_length = leading(&text[1..], is_word);
    let tag = text.get(..tag_length + 2).filter(|tag| tag.ends_with('$'))?;
    if tag[1..].starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    Some(text[tag.len()..].find(tag).map_or(text.len(), |end| tag.len() * 2 + end))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn no_literal_survives_whether_the_text_parses_or_not() {
        for sql in [
            "SELECT * FROM t WHERE a = 'SECRET' AND b = 4711 -- SECRET 4711",
            "SELECT /* SECRET /* 4711 */ SECRET */ 1",
            "ALTER ROLE bob PASSWORD 'SECRET'",
            "CREATE TABLE t (a int DEFAULT 4711, b text DEFAULT 'SECRET')",
            "DO $x$ BEGIN PERFORM 'SECRET'; END $x$",
            "SELECT interval 'SECRET'",
            "SELECT * FROM t WHERE a = 'SECRET",
            "SELECT * FROM t WHERE WHERE a = E'it\\'s SECRET' AND x = 4711.5e3",
            "SELECT $tag$SECRET",
            "garbage 'SECRET' \"SECRET",
            "COPY t FROM '/SECRET/4711'",
            "/* SECRET",
            "SET app.token = 'SECRET'",
        ] {
            let text = normalise(sql);
            assert!(!text.contains("SECRET") && !text.contains("4711"), "{sql} -> {text}");
        }
    }

    #[test]
    fn what_is_not_a_literal_stays() {
        assert_eq!(normalise("SELECT \"Col1\", $1 FROM t1 WHERE x2 = 7;"), "SELECT \"Col1\", $1 FROM t1 WHERE x2 = $2");
        assert_eq!(normalise("select a::numeric(10,2) from t"), "select a::numeric(10,2) from t");
    }

    #[test]
    fn a_fingerprint_depends_on_the_shape_alone() {
        assert_eq!(fingerprint("SELECT a FROM t WHERE b = 1"), fingerprint("select a from t where b = $1"));
        assert_ne!(fingerprint("SELECT a FROM t"), fingerprint("SELECT a FROM u"));
        let cut = |n| format!("SELECT a FROM t WHERE b = {n} AND (c");
        assert_eq!(fingerprint(&cut(1)), fingerprint(&cut(22)));
    }

    #[test]
    fn different_predicates_of_indexes_stay_different() {
        let index = |state: &str| schema(&format!("CREATE INDEX i ON s.t USING btree (a) WHERE (b = '{state}'::text)"));
        assert!(!index("paid").contains("paid"));
        assert_ne!(index("paid"), index("open"));
        assert_eq!(index("paid"), index("paid"));
    }

    #[test]
    fn odd_input_does_not_panic() {
        for sql in ["", "'", "$", "$$", "$é$x", "é'ü", "\"", "/*", "--", "\0", "E'\\", "1", "*/ a", "($1"] {
            normalise(sql);
            fingerprint(sql);
            schema(sql);
        }
        normalise(&"(".repeat(20_000));
    }
}
