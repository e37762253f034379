//! Recordings of others on the command line: what they become, and what they never write over.

use std::process::Stdio;

use crate::learn::recording;
use crate::support::{bench, galen, lines, repository, run};

#[test]
fn recorded_cases_of_dbot_name_their_labels_from_telemetry_alone() {
    let Some(folder) = bench("dbot") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let cases =
        [(1, vec!["large_result_fetch", "correlated_subquery"]), (3, vec!["redundant_indexes"]), (5, vec!["poor_join", "cpu_contention"])];
    for (number, expected) in cases {
        let original = folder.join(format!("testing_cases_{number}.json"));
        let mut stripped: serde_json::Value = serde_json::from_slice(&std::fs::read(&original).unwrap()).unwrap();
        for key in ["labels", "command", "description"] {
            stripped.as_object_mut().unwrap().remove(key);
        }
        let bare = scratch.path().join("bare.json");
        std::fs::write(&bare, stripped.to_string()).unwrap();
        let replayed: Vec<String> = [&original, &bare]
            .iter()
            .map(|input| {
                let out = scratch.path().join(format!("case-{number}.galen"));
                let (code, _, error) = run(&["import", "dbot", input.to_str().unwrap(), "-o", out.to_str().unwrap()]);
                assert_eq!(code, 0, "{error}");
                run(&["replay", "--json", out.to_str().unwrap()]).1
            })
            .collect();
        assert_eq!(replayed[0], replayed[1], "the answer key changes the diagnosis of case {number}");
        let named: Vec<String> =
            lines(&replayed[0])[0]["root_causes"].as_array().unwrap().iter().map(|c| c["cause"].as_str().unwrap().to_owned()).collect();
        for cause in expected {
            assert!(named.iter().any(|n| n == cause), "case {number}: {named:?} lacks {cause}");
        }
        assert!(named.len() <= 3, "{named:?}");
    }
}

#[test]
fn a_full_disk_under_standard_output_is_told_and_a_reader_who_goes_away_stops_no_import() {
    let capture = repository("examples/captures/healthy.galen");
    for arguments in [&["config", "example"][..], &["replay", "--json", capture.to_str().unwrap()]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = galen().args(arguments).stdout(full).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), error.lines().count()), (Some(70), 1), "{error}");
        assert!(error.contains("cannot write standard output: ") && error.contains("make room"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in"), folder.path().join("out"));
    std::fs::create_dir(&input).unwrap();
    for case in 1..=3 {
        std::fs::write(input.join(format!("{case}.csv")), recording(case, 0)).unwrap();
    }
    let mut import = galen();
    import.args(["import", "dbsherlock", input.to_str().unwrap(), "-o", out.to_str().unwrap()]);
    let mut child = import.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*error), (Some(0), ""));
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 3, "all were written");
}

#[test]
fn an_import_takes_the_place_of_no_other_recording() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second, out) = (folder.path().join("first"), folder.path().join("second"), folder.path().join("out"));
    for (at, place) in [&first, &second].into_iter().enumerate() {
        std::fs::create_dir(place).unwrap();
        std::fs::write(place.join("01.csv"), recording(at + 1, 0)).unwrap();
    }
    let import = |inputs: &[&std::path::Path]| {
        let inputs: Vec<&str> = inputs.iter().map(|input| input.to_str().unwrap()).collect();
        run(&[&["import", "dbsherlock", "-o", out.to_str().unwrap()], inputs.as_slice()].concat())
    };
    let there = || std::fs::read(out.join("case-00001.galen")).unwrap();
    assert_eq!(import(&[first.as_path()]).0, 0);
    let before = there();
    let (code, told, error) = import(&[second.as_path()]);
    assert_eq!((code, told.as_str(), error.lines().count()), (2, "", 1), "{error}");
    assert!(error.contains("case-00001.galen is there already") && there() == before, "{error}");
    assert_eq!(import(&[first.as_path()]).0, 0, "the same recording again");
    assert!(there() == before);
    let (code, _, error) = import(&[first.join("01.csv").as_path(), second.join("01.csv").as_path()]);
    assert!(code == 2 && error.contains("would both become") && !out.join("01.galen").exists(), "{error}");
}

#[test]
fn recordings_of_dbsherlock_are_imported_without_their_answers() {
    let folder = tempfile::tempdir().unwrap();
    let table = |busy_from: u32| {
        let rows = (1..=120).map(|t| format!("{t},{},{}\n", if t >= busy_from { 2 } else { 70 + t % 5 }, 100 + t % 7)).collect::<String>();
        format!("Epoch,AvgCpuIdle,dbmsCommittedCommands\n{rows}")
    };
    let import = |name: &str| {
        let (input, out) = (folder.path().join(name), folder.path().join(format!("out-{name}")));
        std::fs::create_dir_all(input.join("cpu_saturation")).unwrap();
        std::fs::write(input.join("cpu_saturation/01.csv"), table(60)).unwrap();
        (input, out)
    };
    let (bare, bare_out) = import("bare");
    let (told, told_out) = import("told");
    // The answer key beside the recordings, and in the folder's name: the captures must not differ.
    std::fs::write(told.join("manifest.json"), r#"{"cases":[{"class":"CPU Saturation","abnormal_rows":[59]}]}"#).unwrap();
    std::fs::rename(bare.join("cpu_saturation"), bare.join("lock_contention")).unwrap();
    for (input, out) in [(&bare, &bare_out), (&told, &told_out)] {
        let (code, text, error) = run(&["import", "dbsherlock", input.to_str().unwrap(), "-o", out.to_str().unwrap(), "--json"]);
        assert_eq!((code, lines(&text)[0]["signals"].as_u64()), (0, Some(2)), "{error}");
    }
    let bytes = |out: &std::path::Path| std::fs::read(out.join("case-00001.galen")).unwrap();
    assert_eq!(bytes(&bare_out), bytes(&told_out));
    let (code, out, error) = run(&["replay", "--no-model", "--json", told_out.to_str().unwrap()]);
    assert_eq!((code, lines(&out).len()), (0, 1), "{error}");
    assert!(!out.contains("cpu_saturation") && !out.contains("-0.0"), "{out}");
    let (short, short_out) = (folder.path().join("short.csv"), folder.path().join("short.galen"));
    std::fs::write(&short, "Epoch,a\n1,1\n2,900\n").unwrap();
    assert_eq!(run(&["import", "dbsherlock", short.to_str().unwrap(), "-o", short_out.to_str().unwrap()]).0, 0);
    let report = lines(&run(&["replay", "--no-model", "--json", short_out.to_str().unwrap()]).1).remove(0);
    assert_eq!(report["status"], "undetermined", "two samples prove nothing: {report}");
    let broken = folder.path().join("x.csv");
    std::fs::write(&broken, "Epoch,a\n2,1\n1,1\n").unwrap();
    let (code, _, error) = run(&["import", "dbsherlock", broken.to_str().unwrap(), "-o", folder.path().join("x.galen").to_str().unwrap()]);
    assert_eq!((code, error.lines().count(), error.contains("does not increase")), (5, 1, true), "{error}");
}
