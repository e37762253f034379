//! In how many ways the rules of a grammar begin each other: llama.cpp walks each of them to find a rule that begins with itself.

use std::collections::HashMap;

use super::{Grammar, Node};

/// Most rules that may lead to each other in a row: the walk is a recursion.
const LONGEST_CHAIN: usize = 1_000;
/// Most ways from a rule to what comes first.
const MOST_WAYS: u64 = 1_000_000;

const TOO_LONG: &str = "its rules lead to each other in too long a row";

/// Whether the walk comes to an end soon.
///
/// # Errors
/// One line with what is wrong.
pub fn check(grammar: &Grammar) -> Result<(), String> {
    let mut beginnings = Beginnings { grammar, known: HashMap::new() };
    for name in grammar.rules.keys() {
        if beginnings.of_rule(name, 0)?.ways > MOST_WAYS {
            return Err("its rules begin each other in too many ways".to_owned());
        }
    }
    Ok(())
}

/// How a part of a grammar begins.
#[derive(Debug, Clone, Copy, Default)]
struct Beginning {
    /// Ways through rules to what comes first.
    ways: u64,
    /// Whether it may be empty, so that what follows comes first too.
    empty: bool,
    /// How deep the longest of these ways goes.
    depth: usize,
}

struct Beginnings<'g> {
    grammar: &'g Grammar,
    /// A rule at work has none yet: one that begins with itself is llama.cpp's to refuse.
    known: HashMap<&'g str, Beginning>,
}

impl<'g> Beginnings<'g> {
    fn of_rule(&mut self, name: &str, chain: usize) -> Result<Beginning, String> {
        let Some((name, body)) = self.grammar.rules.get_key_value(name) else { return Ok(Beginning::default()) };
        if let Some(known) = self.known.get(name.as_str()) {
            return Ok(*known);
        }
        self.known.insert(name, Beginning::default());
        let body = self.of(body, chain)?;
        // What was known of an inner rule is no recursion here, but is one in llama.cpp.
        let found = Beginning { ways: body.ways.saturating_add(1), depth: body.depth + 1, ..body };
        if found.depth > LONGEST_CHAIN {
            return Err(TOO_LONG.to_owned());
        }
        self.known.insert(name, found);
        Ok(found)
    }

    fn of(&mut self, node: &'g Node, chain: usize) -> Result<Beginning, String> {
        // llama.cpp makes a rule of each group and of each repetition.
        if chain > LONGEST_CHAIN {
            return Err(TOO_LONG.to_owned());
        }
        let chain = chain + 1;
        Ok(match node {
            Node::Literal(chars) => Beginning { empty: chars.is_empty(), ..Beginning::default() },
            Node::Class(..) | Node::Any => Beginning::default(),
            Node::Rule(name) => self.of_rule(name, chain)?,
            Node::All(list) => {
                let mut all = Beginning { empty: true, ..Beginning::default() };
                for part in list {
                    let part = self.of(part, chain)?;
                    all = Beginning { ways: all.ways.saturating_add(part.ways), empty: part.empty, depth: all.depth.max(part.depth) };
                    if !part.empty {
                        break;
                    }
                }
                all
            }
            Node::OneOf(list) => {
                let mut any = Beginning { ways: 1, empty: false, depth: 1 };
                for part in list {
                    let part = self.of(part, chain)?;
                    any = Beginning {
                        ways: any.ways.saturating_add(part.ways),
                        empty: any.empty || part.empty,
                        depth: any.depth.max(part.depth + 1),
                    };
                }
                any
            }
            Node::Repeat(inner, least, _) => {
                let inner = self.of(inner, chain)?;
                let times = if inner.empty { (*least).max(1) as u64 } else { 1 };
                Beginning {
                    ways: inner.ways.saturating_mul(times).saturating_add(1),
                    empty: inner.empty || *least == 0,
                    depth: inner.depth + 1,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::readable;

    #[test]
    fn a_walk_without_end_is_refused_and_a_long_grammar_is_not() {
        let doubling = |rules: usize| {
            let rule = |i: usize| format!("a{i} ::= a{} \"x\" | a{} \"y\"\n", i + 1, i + 1);
            format!("root ::= a0\n{}a{rules} ::= \"z\"\n", (0..rules).map(rule).collect::<String>())
        };
        assert!(readable(&doubling(15)).is_ok());
        assert!(readable(&doubling(40)).unwrap_err().contains("too many ways"));
        // Where something is read first, nothing branches.
        let read: String = (0..500).map(|i| format!("a{i} ::= \"{i}\" a{} | \"x\" a{}\n", i + 1, i + 1)).collect();
        assert!(readable(&format!("root ::= a0\n{read}a500 ::= \"z\"\n")).is_ok());
        // What may be empty lets the next one begin.
        let empty: String = (0..40).map(|i| format!("a{i} ::= \"\" a{} | (\"q\")* a{}\n", i + 1, i + 1)).collect();
        assert!(readable(&format!("root ::= a0\n{empty}a40 ::= \"z\"\n")).unwrap_err().contains("too many ways"));
        let chain: String = (0..5_000).map(|i| format!("a{i} ::= a{}\n", i + 1)).collect();
        assert!(readable(&format!("root ::= a0\n{chain}a5000 ::= \"z\"\n")).unwrap_err().contains("too long a row"));
        let nested: String = (0..300).map(|i| format!("a{i} ::= ((a{}*)?)+\n", i + 1)).collect();
        assert!(readable(&format!("root ::= a0\n{nested}a300 ::= \"z\"\n")).unwrap_err().contains("too long a row"));
        assert!(readable("root ::= root \"x\" | \"y\"").is_ok(), "llama.cpp itself refuses this one");
    }
}
