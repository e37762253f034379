//! Who is refused and why, and what is said when something cannot be seen.

use super::T0;
use crate::sources::pg::testing::{Cluster, PASSWORD, turns};
use crate::sources::pg::{Collector, PgConfig, SourceErrorKind};

async fn refusal(dsn: String) -> (SourceErrorKind, String) {
    let error = Collector::connect(PgConfig::new("shop", dsn)).await.err().expect("must be refused");
    let text = error.to_string();
    assert!(!text.contains(PASSWORD) && !text.contains("wrong-one"), "{text}");
    assert!(!format!("{error:?}").contains(PASSWORD));
    (error.kind, text)
}

#[tokio::test]
async fn each_refusal_says_where_what_and_what_to_do() {
    let cluster = Cluster::start().await;
    let place = format!("127.0.0.1:{}/shop", cluster.port);

    let (kind, text) = refusal(cluster.dsn("postgres", "shop")).await;
    assert_eq!(kind, SourceErrorKind::Refused);
    assert!(text.contains("superuser") && text.contains(&place) && text.contains("allow_superuser"), "{text}");
    let config = PgConfig { allow_superuser: true, ..PgConfig::new("shop", cluster.dsn("postgres", "shop")) };
    assert!(Collector::connect(config).await.is_ok());

    // SET ROLE would make a superuser of it, whatever it inherits.
    let admin = cluster.client("postgres", "shop").await;
    let sql = format!(
        "CREATE ROLE deputy LOGIN NOINHERIT PASSWORD '{PASSWORD}'; CREATE ROLE bosses; GRANT postgres TO bosses; GRANT bosses TO deputy"
    );
    admin.batch_execute(&sql).await.expect("roles");
    let (kind, text) = refusal(cluster.dsn("deputy", "shop")).await;
    assert_eq!(kind, SourceErrorKind::Refused);
    assert!(text.contains("role deputy is a member of superuser postgres") && text.contains("allow_superuser"), "{text}");

    let (kind, text) = refusal(cluster.dsn("watcher", "shop").replace(PASSWORD, "wrong-one")).await;
    assert_eq!(kind, SourceErrorKind::Authentication);
    assert!(text.contains(&place) && text.contains("watcher"), "{text}");

    let (kind, text) = refusal(cluster.dsn("nobody", "shop")).await;
    assert_eq!(kind, SourceErrorKind::Authentication, "{text}");

    let (kind, text) = refusal(cluster.dsn("watcher", "nowhere")).await;
    assert_eq!(kind, SourceErrorKind::Refused);
    assert!(text.contains("nowhere"), "{text}");

    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("port").port();
    let (kind, text) = refusal(cluster.dsn("watcher", "shop").replace(&cluster.port.to_string(), &free.to_string())).await;
    assert_eq!(kind, SourceErrorKind::Unreachable);
    assert!(text.contains("check host, port"), "{text}");

    let (kind, text) = refusal(format!("{}?sslmode=require", cluster.dsn("watcher", "shop"))).await;
    assert_eq!(kind, SourceErrorKind::Unreachable, "the server has no tls: {text}");
}

#[tokio::test]
async fn without_pg_stat_statements_the_sessions_still_tell_and_the_gap_is_named() {
    let cluster = Cluster::start_with("", false).await;
    // PostgreSQL 13 has no such setting; there the fingerprint stands in.
    let admin = cluster.client("postgres", "shop").await;
    if admin.query_one("SELECT current_setting('server_version_num')::int >= 140000", &[]).await.expect("version").get(0) {
        admin.batch_execute("ALTER SYSTEM SET compute_query_id = on").await.expect("setting");
        admin.batch_execute("SELECT pg_reload_conf()").await.expect("reload");
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    let app = cluster.client("app", "shop").await;
    tokio::spawn(async move { app.batch_execute("SELECT pg_sleep(20), 'zanzibar'").await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let mut collector = Collector::connect(cluster.config()).await.expect("connect");
    let (capture, _) = turns(&mut collector, T0, 5).await;
    let gap = capture.manifest.missing.iter().find(|gap| gap.what == "pg_stat_statements").expect("gap");
    assert!(gap.fix.contains("CREATE EXTENSION pg_stat_statements;"), "{gap:?}");
    let session = capture.sessions.iter().find(|s| s.user == "app").expect("session");
    assert_eq!(capture.texts.get(&session.query_id).map(String::as_str), Some("SELECT pg_sleep($1), $2"));
    assert!(capture.statements.is_empty() && !capture.series.contains_key("statement_seconds_per_s"));
}

#[tokio::test]
async fn sessions_without_query_ids_are_known_by_fingerprint() {
    let cluster = Cluster::start_with("", false).await;
    let (app, other) = (cluster.client("app", "shop").await, cluster.client("app", "shop").await);
    tokio::spawn(async move { app.batch_execute("SELECT pg_sleep(20), 'zanzibar'").await });
    tokio::spawn(async move { other.batch_execute("select pg_sleep(21), 'timbuktu'").await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let mut collector = Collector::connect(cluster.config()).await.expect("connect");
    let (capture, _) = turns(&mut collector, T0, 2).await;
    let of_app: Vec<_> = capture.sessions.iter().filter(|s| s.user == "app").map(|s| (s.pid, s.query_id)).collect();
    let pids: std::collections::BTreeSet<i32> = of_app.iter().map(|(pid, _)| *pid).collect();
    let (_, id) = of_app[0];
    assert!(pids.len() == 2 && id != 0 && of_app.iter().all(|(_, other)| *other == id), "one shape, one id: {of_app:?}");
    assert!(capture.texts[&id].to_lowercase().starts_with("select pg_sleep($1), $2"));
}

#[tokio::test]
async fn an_extension_without_its_library_is_a_named_gap_and_rests() {
    let cluster = Cluster::start_with("", true).await;
    let mut collector = Collector::connect(cluster.config()).await.expect("connect");
    let (capture, _) = turns(&mut collector, T0, 5).await;
    let gap = capture.manifest.missing.iter().find(|gap| gap.what == "pg_stat_statements").expect("gap");
    assert!(gap.fix.contains("shared_preload_libraries"), "{gap:?}");
    let cost = capture.bill.iter().find(|cost| cost.probe == "statements").expect("billed");
    assert!(cost.failures == cost.runs && (1..=3).contains(&cost.runs), "{cost:?}");
}

#[tokio::test]
async fn a_role_that_may_see_nothing_reports_no_data_instead_of_zero() {
    let cluster = Cluster::start().await;
    let admin = cluster.client("postgres", "shop").await;
    admin.batch_execute("REVOKE pg_monitor FROM watcher").await.expect("revoke");
    let app = cluster.client("app", "shop").await;
    tokio::spawn(async move { app.batch_execute("SELECT pg_sleep(20)").await });
    let mut collector = Collector::connect(cluster.config()).await.expect("connect");
    let (capture, _) = turns(&mut collector, T0, 4).await;
    for name in ["active_sessions", "sessions", "blocked_sessions", "connections_used_ratio", "oldest_xmin_age"] {
        assert!(!capture.series.contains_key(name), "{name}: {:?}", capture.series[name].values);
    }
    assert!(capture.series.contains_key("tps"));
    assert!(capture.texts.values().all(|text| !text.contains("privilege")), "{:?}", capture.texts);
    let gap = capture.manifest.missing.iter().find(|gap| gap.fix == "GRANT pg_monitor TO watcher;");
    assert!(gap.is_some(), "{:?}", capture.manifest.missing);
}
