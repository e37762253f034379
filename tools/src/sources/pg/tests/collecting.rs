//! What is collected: magnitudes, blocking trees, statements, events; and what never is: literals.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::T0;
use crate::capture::Capture;
use crate::sources::pg::testing::{Cluster, PASSWORD, turns};
use crate::sources::pg::{Collector, Intervals, PgConfig, record};

const MARKER: &str = "zanzibar4711";

fn median(capture: &Capture, signal: &str) -> f64 {
    let series = capture.series.get(signal).unwrap_or_else(|| panic!("no {signal} in {:?}", capture.series.keys()));
    let mut values = series.values.clone();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Four clients that update; returns how many statements they have completed.
async fn load(cluster: &Cluster, stop: Arc<AtomicBool>) -> Arc<AtomicU64> {
    let done = Arc::new(AtomicU64::new(0));
    for worker in 0..4 {
        let client = cluster.client("app", "shop").await;
        let (done, stop) = (done.clone(), stop.clone());
        tokio::spawn(async move {
            let mut id = worker * 5_000;
            while !stop.load(Ordering::Relaxed) {
                id = id % 19_000 + 7;
                let update = format!("UPDATE accounts SET balance = balance + 1, owner = '{MARKER}' WHERE id = {id}");
                if client.simple_query(&update).await.is_ok() {
                    done.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
        });
    }
    done
}

#[tokio::test]
async fn signals_have_the_right_magnitude_under_load() {
    let cluster = Cluster::start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let done = load(&cluster, stop.clone()).await;
    let mut collector = Collector::connect(cluster.config()).await.expect("connect");
    let (warm_up, _) = turns(&mut collector, T0 - 3_000, 3).await;
    let (before, began) = (done.load(Ordering::Relaxed), Instant::now());
    let (mut capture, _) = turns(&mut collector, T0, 12).await;
    capture.texts.extend(warm_up.texts);
    capture.settings.extend(warm_up.settings);
    let rate = (done.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);

    for signal in ["tps", "tup_updated_per_s"] {
        let seen = median(&capture, signal);
        assert!((0.6..1.6).contains(&(seen / rate)), "{signal}: saw {seen}, was {rate}");
    }
    assert!((4.0..8.0).contains(&median(&capture, "sessions")));
    for class in ["CPU", "IO", "Lock", "LWLock", "Client", "IPC"] {
        let series = &capture.series[&format!("active_sessions{{wait_class=\"{class}\"}}")];
        assert_eq!(series.values.len(), 12, "{class}: a measured zero where nobody waits");
    }
    assert!(median(&capture, "wal_bytes_rate") > 10_000.0);
    assert!(median(&capture, "cache_hit_ratio") > 0.5);
    assert!(median(&capture, "database_bytes") > 1e6);
    assert!(median(&capture, "statement_seconds_per_s") > 0.0);
    assert!(median(&capture, "postgres_cpu_ratio") > 0.0);
    assert!((0.0..=1.0).contains(&median(&capture, "node_cpu_busy_ratio")));
    assert!((4.0 / 50.0..8.0 / 50.0).contains(&median(&capture, "connections_used_ratio")));
    known_signals_only(&capture);
    statements_tables_and_settings(&capture, rate);
    for cost in &capture.bill {
        assert_eq!(cost.failures, 0, "{}: {:?}", cost.probe, capture.manifest.missing);
        assert!(cost.runs <= 12, "{cost:?}: more often than once a turn");
    }
}

#[tokio::test]
async fn nobody_hides_behind_galens_mark() {
    let cluster = Cluster::start().await;
    let app = cluster.client("app", "shop").await;
    let hidden = "SELECT /* galen */ count(*) FROM accounts WHERE owner <> 'x'";
    app.batch_execute(hidden).await.expect("statement");
    let mut collector = Collector::connect(cluster.config()).await.expect("connect");
    let mut capture = Capture::default();
    for turn in 0..9 {
        let (more, _) = turns(&mut collector, T0 + turn * 1_000, 1).await;
        app.batch_execute(hidden).await.expect("statement");
        capture.texts.extend(more.texts);
        capture.statements.extend(more.statements);
    }
    let shown = |text: &&String| text.contains("count(*) FROM accounts");
    assert_eq!(capture.texts.values().filter(shown).count(), 1, "{:?}", capture.texts);
    assert!(capture.texts.values().all(|text| !text.contains("pg_catalog.")), "galen's own are left out: {:?}", capture.texts);
    let ids: std::collections::BTreeSet<i64> = capture.statements.iter().map(|s| s.query_id).collect();
    assert!(capture.texts.iter().any(|(id, text)| shown(&text) && ids.contains(id)), "it is sampled, too");
}

fn statements_tables_and_settings(capture: &Capture, rate: f64) {
    let (id, text) = capture
        .statements
        .iter()
        .filter_map(|s| capture.texts.get_key_value(&s.query_id))
        .find(|(_, text)| text.starts_with("UPDATE accounts"))
        .unwrap_or_else(|| panic!("no text in {:?}", capture.texts));
    assert!(text.contains("WHERE id = $"), "{text}");
    let samples: Vec<_> = capture.statements.iter().filter(|s| s.query_id == *id).collect();
    let (first, last) = (samples[0], samples[samples.len() - 1]);
    let seen = (last.calls - first.calls) / ((last.at - first.at) as f64 / 1000.0);
    assert!((0.5..1.6).contains(&(seen / rate)), "saw {seen} calls/s at {rate}/s");
    assert!(capture.texts.values().all(|text| !text.contains("/* galen */")));
    let table = capture.tables.iter().rfind(|t| t.table == "public.accounts").expect("table");
    assert!(table.n_tup_upd > 100.0 && table.table_bytes > 500_000.0 && table.index_bytes > 100_000.0);
    assert!(capture.settings.contains_key("shared_buffers"));
}

/// Names and units are those of the signal tables.
fn known_signals_only(capture: &Capture) {
    let tables = concat!(include_str!("../../../../signals/postgres.toml"), "\n", include_str!("../../../../signals/host.toml"));
    let tables: toml::Table = tables.parse().expect("signal tables");
    let rows = tables["signal"].as_array().expect("signals");
    for (name, series) in &capture.series {
        let plain = name.split('{').next().expect("name");
        let row = rows.iter().find(|row| row["name"].as_str() == Some(plain));
        assert_eq!(row.and_then(|row| row["unit"].as_str()), Some(series.unit.as_str()), "{name}");
    }
}

#[tokio::test]
#[ignore = "a benchmark: `make bench` prints it"]
async fn the_bill_of_a_minute() {
    let cluster = Cluster::start().await;
    let stop = Arc::new(AtomicBool::new(false));
    load(&cluster, stop.clone()).await;
    let config = PgConfig { intervals: Intervals::default(), ..cluster.config() };
    let mut collector = Collector::connect(config).await.expect("connect");
    turns(&mut collector, T0 - 5_000, 5).await;
    let (capture, _) = turns(&mut collector, T0, 60).await;
    stop.store(true, Ordering::Relaxed);
    let total: f64 = capture.bill.iter().map(|cost| cost.total_ms).sum();
    println!("server {}: {total:.1} ms a minute", collector.manifest().server_version_num);
    for cost in &capture.bill {
        let each = cost.total_ms / cost.runs as f64;
        println!("  {:18} {:3} runs, {} failed, {each:.2} ms each, {:.2} max", cost.probe, cost.runs, cost.failures, cost.max_ms);
    }
    // Before PostgreSQL 15, whoever reads statistics sleeps some 10 ms until their collector has written its file: time
    // that passes, not work.
}

#[tokio::test]
async fn the_blocking_tree_and_its_locks_are_seen() {
    let cluster = Cluster::start().await;
    let (holder, waiter, ddl) =
        (cluster.client("app", "shop").await, cluster.client("app", "shop").await, cluster.client("app", "shop").await);
    holder.batch_execute("BEGIN; UPDATE accounts SET balance = 1 WHERE id = 1").await.expect("lock");
    tokio::spawn(async move { waiter.batch_execute("UPDATE accounts SET balance = 2 WHERE id = 1").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    tokio::spawn(async move { ddl.batch_execute("ALTER TABLE accounts ADD COLUMN note text").await });
    tokio::time::sleep(Duration::from_millis(300)).await;

    let mut collector = Collector::connect(cluster.config()).await.expect("connect");
    let (capture, _) = turns(&mut collector, T0, 3).await;
    assert_eq!(median(&capture, "blocked_sessions"), 2.0);
    assert_eq!(median(&capture, "idle_in_transaction_sessions"), 1.0);
    assert_eq!(median(&capture, "active_sessions{wait_class=\"Lock\"}"), 2.0);
    assert!(median(&capture, "oldest_transaction_seconds") > 0.5);

    let root = capture.sessions.iter().find(|s| s.state == "idle in transaction").expect("holder is sampled");
    let row = capture.sessions.iter().find(|s| s.wait_event == "transactionid").expect("row lock");
    let table = capture.sessions.iter().find(|s| s.wait_event == "relation").expect("ddl");
    assert_eq!(row.blocked_by, [root.pid]);
    assert!(table.blocked_by.contains(&root.pid) && table.blocked_by.contains(&row.pid));
    assert!(root.state_age_ms.is_some_and(|ms| ms > 200) && row.query_id != 0);
    let locks = &capture.locks;
    let wanted = locks.iter().find(|l| !l.granted && l.mode == "AccessExclusiveLock").expect("the lock waited for");
    assert_eq!((wanted.pid, wanted.relation.as_deref()), (table.pid, Some("public.accounts")));
    assert!(locks.iter().any(|l| l.granted && l.pid == root.pid && l.relation.as_deref() == Some("public.accounts")));
    assert!(locks.iter().any(|l| l.granted && l.pid == root.pid && l.lock_type == "transactionid"));
    let text = &capture.texts[&row.query_id];
    assert!(text.starts_with("UPDATE accounts SET balance = $1"), "{text}");
}

#[tokio::test]
async fn no_literal_is_ever_in_a_frame() {
    let cluster = Cluster::start().await;
    let admin = cluster.client("postgres", "shop").await;
    let setup = format!(
        "CREATE INDEX partial ON accounts (balance) WHERE owner = '{MARKER}';
         ALTER ROLE app SET app.token = '{MARKER}'; SELECT '{MARKER}'"
    );
    admin.batch_execute(&setup).await.expect("setup");
    for statement in [
        format!("SELECT pg_sleep(4), '{MARKER}' /* {MARKER} */ -- {MARKER}"),
        format!("DO $do$ BEGIN PERFORM pg_sleep(4), '{MARKER}'; END $do$"),
        format!("SELECT 1 FROM pg_sleep(4) WHERE 'x' <> '{MARKER}'; SELECT '{MARKER}'"),
        format!("WITH x AS (SELECT pg_sleep(4)) SELECT '{}{MARKER}' FROM x", "long ".repeat(400)),
        format!("CREATE TABLE t_x AS SELECT '{MARKER}' AS a FROM pg_sleep(4)"),
        format!("SELECT E'it\\'s {MARKER}', $x${MARKER}$x$, U&'{MARKER}', interval '4 seconds' FROM pg_sleep(4)"),
    ] {
        let client = cluster.client("app", "shop").await;
        tokio::spawn(async move { client.batch_execute(&statement).await });
    }
    let mut collector = Collector::connect(cluster.config()).await.expect("connect");
    let (capture, frames) = turns(&mut collector, T0, 9).await;
    let seen = format!("{frames:?}");
    assert!(!seen.contains(MARKER), "{}", &seen[seen.find(MARKER).unwrap_or(0).saturating_sub(300)..]);
    assert!(!seen.contains("zanzibar") && !seen.contains(PASSWORD));
    // They are there, by id and by text: the absence of the marker is no absence of statements.
    let of_app = capture.sessions.iter().filter(|s| s.user == "app" && s.state == "active");
    let at_work: std::collections::BTreeSet<i64> = of_app.map(|s| s.query_id).collect();
    assert!(at_work.len() >= 6 && !at_work.contains(&0), "{at_work:?}");
    let known = at_work.iter().filter(|id| capture.texts.contains_key(id)).count();
    assert!(known >= 5, "{known} of {at_work:?} in {:?}", capture.texts);
    assert!(capture.indexes.iter().any(|i| i.index == "public.partial" && i.definition.contains("WHERE")));
}

#[tokio::test]
async fn changes_of_indexes_tables_and_settings_are_events() {
    let cluster = Cluster::start().await;
    let quick = Duration::from_millis(900);
    let intervals = Intervals { indexes: quick, tables: quick, settings: quick, ..Intervals::brisk() };
    let mut collector = Collector::connect(PgConfig { intervals, ..cluster.config() }).await.expect("connect");
    let (capture, _) = turns(&mut collector, T0, 2).await;
    assert!(capture.events.is_empty(), "the first look is no change: {:?}", capture.events);
    let key = capture.indexes.iter().find(|i| i.index == "public.accounts_pkey").expect("key");
    assert!(key.columns == ["id"] && key.constraint && key.valid && key.table == "public.accounts");
    let app = cluster.client("app", "shop").await;
    let ddl = "CREATE INDEX by_owner ON accounts (owner, lower(owner)); CREATE TABLE orders (id int)";
    app.batch_execute(ddl).await.expect("ddl");
    let admin = cluster.client("postgres", "postgres").await;
    admin.batch_execute("ALTER SYSTEM SET work_mem = '64kB'").await.expect("setting");
    admin.batch_execute("SELECT pg_reload_conf()").await.expect("reload");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (mut capture, _) = turns(&mut collector, T0 + 2_000, 3).await;
    app.batch_execute("DROP INDEX by_owner").await.expect("drop");
    let (after, _) = turns(&mut collector, T0 + 5_000, 3).await;
    capture.events.extend(after.events);
    let events: Vec<_> = capture.events.iter().map(|e| (e.kind.as_str(), e.object.as_str())).collect();
    for event in [
        ("index_created", "public.by_owner"),
        ("table_created", "public.orders"),
        ("setting_changed", "work_mem"),
        ("index_dropped", "public.by_owner"),
    ] {
        assert!(events.contains(&event), "{event:?} in {events:?}");
    }
    let created = capture.events.iter().find(|e| e.kind == "index_created").expect("created");
    assert!(created.text.contains("public.accounts") && created.text.contains("lower(owner)"), "{}", created.text);
}

#[tokio::test]
async fn an_alert_brings_statements_forward_and_makes_them_frequent_for_a_while() {
    let cluster = Cluster::start().await;
    let mut collector = Collector::connect(PgConfig { intervals: Intervals::default(), ..cluster.config() }).await.expect("connect");
    let runs = |capture: &Capture| capture.bill.iter().find(|c| c.probe == "statements").map_or(0, |c| c.runs);
    let (before, _) = turns(&mut collector, T0, 3).await;
    collector.attend(T0 + 3_000, T0 + 7_000);
    let (during, _) = turns(&mut collector, T0 + 3_000, 4).await;
    let (after, _) = turns(&mut collector, T0 + 7_000, 6).await;
    assert_eq!((runs(&before), runs(&during), runs(&after)), (1, 2, 1), "{:?}", during.bill);
}

#[tokio::test]
async fn a_recording_has_its_span_and_stays_in_order() {
    let cluster = Cluster::start().await;
    let stop = Arc::new(AtomicBool::new(false));
    load(&cluster, stop.clone()).await;
    let capture = record(cluster.config(), Duration::from_secs(8), |_| true).await.expect("record");
    stop.store(true, Ordering::Relaxed);
    assert!((6.0..12.0).contains(&capture.span().expect("span").seconds()));
    assert_eq!((capture.manifest.origin.as_str(), capture.manifest.target.as_str()), ("live", "shop"));
    assert!(capture.manifest.cpus.is_some_and(|cpus| cpus > 0) && capture.manifest.memory_bytes.is_some_and(|bytes| bytes > 1e6));
    assert!(!format!("{capture:?}").contains(MARKER));
    assert!(capture.statements.len() > 1 && capture.tables.len() > 1);
    assert!(capture.statements.is_sorted_by_key(|s| s.at) && capture.tables.is_sorted_by_key(|t| t.at));
}
