//! The evaluation from outside: runs that go on after a kill or a full disk, damaged captures, comparison, leaderboard.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use galen_tools::store::file;
use serde_json::Value;

use crate::support::{cramped, galen, lines, no_model, repository, run};

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The example captures, whose names are their causes, in a folder of their own.
fn examples(folder: &Path) -> PathBuf {
    let suite = folder.join("shop");
    std::fs::create_dir(&suite).unwrap();
    for entry in std::fs::read_dir(repository("examples/captures")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "galen") {
            std::fs::copy(&path, suite.join(path.file_name().unwrap())).unwrap();
        }
    }
    suite
}

/// Many small captures, imported, each labelled in a sidecar.
fn many(folder: &Path, count: u32) -> PathBuf {
    let (input, suite) = (folder.join("in"), folder.join("many"));
    std::fs::create_dir(&input).unwrap();
    for case in 0..count {
        // No two alike: copies of one recording are scored once.
        let values: Vec<f64> = (0..60).map(|t| f64::from((t * (case + 3)) % 7) + f64::from(case) / 1e6).collect();
        let case_json = serde_json::json!({
            "start_time": "1700000000", "end_time": "1700000060", "alerts": [], "slow_queries": [], "workload": {"SELECT 1": 5 + case},
            "exceptions": {"cpu": {"node_load1": values}, "db": {"pg_stat_activity_count": values}}
        });
        std::fs::write(input.join(format!("{case:05}.json")), case_json.to_string()).unwrap();
    }
    let (code, _, error) = run(&["import", "dbot", text(&input), "-o", text(&suite)]);
    assert_eq!(code, 0, "{error}");
    let captures: Vec<PathBuf> = std::fs::read_dir(&suite).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(captures.len(), count as usize);
    for path in captures {
        std::fs::write(path.with_extension("answer.json"), r#"{"causes":["healthy"]}"#).unwrap();
    }
    suite
}

/// The lines of a run without what depends on the clock.
pub fn timeless(path: &Path) -> Vec<Value> {
    let mut all = lines(&std::fs::read_to_string(path).unwrap());
    for line in &mut all {
        let line = line.as_object_mut().unwrap();
        line.remove("wall_ms");
        line.remove("jobs");
    }
    all
}

/// Runs a suite without a model.
pub fn bench_run(suite: &Path, out: &Path, more: &[&str]) -> (i32, String, String) {
    let mut arguments = vec!["bench", "run", text(suite), "--no-model", "--out", text(out)];
    arguments.extend(more);
    run(&arguments)
}

#[test]
fn a_suite_is_run_compared_verified_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let suite = examples(folder.path());
    let (one, two, page) = (folder.path().join("one.jsonl"), folder.path().join("two.jsonl"), folder.path().join("board.html"));
    let (code, out, error) = bench_run(&suite, &one, &["--labels-from-names", "--json"]);
    assert_eq!(code, 0, "{error}");
    let told = lines(&out).remove(0);
    let score = |task: &str| told["scores"].as_array().unwrap().iter().find(|s| s["task"] == task).unwrap()["value"].as_f64().unwrap();
    assert!(score("top1") >= 0.85 && score("healthy_silence") == 1.0, "{told}");
    assert!(score("claims_grounded") > 0.7, "{told}");
    assert_eq!(bench_run(&suite, &two, &["--labels-from-names", "--jobs", "2"]).0, 0);
    assert_eq!(timeless(&one), timeless(&two), "two jobs give what one gives");
    // The digest is that of the line that replay prints.
    let (_, report, _) =
        run(&["replay", "--no-model", "--json", text(&suite.join("healthy.galen")), text(&suite.join("missing_index.galen"))]);
    let wanted = sha256(report.lines().next_back().unwrap());
    let line = timeless(&one).into_iter().find(|l| l["case"] == "missing_index").unwrap();
    assert_eq!(line["report_sha256"], wanted.as_str());

    let (code, out, error) = run(&["bench", "compare", text(&one), text(&two), "--json"]);
    assert_eq!(code, 0, "{error}");
    let same = lines(&out).remove(0);
    assert_eq!((same["cases"].as_u64(), same["changed"].as_array().unwrap().len()), (Some(9), 0));
    assert!(same["tasks"].as_array().unwrap().iter().all(|t| t["task"] == "wall_time" || t["significant"] == false), "{same}");

    let (code, _, error) = run(&["bench", "report", text(&one), text(&two), "--out", text(&page)]);
    assert_eq!(code, 0, "{error}");
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.matches("<svg").count() >= 3 && !html.contains("<script") && !html.contains("src=") && !html.contains("<link"));
    assert_eq!(html.matches("://").count(), html.matches("http://www.w3.org").count(), "nothing comes from outside");

    let (code, out, error) = run(&["bench", "verify", text(&one)]);
    assert_eq!((code, out.trim()), (0, "9 of 9 reports are the same bytes"), "{error}");
    let moved = folder.path().join("elsewhere");
    std::fs::rename(&suite, &moved).unwrap();
    let (code, out, error) = run(&["bench", "verify", text(&one), "--suite", text(&moved)]);
    assert_eq!((code, out.trim()), (0, "9 of 9 reports are the same bytes"), "{error}");
    std::fs::rename(&moved, &suite).unwrap();
    std::fs::copy(suite.join("healthy.galen"), suite.join("missing_index.galen")).unwrap();
    let (code, out, _) = run(&["bench", "verify", text(&one)]);
    assert!(code == 5 && out.contains("missing_index: its capture was changed") && out.contains("pin differs: suite_sha256"), "{out}");
}

fn sha256(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn captures_that_cannot_be_used_cost_a_line_each_and_the_rest_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let suite = examples(folder.path());
    let out = folder.path().join("run.jsonl");
    let bytes = std::fs::read(suite.join("missing_index.galen")).unwrap();
    std::fs::write(suite.join("bulk_insert.galen"), &bytes[..bytes.len() / 2]).unwrap();
    std::fs::write(suite.join("deadlocks.galen"), &bytes).unwrap();
    std::fs::write(suite.join("bulk_delete.answer.json"), r#"{"causes":["slow_disk"]}"#).unwrap();
    std::fs::write(suite.join("healthy.answer.json"), "{").unwrap();
    // As a later release may write it: SQLite keeps the format's number in bytes 60 to 63.
    let mut later = zstd::decode_all(&bytes[..]).unwrap();
    later[60..64].copy_from_slice(&2_u32.to_be_bytes());
    std::fs::write(suite.join("poor_join.galen"), zstd::encode_all(&later[..], 1).unwrap()).unwrap();
    let (code, _, error) = bench_run(&suite, &out, &["--labels-from-names"]);
    assert_eq!(code, 5, "{error}");
    for (case, why) in [
        ("bulk_insert", "cut off or altered"),
        ("poor_join", "written in format 2, this Galen reads up to 1: use a newer galen"),
        ("missing_index", "the same recording as shop/deadlocks"),
        ("bulk_delete", "`slow_disk` is no cause id"),
        ("healthy", "healthy.answer.json"),
    ] {
        let named: Vec<&str> = error.lines().filter(|l| l.starts_with(&format!("galen: {case}: "))).collect();
        assert!(named.len() == 1 && named[0].contains(why), "{case}: {error}");
    }
    let all = timeless(&out);
    assert_eq!(all.iter().filter(|l| l["line"] == "case").count(), 7, "{error}");
    // Nothing is done or said twice.
    let before = std::fs::read_to_string(&out).unwrap();
    let (code, _, _) = bench_run(&suite, &out, &["--labels-from-names"]);
    assert_eq!((code, std::fs::read_to_string(&out).unwrap()), (5, before));
}

#[test]
fn repaired_captures_do_not_keep_a_run_from_going_on() {
    let folder = tempfile::tempdir().unwrap();
    let suite = examples(folder.path());
    let (out, undisturbed) = (folder.path().join("run.jsonl"), folder.path().join("whole.jsonl"));
    let (damaged, changed) = (suite.join("missing_index.galen"), suite.join("bulk_delete.galen"));
    let bytes = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(bench_run(&suite, &out, &["--labels-from-names"]).0, 5);
    let first = timeless(&out);
    std::fs::write(&damaged, &bytes).unwrap();
    // A finished case is recorded again: other bytes under its name.
    let mut capture = file::read(&changed).unwrap();
    capture.events.clear();
    capture.alerts.clear();
    capture.manifest.memory_bytes = Some(1e9);
    file::write(&capture, &changed).unwrap();
    let (code, _, error) = bench_run(&suite, &out, &["--labels-from-names"]);
    assert_eq!(code, 0, "{error}");
    assert!(error.contains("1 finished cases are taken out of the file: their captures or answers have changed"), "{error}");
    assert_eq!(bench_run(&suite, &undisturbed, &["--labels-from-names"]).0, 0);
    let sorted = |path: &Path| {
        let mut all = timeless(path);
        // That it failed at first stays in the file; the case that stands below it counts.
        all.retain(|l| l["line"] != "failed");
        all.sort_by_key(|l| l["case"].as_str().unwrap_or_default().to_owned());
        all
    };
    assert!(sorted(&out) == sorted(&undisturbed), "header and cases are those of an undisturbed run");
    let kept = |all: &[Value]| {
        all.iter()
            .filter(|l| l["line"] == "case" && l["case"] != "bulk_delete" && l["case"] != "missing_index")
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(kept(&first), kept(&timeless(&out)));
    assert_eq!(run(&["bench", "verify", text(&out)]).0, 0);
    // A case that the suite no longer has is no reason to lose what was measured of it.
    std::fs::remove_file(&changed).unwrap();
    let before = std::fs::read_to_string(&out).unwrap();
    let (code, _, error) = bench_run(&suite, &out, &["--labels-from-names"]);
    assert!(code == 2 && error.contains("not in this suite, such as bulk_delete"), "{error}");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), before);
}

#[test]
fn learnt_signatures_are_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let (suite, out, data) = (examples(folder.path()), folder.path().join("run.jsonl"), folder.path().join("data"));
    let bench = |more: &[&str]| run(&[&["--data-dir", text(&data), "bench"], more].concat());
    assert_eq!(bench(&["run", text(&suite), "--labels-from-names", "--out", text(&out)]).0, 0);
    std::fs::create_dir_all(&data).unwrap();
    let learnt = r#"format = 1
galen_version = "0"
source = "made up"
novel_above = 0.25
novel_above_onset = 0.25
[spread]
tps = [0.5, 0.5]
[[class]]
name = "missing_index"
causes = ["missing_index"]
cases = 1
ratio = [2.0, 0.5]
[class.effects]
tps = 0.5
[class.onset]
tps = 0.5
"#;
    std::fs::write(data.join("signatures.toml"), learnt).unwrap();
    let (_, told, error) = bench(&["verify", text(&out)]);
    assert!(told.contains("pin differs: signatures_sha256: "), "{told} {error}");
    let (code, _, error) = bench(&["run", text(&suite), "--labels-from-names", "--out", text(&out)]);
    assert!(code == 2 && error.contains("belongs to another run"), "{error}");
}

#[test]
fn a_killed_run_goes_on_and_gives_what_an_undisturbed_one_gives() {
    let folder = tempfile::tempdir().unwrap();
    let suite = many(folder.path(), 150);
    let (whole, killed) = (folder.path().join("whole.jsonl"), folder.path().join("killed.jsonl"));
    let mut child = galen()
        .args(["bench", "run", text(&suite), "--no-model", "--out", text(&killed)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while std::fs::read_to_string(&killed).unwrap_or_default().lines().count() < 3 && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "nothing was written within a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    let left = std::fs::read_to_string(&killed).unwrap();
    assert!(status.signal() == Some(9) && left.lines().count() < 151, "the run was not killed in the middle: {status:?}");
    assert_eq!(bench_run(&suite, &whole, &[]).0, 0);
    let (code, _, error) = bench_run(&suite, &killed, &[]);
    assert_eq!(code, 0, "{error}");
    assert_eq!(timeless(&killed), timeless(&whole));
}

#[test]
fn a_full_disk_keeps_what_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let suite = many(folder.path(), 40);
    let out = folder.path().join("run.jsonl");
    let (code, _, error) = cramped(24, &["bench", "run", text(&suite), "--no-model", "--out", text(&out)]);
    assert_eq!(code, 70, "{error}");
    assert!(error.contains("finished cases in it are kept"), "{error}");
    let kept = lines(&std::fs::read_to_string(&out).unwrap()).len();
    assert!((2..41).contains(&kept), "{kept} whole lines");
    assert_eq!(bench_run(&suite, &out, &[]).0, 0);
    assert_eq!(timeless(&out).len(), 41);
}

#[test]
fn a_file_has_one_writer_and_belongs_to_one_run() {
    use nix::fcntl::{Flock, FlockArg};
    let folder = tempfile::tempdir().unwrap();
    let suite = examples(folder.path());
    let out = folder.path().join("run.jsonl");
    let held = Flock::lock(std::fs::File::create(&out).unwrap(), FlockArg::LockExclusive).unwrap();
    let (code, _, error) = bench_run(&suite, &out, &["--labels-from-names"]);
    assert!(code == 2 && error.contains("being written by another run"), "{code} {error}");
    drop(held);
    assert_eq!(bench_run(&suite, &out, &["--labels-from-names"]).0, 0);
    let (code, _, error) = bench_run(&suite, &out, &["--labels-from-names", "--seed", "8"]);
    assert!(code == 2 && error.contains("belongs to another run (options.seed: 7 / 8)"), "{error}");
    let (code, _, error) = run(&["bench", "compare", text(&out), text(&suite.join("healthy.galen"))]);
    assert_eq!((code, error.lines().count()), (5, 1), "{error}");
}

#[test]
fn halves_share_nothing_and_the_test_half_is_not_learnt_from() {
    let folder = tempfile::tempdir().unwrap();
    let suite = examples(folder.path());
    let half = |which: &str| {
        let out = folder.path().join(format!("{which}.jsonl"));
        assert_eq!(bench_run(&suite, &out, &["--labels-from-names", "--half", which]).0, 0);
        timeless(&out).iter().filter_map(|l| Some(l["case"].as_str()?.to_owned())).collect::<Vec<_>>()
    };
    let (learn, test) = (half("learn"), half("test"));
    assert_eq!(learn.len() + test.len(), 9);
    assert!(test.contains(&"healthy".to_owned()) && learn.contains(&"missing_index".to_owned()), "{learn:?} {test:?}");
    let (code, _, error) = run(&["model", "calibrate", text(&suite.join("healthy.galen"))]);
    assert!(code == 5 && error.contains("in the test half"), "{code} {error}");
}

#[test]
fn with_a_model_one_capture_is_diagnosed_at_a_time_and_the_run_says_so() {
    if no_model() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (suite, out) = (folder.path().join("suite"), folder.path().join("run.jsonl"));
    std::fs::create_dir(&suite).unwrap();
    // Nothing to ask the model about: the header is written all the same.
    std::fs::write(suite.join("a.galen"), "no capture").unwrap();
    for (jobs, told) in [("3", true), ("1", false)] {
        let (code, _, error) = run(&["bench", "run", text(&suite), "--model", "smollm2-135m", "--jobs", jobs, "--out", text(&out)]);
        assert_eq!((code, error.contains("one capture is diagnosed at a time")), (5, told), "{error}");
        assert_eq!(lines(&std::fs::read_to_string(&out).unwrap())[0]["jobs"], 1);
        std::fs::remove_file(&out).unwrap();
    }
}

#[test]
fn a_model_is_sampled_until_it_passes() {
    if no_model() {
        return;
    }
    let capture = repository("examples/captures/missing_index.galen");
    let sample = || {
        let arguments = ["bench", "pass-until", text(&capture), "--labels-from-names", "--passes", "20", "--budget", "20000", "--json"];
        let (code, out, error) = run(&arguments);
        assert_eq!(code, 0, "{error}");
        lines(&out)
    };
    let told = sample();
    let last = told.last().unwrap();
    let (low, high, exact) =
        (last["pass"]["low"].as_f64().unwrap(), last["pass"]["high"].as_f64().unwrap(), last["exact"].as_f64().unwrap());
    assert!(low > 0.0 && low <= exact * 1.5 && exact <= high * 1.5, "{last}");
    assert_eq!(told, sample(), "the same seed draws the same samples");
    assert_eq!(run(&["bench", "pass-until", text(&capture), "--labels-from-names", "--passes", "1"]).0, 2);
    let (code, _, error) = run(&["bench", "pass-until", text(&capture), "--model", "smollm2-135m", "--model", "smollm2-135m"]);
    assert!(code == 2 && error.contains("smollm2-135m is named twice"), "{code} {error}");
}
