//! The live collector and prober against a real private server: what they see, what they refuse, what they leave alone.

use std::time::Duration;

use galen_tools::probe::{ProbeCall, Prober};
use galen_tools::sources::pg::{Collector, Intervals, PgConfig, PgProber, SourceErrorKind, record};
use tokio_postgres::{Client, NoTls};

use crate::lab::{Cluster, ClusterOptions};

async fn connect(dsn: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn config(dsn: &str) -> PgConfig {
    PgConfig {
        intervals: Intervals { tables: Duration::from_secs(1), statements: Duration::from_secs(1), ..Intervals::brisk() },
        ..PgConfig::new("t", dsn)
    }
}

async fn refusal(config: PgConfig) -> SourceErrorKind {
    let error = Collector::connect(config).await.err().unwrap();
    assert!(!error.to_string().contains("hunter2") && error.to_string().lines().count() == 1, "{error}");
    error.kind
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_is_seen_whole_and_left_alone() {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    let (admin, watcher) = (cluster.dsn_admin(), cluster.dsn_galen());
    who_is_refused(&admin, &watcher, cluster.port()).await;
    let setup = connect(&admin).await;
    setup
        .batch_execute(
            "CREATE TABLE things (id int PRIMARY KEY, owner int, note text);
             INSERT INTO things SELECT i, i % 5000, repeat('x', 40) FROM generate_series(1, 60000) i; ANALYZE things;
             GRANT SELECT, UPDATE ON things TO PUBLIC",
        )
        .await
        .unwrap();
    let capture = seen(&admin, &watcher).await;
    advised(&watcher, &capture).await;
    poorer(&setup, &watcher).await;
    cluster.stop().await;
}

async fn who_is_refused(admin: &str, watcher: &str, port: u16) {
    assert_eq!(refusal(config(admin)).await, SourceErrorKind::Refused, "a superuser");
    assert!(Collector::connect(PgConfig { allow_superuser: true, ..config(admin) }).await.is_ok());
    let wrong = format!("host=127.0.0.1 port={port} user=galen password=hunter2 dbname=shop");
    assert_eq!(refusal(config(&wrong)).await, SourceErrorKind::Authentication);
    let nowhere = watcher.replace("dbname='shop'", "dbname='nosuch'");
    assert_eq!(refusal(config(&nowhere)).await, SourceErrorKind::Refused);
    assert_eq!(refusal(config("host=127.0.0.1 port=1 user=u password=hunter2 dbname=d")).await, SourceErrorKind::Unreachable);
}

/// Records while one session holds a row, another waits for it, and a third scans with literals in its text.
async fn seen(admin: &str, watcher: &str) -> galen_tools::capture::Capture {
    let (holder, waiter, reader) = (connect(admin).await, connect(admin).await, connect(admin).await);
    holder.batch_execute("BEGIN; UPDATE things SET note = 'sekret-marker-1' WHERE id = 1").await.unwrap();
    let blocked = tokio::spawn(async move { waiter.batch_execute("UPDATE things SET note = 'sekret-marker-2' WHERE id = 1").await });
    let reading = tokio::spawn(async move {
        for _ in 0..60 {
            let _ = reader.query("SELECT count(*) FROM things WHERE owner = 1471147114 AND note <> 'sekret-marker-3'", &[]).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let spy = connect(admin).await;
    let most = tokio::spawn(async move {
        let mut most = 0;
        for _ in 0..30 {
            let row = spy.query_one("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'galen'", &[]).await.unwrap();
            most = most.max(row.get::<_, i64>(0));
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        most
    });
    let capture = record(config(watcher), Duration::from_secs(7), |_| true).await.unwrap();
    holder.batch_execute("ROLLBACK").await.unwrap();
    let _ = tokio::join!(blocked, reading);
    assert!((1..=2).contains(&most.await.unwrap()), "connections of galen");
    let shown = format!("{capture:?}");
    // Ten digits: four would be found by chance among the thousands of a capture's figures.
    for literal in ["sekret-marker", "1471147114"] {
        let found = shown.find(literal).map(|at| &shown[at.saturating_sub(80)..(at + 80).min(shown.len())]);
        assert_eq!(found, None, "a literal was stored");
    }
    assert!(capture.texts.values().any(|t| t.contains("owner = $1")), "{:?}", capture.texts);
    assert!(capture.sessions.iter().any(|s| !s.blocked_by.is_empty() && s.wait_class == "Lock"), "the waiter was not seen");
    assert!(capture.sessions.iter().any(|s| s.state == "idle in transaction"), "the blocker was not seen");
    assert!(capture.series["blocked_sessions"].values.contains(&1.0));
    assert!(capture.locks.iter().any(|l| l.relation.as_deref() == Some("public.things")), "{:?}", capture.locks);
    let scanned: Vec<f64> = capture.tables.iter().filter(|t| t.table == "public.things").map(|t| t.seq_tup_read).collect();
    assert!(scanned.last().unwrap() - scanned[0] >= 60_000.0, "{scanned:?}");
    assert!(
        capture.series.contains_key("node_cpu_busy_ratio") && capture.series.contains_key("postgres_cpu_ratio"),
        "the host was not seen"
    );
    assert!(capture.indexes.iter().any(|i| i.index == "public.things_pkey" && i.constraint && i.columns == ["id"]));
    assert!(capture.bill.iter().all(|c| c.runs > 0 && c.failures == 0), "{:?}", capture.bill);
    capture
}

/// Plans and hypothetical indexes are answered without running anything, and nothing can be written.
async fn advised(watcher: &str, capture: &galen_tools::capture::Capture) {
    let prober = PgProber::connect(&config(watcher), capture).await.unwrap();
    let id = *capture.texts.iter().find(|(_, t)| t.contains("owner = $1")).unwrap().0;
    let plan = prober.ask(&ProbeCall::Plan { query_id: id }).await;
    assert!(plan.data.as_ref().is_some_and(|p| p.to_string().contains("Seq Scan")), "{plan:?}");
    let call = |column: &str| ProbeCall::HypotheticalIndex { query_id: id, table: "public.things".into(), columns: vec![column.into()] };
    let advice = prober.ask(&call("owner")).await.data.unwrap();
    assert!(advice["uses_index"] == true && advice["cost_before"].as_f64() > advice["cost_after"].as_f64().map(|a| a * 3.0), "{advice}");
    let none = prober.ask(&call("owner\"; DROP TABLE things; --")).await;
    assert!(none.no_data.is_some_and(|why| why.contains("not all in")));
    assert!(prober.ask(&ProbeCall::Plan { query_id: 1 }).await.no_data.is_some());
    let own = connect(watcher).await;
    own.batch_execute("SET default_transaction_read_only = on").await.unwrap();
    assert!(own.batch_execute("UPDATE things SET note = ''").await.is_err());
}

/// Without the extension and without rights it works with what is there, and says what is missing.
async fn poorer(admin: &Client, watcher: &str) {
    admin.batch_execute("DROP EXTENSION pg_stat_statements; REVOKE pg_monitor FROM galen").await.unwrap();
    let capture = record(config(watcher), Duration::from_secs(3), |_| true).await.unwrap();
    let missing: Vec<&str> = capture.manifest.missing.iter().map(|m| m.what.as_str()).collect();
    assert!(missing.contains(&"pg_stat_statements") && missing.contains(&"pg_monitor"), "{missing:?}");
    assert!(capture.manifest.missing.iter().any(|m| m.fix == "GRANT pg_monitor TO galen;"));
    assert!(capture.series.contains_key("tps"));
    assert!(!capture.series.contains_key("active_sessions"), "half a count would look like a quiet server");
}
