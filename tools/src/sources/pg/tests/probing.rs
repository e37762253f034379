//! The on-demand probes: plans, hypothetical indexes, and what they refuse.

use std::collections::BTreeMap;

use super::T0;
use crate::capture::Capture;
use crate::probe::{ProbeAnswer, ProbeCall, Prober};
use crate::sources::pg::testing::{Cluster, turns};
use crate::sources::pg::{Collector, PgProber};

async fn prober(cluster: &Cluster) -> PgProber {
    let text = |id: i64, sql: &str| (id, sql.to_owned());
    let texts = BTreeMap::from([
        text(1, "SELECT * FROM accounts WHERE owner = $1"),
        text(2, "UPDATE accounts SET balance = balance + $1 WHERE id = $2"),
        text(3, "SELECT 1; DROP TABLE accounts"),
        text(4, "DROP TABLE accounts"),
        text(5, "SELECT * FROM accounts WHERE balance > $1 AND now() - interval $2 < now()"),
        text(6, "SELECT * FROM gone"),
    ]);
    PgProber::connect(&cluster.config(), &Capture { texts, ..Capture::default() }).await.expect("connect")
}

async fn plan(prober: &PgProber, query_id: i64) -> ProbeAnswer {
    prober.ask(&ProbeCall::Plan { query_id }).await
}

#[tokio::test]
async fn plans_are_given_without_running_anything() {
    let cluster = Cluster::start().await;
    let prober = prober(&cluster).await;
    let refused = plan(&prober, 1).await.no_data.expect("no right to read");
    assert!(refused.contains("GRANT") && refused.contains("watcher"), "{refused}");

    let admin = cluster.client("postgres", "shop").await;
    admin.batch_execute("GRANT SELECT, UPDATE ON accounts TO watcher").await.expect("grant");
    let answer = plan(&prober, 1).await;
    let data = answer.data.unwrap_or_else(|| panic!("{:?}", answer.no_data));
    assert_eq!(data["Node Type"], "Seq Scan");
    assert!(data["Total Cost"].as_f64().is_some_and(|cost| cost > 100.0) && data.get("Actual Rows").is_none());
    assert!(answer.cost_ms > 0.0);
    assert_eq!(plan(&prober, 2).await.data.expect("update is planned")["Node Type"], "ModifyTable");
    let interval = plan(&prober, 5).await;
    assert!(interval.data.is_some(), "{:?}", interval.no_data);
    for (id, why) in [(3, "one statement"), (4, "only select"), (6, "gone"), (99, "not known")] {
        let answer = plan(&prober, id).await;
        assert!(answer.data.is_none() && answer.no_data.as_ref().is_some_and(|no| no.contains(why)), "{id}: {answer:?}");
    }
    assert!(plan(&prober, 1).await.data.is_some(), "a failure does not stick");
    let row = admin.query_one("SELECT count(*), sum(balance) FROM accounts", &[]).await.expect("still there");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (20_000, 0));
}

#[tokio::test]
async fn a_prober_outlives_its_connection_and_looks_up_unknown_statements() {
    let cluster = Cluster::start().await;
    let prober = prober(&cluster).await;
    let admin = cluster.client("postgres", "shop").await;
    admin.batch_execute("GRANT SELECT ON accounts TO watcher").await.expect("grant");
    admin.batch_execute("SELECT owner FROM accounts WHERE id = 17").await.expect("statement");
    let sql = "SELECT queryid FROM pg_stat_statements WHERE query LIKE 'SELECT owner FROM accounts%'";
    let query_id: i64 = admin.query_one(sql, &[]).await.expect("id").get(0);
    assert_eq!(plan(&prober, query_id).await.data.expect("plan")["Node Type"], "Index Scan");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'galen'";
    admin.batch_execute(end).await.expect("terminate");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(plan(&prober, query_id).await.data.is_some(), "it connects again");
}

#[tokio::test]
async fn a_hypothetical_index_shows_what_it_would_save() {
    let cluster = Cluster::start().await;
    let admin = cluster.client("postgres", "shop").await;
    admin.batch_execute("GRANT SELECT ON accounts TO watcher").await.expect("grant");
    let prober = prober(&cluster).await;
    let call = |table: &str, columns: &[&str]| ProbeCall::HypotheticalIndex {
        query_id: 1,
        table: table.into(),
        columns: columns.iter().map(|c| (*c).into()).collect(),
    };
    let without = prober.ask(&call("public.accounts", &["owner"])).await.no_data.expect("no hypopg yet");
    assert!(without.contains("CREATE EXTENSION hypopg;"), "{without}");
    let available = admin.query("SELECT FROM pg_available_extensions WHERE name = 'hypopg'", &[]).await.expect("list");
    if available.is_empty() {
        assert!(std::env::var("GALEN_TEST_PGBIN").is_ok(), "the default server of the tests must have hypopg");
        return;
    }
    admin.batch_execute("CREATE EXTENSION hypopg").await.expect("hypopg");
    let answer = prober.ask(&call("public.accounts", &["owner"])).await;
    let data = answer.data.unwrap_or_else(|| panic!("{:?}", answer.no_data));
    let cost = |key: &str| data[key].as_f64().expect("cost");
    assert!(cost("cost_after") * 5.0 < cost("cost_before"), "{data}");
    assert_eq!(data["uses_index"], true);
    assert!(cost("index_bytes") > 10_000.0);
    assert_eq!(data["definition"], "CREATE INDEX ON public.accounts USING btree (owner)");
    let useless = prober.ask(&call("public.accounts", &["balance"])).await.data.expect("answer");
    assert_eq!(useless["uses_index"], false, "nothing of the first index is left");
    for (table, columns) in
        [("public.gone", &["owner"][..]), ("public.accounts", &["gone"]), ("public.accounts", &[]), ("x\"; DROP", &["a"])]
    {
        assert!(prober.ask(&call(table, columns)).await.no_data.is_some(), "{table} {columns:?}");
    }
}

#[tokio::test]
async fn collector_and_prober_hold_two_connections_and_are_not_counted() {
    let cluster = Cluster::start().await;
    let mut collector = Collector::connect(cluster.config()).await.expect("connect");
    let prober = prober(&cluster).await;
    for _ in 0..3 {
        plan(&prober, 1).await;
    }
    let (capture, _) = turns(&mut collector, T0, 3).await;
    let admin = cluster.client("postgres", "shop").await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'galen'";
    assert_eq!(admin.query_one(sql, &[]).await.expect("count").get::<_, i64>(0), 2);
    assert_eq!(capture.series["sessions"].values.last(), Some(&0.0), "nobody but galen is connected");
    assert!(capture.sessions.iter().all(|s| s.application != "galen"));
}

#[tokio::test]
async fn planning_runs_no_code_of_the_databases_users() {
    let cluster = Cluster::start().await;
    let admin = cluster.client("postgres", "shop").await;
    admin
        .batch_execute(
            "CREATE FUNCTION leak(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE
                 AS $$ BEGIN RAISE WARNING 'leak ran as %', current_user; RETURN $1; END $$;
             CREATE FUNCTION same(integer, integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN leak($1) = $2; END $$;
             CREATE OPERATOR === (LEFTARG = integer, RIGHTARG = integer, FUNCTION = same);
             CREATE VIEW seen AS SELECT leak(7) AS n;
             CREATE TABLE trapped (id integer DEFAULT leak(7), note text);
             GRANT SELECT, INSERT, UPDATE ON accounts, seen, trapped TO watcher",
        )
        .await
        .expect("objects");
    let statements = [
        "SELECT * FROM accounts WHERE id = leak(7)",
        "SELECT * FROM accounts WHERE 7 === 8",
        "SELECT n FROM seen",
        "INSERT INTO trapped (note) VALUES ($1)",
        "SELECT a.leak FROM accounts a",
    ];
    let texts =
        (1..).zip(statements.iter().map(|s| (*s).to_owned())).chain([(50, "SELECT lower(owner) FROM accounts WHERE id = $1".to_owned())]);
    let capture = Capture { texts: texts.collect(), ..Capture::default() };
    let prober = PgProber::connect(&cluster.config(), &capture).await.expect("connect");
    for (id, statement) in (1..).zip(statements) {
        let answer = plan(&prober, id).await;
        assert!(answer.no_data.as_ref().is_some_and(|why| why.starts_with("not planned")), "{statement}: {answer:?}");
    }
    let fine = plan(&prober, 50).await;
    assert!(fine.data.is_some(), "{:?}", fine.no_data);
    assert!(!cluster.log().contains("leak ran"), "{}", cluster.log());
}
