//! What reports of the shipped captures say, word by word where a wrong word would mislead: culprits, rates, remedies.

use std::path::Path;

use galen_tools::capture::Capture;
use galen_tools::store::file;
use serde_json::Value;

use crate::support::{cramped, lines, remedies_can_be_run, repository, run};

fn shipped(name: &str) -> Capture {
    file::read(&repository(&format!("examples/captures/{name}.galen"))).unwrap()
}

fn replay(path: &Path) -> Vec<Value> {
    let (code, out, error) = run(&["replay", "--no-model", "--json", path.to_str().unwrap()]);
    assert_eq!(code, 0, "{error}");
    lines(&out)
}

/// The report of a shipped capture, changed.
fn changed(name: &str, change: impl FnOnce(&mut Capture)) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("case.galen");
    let mut capture = shipped(name);
    change(&mut capture);
    file::write(&capture, &place).unwrap();
    replay(&place).remove(0)
}

fn texts<'v>(list: &'v Value, part: &str) -> Vec<&'v str> {
    list.as_array().unwrap().iter().map(|entry| entry[part].as_str().unwrap()).collect()
}

#[test]
fn remedies_are_statements_and_reasons_are_sentences() {
    for report in replay(&repository("examples/captures")) {
        remedies_can_be_run(&report);
        let name = report["capture"].as_str().unwrap();
        for reason in texts(&report["ruled_out"], "reason").into_iter().chain(texts(&report["consequences"], "reason")) {
            assert!(reason.ends_with('.') && !reason.contains("it: "), "{name}: {reason}");
        }
        for claim in texts(&report["summary"], "text") {
            let lone = |noun: &str| claim.split(' ').zip(claim.split(' ').skip(1)).any(|(n, word)| n == "1" && word == noun);
            assert!(!lone("rows") && !lone("sessions"), "{name}: {claim}");
        }
    }
}

#[test]
fn reports_point_at_what_changed_and_not_at_what_always_runs() {
    let reports = replay(&repository("examples/captures"));
    let first = |name: &str| &reports.iter().find(|r| r["capture"] == name).unwrap()["root_causes"][0];
    // The carts take most row writes all the time; the products are what is fought over.
    let updates = first("concurrent_updates").to_string();
    assert!(updates.contains("public.products") && !updates.contains("carts"), "{updates}");
    for name in ["concurrent_inserts", "bulk_delete"] {
        let culprits = first(name)["culprits"].to_string();
        assert!(culprits.contains("events") && !culprits.contains("carts"), "{name}: {culprits}");
    }
    // Twelve seconds of the window: 250,000 rows of the table, more of the database with what hangs on them.
    let deleted = texts(&first("bulk_delete")["claims"], "text").remove(0);
    assert!(deleted.starts_with("20,835 rows/s are deleted from public.events (0 before), 28,499 rows/s in the"), "{deleted}");
    let undo = first("redundant_indexes")["remedies"][0]["rollback"].as_str().unwrap();
    assert!(undo.lines().count() == 14 && undo.lines().all(|sql| sql.starts_with("CREATE INDEX CONCURRENTLY ")), "{undo}");
    // The only role there is writes the orders too.
    for name in ["concurrent_inserts", "work_mem_spill"] {
        let offered = texts(&first(name)["remedies"], "sql");
        assert!(offered.iter().any(|sql| sql.starts_with("SET LOCAL ")), "{offered:?}");
        assert!(!offered.iter().any(|sql| sql.contains("synchronous_commit") && sql.contains("ROLE")), "{offered:?}");
        assert!(!offered.iter().any(|sql| sql.contains("SET work_mem") && sql.contains("ROLE")), "{offered:?}");
    }
}

/// Sets a signal from a moment on (milliseconds after the capture's start).
fn set(capture: &mut Capture, signal: &str, from: i64, value: f64) {
    let start = capture.span().unwrap().start;
    let series = capture.series.get_mut(signal).unwrap();
    for (at, held) in series.times.iter().zip(series.values.iter_mut()) {
        if *at >= start + from {
            *held = value;
        }
    }
}

#[test]
fn a_host_that_is_always_busy_is_not_called_healthy() {
    let calm = changed("healthy", |_| ());
    assert_eq!(calm["status"], "healthy");
    let said = texts(&calm["summary"], "text");
    assert!(said.iter().any(|text| text.starts_with("The busiest disk had I/O outstanding")), "{said:?}");
    for (signal, value, part) in [
        ("node_cpu_busy_ratio", 0.93, "the host's CPUs are 93 % busy"),
        ("node_pressure_io_ratio", 0.31, "processes stall for I/O 31 % of the time"),
        ("node_disk_util_ratio", 0.9, "the busiest disk has I/O outstanding 90 % of the time"),
    ] {
        let busy = changed("healthy", |capture| set(capture, signal, 0, value));
        let headline = busy["headline"].as_str().unwrap();
        assert_eq!((&busy["status"], busy["root_causes"].as_array().unwrap().len()), (&"undetermined".into(), 0), "{headline}");
        assert!(headline.contains(part) && headline.contains("without a calm stretch"), "{headline}");
    }
}

#[test]
fn a_cpu_that_others_take_does_not_follow_from_a_statement() {
    let window = shipped("bulk_delete").span().unwrap();
    let onset = replay(&repository("examples/captures/bulk_delete.galen"))[0]["window"]["start"].as_str().unwrap().to_owned();
    let onset = onset.parse::<jiff::Timestamp>().unwrap().as_millisecond() - window.start;
    for (postgres, root) in [(0.06, true), (0.9, false)] {
        let report = changed("bulk_delete", |capture| {
            set(capture, "node_cpu_busy_ratio", onset, 0.96);
            set(capture, "postgres_cpu_ratio", onset, postgres);
        });
        let named = texts(&report["root_causes"], "cause");
        assert_eq!((named[0], named.contains(&"cpu_contention")), ("bulk_delete", root), "{named:?}");
        assert!(!texts(&report["consequences"], "cause").contains(&"cpu_contention") || !root, "{report}");
    }
}

#[test]
fn a_disk_without_room_for_a_page_leaves_the_one_that_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let (capture, pages) = (repository("examples/captures/healthy.galen"), folder.path().to_str().unwrap());
    let arguments = ["replay", "--json", capture.to_str().unwrap(), "--html", pages];
    assert_eq!(run(&arguments).0, 0);
    let page = folder.path().join("healthy.html");
    let whole = std::fs::read_to_string(&page).unwrap();
    assert!(whole.len() > 2048, "{}", whole.len());
    let (code, _, error) = cramped(2, &arguments);
    assert_eq!((code, error.lines().count()), (70, 1), "{error}");
    assert!(error.contains("cannot write") && error.contains("healthy.html"), "{error}");
    assert_eq!(std::fs::read_to_string(&page).unwrap(), whole);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
}
