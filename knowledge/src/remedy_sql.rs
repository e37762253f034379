//! The SQL of remedies: templates over facts whose values may be hostile, since they are names out of a database.
//!
//! A value inside a string literal has its quotes doubled, one before `::regclass` is quoted as a name first, and a bare
//! one becomes a number or a quoted identifier. Only what the filter `sql` marks goes in as it is: statements and names
//! that Galen itself has made out of quoted parts.

use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};

use crate::template;

/// Stand around a value between rendering and quoting; private use, and removed from the values themselves.
const OPEN: char = '\u{e000}';
const CLOSE: char = '\u{e001}';

/// Renders the statements of remedies.
#[derive(Debug, Clone)]
pub struct RemedySql {
    env: Environment<'static>,
}

impl Default for RemedySql {
    fn default() -> Self {
        let mut env = Environment::new();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_fuel(Some(200_000));
        template::add_filters(&mut env);
        env.add_filter("sql", |text: String| Value::from_safe_string(text));
        env.set_formatter(mark);
        Self { env }
    }
}

impl RemedySql {
    /// Renders one statement.
    ///
    /// # Errors
    /// One line, when the template does not parse or names a fact that is missing.
    pub fn render(&self, template: &str, context: Value) -> Result<String, String> {
        self.env.render_str(template, context).map(|text| quote(&text)).map_err(|e| e.to_string())
    }
}

/// Writes a value; text that is not marked as SQL stands between [`OPEN`] and [`CLOSE`].
fn mark(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let failed = |_| Error::new(ErrorKind::WriteFailure, "the statement could not be written");
    match value.as_str().filter(|_| !value.is_safe()) {
        Some(text) => {
            let plain: String = text.chars().filter(|c| !c.is_control() && !matches!(*c, OPEN | CLOSE)).collect();
            write!(out, "{OPEN}{plain}{CLOSE}").map_err(failed)
        }
        None => write!(out, "{value}").map_err(failed),
    }
}

/// Puts the marked values in, each as its place demands.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_literal = false;
    let mut rest = text;
    while let Some(at) = rest.find([OPEN, '\'']) {
        out.push_str(&rest[..at]);
        let found = &rest[at..];
        if let Some(after) = found.strip_prefix('\'') {
            in_literal = !in_literal;
            out.push('\'');
            rest = after;
            continue;
        }
        let (value, after) = found[OPEN.len_utf8()..].split_once(CLOSE).unwrap_or(("", ""));
        match (in_literal, after.starts_with("'::regclass")) {
            (true, true) => out.push_str(&name(value).replace('\'', "''")),
            (true, false) => out.push_str(&value.replace('\'', "''")),
            (false, _) if value.parse::<f64>().is_ok() => out.push_str(value),
            (false, _) => out.push_str(&name(value)),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// A name, perhaps with its schema, as SQL writes it.
fn name(raw: &str) -> String {
    match raw.split_once('.') {
        Some((schema, object)) => format!("{}.{}", identifier(schema), identifier(object)),
        None => identifier(raw),
    }
}

fn identifier(raw: &str) -> String {
    let first = raw.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let plain = first && raw.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { raw.to_owned() } else { format!("\"{}\"", raw.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;

    fn render(template: &str, value: &str) -> String {
        RemedySql::default().render(template, context! { v => value }).unwrap()
    }

    #[test]
    fn names_are_quoted_where_they_must_be() {
        assert_eq!(render("ANALYZE {{ v }};", "public.orders"), "ANALYZE public.orders;");
        assert_eq!(render("ANALYZE {{ v }};", "public.Orders2"), "ANALYZE public.\"Orders2\";");
        assert_eq!(render("WHERE relid = '{{ v }}'::regclass", "public.Orders2"), "WHERE relid = 'public.\"Orders2\"'::regclass");
        assert_eq!(render("queryid = {{ v }};", "-377"), "queryid = -377;");
        assert_eq!(render("{{ v|sql }};", "DROP INDEX \"A\""), "DROP INDEX \"A\";");
        assert!(RemedySql::default().render("{{ missing }}", context! {}).is_err());
    }

    #[test]
    fn a_hostile_value_stays_inside_its_quotes() {
        for hostile in
            ["x'); DROP TABLE hot; --", "a\"; DROP TABLE hot; --", "a\u{e001}'; DROP TABLE hot; --\u{e000}", "a\n; DROP TABLE hot"]
        {
            for template in ["SELECT f('{{ v }}');", "VACUUM {{ v }};", "SELECT '{{ v }}'::regclass;", "ALTER ROLE {{ v }} RESET a;"] {
                let sql = render(template, hostile);
                assert_eq!(outside_quotes(&sql), outside_quotes(&render(template, "Plain")), "{sql}");
            }
        }
    }

    /// What stands outside of literals and quoted identifiers.
    fn outside_quotes(sql: &str) -> String {
        let (mut out, mut open) = (String::new(), None);
        let mut chars = sql.chars().peekable();
        while let Some(c) = chars.next() {
            match open {
                Some(quote) if c == quote && chars.peek() == Some(&quote) => drop(chars.next()),
                Some(quote) if c == quote => open = None,
                Some(_) => {}
                None if c == '\'' || c == '"' => open = Some(c),
                None => out.push(c),
            }
        }
        out
    }
}
