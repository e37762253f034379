//! D-Bot's specifications at the command line: what is refused, what is scored.

use galen_tools::store::file;

use crate::support::{bench, galen, lines, repository, run};

const GOOD: &str = r#"{"id": 5, "labels": ["INSERT_LARGE_DATA", "IO_CONTENTION"], "workload": "tpcc_io_contention", "params": {}}"#;

#[test]
fn bad_specifications_cost_a_line_each_and_no_server_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("specs.jsonl"), folder.path().join("out"));
    let (path, out) = (file.to_str().unwrap(), out.to_str().unwrap());
    std::fs::write(&file, format!("{GOOD}\n{}\n{GOOD}\n", &GOOD[..60])).unwrap();
    let (code, _, error) = run(&["lab", "dbot", path, "--out", out]);
    assert_eq!((code, error.contains("--quick")), (2, true), "{error}");
    assert!(error.contains("line 2: ") && error.contains("line 3: the id 5 was there before"), "{error}");
    let (code, _, error) = run(&["lab", "dbot", path, "--out", out, "--ids", "5,6"]);
    assert_eq!((code, error.contains("no specification 6")), (2, true), "{error}");
    std::fs::write(&file, "[]\n").unwrap();
    assert_eq!(run(&["lab", "dbot", path, "--out", out, "--all"]).0, 5);
    assert_eq!(run(&["lab", "dbot", "no-such-file", "--out", out, "--all"]).0, 5);
    assert!(!std::path::Path::new(out).exists());
    std::fs::write(&file, format!("{GOOD}\n")).unwrap();
    let taken = folder.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    let lock = std::fs::File::create(taken.join(".lock")).unwrap();
    lock.lock().unwrap();
    let (code, _, error) = run(&["lab", "dbot", path, "--out", taken.to_str().unwrap(), "--all"]);
    assert_eq!((code, error.contains("another `galen lab`"), error.lines().count()), (2, true, 1), "{error}");
    let (code, help, _) = run(&["lab", "dbot", "--help"]);
    assert!(code == 0 && help.contains("Scaling:"), "{help}");
}

#[test]
fn what_cannot_be_used_is_named_and_what_is_recorded_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("specs.jsonl"), folder.path().join("out"));
    let (path, out) = (file.to_str().unwrap(), out.to_str().unwrap());
    // No text, a folder, nothing at all.
    std::fs::write(&file, b"{\"id\": 5, \xff\xfe").unwrap();
    for unreadable in [path, folder.path().to_str().unwrap(), "/nonexistent/specs.jsonl"] {
        let (code, told, error) = run(&["lab", "dbot", unreadable, "--out", out, "--all"]);
        assert_eq!((code, told.as_str(), error.lines().count()), (5, "", 1), "{error}");
        assert!(error.starts_with(&format!("galen: {unreadable}: ")), "{error}");
    }
    assert!(!std::path::Path::new(out).exists());
    let bad = [
        (r#"{"id": 6, "labels": ["POOR JOIN PERFORMANCE"]"#, "EOF"),
        (r#"{"id": 7, "labels": ["POOR JOIN PERFORMANCE"], "workload": "no_such_kind"}"#, "no_such_kind"),
        (r#"{"id": 8, "labels": ["no such label"], "workload": "job_joins"}"#, "no such label"),
        (r#"{"id": 9, "labels": ["POOR JOIN PERFORMANCE"], "workload": "job_joins", "params": {"thraeds": 5}}"#, "thraeds"),
    ];
    std::fs::write(&file, bad.iter().map(|(line, _)| format!("{line}\n")).collect::<String>() + GOOD).unwrap();
    // The one that can be used was recorded before, of what nobody can tell: nothing is recorded over it.
    std::fs::create_dir(out).unwrap();
    let capture = std::path::Path::new(out).join("spec-0005.galen");
    std::fs::copy(repository("examples/captures/healthy.galen"), &capture).unwrap();
    let before = std::fs::read(&capture).unwrap();
    for (answer, why) in [(None, "nothing beside it says how"), (Some("{}"), "specification: null / 5")] {
        if let Some(answer) = answer {
            std::fs::write(capture.with_extension("answer.json"), answer).unwrap();
        }
        let (code, told, error) = run(&["lab", "dbot", path, "--out", out, "--all"]);
        let said: Vec<&str> = error.lines().collect();
        assert_eq!((code, told.as_str(), said.len()), (2, "", bad.len() + 1), "{error}");
        for (at, (_, what)) in bad.iter().enumerate() {
            assert!(said[at].starts_with(&format!("galen: {path}: line {}: ", at + 1)) && said[at].contains(what), "{error}");
        }
        assert!(said[bad.len()].contains("spec-0005.galen was recorded otherwise") && said[bad.len()].contains(why), "{error}");
        assert_eq!(std::fs::read(&capture).unwrap(), before);
    }
}

#[test]
fn a_standard_error_that_takes_nothing_is_no_fault_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("specs.jsonl"), folder.path().join("out"));
    std::fs::write(&file, format!("{GOOD}\nno specification\n")).unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = galen();
    command.args(["lab", "dbot", file.to_str().unwrap(), "--out", out.to_str().unwrap(), "--ids", "6"]);
    assert_eq!(command.stderr(full).status().unwrap().code(), Some(2), "as with one that takes the line about the second line");
}

#[test]
fn captures_that_nobody_labelled_are_not_scored() {
    let captures = repository("examples/captures");
    let (code, out, error) = run(&["bench", "dbot", captures.to_str().unwrap(), "--json"]);
    assert_eq!(code, 5, "{error}");
    assert!(error.contains("healthy.galen: nobody has labelled it"), "{error}");
    assert_eq!(lines(&out).last().unwrap()["cases"], 0);
}

#[test]
fn every_published_specification_can_be_run() {
    let Some(file) = bench("dbot/anomalies.jsonl") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    // A number that is not there ends the command after all lines were read and planned.
    let (code, _, error) = run(&["lab", "dbot", file.to_str().unwrap(), "--out", out.to_str().unwrap(), "--ids", "999999"]);
    assert_eq!((code, error.lines().count()), (2, 1), "{error}");
}

#[test]
fn copies_and_contradicted_labels_are_not_scored() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).with_extension("galen");
    for (name, recording, label) in [
        ("a", "missing_index", "missing_index"),
        ("b", "missing_index", "missing_index"),
        ("c", "healthy", "slow_disk"),
        ("d", "bulk_delete", "bulk_delete"),
    ] {
        let mut capture = file::read(&repository("examples/captures").join(recording).with_extension("galen")).unwrap();
        capture.manifest.name = name.to_owned();
        capture.manifest.labels = vec![label.to_owned()];
        file::write(&capture, &at(name)).unwrap();
    }
    std::fs::write(at("d").with_extension("answer.json"), r#"{"causes":["poor_join"]}"#).unwrap();
    let (code, out, error) = run(&["bench", "dbot", folder.path().to_str().unwrap(), "--json"]);
    assert_eq!((code, lines(&out).last().unwrap()["cases"].as_u64()), (5, Some(1)), "{error}");
    for (name, why) in [
        ("b", "the same recording as a"),
        ("c", "mislabelled: `slow_disk` is no cause id"),
        ("d", "mislabelled: its answer says poor_join, the capture bulk_delete"),
    ] {
        assert!(error.contains(&format!("{}: {why}", at(name).display())), "{name}: {error}");
    }
    assert!(error.contains("3 of 4 captures could not be scored"), "{error}");
}
