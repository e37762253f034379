//! Conditions of the catalog's tests: expressions over facts in three-valued logic, because a missing fact is
//! unknown, never zero and never false (Kleene, "Introduction to Metamathematics", 1952, section 64).

use std::collections::BTreeMap;

use serde_json::Value;

/// Named facts, as an observation gives them.
pub type Facts = BTreeMap<String, Value>;

/// Somebody who knows facts by name.
pub trait Lookup {
    /// A fact; none where it is missing.
    fn fact(&self, name: &str) -> Option<&Value>;
}

impl Lookup for Facts {
    fn fact(&self, name: &str) -> Option<&Value> {
        self.get(name)
    }
}

/// A parsed condition such as `seq_tup_read_ratio > 4 and not index_exists`.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    source: String,
    root: Expr,
}

#[derive(Debug, Clone, PartialEq)]
enum Expr {
    Fact(String),
    Const(Value),
    Not(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Compare(Box<Expr>, &'static str, Box<Expr>),
    Arithmetic(Box<Expr>, char, Box<Expr>),
    /// `known(fact)`: true when the fact is there, else false; never unknown.
    Known(String),
}

impl Condition {
    /// Parses a condition. Grammar, loosest first: `or`, `and`, `not`, comparisons (`== != < <= > >=`),
    /// `+ -`, `* /`, then a number, a 'string', `true`, `false`, a fact name, `known(name)` or parentheses.
    ///
    /// # Errors
    /// One line that says what was expected and where.
    pub fn parse(source: &str) -> Result<Self, String> {
        let tokens = tokenise(source)?;
        let mut parser = Parser { tokens: &tokens, at: 0, depth: 0 };
        let root = parser.or()?;
        match parser.peek() {
            None => Ok(Self { source: source.to_owned(), root }),
            Some(token) => Err(format!("unexpected `{token}` in condition `{source}`")),
        }
    }

    /// Evaluates over facts: `None` when it depends on a fact that is missing.
    pub fn holds(&self, facts: &impl Lookup) -> Option<bool> {
        truth(&eval(&self.root, facts)?)
    }

    /// Names of the facts it reads.
    pub fn facts(&self) -> Vec<&str> {
        let mut names = Vec::new();
        collect(&self.root, &mut names);
        names
    }

    /// The text it was parsed from.
    pub fn source(&self) -> &str {
        &self.source
    }
}

fn collect<'e>(expr: &'e Expr, names: &mut Vec<&'e str>) {
    match expr {
        Expr::Fact(name) | Expr::Known(name) => names.push(name),
        Expr::Const(_) => {}
        Expr::Not(inner) => collect(inner, names),
        Expr::And(a, b) | Expr::Or(a, b) | Expr::Compare(a, _, b) | Expr::Arithmetic(a, _, b) => {
            collect(a, names);
            collect(b, names);
        }
    }
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(b) => Some(*b),
        Value::Number(n) => n.as_f64().map(|n| n != 0.0),
        Value::String(s) => Some(!s.is_empty()),
        Value::Array(items) => Some(!items.is_empty()),
        Value::Null | Value::Object(_) => None,
    }
}

fn eval(expr: &Expr, facts: &impl Lookup) -> Option<Value> {
    match expr {
        Expr::Fact(name) => facts.fact(name).filter(|v| !v.is_null()).cloned(),
        Expr::Const(value) => Some(value.clone()),
        Expr::Known(name) => Some(Value::Bool(facts.fact(name).is_some_and(|v| !v.is_null()))),
        Expr::Not(inner) => Some(Value::Bool(!truth(&eval(inner, facts)?)?)),
        Expr::And(a, b) => kleene(a, b, facts, false),
        Expr::Or(a, b) => kleene(a, b, facts, true),
        Expr::Compare(a, op, b) => Some(Value::Bool(compare(&eval(a, facts)?, op, &eval(b, facts)?)?)),
        Expr::Arithmetic(a, op, b) => {
            let (a, b) = (eval(a, facts)?.as_f64()?, eval(b, facts)?.as_f64()?);
            let result = match op {
                '+' => a + b,
                '-' => a - b,
                '*' => a * b,
                _ => a / b,
            };
            result.is_finite().then(|| Value::from(result))
        }
    }
}

/// Conjunction and disjunction that are decided by one side alone where one side is unknown.
fn kleene(a: &Expr, b: &Expr, facts: &impl Lookup, decisive: bool) -> Option<Value> {
    let a = eval(a, facts).and_then(|v| truth(&v));
    if a == Some(decisive) {
        return Some(Value::Bool(decisive));
    }
    let b = eval(b, facts).and_then(|v| truth(&v));
    match (a, b) {
        (_, Some(b)) if b == decisive => Some(Value::Bool(decisive)),
        (Some(_), Some(_)) => Some(Value::Bool(!decisive)),
        _ => None,
    }
}

fn compare(a: &Value, op: &str, b: &Value) -> Option<bool> {
    if let (Some(a), Some(b)) = (a.as_f64(), b.as_f64()) {
        return Some(match op {
            "==" => a == b,
            "!=" => a != b,
            "<" => a < b,
            "<=" => a <= b,
            ">" => a > b,
            _ => a >= b,
        });
    }
    match op {
        "==" => Some(a == b),
        "!=" => Some(a != b),
        _ => None,
    }
}

fn tokenise(source: &str) -> Result<Vec<String>, String> {
    let mut tokens = Vec::new();
    let mut chars = source.chars().peekable();
    while let Some(&c) = chars.peek() {
        let mut token = String::new();
        if c.is_whitespace() {
            chars.next();
            continue;
        } else if c.is_ascii_alphanumeric() || c == '_' || c == '.' {
            while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.')) {
                token.push(c);
            }
        } else if c == '\'' {
            token.push(c);
            chars.next();
            while let Some(c) = chars.next_if(|c| *c != '\'') {
                token.push(c);
            }
            chars.next().ok_or_else(|| format!("unclosed string in condition `{source}`"))?;
        } else if matches!(c, '<' | '>' | '=' | '!') {
            token.push(c);
            chars.next();
            if chars.next_if(|c| *c == '=').is_some() {
                token.push('=');
            }
        } else if matches!(c, '(' | ')' | '+' | '-' | '*' | '/') {
            token.push(c);
            chars.next();
        } else {
            return Err(format!("unexpected `{c}` in condition `{source}`"));
        }
        tokens.push(token);
    }
    Ok(tokens)
}

/// Deepest nesting of parentheses and `not`; users write catalogs too.
const MAX_DEPTH: usize = 50;

struct Parser<'t> {
    tokens: &'t [String],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&str> {
        self.tokens.get(self.at).map(String::as_str)
    }

    fn take(&mut self, wanted: &str) -> bool {
        let hit = self.peek() == Some(wanted);
        self.at += usize::from(hit);
        hit
    }

    fn or(&mut self) -> Result<Expr, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("condition is nested too deeply".into());
        }
        let mut left = self.and()?;
        while self.take("or") {
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
        }
        self.depth -= 1;
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr, String> {
        let mut left = self.not()?;
        while self.take("and") {
            left = Expr::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr, String> {
        let mut negations = 0;
        while self.take("not") {
            negations += 1;
        }
        let inner = self.comparison()?;
        Ok((0..negations).fold(inner, |inner, _| Expr::Not(Box::new(inner))))
    }

    fn comparison(&mut self) -> Result<Expr, String> {
        let left = self.sum()?;
        for op in ["==", "!=", "<=", ">=", "<", ">"] {
            if self.take(op) {
                return Ok(Expr::Compare(Box::new(left), op, Box::new(self.sum()?)));
            }
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<Expr, String> {
        let mut left = self.product()?;
        while let Some(op) = ['+', '-'].into_iter().find(|op| self.take(op.encode_utf8(&mut [0; 4]))) {
            left = Expr::Arithmetic(Box::new(left), op, Box::new(self.product()?));
        }
        Ok(left)
    }

    fn product(&mut self) -> Result<Expr, String> {
        let mut left = self.atom()?;
        while let Some(op) = ['*', '/'].into_iter().find(|op| self.take(op.encode_utf8(&mut [0; 4]))) {
            left = Expr::Arithmetic(Box::new(left), op, Box::new(self.atom()?));
        }
        Ok(left)
    }

    fn atom(&mut self) -> Result<Expr, String> {
        let Some(token) = self.peek().map(str::to_owned) else {
            return Err("condition ends where a value was expected".into());
        };
        self.at += 1;
        match token.as_str() {
            "(" => {
                let inner = self.or()?;
                if self.take(")") { Ok(inner) } else { Err("missing `)` in condition".into()) }
            }
            "true" => Ok(Expr::Const(Value::Bool(true))),
            "false" => Ok(Expr::Const(Value::Bool(false))),
            "known" => {
                let name = self.tokens.get(self.at + 1).cloned().unwrap_or_default();
                let closed = self.take("(") && {
                    self.at += 1;
                    self.take(")")
                };
                if closed { Ok(Expr::Known(name)) } else { Err("known() takes one fact name".into()) }
            }
            _ if token.starts_with('\'') => Ok(Expr::Const(Value::String(token[1..].to_owned()))),
            _ if token.starts_with(|c: char| c.is_ascii_digit()) => {
                token.parse::<f64>().map(|n| Expr::Const(Value::from(n))).map_err(|_| format!("`{token}` is not a number"))
            }
            _ if token.starts_with(|c: char| c.is_ascii_alphabetic()) && !matches!(token.as_str(), "and" | "or" | "not") => {
                Ok(Expr::Fact(token))
            }
            _ => Err(format!("unexpected `{token}` in condition")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(pairs: &[(&str, Value)]) -> Facts {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect()
    }

    fn holds(source: &str, pairs: &[(&str, Value)]) -> Option<bool> {
        Condition::parse(source).unwrap().holds(&facts(pairs))
    }

    #[test]
    fn missing_facts_are_unknown_not_false() {
        assert_eq!(holds("a > 3", &[]), None);
        assert_eq!(holds("not a > 3", &[]), None);
        assert_eq!(holds("a > 3 and b > 1", &[("b", 0.into())]), Some(false));
        assert_eq!(holds("a > 3 or b > 1", &[("b", 2.into())]), Some(true));
        assert_eq!(holds("a > 3 or b > 1", &[("b", 0.into())]), None);
        assert_eq!(holds("known(a) and a > 3", &[]), Some(false));
    }

    #[test]
    fn precedence_is_the_usual_one() {
        let f = [("a", 2.into()), ("b", 3.into()), ("s", "Lock".into()), ("flag", true.into())];
        assert_eq!(holds("a + b * 2 == 8", &f), Some(true));
        assert_eq!(holds("not flag or s == 'Lock' and b > a", &f), Some(true));
        assert_eq!(holds("(a > 5 or flag) and s != 'IO'", &f), Some(true));
        assert_eq!(holds("a / 0 > 1", &f), None);
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for bad in ["", "a >", "a > 3)", "(a", "a ; drop", "'open", "known(", "and", "3x > 1"] {
            assert!(Condition::parse(bad).is_err(), "{bad}");
        }
        assert!(Condition::parse(&"(".repeat(10_000)).is_err());
    }
}
