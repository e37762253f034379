//! The daemon's store: what was acknowledged is there, once, in the right incident, whatever happens.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::super::*;
use super::*;

const MINUTE: i64 = 60_000;

fn alert(fingerprint: &str, starts_at: i64, status: &str) -> Alert {
    let ends_at = (status == "resolved").then_some(starts_at + 1000);
    Alert { fingerprint: fingerprint.into(), starts_at, ends_at, status: status.into(), name: "Load".into(), ..Alert::default() }
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

#[test]
fn alerts_of_one_target_within_the_window_are_one_incident() {
    let (_dir, store) = store();
    let first = store.intake(&[alert("a", MINUTE, "firing")], "shop", MINUTE).unwrap();
    assert!(first.new);
    let again = store.intake(&[alert("a", MINUTE, "firing")], "shop", MINUTE).unwrap();
    assert_eq!(again, Intake { incident_id: first.incident_id, new: false }, "a repeat changes nothing");
    let both = [alert("b", 2 * MINUTE, "firing"), alert("a", MINUTE, "firing"), alert("b", 2 * MINUTE, "firing")];
    assert_eq!(store.intake(&both, "shop", MINUTE).unwrap(), again);
    assert!(store.intake(&[alert("a", MINUTE, "firing")], "other", MINUTE).unwrap().new, "targets stay apart");
    assert!(store.intake(&[alert("c", 2 * MINUTE + 1, "firing")], "shop", MINUTE).unwrap().new, "past the window");
    let incident = store.incident(first.incident_id).unwrap();
    assert_eq!((incident.fingerprints, incident.state, incident.opened_at), (vec!["a".into(), "b".into()], State::Open, MINUTE));
    assert_eq!(store.alerts_of(first.incident_id).unwrap(), [both[1].clone(), both[0].clone()]);
    assert_eq!(store.incidents(&Filter { target: Some("shop".into()), ..Filter::default() }, 9).unwrap().len(), 2);
    assert_eq!(store.incidents(&Filter::default(), 2).unwrap().len(), 2);
    assert_eq!(store.intake(&[], "shop", MINUTE).unwrap_err().message, "the message holds no alerts");
}

#[test]
fn an_alert_of_the_future_opens_an_incident_now_and_is_known_again() {
    let (_dir, store) = store();
    let ahead = [alert("a", now() + 3_600_000, "firing")];
    let first = store.intake(&ahead, "shop", MINUTE).unwrap();
    assert!(first.new && store.incident(first.incident_id).unwrap().opened_at <= now());
    assert!(!store.intake(&ahead, "shop", MINUTE).unwrap().new);
    assert_eq!(store.alerts_of(first.incident_id).unwrap().len(), 1);
}

#[test]
fn an_incident_is_resolved_with_its_last_alert() {
    let (_dir, store) = store();
    let id = store.intake(&[alert("a", 0, "firing"), alert("b", 0, "firing")], "shop", MINUTE).unwrap().incident_id;
    store.intake(&[alert("a", 0, "resolved")], "shop", MINUTE).unwrap();
    assert_eq!(store.incident(id).unwrap().state, State::Open, "one alert still fires");
    store.intake(&[alert("b", 0, "resolved")], "shop", MINUTE).unwrap();
    assert_eq!(store.incident(id).unwrap().state, State::Resolved);
    store.intake(&[alert("b", 0, "firing")], "shop", MINUTE).unwrap();
    assert_eq!(store.alerts_of(id).unwrap()[1].status, "resolved", "a late copy does not undo it");
    assert!(store.intake(&[alert("a", 1, "firing")], "shop", MINUTE).unwrap().new, "a resolved one is not joined");
}

#[test]
fn an_alert_first_heard_of_as_resolved_starts_no_diagnosis() {
    let (_dir, store) = store();
    let intake = store.intake(&[alert("a", 0, "resolved")], "shop", MINUTE).unwrap();
    assert!(!intake.new);
    assert_eq!(store.incident(intake.incident_id).unwrap().state, State::Resolved);
    assert_eq!(store.claim_next_to_diagnose().unwrap(), None);
}

#[test]
fn a_diagnosis_is_claimed_once_survives_a_crash_and_is_saved() {
    let (dir, store) = store();
    let id = store.intake(&[alert("a", 0, "firing")], "shop", MINUTE).unwrap().incident_id;
    assert_eq!(store.claim_next_to_diagnose().unwrap().unwrap().id, id);
    assert_eq!(store.claim_next_to_diagnose().unwrap(), None, "one permit");
    store.set_state(id, State::Diagnosing, None).unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.claim_next_to_diagnose().unwrap(), None, "opening alone (a CLI) takes nothing away");
    assert_eq!(store.recover_interrupted().unwrap(), 1);
    assert_eq!(store.claim_next_to_diagnose().unwrap().unwrap().state, State::Collecting);

    assert_eq!(store.report(id).unwrap_err().kind, StoreErrorKind::NotFound);
    store.intake(&[alert("a", 0, "resolved")], "shop", MINUTE).unwrap();
    assert_eq!(store.incident(id).unwrap().state, State::Collecting, "the work goes on");
    let diagnosis = NewDiagnosis {
        report_json: "{\"a\":1}",
        tree_json: "[]",
        markdown: "# R",
        html: "<p>",
        headline: "no index",
        top_cause: Some("missing_index"),
        probability: Some(0.9),
    };
    store.save_diagnosis(id, &diagnosis).unwrap();
    let incident = store.incident(id).unwrap();
    assert_eq!((incident.state, incident.top_cause.as_deref(), incident.probability), (State::Resolved, Some("missing_index"), Some(0.9)));
    assert_eq!(store.report(id).unwrap().report_json, "{\"a\":1}");
    assert_eq!(store.tree(id).unwrap(), "[]");
    store.label(id, "stale_statistics", "it was ANALYZE").unwrap();
    assert_eq!(store.feedback(id).unwrap()[0].cause, "stale_statistics");
}

#[test]
fn incidents_are_claimed_in_order_also_beside_each_other_and_after_a_crash() {
    let (_dir, store) = store();
    let open = |target: &str| store.intake(&[alert("a", 0, "firing")], target, MINUTE).unwrap().incident_id;
    let ids = [open("one"), open("two"), open("three")];
    let claim = || store.claim_next_to_diagnose().unwrap().map(|incident| incident.id);
    assert_eq!([claim(), claim()], [Some(ids[0]), Some(ids[1])], "two at a time");
    store.set_state(ids[1], State::Diagnosing, None).unwrap();
    assert_eq!(store.recover_interrupted().unwrap(), 2);
    assert_eq!([claim(), claim(), claim(), claim()], [Some(ids[0]), Some(ids[1]), Some(ids[2]), None]);
}

#[test]
fn failures_are_kept_and_unknown_incidents_are_errors() {
    let (_dir, store) = store();
    let id = store.intake(&[alert("a", 0, "firing")], "shop", MINUTE).unwrap().incident_id;
    store.set_state(id, State::Failed, Some("target unreachable")).unwrap();
    assert_eq!(store.incident(id).unwrap().error.as_deref(), Some("target unreachable"));
    store.save_diagnosis(id, &NewDiagnosis::default()).unwrap();
    assert_eq!((store.incident(id).unwrap().state, store.incident(id).unwrap().error), (State::Reported, None));
    let unknown = [
        store.incident(99).unwrap_err(),
        store.alerts_of(99).unwrap_err(),
        store.set_state(99, State::Open, None).unwrap_err(),
        store.save_diagnosis(99, &NewDiagnosis::default()).unwrap_err(),
        store.label(99, "x", "").unwrap_err(),
        store.tree(99).unwrap_err(),
    ];
    assert!(unknown.iter().all(|error| error.kind == StoreErrorKind::NotFound && error.message.contains("99")));
}

#[test]
fn four_threads_and_a_second_process_lose_and_double_nothing() {
    let (dir, store) = store();
    // A second connection, as a CLI beside the daemon holds one.
    let beside = Store::open(dir.path()).unwrap();
    let new: usize = std::thread::scope(|scope| {
        let work = |thread: usize| {
            let (store, beside) = (&store, &beside);
            move || {
                let mut new = 0;
                for i in 0..100 {
                    let chosen = if i % 10 == thread { beside } else { store };
                    // Every alert is sent by two threads.
                    let name = format!("{}-{i}", thread / 2);
                    new += usize::from(chosen.intake(&[alert(&name, 0, "firing")], "shop", MINUTE).unwrap().new);
                }
                new
            }
        };
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(new, 1, "exactly one caller opened the incident");
    let incidents = store.incidents(&Filter::default(), 10).unwrap();
    assert_eq!((incidents.len(), incidents[0].fingerprints.len()), (1, 200));
    let claims: Vec<_> = std::thread::scope(|scope| {
        let claims: Vec<_> = (0..4).map(|_| scope.spawn(|| store.claim_next_to_diagnose().unwrap())).collect();
        claims.into_iter().filter_map(|claim| claim.join().unwrap()).collect()
    });
    assert_eq!(claims.len(), 1, "one permit");
}

/// The body of the child below: takes in alerts and says so, until it is killed.
#[test]
fn child_takes_in_alerts_until_killed() {
    let Some(dir) = std::env::var_os("GALEN_TEST_INTAKE_DIR") else {
        return;
    };
    let store = Store::open(dir.as_ref()).unwrap();
    for i in 0.. {
        store.intake(&[alert(&format!("f{i}"), i, "firing")], "shop", 10).unwrap();
        let mut out = std::io::stdout();
        writeln!(out, "ack f{i}").and_then(|()| out.flush()).unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "store::intake::tests::child_takes_in_alerts_until_killed"])
        .env("GALEN_TEST_INTAKE_DIR", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = BTreeSet::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        if let Some(name) = line.unwrap().strip_prefix("ack ") {
            acknowledged.insert(name.to_owned());
            // SIGKILL; what is still in the pipe is read to its end.
            if acknowledged.len() == 150 {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    assert!(acknowledged.len() >= 150);
    let store = Store::open(dir.path()).unwrap();
    let incidents = store.incidents(&Filter::default(), 10_000).unwrap();
    let kept: BTreeSet<String> = incidents.into_iter().flat_map(|incident| incident.fingerprints).collect();
    assert!(acknowledged.is_subset(&kept), "lost: {:?}", acknowledged.difference(&kept).collect::<Vec<_>>());
}

#[test]
fn the_benchmark_takes_in_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut waits = bench_intake(dir.path(), 100).unwrap();
    waits.sort_by(f64::total_cmp);
    println!("intake of 100 alerts at 200/s: median {:.2} ms, p99 {:.2} ms", waits[50], waits[98]);
    let store = Store::open(dir.path()).unwrap();
    let kept: usize = store.incidents(&Filter::default(), 1000).unwrap().iter().map(|i| i.fingerprints.len()).sum();
    assert_eq!((waits.len(), kept), (100, 100));
}

#[test]
fn a_full_disk_refuses_alerts_and_keeps_the_store_whole() {
    let (_dir, store) = store();
    store.intake(&[alert("a", 0, "firing")], "shop", MINUTE).unwrap();
    let pages: i64 = store.connection().pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    let limit = |pages: i64| {
        let db = store.connection();
        db.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
    };
    limit(pages);
    let large = Alert { summary: "x".repeat(100_000), ..alert("b", 0, "firing") };
    let error = store.intake(std::slice::from_ref(&large), "shop", MINUTE).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::DiskFull, "{error}");
    limit(1_000_000);
    let joined = store.intake(&[large], "shop", MINUTE).unwrap();
    assert_eq!(store.alerts_of(joined.incident_id).unwrap().len(), 2);
}
