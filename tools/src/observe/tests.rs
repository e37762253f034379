//! What the tools say of made-up captures: facts that a sentence of a report rests on, and facts that must not be there.

use std::task::{Context, Poll, Waker};

use crate::capture::{Capture, Frame, Missing};
use crate::detect::Detection;
use crate::model::{HolderSample, IndexSample, SessionSample, StatementSample, TableSample, Window};
use crate::probe::Recorded;

use super::*;

/// Second at which the incident begins; the captures last a minute.
const ONSET: i64 = 40;
const CARTS: &str = "UPDATE carts SET total = $1 WHERE id BETWEEN $2 AND $3";
const PRODUCTS: &str = "UPDATE products SET stock = stock - $1 WHERE id = $2";
const INSERT: &str = "INSERT INTO events (kind) VALUES ($1)";
const PURGE: &str = "DELETE FROM events WHERE id < $1";
const QUEUE: &str = "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs LIMIT $1)";

/// A capture with looks once a second and nothing else, in which something changes at the onset.
struct Stage(Capture);

fn id(text: &str) -> i64 {
    text.bytes().fold(7, |hash, byte| (hash * 31 + i64::from(byte)) % 1_000_003)
}

/// A counter that grows by one rate before the onset and by another after it.
fn counter(second: i64, before: f64, after: f64) -> f64 {
    second.min(ONSET) as f64 * before + (second - ONSET).max(0) as f64 * after
}

impl Stage {
    fn new() -> Self {
        let mut capture = Capture::default();
        for s in 0..=60 {
            let values = vec![("active_sessions".into(), "sessions", 0.0)];
            capture.absorb(Frame { at: s * 1000, values, ..Frame::default() });
        }
        Self(capture)
    }

    /// Calls a second before and after the onset, rows and milliseconds a call.
    fn statement(mut self, text: &str, calls: (f64, f64), rows: f64, ms: f64) -> Self {
        self.0.texts.insert(id(text), text.to_owned());
        for s in (0..=60).step_by(10) {
            let calls = counter(s, calls.0, calls.1);
            let sample = StatementSample { at: s * 1000, query_id: id(text), calls, ..StatementSample::default() };
            self.0.statements.push(StatementSample { rows: calls * rows, total_exec_ms: calls * ms, ..sample });
        }
        self.0.statements.sort_by_key(|s| s.at);
        self
    }

    /// Rows and, before and after the onset, updates and deletes a second.
    fn table(mut self, name: &str, rows: f64, updates: (f64, f64), deletes: (f64, f64)) -> Self {
        for s in (0..=60).step_by(10) {
            let table = TableSample { at: s * 1000, table: format!("public.{name}"), n_live_tup: rows, ..TableSample::default() };
            let (n_tup_upd, n_tup_del) = (counter(s, updates.0, updates.1), counter(s, deletes.0, deletes.1));
            self.0.tables.push(TableSample { n_tup_upd, n_tup_del, ..table });
        }
        self.0.tables.sort_by_key(|t| t.at);
        self
    }

    /// A session of a role that runs a statement during some seconds.
    fn session(mut self, user: &str, text: &str, seconds: std::ops::Range<i64>) -> Self {
        self.0.texts.insert(id(text), text.to_owned());
        for s in seconds {
            self.0.sessions.push(SessionSample {
                at: s * 1000,
                backend_type: "client backend".into(),
                state: "active".into(),
                query_id: id(text),
                user: user.into(),
                ..SessionSample::default()
            });
        }
        self
    }

    /// Nobody looked at sessions: a recording of averages.
    fn unseen(mut self) -> Self {
        self.0.manifest.missing.push(Missing::new("sessions", "", ""));
        self
    }

    fn observe(&self, tool: &str) -> Observation {
        let window = |start: i64, end: i64| Some(Window { start: start * 1000, end: end * 1000 + 1 });
        let detection = Detection { window: window(ONSET, 60), baseline: window(0, ONSET - 1), ..Detection::default() };
        let prober = Recorded(&self.0);
        let scene = Scene { capture: &self.0, detection: &detection, prober: &prober };
        let mut asked = std::pin::pin!(super::observe(tool, &scene));
        match asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(observation) => observation,
            Poll::Pending => panic!("{tool} waits for something"),
        }
    }

    fn fact(&self, tool: &str, name: &str) -> Option<Value> {
        self.observe(tool).facts.remove(name)
    }

    fn culprits(&self, tool: &str) -> Vec<String> {
        self.observe(tool).culprits.into_iter().map(|c| c.id).collect()
    }
}

#[test]
fn the_table_of_the_heaviest_writer_is_named_and_not_the_one_with_most_rows() {
    let stage = Stage::new()
        .statement(CARTS, (24.0, 24.0), 200.0, 1.0)
        .statement(PRODUCTS, (5.0, 900.0), 1.0, 20.0)
        .table("carts", 60_000.0, (4_800.0, 4_800.0), (0.0, 0.0))
        .table("products", 1_000.0, (5.0, 900.0), (0.0, 0.0))
        .session("shop", PRODUCTS, 40..60);
    let facts = stage.observe("write_profile").facts;
    assert_eq!((&facts["top_update_table"], &facts["updated_rows"]), (&"public.products".into(), &18_000.0.into()));
    assert_eq!((&facts["updates_per_row"], &facts["top_update_table_per_s"]), (&18.0.into(), &900.0.into()));
    assert_eq!(stage.culprits("write_profile"), [id(PRODUCTS).to_string(), "public.products".into()], "the carts are written as before");
}

#[test]
fn a_mass_delete_is_told_with_the_rate_of_its_table_and_an_ordinary_queue_is_no_culprit() {
    let stage = Stage::new()
        .statement(PURGE, (0.0, 2.0), 9_000.0, 300.0)
        .statement(CARTS, (24.0, 24.0), 200.0, 1.0)
        .table("events", 1e6, (0.0, 0.0), (0.0, 18_000.0))
        .table("event_tags", 2e6, (0.0, 0.0), (0.0, 9_000.0))
        .table("carts", 60_000.0, (4_800.0, 4_800.0), (0.0, 0.0));
    let facts = stage.observe("write_profile").facts;
    assert_eq!((&facts["top_delete_table"], &facts["top_delete_table_per_s"]), (&"public.events".into(), &18_000.0.into()));
    assert_eq!(stage.culprits("write_profile"), [id(PURGE).to_string(), "public.events".into()]);
    let queue = Stage::new().statement(QUEUE, (1.5, 1.5), 1_000.0, 5.0).table("jobs", 2_400.0, (0.0, 0.0), (1_500.0, 1_500.0));
    assert_eq!(queue.culprits("write_profile"), Vec::<String>::new());
    assert_eq!(queue.fact("write_profile", "top_delete_table_per_s_ratio"), Some(1.0.into()));
}

#[test]
fn a_handful_of_looks_gives_way_to_the_counters_unless_a_statement_has_not_ended() {
    let purged = |stage: Stage| stage.fact("write_profile", "delete_share").unwrap().as_f64().unwrap();
    let counted = || Stage::new().statement(PURGE, (0.0, 2.0), 9_000.0, 300.0).statement(CARTS, (24.0, 24.0), 200.0, 5.0);
    let share = 600.0 / (600.0 + 120.0);
    assert!((purged(counted().session("shop", PURGE, 50..52)) - share).abs() < 0.01, "two looks that both met the delete");
    assert!(purged(counted().session("shop", PURGE, 41..60)) > 0.99, "nineteen looks tell");
    let running = Stage::new().statement(CARTS, (24.0, 24.0), 200.0, 5.0).session("shop", PURGE, 56..60);
    assert!(purged(running) > 0.5, "what has not ended is in no counter");
}

#[test]
fn what_nobody_observed_is_no_fact() {
    for (tool, fact, unseen, seen) in [
        // Slots are known of a server that was asked, or by a slot.
        ("replication", "inactive_slots", replica(Stage::new(), 0), replica(Stage::new(), 150_000)),
        ("temp_files", "spilling_share", Stage::new().unseen(), Stage::new().statement(INSERT, (5.0, 5.0), 1.0, 1.0)),
        ("top_statement", "is_new", averages(false), averages(true)),
    ] {
        assert_eq!(unseen.fact(tool, fact), None, "{tool}");
        assert!(seen.fact(tool, fact).is_some(), "{tool}");
    }
    assert!(Stage::new().unseen().observe("temp_files").no_data.is_some());
    let mut backwards = Stage::new();
    for (s, rate) in [(45, -900.0), (50, -1_100.0)] {
        let values = vec![("tps".into(), "1/s", -2.0), ("rollbacks_per_s".into(), "1/s", rate)];
        backwards.0.absorb(Frame { at: s * 1000, values, ..Frame::default() });
    }
    assert_eq!(backwards.fact("errors", "rollback_share"), None);
}

/// A replica that streams, seen by a server of this version (0: by a managed service).
fn replica(mut stage: Stage, version: i32) -> Stage {
    stage.0.manifest.server_version_num = version;
    let holder = HolderSample { at: 50_000, kind: "replica".into(), name: "r1".into(), active: true, ..HolderSample::default() };
    stage.0.holders.push(holder);
    stage
}

/// Load of one statement as a managed service keeps it: one average, or followed over time.
fn averages(followed: bool) -> Stage {
    let mut stage = Stage::new().unseen();
    let text = "SELECT * FROM orders WHERE status = $1";
    stage.0.texts.insert(id(text), text.to_owned());
    stage.0.manifest.origin = "rds".into();
    for s in if followed { vec![5, 20, 45, 55] } else { vec![5] } {
        let load = if s > ONSET { 7.0 } else { 0.2 };
        let name = format!("statement_load{{query_id=\"{}\",wait=\"CPU\"}}", id(text));
        stage.0.absorb(Frame { at: s * 1000, values: vec![(name, "sessions", load)], ..Frame::default() });
    }
    stage
}

#[test]
fn a_statement_that_is_explained_parses_and_one_that_does_not_is_left_out() {
    assert_eq!(averages(true).fact("top_statement", "explainable"), Some("SELECT * FROM orders WHERE status = $1".into()));
    let mut cut = averages(true);
    cut.0.texts.values_mut().for_each(|text| text.truncate(26));
    assert_eq!(cut.fact("top_statement", "explainable"), None);
}

#[test]
fn a_setting_of_a_role_is_offered_where_the_role_runs_nothing_else() {
    let alone = |stage: Stage| stage.session("loader", INSERT, 40..60).fact("write_profile", "insert_role_runs_else");
    assert_eq!(alone(Stage::new().session("shop", CARTS, 5..6)), Some(false.into()));
    assert_eq!(alone(Stage::new().session("loader", CARTS, 5..6).session("shop", CARTS, 5..6)), Some(true.into()));
    assert_eq!(alone(Stage::new().statement(CARTS, (24.0, 24.0), 1.0, 1.0)), Some(true.into()), "the only role seen ran the others too");
    assert_eq!(alone(Stage::new().session("loader", "COMMIT", 5..6).session("shop", CARTS, 5..6)), Some(false.into()));
}

#[test]
fn an_index_of_empty_pages_is_told_with_its_own_table() {
    let mut stage = Stage::new().table("tokens", 28_000.0, (0.0, 0.0), (0.0, 0.0)).table("jobs", 400.0, (50.0, 50.0), (50.0, 50.0));
    for s in [10, 50] {
        let (index, table) = ("public.tokens_token_idx".to_owned(), "public.tokens".to_owned());
        stage.0.indexes.push(IndexSample { at: s * 1000, index, table, bytes: 218e6, idx_scan: s as f64, ..IndexSample::default() });
    }
    let facts = stage.observe("sparse_indexes").facts;
    assert_eq!(
        (&facts["index"], &facts["table"], &facts["rows"]),
        (&"public.tokens_token_idx".into(), &"public.tokens".into(), &28_000.0.into())
    );
    assert_eq!(stage.culprits("sparse_indexes"), ["public.tokens_token_idx"]);
    stage.0.tables.iter_mut().for_each(|t| t.n_live_tup = 4e6);
    assert_eq!(stage.observe("sparse_indexes").facts.into_iter().collect::<Vec<_>>(), [("sparse".to_owned(), false.into())]);
    assert!(Stage::new().observe("sparse_indexes").no_data.is_some());
}

#[test]
fn an_index_that_is_dropped_can_be_put_back_without_blocking_writes() {
    let mut stage = Stage::new().table("carts", 60_000.0, (4_800.0, 4_800.0), (0.0, 0.0));
    for n in 0..6 {
        let definition = format!("CREATE INDEX c{n} ON public.carts USING btree (a{n})");
        let index =
            IndexSample { at: 60_000, index: format!("public.c{n}"), table: "public.carts".into(), definition, ..IndexSample::default() };
        stage.0.indexes.push(index);
    }
    let undo = stage.fact("index_overhead", "recreate_statements").unwrap();
    let undo: Vec<&str> = undo.as_str().unwrap().lines().collect();
    assert!(undo.len() == 6 && undo.iter().all(|sql| sql.starts_with("CREATE INDEX CONCURRENTLY c")), "{undo:?}");
}
