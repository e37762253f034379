//! What Galen never does to a target: write, wait, or insist when it is in trouble.

use std::time::Duration;

use super::T0;
use crate::capture::Capture;
use crate::sources::pg::testing::{Cluster, turns};
use crate::sources::pg::{Collector, Intervals, PgConfig, SourceErrorKind, connect};

#[tokio::test]
async fn a_session_cannot_write_and_has_its_limits() {
    let cluster = Cluster::start().await;
    let admin = cluster.client("postgres", "shop").await;
    admin.batch_execute("GRANT ALL ON accounts TO watcher; GRANT ALL ON SCHEMA public TO watcher").await.expect("grant");
    let (link, _) = connect::open(&cluster.config()).await.expect("connect");
    for sql in
        ["UPDATE public.accounts SET balance = 1", "DELETE FROM public.accounts", "TRUNCATE public.accounts", "CREATE TABLE public.x ()"]
    {
        let error = link.client.batch_execute(sql).await.expect_err("read only");
        assert_eq!(error.code().map(|code| code.code()), Some("25006"), "{sql}: {error:?}");
    }
    for (name, value) in [
        ("statement_timeout", "2s"),
        ("lock_timeout", "100ms"),
        ("idle_in_transaction_session_timeout", "10s"),
        ("application_name", "galen"),
    ] {
        let row = link.client.query_one("SELECT current_setting($1)", &[&name]).await.expect(name);
        assert_eq!(row.get::<_, String>(0), value, "{name}");
    }
}

#[tokio::test]
async fn a_probe_that_would_wait_gives_up_rests_and_is_billed() {
    let cluster = Cluster::start().await;
    let intervals = Intervals { settings: Duration::from_millis(900), ..Intervals::brisk() };
    let mut collector = Collector::connect(PgConfig { intervals, ..cluster.config() }).await.expect("connect");
    // A view of the catalog needs this before it may be locked.
    let admin = cluster.client("postgres", "shop").await;
    admin
        .batch_execute("SET allow_system_table_mods = on; BEGIN; LOCK TABLE pg_catalog.pg_settings IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("lock");
    let (capture, _) = turns(&mut collector, T0, 6).await;
    let cost = capture.bill.iter().find(|cost| cost.probe == "settings").expect("billed");
    assert_eq!((cost.runs, cost.failures), (2, 2), "at 0 s, and after resting 2 s; then it rests 4 s");
    assert!(cost.max_ms < 1_000.0, "{cost:?}");
    assert!(capture.manifest.missing.iter().any(|gap| gap.what == "probe settings"), "{:?}", capture.manifest.missing);
    assert_eq!(capture.series["tps"].values.len(), 5, "the others go on");
    admin.batch_execute("ROLLBACK").await.expect("unlock");
    let (capture, _) = turns(&mut collector, T0 + 10_000, 2).await;
    assert!(!capture.settings.is_empty(), "it recovers by itself");
}

/// Turns until one succeeds: the collector waits between its attempts.
async fn next_frame(collector: &mut Collector, from: i64) -> crate::capture::Frame {
    for second in 0..30 {
        if let Ok(frame) = collector.turn(from + second * 1_000).await {
            return frame;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("no connection within 30 s");
}

#[tokio::test]
async fn restarts_and_crashes_are_survived_and_reported() {
    let cluster = Cluster::start().await;
    let mut collector = Collector::connect(cluster.config()).await.expect("connect");
    turns(&mut collector, T0, 2).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.control("restart");
    for turn in [2, 3] {
        let error = collector.turn(T0 + turn * 1_000).await.expect_err("lost, then waiting");
        assert_eq!(error.kind, SourceErrorKind::Lost);
    }
    let frame = next_frame(&mut collector, T0 + 4_000).await;
    let event = frame.events.iter().find(|event| event.kind == "restart").expect("event");
    assert!(event.text.contains("restarted"), "{event:?}");
    assert!(frame.missing.iter().any(|gap| gap.what == "connection"));
    // It concerns this stretch of history, not all that comes.
    let (mut history, at) = (Capture::default(), frame.at);
    history.absorb(frame);
    assert!(history.since(at).manifest.missing.iter().any(|gap| gap.what == "connection"));
    assert!(!history.since(at + 1).manifest.missing.iter().any(|gap| gap.what == "connection"));

    let victim = cluster.client("app", "shop").await;
    let pid: i32 = victim.query_one("SELECT pg_backend_pid()", &[]).await.expect("pid").get(0);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("kill");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(collector.turn(T0 + 60_000).await.expect_err("lost").kind, SourceErrorKind::Lost);
    let frame = next_frame(&mut collector, T0 + 61_000).await;
    let crash = frame.events.iter().any(|event| event.kind == "restart" && event.text.contains("crashed"));
    assert!(crash, "{:?}", frame.events);
}
