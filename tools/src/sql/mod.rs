//! What can be read off a statement's text: verb, tables, predicates, joins, correlated subqueries (pg_query).

mod walk;

use std::collections::BTreeSet;

use serde_json::Value;

use walk::{columns_of, derived_tables, find_all, ident, range_tables, without_subqueries};

/// Longest text that is parsed, bytes.
const MOST_BYTES: usize = 64 * 1024;
/// Deepest nesting of parentheses that is parsed: the parser's own stack is finite.
const MOST_DEPTH: usize = 200;

/// Features of one statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// The text was parsed; false when verb and tables were guessed by keywords.
    pub parsed: bool,
    /// `select`, `insert`, `update`, `delete`, `merge`, `copy`, `ddl`, `vacuum` or `other`.
    pub verb: String,
    /// Tables named, as written.
    pub tables: Vec<String>,
    /// The table that is written, created on or altered.
    pub target: Option<String>,
    /// Columns compared with values in WHERE: table or alias as resolved (empty when unqualified), column, `eq` or `range`.
    pub predicates: Vec<Predicate>,
    /// Tables joined, minus one.
    pub joins: usize,
    /// Two tables are joined and no condition connects them.
    pub cartesian: bool,
    /// Two tables are joined by other conditions than equality alone: every row of one has to be compared with every row of
    /// the other.
    pub unequal: bool,
    /// A subquery refers to a column of the outer query.
    pub correlated: bool,
    /// LIMIT or FETCH FIRST at top level.
    pub has_limit: bool,
    /// WHERE at top level.
    pub has_where: bool,
    /// An aggregate function or GROUP BY at top level.
    pub aggregates: bool,
    /// ORDER BY, DISTINCT or GROUP BY: it sorts or hashes.
    pub sorts: bool,
    /// INSERT ... SELECT or COPY FROM: many rows a call.
    pub loads: bool,
    /// A SELECT that neither changes rows in a WITH query, nor makes a table, nor locks rows.
    pub reads_only: bool,
    /// Name, table and columns of the index that CREATE INDEX makes.
    pub creates_index: Option<(String, String, Vec<String>)>,
}

/// A column compared with a value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Predicate {
    /// Table as resolved through its alias; empty when the column is unqualified.
    pub table: String,
    /// Column.
    pub column: String,
    /// True for equality (and IN), false for ranges and patterns.
    pub equality: bool,
}

/// Everything a statement names that could lead to code: for a check against the catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Functions without schema, and columns, since `f(t)` may be written `t.f`; sorted.
    pub functions: Vec<String>,
    /// Operators without schema; sorted.
    pub operators: Vec<String>,
    /// Relations as named, perhaps with schema; sorted.
    pub relations: Vec<String>,
}

/// The names in one statement at every level of nesting; none when it does not parse.
pub fn names(text: &str) -> Option<Names> {
    if depth(text) > MOST_DEPTH {
        return None;
    }
    let parsed = pg_query::parse(text, pg_query::ParserOptions::default()).ok()?;
    let tree = serde_json::to_value(&parsed.protobuf).ok()?;
    let mut functions: BTreeSet<String> = find_all(&tree, "FuncCall").iter().map(|call| ident(&call["funcname"])).collect();
    functions.extend(columns_of(&tree).into_iter().map(|(_, column)| column));
    // `(expression).f` is an indirection: its names are strings of their own.
    functions.extend(find_all(&tree, "AIndirection").iter().map(|node| ident(&node["indirection"])));
    let operators: BTreeSet<String> = ["AExpr", "SubLink"]
        .iter()
        .flat_map(|kind| find_all(&tree, kind))
        .map(|node| ident(if node["name"].is_array() { &node["name"] } else { &node["oper_name"] }))
        .collect();
    let relations: BTreeSet<String> = parsed.tables().into_iter().collect();
    let list = |set: BTreeSet<String>| set.into_iter().filter(|name| !name.is_empty()).collect();
    Some(Names { functions: list(functions), operators: list(operators), relations: list(relations) })
}

/// The statement written anew from its parse tree, for EXPLAIN; none unless the text is exactly one statement that has a plan.
pub fn explainable(text: &str) -> Option<String> {
    use pg_query::NodeEnum::{DeleteStmt, InsertStmt, MergeStmt, SelectStmt, UpdateStmt};
    if text.len() > MOST_BYTES || depth(text) > MOST_DEPTH {
        return None;
    }
    let parsed = pg_query::parse(text, pg_query::ParserOptions::default()).ok()?;
    let [statement] = parsed.protobuf.stmts.as_slice() else { return None };
    match statement.stmt.as_ref()?.node.as_ref()? {
        SelectStmt(select) if select.into_clause.is_some() => None,
        SelectStmt(_) | InsertStmt(_) | UpdateStmt(_) | DeleteStmt(_) | MergeStmt(_) => {
            parsed.deparse(pg_query::DeparseOptions::default()).ok()
        }
        _ => None,
    }
}

/// How many statements a script holds; none when it does not parse.
pub fn statements(script: &str) -> Option<usize> {
    (script.len() <= MOST_BYTES && depth(script) <= MOST_DEPTH).then_some(())?;
    pg_query::parse(script, pg_query::ParserOptions::default()).ok().map(|parsed| parsed.protobuf.stmts.len())
}

/// Reads the features of one statement; none when not even its verb can be told. Placeholders of other tools
/// (`:1`, `...`) are tolerated.
pub fn features(text: &str) -> Option<Features> {
    let text = text.get(..MOST_BYTES).unwrap_or(text);
    // What the server shows of an autovacuum worker: "autovacuum: VACUUM ANALYZE public.t (to prevent wraparound)".
    let text = text.strip_prefix("autovacuum: ").map_or(text, |work| work.split(" (").next().unwrap_or(work));
    if depth(text) > MOST_DEPTH {
        return light(text);
    }
    parse(text).or_else(|| parse(&mended(text))).or_else(|| light(text))
}

fn depth(text: &str) -> usize {
    let (mut now, mut most) = (0usize, 0);
    for c in text.bytes() {
        match c {
            b'(' | b'[' => now += 1,
            b')' | b']' => now = now.saturating_sub(1),
            _ => {}
        }
        most = most.max(now);
    }
    most
}

/// Replaces `:1` by `$1` and drops `...`.
fn mended(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let casts = out.ends_with(':');
        match c {
            ':' if !casts && chars.peek().is_some_and(char::is_ascii_digit) => out.push('$'),
            '.' if chars.peek() == Some(&'.') => while chars.next_if_eq(&'.').is_some() {},
            c => out.push(c),
        }
    }
    out
}

fn parse(text: &str) -> Option<Features> {
    let parsed = pg_query::parse(text, pg_query::ParserOptions::default()).ok()?;
    let tree = serde_json::to_value(&parsed.protobuf).ok()?;
    let statement = tree.pointer("/stmts/0/stmt/node")?;
    let (kind, body) = statement.as_object()?.iter().next()?;
    let mut features = Features { parsed: true, ..Features::default() };
    // The parser keeps them in a hash set: an order of our own, or two runs differ.
    features.tables = parsed.tables();
    features.tables.sort();
    match kind.as_str() {
        "SelectStmt" => {
            features.verb = "select".into();
            select(body, &mut features);
            let writes =
                ["InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "LockingClause"].iter().any(|k| !find_all(body, k).is_empty());
            features.reads_only = !writes && body["into_clause"].is_null();
        }
        "InsertStmt" => {
            features.verb = "insert".into();
            features.target = range_tables(&body["relation"]).into_iter().next().map(|(name, _)| name);
            let source = &body["selectStmt"]["node"]["SelectStmt"];
            let source = if source.is_null() { &body["select_stmt"]["node"]["SelectStmt"] } else { source };
            let from = walk::list(source, "from_clause").len() + usize::from(!source["whereClause"].is_null());
            features.loads = from > 0 || !find_all(source, "FuncCall").iter().all(|f| !ident(&f["funcname"]).contains("generate_series"));
        }
        "UpdateStmt" | "DeleteStmt" => {
            features.verb = if kind == "UpdateStmt" { "update" } else { "delete" }.into();
            features.target = range_tables(&body["relation"]).into_iter().next().map(|(name, _)| name);
            // Tables of subqueries are not joined to the one that is written.
            let tables = range_tables(&without_subqueries(body));
            clauses(body, &tables, &mut features);
        }
        "CopyStmt" => {
            features.verb = "copy".into();
            features.loads = body["is_from"].as_bool().unwrap_or(false);
            if features.loads {
                features.verb = "insert".into();
                features.target = range_tables(&body["relation"]).into_iter().next().map(|(name, _)| name);
            }
        }
        "IndexStmt" => {
            features.verb = "ddl".into();
            let table = range_tables(&body["relation"]).into_iter().next().map(|(name, _)| name).unwrap_or_default();
            let columns =
                find_all(&body["index_params"], "IndexElem").iter().filter_map(|e| e["name"].as_str().map(str::to_owned)).collect();
            features.target = Some(table.clone());
            features.creates_index = Some((body["idxname"].as_str().unwrap_or_default().to_owned(), table, columns));
        }
        "VacuumStmt" => features.verb = if body["is_vacuumcmd"] == true { "vacuum" } else { "other" }.into(),
        "MergeStmt" => {
            features.verb = "merge".into();
            features.target = range_tables(&body["relation"]).into_iter().next().map(|(name, _)| name);
        }
        kind if kind.starts_with("Alter") || kind.starts_with("Create") || kind.starts_with("Drop") || kind.starts_with("Truncate") => {
            features.verb = "ddl".into();
        }
        _ => features.verb = "other".into(),
    }
    Some(features)
}

fn select(body: &Value, features: &mut Features) {
    let tables = range_tables(&body["from_clause"]);
    features.has_limit = !body["limit_count"].is_null();
    features.sorts = ["sort_clause", "group_clause", "distinct_clause"].iter().any(|k| !walk::list(body, k).is_empty());
    let targets = without_subqueries(&body["target_list"]);
    let aggregate = |f: &&Value| {
        let name = ident(&f["funcname"]);
        matches!(
            name.as_str(),
            "count" | "sum" | "avg" | "min" | "max" | "array_agg" | "string_agg" | "json_agg" | "jsonb_agg" | "bool_or" | "bool_and"
        )
    };
    features.aggregates = !walk::list(body, "group_clause").is_empty() || find_all(&targets, "FuncCall").iter().any(aggregate);
    clauses(body, &tables, features);
}

/// WHERE, joins and subqueries of a SELECT, UPDATE or DELETE.
fn clauses(body: &Value, tables: &[(String, String)], features: &mut Features) {
    let filter = &body["where_clause"];
    features.has_where = !filter.is_null();
    let outer = without_subqueries(body);
    let top: BTreeSet<&(String, String)> = tables.iter().collect();
    features.joins = top.len().saturating_sub(1);
    let comparisons: Vec<&Value> = find_all(&outer, "AExpr");
    for comparison in &comparisons {
        let left = columns_of(&comparison["lexpr"]);
        let right = columns_of(&comparison["rexpr"]);
        let operator = ident(&comparison["name"]);
        for (columns, other) in [(&left, &right), (&right, &left)] {
            if let ([(alias, column)], true) = (columns.as_slice(), other.is_empty()) {
                let table = tables.iter().find(|(_, a)| a == alias).map_or_else(|| alias.clone(), |(name, _)| name.clone());
                features.predicates.push(Predicate { table, column: column.clone(), equality: operator == "=" });
            }
        }
    }
    features.predicates.sort_by(|a, b| b.equality.cmp(&a.equality).then(a.column.cmp(&b.column)));
    features.predicates.dedup();
    // UPDATE and DELETE join what they write, too.
    let levels: Vec<(&Value, usize)> = match body["relation"].is_object() {
        true => vec![(body, top.len())],
        false => std::iter::once(body).chain(find_all(body, "SelectStmt")).map(|level| (level, related(level))).collect(),
    };
    features.cartesian = levels.iter().any(|(level, relations)| unconnected(level, *relations, false));
    features.unequal = !features.cartesian && levels.iter().any(|(level, relations)| unconnected(level, *relations, true));
    features.correlated = find_all(body, "SubLink").iter().any(|link| correlated(link, tables, &outer));
}

/// Relations that one level of a SELECT joins: its tables and derived tables. One that is lateral carries its condition
/// inside, and counts for none.
fn related(level: &Value) -> usize {
    let from = &level["from_clause"];
    let tables: BTreeSet<(String, String)> = range_tables(&without_subqueries(from)).into_iter().collect();
    tables.len() + derived_tables(from).iter().filter(|table| table["lateral"] != true).count()
}

/// True when one level of a statement has fewer conditions (or `equalities` alone) between columns than its relations need.
fn unconnected(level: &Value, relations: usize, equalities: bool) -> bool {
    let outer = without_subqueries(level);
    let connects = |c: &&Value| {
        let counted = !equalities || ident(&c["name"]) == "=";
        counted && !columns_of(&c["lexpr"]).is_empty() && !columns_of(&c["rexpr"]).is_empty()
    };
    let compared = find_all(&outer, "AExpr").into_iter().filter(connects).count();
    let uses = find_all(&outer, "JoinExpr").iter().filter(|j| !walk::list(j, "using_clause").is_empty() || j["is_natural"] == true).count();
    relations > 1 && compared + uses < relations - 1 && find_all(&level["from_clause"], "RangeFunction").is_empty()
}

/// A subquery is correlated when it mentions an alias of the outer query, or an unqualified column whose prefix
/// (`o_` of `o_orderkey`) is that of the outer query's columns and not of the subquery's own.
fn correlated(link: &Value, outer: &[(String, String)], outer_body: &Value) -> bool {
    let subquery = &link["subselect"];
    let own: BTreeSet<String> = range_tables(subquery).into_iter().map(|(_, alias)| alias).collect();
    let columns = columns_of(subquery);
    if columns.iter().any(|(alias, _)| !alias.is_empty() && !own.contains(alias) && outer.iter().any(|(_, a)| a == alias)) {
        return true;
    }
    let prefix = |column: &str| column.split_once('_').map(|(p, _)| p.to_owned()).filter(|p| !p.is_empty() && p.len() <= 3);
    let outer_prefixes: BTreeSet<String> =
        columns_of(outer_body).iter().filter(|(a, _)| a.is_empty()).filter_map(|(_, c)| prefix(c)).collect();
    let inner: Vec<String> = columns.iter().filter(|(a, _)| a.is_empty()).filter_map(|(_, c)| prefix(c)).collect();
    let foreign = inner.iter().filter(|p| outer_prefixes.contains(*p)).count();
    foreign > 0 && foreign * 2 < inner.len()
}

/// Verb and tables by keywords, for texts that do not parse.
fn light(text: &str) -> Option<Features> {
    let lower = text.to_ascii_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.'))).filter(|w| !w.is_empty()).take(5_000).collect();
    let verb = match *words.first()? {
        "select" | "with" | "table" => "select",
        "insert" => "insert",
        "update" => "update",
        "delete" => "delete",
        "copy" => "copy",
        "vacuum" => "vacuum",
        "create" | "alter" | "drop" | "truncate" => "ddl",
        _ => return None,
    };
    let after = |keyword: &str| words.windows(2).filter(|w| w[0] == keyword).map(|w| w[1].to_owned()).collect::<Vec<_>>();
    let mut tables: Vec<String> = ["from", "join", "into", "update"].iter().flat_map(|k| after(k)).collect();
    tables.retain(|t| t != "select" && t != "only");
    tables.sort();
    tables.dedup();
    let target = match verb {
        "insert" => after("into").into_iter().next(),
        "update" => after("update").into_iter().next(),
        "delete" => after("from").into_iter().next(),
        _ => None,
    };
    let position = |word: &str| words.iter().position(|w| *w == word);
    Some(Features {
        verb: verb.into(),
        target,
        has_limit: position("limit").is_some(),
        has_where: position("where").is_some(),
        loads: verb == "insert" && position("select").is_some(),
        tables,
        ..Features::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_explained_is_exactly_one_statement_with_a_plan() {
        let sql = explainable("SELECT /* x */ *\nFROM orders WHERE status = $1 -- x").unwrap();
        assert_eq!(sql, "SELECT * FROM orders WHERE status = $1");
        for text in
            ["SELECT 1; DROP TABLE t", "SELECT * INTO a FROM b", "autovacuum: VACUUM t", "SELECT * FROM t WHERE a = ", "VACUUM t", ""]
        {
            assert_eq!(explainable(text), None, "{text}");
        }
        assert_eq!((statements("ANALYZE t; SELECT 1"), statements("EXPLAIN \"SELECT 1\"")), (Some(2), None));
    }

    #[test]
    fn names_are_found_at_every_level() {
        let found = names(
            "WITH x AS (SELECT app.evil(a) FROM t1) SELECT (r).area, t.size FROM s.t2 t, x \
             WHERE b OPERATOR(app.<<<) 1 AND c IN (SELECT lower(d) FROM t3) ORDER BY other(e)",
        )
        .unwrap();
        for function in ["evil", "lower", "other", "area", "size"] {
            assert!(found.functions.iter().any(|f| f == function), "{function}: {found:?}");
        }
        assert!(found.operators.iter().any(|o| o == "<<<"), "{found:?}");
        assert_eq!(found.relations, ["s.t2", "t1", "t3"]);
        assert_eq!(names("SELECT FROM WHERE"), None);
    }

    fn of(text: &str) -> Features {
        features(text).unwrap()
    }

    #[test]
    fn a_semi_join_with_an_outer_reference_is_correlated() {
        let q4 = "select o_orderpriority, count(*) from orders where o_orderdate >= date ':1' and exists (select * from lineitem where l_orderkey = o_orderkey and l_commitdate < l_receiptdate) group by o_orderpriority order by o_orderpriority";
        assert!(of(q4).correlated && of(q4).aggregates);
        assert!(of("select (select max(p.at) from pay p where p.order_id = o.id) from orders o").correlated);
        assert!(!of("select * from orders where id in (select order_id from pay where amount > $1)").correlated);
    }

    #[test]
    fn joins_are_counted_and_a_missing_condition_is_seen() {
        let five = "SELECT MIN(mc.note) FROM company_type AS ct, info_type AS it, movie_companies AS mc, movie_info_idx AS mi, title AS t WHERE ct.kind = $1 AND ct.id = mc.company_type_id AND t.id = mc.movie_id AND t.id = mi.movie_id AND it.id = mi.info_type_id";
        assert_eq!((of(five).joins, of(five).cartesian), (4, false));
        assert!(of("select count(*) from a, b where a.x = $1").cartesian);
        assert!(!of("select * from a join b using (id)").cartesian);
        let band = "select count(*) from a join b on a.x * $2 < b.x + a.y where b.id > $1";
        assert_eq!((of(band).cartesian, of(band).unequal), (false, true));
        assert!(!of("select * from a join b on a.id = b.id and a.x < b.x").unequal);
        assert!(!of("select * from a where x < $1").unequal && !of("select * from a join b using (id)").unequal);
        // Conditions of a derived table are inside of it.
        assert!(!of("select count(*) from (select a.x from a join b on b.id = a.id where a.x > $1 group by a.x) s").cartesian);
        assert!(!of("select * from c join (select id from a join b using (id)) s on s.id = c.id").cartesian);
        assert!(of("select count(*) from (select a.x from a, b where a.x > $1) s").cartesian);
        assert!(of("select * from c, (select id from a) s where c.x = $1").cartesian);
        assert!(!of("select * from a, lateral (select * from b where b.id = a.id limit 1) s").cartesian);
        let nested = of("update a set x = $1 where id in (select id from b where y = $2)");
        assert_eq!((nested.joins, nested.cartesian), (0, false));
        assert!(of("update a set x = $1 from b where a.y = $2").cartesian);
    }

    #[test]
    fn predicates_name_table_and_column_equality_first() {
        let f = of("select * from shop.orders o where o.created_at > $1 and o.customer_id = $2");
        assert_eq!(f.predicates.iter().map(|p| p.column.as_str()).collect::<Vec<_>>(), ["customer_id", "created_at"]);
        assert_eq!(f.predicates[0].table, "shop.orders");
        let d = of("DELETE FROM events WHERE created_at < now() - $1::interval");
        assert_eq!((d.verb.as_str(), d.target.as_deref()), ("delete", Some("events")));
        assert_eq!(d.predicates[0].column, "created_at");
    }

    #[test]
    fn verbs_loads_and_index_creations() {
        assert!(of("insert into t select generate_series($1, $2)").loads);
        assert!(!of("insert into t (a) values ($1)").loads);
        assert_eq!(of("CREATE INDEX i ON table1(name0);").creates_index, Some(("i".into(), "table1".into(), vec!["name0".into()])));
        assert_eq!(of("UPDATE table1 SET nameN=(SELECT substr(md5(random()::text), 1, 56) WHERE id =M;").verb, "update");
        assert_eq!(of("autovacuum: VACUUM FREEZE public.t (to prevent wraparound)").tables, ["public.t"]);
        assert_eq!((of("VACUUM (FREEZE) t").verb.as_str(), of("ANALYZE t").verb.as_str()), ("vacuum", "other"));
        assert!(of("select sum(x) from t where y > $1").reads_only && !of("select * from t for update").reads_only);
        assert!(!of("with gone as (delete from t returning *) select count(*) from gone").reads_only);
        assert_eq!(features("\u{0}garbage ;;"), None);
        assert!(features(&format!("select {}1{}", "(".repeat(10_000), ")".repeat(10_000))).is_some());
    }
}
