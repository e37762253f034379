//! `galen bench verify` from outside: runs that were altered, cut off, or made with a model.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::evaluation::{bench_run, text};
use crate::public::scenarios;
use crate::support::{galen, lines, no_model, repository, run};

/// A run over two captures: a header, the healthy one, the other.
fn made(folder: &Path) -> PathBuf {
    let (suite, out) = (folder.join("suite"), folder.join("run.jsonl"));
    std::fs::create_dir(&suite).unwrap();
    for name in ["healthy.galen", "missing_index.galen"] {
        std::fs::copy(repository("examples/captures").join(name), suite.join(name)).unwrap();
    }
    let (code, _, error) = bench_run(&suite, &out, &["--labels-from-names"]);
    assert_eq!(code, 0, "{error}");
    out
}

/// A copy of a run of which one line was changed.
fn altered(run: &Path, line: usize, change: impl FnOnce(&mut Value)) -> PathBuf {
    let mut all = lines(&std::fs::read_to_string(run).unwrap());
    change(&mut all[line]);
    let copy = run.with_file_name("altered.jsonl");
    std::fs::write(&copy, all.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    copy
}

fn verify(run: &Path) -> (i32, String, String) {
    self::run(&["bench", "verify", text(run)])
}

#[test]
fn what_was_altered_in_a_run_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let run = made(folder.path());
    let (code, out, error) = verify(&altered(&run, 0, |_| ()));
    assert_eq!((code, out.trim(), error.as_str()), (0, "2 of 2 reports are the same bytes", ""));
    for (line, place, value, told) in [
        (1, "/report_sha256", json!("0"), "healthy: its report differs"),
        (1, "/capture_sha256", json!("0"), "healthy: its capture was changed"),
        (1, "/case", json!("calm"), "calm: its capture is gone"),
        (1, "/half", json!("learn"), "healthy: its report is the same, what the run says of it is not: half"),
        (1, "/label_from_name", json!(false), "healthy: its report is the same, what the run says of it is not: label_from_name"),
        (2, "/named/0/cause", json!("poor_join"), "missing_index: its report is the same, what the run says of it is not: named"),
        (2, "/answer/causes/0", json!("poor_join"), "missing_index: its report is the same, what the run says of it is not: answer.causes"),
        (2, "/bill/wall_ms", json!(1), "missing_index: its report is the same, what the run says of it is not: bill.wall_ms"),
    ] {
        let (code, out, error) = verify(&altered(&run, line, |line| *line.pointer_mut(place).unwrap() = value));
        assert_eq!(out, format!("{told}\n1 of 2 reports are the same bytes\n"), "{place}: {error}");
        // Under another name it is not the case that the suite has.
        let lacks = error.contains("; 1 cases of the suite are not in the run") == (place == "/case");
        assert!(lacks && error.starts_with("galen: 1 of them differ although every pin is the same"), "{place}: {error}");
        assert_eq!((code, error.lines().count()), (70, 1), "{place}: {error}");
    }
    // How long it took is not the same each time.
    assert_eq!(verify(&altered(&run, 1, |line| line["wall_ms"] = json!(0.5))).0, 0);
    // Another pin is named and forbids nothing: the reports are the same all the same.
    let (code, out, error) = verify(&altered(&run, 0, |header| header["pins"]["catalog_sha256"] = json!("0")));
    assert!(code == 0 && out.starts_with("pin differs: catalog_sha256: \"0\" / ") && out.ends_with("2 of 2 reports are the same bytes\n"));
    assert_eq!(error, "");
    // What is no run of this release is not looked at.
    let whole = std::fs::read_to_string(&run).unwrap();
    let last = whole.lines().next_back().unwrap();
    for (text, why) in [
        (format!("{whole}{last}\n"), "line 4: case missing_index stands there twice"),
        (format!("{whole}no line\n"), "line 4: not a line of a run"),
        (whole.replacen("\"format\":1", "\"format\":9", 1), "written in format 9"),
        (format!("{last}\n"), "a run begins with its header"),
    ] {
        let copy = folder.path().join("altered.jsonl");
        std::fs::write(&copy, text).unwrap();
        let (code, out, error) = verify(&copy);
        assert!(code == 5 && out.is_empty() && error.lines().count() == 1 && error.contains(why), "{why}: {code} {error}");
    }
}

#[test]
fn a_failure_that_was_made_up_takes_the_place_of_no_case() {
    let folder = tempfile::tempdir().unwrap();
    let run = made(folder.path());
    let failed = |dataset: &str, case: &str| json!({"line": "failed", "dataset": dataset, "case": case, "why": "cut off"});
    let differs = "galen: 1 of them differ although every pin is the same";
    for (line, made_up, told, more) in [
        (2, failed("suite", "missing_index"), "missing_index: it can be diagnosed", ""),
        (2, failed("", "missing_index"), "missing_index: it can be diagnosed", ""),
        (1, failed("suite", "ghost"), "ghost: its capture is gone", "; 1 cases of the suite are not in the run"),
    ] {
        let (code, out, error) = verify(&altered(&run, line, |line| *line = made_up));
        assert_eq!((code, out), (70, format!("{told}\n1 of 1 reports are the same bytes\n")), "{error}");
        assert!(error.starts_with(&format!("{differs}{more}")) && error.lines().count() == 1, "{error}");
    }
    // Beside the case itself.
    let whole = std::fs::read_to_string(&run).unwrap();
    std::fs::write(&run, format!("{whole}{}\n", failed("suite", "healthy"))).unwrap();
    let (code, out, error) = verify(&run);
    assert_eq!((code, out.as_str()), (70, "healthy: it can be diagnosed\n2 of 2 reports are the same bytes\n"), "{error}");
}

#[test]
fn what_fails_again_and_what_is_a_copy_may_be_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let (suite, out) = (made(folder.path()).with_file_name("suite"), folder.path().join("more.jsonl"));
    let bytes = std::fs::read(suite.join("missing_index.galen")).unwrap();
    std::fs::write(suite.join("deadlocks.galen"), &bytes[..bytes.len() / 2]).unwrap();
    std::fs::write(suite.join("no_cause.galen"), std::fs::read(repository("examples/captures/bulk_delete.galen")).unwrap()).unwrap();
    std::fs::write(suite.join("poor_join.galen"), &bytes).unwrap();
    assert_eq!(bench_run(&suite, &out, &["--labels-from-names"]).0, 5);
    assert_eq!(std::fs::read_to_string(&out).unwrap().matches("\"line\":\"failed\"").count(), 3);
    let (code, told, error) = verify(&out);
    assert_eq!((code, told.as_str(), error.as_str()), (0, "2 of 2 reports are the same bytes\n", ""));
    // Repaired since, it would not be left out.
    std::fs::copy(repository("examples/captures/work_mem_spill.galen"), suite.join("deadlocks.galen")).unwrap();
    let (code, told, error) = verify(&out);
    assert!(code == 5 && told.contains("\ndeadlocks: it can be diagnosed\n2 of 2 reports"), "{code} {told}{error}");
}

#[test]
fn a_key_that_an_early_release_did_not_write_is_missed_in_its_runs_alone() {
    let folder = tempfile::tempdir().unwrap();
    let run = made(folder.path());
    let without = |run: &Path, line: usize| altered(run, line, |line| drop(line.as_object_mut().unwrap().remove("label_from_name")));
    let bare = without(&without(&run, 1), 2);
    let (code, told, error) = verify(&bare);
    assert_eq!((code, told.matches("what the run says of it is not: label_from_name\n").count()), (70, 2), "{told}{error}");
    let early = altered(&bare, 0, |header| drop(header["pins"].as_object_mut().unwrap().remove("sources")));
    let (code, told, error) = verify(&early);
    assert_eq!((code, told.lines().count()), (0, 2), "{told}{error}");
    assert!(told.starts_with("pin differs: sources: \"\" / ") && told.ends_with("2 of 2 reports are the same bytes\n"), "{told}");
}

#[test]
fn a_run_that_was_cut_off_does_not_pass_for_a_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let run = made(folder.path());
    let whole = std::fs::read_to_string(&run).unwrap();
    let (first, last) = (whole.find('\n').unwrap() + 1, whole.trim_end().rfind('\n').unwrap() + 1);
    for (cut, there) in [(first, 0), (first + 9, 0), (last, 1), (whole.len() - 1, 1)] {
        std::fs::write(&run, &whole[..cut]).unwrap();
        let (code, out, error) = verify(&run);
        assert_eq!((code, out.trim()), (5, format!("{there} of {there} reports are the same bytes").as_str()), "{error}");
        assert!(error.starts_with(&format!("galen: {} cases of the suite are not in the run: ", 2 - there)), "{error}");
    }
    // Nor does one whose header says that no more was asked for, or whose first case was taken out.
    std::fs::write(&run, &whole[..last]).unwrap();
    let (code, _, error) = verify(&altered(&run, 0, |header| header["cases"] = json!(1)));
    assert!(code == 5 && error.contains("1 cases of the suite are not in the run"), "{error}");
    std::fs::write(&run, format!("{}{}", &whole[..first], &whole[last..])).unwrap();
    let (code, out, _) = self::run(&["bench", "verify", text(&run), "--json"]);
    assert_eq!((code, lines(&out)), (5, vec![json!({"cases": 1, "lacking": 1, "pins": [], "differing": []})]));
    std::fs::write(&run, &whole[..first - 9]).unwrap();
    let (code, _, error) = verify(&run);
    assert!(code == 5 && error.contains("it holds no whole line"), "{error}");
    // The same command goes on with what is left of it.
    std::fs::write(&run, &whole[..whole.len() - 9]).unwrap();
    assert_eq!(bench_run(&folder.path().join("suite"), &run, &["--labels-from-names"]).0, 0);
    assert_eq!(verify(&run).0, 0);
}

#[test]
fn a_figure_of_a_public_benchmark_that_was_altered_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, out) = (scenarios(folder.path()), folder.path().join("rds.jsonl"));
    let (code, _, error) = run(&["bench", "rds", text(&dir), "--out", text(&out)]);
    assert_eq!(code, 0, "{error}");
    let (code, told, error) = verify(&altered(&out, 1, |line| line["value"] = json!(0.25)));
    assert_eq!((code, error.as_str()), (70, "galen: 1 of them differ although every pin is the same\n"), "{told}");
    assert!(told.contains(": 0.25 (simple ") && told.ends_with("1 of 2 figures are the same\n"), "{told}");
}

#[test]
fn a_run_with_a_model_is_verified_with_that_model_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, models) = (made(folder.path()), folder.path().join("models"));
    for (name, why) in [("no-such-model", "no-such-model"), ("smollm2-135m", "make model MODEL=smollm2-135m")] {
        let run = altered(&plain, 0, |header| header["pins"]["model"] = json!({"name": name, "sha256": "0"}));
        let output = galen().args(["bench", "verify", text(&run)]).env("GALEN_MODELS_DIR", &models).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), error.lines().count()), (Some(6), 1), "{error}");
        assert!(error.contains(why) && output.stdout.is_empty(), "{error}");
    }
    if no_model() {
        return;
    }
    let (suite, out) = (folder.path().join("suite"), folder.path().join("model.jsonl"));
    std::fs::remove_file(suite.join("healthy.galen")).unwrap();
    let (code, _, error) = run(&["bench", "run", text(&suite), "--labels-from-names", "--model", "smollm2-135m", "--out", text(&out)]);
    assert_eq!(code, 0, "{error}");
    // Under the name of the model is another file than the run was made with: that is said, and it answers as it did.
    let other = altered(&out, 0, |header| header["pins"]["model"]["sha256"] = json!("0"));
    let (code, told, error) = verify(&other);
    assert_eq!((code, told.lines().count()), (0, 2), "{told} {error}");
    assert!(told.starts_with("pin differs: model.sha256: \"0\" / ") && told.ends_with("1 of 1 reports are the same bytes\n"), "{told}");
    // Without the model the report is another one.
    let (code, told, _) = verify(&altered(&out, 0, |header| header["pins"]["model"] = Value::Null));
    assert!(code == 70 && told.starts_with("missing_index: its report differs\n"), "{told}");
}
