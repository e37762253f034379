//! What Galen never does to a target: write, wait, or insist when it is in trouble.

use std::time::Duration;

use super::T0;
use crate::capture::{Capture, TARGET};
use crate::probe::{ProbeCall, Prober};
use crate::sources::pg::testing::{Cluster, turns};
use crate::sources::pg::{Collector, Intervals, PgConfig, PgProber, SourceErrorKind, connect, record};

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

#[tokio::test]
async fn the_log_of_a_quiet_target_holds_no_warning_and_its_limits_are_set_once() {
    let settings = "shared_preload_libraries = 'pg_stat_statements'\npg_stat_statements.track_utility = on";
    let cluster = Cluster::start_with(settings, true).await;
    let admin = cluster.client("postgres", "shop").await;
    admin.batch_execute("GRANT SELECT ON accounts TO watcher; SELECT pg_stat_statements_reset()").await.expect("prepare");
    let mut collector = Collector::connect(cluster.config()).await.expect("connect");
    let (capture, _) = turns(&mut collector, T0, 8).await;
    let texts = [(1, "SELECT * FROM accounts WHERE owner = $1".to_owned()), (2, "DROP TABLE accounts".to_owned())].into();
    let prober = PgProber::connect(&cluster.config(), &Capture { texts, ..capture }).await.expect("connect");
    let index = ProbeCall::HypotheticalIndex { query_id: 1, table: "public.accounts".into(), columns: vec!["owner".into()] };
    for call in [ProbeCall::Plan { query_id: 1 }, ProbeCall::Plan { query_id: 2 }, ProbeCall::Plan { query_id: 99 }, index] {
        prober.ask(&call).await;
    }
    assert!(!cluster.log().contains("WARNING"), "{}", cluster.log());
    let sql = "SELECT coalesce(sum(calls), 0)::int8 FROM pg_stat_statements WHERE query LIKE 'SET statement_timeout%'";
    let changes: i64 = admin.query_one(sql, &[]).await.expect("count").get(0);
    assert!(changes <= 4, "{changes} changes of the limit in 8 s");
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

#[tokio::test]
async fn a_promotion_is_an_event_and_so_is_a_primary_on_another_timeline() {
    let cluster = Cluster::start().await;
    cluster.restart_as_standby();
    let mut collector = Collector::connect(cluster.config()).await.expect("connect");
    let (capture, _) = turns(&mut collector, T0, 2).await;
    assert_eq!(capture.events, []);
    cluster.control("promote");
    let (capture, _) = turns(&mut collector, T0 + 10_000, 2).await;
    let events: Vec<(&str, &str)> = capture.events.iter().map(|e| (e.kind.as_str(), e.text.as_str())).collect();
    assert!(matches!(events[..], [("role_changed", text)] if text.contains("was a standby and is the primary")), "{events:?}");
    // As behind a virtual address: the connection breaks, and the primary that answers next was promoted meanwhile.
    cluster.restart_as_standby();
    cluster.control("promote");
    collector.turn(T0 + 20_000).await.expect_err("lost");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let frame = next_frame(&mut collector, T0 + 21_000).await;
    let moved = frame.events.iter().find(|event| event.kind == "role_changed").expect("event");
    assert!(moved.text.contains("timeline 3"), "{moved:?}");
}

#[tokio::test]
async fn a_recording_goes_on_while_the_server_is_away_and_says_so() {
    let cluster = Cluster::start().await;
    let stop = |action: &'static str| {
        let cluster = &cluster;
        move || cluster.control(action)
    };
    // Away at the end: the capture is kept, and names the gap.
    let mut down = false;
    let halt = stop("stop");
    let capture = record(cluster.config(), Duration::from_secs(6), |elapsed| {
        if !down && elapsed > Duration::from_secs(2) {
            down = true;
            halt();
        }
        true
    })
    .await
    .expect("kept");
    let gap = capture.manifest.missing.iter().find(|gap| gap.what == TARGET).expect("named");
    assert!(gap.at.is_some() && gap.why.contains("away since"), "{gap:?}");
    assert!(!capture.series["tps"].values.is_empty());
    // Back before the end: the gap has an end, and the samples go on after it.
    cluster.control("start");
    let mut restarted = false;
    let again = stop("restart");
    let capture = record(cluster.config(), Duration::from_secs(9), |elapsed| {
        if !restarted && elapsed > Duration::from_secs(2) {
            restarted = true;
            again();
        }
        true
    })
    .await
    .expect("kept");
    let missing: Vec<&str> = capture.manifest.missing.iter().map(|gap| gap.what.as_str()).collect();
    assert!(missing.contains(&"connection") && !missing.contains(&TARGET), "{missing:?}");
    let (last, end) = (*capture.series["tps"].times.last().expect("samples"), capture.manifest.span.expect("span").end);
    assert!(end - last < 3_000, "sampled to the end");
}

#[tokio::test]
async fn a_recording_can_be_stopped_while_a_silent_server_is_awaited() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let port = silent.local_addr().expect("address").port();
    let config = PgConfig::new("t", format!("host=127.0.0.1 port={port} user=u dbname=d"));
    let began = std::time::Instant::now();
    let outcome = record(config, Duration::from_secs(60), |_| began.elapsed() < Duration::from_millis(500)).await;
    assert!(outcome.is_err() && began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
