//! Whether remedies can be acted on: a statement that parses, and that names the object it is about.

use serde::{Deserialize, Serialize};

use galen_tools::model::{Culprit, CulpritKind};
use galen_tools::sql::features;

use super::record::Expected;
use crate::report::Remedy;

/// What the remedies of a cause are worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedies {
    /// Remedies given.
    pub given: u32,
    /// Of these with a statement that PostgreSQL's parser takes as it stands.
    pub parse: u32,
    /// Of these that also name a culprit of the cause, or one that was expected.
    pub name_culprit: u32,
}

/// Counts the remedies of a cause.
pub fn check(remedies: &[Remedy], culprits: &[Culprit], expected: &[Expected]) -> Remedies {
    let mut counted = Remedies { given: remedies.len() as u32, ..Remedies::default() };
    let names = names(culprits, expected);
    for remedy in remedies.iter().filter(|r| parses(&r.sql)) {
        counted.parse += 1;
        let text = remedy.sql.to_lowercase();
        counted.name_culprit += u32::from(names.iter().any(|name| text.contains(name.as_str())));
    }
    counted
}

/// Every statement of the text parses; a text of comments alone is advice, not a statement.
fn parses(sql: &str) -> bool {
    let bare = without_comments(sql);
    let statements: Vec<&str> = bare.split(';').map(str::trim).filter(|s| !s.is_empty()).collect();
    // The reader of statements forgives three dots, which the server does not.
    !bare.contains("...") && !statements.is_empty() && statements.iter().all(|s| features(s).is_some_and(|f| f.parsed))
}

fn without_comments(sql: &str) -> String {
    sql.lines().map(|line| line.split("--").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Names, in lower case, by which a statement may mean a culprit: its id, for tables without the schema too, and the
/// tables of a query.
fn names(culprits: &[Culprit], expected: &[Expected]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for culprit in culprits {
        let id = culprit.id.to_lowercase();
        match culprit.kind {
            CulpritKind::Query => {
                names.push(id);
                names.extend(features(&culprit.text).map(|f| f.tables).unwrap_or_default().iter().map(|t| t.to_lowercase()));
            }
            CulpritKind::Table | CulpritKind::Index => {
                names.extend(id.rsplit('.').next().map(str::to_owned));
                names.push(id);
            }
            CulpritKind::Session | CulpritKind::Setting | CulpritKind::Host => names.push(id),
        }
    }
    names.extend(expected.iter().map(|e| e.pattern.to_lowercase()));
    // A name of one or two letters is found in anything.
    names.retain(|n| n.len() > 2);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remedy(sql: &str) -> Remedy {
        Remedy { sql: sql.into(), ..Remedy::default() }
    }

    fn culprit(kind: CulpritKind, id: &str, text: &str) -> Culprit {
        Culprit { kind, id: id.into(), text: text.into() }
    }

    #[test]
    fn a_statement_counts_and_advice_in_comments_does_not() {
        let table = [culprit(CulpritKind::Table, "public.orders", "")];
        let given = [
            remedy("CREATE INDEX CONCURRENTLY ON orders (customer_id); -- takes a while"),
            remedy("-- in the application: fewer commits to orders"),
            remedy("VACUUM (ANALYZE) public.items;"),
            remedy("EXPLAIN <statement 7>;"),
        ];
        assert_eq!(check(&given, &table, &[]), Remedies { given: 4, parse: 2, name_culprit: 1 });
    }

    #[test]
    fn a_query_is_named_by_its_id_or_its_table_and_an_expected_object_by_its_pattern() {
        let query = [culprit(CulpritKind::Query, "77812", "SELECT * FROM shop.carts WHERE id = $1")];
        assert_eq!(check(&[remedy("ANALYZE shop.carts;")], &query, &[]).name_culprit, 1);
        assert_eq!(check(&[remedy("SELECT pg_cancel_backend(1) FROM x WHERE q = 77812;")], &query, &[]).name_culprit, 1);
        let expected = [Expected { kind: CulpritKind::Setting, pattern: "work_mem".into() }];
        assert_eq!(check(&[remedy("ALTER SYSTEM SET work_mem = '64MB';")], &[], &expected).name_culprit, 1);
    }
}
