//! The table whose rows are read most, by sequential scans or by index scans that filter them away; the statement that
//! does it, and the index that would serve it.

use std::collections::BTreeMap;

use crate::capture::Capture;
use crate::model::{CulpritKind, IndexSample, TableSample};
use crate::observe::facts::{FactSheet, TableWork, mean, table_work, text_of, window, work};
use crate::observe::{Observation, Scene};

use super::{Loaded, loaded, same_table};

/// Longest name that the server keeps whole, bytes.
const MOST_NAME: usize = 63;

/// Rows read a second that are few for any table.
const FEW_ROWS: f64 = 2_000.0;
/// From how many times on a bound says that reads rose.
const RISE: f64 = 3.0;

/// What the scans of the window come down to.
pub(crate) struct Scan {
    pub table: String,
    pub work: TableWork,
    pub base: Option<TableWork>,
    pub query_id: Option<i64>,
    pub share: f64,
    pub verb: String,
    /// Predicate columns of the statement on this table, equality first.
    pub columns: Vec<String>,
}

/// Finds the table whose rows read grew most, and the heaviest statement on it.
pub(crate) fn scan(scene: &Scene<'_>) -> Option<Scan> {
    let capture = scene.capture;
    let w = window(scene);
    let mut now = table_work(capture, Some(w));
    let mut base = table_work(capture, scene.detection.baseline);
    let growth = |table: &str, work: &TableWork, base: &BTreeMap<String, TableWork>| {
        work.rows_read / work.seconds - base.get(table).map_or(0.0, |b| b.rows_read / b.seconds)
    };
    let table = now.iter().max_by(|a, b| growth(a.0, a.1, &base).total_cmp(&growth(b.0, b.1, &base))).map(|(t, _)| t.clone())?;
    let work = now.remove(&table)?;
    let statements = loaded(capture, w);
    let touching: Vec<&Loaded> = statements.iter().filter(|s| s.features.tables.iter().any(|t| same_table(t, &table))).collect();
    let filtered = |s: &&&Loaded| !columns_on(s, &table).is_empty();
    // A statement that filters and carries load explains scans; else whichever carries most.
    let chosen = touching.iter().find(|s| filtered(s) && s.share > 0.05).or_else(|| touching.first()).copied();
    Some(Scan {
        base: base.remove(&table),
        query_id: chosen.map(|s| s.id),
        share: chosen.map_or(0.0, |s| s.share),
        verb: chosen.map(|s| s.features.verb.clone()).unwrap_or_default(),
        columns: chosen.map(|s| columns_on(s, &table)).unwrap_or_default(),
        table,
        work,
    })
}

fn columns_on(statement: &Loaded, table: &str) -> Vec<String> {
    let lone = statement.features.tables.len() == 1;
    let mut columns: Vec<String> = Vec::new();
    for predicate in &statement.features.predicates {
        let ours = same_table(&predicate.table, table) || (predicate.table.is_empty() && lone);
        if ours && !columns.contains(&predicate.column) {
            columns.push(predicate.column.clone());
        }
    }
    columns
}

/// The newest sample of each index of a table.
pub(crate) fn indexes_of<'c>(capture: &'c Capture, table: &str) -> Vec<&'c IndexSample> {
    let mut newest: BTreeMap<&str, &IndexSample> = BTreeMap::new();
    for index in capture.indexes.iter().filter(|i| i.table == table) {
        newest.insert(&index.index, index);
    }
    // An index that is no longer sampled has been dropped.
    let last = capture.indexes.iter().map(|i| i.at).max().unwrap_or(0);
    newest.into_values().filter(|i| i.at == last).collect()
}

/// An identifier as SQL writes it: quoted where it must be.
pub(crate) fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// True when literals of a definition out of the catalog were masked: it is no longer the statement that was run.
pub(crate) fn masked(definition: &str) -> bool {
    definition.contains("'?")
}

/// The definition of an index as a statement that lets the table be written meanwhile.
pub(crate) fn concurrently(definition: &str) -> String {
    let begins = ["CREATE INDEX ", "CREATE UNIQUE INDEX "].into_iter().find_map(|start| Some((start, definition.strip_prefix(start)?)));
    begins.map_or_else(|| definition.to_owned(), |(start, rest)| format!("{start}CONCURRENTLY {rest}"))
}

/// `table_scans`.
pub fn table_scans(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("table_scans", scene);
    sheet.signals(&["tup_returned_per_s"]);
    let Some(scan) = scan(scene) else { return sheet.finish("table statistics were not sampled twice in the window") };
    let (now, base) = (&scan.work, scan.base.as_ref());
    sheet.put("table", scan.table.as_str());
    sheet.put_pair("seq_scans_per_s", Some(now.seq_scans / now.seconds), base.map(|b| b.seq_scans / b.seconds), None);
    sheet.put_pair("seq_tup_read_per_s", Some(now.seq_rows / now.seconds), base.map(|b| b.seq_rows / b.seconds), Some(FEW_ROWS));
    sheet.put_pair("rows_read_per_s", Some(now.rows_read / now.seconds), base.map(|b| b.rows_read / b.seconds), Some(FEW_ROWS));
    if base.is_none() {
        sheet.put("rows_read_per_s_ratio", at_least(scene, now.rows_read / now.seconds));
        sheet.put("seq_tup_read_per_s_ratio", at_least(scene, now.seq_rows / now.seconds));
    }
    let sequential = now.seq_rows > 0.5 * now.rows_read;
    sheet.put("access", if sequential { "sequential scans" } else { "index scans that filter most rows away" });
    let (rows, scans) = if sequential { (now.seq_rows, now.seq_scans) } else { (now.rows_read, now.scans) };
    sheet
        .put("rows_per_scan", if scans >= 1.0 { rows / scans } else { 0.0 })
        .put("live_rows", now.after.n_live_tup)
        .put("table_bytes", now.after.table_bytes);
    let all: f64 = table_work(capture, Some(window(scene))).values().map(|w| w.rows_read).sum();
    sheet.put("share_of_reads", now.rows_read / all.max(1.0));
    sheet.culprit(
        CulpritKind::Table,
        &scan.table,
        &format!("{:.0} rows, {:.0} MB", now.after.n_live_tup, now.after.table_bytes / 1_048_576.0),
    );
    if let Some(id) = scan.query_id {
        statement(scene, &mut sheet, &scan, id);
    }
    dropped(scene, &mut sheet, &scan);
    sheet.finish("")
}

/// How many times as many rows of a table are read as in a baseline in which the table was not sampled twice (one that is short, or
/// on a busy machine): it cannot have given more rows then than the whole database did. None where that is no rise.
fn at_least(scene: &Scene<'_>, rows_per_s: f64) -> Option<f64> {
    let most = mean(scene.capture, "tup_returned_per_s", Some(scene.detection.baseline?))?;
    Some((rows_per_s / most.max(FEW_ROWS)).min(1000.0)).filter(|ratio| *ratio >= RISE)
}

fn statement(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, scan: &Scan, id: i64) {
    let capture = scene.capture;
    sheet.put("scan_query_id", id.to_string()).put("scan_text", text_of(capture, id));
    sheet.culprit(CulpritKind::Query, id, &text_of(capture, id).unwrap_or_default());
    sheet.put("scan_share", scan.share).put("scan_verb", scan.verb.as_str());
    if let Some(done) = work(capture, Some(window(scene))).get(&id) {
        sheet.put("rows_per_call", done.per_call(done.rows));
        if scan.work.rows_read > 0.0 {
            sheet.put("selectivity", (done.rows / scan.work.rows_read).min(1.0));
        }
    }
    if scan.columns.is_empty() {
        return;
    }
    let served = indexes_of(capture, &scan.table).iter().any(|i| i.valid && i.columns.first().is_some_and(|c| scan.columns.contains(c)));
    // A live collector that sampled tables has looked for indexes too: then there are none.
    if !capture.indexes.is_empty() || (capture.manifest.origin == "live" && !capture.tables.is_empty()) {
        sheet.put("index_exists", served);
    }
    sheet.put("predicate_columns", scan.columns.clone());
    let table: Vec<String> = scan.table.split('.').map(quoted).collect();
    let columns: Vec<String> = scan.columns.iter().take(3).map(|c| quoted(c)).collect();
    let (schema, name) = free_name(capture, &scan.table, &scan.columns);
    let statement = format!("CREATE INDEX CONCURRENTLY {name} ON {} ({})", table.join("."), columns.join(", "));
    sheet.put("candidate_index", statement).put("candidate_name", schema + &name);
}

/// Schema (with its dot, empty where none is known) and name for an index on the scanned columns: as the server itself
/// would name it, with a number where that is taken. Of long names the table's is shortened: the server takes 63 bytes.
fn free_name(capture: &Capture, table: &str, columns: &[String]) -> (String, String) {
    let (schema, table) = table.rsplit_once('.').unwrap_or(("", table));
    let tail: String = columns.iter().take(3).map(|c| format!("_{c}")).collect();
    let tail = &tail[..tail.floor_char_boundary(MOST_NAME / 2)];
    let table = &table[..table.floor_char_boundary(MOST_NAME - tail.len() - "_idx99".len())];
    let taken = |name: &str| capture.indexes.iter().any(|i| i.index.rsplit('.').next() == Some(name));
    let names = (0..100).map(|n| if n == 0 { format!("{table}{tail}_idx") } else { format!("{table}{tail}_idx{n}") });
    let name = names.into_iter().find(|n| !taken(n)).unwrap_or_else(|| format!("{table}{tail}_new"));
    (if schema.is_empty() { String::new() } else { quoted(schema) + "." }, quoted(&name))
}

/// An index on the table that was dropped since the baseline began.
fn dropped(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, scan: &Scan) {
    let from = scene.detection.baseline.map_or(i64::MIN, |b| b.start);
    let events = scene.capture.events.iter().filter(|e| e.kind == "index_dropped" && e.at >= from);
    for event in events {
        let known = scene.capture.indexes.iter().rfind(|i| i.index == event.object);
        let Some(index) = known.filter(|i| i.table == scan.table) else { continue };
        if index.columns.first().is_some_and(|c| scan.columns.contains(c)) {
            sheet.put("dropped_index", index.index.as_str());
            // A definition with a masked literal cannot be put back as it was.
            sheet.put("dropped_definition", Some(index.definition.as_str()).filter(|d| !masked(d)));
            sheet.culprit(CulpritKind::Index, &index.index, "dropped");
            return;
        }
    }
}

/// True when a table was written in a window and no longer in the last third of it. What was changed by then is a change that the
/// statistics do not know; while changes go on, they are the load themselves.
fn settled(capture: &Capture, table: &str, work: &TableWork) -> bool {
    let third = work.after.at - (work.after.at - work.before.at) / 3;
    let written = |s: &TableSample| s.n_tup_ins + s.n_tup_upd + s.n_tup_del;
    let then = capture.tables.iter().rfind(|s| s.table == table && s.at <= third && s.at > work.before.at);
    then.is_some_and(|then| written(&work.after) - written(then) < 0.01 * work.after.n_mod_since_analyze)
}

/// `stale_statistics`: of the tables that the top statement touches, the one with most rows changed since ANALYZE. Tables
/// of other statements say nothing of why this one is slower.
pub fn stale_statistics(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("stale_statistics", scene);
    let w = window(scene);
    let top = super::top::top(scene);
    let touched: Vec<String> = loaded(capture, w).into_iter().filter(|s| Some(s.id) == top).flat_map(|s| s.features.tables).collect();
    let work = table_work(capture, Some(w));
    let in_use = work.iter().filter(|(table, _)| touched.iter().any(|t| same_table(t, table)));
    let share = |(table, t): &(&String, &TableWork)| {
        let of = |s: &TableSample| s.n_mod_since_analyze / s.n_live_tup.max(1.0);
        if settled(capture, table, t) { of(&t.before).max(of(&t.after)) } else { of(&t.before) }
    };
    let Some((table, t)) = in_use.max_by(|a, b| share(a).total_cmp(&share(b))) else {
        return sheet.finish("no table of the top statement was sampled");
    };
    let share = |t: &TableWork| share(&(table, t));
    sheet.put("table", table.as_str()).put("modified_share", share(t)).put("live_rows", t.after.n_live_tup);
    sheet.put("since_analyze_s", t.after.since_analyze_s).put("never_analyzed", t.after.since_analyze_s.is_none());
    sheet.put("autovacuum_on", crate::observe::facts::setting_on(capture, "autovacuum"));
    sheet.culprit(CulpritKind::Table, table, "statistics are old");
    sheet.finish("")
}

#[cfg(test)]
mod tests {
    use crate::capture::Frame;
    use crate::detect::Detection;
    use crate::probe::Recorded;

    use super::*;

    fn name(table: &str, columns: &[&str], taken: &[&str]) -> (String, String) {
        let index = |name: &&str| IndexSample { index: format!("public.{name}"), ..IndexSample::default() };
        let capture = Capture { indexes: taken.iter().map(index).collect(), ..Capture::default() };
        let columns: Vec<String> = columns.iter().map(|c| (*c).to_owned()).collect();
        free_name(&capture, table, &columns)
    }

    #[test]
    fn an_index_is_put_back_without_blocking_writes() {
        assert_eq!(
            concurrently("CREATE UNIQUE INDEX a ON public.t USING btree (b)"),
            "CREATE UNIQUE INDEX CONCURRENTLY a ON public.t USING btree (b)"
        );
        assert_eq!(concurrently("CREATE INDEX \"CREATE INDEX \" ON t (b)"), "CREATE INDEX CONCURRENTLY \"CREATE INDEX \" ON t (b)");
    }

    #[test]
    fn changes_count_as_unknown_to_the_planner_once_they_have_stopped() {
        let settled_after = |inserted: fn(i64) -> f64| {
            let sample = |s: i64| TableSample {
                at: s * 1000,
                table: "public.events".into(),
                n_tup_ins: inserted(s),
                n_mod_since_analyze: inserted(s),
                ..TableSample::default()
            };
            let capture = Capture { tables: (0..=30).step_by(3).map(sample).collect(), ..Capture::default() };
            let work = table_work(&capture, Some(crate::model::Window { start: 0, end: 30_000 })).remove("public.events").unwrap();
            settled(&capture, "public.events", &work)
        };
        assert!(settled_after(|s| if s >= 6 { 60_000.0 } else { 0.0 }), "a load of six seconds");
        assert!(!settled_after(|s| s as f64 * 2_000.0), "a load that goes on");
        assert!(settled_after(|s| if s >= 6 { 60_000.0 } else { 0.0 } + s as f64), "a trickle is no load");
    }

    #[test]
    fn a_rise_is_seen_where_the_table_was_sampled_once_before_it() {
        let ratios = |first: i64, returned_before: f64, by_index: f64| {
            let sample = |s: i64| TableSample {
                at: s * 1000,
                table: "public.products".into(),
                seq_scan: (s - 30).max(0) as f64 * 40.0,
                seq_tup_read: (s - 30).max(0) as f64 * 8_000_000.0 * (1.0 - by_index),
                idx_tup_fetch: (s - 30).max(0) as f64 * 8_000_000.0 * by_index,
                n_live_tup: 200_000.0,
                ..TableSample::default()
            };
            let mut capture = Capture { tables: (first..=60).step_by(10).map(sample).collect(), ..Capture::default() };
            for s in 0..60 {
                let returned = if s < 30 { returned_before } else { 8_000_000.0 };
                let values = vec![("tup_returned_per_s".into(), "1/s", returned)];
                capture.absorb(Frame { at: s * 1000, values, ..Frame::default() });
            }
            let window = |start: i64, end: i64| Some(crate::model::Window { start: start * 1000, end: end * 1000 });
            let detection = Detection { window: window(30, 60), baseline: window(0, 29), ..Detection::default() };
            let facts = table_scans(&Scene { capture: &capture, detection: &detection, prober: &Recorded(&capture) }).facts;
            let ratio = |name: &str| facts.get(name).and_then(|r| r.as_f64());
            (ratio("rows_read_per_s_ratio"), ratio("seq_tup_read_per_s_ratio"), facts.contains_key("rows_read_per_s_base"))
        };
        let ratio = |first: i64, returned_before: f64| {
            let (all, sequential, base) = ratios(first, returned_before, 0.0);
            assert_eq!(all, sequential, "it reads in no other way");
            (all, base)
        };
        assert_eq!(ratio(0, 700.0), (Some(1000.0), true), "its own baseline");
        assert_eq!(ratio(20, 700.0), (Some(1000.0), false), "the whole database read less");
        assert_eq!(ratio(20, 6_000_000.0), (None, false), "others may have read it all, or nobody: not known");
        assert_eq!(ratios(20, 700.0, 0.9999).1, None, "800 rows a second of them are no rise");
    }

    #[test]
    fn an_index_gets_a_name_that_is_free_and_fits() {
        let of = |schema: &str, name: &str| (schema.to_owned(), name.to_owned());
        assert_eq!(name("public.orders", &["customer_id"], &[]), of("public.", "orders_customer_id_idx"));
        assert_eq!(name("public.orders", &["customer_id"], &["orders_customer_id_idx"]), of("public.", "orders_customer_id_idx1"));
        assert_eq!(name("orders", &["a\"b"], &[]), of("", "\"orders_a\"\"b_idx\""));
        let long = name(&"表".repeat(40), &["spalte_mit_einem_sehr_langen_namen", "x"], &[]).1;
        assert!(long.len() <= MOST_NAME + 2 && long.ends_with("_idx\""), "{long}");
    }
}
