//! Whether a text obeys a GBNF grammar. A server far away may not know the field that a grammar came in, and then
//! answers as it likes: what it says is checked here.

mod beginnings;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Deepest nesting of groups in a grammar, and of rules in a match.
const DEEPEST: usize = 200;
/// Most steps of one match.
const MOST_STEPS: usize = 2_000_000;
/// Largest grammar in bytes, and deepest nesting of its groups, that llama.cpp is given: it reads groups by recursion, and ends
/// its process where that goes too deep.
const LARGEST: usize = 256 << 10;
const DEEPEST_READ: usize = 64;
/// Most repetitions of one part, such as the two of `a*?`.
const MOST_REPEATS: usize = 8;

/// Reads a grammar that llama.cpp may be given.
///
/// # Errors
/// One line with what is wrong.
pub fn readable(text: &str) -> Result<Grammar, String> {
    if text.len() > LARGEST {
        return Err("it is too large".to_owned());
    }
    let (mut depth, mut inside) = (0_usize, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (inside, c) {
            (Some('\n'), '\n') => inside = None,
            (Some('\n'), _) => {}
            (Some(_), '\\') => {
                chars.next();
            }
            (Some(end), c) if c == end => inside = None,
            (Some(_), _) => {}
            (None, '"') => inside = Some('"'),
            (None, '[') => inside = Some(']'),
            (None, '#') => inside = Some('\n'),
            (None, '(') => depth += 1,
            (None, ')') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        if depth > DEEPEST_READ {
            return Err("its groups are nested too deeply".to_owned());
        }
    }
    let grammar = Grammar::parse(text)?;
    beginnings::check(&grammar)?;
    Ok(grammar)
}

/// A grammar that was read.
#[derive(Debug, Clone)]
pub struct Grammar {
    rules: HashMap<String, Arc<Node>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Literal(Vec<char>),
    /// Ranges, and whether they are those that do not match.
    Class(Vec<(char, char)>, bool),
    Any,
    Rule(String),
    All(Vec<Node>),
    OneOf(Vec<Node>),
    Repeat(Box<Node>, usize, Option<usize>),
}

/// What a text is to a grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// One of its texts.
    Whole,
    /// The beginning of one of its texts.
    Beginning,
    /// Neither.
    None,
    /// Too nested or too long to tell.
    Unknown,
}

impl Grammar {
    /// Reads GBNF.
    ///
    /// # Errors
    /// One line with what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { chars: text.chars().collect(), at: 0, depth: 0 };
        let mut rules = HashMap::new();
        parser.blank(true);
        while !parser.done() {
            let name = parser.name()?;
            parser.blank(true);
            for expected in "::=".chars() {
                parser.expect(expected)?;
            }
            parser.blank(true);
            let body = parser.alternatives(false)?;
            rules.insert(name, Arc::new(body));
            parser.blank(true);
        }
        let grammar = Self { rules };
        if !grammar.rules.contains_key("root") {
            return Err("the grammar has no rule `root`".to_owned());
        }
        match grammar.rules.values().find_map(|body| grammar.undefined(body)) {
            Some(name) => Err(format!("the grammar has no rule `{name}`")),
            None => Ok(grammar),
        }
    }

    fn undefined(&self, node: &Node) -> Option<String> {
        match node {
            Node::Rule(name) => (!self.rules.contains_key(name)).then(|| name.clone()),
            Node::All(list) | Node::OneOf(list) => list.iter().find_map(|n| self.undefined(n)),
            Node::Repeat(inner, ..) => self.undefined(inner),
            _ => None,
        }
    }

    /// The texts, when the grammar is nothing but a choice of some.
    pub fn choices(&self) -> Option<Vec<String>> {
        let literal = |node: &Node| match node {
            Node::Literal(chars) => Some(chars.iter().collect()),
            _ => None,
        };
        match &**self.rules.get("root")? {
            Node::OneOf(list) => list.iter().map(literal).collect(),
            other => literal(other).map(|one| vec![one]),
        }
    }

    /// How `text` fits.
    pub fn fit(&self, text: &str) -> Fit {
        let mut matcher = Matcher {
            grammar: self,
            text: text.chars().collect(),
            known: HashMap::new(),
            open: HashSet::new(),
            reached_end: false,
            steps: 0,
            gave_up: false,
        };
        let ends = matcher.ends(&Node::Rule("root".to_owned()), 0, 0);
        if ends.contains(&matcher.text.len()) {
            Fit::Whole
        } else if matcher.gave_up {
            Fit::Unknown
        } else if matcher.reached_end {
            Fit::Beginning
        } else {
            Fit::None
        }
    }
}

/// Finds where a node's matches end, by every way there is.
struct Matcher<'g> {
    grammar: &'g Grammar,
    text: Vec<char>,
    known: HashMap<(String, usize), BTreeSet<usize>>,
    /// Rules at work, so that one that begins with itself ends.
    open: HashSet<(String, usize)>,
    /// Whether some way wanted more than there is.
    reached_end: bool,
    steps: usize,
    /// Whether some way was left because it is too long.
    gave_up: bool,
}

impl Matcher<'_> {
    fn ends(&mut self, node: &Node, at: usize, depth: usize) -> BTreeSet<usize> {
        self.steps += 1;
        if depth > DEEPEST || self.steps > MOST_STEPS {
            self.gave_up = true;
            return BTreeSet::new();
        }
        match node {
            Node::Literal(chars) => {
                let left = self.text.get(at..).unwrap_or_default();
                if left.starts_with(chars) {
                    return BTreeSet::from([at + chars.len()]);
                }
                self.reached_end |= left.len() < chars.len() && chars.starts_with(left);
                BTreeSet::new()
            }
            Node::Class(ranges, negated) => self.one(at, |c| ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated),
            Node::Any => self.one(at, |_| true),
            Node::Rule(name) => self.rule(name, at, depth),
            Node::All(list) => list.iter().fold(BTreeSet::from([at]), |starts, part| self.after_each(&starts, part, depth)),
            Node::OneOf(list) => list.iter().flat_map(|part| self.ends(part, at, depth + 1)).collect(),
            Node::Repeat(inner, least, most) => self.repeat(inner, *least, *most, at, depth),
        }
    }

    fn one(&mut self, at: usize, fits: impl Fn(char) -> bool) -> BTreeSet<usize> {
        match self.text.get(at) {
            Some(c) if fits(*c) => BTreeSet::from([at + 1]),
            Some(_) => BTreeSet::new(),
            None => {
                self.reached_end = true;
                BTreeSet::new()
            }
        }
    }

    fn rule(&mut self, name: &str, at: usize, depth: usize) -> BTreeSet<usize> {
        let key = (name.to_owned(), at);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let Some(body) = self.grammar.rules.get(name).cloned() else { return BTreeSet::new() };
        if !self.open.insert(key.clone()) {
            return BTreeSet::new();
        }
        let ends = self.ends(&body, at, depth + 1);
        self.open.remove(&key);
        self.known.insert(key, ends.clone());
        ends
    }

    fn after_each(&mut self, starts: &BTreeSet<usize>, node: &Node, depth: usize) -> BTreeSet<usize> {
        starts.iter().flat_map(|at| self.ends(node, *at, depth + 1)).collect()
    }

    fn repeat(&mut self, inner: &Node, least: usize, most: Option<usize>, at: usize, depth: usize) -> BTreeSet<usize> {
        let mut now = BTreeSet::from([at]);
        let mut ends = if least == 0 { now.clone() } else { BTreeSet::new() };
        let mut count = 0;
        while most.is_none_or(|most| count < most) && !now.is_empty() {
            count += 1;
            now = self.after_each(&now, inner, depth);
            if count >= least {
                now = now.difference(&ends).copied().collect();
                ends.extend(&now);
            }
        }
        ends
    }
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn done(&self) -> bool {
        self.at >= self.chars.len()
    }

    fn next(&mut self) -> Result<char, String> {
        let c = self.peek().ok_or("the grammar ends too early")?;
        self.at += 1;
        Ok(c)
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        match self.next()? {
            c if c == wanted => Ok(()),
            c => Err(format!("`{c}` where the grammar needs `{wanted}`")),
        }
    }

    /// Skips blanks and comments, and line ends where a rule may go on over them.
    fn blank(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => self.at += 1,
                '\r' | '\n' if lines => self.at += 1,
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn name(&mut self) -> Result<String, String> {
        let begin = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
            self.at += 1;
        }
        let name: String = self.chars.get(begin..self.at).unwrap_or_default().iter().collect();
        if name.is_empty() { Err(format!("`{}` where a rule's name belongs", self.peek().unwrap_or(' '))) } else { Ok(name) }
    }

    fn alternatives(&mut self, nested: bool) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("the grammar nests too deep".to_owned());
        }
        let mut list = vec![self.sequence(nested)?];
        while self.peek() == Some('|') {
            self.at += 1;
            self.blank(true);
            list.push(self.sequence(nested)?);
        }
        self.depth -= 1;
        Ok(if list.len() == 1 { list.remove(0) } else { Node::OneOf(list) })
    }

    fn sequence(&mut self, nested: bool) -> Result<Node, String> {
        let mut list = Vec::new();
        loop {
            self.blank(nested);
            let item = match self.peek() {
                Some('"') => Node::Literal(self.quoted()?),
                Some('[') => self.class()?,
                Some('.') => {
                    self.at += 1;
                    Node::Any
                }
                Some('(') => {
                    self.at += 1;
                    self.blank(true);
                    let inner = self.alternatives(true)?;
                    self.blank(true);
                    self.expect(')')?;
                    inner
                }
                Some(c) if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') => Node::Rule(self.name()?),
                _ => break,
            };
            list.push(self.repeated(item)?);
        }
        Ok(if list.len() == 1 { list.remove(0) } else { Node::All(list) })
    }

    fn repeated(&mut self, mut item: Node) -> Result<Node, String> {
        for _ in 0..MOST_REPEATS {
            let (least, most) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => {
                    self.at += 1;
                    let bounds = self.bounds()?;
                    item = Node::Repeat(Box::new(item), bounds.0, bounds.1);
                    continue;
                }
                _ => return Ok(item),
            };
            self.at += 1;
            item = Node::Repeat(Box::new(item), least, most);
        }
        Err("a part of the grammar is repeated too often in a row".to_owned())
    }

    fn bounds(&mut self) -> Result<(usize, Option<usize>), String> {
        let mut text = String::new();
        loop {
            match self.next()? {
                '}' => break,
                c => text.push(c),
            }
        }
        let number = |part: &str| part.trim().parse::<usize>().map_err(|_| format!("`{{{text}}}` is no number of repetitions"));
        match text.split_once(',') {
            None => number(&text).map(|n| (n, Some(n))),
            Some((least, "")) => Ok((number(least)?, None)),
            Some((least, most)) => Ok((if least.trim().is_empty() { 0 } else { number(least)? }, Some(number(most)?))),
        }
    }

    fn quoted(&mut self) -> Result<Vec<char>, String> {
        self.expect('"')?;
        let mut text = Vec::new();
        loop {
            match self.next()? {
                '"' => return Ok(text),
                '\\' => text.push(self.escape()?),
                c => text.push(c),
            }
        }
    }

    fn class(&mut self) -> Result<Node, String> {
        self.expect('[')?;
        let negated = self.peek() == Some('^');
        self.at += usize::from(negated);
        let mut ranges = Vec::new();
        loop {
            let from = match self.next()? {
                ']' => return Ok(Node::Class(ranges, negated)),
                '\\' => self.escape()?,
                c => c,
            };
            let range = self.peek() == Some('-') && self.chars.get(self.at + 1).is_some_and(|c| *c != ']');
            if !range {
                ranges.push((from, from));
                continue;
            }
            self.at += 1;
            let to = match self.next()? {
                '\\' => self.escape()?,
                c => c,
            };
            ranges.push((from, to));
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let digits = match self.next()? {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            c => return Ok(c),
        };
        let text: String = self.chars.get(self.at..self.at + digits).ok_or("the grammar ends in an escape")?.iter().collect();
        self.at += digits;
        // Beyond the last character llama.cpp knows only "up to the end".
        u32::from_str_radix(&text, 16)
            .ok()
            .and_then(|c| char::from_u32(c.min(char::MAX.into())))
            .ok_or_else(|| format!("`{text}` is no character"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(grammar: &str, text: &str) -> Fit {
        Grammar::parse(grammar).unwrap().fit(text)
    }

    #[test]
    fn what_would_end_llama_cpp_is_not_given_to_it() {
        let nested = |n: usize| format!("root ::= {}\"a\"{}", "(".repeat(n), ")".repeat(n));
        assert!(readable(&nested(64)).is_ok());
        assert!(readable(&nested(65)).unwrap_err().contains("too deeply"));
        // Brackets that open no group.
        let plain = format!("root ::= {} # {}", "[(\\]] \"((\\\"((\" ".repeat(100), "(".repeat(100));
        assert!(readable(&plain).is_ok());
        assert!(readable(&"root ::= \"a\"\n".repeat(30_000)).unwrap_err().contains("too large"));
        assert!(readable(&format!("root ::= \"a\"{}", "*".repeat(100_000))).unwrap_err().contains("repeated too often"));
    }

    #[test]
    fn texts_of_a_grammar_are_told_from_others_and_from_beginnings() {
        let choice = r#"root ::= "supports" | "refutes" | "größe ↑""#;
        assert_eq!(fit(choice, "refutes"), Fit::Whole);
        assert_eq!(fit(choice, "größe"), Fit::Beginning);
        assert_eq!(fit(choice, "refutes it"), Fit::None);
        assert_eq!(fit(choice, "neutral"), Fit::None);
        assert_eq!(fit("root ::= [a-z ]+", ""), Fit::Beginning);
        assert_eq!(fit("root ::= [^a-z]{2,3}", "12"), Fit::Whole);
        assert_eq!(fit("root ::= [^a-z]{2,3}", "1234"), Fit::None);
        assert_eq!(fit("root ::= \"\\u4e00\" .?", "一x"), Fit::Whole);
    }

    #[test]
    fn rules_groups_comments_and_line_ends_are_read() {
        let json = "root ::= \"{\" pair (\",\" pair)* \"}\" # an object\npair ::= key \":\" value\n\nkey ::= \"\\\"\" [a-z_]+ \"\\\"\"\nvalue ::=\n  key |\n  number\nnumber ::= \"-\"? [0-9]+";
        assert_eq!(fit(json, "{\"a\":\"b\",\"c\":-12}"), Fit::Whole);
        assert_eq!(fit(json, "{\"a\":\"b\","), Fit::Beginning);
        assert_eq!(fit(json, "{\"a\":}"), Fit::None);
    }

    #[test]
    fn hostile_grammars_and_texts_come_to_an_end() {
        assert_eq!(fit("root ::= root \"a\" | \"a\"", "b"), Fit::None);
        assert_eq!(fit("root ::= (\"a\"*)*", &"a".repeat(300)), Fit::Whole);
        let nested = |text: &str| fit("root ::= [a-z] root | \"\"", text);
        assert_eq!((nested("abc"), nested("ab1"), nested(&"a".repeat(300))), (Fit::Whole, Fit::None, Fit::Unknown));
        assert_eq!(fit("root ::= (\"a\" | \"a\" \"a\")* \"c\"", &"a".repeat(300)), Fit::Beginning);
        assert!(Grammar::parse(&format!("root ::= {}", "(".repeat(100_000))).is_err());
        for bad in ["", "root", "root ::= x", "x ::= \"a\"", "root ::= [a", "root ::= \"a", "root ::= \"a\" )", "root ::= \"a\"{x}"] {
            assert!(Grammar::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_grammar_that_is_a_choice_says_so() {
        let choices = |text: &str| Grammar::parse(text).unwrap().choices();
        assert_eq!(choices(r#"root ::= "a" | "b c""#), Some(vec!["a".into(), "b c".into()]));
        assert_eq!(choices(r#"root ::= "a" [b]"#), None);
    }
}
